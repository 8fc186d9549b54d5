"""What a Worker should look like: its children, its status, and when to look again."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentos_contracts.assign import Clash, declares_nothing
from agentos_contracts.dependencies import Dependency, unmet
from agentos_contracts.effective import Effective
from agentos_contracts.findings import Finding, errors
from agentos_contracts.patterns import Pattern
from agentos_contracts.reasons import (
    AVAILABLE,
    CLAIM_PENDING,
    CLAIMED,
    CLASH,
    ENGINE_NOT_READY,
    ENGINE_UNREACHABLE,
    LINKED,
    MANIFEST_INVALID,
    MANIFEST_NOT_FOUND,
    NO_REALM,
    NOT_GRANTED,
    NOT_REGISTERED,
    NOT_STARTED,
    NOTHING_DECLARED,
    PODS_STARTING,
    REGISTERED,
    SATISFIED,
    SCALED_TO_ZERO,
    VALID,
    WorkerCondition,
)

from ..bus import Connection
from ..kinds import DEPLOYMENT, Object
from ..settings import BUS_PORT, REGISTERED_GATE, WORKER_UID_LABEL
from .bus import answers, listed, pod_connections, unanswered, waiting
from .conditions import Verdict, build_conditions, is_true, summarize
from .objects import applied_hash, engine_host, worker_deployment, worker_service_account, worker_token_secret
from .pods import containers_ready_for, live, refusal, trouble

FUNCTIONS_SHOWN = 256
REGISTRATION_GRACE = 5.0
"""Seconds that a running container has to register before it is told to lack that."""
UNREADY_RETRY = 30.0
"""Seconds after which a Worker that runs and is not Ready is looked at again without any event."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """A realm's engine as this Worker sees it. ``up_for`` and ``down_for``: how long the operator has had a link, or none, in seconds."""

    realm: str
    linked: bool
    up_for: float
    down_for: float


