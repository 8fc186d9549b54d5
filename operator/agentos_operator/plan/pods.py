"""What pods say of themselves, in the words of the reason table."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentos_contracts.pod_template import WORKER_CONTAINER
from agentos_contracts.reasons import (
    CONTAINER_CONFIG_INVALID,
    CRASH_LOOPING,
    IMAGE_PULL_FAILED,
    POD_REFUSED,
    UNSCHEDULABLE,
)

from .conditions import Verdict, condition_of

Pod = dict[str, Any]
REGISTRATION_GRACE = 5.0
"""Seconds that a running container has to register before it is told to lack that."""

PULL_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}


CONFIG_GRACE = 10.0
"""Seconds: before that a kubelet may just not have seen a Secret yet that was made together with the pod."""


def _age(pod: Pod, now: datetime) -> float:
    return (now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()


def is_gone(pod: Pod) -> bool:
    """Whether all of a pod's containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_leaving(pod: Pod) -> bool:
    """Whether a pod is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def seconds_to_drain(pod: Pod, now: datetime) -> float:
    """Seconds that a pod which is being deleted still has for its calls in progress, before it is told to end."""
    metadata = pod["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds") or 0
    deleted = datetime.fromisoformat(metadata["deletionTimestamp"]) - timedelta(seconds=grace)
    containers = pod.get("spec", {}).get("containers", ())
    worker = next((each for each in containers if each.get("name") == WORKER_CONTAINER), {})
    sleep = worker.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return max(0.0, min(sleep, grace) - (now - deleted).total_seconds())


def live(pods: Sequence[Pod]) -> list[Pod]:
    """The pods that are there to stay."""
    return [pod for pod in pods if not is_leaving(pod) and not is_gone(pod)]


def containers_ready_for(pod: Pod, now: datetime) -> float | None:
    """Seconds for which all containers have been ready (the pod itself is only after its gate, too); None: they are not."""
    condition = condition_of(pod, "ContainersReady")
    if condition.get("status") != "True":
        return None
    return max(0.0, (now - datetime.fromisoformat(condition["lastTransitionTime"])).total_seconds())


def trouble(pods: Sequence[Pod], now: datetime) -> Verdict | None:
    """The first thing that keeps a pod from running, or None. The newest pod is asked first: it has the newest template."""
    for pod in sorted(live(pods), key=lambda p: p["metadata"].get("creationTimestamp", ""), reverse=True):
        if verdict := _container_trouble(pod, now) or _scheduling_trouble(pod):
            return verdict
    return None


def refusal(owner: Mapping[str, Any]) -> Verdict | None:
    """What a Deployment says when its pods cannot even be made (quota, Pod Security, admission)."""
    condition = condition_of(owner, "ReplicaFailure")
    if condition.get("status") != "True":
        return None
    return Verdict(False, POD_REFUSED, f"the cluster refuses to make the pod: {condition.get('message', '')}")


def _container_trouble(pod: Pod, now: datetime) -> Verdict | None:
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    statuses = pod.get("status", {})
    for status in (*statuses.get("initContainerStatuses", ()), *statuses.get("containerStatuses", ())):
        waiting = status.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        container = status.get("name", WORKER_CONTAINER)
        ours = container in (WORKER_CONTAINER, "engine")
        who = "the container" if ours else f"the container {container}"
        if reason in PULL_REASONS:
            image = f'the image "{status["image"]}"'
            if not ours:
                message = (
                    f"{image} of {who} cannot be pulled; mend the template that adds it, or name a pull secret there"
                )
                return Verdict(False, IMAGE_PULL_FAILED, message)
            message = f"{image} cannot be pulled; mend spec.image, or name a pull secret in spec.imagePullSecrets"
            return Verdict(False, IMAGE_PULL_FAILED, message)
        if reason in CONFIG_REASONS and _age(pod, now) >= CONFIG_GRACE:
            message = f"{who} cannot be started: {waiting.get('message', reason)}"
            return Verdict(False, CONTAINER_CONFIG_INVALID, message)
        if reason == "CrashLoopBackOff" or (status.get("restartCount", 0) >= 2 and not status.get("ready")):
            ended = status.get("lastState", {}).get("terminated", {}) or status.get("state", {}).get("terminated", {})
            message = (
                f"{who} ends again and again (exit code {ended.get('exitCode', 'unknown')}); look at its last words: "
            )
            which = "" if ours else f" -c {container}"
            return Verdict(False, CRASH_LOOPING, message + f"kubectl logs -n {namespace} {name}{which} --previous")
    return None


def _scheduling_trouble(pod: Pod) -> Verdict | None:
    condition = condition_of(pod, "PodScheduled")
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return Verdict(False, UNSCHEDULABLE, f"no node takes the pod: {condition.get('message', '')}")
    return None
