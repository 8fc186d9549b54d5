"""The life of a worker process: signals, commands of a parent, exit codes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from .host import Host
from .kit import SettingsError, log
from .loading import LoadError

MAX_COMMAND_BYTES = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


def run(target: str) -> int:
    """Runs one worker until it is told to stop; returns the exit code of the process.

    SIGTERM and SIGINT drain and end with 0, a second one cuts the draining short. 2: it cannot be loaded, or its
    settings are wrong. 1: it cannot work (what its handlers share failed, or the engine refused it for good).
    """
    wake = _Wake(signal.SIGTERM, signal.SIGINT)
    _prepare(_name_of(target))
    failures: list[Exception] = []

    def listener(event: str, name: str, error: Exception | None = None) -> None:
        if error is not None:
            failures.append(error)
            wake.now()

    host = Host(listener, telemetry=True)
    host.start(target, _name_of(target), dict(os.environ))
    wake.wait()
    if not failures:
        _drain(host, wake)
        return 0
    error = failures[0]
    if isinstance(error, LoadError):
        frames = f"\n{error.frames}" if error.frames else ""
        print(log.redaction(f"agentos-worker: {error}{frames}"), file=sys.stderr)
    else:
        _log.error("%s", error)
    return _end(2 if isinstance(error, LoadError | SettingsError) else 1)


def serve(events: int) -> int:
    """Runs the workers that the parent names, one JSON object a line on standard input, until that ends.

    ``{"start": [{"target", "name", "url", "env"?}…]}`` and ``{"stop": "NAME"}``; `target` as for `load`, `env` on top of
    the environment of the process. What happens is written as JSON lines to the file descriptor `events`:
    ``{"event": "started"|"failed"|"stopped", "name", "message"?}``. The end of standard input, or SIGTERM, drains all
    and ends with 0; SIGINT is for the parent to handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake = _Wake(signal.SIGTERM)
    # The SDK would give this name to every worker.
    os.environ.pop("III_WORKER_NAME", None)
    _prepare("host")
    host = Host(_Events(events))
    commands = _private_input()
    threading.Thread(target=_read, args=(commands, host, wake), name="commands", daemon=True).start()
    wake.wait()
    _drain(host, wake)
    return 0


class _Wake:
    """What the main thread waits for: a signal, or another thread that calls it.

    A pipe, because the interpreter writes to it whichever thread a signal reaches, and whenever. A wait for a lock
    would miss a signal that comes just before it or to another thread.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)

    def now(self) -> None:
        os.write(self._writer, b"\0")

    def wait(self) -> None:
        os.read(self._reader, 1)


class _Events:
    """Writes what happens to workers for the parent to read."""

    def __init__(self, descriptor: int) -> None:
        # Processes that workers start must not keep it open.
        os.set_inheritable(descriptor, False)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()

    def __call__(self, event: str, name: str, error: Exception | None = None) -> None:
        entry = {"event": event, "name": name}
        if error is not None:
            entry["message"] = log.redaction(str(error))
            frames = f"\n{error.frames}" if isinstance(error, LoadError) and error.frames else ""
            _log.error("%s%s", error, frames)
        # Without a parent nobody reads it; the end of standard input says that too.
        with self._lock, contextlib.suppress(OSError):
            self._file.write(json.dumps(entry).encode() + b"\n")


def _prepare(name: str) -> None:
    # The SDK leaves a file with the engine's URL, so with the token, in ~/.iii/run.
    os.umask(0o077)
    log.configure(name)


def _name_of(target: str) -> str:
    given = os.environ.get("III_WORKER_NAME", "").strip()
    return given or (Path(target).absolute().parent.name if target.endswith(".py") else target)


def _private_input() -> BinaryIO:
    """Standard input, which code of workers and the processes that it starts then find empty."""
    commands = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands


def _read(commands: BinaryIO, host: Host, wake: _Wake) -> None:
    while line := commands.readline(MAX_COMMAND_BYTES):
        try:
            _obey(json.loads(line), host)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _log.error("a command that cannot be read: %s: %s", type(error).__name__, error)
    wake.now()


def _obey(command: dict[str, Any], host: Host) -> None:
    for entry in command.get("start", ()):
        environ = {**os.environ, **entry.get("env", {}), "III_URL": entry["url"]}
        host.start(entry["target"], entry["name"], environ)
    if "stop" in command:
        host.stop(command["stop"])


def _drain(host: Host, wake: _Wake) -> None:
    drained = False

    def drain() -> None:
        nonlocal drained
        drained = host.drain()
        wake.now()

    threading.Thread(target=drain, name="drain", daemon=True).start()
    # Woken by the end of the draining, or by a second signal.
    wake.wait()
    if not drained:
        _end(0)


def _end(code: int) -> int:
    """Ends the process at once: threads of handlers that do not end would hold it back."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
