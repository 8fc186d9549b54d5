"""One pass over all function claims of a namespace, and over the grants that follow from them."""

from collections.abc import Mapping
from datetime import UTC, datetime

from ..api import ApiError
from ..kinds import CLAIM, DEPLOYMENT, WORKER, Key, Object
from ..metrics import CLAIM_WRITES
from ..plan import claims, grants
from ..plan.handover import handovers
from ..plan.presence import Presence
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
    workers, recorded = cache.all(WORKER, namespace), cache.all(CLAIM, namespace)
    presence = _presence(context, namespace, realm)
    allotment = context.quotas.allotment(namespace, realm)
    most = quota_of(realm).get("functions")
    plan = claims.plan(
        claims.ClaimsInput(
            realm,
            workers,
            recorded,
            presence,
            handovers(workers, [holder for claim in recorded for holder in claims.holders(claim)], presence),
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
        if plan.writes:
            presence, recorded = _presence(context, namespace, realm), cache.all(CLAIM, namespace)
        table.want(grants.plan(grants.GrantsInput(namespace, workers, recorded, presence.lingers, table.wanted)))
    if plan.look_again_after is not None:
        context.queue.add(Key(CLAIMS, namespace, ""), plan.look_again_after)
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


def _presence(context: Context, namespace: str, realm: Object) -> Presence:
    """What pods, Deployments and the engine tell at this moment."""
    link = context.links.get(realm["metadata"]["name"])
    deployed = {
        ref["uid"]
        for deployment in context.cache.all(DEPLOYMENT, namespace)
        for ref in deployment["metadata"].get("ownerReferences", ())
        if ref.get("controller")
    }
    connections = {} if link is None else link.by_uid()
    quiet_for = (
        {}
        if link is None
        else {(uid, one.pod_uid): link.quiet_for(uid, one.pod_uid) for uid in connections for one in connections[uid]}
    )
    return Presence(
        link is not None and link.up,
        link is not None and link.enforces,
        connections,
        quiet_for,
        context.cache.workers_pods(namespace),
        deployed | context.starting,
        context.settings.engine_grace,
    )


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
