"""What pods say of themselves."""

from datetime import UTC, datetime
from typing import Any

import pytest
from agentos_contracts import reasons
from agentos_operator.plan.pods import containers_ready_for, live, refusal, trouble

NOW = datetime(2026, 1, 3, tzinfo=UTC)


def trouble_now(pods):
    return trouble(pods, NOW)


def pod(name: str = "p", created: str = "2026-01-01T00:00:00Z", deleted: bool = False, **status: Any) -> dict:
    metadata = {"name": name, "namespace": "team", "uid": name, "creationTimestamp": created}
    return {"metadata": metadata | ({"deletionTimestamp": created} if deleted else {}), "status": status}


def container(**status: Any) -> list[dict]:
    return [{"image": "reg/img:1", "ready": False, "restartCount": 0} | status]


def waits(reason: str, message: str | None = None) -> dict:
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


PULL = 'the image "reg/img:1" cannot be pulled; mend spec.image, or name a pull secret in spec.imagePullSecrets'
LOGS = "kubectl logs -n team p --previous"


def crash(code: object) -> str:
    return f"the container ends again and again (exit code {code}); look at its last words: {LOGS}"


@pytest.mark.parametrize(
    "reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"]
)
def test_an_image_that_does_not_come_is_told_with_its_name(reason):
    verdict = trouble_now([pod(containerStatuses=container(state=waits(reason)))])
    assert (verdict.ok, verdict.reason, verdict.message) == (False, reasons.IMAGE_PULL_FAILED, PULL)


@pytest.mark.parametrize(
    "reason", ["CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"]
)
def test_a_container_that_cannot_be_made_is_told_in_the_kubelets_words(reason):
    verdict = trouble_now([pod(containerStatuses=container(state=waits(reason, 'configmap "c" not found')))])
    assert verdict.reason is reasons.CONTAINER_CONFIG_INVALID
    assert verdict.message == 'the container cannot be started: configmap "c" not found'
    silent = trouble_now([pod(containerStatuses=container(state=waits(reason)))])
    assert silent.message == f"the container cannot be started: {reason}"


OF_A_TEMPLATE = [
    (
        waits("ErrImagePull"), reasons.IMAGE_PULL_FAILED,
        'the image "reg/img:1" of the container proxy cannot be pulled; mend the template that adds it, or name a pull secret there',
    ),
    (waits("StartError", "no such file"), reasons.CONTAINER_CONFIG_INVALID, "the container proxy cannot be started: no such file"),
    (
        waits("CrashLoopBackOff"), reasons.CRASH_LOOPING,
        "the container proxy ends again and again (exit code unknown); look at its last words: "
        "kubectl logs -n team p -c proxy --previous",
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
@pytest.mark.parametrize(("state", "reason", "message"), OF_A_TEMPLATE)
def test_trouble_of_a_container_that_a_template_adds_is_told_with_its_name(kind, state, reason, message):
    verdict = trouble_now([pod(**{kind: container(name="proxy", state=state)})])
    assert (verdict.reason, verdict.message) == (reason, message)


CRASHES = [
    ("backing off", container(state=waits("CrashLoopBackOff"), lastState={"terminated": {"exitCode": 137}}), 137),
    ("nothing known of the end", container(state=waits("CrashLoopBackOff")), "unknown"),
    ("ended just now for the third time", container(restartCount=2, state={"terminated": {"exitCode": 1}}), 1),
    ("running again after two ends", container(restartCount=2, lastState={"terminated": {"exitCode": 0}}), 0),
]


@pytest.mark.parametrize(("statuses", "code"), [pytest.param(*c[1:], id=c[0]) for c in CRASHES])
def test_a_container_that_ends_again_and_again_is_told_with_the_command_for_its_logs(statuses, code):
    verdict = trouble_now([pod(containerStatuses=statuses)])
    assert (verdict.reason, verdict.message) == (reasons.CRASH_LOOPING, crash(code))


def test_a_pod_that_no_node_takes_is_told_in_the_schedulers_words():
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    verdict = trouble_now([pod(conditions=[condition])])
    assert (verdict.reason, verdict.message) == (reasons.UNSCHEDULABLE, "no node takes the pod: Insufficient cpu")


FINE = [
    ("no pod", []),
    ("nothing known yet", [pod()]),
    ("being made", [pod(containerStatuses=container(state=waits("ContainerCreating")))]),
    ("ended once", [pod(containerStatuses=container(restartCount=1, state={"terminated": {"exitCode": 1}}))]),
    ("ready after restarts", [pod(containerStatuses=container(ready=True, restartCount=9))]),
    ("scheduling gated", [pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}])]),
    ("leaving", [pod(deleted=True, containerStatuses=container(state=waits("ErrImagePull")))]),
    ("failed for good", [pod(phase="Failed", containerStatuses=container(state=waits("ErrImagePull")))]),
]


@pytest.mark.parametrize("pods", [pytest.param(f[1], id=f[0]) for f in FINE])
def test_no_trouble_is_told_of(pods):
    assert trouble_now(pods) is None


def test_the_newest_pod_is_asked_first():
    old = pod("old", "2026-01-01T00:00:00Z", containerStatuses=container(state=waits("CrashLoopBackOff")))
    new = pod("new", "2026-01-02T00:00:00Z", containerStatuses=container(state=waits("ErrImagePull")))
    assert trouble_now([old, new]).reason is reasons.IMAGE_PULL_FAILED
    assert trouble_now([new, old]).reason is reasons.IMAGE_PULL_FAILED


def test_an_old_pods_trouble_is_told_when_the_newest_has_none():
    old = pod("old", "2026-01-01T00:00:00Z", containerStatuses=container(state=waits("ErrImagePull")))
    assert trouble_now([pod("new", "2026-01-02T00:00:00Z"), old]).reason is reasons.IMAGE_PULL_FAILED


def test_live_pods_are_those_that_stay():
    stays = pod("stays", phase="Running")
    assert live([pod("a", deleted=True), stays, pod("b", phase="Succeeded"), pod("c", phase="Failed")]) == [stays]


def test_containers_are_ready_since_the_pod_says_so():
    now, since = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC), "2026-01-01T00:00:10Z"

    def ready(status: str) -> dict:
        return pod(conditions=[{"type": "ContainersReady", "status": status, "lastTransitionTime": since}])

    assert containers_ready_for(ready("True"), now) == 20
    assert containers_ready_for(ready("False"), now) is None
    assert containers_ready_for(pod(), now) is None


def test_a_deployment_tells_why_its_pods_cannot_be_made():
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota'}
    verdict = refusal({"status": {"conditions": [failure]}})
    assert verdict.reason is reasons.POD_REFUSED
    assert verdict.message == 'the cluster refuses to make the pod: pods "x" is forbidden: exceeded quota'
    assert refusal({"status": {"conditions": [failure | {"status": "False"}]}}) is None
    assert refusal({}) is None
