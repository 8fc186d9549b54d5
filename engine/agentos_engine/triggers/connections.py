"""Trigger type ``engine::connections``: who is on the bus, told to the operator.

A function bound to it is called, without an answer being wanted, with
``{"snapshot": true, "connections": [entry…]}`` once, then on every change with
``{"snapshot": false, "connections": [entry…]}`` holding the connections that changed. Each entry is complete, so a
receiver that keeps the newest entry per ``worker_id`` is right. Connections that ended come once, ``connected`` false.
"""

from datetime import UTC, datetime

from agentos_contracts import claimables

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol import frames
from agentos_engine.triggers.registry import Binding

TYPE = "engine::connections"
LONGEST = 256
"""Characters told of a function id: none that long is ever granted by itself, and no worker gets the operator's link cut
by what it registers."""
MOST_WAITING = 1000
"""Told of what a connection registered without a grant, in order, functions and all else apart: a Worker is granted far fewer."""

FULL = 512 << 10
"""Bytes after which a message is full: some 10 ms of work. What is left comes in the next one."""
RATE = 8 << 20
"""Bytes per second that are told at most: what changes again and again, with much to tell, is told less often."""
SLOW = 0.25
"""Seconds until it is looked again whether a receiver has read what it has."""
COALESCE = 0.01
"""Seconds for which changes are gathered: a worker that starts registers many functions one by one."""


class ConnectionsTrigger:
    """Serves the type."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._owed: dict[Binding, dict[str, Connection] | None] = {}
        """The connections that a binding is yet to be told of, by id; None before its snapshot."""
        self._scheduled = False
        bus.triggers.serve(TYPE, self, "A worker came, went, or changed: for the operator.", shared=False)
        bus.watchers.append(self._on_change)

    def bind(self, binding: Binding) -> None:
        """Start telling a function. Raises BusError FORBIDDEN when identities are known and it is not the operator."""
        peer = binding.maker
        if peer is not ANONYMOUS and peer.role != "operator":
            raise BusError("FORBIDDEN", f"{TYPE} is for the operator; a {peer.role} may not bind to it")
        self._owed[binding] = None
        self._schedule()

    def unbind(self, binding: Binding) -> None:
        """Stop telling a function."""
        self._owed.pop(binding, None)

    def _on_change(self, connection: Connection) -> None:
        for owed in self._owed.values():
            if owed is not None:
                owed[connection.id] = connection
        if self._owed:
            self._schedule()

    def _schedule(self, seconds: float = COALESCE) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._bus.clock.machine.call_later(seconds, self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        sent, pause = 0, 0.0
        for binding, owed in list(self._owed.items()):
            target = self._target(binding)
            if target is None:
                # Not registered yet, or not any more. When it comes back, that is a change, and it gets a snapshot.
                self._owed[binding] = None
                continue
            if target.connection.link.is_full():
                pause = SLOW  # changes are gathered until it has read what it has
                continue
            snapshot = owed is None
            if owed is None:
                owed = self._owed[binding] = dict(self._bus.connections)
            sent += self._tell(binding, target, snapshot, owed)
            if owed:
                pause = max(pause, COALESCE)
        pause = max(pause, sent / RATE)
        if pause >= COALESCE:
            self._schedule(pause)

    def _tell(self, binding: Binding, target: Registration, snapshot: bool, owed: dict[str, Connection]) -> int:
        """Send one message with as many of the entries that are owed as fit; returns the bytes."""
        parts: list[bytes] = []
        size = 0
        while owed and size < FULL:
            part = frames.text(entry(owed.pop(next(iter(owed))), self._bus))
            parts.append(part)
            size += len(part)
        if not parts and not snapshot:
            return 0
        payload = b'{"snapshot":%s,"connections":[%s]}' % (b"true" if snapshot else b"false", b",".join(parts))
        frame = frames.invoke(target.local_id, payload, metadata=binding.metadata)
        target.connection.send(frame)
        return len(frame)

    def _target(self, binding: Binding) -> Registration | None:
        own = binding.connection
        if own is not None and binding.function_id in own.registrations:
            return own.registrations[binding.function_id]
        registration = self._bus.registry.choose(binding.function_id, binding.namespace)
        return registration if registration is not None and registration.remote is None else None


def entry(connection: Connection, bus: Bus) -> dict[str, object]:
    """Return what is told about one connection.

    ``functions`` and ``claims`` (routes and trigger types) are what it has, ``waiting`` is what it registered without a grant.
    """
    peer = connection.peer
    claims, waiting = registered_claims(connection, bus)
    # A function that is called like a route is nobody's: its id has a blank.
    functions = [each[:LONGEST] for each in sorted(connection.waiting)[:MOST_WAITING]]
    return {
        "worker_id": connection.id,
        "connected": not connection.closed,
        "name": connection.about.name,
        "subject": peer.subject,
        "uid": peer.uid,
        "pod_uid": peer.pod_uid,
        "role": peer.role,
        "key_id": peer.key_id,
        "functions": [each[:LONGEST] for each in sorted(connection.registrations)],
        "claims": sorted(claims),
        "waiting": [
            *(each for each in functions if not claimables.is_claimable(each)),
            *sorted(waiting)[:MOST_WAITING],
        ],
        "since": datetime.fromtimestamp(connection.since, UTC).isoformat(timespec="milliseconds"),
    }


def registered_claims(connection: Connection, bus: Bus) -> tuple[set[str], set[str]]:
    """Return the routes and trigger types that a connection has, and those that wait, as ``agentos_contracts.claimables`` writes them.

    Those that its worker has bound with ``engine::register_trigger`` are among them.
    """
    registered = {each.claim for each in (*connection.bindings.values(), *connection.waiting_bindings.values())}
    registered |= {each.claim for each in (*connection.trigger_types.values(), *connection.waiting_types.values())}
    if connection.peer.uid:
        registered |= set(bus.triggers.ownerless_routes(connection.peer.uid))
    registered.discard("")
    permissions = connection.permissions
    has = {each for each in registered if permissions is None or permissions.may_serve(each)}
    return has, registered - has
