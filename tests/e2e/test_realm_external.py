"""A Realm on an engine that the operator did not make: Workers answer through it, and what cannot be enforced is told."""

import time
from collections.abc import Iterator

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import IMAGE, apply, condition, get, listed, until, until_realm_ready, worker

pytestmark = pytest.mark.cluster

THEIRS, REALM = "theirs", "borrowed"
STRANGER = """
import time
from iii import InitOptions, register_worker
worker = register_worker("ws://127.0.0.1:49134", InitOptions(worker_name="laptop:1"))
worker.register_function("lent::one", lambda data: {})
time.sleep(3600)
"""


def engine() -> list[dict]:
    """An engine as anybody may run it: without keys, open to all who reach it."""
    labels = {"app": "engine"}
    container = {
        "name": "engine",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["agentos-engine"],
        "env": [{"name": "AGENTOS_HOST", "value": "0.0.0.0"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 9464}, "periodSeconds": 1},
    }
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pods}
    ports = [{"name": str(port), "port": port} for port in (demo.BUS_PORT, demo.HTTP_PORT)]
    metadata = {"name": "engine", "namespace": THEIRS}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": THEIRS}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": ports}},
    ]


def borrower(name: str, *functions: str) -> dict:
    made = worker(name, *functions)
    made["metadata"]["namespace"] = REALM
    return made


@pytest.fixture(scope="module")
def realm(installed: Cluster) -> Iterator[Cluster]:
    """A realm on that engine."""
    spec = {
        "namespace": REALM,
        "deletionPolicy": "Delete",
        "engine": {"mode": "External", "url": f"ws://engine.{THEIRS}.svc:{demo.BUS_PORT}"},
    }
    resource = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": REALM}, "spec": spec}
    try:
        apply(installed, *engine())
        apply(installed, resource)
        until_realm_ready(installed, REALM)
        yield installed
    finally:
        installed.kubectl("delete", "realm", REALM, "--ignore-not-found", "--timeout=60s", timeout=70)
        installed.kubectl("delete", "namespace", THEIRS, REALM, "--ignore-not-found", "--timeout=90s", timeout=100)


def test_a_worker_is_ready_and_answers_through_an_engine_of_somebody_else(realm: Cluster) -> None:
    apply(realm, borrower("lent", "lent::one"))
    realm.kubectl("wait", "-n", REALM, "--for=condition=Ready", "worker/lent", "--timeout=90s", timeout=100)
    rest = realm.service_address(THEIRS, "engine", demo.HTTP_PORT)
    assert demo.post(f"http://{rest}/lent/one", {"n": 1}) == {}
    there = get(realm, "worker", "lent", REALM)
    assert there["status"]["functions"] == ["lent::one"]
    assert there["status"]["engine"] == f"ws://engine.{THEIRS}.svc:{demo.BUS_PORT}"
    assert not get(realm, "statefulset", "agentos-engine", REALM)
    assert not get(realm, "service", "agentos-engine", REALM)
    assert not [s for s in listed(realm, "secrets", namespace=REALM) if s["metadata"]["name"].startswith("agentos-")]
    for obj in (there, get(realm, "realm", REALM, "")):
        assert condition(obj, "Enforced")[:2] == ("False", "EngineNotOurs")
    assert condition(get(realm, "realm", "default", ""), "Enforced")[0] == "True"


def test_a_clash_in_the_realm_is_decided_and_one_with_a_stranger_is_shown(realm: Cluster) -> None:
    apply(realm, borrower("lent", "lent::one"))
    realm.kubectl("wait", "-n", REALM, "--for=condition=Ready", "worker/lent", "--timeout=90s", timeout=100)
    apply(realm, borrower("late", "lent::one"))
    until("it waits", lambda: condition(get(realm, "worker", "late", REALM), "Ready")[1] == "Clash")
    assert not listed(realm, "pods", "agentos.dev/worker=late", REALM)
    realm.kubectl("exec", "-n", THEIRS, "deploy/engine", "--", "sh", "-c", f"python3 -c '{STRANGER}' >/dev/null 2>&1 &")
    until(
        "the stranger is named",
        lambda: (
            "lent::one of Worker lent is also served by laptop:1"
            in condition(get(realm, "realm", REALM, ""), "Enforced")[2]
        ),
    )
    assert condition(get(realm, "worker", "lent", REALM), "Ready")[0] == "True"
    realm.kubectl("delete", "worker", "lent", "-n", REALM, "--timeout=60s", timeout=70)
    realm.kubectl("wait", "-n", REALM, "--for=condition=Ready", "worker/late", "--timeout=90s", timeout=100)


def test_a_pod_that_loses_its_connection_is_not_ready_after_the_grace_and_a_new_engine_mends_it(realm: Cluster) -> None:
    apply(realm, borrower("steady", "steady::one"))
    realm.kubectl("wait", "-n", REALM, "--for=condition=Ready", "worker/steady", "--timeout=90s", timeout=100)
    realm.kubectl("scale", "-n", THEIRS, "deployment/engine", "--replicas=0")
    went = time.monotonic()
    until(
        "the Realm tells it",
        lambda: condition(get(realm, "realm", REALM, ""), "Ready")[1] == "EngineUnreachable",
        60,
    )
    assert time.monotonic() - went > 5
    realm.kubectl("scale", "-n", THEIRS, "deployment/engine", "--replicas=1")
    until_realm_ready(realm, REALM)
    until(
        "the Worker answers again",
        lambda: (
            condition(get(realm, "worker", "steady", REALM), "Ready")[0] == "True"
            and get(realm, "worker", "steady", REALM)["status"]["functions"] == ["steady::one"]
        ),
    )


def test_what_the_api_refuses_of_an_external_engine(realm: Cluster) -> None:
    def refusal(**engine: object) -> str:
        spec = {"namespace": "elsewhere", "engine": engine}
        made = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "elsewhere"}, "spec": spec}
        return apply(realm, made, check=False).stderr

    assert "url is required with mode: External" in refusal(mode="External")
    assert "url is for mode: External only" in refusal(url="ws://e:1")
    assert "tokenSecretRef goes where $(TOKEN) stands in url" in refusal(mode="External", url="ws://e/w/$(TOKEN)/x")
    assert "storage is for mode: Dedicated only" in refusal(mode="External", url="ws://e:1", storage={"size": "1Gi"})
    patch = f'{{"spec": {{"engine": {{"url": "ws://elsewhere.{THEIRS}.svc:1"}}}}}}'
    changed = realm.kubectl("patch", "realm", REALM, "--type=merge", "-p", patch, check=False)
    assert "url cannot be changed" in changed.stderr
