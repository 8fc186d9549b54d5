"""Available: as many pods as wanted are ready."""

from agentos_contracts.reasons import (
    AVAILABLE,
    PODS_STARTING,
    REPLICAS_SET_ELSEWHERE,
    SCALED_TO_ZERO,
    SUSPENDED,
)

from ..conditions import Verdict
from ..pods import REGISTRATION_GRACE, containers_ready_for, live, refusal, trouble
from .registered import registered
from .replicas import replicas
from .snapshot import WorkerInput


def available(i: WorkerInput) -> Verdict:
    """As many pods as wanted are ready, gate included."""
    number = replicas(i)
    wanted = number.wanted
    if i.worker["spec"].get("suspend") and not wanted:
        return Verdict(False, SUSPENDED)
    if wanted == 0:
        return Verdict(False, SCALED_TO_ZERO, _set_elsewhere(number.set_by) or "spec.replicas is 0: no pod is wanted")
    status = (i.deployment or {}).get("status", {})
    if status.get("availableReplicas", 0) >= wanted:
        counts = f"{status.get('availableReplicas', 0)} of {wanted} pods are available"
        if number.set_by:
            return Verdict(True, REPLICAS_SET_ELSEWHERE, f"{counts}; {_set_elsewhere(number.set_by)}")
        return Verdict(True, AVAILABLE, counts)
    if verdict := refusal(i.deployment or {}) or trouble(i.pods, i.now):
        return verdict
    # Between a container's start and its registration there is always a moment, which is not worth a status write.
    running = [pod for pod in live(i.pods) if (containers_ready_for(pod, i.now) or 0.0) >= REGISTRATION_GRACE]
    if len(running) >= wanted and not registered(i).ok:
        return registered(i)
    # No counts here: they change while pods start, and each change would be a status write.
    return Verdict(False, PODS_STARTING, f"waiting for {wanted} ready {'pod' if wanted == 1 else 'pods'}")


def _set_elsewhere(owner: str) -> str:
    """Who has set the Deployment's number, and how it is given back; empty when nobody has."""
    if not owner:
        return ""
    return (
        f"{owner} has set the Deployment's spec.replicas, and keeps it; scale the Worker instead (a HorizontalPodAutoscaler "
        "targets kind Worker): its next change of spec.replicas, spec.autoscaling or spec.suspend takes the number back"
    )
