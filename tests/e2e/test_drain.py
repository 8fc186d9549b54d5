"""Pods go without a lost call: rolling updates, deletions, evictions; and what they served is free as soon as they are done."""

import json
import time
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.e2e.load import load, slow_worker
from tests.e2e.support import NAMESPACE, apply, condition, get, listed, until, until_ready, worker

pytestmark = pytest.mark.cluster


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """The pods of a Worker that are there to stay, and ready."""
    return [
        pod
        for pod in listed(cluster, "pods", f"agentos.dev/worker={name}")
        if not pod["metadata"].get("deletionTimestamp") and condition(pod, "Ready")[0] == "True"
    ]


def holder_of(cluster: Cluster, segment: str) -> str:
    """The Worker that holds the functions of a segment."""
    holders = get(cluster, "functionclaim", segment).get("spec", {}).get("holders", [])
    return holders[0]["worker"] if holders else ""


@pytest.mark.parametrize(("replicas", "rollout"), [(1, None), (2, {"drainSeconds": 5})], ids=["one pod", "two pods"])
def test_a_rolling_update_under_load_loses_no_call(cluster: Cluster, replicas: int, rollout: dict | None) -> None:
    # One pod with the time to drain that a Worker has which says nothing.
    resource = slow_worker("rolled", replicas=replicas, rollout=rollout)
    apply(cluster, resource)
    until_ready(cluster, "rolled")
    before = {pod["metadata"]["uid"] for pod in pods_of(cluster, "rolled")}
    with load(cluster, "rolled") as calls:
        until("calls are answered", lambda: calls.answers.total() > 50)
        resource["spec"]["env"].append({"name": "VERSION", "value": "2"})
        apply(cluster, resource)

        def replaced() -> bool:
            there = {pod["metadata"]["uid"] for pod in listed(cluster, "pods", "agentos.dev/worker=rolled")}
            return len(there) == replicas and not there & before

        until("only new pods are there", replaced, 120)
        since = calls.answers.total()
        until("the new pods answer", lambda: calls.answers.total() > since + 50)
    assert calls.failures == []
    assert calls.answers.total() == calls.sent
    assert len(calls.answers) == 2 * replicas


def test_deleting_one_of_two_pods_under_load_loses_no_call(cluster: Cluster) -> None:
    apply(cluster, slow_worker("halved", replicas=2, rollout={"drainSeconds": 5}))
    until_ready(cluster, "halved")
    first, _ = pods_of(cluster, "halved")
    with load(cluster, "halved") as calls:
        until("both pods answer", lambda: len(calls.answers) == 2)
        cluster.kubectl("delete", "pod", first["metadata"]["name"], "-n", NAMESPACE, "--wait=false")

        def replaced() -> bool:
            there = pods_of(cluster, "halved")
            gone = first["metadata"]["uid"] not in [pod["metadata"]["uid"] for pod in there]
            return gone and len(there) == 2 and len(calls.answers) == 3

        until("its replacement answers", replaced, 120)
    assert calls.failures == []
    assert calls.answers.total() == calls.sent


def test_a_node_drain_takes_one_pod_at_a_time(cluster: Cluster) -> None:
    apply(cluster, worker("pair", "pair::one", replicas=2))
    until_ready(cluster, "pair")

    def allowed() -> int:
        return get(cluster, "poddisruptionbudget", "pair").get("status", {}).get("disruptionsAllowed", 0)

    until("one pod may go", lambda: allowed() == 1)
    first, second = (pod["metadata"]["name"] for pod in pods_of(cluster, "pair"))

    def evict(name: str) -> str:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
        done = cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction), check=False)
        return done.stdout + done.stderr

    assert '"Success"' in evict(first)
    assert "disruption budget" in evict(second)
    until("the first one's replacement is ready", lambda: len(pods_of(cluster, "pair")) == 2 and allowed() == 1)
    assert '"Success"' in evict(second)


def test_the_disruption_budget_goes_when_one_pod_is_wanted(cluster: Cluster) -> None:
    apply(cluster, worker("single", "single::one", replicas=2))
    until("a budget", lambda: get(cluster, "poddisruptionbudget", "single"))
    cluster.kubectl("scale", "worker/single", "-n", NAMESPACE, "--replicas=1")
    until("no budget", lambda: not get(cluster, "poddisruptionbudget", "single"))


def test_who_waits_gets_the_functions_long_before_the_going_pod_has_slept(cluster: Cluster) -> None:
    apply(cluster, worker("elder", "heritage::one", rollout={"drainSeconds": 60}))
    until_ready(cluster, "elder")
    apply(cluster, worker("heir", "heritage::one"))
    until("the heir waits", lambda: condition(get(cluster, "worker", "heir"), "Ready")[1] == "Clash")
    cluster.kubectl("delete", "worker", "elder", "-n", NAMESPACE, "--wait=false")
    deleted = time.monotonic()
    until("the heir holds the functions", lambda: holder_of(cluster, "heritage") == "heir", 20)
    held = time.monotonic() - deleted
    assert listed(cluster, "pods", "agentos.dev/worker=elder"), "the going pod is gone already, so this showed nothing"
    assert held < 10
    until_ready(cluster, "heir")
    for pod in listed(cluster, "pods", "agentos.dev/worker=elder"):
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", NAMESPACE, "--grace-period=0", "--force")
