"""Realms: a namespace, an engine, storage, and what deletion leaves."""

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.e2e.support import (
    apply,
    condition,
    get,
    realm,
    until,
    until_condition,
    until_ready,
    until_realm_ready,
    worker,
)

pytestmark = pytest.mark.cluster


@pytest.fixture
def realms(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    for kind, name in (("realm", "side"), ("realm", "rival"), ("namespace", "side"), ("namespace", "outside")):
        cluster.kubectl("delete", kind, name, "--ignore-not-found", "--timeout=90s", timeout=100)


def test_a_realm_makes_its_namespace_and_engine_and_runs_workers_there(realms: Cluster) -> None:
    apply(realms, realm("side"))
    until_realm_ready(realms, "side")
    there = worker("lodger", "lodger::one")
    there["metadata"]["namespace"] = "side"
    apply(realms, there)
    until_ready(realms, "lodger", namespace="side")
    until("the realm counts it", lambda: get(realms, "realm", "side", "")["status"]["readyWorkers"] == 1)


def test_a_namespace_that_is_there_is_adopted_with_its_labels_and_outlives_the_realm(realms: Cluster) -> None:
    enforced = "pod-security.kubernetes.io/enforce"
    realms.kubectl("create", "namespace", "side")
    realms.kubectl("label", "namespace", "side", f"{enforced}=restricted", "team=side")
    apply(realms, realm("side", deletionPolicy="Delete", engine={"storage": {"size": "1Gi"}}))
    until_realm_ready(realms, "side")
    lodger = worker("lodger", "lodger::one")
    lodger["metadata"]["namespace"] = "side"
    apply(realms, lodger)
    until_ready(realms, "lodger", namespace="side")
    labels = get(realms, "namespace", "side", "")["metadata"]["labels"]
    assert {enforced: "restricted", "team": "side", "agentos.dev/realm": "side"}.items() <= labels.items()
    realms.kubectl("delete", "realm", "side", "--timeout=60s", timeout=70)
    until("the engine is gone", lambda: not get(realms, "statefulset", "agentos-engine", "side"))
    # It was there before the Realm, so what else is in it is not the Realm's to delete.
    assert "deletionTimestamp" not in get(realms, "namespace", "side", "")["metadata"]


def test_the_same_functions_may_be_owned_in_each_realm(realms: Cluster) -> None:
    apply(realms, realm("side"))
    until_realm_ready(realms, "side")
    here, there = worker("twin", "twin::one"), worker("twin", "twin::one")
    there["metadata"]["namespace"] = "side"
    apply(realms, here, there)
    for namespace in ("default", "side"):
        realms.kubectl("wait", "-n", namespace, "--for=condition=Ready", "worker/twin", "--timeout=90s", timeout=100)


def test_a_namespace_belongs_to_one_realm(realms: Cluster) -> None:
    apply(realms, realm("rival", namespace="default"))
    until(
        "the later Realm is told", lambda: condition(get(realms, "realm", "rival", ""), "Ready")[1] == "NamespaceTaken"
    )
    assert condition(get(realms, "realm", "rival", ""), "Ready")[2] == (
        "namespace default belongs to Realm default; give this Realm another spec.namespace"
    )
    assert condition(get(realms, "realm", "default", ""), "Ready")[0] == "True"


def test_of_two_realms_made_at_once_for_one_namespace_one_has_it_and_works(realms: Cluster) -> None:
    apply(realms, realm("side"), realm("rival", namespace="side"))

    def settled() -> list[str]:
        return sorted(condition(get(realms, "realm", name, ""), "Ready")[1] for name in ("side", "rival"))

    until("one is Ready, the other told", lambda: settled() == ["NamespaceTaken", "Ready"])


def test_the_operators_own_namespace_is_no_realms(realms: Cluster) -> None:
    refused = apply(realms, realm("rival", namespace="agentos-system"), check=False)
    assert (
        "spec.namespace: agentos-system is the operator's own, with the key that signs identities; "
        "give the Realm another namespace" in refused.stderr
    )


def test_an_engine_without_its_volume_says_where_to_look(realms: Cluster) -> None:
    apply(realms, realm("side", engine={"storage": {"size": "1Gi", "storageClassName": "no-such-class"}}))
    until(
        "the engine waits for its volume",
        lambda: condition(get(realms, "realm", "side", ""), "Ready")[1] == "EngineStoragePending",
    )
    message = condition(get(realms, "realm", "side", ""), "Ready")[2]
    assert (
        message
        == "the volume data-agentos-engine-0 is not bound; see kubectl describe pvc -n side data-agentos-engine-0"
    )


def test_storage_is_a_volume_of_the_asked_size_that_retain_keeps(realms: Cluster) -> None:
    apply(realms, realm("side", engine={"storage": {"size": "1Gi"}}))
    until_realm_ready(realms, "side")
    claim = get(realms, "persistentvolumeclaim", "data-agentos-engine-0", "side")
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert claim["status"]["phase"] == "Bound"
    realms.kubectl("delete", "realm", "side", "--timeout=60s", timeout=70)
    until("the engine is gone", lambda: not get(realms, "pod", "agentos-engine-0", "side"))
    assert get(realms, "persistentvolumeclaim", "data-agentos-engine-0", "side")["status"]["phase"] == "Bound"
    apply(realms, realm("side", engine={"storage": {"size": "1Gi"}}))
    until_realm_ready(realms, "side")
    assert (
        get(realms, "persistentvolumeclaim", "data-agentos-engine-0", "side")["metadata"]["uid"]
        == claim["metadata"]["uid"]
    )


def test_deletion_policy_delete_takes_the_namespace_along_and_retain_does_not(realms: Cluster) -> None:
    apply(realms, realm("side"))
    until_realm_ready(realms, "side")
    realms.kubectl("delete", "realm", "side", "--timeout=60s", timeout=70)
    until("the engine is gone", lambda: not get(realms, "statefulset", "agentos-engine", "side"))
    assert get(realms, "namespace", "side", "")
    realms.kubectl("delete", "namespace", "side", "--timeout=90s", timeout=100)
    apply(realms, realm("side", deletionPolicy="Delete"))
    until_realm_ready(realms, "side")
    realms.kubectl("delete", "realm", "side", "--timeout=60s", timeout=70)
    until("the namespace is gone", lambda: not get(realms, "namespace", "side", ""), 120)


def test_a_worker_outside_any_realm_says_so_and_runs_no_pod(realms: Cluster) -> None:
    realms.kubectl("create", "namespace", "outside")
    stray = worker("stray", "stray::one")
    stray["metadata"]["namespace"] = "outside"
    apply(realms, stray)
    until("it is told", lambda: condition(get(realms, "worker", "stray", "outside"), "Ready")[1] == "NoRealm")
    assert condition(get(realms, "worker", "stray", "outside"), "Ready")[2] == (
        "no Realm has namespace outside; make one with spec.namespace: outside, or apply the Worker in a realm's namespace"
    )
    assert not get(realms, "deployment", "stray", "outside")
    assert condition(get(realms, "worker", "stray", "outside"), "ManifestValid")[0] == "True"


def test_the_engine_coming_back_changes_no_worker(realms: Cluster) -> None:
    apply(realms, worker("patient", "patient::one"))
    until_condition(realms, "patient", "Ready", "True", "Ready", 90)
    realms.kubectl("delete", "pod", "-n", "default", "agentos-engine-0", "--wait=true", timeout=90)
    until_realm_ready(realms, "default")
    until("its function is back", lambda: get(realms, "realm", "default", "")["status"]["engine"]["connections"] >= 1)
    pod = until("its pod", lambda: get(realms, "worker", "patient")["status"]["registeredPods"] == 1)
    assert pod
    assert condition(get(realms, "worker", "patient"), "Ready")[0] == "True"
