"""What the workers' instances have registered on the engine, and who is told when that changes."""

import asyncio
import contextlib
import time

from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.triggers.connections import registered_claims

from agentos.local.engine import LocalEngine
from agentos.local.instance import Instance

DRAIN_SECONDS = 20.0
"""Seconds that calls in progress may take when an instance is replaced or stopped."""


class Connections:
    """The engine's connections, by instance."""

    def __init__(self, engine: LocalEngine) -> None:
        self._bus = engine.engine.bus
        self._changed = asyncio.Event()
        self._since: dict[str, float] = {}
        self._bus.watchers.append(self._note)

    def of(self, instance: Instance) -> list[Connection]:
        """Return an instance's connections: by the URL that it was given, else (it does not use that) by its process."""
        return [
            each
            for each in self._bus.connections.values()
            if each.peer.pod_uid == instance.id or (each.peer is ANONYMOUS and each.about.pid == instance.pid)
        ]

    def functions(self, instance: Instance) -> frozenset[str]:
        """Return the ids of the functions that an instance serves."""
        return frozenset(function_id for each in self.of(instance) for function_id in each.registrations)

    def claims(self, instance: Instance) -> frozenset[str]:
        """Return the routes and trigger types of an instance."""
        return frozenset(text for each in self.of(instance) for text in registered_claims(each, self._bus)[0])

    def waiting(self, instance: Instance) -> frozenset[str]:
        """Return the functions, routes and trigger types that an instance has registered and may not serve (yet)."""
        found: set[str] = set()
        for each in self.of(instance):
            found |= each.waiting.keys() | registered_claims(each, self._bus)[1]
        return frozenset(found)

    def quiet_for(self, instance: Instance) -> float:
        """Return for how many seconds an instance has registered nothing more; 0 when it is not connected."""
        connections = self.of(instance)
        if not connections:
            return 0.0
        return time.monotonic() - max(self._since.get(each.id, 0.0) for each in connections)

    async def change(self, seconds: float | None = None) -> None:
        """Return at the next change, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for loses a cancellation that comes together with the change
                await self._changed.wait()

    async def drain(self, instance: Instance) -> bool:
        """Let an instance finish its calls, and send it no others when somebody else can take them.

        Returns False when calls are still running after DRAIN_SECONDS.
        """
        return await self._bus.drain(self.of(instance), DRAIN_SECONDS)

    def _note(self, connection: Connection) -> None:
        if connection.closed:
            self._since.pop(connection.id, None)
        else:
            self._since[connection.id] = time.monotonic()
        self.wake()

    def wake(self) -> None:
        """Let everybody look again who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()
