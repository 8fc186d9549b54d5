"""Guests under limits, and the guest ABI."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentos_workers.kit import FunctionError, InvocationError
from agentos_workers.wasm_sandbox.host_calls import ALLOWED, HostCalls
from agentos_workers.wasm_sandbox.module_cache import ModuleCache
from agentos_workers.wasm_sandbox.runtime import GuestResult, ModuleRejected, Ticker, WasmRuntime
from agentos_workers.wasm_sandbox.sandbox import decode_output
from wasmtime import wat2wasm

GREET = Path(__file__).parents[2] / "examples" / "wasm" / "greet.wat"
IMPORTS = """
  (import "env" "host_call" (func $host_call (param i32 i32) (result i64)))
  (import "env" "host_log" (func $host_log (param i32 i32 i32)))"""
ALLOC = """
  (global $next (mut i32) (i32.const 4096))
  (func $alloc (export "alloc") (param i32) (result i32)
    (global.get $next) (global.set $next (i32.add (global.get $next) (local.get 0))))"""


def guest(body: str, *, imports: str = "", memory: str = "1", alloc: str = ALLOC, more: str = "") -> bytes:
    return bytes(
        wat2wasm(
            f"""(module {imports} (memory (export "memory") {memory}) {alloc} {more}
            (func (export "execute") (param $in i32) (param $len i32) (result i64) {body}))"""
        )
    )


ECHO = "(i64.or (i64.shl (i64.extend_i32_u (local.get $in)) (i64.const 32)) (i64.extend_i32_u (local.get $len)))"
FOREVER = "(loop br 0) unreachable"


@pytest.fixture(scope="module")
def runtime() -> WasmRuntime:
    return WasmRuntime()


def no_bus(function_id: str, payload: Any, seconds: float) -> Any:
    raise InvocationError("function_not_found", f"Function {function_id} not found", function_id)


def run(
    runtime: WasmRuntime,
    wasm: bytes,
    message: bytes = b"{}",
    *,
    call: Callable[[str, Any, float], Any] = no_bus,
    fuel: int = 1_000_000,
    timeout_secs: float = 30,
    memory_pages: int = 256,
) -> GuestResult:
    host = HostCalls(call, "m", "agent-1", time.monotonic() + timeout_secs, 10)
    return runtime.run(
        runtime.compile(wasm), message, host, fuel=fuel, timeout_secs=timeout_secs, memory_pages=memory_pages
    )


def failure(runtime: WasmRuntime, wasm: bytes, **limits: Any) -> tuple[str, str]:
    with pytest.raises(FunctionError) as caught:
        run(runtime, wasm, **limits)
    return caught.value.code, caught.value.message


def test_the_example_guest_reads_its_input_and_answers_with_it(runtime: WasmRuntime) -> None:
    wasm = bytes(wat2wasm(GREET.read_text()))
    for value in ({"name": "Ada"}, "ü", None, ["x" * 200_000]):
        message = json.dumps(value).encode()
        answer = json.loads(run(runtime, wasm, message).output)
        assert answer == {"greeting": "hello from wasm", "bytes": len(message), "input": value}


def test_fuel_is_counted_and_grows_with_the_work(runtime: WasmRuntime) -> None:
    counting = f"(local $i i32) (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const %d)))) {ECHO}"
    few, many = (run(runtime, guest(counting % turns)).fuel_consumed for turns in (10, 1010))
    assert 0 < few < many
    assert (many - few) % 1000 == 0
    assert run(runtime, guest(counting % 1010), fuel=many).fuel_consumed == many
    code, message = failure(runtime, guest(counting % 1010), fuel=many // 2)
    assert (code, message) == ("FUEL_EXHAUSTED", f"fuel exhausted: all {many // 2} units are consumed")


def test_fuel_also_bounds_the_start_function_and_alloc(runtime: WasmRuntime) -> None:
    start = guest(ECHO, more="(func $start (loop br 0)) (start $start)")
    assert failure(runtime, start)[0] == "FUEL_EXHAUSTED"
    alloc = guest(ECHO, alloc='(func (export "alloc") (param i32) (result i32) (loop br 0) unreachable)')
    assert failure(runtime, alloc)[0] == "FUEL_EXHAUSTED"


def test_an_endless_loop_with_much_fuel_ends_near_its_time_limit(runtime: WasmRuntime) -> None:
    began = time.monotonic()
    code, message = failure(runtime, guest(FOREVER), fuel=10**12, timeout_secs=0.5)
    took = time.monotonic() - began
    assert (code, message) == ("TIMED_OUT", "execution timed out after 0.5 s")
    assert 0.5 <= took < 3


def test_runs_of_some_milliseconds_are_not_reported_as_timed_out(runtime: WasmRuntime) -> None:
    busy = guest(
        f"(local $i i32) (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000000)))) {ECHO}"
    )
    began = time.monotonic()
    for _ in range(5):
        run(runtime, busy, fuel=10**9, timeout_secs=10)
    assert time.monotonic() - began > 0.025


def test_ticks_never_come_so_early_that_a_run_is_cut_short() -> None:
    class Engine:
        def __init__(self) -> None:
            self.ticks: list[float] = []

        def increment_epoch(self) -> None:
            self.ticks.append(time.monotonic())

    engine = Engine()
    ticker = Ticker(engine)  # type: ignore[arg-type]
    with ticker.needed():
        began = time.monotonic()
        deadline = began + 20
        while len(engine.ticks) < Ticker.ticks(0.1):
            assert time.monotonic() < deadline
    assert engine.ticks[Ticker.ticks(0.1) - 1] - began >= 0.1


def test_a_guest_that_needs_more_memory_than_allowed_is_not_started(runtime: WasmRuntime) -> None:
    code, message = failure(runtime, guest(ECHO, memory="5"), memory_pages=4)
    assert (code, message) == ("MEMORY_LIMIT", "the module needs 5 pages of memory, more than the limit of 4")


def test_memory_cannot_grow_over_the_limit_during_the_run(runtime: WasmRuntime) -> None:
    grow = guest(
        "(drop (memory.grow (i32.const 2))) (i64.extend_i32_u (i32.eq (memory.grow (i32.const 2)) (i32.const -1)))"
    )
    assert run(runtime, grow, memory_pages=3).output == b"\0"
    assert run(runtime, grow, memory_pages=5).output == b""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("unreachable", "trapped: wasm `unreachable` instruction executed"),
        (
            "(i64.load (i32.const -8))",
            "trapped: out of bounds memory access",
        ),
        ("(i64.div_s (i64.const 1) (i64.const 0))", "trapped: integer divide by zero"),
    ],
)
def test_a_trap_is_told_without_its_backtrace(runtime: WasmRuntime, body: str, message: str) -> None:
    code, text = failure(runtime, guest(body))
    assert (code, text) == ("TRAPPED", message)


def test_endless_recursion_traps(runtime: WasmRuntime) -> None:
    wasm = guest("(call $r) unreachable", more="(func $r call $r)")
    assert failure(runtime, wasm, fuel=10**9) == ("TRAPPED", "trapped: call stack exhausted")


@pytest.mark.parametrize(
    "body",
    [
        "(i64.const 0x0000FFFF_00000002)",
        "(i64.const 0xFFFFFFFF_00000001)",
        "(i64.const 0x00000000_00010001)",
        "(i64.const -1)",
    ],
)
def test_a_result_outside_the_guests_memory_is_refused(runtime: WasmRuntime, body: str) -> None:
    assert failure(runtime, guest(body))[0] in {"BAD_POINTER", "OUTPUT_TOO_LARGE"}


def test_an_allocation_outside_the_guests_memory_is_refused(runtime: WasmRuntime) -> None:
    wasm = guest(ECHO, alloc='(func (export "alloc") (param i32) (result i32) (i32.const -2))')
    code, message = failure(runtime, wasm)
    assert code == "BAD_POINTER"
    assert message == "alloc gave a range outside the guest's memory: 2 bytes at 4294967294, memory has 65536"


@pytest.mark.parametrize(
    ("wasm", "code", "message"),
    [
        (b"", "INVALID_MODULE", "not a WebAssembly binary"),
        (b"(module)", "INVALID_MODULE", "not a WebAssembly binary"),
        (b"\0asm\1\0\0\0\xff", "INVALID_MODULE", "malformed section id"),
        (wat2wasm("(module)"), "MISSING_EXPORT", r"memory and alloc\(i32\) -> i32 and execute\(i32, i32\) -> i64"),
        (
            wat2wasm('(module (memory (export "memory") 1) (global (export "alloc") i32 (i32.const 0)) '
                     '(func (export "execute") (param i32 i32) (result i32) unreachable))'),
            "MISSING_EXPORT",
            r"does not export alloc\(i32\) -> i32 and execute\(i32, i32\) -> i64$",
        ),
        (guest(ECHO, imports='(import "wasi_snapshot_preview1" "fd_write" (func (param i32)))'), "UNKNOWN_IMPORT", "fd_write"),
        (guest(ECHO, imports='(import "env" "host_call" (func (param i32)))'), "UNKNOWN_IMPORT", "host_call"),
        (wat2wasm('(module (memory (export "memory") i64 1))'), "INVALID_MODULE", "memory64"),
    ],
)  # fmt: skip
def test_a_module_that_does_not_meet_the_abi_is_rejected(
    runtime: WasmRuntime, wasm: bytes, code: str, message: str
) -> None:
    with pytest.raises(ModuleRejected, match=message) as caught:
        runtime.compile(bytes(wasm))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


HOST_CALL = b'{"functionId":"memory::recall","args":{"q":1}}'


def host_call(message: bytes) -> bytes:
    text = message.decode().replace('"', '\\"')
    return guest(
        f"(call $host_call (i32.const 16) (i32.const {len(message)}))",
        imports=IMPORTS,
        more=f'(data (i32.const 16) "{text}")',
    )


def error_code(output: bytes) -> str:
    return json.loads(output)["error"]["code"]


def test_a_host_call_goes_to_the_bus_after_the_capability_check(runtime: WasmRuntime) -> None:
    calls: list[tuple[str, Any]] = []

    def bus(function_id: str, payload: Any, seconds: float) -> Any:
        calls.append((function_id, payload))
        assert 0 < seconds <= 10
        return {"allowed": True} if function_id == "security::check_capability" else {"hits": ["ü"]}

    assert json.loads(run(runtime, host_call(HOST_CALL), call=bus).output) == {"hits": ["ü"]}
    assert calls == [
        ("security::check_capability", {"agentId": "agent-1", "resource": "memory::recall"}),
        ("memory::recall", {"q": 1}),
    ]


def test_a_host_call_to_a_missing_worker_is_not_available(runtime: WasmRuntime) -> None:
    output = json.loads(run(runtime, host_call(HOST_CALL)).output)
    message = "security::check_capability is not available: no worker provides it now"
    assert output == {"error": {"code": "not_available", "message": message}}


@pytest.mark.parametrize("function_id", ["vault::get", "agent::chat", "security::check_capability", "memory::recall2"])
def test_a_guest_reaches_none_but_the_four_functions(runtime: WasmRuntime, function_id: str) -> None:
    def bus(function_id: str, payload: Any, seconds: float) -> Any:
        raise AssertionError

    output = run(runtime, host_call(json.dumps({"functionId": function_id}).encode()), call=bus).output
    assert error_code(output) == "forbidden"
    assert all(name in output.decode() for name in ALLOWED)


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (InvocationError("invocation_failed", "agent has no tools"), "forbidden"),
        ({"allowed": False}, "forbidden"),
        (None, "forbidden"),
        (InvocationError("TIMEOUT", "late"), "timed_out"),
        (InvocationError("FORBIDDEN", "not in spec.calls"), "forbidden"),
        (InvocationError("invocation_stopped", "Invocation stopped"), "call_failed"),
    ],
)
def test_a_host_call_that_is_not_clearly_allowed_is_not_made(runtime: WasmRuntime, check: Any, code: str) -> None:
    calls: list[str] = []

    def bus(function_id: str, payload: Any, seconds: float) -> Any:
        calls.append(function_id)
        if isinstance(check, Exception):
            raise check
        return check

    assert error_code(run(runtime, host_call(HOST_CALL), call=bus).output) == code
    assert calls == ["security::check_capability"]


@pytest.mark.parametrize("message", [b"{}", b"[]", b"nonsense", b'{"functionId":5}', b"[" * 5000])
def test_a_malformed_host_call_is_answered_with_an_error(runtime: WasmRuntime, message: bytes) -> None:
    assert error_code(run(runtime, host_call(message)).output) == "invalid_request"


def test_host_calls_are_bounded_by_the_guests_own_time(runtime: WasmRuntime) -> None:
    def bus(function_id: str, payload: Any, seconds: float) -> Any:
        assert seconds <= 0.3
        threading.Event().wait(seconds)
        raise InvocationError("TIMEOUT", "late", function_id)

    forever = guest("(loop (drop (call $host_call (i32.const 16) (i32.const 46))) br 0) unreachable", imports=IMPORTS,
                    more='(data (i32.const 16) "{\\"functionId\\":\\"memory::recall\\",\\"args\\":{\\"q\\":1}}")')  # fmt: skip
    began = time.monotonic()
    code, _ = failure(runtime, forever, call=bus, timeout_secs=0.3, fuel=10**9)
    assert code in {"TIMED_OUT", "BAD_POINTER"}
    assert time.monotonic() - began < 3


def test_host_calls_with_ranges_outside_the_memory_end_the_run(runtime: WasmRuntime) -> None:
    for name, arguments in (("host_call", "(i32.const -4) (i32.const 8)"), ("host_call", "(i32.const 0) (i32.const -1)"),
                            ("host_log", "(i32.const 2) (i32.const 65530) (i32.const 8)")):  # fmt: skip
        body = f"(call ${name} {arguments})" + (" drop" if name == "host_call" else "")
        code, message = failure(runtime, guest(f"{body} {ECHO}", imports=IMPORTS))
        assert code == "BAD_POINTER"
        assert message.startswith(name)


def test_guests_log_through_the_worker_within_bounds(runtime: WasmRuntime, caplog: pytest.LogCaptureFixture) -> None:
    line = "(call $host_log (i32.const 3) (i32.const 16) (i32.const 4000))"
    wasm = guest(
        f"(local $i i32) (loop {line} (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 500)))) {ECHO}",
        imports=IMPORTS,
        more='(data (i32.const 16) "hi\\n")',
    )
    run(runtime, wasm)
    assert len(caplog.records) == 100
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    text = caplog.records[0].getMessage()
    assert text.startswith("guest 'm': hi\n")
    assert len(text) < 2100


def test_guests_in_several_threads_do_not_see_each_others_failures(runtime: WasmRuntime) -> None:
    good, bad = guest(ECHO), guest(f"(drop (call $host_call (i32.const -4) (i32.const 8))) {ECHO}", imports=IMPORTS)
    outcomes: dict[str, list[str]] = {"good": [], "bad": []}

    def repeat(name: str, wasm: bytes) -> None:
        for _ in range(100):
            try:
                outcomes[name].append(run(runtime, wasm, b'"x"').output.decode())
            except FunctionError as error:
                outcomes[name].append(error.code)

    threads = [threading.Thread(target=repeat, args=pair) for pair in (("good", good), ("bad", bad))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == {"good": ['"x"'] * 100, "bad": ["BAD_POINTER"] * 100}


@pytest.mark.parametrize(
    ("output", "value"),
    [
        (b'{"a":[1,null]}', {"a": [1, None]}),
        (b"null", None),
        (b"hello", {"raw": "hello"}),
        (b"", {"raw": ""}),
        (b"\xff\xfe", {"raw": "\ufffd\ufffd"}),
        (b"[NaN]", {"raw": "[NaN]"}),
        (b'"\\ud800"', {"raw": '"\\ud800"'}),
        (b"[" * 100 + b"]" * 100, json.loads("[" * 100 + "]" * 100)),
        (b"[" * 101 + b"]" * 101, {"raw": "[" * 101 + "]" * 101}),
        (b"[" * 100_000, {"raw": "[" * 100_000}),
    ],
)
def test_output_is_json_or_raw_text(output: bytes, value: Any) -> None:
    assert decode_output(output) == value


class Module:
    def __init__(self, size: int) -> None:
        self.compiled_bytes = size


def test_the_cache_drops_the_least_recently_used_modules_over_its_number_and_size() -> None:
    cache: ModuleCache[Module] = ModuleCache(3, 100)
    for name in ("a", "b", "c"):
        assert cache.put(name, Module(10))
    assert cache.get("a") is not None
    assert cache.put("d", Module(10))
    assert cache.ids() == ["a", "c", "d"]
    assert cache.put("e", Module(85))
    assert cache.ids() == ["d", "e"]
    assert cache.put("e", Module(20))
    assert cache.put("f", Module(70))
    assert cache.ids() == ["d", "e", "f"]


def test_the_cache_refuses_a_module_bigger_than_itself_and_keeps_the_earlier_one() -> None:
    cache: ModuleCache[Module] = ModuleCache(3, 100)
    earlier = Module(10)
    cache.put("a", earlier)
    assert cache.put("a", Module(101)) is False
    assert cache.get("a") is earlier


@pytest.mark.parametrize("output", [b"1e999", b"[-1e999]", b'{"a": 1.5e400}'])
def test_a_number_that_is_too_large_is_handed_over_as_text(output: bytes) -> None:
    assert decode_output(output) == {"raw": output.decode()}


def leb(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + leb(rest) if rest else bytes([low])


def costly_module() -> bytes:
    """2000 locals and 24,000 loops in one function: 0.3 MB that take the compiler half a minute and gigabytes."""
    loops = b"".join(
        b"\x03\x40\x20" + local + b"\x41\x01\x6a\x22" + local + b"\x0d\x00\x0b"
        for local in (leb(number % 2000) for number in range(24_000))
    )
    body = b"\x01" + leb(2000) + b"\x7f" + loops + b"\x0b"
    code = b"\x01" + leb(len(body)) + body
    return b"\0asm\1\0\0\0" + b"\x01\x04\x01\x60\0\0" + b"\x03\x02\x01\0" + b"\x0a" + leb(len(code)) + code


@pytest.mark.parametrize(
    ("seconds", "memory_bytes", "message"),
    [
        (0.3, 2**30, "too costly to compile: it takes more than 0.3 s"),
        (60, 2**26, "too costly to compile: the compiler was ended at its limits (64 MiB of memory or 60 s)"),
    ],
    ids=["time", "memory"],
)
def test_a_module_that_is_too_costly_to_compile_is_not_valid_and_the_next_one_is_taken(
    seconds: float, memory_bytes: int, message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(ModuleRejected) as caught:
        WasmRuntime(seconds, memory_bytes).compile(costly_module())
    assert caught.value.code == "INVALID_MODULE"
    assert str(caught.value).startswith(message)
    assert time.monotonic() - began < 10
    WasmRuntime(10, memory_bytes).compile(guest(ECHO))


def test_the_compiling_process_knows_nothing_of_the_workers_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorder = tmp_path / "python"
    recorder.write_text(f"#!/bin/sh\nenv > {tmp_path}/environ\nexit 1\n")
    recorder.chmod(0o755)
    monkeypatch.setenv("III_URL", "ws://e/w/secret-token/uid")
    monkeypatch.setattr("sys.executable", str(recorder))
    with pytest.raises(RuntimeError, match="the compiler ended with exit code 1"):
        WasmRuntime().compile(guest(ECHO))
    environ = (tmp_path / "environ").read_text()
    assert "PATH=" in environ
    assert "secret-token" not in environ
