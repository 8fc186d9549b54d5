"""What a realm's engine should grant, and what it has acknowledged."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentos_contracts.grants import Grant


@dataclass(frozen=True, slots=True)
class Push:
    """One message to the engine. ``complete``: who is not in it loses its grant. ``table``: what holds afterwards."""

    complete: bool
    grants: tuple[Grant, ...]
    removed: tuple[str, ...]
    table: Mapping[str, Grant]

    def to_wire(self) -> dict[str, Any]:
        """The payload of ``engine::grants::apply``."""
        return {
            "complete": self.complete,
            "grants": [grant.to_wire() for grant in self.grants],
            "removed": list(self.removed),
        }


class GrantTable:
    """Two tables by Worker uid, wanted and acknowledged; their difference is what is pushed next.

    Nothing is pushed before somebody has said what is wanted: after a start the operator does not know yet who is there, and
    must not revoke anybody for that.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, Grant] | None = None
        self._acknowledged: Mapping[str, Grant] | None = None
        self._due, self._settled = asyncio.Event(), asyncio.Event()

    @property
    def wanted(self) -> Mapping[str, Grant]:
        """What the engine should grant; empty as long as nobody has said."""
        return self._wanted or {}

    def want(self, grants: Mapping[str, Grant]) -> None:
        """From now on the engine should grant this, and nothing else."""
        self._wanted = dict(grants)
        self._compare()

    def start_anew(self) -> None:
        """The engine's table is not known (a new link): the next push is a complete one."""
        self._acknowledged = None
        self._compare()

    def acknowledge(self, push: Push) -> None:
        """The engine keeps what this push said."""
        self._acknowledged = push.table
        self._compare()

    def is_acknowledged(self, uid: str) -> bool:
        """Whether the engine has a Worker's grant just as it is wanted."""
        grant = self.wanted.get(uid)
        return grant is not None and self._acknowledged is not None and self._acknowledged.get(uid) == grant

    async def next(self) -> Push:
        """The next push, once there is something to push."""
        while (push := self._difference()) is None:
            await self._due.wait()
        return push

    async def settled(self, seconds: float) -> bool:
        """Whether, within so many seconds, the engine has acknowledged all that is wanted."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return False
        return True

    def _difference(self) -> Push | None:
        wanted, known = self._wanted, self._acknowledged
        if wanted is None:
            return None
        if known is None:
            return Push(True, tuple(wanted.values()), (), wanted)
        changed = tuple(grant for uid, grant in wanted.items() if known.get(uid) != grant)
        removed = tuple(uid for uid in known if uid not in wanted)
        return Push(False, changed, removed, wanted) if changed or removed else None

    def _compare(self) -> None:
        due = self._difference() is not None
        for event, on in ((self._due, due), (self._settled, self._wanted is not None and not due)):
            event.set() if on else event.clear()
