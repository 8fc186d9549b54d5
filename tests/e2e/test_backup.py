"""The commands of docs/backup.md against the engine of a realm."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e.support import apply, realm, until, until_ready, until_realm_ready, worker
from tests.e2e.test_cli_realm import agentos, environment

pytestmark = pytest.mark.cluster

ENGINE = "agentos-engine-0"


@pytest.fixture
def kept(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a realm ``kept`` that has a volume, and a Worker there."""
    apply(cluster, realm("kept", engine={"storage": {"size": "1Gi"}}, deletionPolicy="Delete"))
    try:
        until_realm_ready(cluster, "kept")
        lodger = worker("lodger", "lodger::one")
        lodger["metadata"]["namespace"] = "kept"
        apply(cluster, lodger)
        until_ready(cluster, "lodger", namespace="kept")
        yield cluster
    finally:
        cluster.kubectl("delete", "realm", "kept", "--timeout=90s", timeout=100)
        cluster.kubectl("delete", "namespace", "kept", "--ignore-not-found", "--timeout=90s", timeout=100)


def shell(cluster: Cluster, line: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line], env=environment(cluster), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backup_through_kubectl_comes_back_at_the_engines_next_start(kept: Cluster, tmp_path: Path) -> None:
    def value() -> object:
        return json.loads(agentos(kept, "state", "get", "shop", "stock", "--realm", "kept"))

    file = tmp_path / "realm.backup"
    agentos(kept, "state", "set", "shop", "stock", '{"n": 1}', "--realm", "kept")
    shell(kept, f"kubectl exec -n kept {ENGINE} -- agentos-engine backup --data-dir /data - > {file}")
    agentos(kept, "state", "set", "shop", "stock", '{"n": 2}', "--realm", "kept")
    restore = "agentos-engine restore --data-dir /data --force --at-next-start -"
    shell(kept, f"kubectl exec -i -n kept {ENGINE} -- {restore} < {file}")
    assert value() == {"n": 2}
    kept.kubectl("delete", "pod", "-n", "kept", ENGINE, "--timeout=60s", timeout=70)
    until_realm_ready(kept, "kept")
    kept.kubectl("wait", "-n", "kept", "--for=condition=Ready", f"pod/{ENGINE}", "--timeout=90s", timeout=100)
    assert value() == {"n": 1}
    # It is Ready all through an outage shorter than the grace, so that says nothing of whether it is back.
    until("the Worker is back", lambda: "lodger::one" in agentos(kept, "functions", "--realm", "kept", "-o", "name"))
    answer = json.loads(agentos(kept, "call", "lodger::one", "who=you", "--realm", "kept"))
    assert answer["echo"] == {"who": "you"}
