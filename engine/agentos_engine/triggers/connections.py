"""Trigger type ``engine::connections``: who is on the bus, told to the operator.

A function bound to it is called, without an answer being wanted, with
``{"snapshot": true, "connections": [entry…]}`` once, then on every change with
``{"snapshot": false, "connections": [entry…]}`` holding the connections that changed. Each entry is complete, so a
receiver that keeps the newest entry per ``worker_id`` is right. Connections that ended come once, ``connected`` false.
"""

from datetime import UTC, datetime

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames
from agentos_engine.triggers.registry import Binding

TYPE = "engine::connections"

COALESCE = 0.01
"""Seconds for which changes are gathered: a worker that starts registers many functions one by one."""


class ConnectionsTrigger:
    """Serves the type."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._told: dict[Binding, bool] = {}
        """Whether a binding has had its snapshot."""
        self._changed: dict[str, Connection] = {}
        self._scheduled = False
        bus.triggers.serve(TYPE, self, "A worker came, went, or changed: for the operator.", shared=False)
        bus.watchers.append(self._on_change)

    def bind(self, binding: Binding) -> None:
        """Start telling a function. Raises BusError FORBIDDEN when identities are known and it is not the operator."""
        peer = binding.connection.peer if binding.connection is not None else ANONYMOUS
        if peer is not ANONYMOUS and peer.role != "operator":
            raise BusError("FORBIDDEN", f"{TYPE} is for the operator; a {peer.role} may not bind to it")
        self._told[binding] = False
        self._schedule()

    def unbind(self, binding: Binding) -> None:
        """Stop telling a function."""
        self._told.pop(binding, None)

    def _on_change(self, connection: Connection) -> None:
        if self._told:
            self._changed[connection.id] = connection
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._bus.clock.call_later(COALESCE, self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        changed, self._changed = self._changed, {}
        for binding, told in list(self._told.items()):
            target = self._target(binding)
            if target is None:
                # Not registered yet, or not any more. When it comes back, that is a change, and it gets a snapshot.
                self._told[binding] = False
                continue
            connections = changed if told else self._bus.connections
            if connections:
                payload = {"snapshot": not told, "connections": [entry(each) for each in connections.values()]}
                target.send(frames.invoke(binding.function_id, frames.text(payload), metadata=binding.metadata))
            self._told[binding] = True

    def _target(self, binding: Binding) -> Connection | None:
        own = binding.connection
        if own is not None and binding.function_id in own.registrations:
            return own
        registration = self._bus.registry.choose(binding.function_id, binding.namespace)
        return registration.connection if registration is not None else None


def entry(connection: Connection) -> dict[str, object]:
    """Return what is told about one connection."""
    peer = connection.peer
    return {
        "worker_id": connection.id,
        "connected": not connection.closed,
        "name": connection.about.name,
        "subject": peer.subject,
        "uid": peer.uid,
        "pod_uid": peer.pod_uid,
        "role": peer.role,
        "functions": sorted(connection.registrations),
        "since": datetime.fromtimestamp(connection.since, UTC).isoformat(timespec="milliseconds"),
    }
