"""Available: as many pods as wanted are ready."""

from agentos_contracts.reasons import AVAILABLE, PODS_STARTING, SCALED_TO_ZERO

from ..conditions import Verdict
from ..pods import containers_ready_for, live, refusal, trouble
from .registered import registered
from .snapshot import REGISTRATION_GRACE, WorkerInput


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
