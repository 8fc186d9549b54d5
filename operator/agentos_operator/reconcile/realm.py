"""One pass over a Realm."""

import base64
import contextlib
import re
from datetime import UTC, datetime

from agentos_contracts.external_engine import TOKEN_PLACE, external_engine
from agentos_contracts.findings import errors
from agentos_contracts.patterns import Pattern
from agentos_contracts.reasons import ADDRESS_PENDING, RealmCondition
from agentos_contracts.validation import validate_realm
from agentos_contracts.worker import ENGINE_NAME

from ..api import AlreadyExists, ApiError, KindMissing, NotFound
from ..apply import NotOurs
from ..external_link import pods_by_host
from ..keys import new_api_key
from ..kinds import (
    CLAIM,
    GATEWAY,
    HTTP_ROUTE,
    INGRESS,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    REALM,
    SECRET,
    STATEFULSET,
    WORKER,
    Key,
    Object,
    owned_by,
)
from ..metrics import OBJECTS_WRITTEN
from ..plan import realm as planner
from ..plan.claims import holders
from ..plan.conditions import condition_of, is_true
from ..plan.objects.exposure import exposure
from ..settings import FIELD_MANAGER, MANAGED_BY_LABEL, REALM_LABEL, WORKER_LABEL, Settings
from ..status import refused
from .context import REFUSED_RETRY, Context

TERMINATING_RETRY = 5.0
TOKEN_FORM = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
"""Of a token that somebody else's engine wants: what needs no escaping in an address, nor in a pod's variable."""
UNREADY_RETRY = 30.0


async def reconcile(context: Context, key: Key) -> None:
    """Brings the realm's namespace, engine, link and status about."""
    realm = context.cache.get(REALM, "", key.name)
    if realm is None or realm["metadata"].get("deletionTimestamp"):
        await _gone(context, key.name)
        if realm is not None:
            namespace = realm["spec"]["namespace"]
            if context.cache.realm_of(namespace) is realm:
                context.ended[namespace] = key.name
            left = [pod for pod in context.cache.all(POD, namespace) if WORKER_LABEL in pod["metadata"]["labels"]]
            status = planner.deleting(realm, context.engine_pods(namespace), left, datetime.now(UTC))
            await context.status.write(key, REALM, realm, status)
        for namespace in [each for each, name in context.ended.items() if name == key.name]:
            context.workers_changed(namespace)
        return
    context.ended.pop(realm["spec"]["namespace"], None)
    token, token_missing = await _token(context, realm)
    snapshot = await _observe(context, realm, token_missing)
    plan = planner.plan(snapshot)
    status = plan.status
    try:
        if plan.namespace is not None:
            await _take_namespace(context, plan.namespace, snapshot.namespace)
        if plan.api_key is not None and await context.applier.make_once(
            plan.api_key, new_api_key, realm["metadata"]["uid"]
        ):
            OBJECTS_WRITTEN.labels("Secret").inc()
        for child in plan.children:
            if await context.applier.ensure(child, realm["metadata"]["uid"]):
                OBJECTS_WRITTEN.labels(child["kind"]).inc()
        for absent in plan.absent:
            await context.applier.remove(absent, realm["metadata"]["uid"])
        if plan.link:
            await _link(context, realm, token)
    except NotOurs as error:
        status = refused(realm, status, "EngineAvailable", str(error))
        context.queue.add(key, REFUSED_RETRY)
    except ApiError as error:
        if error.status not in (400, 403, 422):
            raise
        status = refused(realm, status, "EngineAvailable", f"the cluster refuses the engine's objects: {error.message}")
        context.queue.add(key, REFUSED_RETRY)
    was_available = is_true(realm, "EngineAvailable")
    await context.status.write(key, REALM, realm, status)
    if was_available != is_true({"status": status}, "EngineAvailable"):
        context.workers_changed(realm["spec"]["namespace"])
    if snapshot.namespace is not None and snapshot.namespace["metadata"].get("deletionTimestamp"):
        # Namespaces are not watched, and what was made in this one goes with it.
        context.applier.forget(realm["metadata"]["uid"])
        context.queue.add(key, TERMINATING_RETRY)
    elif not is_true({"status": status}, "Ready") or _waits_for_address(status):
        # What is not watched (its ServiceAccount, its Service, its Ingress) may be what is missing.
        context.queue.add(key, UNREADY_RETRY)
    if not snapshot.linked and snapshot.down_for < snapshot.grace:
        context.queue.add(key, snapshot.grace - snapshot.down_for + 0.1)


