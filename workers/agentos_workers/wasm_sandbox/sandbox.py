"""Guests in bounded pools: compiling and running both happen off the event loop, and neither can pile up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic_core import to_json

from ..kit import FunctionError
from .host_calls import BusCall, HostCalls
from .models import ExecuteReply, ExecuteRequest, Settings
from .module_cache import ModuleCache
from .runtime import CompiledModule, GuestFailed, WasmRuntime

# A deeper result is handed over as text: not every JSON parser on its way would take it.
MAX_DEPTH = 100
_COMPILE_QUEUE = 8

T = TypeVar("T")


class Pool:
    """Threads with a bounded queue before them; used from one event loop."""

    def __init__(self, name: str, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._name = name
        self._free = asyncio.Semaphore(threads)
        self._places = threads + queue

    async def run(self, work: Callable[[], T], wait_secs: float) -> T:
        """Runs `work` in a thread; raises FunctionError OVERLOADED when the queue is full, or no thread came free in
        `wait_secs`."""
        if self._places == 0:
            raise self._overloaded("the queue is full")
        self._places -= 1
        try:
            try:
                await asyncio.wait_for(self._free.acquire(), wait_secs)
            except TimeoutError:
                raise self._overloaded(f"no thread came free within {wait_secs:g} s") from None
            future = self._executor.submit(contextvars.copy_context().run, work)
        except BaseException:
            self._places += 1
            raise
        # The thread is busy until the work ends, also when the caller has gone.
        future.add_done_callback(functools.partial(self._ended, asyncio.get_running_loop()))
        return await asyncio.shield(asyncio.wrap_future(future))

    def _ended(self, loop: asyncio.AbstractEventLoop, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._free.release()
        self._places += 1

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _overloaded(self, why: str) -> FunctionError:
        return FunctionError("OVERLOADED", f"{self._name}: {why}; try again later", status=503)


class Sandbox:
    """The worker's modules and the threads that compile and run them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runtime = WasmRuntime(settings.compile_seconds, settings.compile_bytes)
        self._modules: ModuleCache[CompiledModule] = ModuleCache(settings.cache_modules, settings.cache_bytes)
        self._guests = Pool("wasm-guests", settings.concurrency, settings.queue)
        # One thread: a heavy module delays other uploads, never a run.
        self._compiler = Pool("wasm-compiler", 1, _COMPILE_QUEUE)

    async def add(self, module_id: str, wasm: bytes) -> None:
        """Compiles, checks and keeps a module; raises ModuleRejected, or FunctionError when it is too big."""
        limit = self._settings.max_module_bytes
        if len(wasm) > limit:
            raise _too_large(f"the module has {len(wasm)} bytes; at most {limit} are taken")
        module = self._modules.get(module_id)
        if module is None or module.digest != hashlib.sha256(wasm).digest():
            module = await self._compiler.run(lambda: self._runtime.compile(wasm), wait_secs=30)
        if not self._modules.put(module_id, module):
            kept = self._settings.cache_bytes
            raise _too_large(f"the module is {module.compiled_bytes} bytes compiled; at most {kept} are kept")

    async def execute(self, request: ExecuteRequest, call: BusCall, max_secs: float | None = None) -> ExecuteReply:
        """Runs a kept module on the request's input; raises FunctionError.

        `max_secs` is what the caller's way of calling allows for all, the wait for a thread included.
        """
        module = self._modules.get(request.module_id)
        if module is None:
            text = f"no module {request.module_id!r} is loaded; send it to wasm::validate first"
            raise FunctionError("UNKNOWN_MODULE", text, status=404)
        wait_secs = request.timeout_secs if max_secs is None else min(request.timeout_secs, max_secs)
        end = None if max_secs is None else time.monotonic() + max_secs
        run = functools.partial(self._run, module, request, call, end)
        try:
            return await self._guests.run(run, wait_secs)
        except GuestFailed as error:
            if error.code != "TIMED_OUT" or max_secs is None or request.timeout_secs <= max_secs:
                raise
            text = f"execution timed out: over HTTP a run and its wait for a thread get at most {max_secs:g} s"
            raise GuestFailed("TIMED_OUT", text) from None

    def module_ids(self) -> list[str]:
        return self._modules.ids()

    def close(self) -> None:
        self._guests.close()
        self._compiler.close()
        self._runtime.close()

    def _run(self, module: CompiledModule, request: ExecuteRequest, call: BusCall, end: float | None) -> ExecuteReply:
        now = time.monotonic()
        timeout_secs = request.timeout_secs if end is None else max(0.001, min(request.timeout_secs, end - now))
        host = HostCalls(call, request.module_id, request.agent_id, now + timeout_secs, self._settings.host_call_secs)
        result = self._runtime.run(
            module,
            to_json(request.input, inf_nan_mode="null"),
            host,
            fuel=request.fuel,
            timeout_secs=timeout_secs,
            memory_pages=request.memory_pages,
        )
        return ExecuteReply(
            output=decode_output(result.output), fuel_consumed=result.fuel_consumed, module_id=request.module_id
        )


def decode_output(output: bytes) -> Any:
    """A guest's output as a JSON value, or ``{"raw": text}`` when it is none that everybody could read."""
    try:
        value = json.loads(output, parse_constant=_refuse_constant, parse_float=_finite)
        if output.count(b"[") + output.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
            raise ValueError
        # Lone surrogates are legal in JSON's grammar, but not in UTF-8.
        to_json(value)
    except (ValueError, RecursionError):
        return {"raw": output.decode(errors="replace")}
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _too_large(message: str) -> FunctionError:
    return FunctionError("MODULE_TOO_LARGE", message, status=413)
