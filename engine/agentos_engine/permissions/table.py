"""All grants of one engine: kept durably, looked up by the uid in a worker's token, changed by the operator."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING
from weakref import WeakSet

from agentos_contracts.grants import Grant, GrantError
from agentos_contracts.tokens import Role

from agentos_engine.bus.connection import Connection, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.permissions.rules import Permissions, Socket
from agentos_engine.storage.records import RecordStore

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

GRANT_TIMEOUT = 5.0
"""Seconds that a connection waits for the grant of its worker: the operator may tell of it a moment later."""
MAX_GRANTS = 50_000
"""Workers of one realm."""
MAX_REVOKED = 1000
"""Workers that are remembered to be gone."""


class Grants:
    """The table. Fails closed: who has no grant may do nothing."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._store: RecordStore | None = None
        self._permissions: dict[str, Permissions] = {}
        self._revoked: dict[str, None] = {}
        """Uids of Workers that are gone, in that order; no uid comes twice."""
        self._arrivals: dict[str, _Arrival] = {}
        """By uid: the grants that connections wait for."""
        self._writing = asyncio.Lock()
        bus.watchers.append(self._on_change)

    async def load(self, store: RecordStore) -> None:
        """Take what was kept; a record that cannot be read counts as no grant, and the log says so."""
        self._store = store
        for uid, text in (await store.load()).items():
            try:
                grant = Grant.from_wire(json.loads(text))
            except (GrantError, ValueError, RecursionError) as error:
                log.error("the grant of %s cannot be read and is void: %s", uid[:100], error)
            else:
                self._permissions[grant.uid] = Permissions(grant)

    def __len__(self) -> int:
        return len(self._permissions)

    def all(self) -> list[Grant]:
        """Return all grants, by uid."""
        return [self._permissions[uid].grant for uid in sorted(self._permissions)]

    def find(self, uid: str) -> Permissions | None:
        """Return what the worker with this uid may do; None when it has no grant."""
        return self._permissions.get(uid)

    def admits(self, peer: Peer) -> bool:
        """True when somebody may connect now: every peer that is no worker, and workers with a grant."""
        if peer.role != Role.WORKER:
            return True
        permissions = self._permissions.get(peer.uid)
        if permissions is None or permissions.grant.leaving:
            return False
        return not self._bus.draining.is_shut_out(peer)

    def of(self, peer: Peer) -> Permissions | None:
        """Return what a peer may do; None: everything, for it is no worker with a token."""
        if peer.role != Role.WORKER:
            return None
        return self._permissions.get(peer.uid) or Permissions(_nothing(peer.uid, peer.subject))

    def follow(self, uid: str, socket: Socket) -> None:
        """End a socket with the grant of its worker; peers that are no workers have no grant to lose."""
        permissions = self._permissions.get(uid)
        if permissions is not None:
            if permissions.sockets is None:
                permissions.sockets = WeakSet()
            permissions.sockets.add(socket)

    async def wait_for(self, peer: Peer, seconds: float = GRANT_TIMEOUT) -> bool:
        """Wait until a peer may connect; False when that does not come true in time."""
        if self.admits(peer):
            return True
        if peer.uid in self._permissions or peer.uid in self._revoked:
            return False  # leaving, or the pod is, or gone: a pod that ends is not to wait for nothing
        arrival = self._arrivals.setdefault(peer.uid, _Arrival())
        arrival.waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(arrival.come.wait(), seconds)
        finally:
            arrival.waiting -= 1
            if not arrival.waiting and self._arrivals.get(peer.uid) is arrival:
                del self._arrivals[peer.uid]
        return self.admits(peer)

    async def apply(self, grants: Iterable[Grant], removed: Collection[str] = (), *, complete: bool = False) -> int:
        """Change grants as :meth:`take` does, and return how many there are once that is durable.

        Raises StorageError when it cannot be kept: it holds all the same, until the engine ends.
        """
        given = list(grants)
        self.take(given, removed, complete=complete)
        if self._store is not None:
            texts = {grant.uid: json.dumps(grant.to_wire()).encode() for grant in given}
            async with self._writing:
                await self._store.change(texts, removed, replace_all=complete)
        return len(self._permissions)

    def take(self, grants: Iterable[Grant], removed: Collection[str] = (), *, complete: bool = False) -> None:
        """Change grants on the bus, at once; with ``complete``, workers that are not listed lose theirs.

        Raises BusError when there would be too many.
        """
        given = {grant.uid: grant for grant in grants}
        gone = (self._permissions.keys() if complete else set(removed)) - given.keys()
        if len(self._permissions.keys() - gone | given.keys()) > MAX_GRANTS:
            raise BusError("limit_exceeded", f"an engine keeps at most {MAX_GRANTS} grants")
        for uid in gone:
            permissions = self._permissions.pop(uid, None)
            if permissions is not None:
                self._revoke(permissions)
                self._revoked[uid] = None
        while len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]
        touched: list[Permissions] = []
        for uid, grant in given.items():
            permissions = self._permissions.get(uid)
            self._revoked.pop(uid, None)
            if permissions is None:
                self._permissions[uid] = Permissions(grant)
            elif permissions.grant != grant:
                permissions.replace(grant)
                touched.append(permissions)
                self._bus.sleepers.changed(permissions)
                if grant.sleeping and permissions.connections:
                    self._bus.sleepers.remember(next(iter(permissions.connections)))
            if (arrival := self._arrivals.pop(uid, None)) is not None:
                arrival.come.set()
        # First all that is taken away, so that no function ever has two workers.
        for connection in [each for permissions in touched for each in permissions.connections]:
            self._bus.registrations.withhold(connection)
        if touched:
            self._bus.registrations.withhold_ownerless({each.grant.uid: each for each in touched})
        self._bus.registrations.look_again(set(touched))

    def _revoke(self, permissions: Permissions) -> None:
        grant = permissions.grant
        log.info("grant revoked", extra={"subject": grant.worker, "uid": grant.uid})
        permissions.replace(_nothing(grant.uid, grant.worker))
        self._bus.triggers.drop_of(grant.uid)
        self._bus.sleepers.drop(grant.uid)
        for connection in list(permissions.connections):
            self._bus.disconnect(connection)
            connection.link.end("the grant of this worker is revoked")
        for socket in list(permissions.sockets or ()):
            socket.abort()

    def _on_change(self, connection: Connection) -> None:
        permissions = connection.permissions
        if permissions is None:
            return
        if not connection.closed:
            permissions.connections.add(connection)
        else:
            permissions.connections.discard(connection)
            self._bus.registrations.look_again()  # somebody may wait for what it had


class _Arrival:
    """A grant that connections of its worker wait for."""

    __slots__ = ("come", "waiting")

    def __init__(self) -> None:
        self.come = asyncio.Event()
        self.waiting = 0


def _nothing(uid: str, worker: str) -> Grant:
    return Grant(uid, worker, calls=(), state_scopes=())
