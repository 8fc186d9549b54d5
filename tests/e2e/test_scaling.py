"""Who says how many pods a Worker has: its spec, an autoscaler, the calls in flight, or nobody for a while."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.load import load, slow_worker
from tests.e2e.support import NAMESPACE, apply, condition, get, listed, until, until_condition, until_ready, worker
from tests.e2e.test_api_writes import writes
from tests.e2e.test_drain import holder_of, pods_of

pytestmark = pytest.mark.cluster


def replicas(cluster: Cluster, name: str) -> tuple[int, int, int]:
    """What a Worker wants by its spec, what its Deployment wants, and how many pods its status tells of."""
    resource, deployment = get(cluster, "worker", name), get(cluster, "deployment", name)
    return resource["spec"]["replicas"], deployment["spec"]["replicas"], resource["status"].get("replicas", 0)


def autoscaler(name: str, kind: str, least: int, most: int) -> dict[str, Any]:
    """A HorizontalPodAutoscaler; without metrics it sees to it that there are at least and at most so many."""
    group = {"Worker": "agentos.dev/v1alpha1", "Deployment": "apps/v1"}[kind]
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": group, "kind": kind, "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [metric],
        },
    }


def test_kubectl_scale_changes_the_number_of_pods(cluster: Cluster) -> None:
    apply(cluster, worker("scaled", "scaled::one"))
    until_ready(cluster, "scaled")
    cluster.kubectl("scale", "worker/scaled", "-n", NAMESPACE, "--replicas=2")
    until("two pods", lambda: replicas(cluster, "scaled") == (2, 2, 2))
    cluster.kubectl("scale", "worker/scaled", "-n", NAMESPACE, "--replicas=1")
    until("one pod", lambda: replicas(cluster, "scaled") == (1, 1, 1))
    until_ready(cluster, "scaled")
    cluster.kubectl("scale", "worker/scaled", "-n", NAMESPACE, "--replicas=0")
    message = until_condition(cluster, "scaled", "Ready", "False", "ScaledToZero")
    assert message == "spec.replicas is 0: no pod is wanted"


def test_a_horizontal_pod_autoscaler_scales_the_worker_without_a_fight(cluster: Cluster) -> None:
    apply(cluster, worker("hpa", "hpa::one"))
    until_ready(cluster, "hpa")
    apply(cluster, autoscaler("hpa", "Worker", 2, 3))
    try:
        until("the autoscaler's number", lambda: replicas(cluster, "hpa") == (2, 2, 2), 90)
        until_ready(cluster, "hpa")
        until("nothing is under way", lambda: not condition(get(cluster, "worker", "hpa"), "Reconciling")[0])
        assert cluster.audit_log is not None
        since, before = cluster.audit_log.stat().st_size, generations(cluster, "hpa")
        # More than one round of the autoscaler, which goes by the quarter of a minute.
        quiet_until = time.monotonic() + 20
        until("a while has passed", lambda: time.monotonic() > quiet_until)
        assert generations(cluster, "hpa") == before
        assert replicas(cluster, "hpa") == (2, 2, 2)
        assert not written(cluster.audit_log, since)
    finally:
        cluster.kubectl("delete", "hpa", "hpa", "-n", NAMESPACE, "--ignore-not-found")


def generations(cluster: Cluster, name: str) -> tuple[int, int]:
    """How often the specs of a Worker and its Deployment have changed."""
    worker, deployment = get(cluster, "worker", name), get(cluster, "deployment", name)
    return worker["metadata"]["generation"], deployment["metadata"]["generation"]


def written(log: Path, since: int) -> dict[str, int]:
    """The operator's writes of Workers and Deployments."""
    return {what: count for what, count in writes(log, since).items() if "workers" in what or "deployments" in what}


