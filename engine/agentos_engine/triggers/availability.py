"""Trigger types ``engine::functions-available`` and ``engine::workers-available``: what came and went.

``engine::functions-available`` gets ``{"event": "functions_changed", "functions": [entry…]}``, once for changes close
together; ``engine::workers-available`` gets ``{"event": "worker_connected" | "worker_disconnected" |
"worker_metadata_updated", "worker_id"}`` at once.
"""

from agentos_engine.builtins.listing_entries import Line, function_entry, lines_of
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol import frames
from agentos_engine.slices import AT_ONCE, Work, at_once, in_slices
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Bindings

FUNCTIONS = "engine::functions-available"
WORKERS = "engine::workers-available"

GATHERING = 0.5
"""Seconds for which changes of functions are gathered: a worker that starts registers many one by one."""
RATE = 8 << 20
"""Bytes per second that are told at most."""


class Availability:
    """Serves both types."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._functions = Bindings()
        self._workers = Bindings()
        self._known: set[tuple[str, str]] = set()
        self._looked_at = -1
        """The registry's revision at the last look."""
        self._names: dict[str, tuple[object, ...]] = {}
        """What each connection has told about itself, as last told to others."""
        self._scheduled = False
        bus.triggers.serve(FUNCTIONS, self._functions, "A function came or went.")
        bus.triggers.serve(WORKERS, self._workers, "A worker came, went, or changed what it tells about itself.")
        bus.watchers.append(self._on_change)

    def _on_change(self, connection: Connection) -> None:
        about = connection.about
        facts = (about.name, about.runtime, about.version, about.description, connection.namespace)
        former = self._names.get(connection.id)
        if connection.closed:
            self._names.pop(connection.id, None)
            self._tell("worker_disconnected", connection)
        else:
            self._names[connection.id] = facts
            if former is None:
                self._tell("worker_connected", connection)
            elif former != facts:
                self._tell("worker_metadata_updated", connection)
        if self._functions:
            self._schedule()

    def _tell(self, event: str, connection: Connection) -> None:
        if self._workers:
            payload = frames.text({"event": event, "worker_id": connection.id})
            for binding in self._workers:
                self._firing.start(binding, payload)

    def _look(self) -> None:
        if len(self._bus.registry) <= AT_ONCE:
            self._again(at_once(self._announce()))
        else:
            self._bus.spawn(self._look_long())

    async def _look_long(self) -> None:
        told = 0
        try:
            told = await in_slices(self._announce())
        finally:
            self._again(told)

    def _again(self, told: int) -> None:
        """Look again later, if anything changed meanwhile: the later, the more there was to tell."""
        self._scheduled = False
        if not self._functions:
            self._known = set()
        elif self._looked_at != self._bus.registry.revision:
            self._schedule(told / RATE)

    def _schedule(self, more: float = 0.0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._bus.clock.machine.call_later(GATHERING + more, self._look)

    def _announce(self) -> Work[int]:
        """Tell of all functions, unless they are the same as before; returns how many bytes that took."""
        self._looked_at = self._bus.registry.revision
        known: set[tuple[str, str]] = set()

        def line(each: Registration) -> Line | None:
            if each.internal:
                return None
            known.add((each.connection.namespace, each.function_id))
            return "", function_entry(each)

        lines = yield from lines_of(list(self._bus.registry), line)
        if known == self._known:
            return 0
        self._known = known
        payload = b'{"event":"functions_changed","functions":[%b]}' % b",".join([each[1] for each in lines])
        bindings = list(self._functions)
        for binding in bindings:
            self._firing.start(binding, payload)
        return len(payload) * len(bindings)
