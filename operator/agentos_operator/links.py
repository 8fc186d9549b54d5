"""The links to the engines of all realms."""

import time
from calendar import timegm
from collections.abc import Callable
from datetime import datetime

from agentos_contracts.tokens import Identity, Role, SigningKey

from .bus import Address, Link
from .external_link import ExternalLink, PodsByHost
from .grants import GrantTable
from .key_ring import KeyRing
from .kinds import Object
from .plan.objects.metadata import engine_host
from .settings import BUS_PORT

Changed = Callable[[str, str, frozenset[str] | None], None]
"""Called with realm, namespace, and the uids of the Workers touched (None: the link went up or down)."""


def issued_at(obj: Object) -> int:
    """When a token for this object counts as issued: a constant of the object, so that the same token comes out again."""
    return timegm(datetime.fromisoformat(obj["metadata"]["creationTimestamp"]).utctimetuple())


class Links:
    """One Link per realm, kept as long as the Realm is there, and the table of grants that its engine is told.

    ``may_push`` says whether this process leads, and may tell engines anything.
    """

    def __init__(self, identity: str, changed: Changed, may_push: Callable[[], bool] = lambda: True) -> None:
        self._identity, self._changed, self._may_push = identity, changed, may_push
        self._links: dict[str, Link] = {}
        self._grants: dict[str, GrantTable] = {}

    def get(self, realm: str) -> Link | None:
        return self._links.get(realm)

    def all(self) -> dict[str, Link]:
        return dict(self._links)

    def grants(self, realm: str) -> GrantTable:
        """What the realm's engine should grant."""
        return self._grants.setdefault(realm, GrantTable())

    def down_for(self, realm: str) -> float:
        """Seconds since the link went down; 0 while it is up, or before it was first tried."""
        link = self._links.get(realm)
        return time.monotonic() - link.since if link is not None and not link.up else 0.0

    def up_for(self, realm: str) -> float:
        """Seconds since the link went up; 0 while it is down."""
        link = self._links.get(realm)
        return time.monotonic() - link.since if link is not None and link.up else 0.0

    async def keep_external(self, realm: Object, url: str, pods: Callable[[], PodsByHost]) -> None:
        """Starts the link to an engine that somebody else runs, unless it runs already; ``url`` has the token in it."""
        name, namespace = realm["metadata"]["name"], realm["spec"]["namespace"]
        known = self._links.get(name)
        if known is not None and known.address.urls == (url,):
            return
        await self._end(name)
        link = self._links[name] = ExternalLink(url, lambda uids: self._changed(name, namespace, uids), pods)
        link.start()

    async def keep(self, realm: Object, ring: KeyRing) -> None:
        """Starts the link to a realm's own engine, unless it runs already; tells it which keys are good now."""
        name, namespace = realm["metadata"]["name"], realm["spec"]["namespace"]
        identity = Identity(name, "agentos-operator", self._identity, Role.OPERATOR)
        urls = tuple(
            f"ws://{engine_host(namespace)}:{BUS_PORT}/w/{token}/{self._identity}"
            for token in ring.tokens(identity, issued_at(realm))
        )
        address = Address(urls, ring.verify_keys, tuple(key.key_id for key in ring.keys))
        known = self._links.get(name)
        if known is not None and known.enforces and set(known.address.urls) & set(urls):
            known.use(address)
            return
        await self._end(name)
        link = self._links[name] = Link(
            address, lambda uids: self._changed(name, namespace, uids), self.grants(name), self._may_push
        )
        link.start()

    def accepts(self, realm: str, key: SigningKey) -> bool:
        """Whether the realm's engine is known to accept the tokens of this key."""
        link = self._links.get(realm)
        return link is not None and key.key_id in link.key_ids

    def users(self, realm: str, key: SigningKey, successor: SigningKey) -> list[str]:
        """Who in a realm still needs a key that has a successor: who is connected by it, or an engine that knows no other."""
        link = self._links.get(realm)
        if link is None or not link.enforces:
            return []
        if not link.up or successor.key_id not in link.key_ids:
            return ["the engine"]
        return sorted({each.subject for each in link.connections() if each.key_id == key.key_id})

    async def drop(self, realm: str) -> None:
        """The Realm is gone."""
        await self._end(realm)
        self._grants.pop(realm, None)

    async def _end(self, realm: str) -> None:
        link = self._links.pop(realm, None)
        if link is not None:
            await link.stop()

    async def close(self) -> None:
        for realm in list(self._links):
            await self.drop(realm)
