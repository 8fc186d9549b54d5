"""Everything that is made passes Pod Security "restricted", enforced in all three kinds of namespaces."""

from collections.abc import Iterator

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import apply, listed, realm, until_realm_ready, worker

pytestmark = pytest.mark.cluster

LABEL = "pod-security.kubernetes.io/enforce"
STRICT = "strict"


@pytest.fixture
def strict(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace that enforces it before any Realm has it, and the operator's own."""
    cluster.kubectl("create", "namespace", STRICT)
    cluster.kubectl("label", "namespace", STRICT, f"{LABEL}=restricted")
    warned = cluster.kubectl("label", "namespace", demo.NAMESPACE, f"{LABEL}=restricted", "--overwrite")
    assert "violate" not in warned.stderr, warned.stderr
    yield cluster
    cluster.kubectl("label", "namespace", demo.NAMESPACE, f"{LABEL}-")
    cluster.kubectl("delete", "realm", STRICT, "--ignore-not-found", "--timeout=90s", timeout=100)
    cluster.kubectl("delete", "namespace", STRICT, "--timeout=90s", timeout=100)


def test_operator_engine_and_workers_run_where_restricted_is_enforced(strict: Cluster) -> None:
    deployment = ("-n", demo.NAMESPACE, "deployment/agentos-operator")
    strict.kubectl("rollout", "restart", *deployment)
    strict.kubectl("rollout", "status", *deployment, "--timeout=120s", timeout=130)
    apply(strict, realm(STRICT, engine={"storage": {"size": "1Gi"}}))
    body = worker("modest", "modest::one", replicas=2)
    body["metadata"]["namespace"] = STRICT
    apply(strict, body)
    strict.kubectl("wait", "-n", STRICT, "--for=condition=Ready", "worker/modest", "--timeout=120s", timeout=130)
    until_realm_ready(strict, STRICT)
    assert len(listed(strict, "pods", namespace=STRICT)) == 3