@dataclass(frozen=True, slots=True)
class WorkerInput:
    """Everything that a decision on one Worker may use."""

    worker: Object
    now: datetime
    engine: EngineView | None
    """None: no Realm has the namespace."""
    effective: Effective | None
    """None: the manifest could not be read at all."""
    findings: Sequence[Finding]
    manifest_missing: str
    """Why the ConfigMap's manifest is not there; empty when it is, or is inline."""
    wanted: tuple[Pattern, ...]
    held: frozenset[str]
    """Patterns recorded for this Worker in FunctionClaims."""
    clashes: Sequence[Clash]
    granted: bool
    """Whether the engine knows what this Worker may do; True while it cannot be told."""
    ungranted: Mapping[str, str]
    """Functions that it registers and was not granted, each with who or what stands in the way; empty: nothing known."""
    providers: Sequence[Dependency]
    built_in: frozenset[str]
    """Names that the engine itself satisfies."""
    deployment: Object | None
    pods: Sequence[Object]
    connections: Sequence[Connection]
    quiet_for: Mapping[str, float]
    """Seconds since the connections of each pod, by its uid, last changed."""
    token: str = field(repr=False)
    grace: float


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The answer. ``children`` are to be there as they stand; with ``stop`` the Deployment is to be gone.

    ``gates`` are the pods whose readiness gate has to change, and to what.
    """

    children: tuple[Object, ...]
    stop: bool
    gates: tuple[tuple[Object, bool], ...]
    status: dict[str, Any]
    requeue_after: float | None = None


def plan(i: WorkerInput) -> WorkerPlan:
    """Decides. Pure: the same input gives the same plan."""
    verdicts: dict[str, Verdict] = {
        WorkerCondition.MANIFEST_VALID: manifest_valid(i),
        WorkerCondition.ENGINE_LINKED: engine_linked(i),
        WorkerCondition.FUNCTIONS_CLAIMED: functions_claimed(i),
        WorkerCondition.DEPENDENCIES_READY: dependencies_ready(i),
    }
    started = i.deployment is not None
    in_realm = i.engine is not None
    valid, claimed = verdicts[WorkerCondition.MANIFEST_VALID].ok, verdicts[WorkerCondition.FUNCTIONS_CLAIMED].ok
    may_start = in_realm and valid and claimed and verdicts[WorkerCondition.DEPENDENCIES_READY].ok
    if started and not verdicts[WorkerCondition.DEPENDENCIES_READY].ok and in_realm and valid and claimed:
        # Dependencies gate the first start only; what runs goes on, and is updated.
        may_start = True
        verdicts[WorkerCondition.DEPENDENCIES_READY] = Verdict(
            True,
            SATISFIED,
            f"were ready at the first start; now: {verdicts[WorkerCondition.DEPENDENCIES_READY].message}",
        )
    children: tuple[Object, ...] = ()
    if may_start and i.effective is not None and i.engine is not None:
        children = _children(i, i.effective, i.engine.realm)
    # A mistake in an edit leaves what runs alone; a Worker that waits and holds nothing, or lost its realm, must not run.
    stop = started and (not in_realm or (bool(i.clashes) and not i.held))
    runs = (started and not stop) or bool(children)
    verdicts[WorkerCondition.AVAILABLE] = available(i) if runs else Verdict(False, NOT_STARTED)
    verdicts[WorkerCondition.REGISTERED] = registered(i) if runs else Verdict(False, NOT_STARTED)
    ready = summarize(verdicts).ok or not runs
    gates = tuple((pod, gate(i, pod)) for pod in live(i.pods) if gate(i, pod) != is_true(pod, REGISTERED_GATE))
    return WorkerPlan(children, stop, gates, _status(i, verdicts, children, running=runs), _requeue(i, ready))


def _requeue(i: WorkerInput, ready: bool) -> float | None:
    """When a grace ends that this plan relied on."""
    if i.engine is None:
        return None
    if not i.engine.linked:
        return i.grace - i.engine.down_for + 0.1 if i.engine.down_for < i.grace else None
    grace = [
        i.grace - min(i.quiet_for.get(pod["metadata"]["uid"], 0.0), i.engine.up_for) + 0.1
        for pod in live(i.pods)
        if gate(i, pod) and not _pod_answers(i, pod)
    ]
    connecting = [
        REGISTRATION_GRACE - seconds + 0.1
        for pod in live(i.pods)
        if (seconds := containers_ready_for(pod, i.now)) is not None and seconds < REGISTRATION_GRACE
    ]
    # What is not watched may be what keeps it from being Ready, so that is looked at again.
    return min([*grace, *([] if ready else [*connecting, UNREADY_RETRY])], default=None)


def _children(i: WorkerInput, effective: Effective, realm: str) -> tuple[Object, ...]:
    accounts = () if i.worker["spec"].get("serviceAccountName") else (worker_service_account(i.worker, realm),)
    token_hash = hashlib.sha256(i.token.encode()).hexdigest()[:16]
    return (
        worker_token_secret(i.worker, realm, i.token),
        *accounts,
        worker_deployment(i.worker, realm, effective, token_hash),
    )


# --- One policy function for each condition ---


def manifest_valid(i: WorkerInput) -> Verdict:
    """The Worker's spec and manifest have no error."""
    if i.manifest_missing:
        return Verdict(False, MANIFEST_NOT_FOUND, i.manifest_missing)
    found = errors(i.findings)
    if found:
        return Verdict(False, MANIFEST_INVALID, "; ".join(str(finding) for finding in found))
    return Verdict(True, VALID)


def engine_linked(i: WorkerInput) -> Verdict:
    """The namespace has a Realm and the operator a link to its engine; short breaks do not count."""
    namespace = i.worker["metadata"]["namespace"]
    if i.engine is None:
        return Verdict(
            False,
            NO_REALM,
            f"no Realm has namespace {namespace}; make one with spec.namespace: {namespace}, or apply the Worker in a realm's namespace",
        )
    if i.engine.linked:
        return Verdict(True, LINKED)
    if i.engine.down_for < i.grace:
        if is_true(i.worker, WorkerCondition.ENGINE_LINKED):
            return Verdict(True, LINKED, f"the link to the engine has been down for less than {i.grace:.0f} s")
        return Verdict(
            False,
            ENGINE_NOT_READY,
            f"the engine of realm {i.engine.realm} is starting; see kubectl get realm {i.engine.realm}",
        )
    return Verdict(
        False,
        ENGINE_UNREACHABLE,
        f"the engine of realm {i.engine.realm} cannot be reached at {engine_host(namespace)}:{BUS_PORT}; "
        f"see kubectl describe realm {i.engine.realm} and kubectl logs -n {namespace} agentos-engine-0",
    )


