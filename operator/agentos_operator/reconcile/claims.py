"""One pass over all function claims of a namespace, and over the grants that follow from them."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from agentos_contracts.assign import declares_nothing
from agentos_contracts.patterns import Pattern

from ..api import ApiError
from ..kinds import CLAIM, DEPLOYMENT, WORKER, Key, Object
from ..metrics import CLAIM_WRITES
from ..plan import claims, grants
from ..plan.handover import Handover, handover
from ..plan.pods import is_gone, is_leaving
from ..plan.worker.snapshot import REGISTRATION_GRACE
from ..quotas import quota_of
from .context import CLAIMS, Context, worker_key

TOLD_WITHIN = 1.0
"""Seconds that a pass waits for the engine to take the grants, so that pods start after that; and until it looks again."""


async def reconcile(context: Context, namespace: str) -> None:
    """Records who owns what, has the engine told, then wakes the Workers that are touched by it."""
    realm = context.cache.realm_of(namespace)
    dirty = context.dirty.pop(namespace, set())
    try:
        if realm is not None and not realm["metadata"].get("deletionTimestamp"):
            dirty |= await _decide(context, namespace, realm)
            link = context.links.get(realm["metadata"]["name"])
            told = context.links.grants(realm["metadata"]["name"])
            if link is not None and link.up and link.enforces and not await told.settled(TOLD_WITHIN):
                # No first pod starts before it has: they are looked at now, and once more then.
                context.dirty[namespace] |= dirty
                context.queue.add(Key(CLAIMS, namespace, ""), TOLD_WITHIN)
    except (ApiError, OSError, TimeoutError):
        context.dirty[namespace] |= dirty
        raise
    for key in dirty:
        context.queue.add(key)


async def _decide(context: Context, namespace: str, realm: dict) -> set[Key]:
    cache = context.cache
    link = context.links.get(realm["metadata"]["name"])

    def lingers(uid: str) -> bool:
        if uid in deployed or uid in context.starting:
            return True
        pods = [pod for pod in cache.pods_of(namespace, uid) if not is_gone(pod)]
        if not pods:
            return False
        may_be_connected = link is None or not link.up or bool(link.of(uid))
        return may_be_connected or not all(is_leaving(pod) for pod in pods)

    workers, recorded = cache.all(WORKER, namespace), cache.all(CLAIM, namespace)
    deployed = {
        ref["uid"]
        for deployment in cache.all(DEPLOYMENT, namespace)
        for ref in deployment["metadata"].get("ownerReferences", ())
        if ref.get("controller")
    }

    def started(uid: str) -> bool:
        return uid in deployed or uid in context.starting or bool(cache.pods_of(namespace, uid))

    def serving(uid: str) -> bool:
        return any(each.functions for each in link.of(uid)) if link is not None and link.up else started(uid)

    undeclared = {worker["metadata"]["uid"] for worker in workers if declares_nothing(worker)}
    look_again: set[float] = set()

    def serves(uid: str, pattern: Pattern) -> bool:
        connections = link.of(uid) if link is not None and link.up else ()
        if any(pattern.matches(f) for each in connections for f in (*each.functions, *each.claims, *each.waiting)):
            return True
        if uid not in undeclared and pattern.is_function:
            return (link is None or not link.up) and bool(cache.pods_of(namespace, uid))
        # It comes back, and registers one by one: what it has discovered is given up only when it certainly lacks it.
        quiet = [time.monotonic() - link.touched(uid, each.pod_uid) for each in connections] if link is not None else []
        if not quiet or min(quiet) >= context.settings.engine_grace:
            return not quiet
        look_again.add(context.settings.engine_grace - min(quiet) + 0.1)
        return True

    def registers(uid: str) -> set[str]:
        if link is None or not link.up:
            return set()
        return {f for each in link.of(uid) for f in (each.waiting if link.enforces else each.functions)}

    def has(uid: str) -> set[str]:
        # An engine that does not enforce grants proves none.
        connections = link.of(uid) if link is not None and link.up and link.enforces else ()
        return {f for each in connections for f in (*each.functions, *each.claims)}

    def handovers() -> dict[str, Handover]:
        found = {}
        for worker in workers:
            metadata, replaces = worker["metadata"], worker.get("spec", {}).get("replaces")
            if not replaces:
                continue
            uid, up = metadata["uid"], link is not None and link.up
            leaving = {pod["metadata"]["uid"] for pod in cache.pods_of(namespace, uid) if is_leaving(pod)}
            replaced = _uids_named(replaces, workers, recorded)
            own = link.of(uid) if link is not None and up else ()
            quiet = {each.pod_uid: time.monotonic() - link.touched(uid, each.pod_uid) for each in own} if link else {}
            settled = {pod_uid for pod_uid, seconds in quiet.items() if seconds >= REGISTRATION_GRACE}
            found[uid] = handover(
                worker,
                own,
                leaving,
                [each for other in replaced for each in link.of(other)] if link is not None and up else (),
                settled,
            )
            if found[uid].lacking:
                look_again.update(REGISTRATION_GRACE - quiet[each] + 0.1 for each in quiet.keys() - settled)
        return found

    allotment = context.quotas.allotment(namespace, realm)
    most = quota_of(realm).get("functions")
    plan = claims.plan(
        claims.ClaimsInput(
            realm,
            workers,
            recorded,
            serves,
            serving,
            started,
            lingers,
            registers,
            has,
            handovers(),
            datetime.now(UTC),
            allotment.over.keys(),
            None if most is None else most - allotment.used.functions,
        )
    )
    table = context.links.grants(realm["metadata"]["name"])
    try:
        await _write(context, namespace, plan)
    finally:
        # What cannot be recorded holds up neither what else changed in spec.calls nor who leaves.
        recorded = cache.all(CLAIM, namespace)
        table.want(grants.plan(grants.GrantsInput(namespace, workers, recorded, lingers, table.wanted)))
    if look_again:
        context.queue.add(Key(CLAIMS, namespace, ""), min(look_again))
    before = _told(context, namespace)
    context.over_quota[namespace] = allotment.over
    context.waiting[namespace], context.refused[namespace] = dict(plan.waiting), dict(plan.refused)
    context.keeping[namespace] = plan.keeping
    context.handovers[namespace] = plan.handovers
    context.replaced[namespace] = plan.replaced
    told = _told(context, namespace)
    written = {holder.uid for claim in (*plan.create, *plan.replace) for holder in claims.holders(claim)}
    return {
        worker_key(worker)
        for worker in workers
        if (uid := worker["metadata"]["uid"]) in written
        or any(was.get(uid) != now.get(uid) for was, now in zip(before, told, strict=True))
    }


def _told(context: Context, namespace: str) -> tuple[Mapping[str, object], ...]:
    """What Workers say of their claims, by uid."""
    told = (context.waiting, context.refused, context.over_quota, context.handovers, context.replaced)
    return tuple(each.get(namespace, {}) for each in told)


def _uids_named(name: str, workers: Sequence[Object], recorded: Sequence[Object]) -> set[str]:
    """The Workers of a name: the one that is there, and those that are gone and still hold something."""
    there = {worker["metadata"]["uid"] for worker in workers if worker["metadata"]["name"] == name}
    return there | {each.uid for claim in recorded for each in claims.holders(claim) if each.worker == name}


async def _write(context: Context, namespace: str, plan: claims.ClaimsPlan) -> None:
    api, cache = context.api, context.cache
    for claim in plan.create:
        cache.put(await api.create(CLAIM, claim))
    for claim in plan.replace:
        cache.put(await api.replace(CLAIM, claim))
    for claim in plan.delete:
        metadata = claim["metadata"]
        await api.delete(CLAIM, namespace, metadata["name"], metadata["uid"], metadata["resourceVersion"])
        cache.drop(Key(CLAIM.kind, namespace, metadata["name"]), metadata["uid"])
    CLAIM_WRITES.inc(plan.writes)