async def _token(context: Context, realm: Object) -> tuple[str, str]:
    """The token of an external engine, and why there is none although it wants one. Only ever of the realm's namespace."""
    reference = (external_engine(realm) or {}).get("tokenSecretRef")
    if not reference:
        return "", ""
    namespace, name, key = realm["spec"]["namespace"], reference["name"], reference.get("key", "token")
    try:
        secret = await context.api.get(SECRET, namespace, name)
    except NotFound:
        return "", f"Secret {name} is not there in namespace {namespace}; make it, with the engine's token as {key}"
    try:
        token = base64.b64decode(secret.get("data", {}).get(key, "")).decode("ascii").strip()
    except ValueError:
        token = ""
    if not TOKEN_FORM.fullmatch(token):
        return (
            "",
            f"Secret {name} in namespace {namespace} has no token as {key}: letters, digits and -._~+/= in one line",
        )
    return token, ""


async def _link(context: Context, realm: Object, token: str) -> None:
    external = external_engine(realm)
    if external is None:
        await context.links.keep(realm, context.ring)
        return
    namespace = realm["spec"]["namespace"]
    url = external["url"].replace(TOKEN_PLACE, token)
    await context.links.keep_external(realm, url, lambda: pods_by_host(context.cache.all(POD, namespace)))


def _clashes(context: Context, realm: Object) -> dict[tuple[str, str], frozenset[str]]:
    """Strangers on an external engine that serve what a Worker of the realm holds."""
    link = context.links.get(realm["metadata"]["name"])
    found: dict[tuple[str, str], frozenset[str]] = {}
    if link is None or not link.strangers:
        return found
    held = [holder for claim in context.cache.all(CLAIM, realm["spec"]["namespace"]) for holder in holders(claim)]
    for stranger, functions in link.strangers.items():
        for holder in held:
            pattern = Pattern(holder.pattern)
            if both := {each for each in functions if pattern.matches(each)}:
                found[holder.worker, stranger] = found.get((holder.worker, stranger), frozenset()) | both
    return found


async def _observe(context: Context, realm: Object, token_missing: str) -> planner.RealmInput:
    cache, name, namespace_name = context.cache, realm["metadata"]["name"], realm["spec"]["namespace"]
    uid = realm["metadata"]["uid"]
    findings = [*validate_realm(realm), *planner.own_namespace(realm, context.settings.namespace)]
    namespace = None if errors(findings) else await _namespace(context, namespace_name)
    there = namespace is not None
    statefulset = cache.get(STATEFULSET, namespace_name, ENGINE_NAME)
    if statefulset is not None and not owned_by(statefulset, uid):
        statefulset = None
    link = context.links.get(name)
    engine_ready = bool((statefulset or {}).get("status", {}).get("readyReplicas"))
    stored = realm["spec"].get("engine", {}).get("storage")
    exposed, gateway, gateway_api = await _exposed(context, realm) if there else (None, None, True)
    return planner.RealmInput(
        realm=realm,
        now=datetime.now(UTC),
        findings=findings,
        namespace=namespace,
        rival=_rival(context, realm),
        statefulset=statefulset,
        pods=context.engine_pods(namespace_name),
        unbound_volume=await _unbound_volume(context, namespace_name) if there and stored and not engine_ready else "",
        linked=link is not None and link.up,
        down_for=context.links.down_for(name),
        link_error=link.last_error or link.grants_error if link is not None else "",
        connections=link.connected if link is not None else 0,
        workers=cache.all(WORKER, namespace_name),
        image=context.settings.image,
        verify_keys=",".join(context.ring.verify_keys),
        engine_environment=context.settings.engine_environment,
        allotment=context.quotas.allotment(namespace_name, realm),
        operator_peers=_operator_peers(context.settings),
        metrics_peers=context.settings.metrics_from,
        exposed=exposed,
        gateway=gateway,
        gateway_api=gateway_api,
        grace=context.settings.engine_grace,
        makes_namespaces=not context.settings.watch_namespaces,
        token_missing=token_missing,
        rotating_until=context.ring.until if context.ring.previous is not None else None,
        old_key_users=context.still_using(name, context.ring),
        clashes=_clashes(context, realm),
    )


