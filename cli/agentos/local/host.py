"""The process that Python workers on our kit share (``agentos-worker host``)."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agentos.local.process import Output, Process, ending, lines_of

MAX_EVENT = 1024 * 1024
"""Bytes of an event; the message of one may be long."""

Ended = Callable[[str], object]
"""Told why a worker is not there any more; empty when it was asked to stop."""


class Host:
    """One such process and the workers in it, by name."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._workers: dict[str, tuple[Callable[[], object], Ended]] = {}
        self._stopping = False
        process.ended.add_done_callback(self._died)

    @classmethod
    async def start(cls, environment: Mapping[str, str], output: Output) -> "Host":
        """Start one; it imports what all workers need and waits. Raises StartError."""
        mine, theirs = os.pipe()
        try:
            process = await Process.start(
                [sys.executable, "-m", "agentos_workers", "host", "--events", str(theirs)],
                environment=environment,
                folder=Path.cwd(),
                output=output,
                pipe_input=True,
                descriptors=[theirs],
            )
        except BaseException:
            os.close(mine)
            raise
        finally:
            os.close(theirs)
        host = cls(process)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(mine, "rb", buffering=0)
        )
        host._reader = asyncio.ensure_future(host._read(reader))
        host._reader.add_done_callback(lambda _: transport.close())
        return host

    _reader: "asyncio.Future[None]"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def open(self) -> bool:
        """Whether workers may be added: it runs and was not asked to end."""
        return not self._stopping and not self._process.ended.done()

    @property
    def empty(self) -> bool:
        """Whether there is no worker in it."""
        return not self._workers

    def add(
        self,
        name: str,
        target: str,
        url: str,
        variables: Mapping[str, str],
        folder: Path,
        started: Callable[[], object],
        ended: Ended,
    ) -> None:
        """Start a worker in it.

        ``started`` is called when all its functions are registered; ``ended`` once, when it is gone for whatever reason.
        """
        self._workers[name] = (started, ended)
        start = {"target": target, "name": name, "url": url, "env": dict(variables), "cwd": str(folder)}
        self._command({"start": [start]})

    def remove(self, name: str) -> None:
        """Ask a worker to finish its calls and go."""
        self._command({"stop": name})

    async def stop(self, seconds: float) -> None:
        """End the process: its workers finish their calls, for so many seconds at most."""
        self._stopping = True
        await self._process.stop(seconds)

    async def kill(self) -> None:
        """End the process at once."""
        self._stopping = True
        await self._process.kill()

    def _command(self, command: Mapping[str, Any]) -> None:
        self._process.write(json.dumps(command).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in lines_of(reader, MAX_EVENT):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            name = str(event.get("name"))
            if event.get("event") in ("stopped", "failed"):
                self._gone(name, str(event.get("message") or ""))
            elif event.get("event") == "started" and name in self._workers:
                self._workers[name][0]()

    def _gone(self, name: str, why: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker[1](why)

    def _died(self, done: "asyncio.Future[int]") -> None:
        why = f"the process that it shared ended: {ending(done.result())}" if not done.cancelled() else "stopped"
        for name in list(self._workers):
            self._gone(name, why)
