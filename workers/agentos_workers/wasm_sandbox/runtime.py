"""wasmtime with limits: compiling modules, and running one guest function under bounds of memory, fuel and time."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from wasmtime import (
    Caller,
    Engine,
    Func,
    FuncType,
    InstancePre,
    Linker,
    Memory,
    MemoryType,
    Module,
    Store,
    Trap,
    TrapCode,
    ValType,
    WasmtimeError,
)

from ..kit import FunctionError
from .compile import new_engine
from .compiler import Compiler, ModuleRejected, one_line
from .host_calls import MAX_MESSAGE_BYTES, HostCalls
from .models import PAGE_BYTES

TICK_SECS = 0.01
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
MAX_TABLE_ELEMENTS = 100_000
_SIGNATURES = {"alloc": (["i32"], ["i32"]), "execute": (["i32", "i32"], ["i64"])}

_log = logging.getLogger(__name__)


class GuestFailed(FunctionError):
    """A run that ended without a result, by the guest's doing."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message, status=422)


@dataclass(frozen=True, slots=True)
class CompiledModule:
    """A module ready to be instantiated, its imports resolved."""

    instance_pre: InstancePre
    digest: bytes
    compiled_bytes: int
    memory_pages: int


@dataclass(frozen=True, slots=True)
class GuestResult:
    output: bytes
    fuel_consumed: int


class Ticker:
    """Advances the engine's epoch every 10 ms, while guests run.

    Ticks are due at a steady pace and may come late, never early: when n of them have come, more than n - 2 tick
    lengths have passed. So a deadline of `ticks` cannot cut a run short, and is late by 30 ms when all goes well.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="wasm-epoch", daemon=True).start()

    @staticmethod
    def ticks(seconds: float) -> int:
        return math.ceil(seconds / TICK_SECS) + 2

    @contextmanager
    def needed(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running > 0)
            due = time.monotonic() + TICK_SECS
            while self._running > 0:
                time.sleep(max(0.0, due - time.monotonic()))
                self._engine.increment_epoch()
                # The pace is kept over small delays; after a long one the missed ticks are left out, not caught up.
                now = time.monotonic()
                due = due + TICK_SECS if now < due + TICK_SECS else now + TICK_SECS


class WasmRuntime:
    """One wasmtime engine. All methods block and may be called from many threads."""

    def __init__(self, compile_secs: float = 10, compile_bytes: int = 256 * 1024 * 1024) -> None:
        self._engine = new_engine()
        self._compiler = Compiler(compile_secs, compile_bytes)
        self._ticker = Ticker(self._engine)
        self._current = threading.local()
        self._linker = Linker(self._engine)
        i32, i64 = ValType.i32, ValType.i64
        self._linker.define_func(
            "env", "host_call", FuncType([i32(), i32()], [i64()]), self._host_call, access_caller=True
        )
        self._linker.define_func(
            "env", "host_log", FuncType([i32(), i32(), i32()], []), self._host_log, access_caller=True
        )

    def compile(self, wasm: bytes) -> CompiledModule:
        """Compiles a binary module and checks it against the guest ABI; raises ModuleRejected."""
        # The binding would take anything else for the text format.
        if not wasm.startswith(b"\0asm"):
            raise ModuleRejected("INVALID_MODULE", "not a WebAssembly binary: it must start with the bytes 00 61 73 6d")
        compiled = self._compiler.compile(wasm)
        module = Module.deserialize(self._engine, compiled)
        memory_pages = _check_exports(module)
        try:
            instance_pre = self._linker.instantiate_pre(module)
        except WasmtimeError as error:
            text = f"{one_line(str(error))}; a guest may import only env.host_call and env.host_log"
            raise ModuleRejected("UNKNOWN_IMPORT", text) from None
        return CompiledModule(instance_pre, hashlib.sha256(wasm).digest(), max(len(wasm), len(compiled)), memory_pages)

    def close(self) -> None:
        """Ends what is being compiled; runs go on to their end."""
        self._compiler.close()

    def run(
        self,
        module: CompiledModule,
        message: bytes,
        host: HostCalls,
        *,
        fuel: int,
        timeout_secs: float,
        memory_pages: int,
    ) -> GuestResult:
        """Runs the guest's ``execute`` on `message` in a fresh instance; raises GuestFailed.

        The limits hold all the time: `memory_pages` for ``memory.grow`` too, `fuel` and `timeout_secs` for the start
        function and ``alloc`` as well.
        """
        if module.memory_pages > memory_pages:
            text = f"the module needs {module.memory_pages} pages of memory, more than the limit of {memory_pages}"
            raise GuestFailed("MEMORY_LIMIT", text)
        with Store(self._engine) as store, self._ticker.needed():
            store.set_limits(
                memory_size=memory_pages * PAGE_BYTES,
                table_elements=MAX_TABLE_ELEMENTS,
                instances=1,
                tables=4,
                memories=1,
            )
            store.set_fuel(fuel)
            store.set_epoch_deadline(Ticker.ticks(timeout_secs))
            run = _Run(host)
            self._current.run = run
            try:
                output = self._execute(store, module, message)
            except Trap as trap:
                raise run.failure or _failure_of(trap, timeout_secs, fuel) from None
            except WasmtimeError as error:
                raise GuestFailed("RESOURCE_LIMIT", one_line(str(error))) from None
            finally:
                self._current.run = None
            if run.failure is not None:
                raise run.failure
            return GuestResult(output, fuel - store.get_fuel())

    @staticmethod
    def _execute(store: Store, module: CompiledModule, message: bytes) -> bytes:
        exports = module.instance_pre.instantiate(store).exports(store)
        memory, alloc, execute = (
            cast(Memory, exports["memory"]),
            cast(Func, exports["alloc"]),
            cast(Func, exports["execute"]),
        )
        pointer = alloc(store, len(message))
        _write(store, memory, pointer, message, "alloc")
        packed = execute(store, pointer, len(message)) & 0xFFFFFFFF_FFFFFFFF
        length = packed & 0xFFFFFFFF
        if length > MAX_OUTPUT_BYTES:
            text = f"the guest returned {length} bytes; at most {MAX_OUTPUT_BYTES} are taken"
            raise GuestFailed("OUTPUT_TOO_LARGE", text)
        return _read(store, memory, packed >> 32, length, "execute")

    # Host functions run inside the binding's callback. An exception that left one would be kept in a variable which all
    # threads of the binding share and could surface in another guest's run, so none may leave.

    def _host_call(self, caller: Caller, pointer: int, length: int) -> int:
        run: _Run = self._current.run
        try:
            memory, alloc = cast(Memory, caller["memory"]), cast(Func, caller["alloc"])
            if not 0 <= length <= MAX_MESSAGE_BYTES:
                raise GuestFailed("BAD_POINTER", f"host_call: a message of more than {MAX_MESSAGE_BYTES} bytes")
            answer = run.host.call(_read(caller, memory, pointer, length, "host_call"))
            target = alloc(caller, len(answer))
            _write(caller, memory, target, answer, "alloc")
            return _signed((target & 0xFFFFFFFF) << 32 | len(answer))
        except Exception as error:
            self._keep(run, error)
            return 0

    def _host_log(self, caller: Caller, level: int, pointer: int, length: int) -> None:
        run: _Run = self._current.run
        try:
            if not 0 <= length <= MAX_MESSAGE_BYTES:
                raise GuestFailed("BAD_POINTER", f"host_log: a text of more than {MAX_MESSAGE_BYTES} bytes")
            memory = cast(Memory, caller["memory"])
            run.host.log(level, _read(caller, memory, pointer, length, "host_log"))
        except Exception as error:
            self._keep(run, error)

    @staticmethod
    def _keep(run: _Run, error: Exception) -> None:
        """The guest's fault ends the run when control comes back. A trap of ``alloc`` needs no note: fuel and time stay
        used up, and the guest traps again at its next step; any other trap is the guest's to report here."""
        if isinstance(error, Trap):
            if error.trap_code not in (TrapCode.INTERRUPT, TrapCode.OUT_OF_FUEL):
                run.failure = _failure_of(error, 0, 0)
        elif isinstance(error, GuestFailed):
            run.failure = error
        else:
            _log.error("host function failed", exc_info=error)
            run.failure = GuestFailed("TRAPPED", "trapped: a host function failed; the worker's log has details")


