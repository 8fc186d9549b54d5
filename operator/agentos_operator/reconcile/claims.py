"""One pass over all function claims of a namespace."""

from datetime import UTC, datetime

from agentos_contracts.patterns import Pattern

from ..api import ApiError
from ..kinds import CLAIM, DEPLOYMENT, WORKER, Key
from ..metrics import CLAIM_WRITES
from ..plan import claims
from ..plan.pods import is_gone, is_leaving
from .context import Context, worker_key


async def reconcile(context: Context, namespace: str) -> None:
    """Records who owns what, then wakes the Workers that are touched by it."""
    realm = context.cache.realm_of(namespace)
    dirty = context.dirty.pop(namespace, set())
    try:
        if realm is not None and not realm["metadata"].get("deletionTimestamp"):
            dirty |= await _decide(context, namespace, realm)
    except (ApiError, OSError, TimeoutError):
        context.dirty[namespace] |= dirty
        raise
    for key in dirty:
        context.queue.add(key)


async def _decide(context: Context, namespace: str, realm: dict) -> set[Key]:
    api, cache = context.api, context.cache
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

    def serves(uid: str, pattern: Pattern) -> bool:
        if link is None or not link.up:
            return bool(cache.pods_of(namespace, uid))
        return any(pattern.matches(function_id) for connection in link.of(uid) for function_id in connection.functions)

    plan = claims.plan(claims.ClaimsInput(realm, workers, recorded, serves, started, lingers, datetime.now(UTC)))
    for claim in plan.create:
        cache.put(await api.create(CLAIM, claim))
    for claim in plan.replace:
        cache.put(await api.replace(CLAIM, claim))
    for claim in plan.delete:
        metadata = claim["metadata"]
        await api.delete(CLAIM, namespace, metadata["name"], metadata["uid"], metadata["resourceVersion"])
        cache.drop(Key(CLAIM.kind, namespace, metadata["name"]), metadata["uid"])
    CLAIM_WRITES.inc(plan.writes)
    before = context.waiting.get(namespace, {})
    context.waiting[namespace] = dict(plan.waiting)
    context.keeping[namespace] = plan.keeping
    written = {holder.uid for claim in (*plan.create, *plan.replace) for holder in claims.holders(claim)}
    return {
        worker_key(worker)
        for worker in workers
        if (uid := worker["metadata"]["uid"]) in written or before.get(uid) != plan.waiting.get(uid)
    }