def test_the_operator_yields_to_whoever_scales_the_deployment_and_takes_it_back_when_the_worker_changes(
    cluster: Cluster,
) -> None:
    apply(cluster, worker("taken", "taken::one"))
    until_ready(cluster, "taken")
    cluster.kubectl("scale", "deployment/taken", "-n", NAMESPACE, "--replicas=2")

    def told() -> tuple[str, str, str]:
        return condition(get(cluster, "worker", "taken"), "Available")

    until("the Worker says who scales", lambda: told()[1] == "ReplicasSetElsewhere" and "kubectl" in told()[2])
    until("two pods", lambda: replicas(cluster, "taken") == (1, 2, 2))
    assert condition(get(cluster, "worker", "taken"), "Ready")[0] == "True"
    events = listed(cluster, "events.events.k8s.io")
    assert [e["reason"] for e in events if e["regarding"]["name"] == "taken"].count("ReplicasSetElsewhere") == 1
    # An edit of something else leaves the number alone.
    patch = json.dumps({"spec": {"version": "2.0.0"}})
    cluster.kubectl("patch", "worker", "taken", "-n", NAMESPACE, "--type", "merge", "-p", patch)
    until("the new version runs", lambda: get(cluster, "worker", "taken")["status"].get("version") == "2.0.0")
    until("two pods of it", lambda: replicas(cluster, "taken") == (1, 2, 2) and len(pods_of(cluster, "taken")) == 2)
    # The very number that there is: from now on it is the Worker's.
    cluster.kubectl("scale", "worker/taken", "-n", NAMESPACE, "--replicas=2")
    until("the number is the Worker's", lambda: told()[1] == "Available")
    cluster.kubectl("scale", "worker/taken", "-n", NAMESPACE, "--replicas=1")
    until("one pod", lambda: replicas(cluster, "taken") == (1, 1, 1))


def test_calls_in_flight_bring_more_pods_and_their_end_fewer(cluster: Cluster) -> None:
    autoscaling = {"min": 1, "max": 3, "targetInFlight": 10}
    apply(cluster, slow_worker("busy", autoscaling=autoscaling))
    until_ready(cluster, "busy")
    scaled = cluster.kubectl("scale", "worker/busy", "-n", NAMESPACE, "--replicas=1")
    assert "Warning: spec.replicas: is not used while spec.autoscaling is set" in scaled.stderr
    # 40 calls a second of half a second each are 20 in flight.
    with load(cluster, "busy", 40) as calls:
        # At least: calls that a busy machine holds up are in flight, too.
        until("more pods", lambda: min(replicas(cluster, "busy")[1:]) >= 2, 60)
        until("both answer", lambda: len(calls.answers) >= 2)
    until("one pod again", lambda: replicas(cluster, "busy")[1:] == (1, 1), 60)
    assert calls.failures == []
    assert get(cluster, "worker", "busy")["spec"]["replicas"] == 1
    until_ready(cluster, "busy")


def test_a_suspended_worker_keeps_what_it_owns_and_comes_back(cluster: Cluster) -> None:
    apply(cluster, slow_worker("resting"))
    until_ready(cluster, "resting")

    def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        cluster.kubectl("patch", "worker", "resting", "-n", NAMESPACE, "--type", "merge", "-p", patch)

    suspend(True)
    until_condition(cluster, "resting", "Ready", "False", "Suspended")
    until("no pod is left", lambda: not listed(cluster, "pods", "agentos.dev/worker=resting"))
    assert holder_of(cluster, "resting") == "resting"
    base = f"http://{cluster.service_address(NAMESPACE, 'agentos-engine', demo.HTTP_PORT)}"
    key = demo.api_key(cluster)
    with pytest.raises(RuntimeError, match=r"503 .*worker_asleep"):
        demo.post(f"{base}/resting/run", {}, key)
    suspend(False)
    until_ready(cluster, "resting")
    (pod,) = pods_of(cluster, "resting")
    assert demo.post(f"{base}/resting/run", {}, key) == {"from": pod["metadata"]["uid"]}
