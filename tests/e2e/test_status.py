"""Status tells the truth, to people and to tools, and does not flap."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, SILENT, apply, get, listed, until, until_condition, until_ready, worker
from tests.gitops.judging import judge

pytestmark = pytest.mark.cluster

FROZEN = """
import os, signal, time
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
worker.register_function("frozen::one", lambda data: "warm")
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while not os.path.exists("/tmp/leave"):
    time.sleep(0.2)
worker.shutdown()
while os.path.exists("/tmp/leave"):
    time.sleep(0.2)
os.execvp("python3", ["python3", "-c", os.environ["SOURCE"]])
"""
"""A worker that leaves the bus while /tmp/leave is there, and goes on running."""


@contextmanager
def readiness_of(cluster: Cluster, name: str) -> Iterator[list[str]]:
    """Every "status reason" that a Worker's Ready has had, as a watch shows it, until the end of the block."""
    path = "{.status.conditions[?(@.type=='Ready')].status} {.status.conditions[?(@.type=='Ready')].reason}{'\\n'}"
    watch = subprocess.Popen(
        [cluster.tools.kubectl, "get", "worker", name, "-n", NAMESPACE, "--watch", "-o", f"jsonpath={path}"],
        stdout=subprocess.PIPE, text=True, env=os.environ | cluster.environment(),
    )  # fmt: skip
    seen: list[str] = []
    assert watch.stdout is not None
    reading = threading.Thread(target=lambda stream: seen.extend(line.strip() for line in stream), args=[watch.stdout])
    reading.start()
    try:
        yield seen
    finally:
        watch.terminate()
        reading.join(10)
        watch.wait(10)
    assert seen, "the watch has shown nothing"


def events_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """The Events about a Worker, oldest first."""
    uid = get(cluster, "worker", name)["metadata"]["uid"]
    text = cluster.kubectl("get", "events", "-n", NAMESPACE, "-o", "json", f"--field-selector=involvedObject.uid={uid}")
    return sorted(json.loads(text.stdout)["items"], key=lambda event: event["eventTime"])


def test_the_tools_of_gitops_read_real_objects_right(cluster: Cluster) -> None:
    apply(cluster, worker("fine", "fine::one"), worker("nothing", "nothing::one", replicas=0))
    apply(cluster, worker("ends", "ends::one", command=["sh", "-c", "exit 3"]))
    until_ready(cluster, "fine")
    apply(cluster, worker("rival", "fine::one"))
    until_condition(cluster, "rival", "Ready", "False", "Clash")
    until_condition(cluster, "nothing", "Ready", "False", "ScaledToZero")
    until_condition(cluster, "ends", "Ready", "False", "CrashLooping", 90)
    names = ("fine", "rival", "nothing", "ends")
    said = judge([*(get(cluster, "worker", name) for name in names), get(cluster, "realm", "default", "")])
    assert {
        name: (each["kstatus"]["status"], each["flux"]["status"], each["argocd"]["status"])
        for name, each in zip((*names, "realm"), said, strict=True)
    } == {
        "fine": ("Current", "Current", "Healthy"),
        "rival": ("InProgress", "InProgress", "Progressing"),
        "nothing": ("InProgress", "Current", "Suspended"),
        "ends": ("InProgress", "InProgress", "Degraded"),
        "realm": ("Current", "Current", "Healthy"),
    }