def _operator_peers(settings: Settings) -> list[Object] | None:
    """How NetworkPolicies know the operator's pods; None when it is none."""
    if not settings.operator_labels:
        return None
    namespace = {"kubernetes.io/metadata.name": settings.namespace}
    pods = {"matchLabels": dict(settings.operator_labels)}
    return [{"namespaceSelector": {"matchLabels": namespace}, "podSelector": pods}]


async def _exposed(context: Context, realm: Object) -> tuple[Object | None, Object | None, bool]:
    """The Ingress or HTTPRoute as it is, the route's Gateway as far as it may be read, and whether there are HTTPRoutes at all.

    None of these kinds is watched: the Gateway API need not be there.
    """
    expose, own = exposure(realm), realm["spec"]["namespace"]
    if not expose:
        return None, None, True
    by_route = expose["type"] == "Gateway"
    route = gateway = None
    try:
        route = await context.api.get(HTTP_ROUTE if by_route else INGRESS, own, ENGINE_NAME)
    except KindMissing:
        return None, None, False
    except NotFound:
        pass
    if by_route and "gateway" in expose:
        with contextlib.suppress(ApiError):
            gateway = await context.api.get(
                GATEWAY, expose["gateway"].get("namespace") or own, expose["gateway"]["name"]
            )
    return route, gateway, True


def _waits_for_address(status: Object) -> bool:
    return condition_of({"status": status}, RealmCondition.EXPOSED).get("reason") == ADDRESS_PENDING.name


async def _namespace(context: Context, name: str) -> Object | None:
    try:
        return await context.api.get(NAMESPACE, None, name)
    except NotFound:
        return None
    except ApiError as error:
        # Rights in single namespaces are objects in them, and go with them.
        if error.status == 403 and context.settings.watch_namespaces:
            return None
        raise


def _rival(context: Context, realm: Object) -> str:
    """The older Realm that has the namespace already; empty when it is this one's."""
    holder = context.cache.realm_of(realm["spec"]["namespace"])
    return (
        holder["metadata"]["name"]
        if holder is not None and holder["metadata"]["uid"] != realm["metadata"]["uid"]
        else ""
    )


async def _unbound_volume(context: Context, namespace: str) -> str:
    name = f"data-{ENGINE_NAME}-0"
    try:
        claim = await context.api.get(PERSISTENT_VOLUME_CLAIM, namespace, name)
    except NotFound:
        return ""
    return "" if claim.get("status", {}).get("phase") == "Bound" else name


async def _take_namespace(context: Context, wanted: Object, actual: Object | None) -> None:
    """Makes the namespace, or marks the one that is there as this Realm's. One that was there is never deleted with it."""
    name = wanted["metadata"]["name"]
    if actual is None:
        try:
            await context.api.create(NAMESPACE, wanted)
            return
        except AlreadyExists:
            actual = await context.api.get(NAMESPACE, None, name)
    there = actual["metadata"]
    metadata = {
        "resourceVersion": there["resourceVersion"],
        "labels": {REALM_LABEL: wanted["metadata"]["labels"][REALM_LABEL]},
    }
    if there.get("labels", {}).get(MANAGED_BY_LABEL) == FIELD_MANAGER:
        metadata["ownerReferences"] = wanted["metadata"].get("ownerReferences")
    await context.api.patch(NAMESPACE, None, name, {"metadata": metadata})


async def _gone(context: Context, name: str) -> None:
    await context.links.drop(name)
    for statefulset in context.cache.all(STATEFULSET):
        metadata = statefulset["metadata"]
        owners = [ref["name"] for ref in metadata.get("ownerReferences", ()) if ref["kind"] == REALM.kind]
        if metadata["labels"].get(REALM_LABEL) != name or owners != [name]:
            continue
        context.ended[metadata["namespace"]] = name
        if not metadata.get("deletionTimestamp"):
            # The garbage collector would do it as well, but learns of new kinds only every 30 s.
            await context.api.delete(STATEFULSET, metadata["namespace"], metadata["name"], metadata["uid"])
            for ref in metadata.get("ownerReferences", ()):
                context.applier.forget(ref["uid"])
        context.workers_changed(metadata["namespace"])
