"""An operator that watches certain namespaces only: ``helm upgrade`` with names, and back.

Runs after the tests of the operator's rights, which judge an operator for the whole cluster.
"""

from collections.abc import Iterator

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.audit import requests
from tests.e2e.support import (
    NAMESPACE,
    apply,
    can,
    condition,
    get,
    realm,
    until,
    until_ready,
    until_realm_ready,
    worker,
)

pytestmark = pytest.mark.cluster

WATCHED, UNWATCHED = "walled", "outside"
NAMESPACED_KINDS = (
    "workers.agentos.dev", "functionclaims.agentos.dev", "deployments.apps", "statefulsets.apps", "pods", "configmaps",
    "secrets", "services", "serviceaccounts", "networkpolicies.networking.k8s.io", "ingresses.networking.k8s.io",
    "poddisruptionbudgets.policy",
)  # fmt: skip


def upgrade(cluster: Cluster, *options: str) -> None:
    chart = str(demo.ROOT / "charts" / "agentos")
    cluster.helm("upgrade", "agentos", chart, "--namespace", demo.NAMESPACE, "--reset-values", *options)
    cluster.kubectl(
        "rollout", "status", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--timeout=120s", timeout=130
    )


@pytest.fixture(scope="module")
def walled(installed: Cluster) -> Iterator[Cluster]:
    """The operator with rights in two namespaces; afterwards it serves the whole cluster again."""
    for name in (WATCHED, UNWATCHED):
        installed.kubectl("create", "namespace", name)
    names = ("--set", f"watchNamespaces={{{NAMESPACE},{WATCHED}}}")
    try:
        upgrade(installed, *names)
        yield installed
    finally:
        for name in (WATCHED, UNWATCHED):
            installed.kubectl("delete", "realm", name, "--ignore-not-found", "--timeout=90s", timeout=100)
        upgrade(installed)
        for name in (WATCHED, UNWATCHED):
            installed.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=90s", timeout=100)


def in_namespace(namespace: str, body: dict) -> dict:
    body["metadata"]["namespace"] = namespace
    return body


def test_it_has_no_right_in_any_other_namespace(walled: Cluster) -> None:
    operator = f"system:serviceaccount:{demo.NAMESPACE}:agentos-operator"
    for kind in NAMESPACED_KINDS:
        for verb in ("get", "list", "create", "update", "delete"):
            assert not can(walled, operator, verb, kind, None), (verb, kind)
            assert not can(walled, operator, verb, kind, UNWATCHED), (verb, kind)
        assert can(walled, operator, "get", kind, WATCHED), kind
    for verb in ("create", "list", "delete"):
        assert not can(walled, operator, verb, "namespaces", None)
    assert not can(walled, operator, "list", "customresourcedefinitions.apiextensions.k8s.io", None)


def test_it_serves_its_namespaces_and_touches_nothing_of_others(walled: Cluster, cluster: Cluster) -> None:
    assert walled.audit_log is not None
    since = walled.audit_log.stat().st_size
    foreign = apply(walled, realm(UNWATCHED))
    assert f"the operator in namespace {demo.NAMESPACE} watches only {NAMESPACE}, {WATCHED}" in foreign.stderr
    apply(walled, in_namespace(UNWATCHED, worker("stray", "stray::one")))
    apply(walled, realm(WATCHED, http={"expose": {"type": "Ingress", "host": "walled.example.org"}}))
    apply(
        walled,
        worker("resident", "resident::one"),
        in_namespace(WATCHED, worker("resident", "resident::one", replicas=2)),
    )
    until_realm_ready(walled, WATCHED)
    until_ready(walled, "resident")
    walled.kubectl("wait", "-n", WATCHED, "--for=condition=Ready", "worker/resident", "--timeout=90s", timeout=100)
    for policy in ("agentos-engine", "agentos-workers"):
        assert get(walled, "networkpolicy", policy, WATCHED), policy
    until("two pods have a disruption budget", lambda: get(walled, "poddisruptionbudget", "resident", WATCHED))
    until("the Realm is exposed", lambda: get(walled, "ingress", "agentos-engine", WATCHED))
    for kind, name in (("realm", UNWATCHED), ("worker", "stray")):
        assert get(walled, kind, name, UNWATCHED)["status"] == {"observedGeneration": -1}, "nobody has seen it"
    refused = apply(walled, in_namespace(WATCHED, worker("bad", "bad::one", version="one")), check=False)
    assert 'admission webhook "validate.agentos.dev" denied the request: spec.version: ' in refused.stderr
    asked = [request for request in requests(walled.audit_log, since) if not request.allowed]
    assert not asked, "the operator asks for what it has no right to"


def test_a_namespace_that_went_is_told_and_served_again_after_an_upgrade(walled: Cluster, cluster: Cluster) -> None:
    apply(walled, realm(WATCHED))
    until_realm_ready(walled, WATCHED)
    walled.kubectl("delete", "namespace", WATCHED, "--timeout=90s", timeout=100)

    def told() -> bool:
        return condition(get(walled, "realm", WATCHED, ""), "Ready")[:2] == ("False", "NamespaceMissing")

    until("the Realm tells that its namespace is missing", told, 90)
    assert not get(walled, "namespace", WATCHED, "")
    # Meanwhile the other namespace is served.
    apply(walled, worker("other", "other::one"))
    until_ready(walled, "other")
    walled.kubectl("create", "namespace", WATCHED)
    upgrade(walled, "--set", f"watchNamespaces={{{NAMESPACE},{WATCHED}}}")
    walled.kubectl("wait", "--for=condition=Ready", f"realm/{WATCHED}", "--timeout=120s", timeout=130)