def test_what_no_operator_has_seen_is_not_current(cluster: Cluster) -> None:
    cluster.kubectl("scale", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--replicas=0")
    try:
        until("the operator is gone", lambda: not listed(cluster, "pods", "", demo.NAMESPACE))
        apply(cluster, worker("unseen", "unseen::one"))
        (said,) = judge([get(cluster, "worker", "unseen")])
        assert [said[tool]["status"] for tool in ("kstatus", "flux", "argocd")] == [
            "InProgress",
            "InProgress",
            "Progressing",
        ]
    finally:
        cluster.kubectl("scale", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--replicas=1")
    until_ready(cluster, "unseen")


def test_kubectl_get_has_the_reason_and_the_message_why_a_worker_is_not_ready(cluster: Cluster) -> None:
    apply(cluster, worker("plain", "plain::one"))
    until_ready(cluster, "plain")
    apply(cluster, worker("second", "plain::one"))
    cluster.kubectl(
        "wait", "-n", NAMESPACE, "worker/second", "--timeout=60s",
        "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Clash",
    )  # fmt: skip
    head, *rows = cluster.kubectl("get", "workers", "-n", NAMESPACE).stdout.splitlines()
    assert head.split()[:3] == ["NAME", "READY", "REASON"]
    assert {tuple(row.split()[:3]) for row in rows} == {("plain", "True", "Ready"), ("second", "False", "Clash")}
    wide = cluster.kubectl("get", "workers", "-n", NAMESPACE, "-o", "wide").stdout
    assert "plain::one is held by Worker plain; no pod runs until it is free" in wide


def test_ready_never_flaps_when_operator_and_engine_come_back(cluster: Cluster) -> None:
    apply(cluster, worker("steady", "steady::one"))
    until_ready(cluster, "steady")
    pod = listed(cluster, "pods", "agentos.dev/worker=steady")[0]["metadata"]["uid"]
    before = len(events_of(cluster, "steady"))
    with readiness_of(cluster, "steady") as seen:
        cluster.kubectl("delete", "pod", "-n", NAMESPACE, "agentos-engine-0", "--wait=true", timeout=90)
        cluster.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/agentos-engine-0", "--timeout=60s")
        cluster.kubectl("rollout", "restart", "-n", demo.NAMESPACE, "deployment/agentos-operator")
        cluster.kubectl(
            "rollout", "status", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--timeout=90s", timeout=100
        )
        # Touching the Realm makes the operator look at every Worker anew.
        cluster.kubectl("label", "realm", "default", "agentos.test/touched=yes", "--overwrite")
        apply(cluster, worker("steady", "steady::one", version="2.0.0"))
        until("the edit is seen", lambda: get(cluster, "worker", "steady")["status"]["version"] == "2.0.0")
        until(
            "the new pod has taken over",
            lambda: pod not in uids(cluster, "steady") and len(uids(cluster, "steady")) == 1,
        )
        until_ready(cluster, "steady")
    cluster.kubectl("label", "realm", "default", "agentos.test/touched-")
    assert set(seen) == {"True Ready"}
    assert len(events_of(cluster, "steady")) == before


def uids(cluster: Cluster, name: str) -> list[str]:
    return [pod["metadata"]["uid"] for pod in listed(cluster, "pods", f"agentos.dev/worker={name}")]


def test_never_ready_before_the_functions_answer(cluster: Cluster) -> None:
    apply(cluster, worker("slow", "slow::one", command=SILENT))
    with readiness_of(cluster, "slow") as seen:
        until_condition(cluster, "slow", "Ready", "False", "NotRegistered")
        apply(cluster, worker("slow", "slow::one"))
        until_ready(cluster, "slow")
        until("the watch has it", lambda: seen[-1:] == ["True Ready"])
    assert seen.count("True Ready") == len([each for each in seen if each.startswith("True")])
    assert "True Ready" not in seen[: seen.index("False NotRegistered")]


def test_a_worker_off_the_bus_is_not_ready_after_the_grace_and_ready_when_it_is_back(cluster: Cluster) -> None:
    frozen = worker("frozen", "frozen::one", command=["python3", "-c", FROZEN])
    frozen["spec"]["env"].append({"name": "SOURCE", "value": FROZEN})
    apply(cluster, frozen)
    until_ready(cluster, "frozen")
    pod = listed(cluster, "pods", "agentos.dev/worker=frozen")[0]["metadata"]["name"]
    cluster.kubectl("exec", "-n", NAMESPACE, pod, "--", "touch", "/tmp/leave")
    message = until_condition(cluster, "frozen", "Ready", "False", "NotRegistered", 45)
    assert "no pod has connected to the engine" in message
    cluster.kubectl("exec", "-n", NAMESPACE, pod, "--", "rm", "/tmp/leave")
    until_ready(cluster, "frozen")
    told = [(event["reason"], event["type"]) for event in events_of(cluster, "frozen")]
    assert told[-2:] in (
        [("Ready", "Normal"), ("NotRegistered", "Warning")],
        [("NotRegistered", "Warning"), ("Ready", "Normal")],
    )


def test_what_flaps_is_counted_in_one_event(cluster: Cluster) -> None:
    apply(cluster, worker("flapping", "flapping::one"))
    until_ready(cluster, "flapping")
    for _ in range(2):
        cluster.kubectl("scale", "-n", NAMESPACE, "worker/flapping", "--replicas=0")
        until_condition(cluster, "flapping", "Ready", "False", "ScaledToZero")
        cluster.kubectl("scale", "-n", NAMESPACE, "worker/flapping", "--replicas=1")
        until_ready(cluster, "flapping")
    rested = [event for event in events_of(cluster, "flapping") if event["reason"] == "ScaledToZero"]
    assert [event["series"]["count"] for event in rested] == [2]
