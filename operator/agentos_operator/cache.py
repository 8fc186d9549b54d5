"""What the watches have seen: the newest known state of each object, with the look-ups that reconciling needs.

Fed by kopf's watch streams (watch.py) and by the operator's own writes. With ``namespaces`` it holds nothing of others, Realms for
others included. ``verify`` compares it with a list from the API, for
streams can lose deletions when they start anew; until the first verification succeeds nothing may be decided from it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from agentos_contracts.worker import ENGINE_NAME

from .api import Api, ApiError, until_reachable
from .kinds import (
    CLAIM,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    KINDS,
    POD,
    REALM,
    STATEFULSET,
    WORKER,
    Key,
    Kind,
    Object,
    key_of,
    owned_by,
)
from .settings import FIELD_MANAGER, MANAGED_BY_LABEL, WORKER_UID_LABEL

log = logging.getLogger(__name__)

LONG_WAIT = 6.0
"""Seconds; an object that the watches have not brought by then is read by itself."""
OWN_KINDS = (WORKER, REALM, CLAIM)
CHILD_KINDS = (DEPLOYMENT, STATEFULSET, DISRUPTION_BUDGET, POD)
CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"


def selector(kind: Kind) -> dict[str, str]:
    """Query by which the API server leaves out what is not the operator's."""
    return {"labelSelector": CHILD_SELECTOR} if kind in CHILD_KINDS else {}


class Cache:
    """Objects by key, and by kind and namespace; Workers also by uid, and pods by their Worker's."""

    def __init__(self, namespaces: Sequence[str] = ()) -> None:
        self._namespaces = namespaces
        self._objects: dict[Key, Object] = {}
        self._by_namespace: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)
        self._pods_of: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)
        self._workers: dict[str, Key] = {}
        self.verified = asyncio.Event()

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def wants(self, obj: Object) -> bool:
        """Whether an object may be in here: not a Realm of another operator, whose namespace is not among the watched."""
        return not self._namespaces or obj["kind"] != REALM.kind or obj["spec"]["namespace"] in self._namespaces

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._objects.get(Key(kind.kind, namespace, name))

    def all(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        """All objects of a kind, in one namespace or everywhere."""
        if namespace is not None:
            return [self._objects[key] for key in sorted(self._by_namespace.get((kind.kind, namespace), ()))]
        return [obj for key, obj in self._objects.items() if key.kind == kind.kind]

    def pods_of(self, namespace: str, uid: str) -> list[Object]:
        """Pods of a namespace that carry a Worker's uid, by name."""
        return [self._objects[key] for key in sorted(self._pods_of.get((namespace, uid), ()))]

    def workers_pods(self, namespace: str) -> dict[str, list[Object]]:
        """The Workers' pods of a namespace, by the uid that they carry."""
        return {uid: self.pods_of(namespace, uid) for there, uid in self._pods_of if there == namespace}

    def worker_with(self, uid: str) -> Key | None:
        """The key of the Worker that has this uid."""
        return self._workers.get(uid)

    def realm_of(self, namespace: str) -> Object | None:
        """The Realm that has this namespace: the one whose engine runs there, else the oldest of those that name it."""
        realms = [realm for realm in self.all(REALM, "") if realm.get("spec", {}).get("namespace") == namespace]
        engine = self.get(STATEFULSET, namespace, ENGINE_NAME) or {"metadata": {}}

        def rank(realm: Object) -> tuple[bool, str, str]:
            metadata = realm["metadata"]
            return not owned_by(engine, metadata["uid"]), metadata["creationTimestamp"], metadata["uid"]

        return min(realms, key=rank, default=None)

    def put(self, obj: Object) -> Object | None:
        """Takes a newer state; returns the state before (None: new). An older state than the known one is dropped."""
        key = key_of(obj)
        before = self._objects.get(key)
        if before is not None and _version(obj) < _version(before):
            return before
        self.drop(key)
        self._objects[key] = obj
        self._by_namespace[key.kind, key.namespace].add(key)
        if key.kind == WORKER.kind:
            self._workers[obj["metadata"]["uid"]] = key
        if uid := _worker_uid(obj):
            self._pods_of[key.namespace, uid].add(key)
        return before

    def drop(self, key: Key, uid: str | None = None) -> None:
        """Forgets an object; with a uid, only if it is still that one."""
        obj = self._objects.get(key)
        if obj is None or (uid is not None and obj["metadata"]["uid"] != uid):
            return
        del self._objects[key]
        self._workers.pop(obj["metadata"]["uid"], None)
        self._by_namespace[key.kind, key.namespace].discard(key)
        if uid_of := _worker_uid(obj):
            pods = self._pods_of[key.namespace, uid_of]
            pods.discard(key)
            if not pods:
                del self._pods_of[key.namespace, uid_of]

    async def verify(self, api: Api, kinds: Iterable[Kind] = (*OWN_KINDS, *CHILD_KINDS)) -> list[Key]:
        """Lists each kind; forgets what is gone; returns what the API has and the watches have not shown yet."""
        missing: list[Key] = []
        for kind in kinds:
            # Only what was known before the list can be judged by it: newer objects may have come since.
            known = {key: obj["metadata"]["uid"] for key, obj in self._objects.items() if key.kind == kind.kind}
            listed, unreadable = await self._list(api, kind)
            for key, uid in known.items():
                if key.namespace not in unreadable and listed.get(key) != uid:
                    self.drop(key, uid)
            missing += [key for key, uid in listed.items() if key not in self._objects]
        return missing

    async def _list(self, api: Api, kind: Kind) -> tuple[dict[Key, str], set[str]]:
        """The uids of what the API has, and the namespaces that could not be read: one must not hold up the others."""
        listed: dict[Key, str] = {}
        unreadable: set[str] = set()
        for namespace in self._namespaces if kind.namespaced and self._namespaces else (None,):
            try:
                async for item in api.list(kind, namespace, **selector(kind)):
                    if self.wants(item):
                        listed[key_of(item)] = item["metadata"]["uid"]
            except ApiError as error:
                if error.status != 403 or namespace is None:
                    raise
                log.warning("no rights in a namespace", extra={"namespace": namespace, "error": error.message})
                unreadable.add(namespace)
        return listed, unreadable

    async def wait_verified(self, api: Api) -> None:
        """Returns once everything that the API lists has come by the watches."""
        delay, unreadable = 0.1, set[Key]()
        while missing := set(await until_reachable(lambda: self.verify(api))) - unreadable:
            log.info("waiting for the watches", extra={"missing": len(missing), "first": str(min(missing))})
            await asyncio.sleep(delay)
            delay *= 2
            if delay > LONG_WAIT:
                for key in missing - set(self._objects):
                    if not await self._read(api, key):
                        unreadable.add(key)
        self.verified.set()

    async def _read(self, api: Api, key: Key) -> bool:
        """Reads an object that the watch does not bring. One that nobody can read must not hold up all others."""
        try:
            self.put(
                {"kind": key.kind} | await until_reachable(lambda: api.get(KINDS[key.kind], key.namespace, key.name))
            )
        except RecursionError:
            log.error("an object cannot be read and is left out: it is nested too deep", extra={"object": str(key)})
            return False
        return True


def _version(obj: Object) -> int:
    # Kubernetes 1.35 states that resource versions of one resource compare as integers (KEP-5504).
    return int(obj["metadata"].get("resourceVersion") or 0)


def _worker_uid(obj: Object) -> str | None:
    if obj["kind"] != POD.kind:
        return None
    return obj["metadata"].get("labels", {}).get(WORKER_UID_LABEL)
