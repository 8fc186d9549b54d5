"""What ``agentos up`` writes to the terminal: a line for each thing that happens, and what the workers print."""

import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from agentos_contracts.redaction import redacted

_COLOURS = (36, 35, 34, 32, 33, 96, 95, 94)
_DIM, _RED, _YELLOW, _RESET = "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")
"""What a program sends to a terminal for colours and the like; a worker's must not reach it."""
MAX_WAITING = 10_000
"""Lines that wait for a terminal that takes none."""
FLUSH_SECONDS = 2.0
"""Seconds that the end waits for such a terminal."""
_LEVELS = ("trace", "debug", "info", "warn", "error")

Keep = Callable[[str, str, str], object]
"""Told worker, level and text of each line that a worker printed."""


_OF_THE_KIT = ("iii.", "agentos_workers.kit.", "agentos_workers.host")
"""Loggers that tell of connections and the like, in the words of the SDK and of our kit."""


class Printer:
    """Makes lines for people, with colours or plain; ``write`` gets each.

    ``verbose``: also what the kit tells of its work; ``keep`` gets all that workers print.
    """

    def __init__(
        self, write: Callable[[str], object], *, colours: bool, verbose: bool = False, keep: Keep | None = None
    ) -> None:
        self._write = write
        self._colours = colours
        self._verbose = verbose
        self._width = 12
        self._numbers: dict[str, int] = {}
        self.keep = keep

    def say(self, text: str, level: str = "info") -> None:
        """Print a text of ours."""
        for line in redacted(text).splitlines():
            self._write(self._coloured(level, _plain(line)))

    def report(self, worker: str, text: str) -> None:
        """Print what becomes of a worker."""
        self._line(worker, "info", text, ours=True)

    def output(self, worker: str | None, line: str) -> None:
        """Print a line that a worker printed; without a worker the line is JSON and names it, as our kit writes."""
        entry = _entry(line)
        name = worker or _plain(str(entry.get("worker") or "workers"))
        level = level_of(entry.get("level"))
        text = str(entry.get("message", "")) if entry else line
        if entry.get("error"):
            text = f"{text}\n{entry['error']}"
        # JSON may hold what is no text.
        text = redacted(text.encode(errors="replace").decode())
        if self._verbose or level in ("warn", "error") or not str(entry.get("logger", "")).startswith(_OF_THE_KIT):
            for each in text.splitlines() or [""]:
                self._line(name, level, each)
        if self.keep is not None:
            self.keep(name, level, text)

    def _line(self, worker: str, level: str, text: str, *, ours: bool = False) -> None:
        self._width = max(self._width, min(len(worker), 30))
        text = _plain(redacted(text) if ours else text)
        if not self._colours:
            mark = "*" if ours else "|"
            self._write(f"{worker:{self._width}} {mark} {text}")
            return
        number = self._numbers.setdefault(worker, len(self._numbers))
        colour = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m"
        mark = "●" if ours else "│"
        self._write(f"{colour}{worker:{self._width}} {mark}{_RESET} {self._coloured(level, text)}")

    def _coloured(self, level: str, text: str) -> str:
        colour = {"error": _RED, "warn": _YELLOW, "debug": _DIM, "trace": _DIM}.get(level)
        return f"{colour}{text}{_RESET}" if self._colours and colour else text


def level_of(name: object) -> str:
    """Return the level that a log line's name for it stands for; ``info`` for none."""
    text = str(name or "info").lower()
    text = {"warning": "warn", "critical": "error", "fatal": "error"}.get(text, text)
    return text if text in _LEVELS else "info"


def _entry(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and "message" in value else {}


def _plain(text: str) -> str:
    """A text without what would do more to a terminal than be shown."""
    if text.isprintable():
        return text
    text = _SEQUENCE.sub("", text)
    return "".join(each if each.isprintable() or each == "\t" else "\N{REPLACEMENT CHARACTER}" for each in text)


class Writer:
    """Writes lines to stdout in a thread: a terminal that is stopped (Ctrl-S) must not stop the engine."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        threading.Thread(target=self._run, name="printing", daemon=True).start()

    def write(self, line: str) -> None:
        """Write a line as soon as the terminal takes it; with too many waiting it is left out, and that is told."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Return when all is written, or the terminal has not taken it for FLUSH_SECONDS."""
        until = time.monotonic() + FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            dropped, self._dropped = self._dropped, 0
            try:
                # Past Python's buffer: its lock, held by a thread that waits for a terminal, would hold up the end.
                _write(f"({dropped} lines are left out here)\n{line}\n" if dropped else f"{line}\n")
            except OSError:  # nobody reads it any more, such as | head: that is the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
                os.kill(os.getpid(), signal.SIGTERM)
            self._lines.task_done()


def _write(text: str) -> None:
    data = memoryview(text.encode(sys.stdout.encoding or "utf-8", errors="replace"))
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
