"""What the operator costs the API server: counted in the API server's own audit log."""

from collections import Counter
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e.audit import READS, requests
from tests.e2e.support import NAMESPACE, apply, condition, get, until, until_ready, worker

pytestmark = pytest.mark.cluster

NOT_COUNTED = {"leases", "events"}


def writes(log: Path, since: int) -> Counter[str]:
    """The operator's writes that were answered, from a byte offset of the log on, by verb and resource."""
    return Counter(
        f"{request.verb} {request.resource}"
        for request in requests(log, since)
        if request.verb not in READS and request.resource not in NOT_COUNTED
    )


@pytest.fixture
def audit_log(cluster: Cluster) -> Path:
    assert cluster.audit_log is not None, "this kind of cluster has no audit log to count from"
    return cluster.audit_log


def test_a_new_worker_takes_at_most_eight_writes_until_ready(cluster: Cluster, audit_log: Path) -> None:
    apply(cluster, worker("warm-up", "warm::one"))
    until_ready(cluster, "warm-up")
    until("the realm has counted it", lambda: get(cluster, "realm", "default", "")["status"]["readyWorkers"] == 1)
    since = audit_log.stat().st_size
    apply(cluster, worker("counted", "counted::one"))
    until_ready(cluster, "counted")
    until("the realm has counted it", lambda: get(cluster, "realm", "default", "")["status"]["readyWorkers"] == 2)
    counted = writes(audit_log, since)
    assert counted["create deployments"] == 1
    assert counted["patch pods/status"] == 1
    assert counted["create functionclaims"] == 2  # of its function and of its route
    assert counted.pop("patch realms/status") == 1  # the Realm counts it once it is Ready, and many at one time
    assert sum(counted.values()) <= 8, counted


def test_an_operator_restart_writes_nothing_and_ready_stays(cluster: Cluster, audit_log: Path) -> None:
    apply(cluster, worker("steady", "steady::one"))
    until_ready(cluster, "steady")
    until("the realm has counted it", lambda: get(cluster, "realm", "default", "")["status"]["readyWorkers"] == 1)
    since = audit_log.stat().st_size
    before = condition_since(cluster, "steady")
    cluster.kubectl("rollout", "restart", "-n", "agentos-system", "deployment/agentos-operator")
    cluster.kubectl(
        "rollout", "status", "-n", "agentos-system", "deployment/agentos-operator", "--timeout=120s", timeout=130
    )
    # A Worker applied now is Ready only after the new leader has looked at everything.
    apply(cluster, worker("after", "after::one"))
    until_ready(cluster, "after")
    assert condition_since(cluster, "steady") == before
    assert condition(get(cluster, "worker", "steady"), "Ready")[0] == "True"
    counted = writes(audit_log, since)
    assert counted["create deployments"] == 1, counted
    assert not counted["update deployments"], counted
    assert not counted["update statefulsets"], counted


def condition_since(cluster: Cluster, name: str) -> str:
    """When a Worker's Ready last changed."""
    conditions = get(cluster, "worker", name, NAMESPACE)["status"]["conditions"]
    return next(c["lastTransitionTime"] for c in conditions if c["type"] == "Ready")
