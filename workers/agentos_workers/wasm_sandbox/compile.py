"""Compiles one module in a process of its own: ``python -m agentos_workers.wasm_sandbox.compile SECONDS BYTES``.

The module comes on standard input. Exit code 0: the compiled module is on standard output. Exit code NOT_VALID: the
reason is there. Any other end: the compiler went over its limits of processor time and memory, or broke.

Only wasmtime is imported, so that the process starts quickly.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import sys

from wasmtime import Config, Engine, Module, WasmtimeError

NOT_VALID = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def new_engine() -> Engine:
    """An engine of the one configuration that the compiling process and the running one share."""
    config = Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    # One compilation must not take every core.
    config.parallel_compilation = False
    # What the guest ABI has no use for, and what the limits of a run would not cover.
    config.wasm_threads = False
    config.shared_memory = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False
    config.wasm_function_references = False
    config.wasm_exceptions = False
    config.wasm_stack_switching = False
    config.wasm_component_model = False
    return Engine(config)


def main(seconds: int, memory_bytes: int) -> int:
    """Serves one compilation; returns the exit code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Not the address space: wasmtime reserves much more of it than it uses.
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_CORE, 0)
    wasm = sys.stdin.buffer.read()
    try:
        answer, code = bytes(Module(new_engine(), wasm).serialize()), 0
    except WasmtimeError as error:
        answer, code = str(error).encode(), NOT_VALID
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return code


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
