"""Processes of workers: started in a group of their own, their output read line by line, ended with all they started."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

MAX_LINE = 16 * 1024
"""Bytes of a line of output; what is longer is cut into several."""

Output = Callable[[str], object]
"""Told each line of what a process prints."""

PAUSE_EVERY = 256
"""Lines of output after which others have their turn: a worker that floods its output waits for us, not we for it."""
PAUSE = 0.02
"""Seconds."""

_OURS = frozenset({"III_URL", "III_ENGINE_URL", "III_WORKER_NAME", "AGENTOS_TOKEN", "POD_UID"})
"""Variables that say who a worker is; what the person has set for another engine is not meant for it."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_RUNNING: set["Process"] = set()


class StartError(Exception):
    """A process cannot be started; the message is one line."""


class Process:
    """One operating-system process and what it started."""

    def __init__(self, process: asyncio.subprocess.Process, output: Output) -> None:
        self._process = process
        self._readers = [
            asyncio.ensure_future(_forward(stream, output)) for stream in (process.stdout, process.stderr) if stream
        ]
        _RUNNING.add(self)
        self.ended: asyncio.Future[int] = asyncio.ensure_future(self._wait())
        """Its exit code; negative for the number of the signal that killed it."""

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: Output,
        pipe_input: bool = False,
        descriptors: Sequence[int] = (),
    ) -> "Process":
        """Start a program. Raises StartError when that is not possible.

        ``pipe_input``: its standard input is written by :meth:`write`, else empty; ``descriptors`` are handed to it.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(environment),
                cwd=folder,
                stdin=asyncio.subprocess.PIPE if pipe_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl-C is for whoever started us: calls are let through before a worker hears of the end.
                start_new_session=True,
                pass_fds=tuple(descriptors),
                preexec_fn=_end_with_parent if _LIBC is not None else None,
            )
        except FileNotFoundError as error:
            raise StartError(f"{error.filename or command[0]} is not there") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StartError(f"{command[0]} cannot be started: {reason}") from None
        return cls(process, output)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group, too."""
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Write to its standard input; nothing happens when it has gone."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(data)

    async def stop(self, seconds: float) -> None:
        """Ask it to end (SIGTERM), and after so many seconds kill it with all that it started."""
        self._signal(signal.SIGTERM)
        await asyncio.wait([self.ended], timeout=seconds)
        await self.kill()

    async def kill(self) -> None:
        """Kill it and all that it started."""
        self._signal(signal.SIGKILL)
        await asyncio.wait([self.ended])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def _wait(self) -> int:
        code = await self._process.wait()
        # As in a pod, what it started ends with it.
        self._signal(signal.SIGKILL)
        _RUNNING.discard(self)
        if self._process.stdin is not None:
            self._process.stdin.close()
        # What has left its group may hold its output open for ever.
        await asyncio.wait(self._readers, timeout=1)
        for reader in self._readers:
            reader.cancel()
        return code


def child_environment(surroundings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for processes of workers: the person's, with our own programs to be found first."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join((programs, surroundings.get("PATH", os.defpath)))
    # What a worker prints is to be seen when it prints it.
    mine = {name: value for name, value in surroundings.items() if name not in _OURS}
    return {"PYTHONUNBUFFERED": "1", **mine, "PATH": path}


def kill_all() -> None:
    """Kill every process that still runs, with all that these started."""
    for process in list(_RUNNING):
        process._signal(signal.SIGKILL)


def ending(code: int) -> str:
    """Say how a process ended, from its exit code."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


async def lines_of(stream: asyncio.StreamReader, longest: int = MAX_LINE) -> AsyncIterator[str]:
    """Yield the lines of a stream without their ends; longer ones (bytes) in parts, bad UTF-8 replaced."""
    rest = b""
    while chunk := await stream.read(64 * 1024):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in (*lines, *([rest] if len(rest) > longest else [])):
            for start in range(0, len(line) or 1, longest):
                yield line[start : start + longest].decode(errors="replace").rstrip("\r")
        if len(rest) > longest:
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


async def _forward(stream: asyncio.StreamReader, output: Output) -> None:
    count = 0
    async for line in lines_of(stream):
        output(line)
        count += 1
        if count % PAUSE_EVERY == 0:
            await asyncio.sleep(PAUSE)


def _end_with_parent() -> None:
    """In the new process: be told to end when the parent is gone, however it went."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
