"""Turns what happened into keys of the queue, and works the queue off while this replica leads."""

import asyncio
import logging
import time
from datetime import UTC, datetime

from agentos_contracts.assign import declares_nothing
from agentos_contracts.claimables import is_claimable
from agentos_contracts.resource import API_VERSION

from . import key_ring
from .api import AlreadyExists, Api, ApiError, FenceLost, until_reachable
from .apply import Applier
from .autoscaler import Autoscaler
from .cache import Cache
from .drains import Drains
from .events import Recorder
from .key_ring import KeyRing
from .kinds import CLAIM, CONFIG_MAP, POD, REALM, WORKER, Key, Object, key_of
from .links import Links
from .metrics import LINKS_UP, QUEUE_LENGTH, RECONCILE_SECONDS, RECONCILES
from .quotas import Quotas
from .reconcile import claims, realm
from .reconcile.context import CLAIMS, Context
from .reconcile.worker import WorkerReconciler
from .settings import REALM_LABEL, WORKER_LABEL, WORKER_UID_LABEL, Settings
from .status import StatusWriter
from .work_queue import WorkQueue

log = logging.getLogger(__name__)

ROTATION_STEP = 5.0
"""Seconds between two looks at a rotation that is under way."""


class Controller:
    """Fed by the watches on every replica; consumes only after ``run`` was called, on the leader."""

    def __init__(self, settings: Settings, api: Api, cache: Cache, ring: KeyRing) -> None:
        self._settings, self._cache, self._api = settings, cache, api
        self._queue: WorkQueue[Key] = WorkQueue(self._is_urgent)
        links = Links(settings.pod_uid or settings.pod_name, self._bus_changed, lambda: api.fence())
        recorder = Recorder(api, settings.pod_name)
        status = StatusWriter(api, cache, self._queue, recorder, settings.status_debounce)
        self.context = Context(
            settings,
            api,
            cache,
            self._queue,
            ring,
            links,
            Applier(api, cache),
            status,
            Autoscaler(cache, links, settings.scale_down_seconds, self._queue.add),
            Drains(cache, links, lambda namespace, uid: self.context.frees(namespace, uid), self._queue.add),
            Quotas(cache),
        )
        self._workers = WorkerReconciler(self.context)

    def _is_urgent(self, key: Key) -> bool:
        """Whether others may wait for it: a decision on claims, or the end of a Worker that holds some.

        When a holder goes, all who wait have to be told of the next one; none of that may stand before the next decision.
        """
        return key.kind == CLAIMS or (
            key.kind == WORKER.kind and self._cache.get(WORKER, key.namespace, key.name) is None
        )

    # --- What happened ---

    def changed(self, obj: Object, before: Object | None) -> None:
        """An object is new or changed."""
        if obj["kind"] in (WORKER.kind, REALM.kind) and before is not None and not _wanted_changed(obj, before):
            if obj["kind"] == WORKER.kind:
                self._realm_counts(obj["metadata"]["namespace"])
            return
        if obj["kind"] == WORKER.kind and before is None:
            self._workers.seen(obj["metadata"]["uid"])
        if obj["kind"] == POD.kind:
            self.context.drains.look(obj)
        self._touch(obj)

    def deleted(self, obj: Object) -> None:
        """An object is gone."""
        if obj["kind"] == POD.kind:
            self.context.drains.forget(obj)
        elif obj["kind"] == WORKER.kind:
            for pod in self._cache.pods_of(obj["metadata"]["namespace"], obj["metadata"]["uid"]):
                self.context.drains.look(pod)
        self._touch(obj)

    def _touch(self, obj: Object) -> None:
        key, labels = key_of(obj), obj["metadata"].get("labels", {})
        if key.kind == WORKER.kind:
            self.context.worker_changed(key)
            self._realm_counts(key.namespace)
        elif key.kind == REALM.kind:
            if obj["metadata"].get("deletionTimestamp") or key not in self._cache:
                # Before its Workers are looked at: their pods stay while its engine ends.
                self.context.ended[obj["spec"]["namespace"]] = key.name
            self._queue.add(key)
            self._queue.add(Key(CLAIMS, obj["spec"]["namespace"], ""))
            self.context.workers_changed(obj["spec"]["namespace"])
            for other in self._cache.all(REALM):
                self._queue.add(key_of(other))
        elif key.kind == CLAIM.kind:
            self._queue.add(Key(CLAIMS, key.namespace, ""))
        elif key.kind == CONFIG_MAP.kind:
            for worker in self._workers.users_of_config_map(key.namespace, key.name):
                self._queue.add(worker)
        elif worker := labels.get(WORKER_LABEL):
            self._queue.add(Key(WORKER.kind, key.namespace, worker))
            owner = self._cache.get(WORKER, key.namespace, worker)
            if owner is None or owner["metadata"]["uid"] != labels.get(WORKER_UID_LABEL):
                # What is left of a Worker that is gone changed: its functions may be free now.
                self._queue.add(Key(CLAIMS, key.namespace, ""))
        elif realm_name := labels.get(REALM_LABEL):
            self._queue.add(Key(REALM.kind, "", realm_name))

    def _realm_counts(self, namespace: str) -> None:
        owner = self._cache.realm_of(namespace)
        if owner is not None:
            self._queue.add(Key(REALM.kind, "", owner["metadata"]["name"]))

    def _bus_changed(self, realm_name: str, namespace: str, uids: frozenset[str] | None) -> None:
        self._queue.add(Key(REALM.kind, "", realm_name))
        link = self.context.links.get(realm_name)
        if uids is None:
            if link is not None and link.up:
                self.context.drains.engine_is_new(namespace)
            self._queue.add(Key(CLAIMS, namespace, ""))
            for worker in self._cache.all(WORKER, namespace):
                self._queue.add(key_of(worker))
            return
        for uid in uids:
            # What a Worker served that is gone, or that gave it up, may be free now.
            worker = self._cache.worker_with(uid)
            if worker is not None:
                self._queue.add(worker)
            waits = link is not None and any(
                self._discovers(worker, text)
                for each in link.of(uid)
                for text in (each.waiting if link.enforces else each.functions)
            )
            if worker is None or waits or uid in self.context.keeping.get(namespace, ()):
                self._queue.add(Key(CLAIMS, namespace, ""))
        if self.context.handovers.get(namespace):
            self._queue.add(Key(CLAIMS, namespace, ""))

    def _discovers(self, key: Key | None, registered: str) -> bool:
        """Whether a Worker may get what it registers because it does so."""
        worker = self._cache.get(WORKER, key.namespace, key.name) if key is not None else None
        return worker is not None and (is_claimable(registered) or declares_nothing(worker))

    # --- Work ---

    async def run(self) -> None:
        """The leader's work; ends only by cancellation, or by FenceLost when leadership is lost."""
        await self._cache.wait_verified(self._api)
        # A replica that waited to lead may have read the keys long ago.
        self.context.ring = await until_reachable(lambda: key_ring.read(self._api, self._settings.namespace))
        await until_reachable(self._default_realm)
        self._workers.remember_all()
        self._look_at_everything()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resync(), name="resync")
                group.create_task(self.context.autoscaler.run(), name="autoscaler")
                group.create_task(self._follow_keys(), name="keys")
                for number in range(self._settings.consumers):
                    group.create_task(self._consume(), name=f"consumer {number}")
        except ExceptionGroup as group:
            if group.subgroup(FenceLost):
                raise FenceLost("a consumer was not allowed to write") from group
            raise
        finally:
            await self.context.links.close()

    async def _default_realm(self) -> None:
        name = self._settings.default_realm
        if not name or self._cache.get(REALM, "", name) is not None:
            return
        spec = {"namespace": self._settings.default_realm_namespace}
        body = {"apiVersion": API_VERSION, "kind": REALM.kind, "metadata": {"name": name}, "spec": spec}
        try:
            self._cache.put(await self._api.create(REALM, body))
        except AlreadyExists:
            return
        except ApiError as error:
            if error.status not in (400, 403, 422):
                raise
            log.error("the default realm is refused", extra={"object": f"realm/{name}", "error": error.message})
            return
        log.info("made the default realm", extra={"object": f"realm/{name}"})

    def _look_at_everything(self) -> None:
        for obj in self._cache.all(REALM):
            self._queue.add(key_of(obj))
            self._queue.add(Key(CLAIMS, obj["spec"]["namespace"], ""))
        for obj in self._cache.all(WORKER):
            self.context.worker_changed(key_of(obj))

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync)
            try:
                missing = await self._cache.verify(self._api)
            except (ApiError, OSError, TimeoutError) as error:
                log.warning("the watches could not be verified", extra={"error": str(error)})
                continue
            if missing:
                log.warning(
                    "the watches have missed objects", extra={"missing": len(missing), "first": str(missing[0])}
                )
            self.context.applier.forget_all()
            self._look_at_everything()

    async def _follow_keys(self) -> None:
        """Rotates the signing key when somebody asks for it. Secrets are not watched, so it is read now and then."""
        while True:
            ring = self.context.ring
            await asyncio.sleep(self._settings.key_check if ring.previous is None else ROTATION_STEP)
            try:
                self.context.ring = await key_ring.follow(
                    self._api, self._settings.namespace, ring, self._is_used, datetime.now(UTC)
                )
            except FenceLost:
                raise
            except (ApiError, OSError, TimeoutError, LookupError, ValueError) as error:
                log.warning("the signing key could not be followed", extra={"error": str(error)})
                continue
            if self.context.ring.verify_keys != ring.verify_keys:
                self._look_at_everything()
            elif ring.previous is not None:
                for realm_name in self.context.links.all():
                    self._queue.add(Key(REALM.kind, "", realm_name))

    def _is_used(self, ring: KeyRing) -> bool:
        """Whether anybody in any realm still needs the key before."""
        return any(self.context.still_using(name, ring) for name in self.context.links.all())

    async def _consume(self) -> None:
        while True:
            key = await self._queue.get()
            started = time.monotonic()
            try:
                await self._reconcile(key)
            except FenceLost:
                raise
            except (ApiError, OSError, TimeoutError) as error:
                RECONCILES.labels(key.kind, "retried").inc()
                delay = self._queue.retry(key)
                log.warning(
                    "will try again",
                    extra={"object": str(key), "seconds": delay, "error": str(error) or type(error).__name__},
                )
            except Exception:
                # A fault of ours in one object must not stop the others: it is told, counted, and tried again.
                RECONCILES.labels(key.kind, "failed").inc()
                delay = self._queue.retry(key)
                log.exception("a pass failed", extra={"object": str(key), "seconds": delay})
            else:
                RECONCILES.labels(key.kind, "done").inc()
                self._queue.done(key)
            RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - started)
            QUEUE_LENGTH.set(len(self._queue))
            LINKS_UP.set(sum(link.up for link in self.context.links.all().values()))

    async def _reconcile(self, key: Key) -> None:
        if key.kind == WORKER.kind:
            await self._workers.reconcile(key)
        elif key.kind == REALM.kind:
            await realm.reconcile(self.context, key)
        else:
            await claims.reconcile(self.context, key.namespace)


def _wanted_changed(obj: Object, before: Object) -> bool:
    """Whether a change is more than an echo of our own status writes."""
    metadata, old = obj["metadata"], before["metadata"]
    fields = ("uid", "generation", "deletionTimestamp")
    return any(metadata.get(field) != old.get(field) for field in fields)
