"""Says what a long task is doing: a line per step, a heartbeat while a step lasts, a table of times at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Step:
    """One step: its title, how deep it is nested, and how long it took (None while it runs)."""

    title: str
    depth: int
    seconds: float | None = None
    failed: bool = False


class Steps:
    """Times steps and prints them to `stream` (standard error unless told). Steps may be nested.

    with steps("bring up the cluster"): ...
    steps.table()
    """

    def __init__(self, stream: TextIO | None = None, heartbeat_seconds: float = 10.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._heartbeat_seconds = heartbeat_seconds
        self._open: list[Step] = []
        self._print_lock = threading.Lock()
        self.steps: list[Step] = []

    @contextmanager
    def __call__(self, title: str) -> Iterator[Step]:
        """Run the block as one step. An exception is passed on after the step is marked as failed."""
        step = Step(title, depth=len(self._open))
        self.steps.append(step)
        self._open.append(step)
        self.say(f"▸ {title}")
        started = time.monotonic()
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(step, started, ended), daemon=True)
        beat.start()
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            ended.set()
            beat.join()
            step.seconds = time.monotonic() - started
            self._open.remove(step)
            self.say(f"{'✗' if step.failed else '✓'} {title} ({step.seconds:.1f} s)", depth=step.depth)

    def say(self, text: str, depth: int | None = None) -> None:
        """Print one line, indented to the step that is open now (or to `depth`)."""
        indent = "  " * (max(0, len(self._open) - 1) if depth is None else depth)
        with self._print_lock:
            print(f"{indent}{text}", file=self._stream, flush=True)

    def table(self) -> None:
        """Print every step with its seconds; the total counts the outermost steps."""
        if not self.steps:
            return
        width = max(len(step.title) + 2 * step.depth for step in self.steps)
        with self._print_lock:
            print(f"\n{'step':<{width}}  seconds", file=self._stream)
            for step in self.steps:
                seconds = "running" if step.seconds is None else f"{step.seconds:.1f}{' failed' if step.failed else ''}"
                print(f"{'  ' * step.depth + step.title:<{width}}  {seconds:>7}", file=self._stream)
            total = sum(step.seconds or 0.0 for step in self.steps if step.depth == 0)
            print(f"{'total':<{width}}  {total:>7.1f}", file=self._stream, flush=True)

    def _beat(self, step: Step, started: float, ended: threading.Event) -> None:
        while not ended.wait(self._heartbeat_seconds):
            if self._open and self._open[-1] is step:
                self.say(f"… {step.title}: {time.monotonic() - started:.0f} s so far")
