"""Time: the real clock, and one for tests that stands still until it is told to move on."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol


class Handle(Protocol):
    """Something that was put off."""

    def cancel(self) -> None:
        """Do not do it; harmless when it was done."""


class Clock:
    """The time of the machine; what is put off runs on the running event loop."""

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call a function after so many seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)


class ManualClock(Clock):
    """Stands still until :meth:`advance`. ``start`` is in seconds since 1970."""

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._count = itertools.count()
        self._waiting: list[tuple[float, int, _Later]] = []

    def time(self) -> float:
        """Seconds since 1970."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call a function once the clock has been moved on by so many seconds."""
        later = _Later(callback, args)
        heapq.heappush(self._waiting, (self._elapsed + max(0.0, seconds), next(self._count), later))
        return later

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved on by so many seconds."""
        done = asyncio.get_running_loop().create_future()
        handle = self.call_later(seconds, lambda: done.done() or done.set_result(None))
        try:
            await done
        finally:
            handle.cancel()

    async def advance(self, seconds: float) -> None:
        """Move on, running what is due in its order; all that follows from each step has happened on return."""
        end = self._elapsed + seconds
        await _settle()
        while self._waiting and self._waiting[0][0] <= end:
            self._elapsed, _, later = heapq.heappop(self._waiting)
            if not later.cancelled:
                later.callback(*later.args)
                await _settle()
        self._elapsed = end
        await _settle()


class _Later:
    __slots__ = ("args", "callback", "cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def _settle() -> None:
    """Let the loop run until callbacks that only wait for one another are through."""
    for _ in range(50):
        await asyncio.sleep(0)
