"""Nothing is stranded: an operator that goes first, and a backup that comes back with other uids."""

from collections.abc import Iterator

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import apply, condition, get, listed, realm, until, until_realm_ready, worker

pytestmark = [pytest.mark.cluster, pytest.mark.long]

SIDE = "leftovers"
KINDS = ("workers", "functionclaims", "deployments", "secrets", "serviceaccounts")


@pytest.fixture
def side(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; a realm beside the default one goes again, and the operator is there afterwards."""
    try:
        yield cluster
    finally:
        if cluster.helm("status", "agentos", "--namespace", demo.NAMESPACE, check=False).returncode != 0:
            reinstall(cluster)
        scale_operator(cluster, 1)
        cluster.kubectl("delete", "realm", SIDE, "--ignore-not-found", "--timeout=60s", timeout=70)
        cluster.kubectl("delete", "namespace", SIDE, "--ignore-not-found", "--timeout=90s", timeout=100)


def reinstall(cluster: Cluster) -> None:
    demo.install(cluster)
    rollout = ("rollout", "status", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--timeout=120s")
    cluster.kubectl(*rollout, timeout=130)
    until("the default Realm", lambda: get(cluster, "realm", "default", ""))
    until_realm_ready(cluster, "default")


def scale_operator(cluster: Cluster, replicas: int) -> None:
    cluster.kubectl("scale", "-n", demo.NAMESPACE, "deployment/agentos-operator", f"--replicas={replicas}")
    if replicas == 0:
        gone = lambda: not listed(cluster, "pods", "app.kubernetes.io/component=operator", demo.NAMESPACE)  # noqa: E731
        until("the operator is gone", gone)


def in_side(resource: dict) -> dict:
    resource["metadata"]["namespace"] = SIDE
    return resource


def made_for_workers(cluster: Cluster, namespace: str) -> list[str]:
    kinds = ",".join((*KINDS, "pods", "statefulsets", "services"))
    named = cluster.kubectl("get", kinds, "-n", namespace, "-l", "agentos.dev/realm", "-o", "name")
    return named.stdout.split()


def test_what_is_deleted_after_the_operator_goes_all_the_same(side: Cluster) -> None:
    apply(side, realm(SIDE))
    until_realm_ready(side, SIDE)
    apply(side, in_side(worker("left", "left::one")))
    side.kubectl("wait", "-n", SIDE, "--for=condition=Ready", "worker/left", "--timeout=90s", timeout=100)
    side.helm("uninstall", "agentos", "--namespace", demo.NAMESPACE, "--wait")
    assert condition(get(side, "worker", "left", SIDE), "Ready")[0] == "True"
    side.kubectl("delete", "workers", "--all", "-n", SIDE, "--timeout=30s", timeout=40)
    side.kubectl("delete", "realms", "--all", "--timeout=30s", timeout=40)
    # The garbage collector learns of the kinds of a CRD every 30 s, and pods take their time to end.
    kept = {"secret/agentos-api-key"}
    until("nothing is left", lambda: set(made_for_workers(side, SIDE)) <= kept, 120)
    reinstall(side)
    apply(side, realm(SIDE), in_side(worker("left", "left::one")))
    side.kubectl("wait", "-n", SIDE, "--for=condition=Ready", "worker/left", "--timeout=120s", timeout=130)


@pytest.mark.parametrize("order", [KINDS, tuple(reversed(KINDS))], ids=["Workers first", "Workers last"])
def test_what_a_backup_brings_back_with_other_uids_works_again(side: Cluster, order: tuple[str, ...]) -> None:
    apply(side, realm(SIDE))
    until_realm_ready(side, SIDE)
    apply(side, in_side(worker("saved", "saved::one")), in_side(worker("waits", "saved::one", replicas=0)))
    side.kubectl("wait", "-n", SIDE, "--for=condition=Ready", "worker/saved", "--timeout=90s", timeout=100)
    kept: dict[str, list[dict]] = {}
    for kind in order:
        kept[kind] = [bare(each) for each in listed(side, kind, namespace=SIDE)]
    scale_operator(side, 0)
    side.kubectl("delete", "workers,functionclaims", "--all", "-n", SIDE, "--timeout=60s", timeout=70)
    until("its pods are gone", lambda: not listed(side, "pods", "agentos.dev/worker", SIDE), 120)
    restore(side, kept, order, "saved")
    scale_operator(side, 1)
    side.kubectl("wait", "-n", SIDE, "--for=condition=Ready", "worker/saved", "--timeout=120s", timeout=130)
    # A restored Worker is as old as its restoring: who waited before is restored later here, so that it waits again.
    restore(side, kept, order, "waits")
    uid = get(side, "worker", "saved", SIDE)["metadata"]["uid"]
    until("it waits again", lambda: condition(get(side, "worker", "waits", SIDE), "Ready")[1] == "Clash")
    (holder,) = get(side, "functionclaim", "saved", SIDE)["spec"]["holders"]
    assert (holder["worker"], holder["uid"]) == ("saved", uid)


def restore(cluster: Cluster, kept: dict[str, list[dict]], order: tuple[str, ...], name: str) -> None:
    """Brings a Worker and what was made for it back, and the claims if they are not there."""
    for kind in order:
        for each in kept[kind]:
            metadata = each["metadata"]
            its = name in (metadata["name"], metadata.get("labels", {}).get("agentos.dev/worker"))
            if its or (kind == "functionclaims" and not get(cluster, "functionclaim", metadata["name"], SIDE)):
                apply(cluster, each)


def bare(obj: dict) -> dict:
    """An object as a backup tool restores it: what the cluster gives is left out, owners of before are not."""
    given = {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"}
    metadata = {key: value for key, value in obj["metadata"].items() if key not in given}
    return {key: value for key, value in obj.items() if key != "status"} | {"metadata": metadata}
