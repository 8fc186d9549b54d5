"""A cluster with the chart installed: a kept one when there is one, else one of the tests' own."""

import json
import os
from collections.abc import Iterator

import pytest

from tests import cluster as clusters
from tests import demo
from tests.cluster import Cluster, Steps
from tests.e2e.support import NAMESPACE, until, worker


def cluster_name() -> str:
    """The cluster of the tests in this process: those of a second process have one of their own."""
    process = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return demo.cluster_name() if process == "gw0" else f"{demo.cluster_name()}-{process}"


@pytest.fixture(scope="session")
def installed() -> Iterator[Cluster]:
    """The cluster, with operator and default realm up; removed afterwards unless it was there before."""
    name = cluster_name()
    kept = clusters.find(name)
    steps = Steps()
    cluster = kept or clusters.up(name, steps)
    try:
        with steps("build and load the image"):
            cluster.load_image(clusters.build_image(steps))
        with steps("install the chart"):
            # A minute without load is too long for a test.
            demo.install(cluster, "autoscaling.scaleDownSeconds=10")
            cluster.kubectl(
                "rollout", "status", "-n", demo.NAMESPACE, "deployment/agentos-operator", "--timeout=120s", timeout=130
            )
            until("the default Realm", lambda: cluster.kubectl("get", "realm", "default", check=False).returncode == 0)
            cluster.kubectl("wait", "--for=condition=Ready", "realm/default", "--timeout=120s", timeout=130)
        yield cluster
    finally:
        if kept is None:
            with steps("remove the cluster"):
                clusters.down(cluster.name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What judges the session comes after it, and then what changes the operator that the others want."""
    last = ("test_rights.py", "test_namespaced.py")
    items.sort(key=lambda item: last.index(item.path.name) + 1 if item.path.name in last else 0)


@pytest.fixture(scope="session")
def session_begins(installed: Cluster) -> int:
    """Where the audit log stood, in bytes, when the operator under test was there and no test had begun."""
    return installed.audit_log.stat().st_size if installed.audit_log is not None else 0


@pytest.fixture
def cluster(installed: Cluster, session_begins: int) -> Iterator[Cluster]:
    """The installed cluster, without Workers before and after each test."""
    yield installed
    installed.kubectl("delete", "workers", "--all", "-n", NAMESPACE, "--timeout=60s", timeout=70)
    until(
        "no pod of a Worker is left",
        lambda: (
            not installed.kubectl(
                "get", "pods", "-n", NAMESPACE, "-l", "agentos.dev/worker", "-o", "name"
            ).stdout.strip()
        ),
    )


@pytest.fixture
def without_webhook(cluster: Cluster) -> Iterator[Cluster]:
    """The webhook sees no Worker of the namespace for the while, as if it were down."""
    name = "validatingwebhookconfiguration/agentos"

    def select(selector: str) -> None:
        patch = f'[{{"op": "add", "path": "/webhooks/0/namespaceSelector", "value": {selector}}}]'
        cluster.kubectl("patch", name, "--type=json", "-p", patch)

    def refuses() -> bool:
        probe = json.dumps(worker("probe", version="one"))
        return cluster.kubectl("apply", "--dry-run=server", "-f", "-", input=probe, check=False).returncode != 0

    select('{"matchLabels": {"no": "such"}}')
    until("the webhook is out of the way", lambda: not refuses())
    yield cluster
    select("{}")
    until("the webhook is back", refuses)
