"""wasm-sandbox as a process on a bus, with an unmodified SDK."""

from __future__ import annotations

import asyncio
import base64
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from agentos_workers.kit import Context, FunctionError
from agentos_workers.kit.http import HttpRequest
from agentos_workers.wasm_sandbox import worker as wasm_worker
from agentos_workers.wasm_sandbox.models import ExecuteRequest, Settings
from agentos_workers.wasm_sandbox.sandbox import Pool, Sandbox
from wasmtime import wat2wasm

GREET = bytes(wat2wasm((Path(__file__).parents[2] / "examples" / "wasm" / "greet.wat").read_text()))
LOOP = bytes(
    wat2wasm(
        """(module (memory (export "memory") 1)
        (func (export "alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "execute") (param i32 i32) (result i64) (loop br 0) unreachable))"""
    )
)


@pytest.fixture
def sandbox(bus: Any, start_process: Any) -> Any:
    start_process(
        III_URL=bus.url, WASM_CONCURRENCY="1", WASM_QUEUE="1", WASM_MAX_MODULE_BYTES="20000", WASM_CACHE_MODULES="2"
    )
    bus.wait_for(lambda: len(bus.functions) == 3 and len(bus.triggers) == 3)
    return bus


def encoded(wasm: bytes) -> str:
    return base64.b64encode(wasm).decode()


def test_the_three_functions_and_routes_of_the_catalogue_are_registered(sandbox: Any) -> None:
    assert sandbox.functions.keys() == {"wasm::execute", "wasm::validate", "wasm::list_modules"}
    assert {(t["function_id"], *sorted(t["config"].values())) for t in sandbox.triggers.values()} == {
        ("wasm::execute", "POST", "wasm/execute"),
        ("wasm::validate", "POST", "wasm/validate"),
        ("wasm::list_modules", "GET", "wasm/modules"),
    }
    request = sandbox.functions["wasm::execute"]["request_format"]
    assert request["required"] == ["moduleId", "input"]
    defaults = {name: field["default"] for name, field in request["properties"].items() if "default" in field}
    assert defaults == {"agentId": "", "fuel": 1_000_000, "timeoutSecs": 30, "memoryPages": 256}
    for function in sandbox.functions.values():
        assert function["description"]
        assert function["response_format"]["properties"]


@pytest.mark.parametrize("wasm", [list(GREET), encoded(GREET)], ids=["bytes", "base64"])
def test_a_module_is_validated_executed_and_listed_over_http(sandbox: Any, wasm: Any) -> None:
    body = {"moduleId": "greet", "wasm": wasm}
    assert sandbox.request("wasm::validate", "POST", "wasm/validate", body=body) == (
        200,
        {"valid": True, "moduleId": "greet", "cached": True},
    )
    run = {"moduleId": "greet", "input": {"name": "Ada"}}
    status, answer = sandbox.request("wasm::execute", "POST", "wasm/execute", body=run)
    assert (status, answer["moduleId"]) == (200, "greet")
    assert answer["output"] == {"greeting": "hello from wasm", "bytes": 14, "input": {"name": "Ada"}}
    assert 0 < answer["fuelConsumed"] < 1000
    assert sandbox.request("wasm::list_modules", "GET", "wasm/modules") == (200, {"modules": ["greet"], "count": 1})


def test_a_direct_call_gives_the_bare_result(sandbox: Any) -> None:
    assert sandbox.call("wasm::list_modules", None) == {"modules": [], "count": 0}
    assert sandbox.call("wasm::validate", {"moduleId": "g", "wasm": list(GREET)})["valid"] is True
    assert sandbox.call("wasm::execute", {"moduleId": "g", "input": None})["output"]["input"] is None
    with pytest.raises(Exception, match="invocation_failed: UNKNOWN_MODULE: no module 'x' is loaded"):
        sandbox.call("wasm::execute", {"moduleId": "x", "input": 1})


def test_a_module_that_is_not_valid_is_told_and_not_kept(sandbox: Any) -> None:
    body = {"moduleId": "m", "wasm": encoded(bytes(wat2wasm("(module)")))}
    status, answer = sandbox.request("wasm::validate", "POST", "wasm/validate", body=body)
    assert (status, answer["valid"], answer["cached"], answer["error"]["code"]) == (200, False, False, "MISSING_EXPORT")
    assert sandbox.call("wasm::list_modules", {})["count"] == 0


