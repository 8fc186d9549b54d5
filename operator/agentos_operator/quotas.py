"""Who fits into a realm's quota, from what the cache knows. Each Worker's wants are worked out once per generation of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from agentos_contracts.assign import declares_nothing, patterns_of
from agentos_contracts.claimables import is_segment
from agentos_contracts.effective import Effective, effective
from agentos_contracts.manifest import Manifest
from agentos_contracts.quota import NOBODY, Allotment, Applicant, Usage, allot, pods_usage, worker_usage
from agentos_contracts.worker import WorkerSpec
from agentos_contracts.worker_defaults import WorkerDefaults
from pydantic import ValidationError

from .cache import Cache
from .kinds import CLAIM, DEPLOYMENT, WORKER, Object, owned_by
from .plan.claims import holders


def quota_of(realm: Object | None) -> dict[str, Any]:
    """The limits of a Realm; empty when there are none."""
    return (realm or {}).get("spec", {}).get("quota") or {}


class Quotas:
    """Remembers what each Worker's pods ask for: that takes its whole manifest to be read."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._resources: dict[str, tuple[tuple[int, Any], Mapping[str, Any]]] = {}

    def learn(self, worker: Object, known: Effective | None) -> None:
        """What a Worker runs with, its manifest from a ConfigMap included."""
        if known is not None:
            self._resources[worker["metadata"]["uid"]] = self._made_from(worker), known.resources

    def forget(self, uid: str) -> None:
        self._resources.pop(uid, None)

    def allotment(self, namespace: str, realm: Object | None) -> Allotment:
        """Who fits of all Workers of a realm's namespace."""
        quota = quota_of(realm)
        return allot(quota, self.applicants(namespace)) if quota else NOBODY

    def applicants(self, namespace: str) -> Iterable[Applicant]:
        """The Workers of a namespace, with what they want and what they have."""
        held: dict[str, int] = {}
        for claim in self._cache.all(CLAIM, namespace):
            if is_segment(claim["spec"]["segment"]):
                continue  # HTTP routes and trigger types are no functions
            for holder in holders(claim):
                held[holder.uid] = held.get(holder.uid, 0) + 1
        for worker in self._cache.all(WORKER, namespace):
            metadata = worker["metadata"]
            if metadata.get("deletionTimestamp"):
                continue
            wanted = self.wanted(worker, held.get(metadata["uid"], 0))
            deployment = self._cache.get(DEPLOYMENT, namespace, metadata["name"])
            running = None
            if deployment is not None and owned_by(deployment, metadata["uid"]):
                # A started Worker whose record of claims was lost has had all that it declares.
                functions = held.get(metadata["uid"]) or wanted.functions
                container = deployment["spec"]["template"]["spec"]["containers"][0]
                running = pods_usage(deployment["spec"].get("replicas", 1), container.get("resources") or {}, functions)
            yield Applicant(metadata["uid"], metadata["creationTimestamp"], wanted, running)

    def wanted(self, worker: Object, held: int = 0) -> Usage:
        """What a Worker wants by its spec; ``held``: how many functions are recorded for it."""
        functions = held if declares_nothing(worker) else len(patterns_of(worker))
        return worker_usage(worker["spec"], self._resources_of(worker), functions)

    def _resources_of(self, worker: Object) -> Mapping[str, Any]:
        metadata, spec = worker["metadata"], worker["spec"]
        uid, made_from = metadata.get("uid", ""), self._made_from(worker)
        known = self._resources.get(uid)
        if known is not None and (known[0] == made_from or "manifestFrom" in spec):
            return known[1]
        try:
            manifest = Manifest.model_validate(spec.get("manifest") or {"name": metadata["name"]})
            defaults = WorkerDefaults.model_validate(made_from[1], by_name=False)
            resources = effective(WorkerSpec.model_validate(spec, by_name=False), manifest, defaults).resources
        except (ValidationError, TypeError):
            # Faults of its own are told of it elsewhere; it is not started until they are mended.
            return {}
        if uid and "manifestFrom" not in spec:
            self._resources[uid] = made_from, resources
        return resources

    def _made_from(self, worker: Object) -> tuple[int, Any]:
        """What a Worker's resources depend on: its generation, and what its Realm says for all."""
        metadata = worker["metadata"]
        realm = self._cache.realm_of(metadata.get("namespace", "")) or {"spec": {}}
        return metadata.get("generation", 0), realm["spec"].get("workerDefaults") or {}
