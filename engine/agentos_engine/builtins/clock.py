"""``engine::clock::*``: the time of an engine that stands still, for tests of workers.

The clock goes from one due time to the next: a cron tick, a job's delay or retry, the deadline of a call. In between the
workers, which are other processes, get the real time that they need: the clock does not go on while a call is in flight
or a job is being run, so that whoever moves it on by an hour finds everything of that hour done, and in its order.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode
from agentos_engine.bus.invocations import Call
from agentos_engine.clock import SteppedClock, settle

NOW = "engine::clock::now"
ADVANCE = "engine::clock::advance"

MAX_ADVANCE = 10 * 366 * 86_400.0
"""Seconds that the clock can be moved on at once."""
END_OF_TIME = datetime(9000, 1, 1, tzinfo=UTC).timestamp()
STEP_TIMEOUT = 10.0
"""Real seconds that what has begun at one moment may take."""
TIMEOUT = 60.0
"""The same for one move of the clock as a whole."""
PATIENCE = 1.0
"""Real seconds for calls that were in flight before: what takes longer is let be, since it may wait for the clock."""
POLL = 0.001
"""Real seconds between two looks at what is in flight."""


class _Advance(msgspec.Struct):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_ADVANCE)]


def install(bus: Bus, clock: SteppedClock, moving: Callable[[], int]) -> None:
    """Add the functions to a bus that runs by ``clock``. ``moving`` tells how many jobs run or are being put into queues."""
    bus.calls.follows_voids = True
    turn = asyncio.Lock()
    asking: set[Call] = set()

    def now(context: Context, data: bytes) -> dict[str, str]:
        return {"now": _rfc3339(clock.time())}

    async def advance(context: Context, data: bytes) -> dict[str, str]:
        seconds = decode(ADVANCE, data, _Advance).seconds
        mine = {call for call in in_flight(bus) if call.function_id == ADVANCE or _answers(context.connection, call)}
        for call in mine:
            bus.calls.invocations.lift_deadline(call)
        asking.update(mine)
        try:
            async with turn:
                if clock.time() + seconds > END_OF_TIME:
                    raise BusError("INVALID_ARGUMENTS", f"seconds: the clock ends with {_rfc3339(END_OF_TIME)}")
                await _Move(bus, clock, moving, asking, seconds).run()
        finally:
            asking.difference_update(mine)
        return now(context, b"")

    bus.functions.add(NOW, now, "Tells what time it is for this engine, whose clock stands still.")
    bus.functions.add(
        ADVANCE, advance, "Moves the engine's clock on by so many seconds; returns when all that came due is done."
    )


def in_flight(bus: Bus) -> list[Call]:
    """Return all calls that are not answered."""
    return bus.calls.invocations.calls(bus.connections.values())


def _answers(connection: Connection | None, call: Call) -> bool:
    return connection is not None and call.target is connection


class _Move:
    """One move of the clock. ``asking``: the calls that wait for this move or another one, and so are not waited for."""

    def __init__(
        self, bus: Bus, clock: SteppedClock, moving: Callable[[], int], asking: set[Call], seconds: float
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._moving = moving
        self._end = clock.monotonic() + seconds
        self._asking = asking
        self._before = set(in_flight(bus))
        self._left: set[Call] = set()
        """Other calls that are not waited for."""

    async def run(self) -> None:
        """Go on to the end. Raises BusError ``clock_stuck``; the clock then stands where it came to."""
        clock, calls = self._clock, self._bus.calls
        began = clock.machine.monotonic()
        await self._quiet(began)
        while clock.monotonic() < self._end:
            known = [each for each in (clock.next_due(), calls.invocations.next_deadline()) if each is not None]
            clock.step(min([*known, self._end]))
            errors = calls.errors.total
            calls.expire()
            if calls.errors.total > errors:
                self._left.clear()  # what waited for one of these goes on now
            await self._quiet(began)

    async def _quiet(self, began: float) -> None:
        """Return when all that has come due is done, but for what is let be. ``began``: the move, in real time."""
        clock, calls = self._clock.machine, self._bus.calls
        since = clock.monotonic()
        while True:
            if clock.monotonic() - began > TIMEOUT:
                raise self._stuck(set(), 0.0)
            running = self._running()
            if not running:
                # What follows from an answer that has just come is not seen as a call yet.
                accepted = calls.accepted
                await settle()
                if calls.accepted == accepted and not self._running():
                    return
                continue
            waited = clock.monotonic() - since
            functions = {call for call in running if call is not None}
            if functions and waited > PATIENCE and functions <= self._before:
                self._left |= functions
            elif functions and waited > STEP_TIMEOUT and self._has_deadline():
                self._left |= functions  # what hangs has a deadline, or waits for something that has one
            elif waited > STEP_TIMEOUT:
                raise self._stuck(functions, waited)
            else:
                await asyncio.sleep(POLL)

    def _has_deadline(self) -> bool:
        deadline = self._bus.calls.invocations.next_deadline()
        return deadline is not None and deadline <= self._end

    def _running(self) -> list[Call | None]:
        """What has to be done before the clock may go on: calls, and None for a job that is between two calls."""
        calls = in_flight(self._bus)
        let_be = [call for call in calls if call in self._left or call in self._asking]
        if len(let_be) == len(calls) and self._moving() > len(let_be):
            return [None]  # a job of a call that is let be runs as long as that call
        return [call for call in calls if call not in let_be]

    def _stuck(self, calls: set[Call], seconds: float) -> BusError:
        short = f"the clock stands at {_rfc3339(self._clock.time())}, {self._end - self._clock.monotonic():g} s short"
        if calls:
            names = sorted({call.function_id for call in calls})
            listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            return BusError("clock_stuck", f"{listed}: still running after {seconds:.0f} s; {short}")
        return BusError("clock_stuck", f"too much came due to be done in {TIMEOUT:g} s; {short}: move it on in parts")


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