@pytest.mark.parametrize(
    ("wasm", "status", "message"),
    [
        ("%%%", 400, "wasm: not base64"),
        ([1, 300], 400, "wasm: an array must hold only byte values, 0 to 255"),
        (["a"], 400, "wasm: an array must hold only byte values, 0 to 255"),
        ({"a": 1}, 400, "wasm: must be an array of byte values or a base64 string"),
        (encoded(bytes(20_001)), 413, "the module has 20001 bytes; at most 20000 are taken"),
    ],
)
def test_a_wasm_field_that_cannot_be_taken_is_refused(sandbox: Any, wasm: Any, status: int, message: str) -> None:
    body = {"moduleId": "m", "wasm": wasm}
    answer = sandbox.request("wasm::validate", "POST", "wasm/validate", body=body)
    assert (answer[0], answer[1]["error"]["message"]) == (status, message)


@pytest.mark.parametrize(
    "field",
    [{"fuel": 0}, {"fuel": 10**12 + 1}, {"fuel": "many"}, {"timeoutSecs": 0}, {"timeoutSecs": 301}, {"memoryPages": 0},
     {"memoryPages": 1025}, {"moduleId": ""}, {"moduleId": "x" * 257}, {"agentId": 5}],
)  # fmt: skip
def test_limits_of_a_run_have_caps(sandbox: Any, field: dict[str, Any]) -> None:
    status, answer = sandbox.request("wasm::execute", "POST", "x", body={"moduleId": "m", "input": 1, **field})
    assert (status, [one["path"] for one in answer["error"]["fields"]]) == (400, list(field))


def test_a_looping_guest_stalls_neither_other_functions_nor_uploads_and_the_queue_is_bounded(sandbox: Any) -> None:
    sandbox.call("wasm::validate", {"moduleId": "loop", "wasm": encoded(LOOP)})
    body = {"moduleId": "loop", "input": 1, "fuel": 10**12, "timeoutSecs": 2}
    running, waiting, refused = (sandbox.send("wasm::execute", body) for _ in range(3))
    assert sandbox.call("wasm::list_modules", {})["count"] == 1
    assert sandbox.call("wasm::validate", {"moduleId": "greet", "wasm": encoded(GREET)})["valid"] is True
    with pytest.raises(Exception, match="OVERLOADED: wasm-guests: the queue is full"):
        sandbox.result(refused)
    assert not sandbox.has_result(running)
    with pytest.raises(Exception, match="TIMED_OUT: execution timed out after 2 s"):
        sandbox.result(running)
    with pytest.raises(Exception, match=r"TIMED_OUT: execution timed out|OVERLOADED: wasm-guests: no thread came free"):
        sandbox.result(waiting)
    run = {"moduleId": "greet", "input": 1}
    assert sandbox.call("wasm::execute", run)["output"]["bytes"] == 1


def test_the_module_cache_is_bounded(sandbox: Any) -> None:
    for name in ("a", "b", "c"):
        sandbox.call("wasm::validate", {"moduleId": name, "wasm": encoded(GREET)})
    assert sandbox.call("wasm::list_modules", {})["modules"] == ["b", "c"]


def test_a_guest_reaches_the_bus_through_the_worker(sandbox: Any) -> None:
    text = '{"functionId":"memory::recall","args":{"q":1}}'
    escaped = text.replace('"', '\\"')
    wasm = wat2wasm(
        f"""(module (import "env" "host_call" (func $host_call (param i32 i32) (result i64)))
        (memory (export "memory") 1) (data (i32.const 16) "{escaped}")
        (func (export "alloc") (param i32) (result i32) (i32.const 1024))
        (func (export "execute") (param i32 i32) (result i64)
          (call $host_call (i32.const 16) (i32.const {len(text)}))))"""
    )
    sandbox.call("wasm::validate", {"moduleId": "host", "wasm": encoded(bytes(wasm))})
    run = {"moduleId": "host", "input": 1, "agentId": "a"}
    assert sandbox.call("wasm::execute", run)["output"]["error"]["code"] == "not_available"
    sandbox.provided["security::check_capability"] = lambda payload: {"allowed": True}
    sandbox.provided["memory::recall"] = lambda payload: [payload]
    assert sandbox.call("wasm::execute", run)["output"] == [{"q": 1}]
    assert sandbox.calls[-2:] == [
        ("security::check_capability", {"agentId": "a", "resource": "memory::recall"}),
        ("memory::recall", {"q": 1}),
    ]