def functions_claimed(i: WorkerInput) -> Verdict:
    """Every pattern of spec.owns is recorded for this Worker, and the engine knows it before the first pod starts."""
    pending = Verdict(False, CLAIM_PENDING, "waiting for the engine to take what this Worker may register and call")
    untold = not i.granted and i.deployment is None
    if not i.wanted:
        return pending if untold else Verdict(True, NOTHING_DECLARED)
    if i.clashes:
        held = "; ".join(clash.message for clash in i.clashes)
        return Verdict(
            False, CLASH, f"{held}; no pod runs until it is free: delete the holder, or claim other functions"
        )
    missing = sorted(pattern.text for pattern in i.wanted if pattern.text not in i.held)
    if missing:
        return Verdict(False, CLAIM_PENDING, f"{', '.join(missing)}: the claim is being recorded")
    if untold:
        return pending
    return Verdict(True, CLAIMED, ", ".join(sorted(pattern.text for pattern in i.wanted)))


def dependencies_ready(i: WorkerInput) -> Verdict:
    """Everything that the worker depends on is there, in a fitting version, and Ready."""
    if i.effective is None or not manifest_valid(i).ok:
        return Verdict(True, SATISFIED)
    lacking = unmet(i.effective.dependencies, i.providers, i.built_in)
    return Verdict(False, *lacking) if lacking else Verdict(True, SATISFIED)


def available(i: WorkerInput) -> Verdict:
    """As many pods as wanted are ready, gate included."""
    wanted = i.worker["spec"].get("replicas", 1)
    if wanted == 0:
        return Verdict(False, SCALED_TO_ZERO, "spec.replicas is 0: no pod is wanted")
    status = (i.deployment or {}).get("status", {})
    if status.get("availableReplicas", 0) >= wanted:
        return Verdict(True, AVAILABLE, f"{status.get('availableReplicas', 0)} of {wanted} pods are available")
    if verdict := refusal(i.deployment or {}) or trouble(i.pods, i.now):
        return verdict
    # Between a container's start and its registration there is always a moment, which is not worth a status write.
    running = [pod for pod in live(i.pods) if (containers_ready_for(pod, i.now) or 0.0) >= REGISTRATION_GRACE]
    if len(running) >= wanted and not registered(i).ok:
        return registered(i)
    # No counts here: they change while pods start, and each change would be a status write.
    return Verdict(False, PODS_STARTING, f"waiting for {wanted} ready {'pod' if wanted == 1 else 'pods'}")


def registered(i: WorkerInput) -> Verdict:
    """As many pods as wanted are on the bus with the functions that the Worker owns, and with no others."""
    wanted = i.worker["spec"].get("replicas", 1)
    if wanted == 0:
        return Verdict(True, REGISTERED, "no pod is wanted")
    lacking = unanswered(i.wanted, i.connections)
    if refused := not_granted(i):
        missing = f"; it has not registered {', '.join(lacking)}" if lacking else ""
        return Verdict(False, NOT_GRANTED, refused + missing)
    if sum(gate(i, pod) for pod in live(i.pods)) >= wanted:
        return Verdict(True, REGISTERED)
    metadata = i.worker["metadata"]
    if i.connections and lacking:
        what = f"it is connected to the engine, but has not registered {', '.join(lacking)}"
    elif i.connections:
        what = "not every pod has registered its functions on the engine"
    else:
        what = "no pod has connected to the engine at $III_URL"
    return Verdict(
        False,
        NOT_REGISTERED,
        f"{what}; look at its logs: kubectl logs -n {metadata['namespace']} -l {WORKER_UID_LABEL}={metadata['uid']}",
    )


