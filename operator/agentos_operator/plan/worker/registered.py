"""Registered: the pods are on the bus with the functions that the Worker owns."""

from agentos_contracts.assign import declares_nothing
from agentos_contracts.claimables import is_claimable
from agentos_contracts.reasons import HANDING_OVER, NOT_GRANTED, NOT_REGISTERED, REGISTERED

from ...kinds import Object
from ...settings import REGISTERED_GATE, WORKER_UID_LABEL
from ..bus import answers, listed, pod_connections, unanswered, waiting
from ..conditions import Verdict, is_true
from ..pods import live
from .functions_in_sync import is_discovered, not_granted, settled
from .replicas import replicas
from .snapshot import WorkerInput


def registered(i: WorkerInput) -> Verdict:
    """As many pods as wanted are on the bus with the functions that the Worker owns; if it declares none, with at least one."""
    wanted = replicas(i).wanted
    if wanted == 0:
        return Verdict(True, REGISTERED, "no pod is wanted")
    if i.handover is not None:
        return Verdict(False, HANDING_OVER, i.handover.message)
    if sum(gate(i, pod) for pod in live(i.pods)) >= wanted:
        return Verdict(True, REGISTERED)
    if refused := _gets_nothing(i):
        return Verdict(False, NOT_GRANTED, refused)
    metadata, lacking = i.worker["metadata"], unanswered(i.wanted, i.connections)
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


def _gets_nothing(i: WorkerInput) -> str:
    """Why a Worker that declares no functions gets none of those that it registers; empty when it gets some."""
    if not declares_nothing(i.worker) or any(each.functions for each in i.connections):
        return ""
    refused: dict[str, set[str]] = {}
    for pod in live(i.pods):
        for text, obstacle in not_granted(i, pod).items():
            if not is_claimable(text):
                refused.setdefault(obstacle.text, set()).add(text)
    if not refused:
        return ""
    told = [f"{listed(sorted(function_ids))}, {obstacle}" for obstacle, function_ids in sorted(refused.items())]
    return f"it registers {'; '.join(told)}, and gets no other; name in spec.owns what is free"


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
    """Whether a pod serves what the Worker owns, or some function if it declares none, and waits for nothing that is free."""
    own = pod_connections(i.connections, pod)
    functions = {function_id for each in own for function_id in each.functions}
    gets_nothing = declares_nothing(i.worker) and not functions and any(not is_claimable(each) for each in waiting(own))
    return answers(i.wanted, own) and not gets_nothing and not is_about_to_get_more(i, pod)


def is_about_to_get_more(i: WorkerInput, pod: Object) -> bool:
    """Whether something that a pod has registered is free, and about to be granted."""
    registered = waiting(pod_connections(i.connections, pod))
    return not settled(i, pod) and any(i.ungranted.get(each) is None and is_discovered(i, each) for each in registered)
