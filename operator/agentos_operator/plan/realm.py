"""What a Realm should look like: its namespace, its engine, its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentos_contracts.findings import Finding, error, errors
from agentos_contracts.reasons import (
    ENGINE_AVAILABLE,
    ENGINE_NOT_READY,
    ENGINE_STARTING,
    ENGINE_STORAGE_PENDING,
    ENGINE_UNREACHABLE,
    LINKED,
    NAMESPACE_READY,
    NAMESPACE_TAKEN,
    NAMESPACE_TERMINATING,
    NOT_STARTED,
    REALM_INVALID,
    RealmCondition,
)

from ..kinds import Object, owned_by
from ..settings import BUS_PORT, FIELD_MANAGER, HTTP_PORT, MANAGED_BY_LABEL, REALM_LABEL
from .conditions import Verdict, build_conditions, is_true
from .objects import (
    api_key_secret,
    engine_host,
    engine_service,
    engine_service_account,
    engine_statefulset,
    http_auth,
    realm_namespace,
)
from .pods import refusal, trouble


@dataclass(frozen=True, slots=True)
class RealmInput:
    """Everything that a decision on one Realm may use."""

    realm: Object
    now: datetime
    findings: Sequence[Finding]
    namespace: Object | None
    rival: str
    """Name of an older Realm with the same namespace; else empty."""
    statefulset: Object | None
    pods: Sequence[Object]
    unbound_volume: str
    """Name of the engine's PersistentVolumeClaim while it is not bound."""
    linked: bool
    down_for: float
    link_error: str
    connections: int
    workers: Sequence[Object]
    image: str
    verify_keys: str
    grace: float
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of the engine's container."""


@dataclass(frozen=True, slots=True)
class RealmPlan:
    """The answer: ``namespace`` to make or to label (None: leave it), the Secret for a key to be made once, the status."""

    namespace: Object | None
    api_key: Object | None
    children: tuple[Object, ...]
    status: dict[str, Any]


def plan(i: RealmInput) -> RealmPlan:
    """Decides. Pure: the same input gives the same plan."""
    verdicts: dict[str, Verdict] = {RealmCondition.NAMESPACE_READY: namespace_ready(i)}
    mine = verdicts[RealmCondition.NAMESPACE_READY].ok
    children: tuple[Object, ...] = ()
    if mine:
        children = (
            engine_service_account(i.realm),
            engine_service(i.realm),
            engine_statefulset(i.realm, i.image, i.verify_keys, i.engine_environment),
        )
    verdicts[RealmCondition.ENGINE_AVAILABLE] = engine_available(i) if mine else Verdict(False, NOT_STARTED)
    verdicts[RealmCondition.ENGINE_LINKED] = engine_linked(i)
    namespace = realm_namespace(i.realm) if mine and not _namespace_is_right(i) else None
    api_key = api_key_secret(i.realm) if mine and "apiKeysFile" in http_auth(i.realm) else None
    return RealmPlan(namespace, api_key, children, _status(i, verdicts))


def _namespace_is_right(i: RealmInput) -> bool:
    """Whether the namespace is there and marked, and goes with the Realm just when it should."""
    if i.namespace is None:
        return False
    labels, name = i.namespace["metadata"].get("labels", {}), i.realm["metadata"]["name"]
    if labels.get(REALM_LABEL) != name:
        return False
    made_here = labels.get(MANAGED_BY_LABEL) == FIELD_MANAGER
    wanted = made_here and i.realm["spec"].get("deletionPolicy") == "Delete"
    return owned_by(i.namespace, i.realm["metadata"]["uid"]) == wanted


def own_namespace(realm: Mapping[str, Any], operators: str) -> list[Finding]:
    """An error when a Realm wants the operator's namespace: Workers there could read the key that signs identities."""
    spec = realm.get("spec")
    if not isinstance(spec, Mapping) or spec.get("namespace") != operators:
        return []
    message = f"{operators} is the operator's own, with the key that signs identities; give the Realm another namespace"
    return [error("spec.namespace", "Reserved", message)]


def namespace_ready(i: RealmInput) -> Verdict:
    """The spec is sound, and the namespace is this Realm's or free to take."""
    if found := errors(i.findings):
        return Verdict(False, REALM_INVALID, "; ".join(str(finding) for finding in found))
    name = i.realm["spec"]["namespace"]
    if i.rival:
        return Verdict(
            False,
            NAMESPACE_TAKEN,
            f"namespace {name} belongs to Realm {i.rival}; give this Realm another spec.namespace",
        )
    if i.namespace is not None and i.namespace["metadata"].get("deletionTimestamp"):
        return Verdict(False, NAMESPACE_TERMINATING, f"namespace {name} is being deleted; wait until it is gone")
    return Verdict(True, NAMESPACE_READY)


def engine_available(i: RealmInput) -> Verdict:
    """The engine's pod is ready."""
    if i.statefulset is not None and i.statefulset.get("status", {}).get("readyReplicas", 0) >= 1:
        return Verdict(True, ENGINE_AVAILABLE)
    if i.unbound_volume:
        namespace = i.realm["spec"]["namespace"]
        return Verdict(
            False,
            ENGINE_STORAGE_PENDING,
            f"the volume {i.unbound_volume} is not bound; see kubectl describe pvc -n {namespace} {i.unbound_volume}",
        )
    if verdict := refusal(i.statefulset or {}) or trouble(i.pods, i.now):
        return verdict
    return Verdict(False, ENGINE_STARTING, "waiting for the engine's pod")


def engine_linked(i: RealmInput) -> Verdict:
    """The operator is connected to the engine; short breaks do not count."""
    if i.linked:
        return Verdict(True, LINKED, i.link_error)
    if not engine_available(i).ok:
        return Verdict(False, ENGINE_NOT_READY, "the engine is not there yet")
    if i.down_for < i.grace:
        if is_true(i.realm, RealmCondition.ENGINE_LINKED):
            return Verdict(True, LINKED, f"the link has been down for less than {i.grace:.0f} s")
        return Verdict(False, ENGINE_NOT_READY, "waiting for the first connection to the engine")
    host = engine_host(i.realm["spec"]["namespace"])
    why = f" ({i.link_error})" if i.link_error else ""
    return Verdict(
        False,
        ENGINE_UNREACHABLE,
        f"the operator cannot reach the engine at {host}:{BUS_PORT}{why}; look at the engine's logs",
    )


def _status(i: RealmInput, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    metadata = i.realm["metadata"]
    host = engine_host(i.realm["spec"]["namespace"])
    return {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            verdicts,
            settled=True,
            progress="",
            before=i.realm.get("status", {}).get("conditions", ()),
            generation=metadata["generation"],
            now=i.now,
        ),
        "workers": len(i.workers),
        "readyWorkers": sum(is_true(worker, "Ready") for worker in i.workers),
        "engine": {
            "url": f"ws://{host}:{BUS_PORT}",
            "httpUrl": f"http://{host}:{HTTP_PORT}",
            "httpAuth": http_auth(i.realm)["auth"],
            "connections": i.connections,
        },
    }
