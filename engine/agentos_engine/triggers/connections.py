"""Trigger type ``engine::connections``: who is on the bus, told to the operator.

A function bound to it is called, without an answer being wanted, with
``{"snapshot": true, "connections": [entry…]}`` once, then on every change with
``{"snapshot": false, "connections": [entry…]}`` holding the connections that changed. Each entry is complete, so a
receiver that keeps the newest entry per ``worker_id`` is right. Connections that ended come once, ``connected`` false.
"""

from datetime import UTC, datetime

from agentos_engine import limits
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol import frames
from agentos_engine.triggers.registry import Binding

TYPE = "engine::connections"

MAX_AT_ONCE = 1 << 20
"""Bytes of one message; and of one turn, after which the next one waits for SLOW seconds."""
SLOW = 0.25
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
        peer = binding.maker
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

    def _schedule(self, seconds: float = COALESCE) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._bus.clock.machine.call_later(seconds, self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        targets = {binding: self._target(binding) for binding in self._told}
        for target in targets.values():
            if target is not None and target.connection.link.unsent() > limits.MAX_UNSENT:
                self._schedule(SLOW)  # changes are gathered until it has read what it has
                return
        changed, self._changed = self._changed, {}
        sent = 0
        for binding, target in targets.items():
            if target is None:
                # Not registered yet, or not any more. When it comes back, that is a change, and it gets a snapshot.
                self._told[binding] = False
                continue
            snapshot = not self._told[binding]
            connections = self._bus.connections if snapshot else changed
            sent += self._tell(binding, target, snapshot, list(connections.values()))
            self._told[binding] = True
        if sent > MAX_AT_ONCE:
            self._schedule(SLOW)  # what changes again and again, with much to tell, is told less often

    def _tell(self, binding: Binding, target: Registration, snapshot: bool, connections: list[Connection]) -> int:
        """Send entries, in several messages when they are large; returns the bytes."""
        parts: list[list[bytes]] = [[]]
        size = sent = 0
        for connection in connections:
            part = frames.text(entry(connection))
            if size + len(part) > MAX_AT_ONCE and parts[-1]:
                parts.append([])
                size = 0
            parts[-1].append(part)
            size += len(part)
        for part in parts:
            if part or snapshot:
                flag = b"true" if snapshot else b"false"
                payload = b'{"snapshot":%s,"connections":[%s]}' % (flag, b",".join(part))
                frame = frames.invoke(target.local_id, payload, metadata=binding.metadata)
                target.connection.send(frame)
                sent += len(frame)
            snapshot = False
        return sent

    def _target(self, binding: Binding) -> Registration | None:
        own = binding.connection
        if own is not None and binding.function_id in own.registrations:
            return own.registrations[binding.function_id]
        registration = self._bus.registry.choose(binding.function_id, binding.namespace)
        return registration if registration is not None and registration.remote is None else None


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