def test_a_worker_that_stops_ends_the_compilation_it_has(bus: Any, start_process: Any) -> None:
    process = start_process(
        III_URL=bus.url,
        AGENTOS_DRAIN_SECONDS="0.2",
        WASM_COMPILE_SECONDS="60",
        WASM_COMPILE_BYTES=str(2**31),
    )
    bus.wait_for(lambda: len(bus.functions) == 3 and len(bus.triggers) == 3)
    bus.send("wasm::validate", {"moduleId": "costly", "wasm": encoded(costly_module())})
    deadline = time.monotonic() + 20
    while not (children := children_of(process.process.pid)):
        assert time.monotonic() < deadline
    assert bus.call("wasm::list_modules", None)["count"] == 0
    began = time.monotonic()
    code, output = process.stop(signal.SIGTERM)
    assert (code, time.monotonic() - began < 5) == (0, True), output
    while any(running(pid) for pid in children):
        assert time.monotonic() < deadline


def children_of(parent: int) -> list[str]:
    pids = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if state_and_parent(pid)[1] == str(parent)]


def running(pid: str) -> bool:
    return state_and_parent(pid)[0] not in ("Z", "gone")


def state_and_parent(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return ["gone", ""]


def costly_module() -> bytes:
    """2000 locals and 16,000 loops in one function: compiling it takes seconds and gigabytes."""
    loop = b"\x03\x40\x20%c\x41\x01\x6a\x22%c\x0d\x00\x0b"
    body = b"\x01\xd0\x0f\x7f" + b"".join(loop % (number % 128, number % 128) for number in range(16_000)) + b"\x0b"
    code = b"\x01" + leb(len(body)) + body
    return b"\0asm\1\0\0\0" + b"\x01\x04\x01\x60\0\0" + b"\x03\x02\x01\0" + b"\x0a" + leb(len(code)) + code


def leb(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + leb(rest) if rest else bytes([low])


async def test_over_http_a_run_gets_no_longer_than_the_engine_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wasm_worker.HTTP_MAX_SECS == 25
    monkeypatch.setattr(wasm_worker, "HTTP_MAX_SECS", 0.2)
    sandbox = Sandbox(Settings())
    await sandbox.add("loop", LOOP)
    request = ExecuteRequest(module_id="loop", input=1, fuel=10**12, timeout_secs=0.6)
    http = HttpRequest("POST", "wasm/execute", {}, {}, {}, None)
    cap = "execution timed out: over HTTP a run and its wait for a thread get at most 0.2 s"
    for came_by, text in ((http, cap), (None, "execution timed out after 0.6 s")):
        context = Context("wasm::execute", None, came_by, None, Settings(), sandbox, None)
        with pytest.raises(FunctionError) as caught:
            await wasm_worker.execute(request, context)
        assert (caught.value.code, caught.value.message) == ("TIMED_OUT", text)
    sandbox.close()


async def test_a_cancelled_call_keeps_its_thread_and_place_until_the_work_has_ended() -> None:
    pool = Pool("guests", 1, 0)
    begun, end = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return end.wait(20)

    call = asyncio.create_task(pool.run(work, 20))
    await asyncio.to_thread(begun.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(FunctionError, match="the queue is full"):
        await pool.run(end.is_set, 20)
    end.set()
    async with asyncio.timeout(20):
        while True:
            try:
                assert await pool.run(end.is_set, 20)
                break
            except FunctionError:
                await asyncio.sleep(0)
    pool.close()


def test_the_manifest_names_the_worker_and_how_to_start_it() -> None:
    folder = Path(wasm_worker.__file__).parent
    manifest = yaml.safe_load((folder / "iii.worker.yaml").read_text())
    assert manifest["name"] == wasm_worker.worker.name
    assert manifest["scripts"]["start"] == f"agentos-worker run {manifest['name']}"
    assert (folder / manifest["manifest"]).resolve().name == "pyproject.toml"
    assert "wasm::execute" in (folder / "README.md").read_text()
