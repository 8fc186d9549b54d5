"""What can wait when thousands of workers come or go at one time: registrations and departures, not calls."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

SLICE = 0.01
"""Seconds of one turn of the loop for such work; the rest waits for the next one, and calls go on between."""


class Turns:
    """The queue of one port; first come, first served, so that a worker has left before it is back."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._began: float | None = None
        """When this turn first had such work, by the monotonic clock."""

    def are_full(self) -> bool:
        """True when this turn has had enough of it, or some waits: what comes now has to wait, too."""
        if self._waiting:
            return True
        now = time.monotonic()
        if self._began is None:
            self._began = now
            asyncio.get_running_loop().call_soon(self._next_turn)
            return False
        return now - self._began > SLICE

    def put(self, work: Callable[[], object]) -> None:
        """Do something when it is its turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self._waiting.append(work)

    def _next_turn(self) -> None:
        self._began = None

    def _run(self) -> None:
        began = time.monotonic()
        while self._waiting:
            work = self._waiting[0]  # until it is done, what comes with it waits behind it
            try:
                work()
            except Exception:
                log.exception("work that was put off failed")
            self._waiting.popleft()
            if time.monotonic() - began > SLICE:
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)

    def finish(self) -> None:
        """Do all of it now."""
        while self._waiting:
            self._run()
