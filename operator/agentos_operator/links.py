"""The links to the engines of all realms."""

import time
from calendar import timegm
from collections.abc import Callable
from datetime import datetime

from agentos_contracts.tokens import Identity, Role, SigningKey, issue

from .bus import Link
from .grants import GrantTable
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

    def __init__(
        self, key: SigningKey, identity: str, changed: Changed, may_push: Callable[[], bool] = lambda: True
    ) -> None:
        self._key, self._identity, self._changed, self._may_push = key, identity, changed, may_push
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

    async def keep(self, realm: Object) -> None:
        """Starts the realm's link, unless it runs already."""
        name, namespace = realm["metadata"]["name"], realm["spec"]["namespace"]
        token = issue(self._key, Identity(name, "agentos-operator", self._identity, Role.OPERATOR), issued_at(realm))
        url = f"ws://{engine_host(namespace)}:{BUS_PORT}/w/{token}/{self._identity}"
        known = self._links.get(name)
        if known is not None and known.url == url:
            return
        await self._end(name)
        link = self._links[name] = Link(
            url, lambda uids: self._changed(name, namespace, uids), self.grants(name), self._may_push
        )
        link.start()

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
