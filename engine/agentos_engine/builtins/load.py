"""``engine::operator::load``: how many calls workers have in flight, for the operator to scale by."""

from collections import deque

import msgspec
from agentos_contracts.tokens import Role

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode

FUNCTION_ID = "engine::operator::load"
WINDOW = 6.0
"""Seconds over which the mean is taken."""
STEP = 0.25
"""Seconds from one look to the next."""
WATCHED = 10.0
"""Seconds after the last question for which a worker is looked at: nothing is counted for nobody."""
MAX_UIDS = 10_000


class _Load(msgspec.Struct):
    uids: list[str]


class _Watched:
    __slots__ = ("samples", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.samples: deque[int] = deque(maxlen=round(WINDOW / STEP))


class Load:
    """Looks at workers by their uid as long as somebody asks for them: calls themselves are not made slower by it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._watched: dict[str, _Watched] = {}

    def ask(self, uids: list[str]) -> dict[str, dict[str, float]]:
        """Return for each worker the calls in flight now, and their mean since it was first asked for, or in the window."""
        now, idle = self._bus.clock.machine.monotonic(), not self._watched
        told: dict[str, dict[str, float]] = {}
        for uid in uids:
            watched = self._watched.setdefault(uid, _Watched())
            watched.until = now + WATCHED
            present = self._in_flight(uid)
            samples = watched.samples or (present,)
            told[uid] = {"in_flight": present, "mean": sum(samples) / len(samples)}
        if idle and self._watched:
            self._look()
        return told

    def _look(self) -> None:
        now = self._bus.clock.machine.monotonic()
        self._watched = {uid: watched for uid, watched in self._watched.items() if watched.until > now}
        for uid, watched in self._watched.items():
            watched.samples.append(self._in_flight(uid))
        if self._watched:
            self._bus.clock.machine.call_later(STEP, self._look)

    def _in_flight(self, uid: str) -> int:
        permissions = self._bus.grants.find(uid)
        return sum(len(each.calls) for each in permissions.connections) if permissions is not None else 0


def install(bus: Bus) -> None:
    """Add the function to a bus."""
    load = Load(bus)

    def answer(context: Context, data: bytes) -> object:
        caller = context.connection
        if caller is None or caller.peer.role != Role.OPERATOR:
            raise BusError("FORBIDDEN", f"{FUNCTION_ID} is for the operator, on a connection of its own")
        wanted = decode(FUNCTION_ID, data, _Load)
        if len(wanted.uids) > MAX_UIDS:
            raise BusError("INVALID_ARGUMENTS", f"uids: at most {MAX_UIDS} at a time")
        return {"workers": load.ask(wanted.uids)}

    bus.functions.add(FUNCTION_ID, answer, "Returns how many calls workers have in flight; for the operator")
