"""Workers that have no pods on purpose: what they registered stays, durably, until they are back.

A sleeping worker keeps its place by a connection without a socket. Its functions are listed and its triggers stay
bound; a call fails with ``worker_asleep``, and a job of a queue waits, as it does for a worker that does not answer.
"""

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from agentos_engine.bus.connection import Connection, Description, Link, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.permissions.rules import Permissions
from agentos_engine.protocol.messages import kept
from agentos_engine.storage.records import RecordStore
from agentos_engine.triggers.registry import Binding

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

WAKING = 5.0
"""Seconds after a worker is back for which its place is kept: it registers its functions one by one."""
UNBOUND = frozenset({"durable:subscriber"})
"""Trigger types whose work waits by itself while nobody is bound."""
NOTHING = msgspec.Raw(b"null")


class _Function(msgspec.Struct):
    id: str
    local_id: str
    description: msgspec.Raw = NOTHING
    request_format: msgspec.Raw = NOTHING
    response_format: msgspec.Raw = NOTHING
    metadata: msgspec.Raw = NOTHING
    internal: bool = False
    version: str = ""


class _Trigger(msgspec.Struct):
    id: str
    trigger_type: str
    function_id: str
    config: msgspec.Raw = NOTHING
    metadata: msgspec.Raw = NOTHING
    namespace: str | None = None
    trigger_namespace: str | None = None


class _Record(msgspec.Struct):
    subject: str
    name: str
    namespace: str
    functions: list[_Function]
    triggers: list[_Trigger]


class Sleepers:
    """Those of one engine, by the uid of their Worker."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._store: RecordStore | None = None
        self._asleep: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._asleep)

    async def load(self, store: RecordStore) -> None:
        """Take what was kept, of workers that have a grant; what cannot be read is dropped, and the log says so."""
        self._store = store
        void = []
        for uid, text in (await store.load()).items():
            permissions = self._bus.grants.find(uid)
            try:
                record = msgspec.json.decode(text, type=_Record)
            except (msgspec.DecodeError, RecursionError) as error:
                log.error("what the sleeping worker %s had registered cannot be read: %s", uid[:100], error)
                void.append(uid)
                continue
            if permissions is None:
                void.append(uid)
            else:
                self._lay_down(permissions, record)
        if void:
            await store.change({}, void)

    def remember(self, connection: Connection) -> None:
        """Keep what a worker that is to sleep has registered, in case that the engine ends before it does."""
        if connection.permissions is not None and connection.registrations:
            self._keep(connection.peer.uid, _record_of(connection))

    def gone(self, connection: Connection) -> None:
        """A worker's last connection ends, its registrations still in place: if it is to sleep, keep its place."""
        permissions = connection.permissions
        if permissions is None or not permissions.grant.sleeping or not connection.registrations:
            return
        if any(not each.closed for each in permissions.connections):
            return
        record = _record_of(connection)
        self._keep(connection.peer.uid, record)
        self._lay_down(permissions, record)

    def back(self, connection: Connection) -> None:
        """A worker is back: it gets its place as soon as it has had the time to register what it has."""
        uid = connection.peer.uid
        if uid in self._asleep:
            self._bus.clock.machine.call_later(WAKING, self._wake, uid, connection)

    def changed(self, permissions: Permissions) -> None:
        """A grant has changed: what it no longer covers goes."""
        place = self._asleep.get(permissions.grant.uid)
        if place is None:
            return
        record = _record_of(place)
        self._clear(place)
        if not permissions.grant.leaving:
            self._lay_down(permissions, record)

    def drop(self, uid: str) -> None:
        """A worker will not come back."""
        place = self._asleep.pop(uid, None)
        if place is not None:
            self._clear(place)
            if self._store is not None:
                self._bus.spawn(self._write(self._store.change({}, [uid])))

    def _wake(self, uid: str, connection: Connection) -> None:
        if not connection.closed:
            self.drop(uid)
            self._bus.registrations.look_again()  # somebody may wait for what it has not registered any more

    def _keep(self, uid: str, record: _Record) -> None:
        if self._store is not None:
            self._bus.spawn(self._write(self._store.change({uid: msgspec.json.encode(record)}, ())))

    async def _write(self, change: Coroutine[Any, Any, None]) -> None:
        try:
            await change
        except BusError as error:
            log.error("what sleeping workers have registered cannot be kept: %s", error.message)

    def _lay_down(self, permissions: Permissions, record: _Record) -> None:
        grant = permissions.grant
        peer = Peer(subject=record.subject, uid=grant.uid, role="worker")
        place = Connection(
            id=f"asleep:{grant.uid}",
            link=Link(),
            send=_nowhere,
            peer=peer,
            namespace=record.namespace,
            permissions=permissions,
            about=Description(name=record.name),
            silent=True,
            asleep=True,
        )
        former = self._asleep.pop(grant.uid, None)
        if former is not None:
            self._clear(former)
        self._asleep[grant.uid] = place
        for each in record.functions:
            if permissions.owns(each.id):
                self._bus.registry.add(
                    Registration(
                        function_id=each.id,
                        connection=place,
                        local_id=each.local_id,
                        description=kept(each.description),
                        request_format=kept(each.request_format),
                        response_format=kept(each.response_format),
                        metadata=kept(each.metadata),
                        internal=each.internal,
                        version=each.version,
                        size=len(msgspec.json.encode(each)),
                    )
                )
        for each in record.triggers:
            binding = Binding(
                each.id,
                each.trigger_type,
                each.function_id,
                place,
                kept(each.config),
                kept(each.metadata),
                namespace=each.namespace or record.namespace,
                trigger_namespace=each.trigger_namespace,
                own_namespace=each.namespace is None,
                size=len(msgspec.json.encode(each)),
            )
            try:
                self._bus.registrations.check_binding(permissions, binding)
                self._bus.triggers.bind(binding)
            except BusError as error:
                log.warning("a trigger of a sleeping worker is not bound: %s", error.message)

    def _clear(self, place: Connection) -> None:
        place.closed = True
        for function_id in list(place.registrations):
            self._bus.registry.remove(place, function_id)
        self._bus.triggers.drop(place)


def _nowhere(frame: bytes) -> None:
    """What is sent to a sleeping worker."""


def _raw(value: bytes | None) -> msgspec.Raw:
    return NOTHING if value is None else msgspec.Raw(value)


def _record_of(connection: Connection) -> _Record:
    return _Record(
        subject=connection.peer.subject,
        name=connection.about.name,
        namespace=connection.namespace,
        functions=[
            _Function(
                each.function_id,
                each.local_id,
                _raw(each.description),
                _raw(each.request_format),
                _raw(each.response_format),
                _raw(each.metadata),
                each.internal,
                each.version,
            )
            for each in connection.registrations.values()
            if each.remote is None
        ],
        triggers=[
            _Trigger(
                each.id,
                each.trigger_type,
                each.function_id,
                _raw(each.config),
                _raw(each.metadata),
                None if each.own_namespace else each.namespace,
                each.trigger_namespace,
            )
            for each in connection.bindings.values()
            if each.trigger_type not in UNBOUND
        ],
    )
