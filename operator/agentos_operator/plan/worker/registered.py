"""Registered: the pods are on the bus with the functions that the Worker owns, and with no others."""

from agentos_contracts.assign import declares_nothing
from agentos_contracts.reasons import HANDING_OVER, NOT_GRANTED, NOT_REGISTERED, REGISTERED

from ...kinds import Object
from ...settings import REGISTERED_GATE, WORKER_UID_LABEL
from ..bus import answers, listed, pod_connections, unanswered, waiting
from ..conditions import Verdict, is_true
from ..pods import live
from .replicas import replicas
from .snapshot import REGISTRATION_GRACE, WorkerInput


def registered(i: WorkerInput) -> Verdict:
    """As many pods as wanted are on the bus with the functions that the Worker owns, and with no others."""
    wanted = replicas(i).wanted
    if wanted == 0:
        return Verdict(True, REGISTERED, "no pod is wanted")
    if i.handover is not None:
        return Verdict(False, HANDING_OVER, i.handover.message)
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
    if pod_answers(i, pod):
        return True
    settled = (
        i.engine is not None
        and i.engine.linked
        and min(i.engine.up_for, i.quiet_for.get(pod["metadata"]["uid"], 0.0)) >= i.grace
    )
    return is_true(pod, REGISTERED_GATE) and not settled


def pod_answers(i: WorkerInput, pod: Object) -> bool:
    own = pod_connections(i.connections, pod)
    # What a Worker that declared nothing registers is about to be its own, unless something is in the way.
    coming = declares_nothing(i.worker) and any(not i.ungranted.get(each) for each in waiting(own))
    return answers(i.wanted, own) and not coming
