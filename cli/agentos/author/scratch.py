"""One worker on an engine of its own: in memory, on free ports, gone with all processes when the command ends."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from agentos_engine.bus.tap import Tap
from agentos_engine.clock import Clock

from agentos.errors import CommandError, ExitCode
from agentos.files import manifest_path
from agentos.local.claims import Claims
from agentos.local.engine import EngineOptions, LocalEngine
from agentos.local.fleet import Fleet, LocalWorker, load_fleet
from agentos.local.instance import Launcher
from agentos.local.printing import Printer
from agentos.local.process import kill_all
from agentos.local.service import Service, State
from agentos.local.supervisor import Supervisor

START_SECONDS = 30.0
"""Seconds in which a worker has to register its functions; installing what it needs does not count."""
STOP_SECONDS = 5.0
"""Seconds for the worker to end, then it is killed."""
MAX_LINES = 1000
"""Lines of the worker's output that are kept, the newest ones."""
LINES_SHOWN = 20
"""Of these, when it does not start."""

Result = TypeVar("Result")


class Log:
    """What the worker prints, and what becomes of it. ``live``: all of it goes to stderr at once."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._printer = Printer(_on_stderr, colours=False, verbose=live)
        self._lines: deque[Callable[[], None]] = deque(maxlen=MAX_LINES)

    def output(self, worker: str | None, line: str) -> None:
        """Take a line that the worker has printed."""
        self._take(lambda: self._printer.output(worker, line))

    def report(self, worker: str, text: str) -> None:
        """Take what has become of it; of the last, whoever waits for it tells in words of its own."""
        if self._live:
            self._take(lambda: self._printer.report(worker, text))

    def show(self, last: int = MAX_LINES) -> None:
        """Print the last lines on stderr, unless all were printed at once."""
        for line in list(self._lines)[-last:]:
            line()

    def _take(self, line: Callable[[], None]) -> None:
        if self._live:
            line()
        else:
            self._lines.append(line)


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A worker that runs, with its engine. ``warnings`` is what the engine warned of, in its order."""

    engine: LocalEngine
    worker: LocalWorker
    service: Service
    log: Log
    warnings: list[str]


def read_worker(folder: Path) -> LocalWorker:
    """Return the worker of a folder; what its manifest lacks is told on stderr.

    Raises CommandError for a folder without a manifest, and for a manifest with errors.
    """
    manifest_path(folder)
    fleet = load_fleet([folder], os.environ)
    for remark in fleet.remarks:
        print(remark, file=sys.stderr)
    worker = next(iter(fleet.workers.values()), None)
    if worker is None:
        raise CommandError(f"the worker in {folder} cannot be run; see above")
    # It runs alone: what it depends on is not here.
    return replace(worker, effective=replace(worker.effective, dependencies={}))


@contextlib.asynccontextmanager
async def running(
    worker: LocalWorker, log: Log, *, clock: Clock | None = None, tap: Tap | None = None
) -> AsyncIterator[Scratch]:
    """Run a worker on an engine of its own; entered once it has registered. ``tap`` is told of all calls.

    Raises CommandError when it does not register.
    """
    warnings = _Warnings()
    engine_log = logging.getLogger("agentos_engine")
    engine_log.addHandler(warnings)
    engine_log.propagate = False
    engine = LocalEngine(EngineOptions(clock=clock))
    await engine.start()
    engine.engine.bus.calls.tap = tap
    try:
        launcher = Launcher(engine, os.environ, log.output, isolate=True)
        supervisor = Supervisor(engine, launcher, Claims(), log.report)
        supervisor.start(Fleet(workers={worker.name: worker}))
        service = supervisor.services()[worker.name]
        try:
            await _until_ready(service, log)
            yield Scratch(engine, worker, service, log, warnings.messages)
        finally:
            engine.engine.bus.stop_calls()  # nobody waits for what is still in progress
            try:
                await asyncio.wait_for(supervisor.stop(), STOP_SECONDS)
            except TimeoutError:
                kill_all()
    finally:
        await engine.stop()
        engine_log.removeHandler(warnings)
        engine_log.propagate = True


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do something on an event loop until it is done, or SIGINT or SIGTERM comes; no process is left behind."""

    async def until_signal() -> Result:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise CommandError("interrupted", ExitCode.INTERRUPTED) from None

    try:
        return uvloop.run(until_signal())
    finally:
        kill_all()


async def _until_ready(service: Service, log: Log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while service.state is not State.READY:
        reason = ""
        if service.state is State.BACKING_OFF:
            reason = service.message
        elif service.state is State.INSTALLING:
            deadline = time.monotonic() + START_SECONDS
        elif time.monotonic() > deadline:
            reason = f"after {START_SECONDS:.0f} s {service.message or 'it has registered nothing'}"
        if reason:
            log.show(LINES_SHOWN)
            raise CommandError(f"worker {service.worker.name} does not run: {reason}")
        await asyncio.sleep(0.05)


class _Warnings(logging.Handler):
    """Keeps what the engine warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        from agentos_contracts.redaction import redacted

        function_id = getattr(record, "function_id", None)
        text = record.getMessage() if function_id is None else f"{record.getMessage()}: {function_id}"
        if len(self.messages) < MAX_LINES:
            self.messages.append(redacted(text))
