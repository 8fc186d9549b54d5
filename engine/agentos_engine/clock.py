"""Time: the real clock, and those for tests, which stand still until they are told to move on.

Two kinds of time are told apart. What people ask for by the clock (cron, delays, retries, deadlines, the age of what is
stored) goes by the engine's clock. What keeps the engine and its sockets alive (pings, time-outs of HTTP connections,
processes, gathering what comes together) goes by that clock's ``machine``, and so never stands still in a running engine.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol


class Handle(Protocol):
    """Something that was put off."""

    def cancel(self) -> None:
        """Do not do it; harmless when it was done."""


class Clock:
    """The time of the machine; what is put off runs on the running event loop."""

    may_be_set = True
    """Whether it can jump (it is set, or the machine was suspended), so that a long wait has to be checked now and then."""

    @property
    def machine(self) -> "Clock":
        """The clock of what must go on whatever this one does."""
        return self

    def time(self) -> float:
        """Seconds since 1970."""
        return time.time()

    # Not a method around it: that would take three times as long, twice in every call.
    monotonic = staticmethod(monotonic)
    """Seconds of a clock that never goes back."""

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call a function after so many seconds."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)

    def call_idly(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call a function after so many seconds or somewhat later: to tidy up."""
        return self.call_later(seconds, callback, *args)

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
        await settle()
        while self._waiting and self._waiting[0][0] <= end:
            self._elapsed, _, later = heapq.heappop(self._waiting)
            if not later.cancelled:
                later.callback(*later.args)
                await settle()
        self._elapsed = end
        await settle()


class SteppedClock(ManualClock):
    """For an engine that workers are tested against: it is moved on from one due time to the next.

    ``start`` is in seconds since 1970; where left out, the present second. The machine's clock goes on as ever.
    """

    may_be_set = False

    def __init__(self, start: float | None = None) -> None:
        super().__init__(float(int(time.time())) if start is None else start)
        self._machine = Clock()
        self._idle: list[tuple[float, _Later]] = []

    @property
    def machine(self) -> Clock:
        """The clock of what must go on while this one stands still."""
        return self._machine

    def call_idly(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Call a function after so many seconds, when the clock is next moved on: it does not stop for this."""
        later = _Later(callback, args)
        self._idle = [each for each in self._idle if not each[1].cancelled]
        self._idle.append((self._elapsed + seconds, later))
        return later

    def next_due(self) -> float | None:
        """When something is due that was put off, in seconds of :meth:`monotonic`; None when nothing is."""
        while self._waiting and self._waiting[0][2].cancelled:
            heapq.heappop(self._waiting)
        return self._waiting[0][0] if self._waiting else None

    def step(self, until: float) -> None:
        """Move on to a time of :meth:`monotonic` and begin what is due by then; nothing of it has happened on return."""
        self._elapsed = max(self._elapsed, until)
        due_idly = [later for due, later in self._idle if due <= self._elapsed and not later.cancelled]
        self._idle = [each for each in self._idle if each[1] not in due_idly]
        for later in due_idly:
            later.callback(*later.args)
        while (due := self.next_due()) is not None and due <= self._elapsed:
            later = heapq.heappop(self._waiting)[2]
            later.callback(*later.args)


class _Later:
    __slots__ = ("args", "callback", "cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def settle() -> None:
    """Let the loop run until callbacks that only wait for one another are through."""
    for _ in range(50):
        await asyncio.sleep(0)
