"""``agentos up``: an engine and its workers until Ctrl-C."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from agentos.errors import CommandError, ExitCode
from agentos.local.host import Host
from agentos.local.printing import Printer, level_of
from agentos.local.process import child_environment, kill_all

if TYPE_CHECKING:
    from agentos.local.fleet import Fleet
    from agentos.local.supervisor import Supervisor

FIRST_LOOK = 3.0
"""Seconds after which files are watched at the latest, should some worker not become ready."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What can be chosen. ``paths``: files and folders; ports of 0 are any free ones, None those of ``config``."""

    paths: tuple[Path, ...]
    realm: str | None
    data_dir: Path
    config: Path | None
    port: int | None
    http_port: int | None
    stream_port: int | None
    admin_port: int
    console_port: int
    isolate: bool
    watch: bool
    verbose: bool
    colours: bool


def run(options: UpOptions) -> None:
    """Run until SIGINT or SIGTERM; a second one ends all at once. Raises CommandError when it cannot start."""
    try:
        uvloop.run(_up(options))
    finally:
        kill_all()


async def _up(options: UpOptions) -> None:
    began, since = time.monotonic(), time.time()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stopping)
    printer = Printer(colours=options.colours, verbose=options.verbose)
    host = None
    if not options.isolate:
        # It imports what Python workers need while this process does the same for the engine.
        host = await Host.start(child_environment(os.environ), lambda line: printer.output(None, line))

    from agentos.local.claims import Claims
    from agentos.local.engine import EngineOptions, LocalEngine
    from agentos.local.fleet import load_fleet
    from agentos.local.instance import Launcher
    from agentos.local.supervisor import Supervisor

    _log_to(printer, options.verbose)
    fleet = load_fleet(options.paths, os.environ, options.realm)
    for remark in fleet.remarks:
        printer.say(str(remark), "error" if remark.severity == "error" else "warn")
    if not fleet.workers and any(remark.severity == "error" for remark in fleet.remarks):
        raise CommandError("none of the workers can be run; see above", ExitCode.FAILED)
    _keep_out_of_git(options.data_dir)
    supervisor: Supervisor | None = None
    engine = LocalEngine(
        EngineOptions(
            data_dir=options.data_dir / "engine",
            realm=options.realm or next(iter(fleet.realms), "local"),
            port=options.port,
            http_port=options.http_port,
            stream_port=options.stream_port,
            admin_port=options.admin_port,
            console_port=options.console_port,
            config=options.config,
            fleet=lambda: supervisor.status() if supervisor is not None else [],
        )
    )
    await engine.start()
    printer.keep = engine.log
    printer.say(f"engine {engine.url}   HTTP {engine.http_url}   page http://127.0.0.1:{engine.ports.console}")
    launcher = Launcher(engine, os.environ, printer.output, isolate=options.isolate, shared=host)
    supervisor = Supervisor(engine, launcher, Claims.load(options.data_dir / "claims.json"), printer.report)
    supervisor.start(fleet)
    work = [asyncio.ensure_future(_tell_when_ready(supervisor, printer, began))]
    if options.watch:
        work.append(asyncio.ensure_future(_follow(options, fleet, supervisor, printer, since)))
    await stopping.wait()
    for each in work:
        each.cancel()
    in_flight = engine.engine.bus.calls.invocations.in_flight
    printer.say("stopping" + (f": letting {_counted(in_flight, 'call')} end" if in_flight else ""))
    await supervisor.stop()
    await engine.stop()


def _stop(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        kill_all()
        os._exit(ExitCode.INTERRUPTED)
    stopping.set()


async def _tell_when_ready(supervisor: "Supervisor", printer: Printer, began: float) -> None:
    await supervisor.wait_ready()
    rows = supervisor.status()
    ready = [row for row in rows if row["state"] == "Ready"]
    functions = sum(len(row["functions"]) for row in ready)
    waiting = f", {len(rows) - len(ready)} waiting" if len(ready) < len(rows) else ""
    if not rows:
        printer.say("no worker yet: agentos new worker NAME makes one")
        return
    took = f"{time.monotonic() - began:.1f} s"
    printer.say(f"{_counted(len(ready), 'worker')} ready with {_counted(functions, 'function')}{waiting}, {took}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


async def _follow(options: UpOptions, fleet: "Fleet", supervisor: "Supervisor", printer: Printer, since: float) -> None:
    """Follow what is written to the files, from ``since`` on."""
    from agentos.local.fleet import load_fleet
    from agentos.local.watching import changes

    await supervisor.wait_ready(FIRST_LOOK)  # the start goes first
    while True:
        watched = set(fleet.watched)
        async with contextlib.aclosing(changes(watched, since)) as found:
            async for changed in found:
                since = time.time()
                if not changed:
                    continue
                try:
                    newer = await asyncio.to_thread(load_fleet, options.paths, os.environ, options.realm)
                except CommandError as error:
                    printer.say(str(error), "error")
                    continue
                known = {str(remark) for remark in fleet.remarks}
                for remark in newer.remarks:
                    if str(remark) not in known:
                        printer.say(str(remark), "error" if remark.severity == "error" else "warn")
                # A file that is broken for the moment does not end what runs.
                broken = {remark.origin.partition(":")[0] for remark in newer.remarks if remark.severity == "error"}
                for name, worker in fleet.workers.items():
                    if name not in newer.workers and worker.origin.partition(":")[0] in broken:
                        newer.workers[name] = worker
                fleet = newer
                supervisor.apply(fleet, changed)
                if fleet.watched != watched:
                    break


def _keep_out_of_git(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise CommandError(f"{folder}: cannot be written: {error.strerror}", ExitCode.USAGE) from None


class _ToPrinter(logging.Handler):
    def __init__(self, printer: Printer) -> None:
        super().__init__()
        self._printer = printer

    def emit(self, record: logging.LogRecord) -> None:
        from agentos_engine.logs import redacted

        text = redacted(self.format(record))
        self._printer.say(f"engine: {text}", level_of(record.levelname))


def _log_to(printer: Printer, verbose: bool) -> None:
    """Show what the engine warns of; with ``verbose`` all that it logs."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[_ToPrinter(printer)], force=True)
    logging.getLogger("picows").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("watchfiles").setLevel(logging.ERROR)
