"""Makes the cluster agree with a plan: creates what is missing, replaces what differs, and leaves the rest alone."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentos_contracts.quantities import amount

from .api import AlreadyExists, Api, NotFound
from .cache import Cache
from .kinds import KINDS, Key, Object, key_of, owned_by
from .plan.objects.metadata import applied_hash
from .settings import FIELD_MANAGER, MANAGED_BY_LABEL, REALM_LABEL, REPLICAS_FROM_ANNOTATION, WORKER_LABEL

log = logging.getLogger(__name__)

TRUSTED = 30.0
"""Seconds after which an object that is not watched is compared with the cluster again, when a pass comes by."""
ABSENT = "absent"
"""Stands for the hash of an object that is not to be there."""
WATCHED = {"Deployment", "StatefulSet", "PodDisruptionBudget"}


class NotOurs(Exception):
    """An object of the wanted name is there already and belongs to somebody else."""

    def __init__(self, key: Key) -> None:
        super().__init__(
            f"a {key.kind} named {key.name} is there already and is not this resource's; delete or rename one of them"
        )
        self.key = key


class Applier:
    """Remembers for a while what it applied of the kinds that are not watched, so that most passes cost no request."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api, self._cache = api, cache
        self._applied: dict[Key, tuple[str, str, float]] = {}
        self._answers: dict[Key, tuple[Object, Object]] = {}
        """What was wanted, and what the cluster made of it where that differs: it has no such field, or writes it otherwise."""

    async def ensure(self, wanted: Object, owner_uid: str) -> bool:
        """Brings one object about; returns whether anything was written. NotOurs when the name is somebody else's."""
        key = key_of(wanted)
        digest = applied_hash(wanted)
        actual = self._cache.get(KINDS[key.kind], key.namespace, key.name)
        if key.kind not in WATCHED:
            owner, applied, when = self._applied.get(key, ("", "", -math.inf))
            if (owner, applied) == (owner_uid, digest) and time.monotonic() < when + TRUSTED:
                return False
        elif (
            actual is not None
            and owned_by(actual, owner_uid)
            and applied_hash(actual) == digest
            and self._as_far_as_possible(key, actual, wanted)
        ):
            return False
        written = await self._write(key, wanted, actual, owner_uid)
        self._applied[key] = (owner_uid, digest, time.monotonic())
        return written

    async def make_once(self, wanted: Object, data: Callable[[], dict[str, str]], owner_uid: str) -> bool:
        """Makes a Secret with new data when there is none; returns whether anything was written.

        What is in one that is there stays, whoever made it. Only whether one that the operator made goes with its owner
        is brought up to date.
        """
        key, references = key_of(wanted), wanted["metadata"].get("ownerReferences", [])
        kind, digest = KINDS[key.kind], json.dumps(references)
        owner, applied, when = self._applied.get(key, ("", "", -math.inf))
        if (owner, applied) == (owner_uid, digest) and time.monotonic() < when + TRUSTED:
            return False
        try:
            actual = await self._api.get(kind, key.namespace, key.name)
        except NotFound:
            try:
                await self._api.create(kind, wanted | {"data": data()})
                actual = None
            except AlreadyExists:
                actual = await self._api.get(kind, key.namespace, key.name)
        written = actual is None
        if actual is not None and actual["metadata"].get("labels", {}).get(MANAGED_BY_LABEL) == FIELD_MANAGER:
            there = {ref["uid"] for ref in actual["metadata"].get("ownerReferences", ())}
            if there != {ref["uid"] for ref in references}:
                metadata = actual["metadata"] | {"ownerReferences": references}
                await self._api.replace(kind, actual | {"metadata": metadata})
                written = True
        self._applied[key] = (owner_uid, digest, time.monotonic())
        return written

    async def remove(self, key: Key, owner_uid: str) -> bool:
        """Sees to it that the owner has no such object; returns whether one was deleted. Somebody else's stays."""
        owner, applied, when = self._applied.get(key, ("", "", -math.inf))
        if (owner, applied) == (owner_uid, ABSENT) and time.monotonic() < when + TRUSTED:
            return False
        deleted = False
        with contextlib.suppress(NotFound):
            actual = await self._api.get(KINDS[key.kind], key.namespace, key.name)
            if owned_by(actual, owner_uid):
                log.info("deleting", extra={"object": str(key)})
                await self._api.delete(KINDS[key.kind], key.namespace, key.name, actual["metadata"]["uid"])
                deleted = True
        self._applied[key] = (owner_uid, ABSENT, time.monotonic())
        return deleted

    def forget(self, owner_uid: str) -> None:
        """The owner is gone."""
        gone = {key for key, (owner, *_) in self._applied.items() if owner == owner_uid}
        self._applied = {key: value for key, value in self._applied.items() if key not in gone}
        self._answers = {key: value for key, value in self._answers.items() if key not in gone}

    def forget_all(self) -> None:
        """Everything is to be compared with the cluster again."""
        self._applied = {key: (owner, digest, -math.inf) for key, (owner, digest, _) in self._applied.items()}

    async def _write(self, key: Key, wanted: Object, actual: Object | None, owner_uid: str) -> bool:
        kind = KINDS[key.kind]
        if actual is None and key in self._applied:
            with contextlib.suppress(NotFound):
                actual = await self._api.get(kind, key.namespace, key.name)
        if actual is None:
            try:
                self._seen(key, wanted, await self._api.create(kind, wanted))
                return True
            except AlreadyExists:
                actual = await self._api.get(kind, key.namespace, key.name)
        if not owned_by(actual, owner_uid) and not _inherited(actual, wanted):
            raise NotOurs(key)
        same = owned_by(actual, owner_uid) and applied_hash(actual) == applied_hash(wanted)
        if same and self._as_far_as_possible(key, actual, wanted):
            return False
        log.info("replacing", extra={"object": str(key)})
        self._seen(key, wanted, await self._api.replace(kind, merged(actual, wanted)))
        return True

    def _seen(self, key: Key, wanted: Object, answer: Object) -> None:
        if key.kind not in WATCHED:
            return
        self._cache.put(answer)
        self._answers.pop(key, None)
        if not covers(_content(answer), _content(wanted)):
            self._answers[key] = (_content(wanted), _content(answer))

    def _as_far_as_possible(self, key: Key, actual: Object, wanted: Object) -> bool:
        """Whether an object is as wanted, or as the cluster made it when it was last asked for the same."""
        asked, answer = self._answers.get(key, ({}, {}))
        return covers(_content(actual), _content(wanted)) or (
            asked == _content(wanted) and covers(_content(actual), answer)
        )


