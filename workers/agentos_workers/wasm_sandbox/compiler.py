"""Compiling in child processes: a thread that compiles cannot be stopped or held to an amount of memory."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading

from .compile import NOT_VALID

_log = logging.getLogger(__name__)


class ModuleRejected(Exception):
    """A module that cannot be used: `code` is INVALID_MODULE, MISSING_EXPORT or UNKNOWN_IMPORT."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Compiler:
    """Compiles each module in a process that may take `seconds` of wall-clock time and `memory_bytes` of memory."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def compile(self, wasm: bytes) -> bytes:
        """The module as ``wasmtime.Module.deserialize`` takes it. Blocks; raises ModuleRejected INVALID_MODULE."""
        process = self._start()
        try:
            output, errors = process.communicate(wasm, self._seconds)
        except subprocess.TimeoutExpired:
            raise _too_costly(f"it takes more than {self._seconds:g} s") from None
        finally:
            with self._lock:
                self._running.discard(process)
            process.kill()
            process.communicate()
        if process.returncode == 0:
            return output
        if process.returncode == NOT_VALID:
            raise ModuleRejected("INVALID_MODULE", one_line(output.decode(errors="replace")))
        if process.returncode < 0 or b"MemoryError" in errors:
            limits = f"{self._memory_bytes // 2**20} MiB of memory or {self._seconds:g} s"
            raise _too_costly(f"the compiler was ended at its limits ({limits})")
        _log.error("the compiler failed: %s", errors[-2000:].decode(errors="replace"))
        raise RuntimeError(f"the compiler ended with exit code {process.returncode}")

    def close(self) -> None:
        """Ends what is being compiled, and takes nothing more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        # Processor time is a second limit, for a process that nobody watches any more.
        limits = [str(math.ceil(self._seconds) + 1), str(self._memory_bytes)]
        # The compiler reads what nobody trusts, so it gets none of the worker's environment, which holds its token.
        environ = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        with self._lock:
            if self._closed:
                raise RuntimeError("the worker is stopping")
            process = subprocess.Popen(
                [sys.executable, "-IB", "-m", f"{__package__}.compile", *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environ,
            )
            self._running.add(process)
        return process


def one_line(text: str) -> str:
    """The cause at the end of a wasmtime message, without its backtrace."""
    cause = text.split("Caused by:")[-1].split("wasm trap: ")[-1]
    return " ".join(cause.split())


def _too_costly(why: str) -> ModuleRejected:
    return ModuleRejected("INVALID_MODULE", f"too costly to compile: {why}; make its functions smaller or fewer")
