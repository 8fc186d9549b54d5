"""``agentos up``: an engine and its workers until Ctrl-C."""

import asyncio
import contextlib
import io
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from agentos.errors import CommandError, ExitCode
from agentos.local.host import Host
from agentos.local.printing import Printer, Writer, level_of
from agentos.local.process import child_environment, kill_all
from agentos.terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentos.local.fleet import Fleet, Remark
    from agentos.local.instance import Launcher
    from agentos.local.supervisor import Supervisor

FIRST_LOOK = 3.0
"""Seconds after which files are watched at the latest, should some worker not become ready."""
SLOW_END = 3.0
"""Seconds after which it is told what the end is waiting for."""
WATCH_AGAIN = 5.0
"""Seconds after which it is tried again to watch files when that did not work."""


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
    """Run until SIGINT, SIGTERM or SIGHUP; a second one ends all at once. Raises CommandError when it cannot start."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has every character
    writer = Writer()
    printer = Printer(writer.write, colours=options.colours, verbose=options.verbose)
    try:
        uvloop.run(_up(options, printer))
    finally:
        kill_all()
        writer.flush()


async def _up(options: UpOptions, printer: Printer) -> None:
    began, since = time.monotonic(), time.time()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _stop, stopping)
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
    # In a thread, so that a second Ctrl-C is heard while large files are read.
    fleet = await asyncio.to_thread(load_fleet, options.paths, os.environ, options.realm)
    if stopping.is_set():
        return
    _tell_remarks(printer, fleet.remarks)
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
    http = f"HTTP {engine.http_url}   " if engine.ports.http else ""
    printer.say(f"engine {engine.url}   {http}page http://127.0.0.1:{engine.ports.console}")
    launcher = Launcher(engine, os.environ, printer.output, isolate=options.isolate, shared=host)
    supervisor = Supervisor(engine, launcher, Claims.load(options.data_dir / "claims.json"), printer.report)
    supervisor.start(fleet)
    work = [asyncio.ensure_future(_when_ready(supervisor, launcher, printer, began))]
    if options.watch:
        work.append(asyncio.ensure_future(_follow(options, fleet, supervisor, printer, since)))
    await stopping.wait()
    for each in work:
        each.cancel()
    in_flight = engine.engine.bus.calls.invocations.in_flight
    printer.say("stopping" + (f": letting {counted(in_flight, 'call')} end" if in_flight else ""))
    asyncio.get_running_loop().call_later(SLOW_END, printer.say, "workers are still ending; Ctrl-C again kills them")
    await supervisor.stop()
    await engine.stop()


def _stop(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        kill_all()
        os._exit(ExitCode.INTERRUPTED)
    stopping.set()


async def _when_ready(supervisor: "Supervisor", launcher: "Launcher", printer: Printer, began: float) -> None:
    await supervisor.wait_ready()
    _tell_start(supervisor, printer, began)
    await launcher.close()  # no worker may have wanted the process that was started ahead


def _tell_start(supervisor: "Supervisor", printer: Printer, began: float) -> None:
    rows = supervisor.status()
    if not rows:
        printer.say("no worker yet: agentos new worker NAME makes one")
        return
    ready = [row for row in rows if row["state"] == "Ready"]
    functions = sum(len(row["functions"]) for row in ready)
    waiting = sum(row["state"] == "Waiting" for row in rows)
    failing = len(rows) - len(ready) - waiting
    others = (f", {waiting} waiting" if waiting else "") + (f", {failing} not running" if failing else "")
    took = f"{time.monotonic() - began:.1f} s"
    printer.say(f"{counted(len(ready), 'worker')} ready with {counted(functions, 'function')}{others}, {took}")


def _tell_remarks(printer: Printer, remarks: "Iterable[Remark]") -> None:
    for remark in remarks:
        printer.say(str(remark), "error" if remark.severity == "error" else "warn")


async def _follow(options: UpOptions, fleet: "Fleet", supervisor: "Supervisor", printer: Printer, since: float) -> None:
    """Follow what is written to the files, from ``since`` on."""
    from agentos.local.fleet import load_fleet
    from agentos.local.watching import WatchError, changes

    await supervisor.wait_ready(FIRST_LOOK)  # the start goes first
    told = ""
    while True:
        watched = set(fleet.watched)
        there = _existing(watched)
        try:
            async with contextlib.aclosing(changes(watched, since)) as found:
                async for changed in found:
                    since = time.time()  # at first nothing may be new, but files may be gone
                    try:
                        newer = await asyncio.to_thread(
                            load_fleet, options.paths, os.environ, options.realm, again=True
                        )
                    except CommandError as error:
                        printer.say(str(error), "error")
                        continue
                    _tell_remarks(printer, [each for each in newer.remarks if each not in fleet.remarks])
                    _keep_what_is_broken(fleet, newer)
                    fleet = newer
                    supervisor.apply(fleet, changed)
                    # A folder that was moved away is still what is watched, wherever it is now.
                    if fleet.watched != watched or changed & watched or _existing(watched) != there:
                        break
        except WatchError as error:
            if str(error) != told:
                printer.say(str(error), "error")
            told = str(error)
            await asyncio.sleep(WATCH_AGAIN)


def _existing(paths: "Iterable[Path]") -> set[Path]:
    return {each for each in paths if each.exists()}


def _keep_what_is_broken(fleet: "Fleet", newer: "Fleet") -> None:
    """Let the workers be whose file has an error for the moment."""
    broken = {_file_of(remark.origin) for remark in newer.remarks if remark.severity == "error"}
    for name, worker in fleet.workers.items():
        if name not in newer.workers and _file_of(worker.origin) in broken:
            newer.workers[name] = worker


def _file_of(origin: str) -> str:
    return re.sub(r":\d+$", "", origin)


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
        from agentos_contracts.redaction import redacted

        text = redacted(self.format(record))
        self._printer.say(f"engine: {text}", level_of(record.levelname))


def _log_to(printer: Printer, verbose: bool) -> None:
    """Show what the engine warns of; with ``verbose`` all that it logs."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[_ToPrinter(printer)], force=True)
    logging.getLogger("picows").setLevel(logging.ERROR)
    logging.getLogger("agentos_engine.worker_log").setLevel(logging.CRITICAL)  # what workers print is shown as theirs
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("watchfiles").setLevel(logging.ERROR)