def not_granted(i: WorkerInput) -> str:
    """Which functions the pods register and do not get, why, and what to do; empty when there is none."""
    undeclared = declares_nothing(i.worker)
    refused: dict[str, set[str]] = {}
    for pod in live(i.pods):
        settled = i.quiet_for.get(pod["metadata"]["uid"], 0.0) >= REGISTRATION_GRACE
        for function_id in waiting(pod_connections(i.connections, pod)) & i.ungranted.keys():
            obstacle = i.ungranted[function_id]
            # What is added to spec.owns is told by FunctionsClaimed; who declared nothing is about to get what is free.
            coming = not (obstacle or settled) if undeclared else any(each.matches(function_id) for each in i.wanted)
            if not coming:
                refused.setdefault(obstacle or "which spec.owns does not cover", set()).add(function_id)
    if not refused:
        return ""
    told = [f"{listed(sorted(function_ids))}, {obstacle}" for obstacle, function_ids in sorted(refused.items())]
    return f"it registers {'; '.join(told)}; add to spec.owns what is free, and have it register nothing else"


def gate(i: WorkerInput, pod: Object) -> bool:
    """What a pod's readiness gate should be: True once it answers on the bus.

    It turns False again only when the pod has not answered for the grace while the link to the engine was up all that
    time: an outage of engine or operator, or a short reconnection, changes nothing.
    """
    if _pod_answers(i, pod):
        return True
    settled = (
        i.engine is not None
        and i.engine.linked
        and min(i.engine.up_for, i.quiet_for.get(pod["metadata"]["uid"], 0.0)) >= i.grace
    )
    return is_true(pod, REGISTERED_GATE) and not settled


def _pod_answers(i: WorkerInput, pod: Object) -> bool:
    own = pod_connections(i.connections, pod)
    # What a Worker that declared nothing registers is about to be its own, unless something is in the way.
    coming = declares_nothing(i.worker) and any(not i.ungranted.get(each) for each in waiting(own))
    return answers(i.wanted, own) and not coming


# --- Status ---


def _has_hash_of(deployment: Object | None, children: Sequence[Object]) -> bool:
    """Whether the Deployment is the one that is planned now: right after an edit its counts are those of before."""
    planned = [child for child in children if child["kind"] == DEPLOYMENT.kind]
    return all(applied_hash(deployment or {}) == applied_hash(child) for child in planned)


def _status(
    i: WorkerInput, verdicts: Mapping[str, Verdict], children: Sequence[Object], *, running: bool
) -> dict[str, Any]:
    metadata, before = i.worker["metadata"], i.worker.get("status", {})
    deployment = (i.deployment or {}).get("status", {}) if running else {}
    wanted = i.worker["spec"].get("replicas", 1)
    settled = (
        deployment.get("updatedReplicas", 0) >= wanted
        and deployment.get("replicas", 0) <= wanted
        and deployment.get("observedGeneration", 0) >= (i.deployment or {}).get("metadata", {}).get("generation", 0)
        and _has_hash_of(i.deployment, children)
    )
    problem = trouble(i.pods, i.now)
    progress = (
        problem.message
        if problem
        else f"{deployment.get('updatedReplicas', 0)} of {wanted} pods have the newest template"
    )
    functions = sorted({function_id for connection in i.connections for function_id in connection.functions})
    registered_pods = sum(gate(i, pod) for pod in live(i.pods))
    status: dict[str, Any] = {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            verdicts,
            settled=settled,
            progress=progress,
            before=before.get("conditions", ()),
            generation=metadata["generation"],
            now=i.now,
        ),
        "replicas": deployment.get("replicas", 0),
        "readyReplicas": deployment.get("readyReplicas", 0),
        "registeredPods": registered_pods,
        "functions": functions[:FUNCTIONS_SHOWN],
        "functionCount": len(functions),
        "selector": f"{WORKER_UID_LABEL}={metadata['uid']}",
        "engine": f"{engine_host(metadata['namespace'])}:{BUS_PORT}" if i.engine is not None else "",
        "version": (i.effective.version if i.effective is not None else None) or "",
    }
    return status
