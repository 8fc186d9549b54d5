"""What is written to a Worker's status."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentos_contracts.reasons import NOT_STARTED, WorkerCondition
from agentos_contracts.worker import DRIFT_SHOWN

from ...kinds import DEPLOYMENT, Object
from ...settings import WORKER_UID_LABEL
from ..conditions import Verdict, build_conditions
from ..objects.metadata import applied_hash, engine_address
from ..pods import live, trouble
from .enforced import enforced
from .functions_in_sync import drift
from .registered import gate
from .replicas import replicas
from .snapshot import WorkerInput

FUNCTIONS_SHOWN = 256


def status(
    i: WorkerInput, verdicts: Mapping[str, Verdict], in_sync: Verdict, children: Sequence[Object], *, running: bool
) -> dict[str, Any]:
    metadata, before = i.worker["metadata"], i.worker.get("status", {})
    deployment = (i.deployment or {}).get("status", {}) if running else {}
    wanted = replicas(i).wanted
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
    if i.draining and not problem:
        progress += f"; {i.draining} going {'pod has' if i.draining == 1 else 'pods have'} calls in progress"
    registered_pods = sum(gate(i, pod) for pod in live(i.pods))
    beside: dict[str, Verdict] = {WorkerCondition.FUNCTIONS_IN_SYNC: in_sync}
    if told := enforced(i):
        beside[WorkerCondition.ENFORCED] = told
    return {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            verdicts,
            settled=settled,
            progress=progress,
            before=before.get("conditions", ()),
            generation=metadata["generation"],
            now=i.now,
            beside=beside,
        ),
        "replicas": deployment.get("replicas", 0),
        "readyReplicas": deployment.get("readyReplicas", 0),
        "registeredPods": registered_pods,
        "functions": functions[:FUNCTIONS_SHOWN],
        "functionCount": len(functions),
        "drift": _drift(i, in_sync),
        "selector": f"{WORKER_UID_LABEL}={metadata['uid']}",
        "engine": engine_address(metadata["namespace"], i.engine.external) if i.engine is not None else "",
        "version": (i.effective.version if i.effective is not None else None) or "",
    }


def _drift(i: WorkerInput, in_sync: Verdict) -> dict[str, Any] | None:
    """What FunctionsInSync is about, as lists; absent without drift."""
    if in_sync.ok or in_sync.reason == NOT_STARTED:
        return None
    found = drift(i)
    if found is None:
        return i.worker.get("status", {}).get("drift")
    return {
        "missing": list(found.missing[:DRIFT_SHOWN]),
        "foreign": list(found.foreign[:DRIFT_SHOWN]),
        "undeclared": list(found.undeclared[:DRIFT_SHOWN]),
    }


def _has_hash_of(deployment: Object | None, children: Sequence[Object]) -> bool:
    """Whether the Deployment is the one that is planned now: right after an edit its counts are those of before."""
    planned = [child for child in children if child["kind"] == DEPLOYMENT.kind]
    return all(applied_hash(deployment or {}) == applied_hash(child) for child in planned)