def _content(obj: Object) -> Object:
    """What an object says beside its name."""
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata", "status")}


def _inherited(actual: Object, wanted: Object) -> bool:
    """Whether an object was made for an owner of the same kind and name that is gone: the new one takes it over.

    A Deployment is not: what selects its pods, the uid of its Worker, cannot be changed. It is made anew.
    """

    def controllers(obj: Object) -> set[tuple[str | None, ...]]:
        references = obj["metadata"].get("ownerReferences", ())
        return {
            (ref.get("apiVersion"), ref.get("kind"), ref.get("name")) for ref in references if ref.get("controller")
        }

    if wanted["kind"] == "Deployment":
        return False
    if controllers(actual):
        return controllers(actual) == controllers(wanted)
    # A backup, or kubectl delete --cascade=orphan, takes the owners away; the labels still say whose it was.
    there, labels = actual["metadata"].get("labels", {}), wanted["metadata"].get("labels", {})
    return there.get(MANAGED_BY_LABEL) == FIELD_MANAGER and all(
        there.get(label) == labels.get(label) for label in (REALM_LABEL, WORKER_LABEL)
    )


def merged(actual: Object, wanted: Object) -> Object:
    """What to send so that ``actual`` becomes ``wanted``: labels and annotations of others stay, the rest is the operator's.

    A whole replacement, not server-side apply: an apply after a plain create would not remove fields that are no longer
    wanted, since the create's field ownership stays.
    """
    metadata = actual["metadata"] | {
        "labels": actual["metadata"].get("labels", {}) | wanted["metadata"].get("labels", {}),
        "annotations": actual["metadata"].get("annotations", {}) | wanted["metadata"].get("annotations", {}),
        "ownerReferences": wanted["metadata"]["ownerReferences"],
    }
    managed = metadata.pop("managedFields", ())
    if wanted["kind"] == "Deployment" and _says_on_replicas(actual) != _says_on_replicas(wanted):
        # The number is taken back. Without this, whoever set the very number that is wanted now would go on owning it.
        metadata["managedFields"] = [_without_replicas(entry) for entry in managed]
    replaced = wanted | {"metadata": metadata}
    if wanted["kind"] == "StatefulSet" and "volumeClaimTemplates" in actual["spec"]:
        # Immutable; the Realm's schema refuses the change, and what was there before such a rule stays.
        replaced["spec"] = wanted["spec"] | {"volumeClaimTemplates": actual["spec"]["volumeClaimTemplates"]}
    return replaced


def _says_on_replicas(deployment: Object) -> str | None:
    return deployment["metadata"].get("annotations", {}).get(REPLICAS_FROM_ANNOTATION)


def _without_replicas(entry: Object) -> Object:
    """What a field manager owns, but for ``spec.replicas``; the operator's own entry stays as it is."""
    fields = entry.get("fieldsV1", {})
    if entry.get("manager") == FIELD_MANAGER or "f:replicas" not in fields.get("f:spec", {}):
        return entry
    spec = {name: value for name, value in fields["f:spec"].items() if name != "f:replicas"}
    return entry | {"fieldsV1": fields | {"f:spec": spec}}


def covers(actual: Any, wanted: Any) -> bool:
    """Whether everything wanted is there as wanted; the API server's defaults beside it do not count.

    What is wanted empty may be missing: the API server leaves most of that out.
    """
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(
            covers(actual[key], value) if key in actual else value in ({}, [], "") for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return isinstance(actual, list) and len(actual) == len(wanted) and all(map(covers, actual, wanted))
    return actual == wanted or (
        # The API server rewrites quantities in its own way (0.5 becomes 500m), which is not a difference.
        isinstance(wanted, str | int | float) and amount(actual) == amount(wanted) is not None
    )
