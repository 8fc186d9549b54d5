"""One pass over a Worker."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from agentos_contracts.assign import Cause, patterns_of, unclaimable
from agentos_contracts.dependencies import Dependency, declared, trouble
from agentos_contracts.effective import Effective, effective
from agentos_contracts.external_engine import external_engine
from agentos_contracts.findings import Finding, errors
from agentos_contracts.manifest import BUILT_IN_WORKERS, Manifest, read_manifest, validate_manifest
from agentos_contracts.patterns import Pattern, claim_name
from agentos_contracts.quota import Allotment
from agentos_contracts.reasons import WorkerCondition
from agentos_contracts.tokens import Identity, Role
from agentos_contracts.validation import image_findings, validate_worker, worker_defaults_findings
from agentos_contracts.worker import WorkerSpec
from agentos_contracts.worker_defaults import WorkerDefaults

from ..api import STRATEGIC, ApiError, Conflict, NotFound
from ..apply import NotOurs
from ..bus import Connection
from ..kinds import CLAIM, CONFIG_MAP, DEPLOYMENT, KINDS, POD, WORKER, Key, Kind, Object, key_of, owned_by
from ..links import issued_at
from ..metrics import GATE_SECONDS, OBJECTS_SECONDS, OBJECTS_WRITTEN
from ..plan import worker as planner
from ..plan.claims import holders
from ..plan.conditions import condition_of, is_true
from ..plan.objects.worker import token_hash
from ..plan.realm import own_namespace
from ..quotas import quota_of
from ..settings import REGISTERED_GATE, TOKEN_HASH_ANNOTATION, WORKER_LABEL
from ..status import refused
from .context import CLAIMS, REFUSED_RETRY, Context, worker_key

log = logging.getLogger(__name__)


class WorkerReconciler:
    """Passes over Workers, and what they have to know of each other."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._uids: dict[Key, str] = {}
        self._facts: dict[str, Dependency] = {}
        self._needs: dict[str, frozenset[str]] = {}
        self._config_maps: dict[Key, tuple[str, str]] = {}
        self._first_seen: dict[str, float] = {}

    def users_of_config_map(self, namespace: str, name: str) -> list[Key]:
        """Workers that read their manifest from this ConfigMap."""
        return [worker for worker, used in self._config_maps.items() if used == (namespace, name)]

    def remember_all(self) -> None:
        """Takes what others may depend on from the status that an operator before this one wrote."""
        for worker in self._context.cache.all(WORKER):
            (name, needs), version = declared(worker), worker.get("status", {}).get("version")
            self._facts[worker["metadata"]["uid"]] = _fact(worker, worker, name, version or None, needs)

    def seen(self, uid: str) -> None:
        """A new Worker came by the watch: its objects are timed from here."""
        self._first_seen[uid] = time.monotonic()

    async def reconcile(self, key: Key) -> None:
        cache = self._context.cache
        worker = cache.get(WORKER, key.namespace, key.name)
        deployment = cache.get(DEPLOYMENT, key.namespace, key.name)
        uid = worker["metadata"]["uid"] if worker and not worker["metadata"].get("deletionTimestamp") else None
        if uid != self._uids.get(key):
            await self._gone(key, uid)
        if deployment is not None and _predecessors(deployment, uid):
            # The garbage collector would do it as well, but learns of new kinds only every 30 s.
            await self._delete(key, deployment)
            deployment = None
        if worker is None or uid is None:
            return
        self._uids[key] = uid
        snapshot = await self._observe(key, worker, deployment if deployment and owned_by(deployment, uid) else None)
        plan = planner.plan(snapshot)
        status = plan.status
        for pod, answers in plan.gates:
            await self._set_gate(pod, answers, snapshot.quiet_for.get(pod["metadata"]["uid"], 0.0))
        self._context.starting.add(uid)
        try:
            for child in plan.children:
                if await self._context.applier.ensure(child, uid):
                    OBJECTS_WRITTEN.labels(child["kind"]).inc()
            if plan.children and (seen := self._first_seen.pop(uid, None)) is not None:
                seconds = time.monotonic() - seen
                OBJECTS_SECONDS.observe(seconds)
                log.info("objects written", extra={"object": str(key), "seconds": round(seconds, 4)})
        except NotOurs as error:
            status = refused(worker, status, "Available", str(error))
            self._context.queue.add(key, REFUSED_RETRY)
        except ApiError as error:
            if error.status not in (400, 403, 422):
                raise
            status = refused(worker, status, "Available", f"the cluster refuses the worker's objects: {error.message}")
            self._context.queue.add(key, REFUSED_RETRY)
        finally:
            self._context.starting.discard(uid)
            if key not in self._context.cache:
                self._context.queue.add(Key(CLAIMS, key.namespace, ""))
        for kind in plan.unwanted:
            await self._delete_child(kind, key, uid)
        self._remember(worker, snapshot.effective, status)
        await self._context.status.write(key, WORKER, worker, status)
        if plan.requeue_after is not None:
            self._context.queue.add(key, plan.requeue_after)

    async def _set_gate(self, pod: Object, answers: bool, quiet_for: float) -> None:
        metadata = pod["metadata"]
        condition = {
            "type": REGISTERED_GATE,
            "status": "True" if answers else "False",
            "reason": "Registered" if answers else "NotRegistered",
            "message": "its functions answer on the bus" if answers else "its connection to the engine is gone",
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        started = time.monotonic()
        # The uid: a pod made anew under the same name must not inherit this. The cache is told by the watch.
        body = {"metadata": {"uid": metadata["uid"]}, "status": {"conditions": [condition]}}
        try:
            written = await self._context.api.patch(
                POD, metadata["namespace"], metadata["name"], body, "status", STRATEGIC
            )
        except (NotFound, Conflict):
            return
        self._context.cache.put(written)
        if answers:
            seconds = quiet_for + time.monotonic() - started
            GATE_SECONDS.observe(seconds)
            log.info(
                "gate set",
                extra={"object": f"pod/{metadata['namespace']}/{metadata['name']}", "seconds": round(seconds, 4)},
            )

    async def _gone(self, key: Key, successor: str | None) -> None:
        """The Worker that had this name until now is deleted."""
        before = self._uids.pop(key, None)
        if successor is None:
            self._config_maps.pop(key, None)
            self._context.status.forget(key)
            self._context.queue.add(Key(CLAIMS, key.namespace, ""))
        if before is None:
            return
        self._context.applier.forget(before)
        self._context.quotas.forget(before)
        self._needs.pop(before, None)
        self._first_seen.pop(before, None)
        if fact := self._facts.pop(before, None):
            self._wake_dependents(key.namespace, {fact.manifest_name})

    async def _delete_child(self, kind: Kind, key: Key, uid: str) -> None:
        """Deletes what has the Worker's name and is its own."""
        child = self._context.cache.get(kind, key.namespace, key.name)
        if child is not None and owned_by(child, uid):
            await self._delete(key, child)

    async def _delete(self, key: Key, child: Object) -> None:
        metadata, kind = child["metadata"], KINDS[child["kind"]]
        if not metadata.get("deletionTimestamp"):
            await self._context.api.delete(kind, key.namespace, key.name, metadata["uid"])
            self._context.cache.drop(key_of(child), metadata["uid"])
            self._context.queue.add(Key(CLAIMS, key.namespace, ""))

    async def _observe(self, key: Key, worker: Object, deployment: Object | None) -> planner.WorkerInput:
        context, uid = self._context, worker["metadata"]["uid"]
        manifest, findings, missing = await self._manifest(key, worker)
        realm = context.cache.realm_of(key.namespace)
        if realm is not None and (
            own_namespace(realm, context.settings.namespace) or realm["metadata"].get("deletionTimestamp")
        ):
            realm = None
        ended = context.ended.get(key.namespace, "") if realm is None else ""
        realm_name = realm["metadata"]["name"] if realm else ""
        defaults = (realm or {"spec": {}})["spec"].get("workerDefaults") or {}
        findings += [
            replace(finding, path=f"realm/{realm_name} {finding.path}")
            for finding in worker_defaults_findings(defaults, "spec.workerDefaults")
        ]
        link = context.links.get(realm_name)
        connections = link.of(uid) if link is not None else ()
        pods = context.cache.pods_of(key.namespace, uid)
        wanted, known = patterns_of(worker), _effective(worker, manifest, defaults, findings)
        context.quotas.learn(worker, known)
        allotment = context.quotas.allotment(key.namespace, realm)
        claims = [context.cache.get(CLAIM, key.namespace, claim_name(pattern.segment)) for pattern in wanted]
        return planner.WorkerInput(
            worker=worker,
            now=datetime.now(UTC),
            engine=self._engine(realm) if realm else None,
            effective=known,
            findings=findings,
            manifest_missing=missing,
            wanted=wanted,
            held=frozenset(h.pattern for claim in claims if claim for h in holders(claim) if h.uid == uid),
            clashes=context.waiting.get(key.namespace, {}).get(uid, ()),
            granted=link is None
            or not (link.up and link.enforces)
            or context.links.grants(realm_name).is_acknowledged(uid),
            handover=context.handovers.get(key.namespace, {}).get(uid),
            replaced_by=context.replaced.get(key.namespace, {}).get(uid, ""),
            released=link is not None
            and link.up
            and (not link.enforces or context.links.grants(realm_name).is_acknowledged(uid)),
            ungranted=self._ungranted(key.namespace, uid, connections, _no_room(realm, allotment)),
            providers=self._providers(key.namespace) if known and known.dependencies else (),
            built_in=BUILT_IN_WORKERS,
            deployment=deployment,
            pods=pods,
            connections=connections,
            quiet_for={pod["metadata"]["uid"]: link.quiet_for(uid, pod["metadata"]["uid"]) for pod in pods}
            if link is not None
            else {},
            recommended=context.autoscaler.recommended(uid),
            draining=context.drains.in_progress(uid),
            token=self._token(realm_name, key, worker, deployment) if realm and not external_engine(realm) else "",
            grace=context.settings.engine_grace,
            over_quota=allotment.over.get(uid, ()),
            ended_realm=ended,
            engine_ending=bool(ended and context.engine_pods(key.namespace)),
        )

    def _ungranted(
        self, namespace: str, uid: str, connections: Sequence[Connection], no_room: str
    ) -> dict[str, planner.Obstacle | None]:
        """What a Worker registers and does not hold, each with what stands in the way, as far as that is known."""
        found: dict[str, planner.Obstacle | None] = {}
        refused = {clash.pattern.text: clash for clash in self._context.refused.get(namespace, {}).get(uid, ())}
        for text in {each for connection in connections for each in connection.waiting}:
            if why := unclaimable(text):
                found[text] = planner.Obstacle(f"which cannot be claimed ({why})")
                continue
            claim = self._context.cache.get(CLAIM, namespace, claim_name(Pattern(text).segment))
            recorded = holders(claim) if claim else ()
            holder = next((each for each in recorded if Pattern(each.pattern).matches(text)), None)
            if holder is not None and holder.uid != uid:
                by = f" by {holder.pattern}" if holder.pattern != text else ""
                found[text] = planner.Obstacle(f"which Worker {holder.worker} holds{by}", holder.worker)
            elif holder is None and text in refused and refused[text].cause is not Cause.HELD:
                found[text] = planner.Obstacle(f"which cannot be had ({refused[text].message})")
            elif holder is None:
                found[text] = planner.Obstacle(no_room) if no_room and Pattern(text).is_function else None
        return found

    def _providers(self, namespace: str) -> list[Dependency]:
        uids = (worker["metadata"]["uid"] for worker in self._context.cache.all(WORKER, namespace))
        return [self._facts[uid] for uid in uids if uid in self._facts]

    def _token(self, realm: str, key: Key, worker: Object, deployment: Object | None) -> str:
        """The worker's token, by the newest key that the realm's engine accepts; one that its pods have stays."""
        ring = self._context.ring
        identity = Identity(realm, f"{key.namespace}/{key.name}", worker["metadata"]["uid"], Role.WORKER)
        newest, *older = ring.tokens(identity, issued_at(worker))
        template = (deployment or {}).get("spec", {}).get("template", {}).get("metadata", {})
        has_newest = template.get("annotations", {}).get(TOKEN_HASH_ANNOTATION) == token_hash(newest)
        return newest if not older or has_newest or self._context.links.accepts(realm, ring.current) else older[0]

    def _engine(self, realm: Object) -> planner.EngineView:
        name = realm["metadata"]["name"]
        link = self._context.links.get(name)
        return planner.EngineView(
            realm=name,
            linked=link is not None and link.up,
            up_for=self._context.links.up_for(name),
            down_for=self._context.links.down_for(name),
            external=external_engine(realm),
        )

    async def _manifest(self, key: Key, worker: Object) -> tuple[dict | None, list[Finding], str]:
        """The manifest (None: unreadable), all findings on it and on the spec, and why it is missing, if it is."""
        spec = worker["spec"]
        reference = (spec.get("manifestFrom") or {}).get("configMapKeyRef")
        if not reference:
            self._config_maps.pop(key, None)
            inline = spec.get("manifest")
            return inline if isinstance(inline, dict) else None, validate_worker(worker), ""
        of_the_spec = validate_worker(worker)
        if any(finding.path.startswith("spec.manifestFrom") for finding in errors(of_the_spec)):
            # Not even a name; nothing is read by it.
            return None, of_the_spec, ""
        name, entry = reference["name"], reference.get("key", "iii.worker.yaml")
        self._config_maps[key] = (key.namespace, name)
        try:
            config_map = await self._context.api.get(CONFIG_MAP, key.namespace, name)
        except NotFound:
            return None, [], f"ConfigMap {name} is not there; create it, or mend spec.manifestFrom"
        text = config_map.get("data", {}).get(entry)
        if text is None:
            there = ", ".join(sorted(config_map.get("data", {}))) or "none"
            return None, [], f"ConfigMap {name} has no key {entry} (its keys: {there}); mend spec.manifestFrom"
        path = f"configmap/{name}[{entry}]"
        manifest, unreadable = read_manifest(text)
        findings = [replace(f, path=f"{path} line {f.line}" if f.line else path) for f in unreadable]
        if manifest is not None:
            findings += [*validate_manifest(manifest, path), *image_findings(spec, manifest)]
        return manifest, [*findings, *of_the_spec], ""

    def _remember(self, worker: Object, known: Effective | None, status: Mapping[str, Any]) -> None:
        """Keeps what others may depend on, and wakes those that do when it changed."""
        metadata = worker["metadata"]
        before = self._facts.get(metadata["uid"])
        if known is None:
            # A mistake in an edit: what it was is still there, but nothing new may start on it.
            fact = before and replace(
                before, ready=False, trouble=condition_of({"status": status}, "Ready").get("reason", "")
            )
        else:
            fact = _fact(worker, {"status": status}, known.name, known.version, known.dependencies)
            self._needs[metadata["uid"]] = frozenset(known.dependencies)
        if fact is not None and fact != before:
            self._facts[metadata["uid"]] = fact
            self._wake_dependents(metadata["namespace"], {fact.manifest_name, before.manifest_name if before else ""})

    def _wake_dependents(self, namespace: str, names: set[str]) -> None:
        for other in self._context.cache.all(WORKER, namespace):
            if names & self._needs.get(other["metadata"]["uid"], frozenset()):
                self._context.queue.add(worker_key(other))


def _no_room(realm: Object | None, allotment: Allotment) -> str:
    """Why nobody discovers another function now, where the quota is used up; else empty."""
    most = quota_of(realm).get("functions")
    if realm is None or most is None or allotment.used.functions < most:
        return ""
    return f"for which the quota of Realm {realm['metadata']['name']} ({most} functions) has no room"


def _predecessors(deployment: Object, uid: str | None) -> bool:
    """Whether a Deployment was made for a Worker of the same name that is gone, or was left without an owner by one."""
    metadata = deployment["metadata"]
    owners = [ref for ref in metadata.get("ownerReferences", ()) if ref.get("controller")]
    if not owners:
        return metadata.get("labels", {}).get(WORKER_LABEL) == metadata["name"]
    return any(ref["kind"] == WORKER.kind and ref["uid"] != uid and ref["name"] == metadata["name"] for ref in owners)


def _fact(
    worker: Object, seen: Mapping[str, Any], name: str, version: str | None, needs: Mapping[str, str]
) -> Dependency:
    """What a Worker is to those that depend on it; ``seen`` has its newest status."""
    ready, reason = is_true(seen, "Ready"), condition_of(seen, "Ready").get("reason", "")
    waits = condition_of(seen, WorkerCondition.DEPENDENCIES_READY).get("status") == "False"
    return Dependency(
        worker=worker["metadata"]["name"],
        manifest_name=name,
        version=version,
        ready=ready,
        trouble="" if ready else trouble(reason),
        waits_for=frozenset(needs) if waits else frozenset(),
    )


def _effective(worker: Object, manifest: dict | None, defaults: Object, findings: list[Finding]) -> Effective | None:
    """What the worker runs with; None while there are errors, for then nothing new is started."""
    if manifest is None or errors(findings):
        return None
    spec = WorkerSpec.model_validate(worker["spec"], by_name=False)
    return effective(spec, Manifest.model_validate(manifest), WorkerDefaults.model_validate(defaults, by_name=False))
