"""Trigger types ``engine::functions-available`` and ``engine::workers-available``: what came and went.

``engine::functions-available`` gets ``{"event": "functions_changed", "functions": [entry…]}``, once for changes close
together; ``engine::workers-available`` gets ``{"event": "worker_connected" | "worker_disconnected" |
"worker_metadata_updated", "worker_id"}`` at once.
"""

from agentos_engine.builtins.listing_entries import function_entry
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection
from agentos_engine.protocol import frames
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Bindings

FUNCTIONS = "engine::functions-available"
WORKERS = "engine::workers-available"

GATHERING = 0.5
"""Seconds for which changes of functions are gathered: a worker that starts registers many one by one."""


class Availability:
    """Serves both types."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._functions = Bindings()
        self._workers = Bindings()
        self._known: frozenset[tuple[str, str]] = frozenset()
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
        if not self._scheduled and self._functions:
            self._scheduled = True
            self._bus.clock.machine.call_later(GATHERING, self._look)

    def _tell(self, event: str, connection: Connection) -> None:
        if self._workers:
            payload = frames.text({"event": event, "worker_id": connection.id})
            for binding in self._workers:
                self._firing.start(binding, payload)

    def _look(self) -> None:
        self._scheduled = False
        functions = [each for each in self._bus.registry if not each.internal]
        known = frozenset((each.connection.namespace, each.function_id) for each in functions)
        if known == self._known:
            return
        self._known = known
        entries = [function_entry(each) for each in functions]
        payload = frames.text({"event": "functions_changed", "functions": entries})
        for binding in self._functions:
            self._firing.start(binding, payload)