class _Run:
    """What host functions know of the run that they serve."""

    __slots__ = ("failure", "host")

    def __init__(self, host: HostCalls) -> None:
        self.host = host
        self.failure: GuestFailed | None = None


def _check_exports(module: Module) -> int:
    """The initial size of the module's memory in pages; raises ModuleRejected when the ABI is not met."""
    types = {export.name: export.type for export in module.exports}
    missing = []
    pages = 0
    memory = types.get("memory")
    if isinstance(memory, MemoryType):
        pages = memory.limits.min
    else:
        missing.append("memory")
    for name, (parameters, results) in _SIGNATURES.items():
        found = types.get(name)
        if not isinstance(found, FuncType) or (_names(found.params), _names(found.results)) != (parameters, results):
            missing.append(f"{name}({', '.join(parameters)}) -> {', '.join(results)}")
    if missing:
        raise ModuleRejected("MISSING_EXPORT", f"the module does not export {' and '.join(missing)}")
    return pages


def _names(types: Iterable[ValType]) -> list[str]:
    return [str(value_type) for value_type in types]


def _failure_of(trap: Trap, timeout_secs: float, fuel: int) -> GuestFailed:
    if trap.trap_code is TrapCode.INTERRUPT:
        return GuestFailed("TIMED_OUT", f"execution timed out after {timeout_secs:g} s")
    if trap.trap_code is TrapCode.OUT_OF_FUEL:
        return GuestFailed("FUEL_EXHAUSTED", f"fuel exhausted: all {fuel} units are consumed")
    return GuestFailed("TRAPPED", f"trapped: {one_line(trap.message)}")


def _read(store: Store | Caller, memory: Memory, pointer: int, length: int, source: str) -> bytes:
    start = _checked(store, memory, pointer, length, source)
    return bytes(memory.read(store, start, start + length))


def _write(store: Store | Caller, memory: Memory, pointer: int, data: bytes, source: str) -> None:
    memory.write(store, data, _checked(store, memory, pointer, len(data), source))


def _checked(store: Store | Caller, memory: Memory, pointer: int, length: int, source: str) -> int:
    """The pointer as an unsigned number; raises GuestFailed unless the whole range lies in the guest's memory."""
    start, size = pointer & 0xFFFFFFFF, memory.data_len(store)
    if start + length > size:
        text = f"{source} gave a range outside the guest's memory: {length} bytes at {start}, memory has {size}"
        raise GuestFailed("BAD_POINTER", text)
    return start


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
