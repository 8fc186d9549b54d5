"""What a platform engineer relies on: upgrades, least privilege, Pod Security, reaching the engine from outside."""

import base64
import json
import subprocess
import sys

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, condition, get, listed, until, until_ready, worker

pytestmark = pytest.mark.cluster

CALL = """
import sys
from iii import InitOptions, register_worker
worker = register_worker(sys.argv[1], InitOptions(worker_name="from-the-host"))
print(worker.trigger({"function_id": sys.argv[2], "payload": {"n": 1}, "timeout_ms": 10000}))
worker.shutdown()
"""


def test_helm_upgrade_leaves_the_webhook_working(cluster: Cluster) -> None:
    def bundle() -> str:
        return get(cluster, "validatingwebhookconfiguration", "agentos", "")["webhooks"][0]["clientConfig"].get(
            "caBundle", ""
        )

    before = until("the caBundle", bundle)
    cluster.helm(
        "upgrade", "agentos", str(demo.ROOT / "charts" / "agentos"), "--namespace", demo.NAMESPACE, "--reuse-values"
    )
    assert bundle() == before
    refused = apply(cluster, worker("bad", "bad::one", version="one"), check=False)
    assert 'admission webhook "validate.agentos.dev" denied the request: spec.version: ' in refused.stderr


def test_a_program_on_the_host_calls_a_function_with_the_printed_urls(cluster: Cluster) -> None:
    apply(cluster, worker("callee", "callee::one"))
    until_ready(cluster, "callee")
    urls = demo.engine_urls(cluster)
    answer = demo.post(f"{urls['http']}/callee/one", {"n": 1}, urls["key"])
    assert answer == {}  # the SDK's own rule: a result without body, headers or status_code is not an HTTP answer
    called = subprocess.run(
        [sys.executable, "-c", CALL, urls["ws"], "callee::one"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "'from': 'callee'" in called.stdout


def test_the_bus_tells_a_stranger_why_and_closes(cluster: Cluster) -> None:
    bus = cluster.service_address(NAMESPACE, "agentos-engine", demo.BUS_PORT)
    with connect(f"ws://{bus}/w/eyJhbGciOiJFZERTQSJ9.e30.AAAA/host", proxy=None) as socket:
        assert json.loads(socket.recv(timeout=10))["error"]["code"] == "AUTH_ERROR"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_no_log_holds_a_token_or_a_key(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(demo.ROOT / "examples" / "wasm-sandbox.yaml"))
    until_ready(cluster, "wasm-sandbox")
    secrets = {
        f"{secret['metadata']['name']}/{key}": base64.b64decode(value).decode()
        for namespace in (NAMESPACE, demo.NAMESPACE)
        for secret in listed(cluster, "secrets", namespace=namespace)
        if secret["metadata"]["name"].startswith("agentos-")
        for key, value in secret["data"].items()
        if not key.endswith(".crt")
    }
    assert {"agentos-token-wasm-sandbox/token", "agentos-api-key/key", "agentos-identity/key"} <= set(secrets)
    pods = (
        (demo.NAMESPACE, "deploy/agentos-operator"), (NAMESPACE, "agentos-engine-0"), (NAMESPACE, "deploy/wasm-sandbox"),
    )  # fmt: skip
    for namespace, pod in pods:
        log = cluster.kubectl("logs", "-n", namespace, pod, "--tail=-1").stdout
        assert log
        for name, secret in secrets.items():
            # The signature is what makes a token one; its other parts name the Worker only.
            for form in (secret, secret.rpartition(".")[2], base64.b64encode(secret.encode()).decode()):
                assert form not in log, f"{pod} logs {name}"


def test_both_wasm_examples_as_they_stand(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(demo.ROOT / "examples" / "wasm-sandbox.yaml"))
    until_ready(cluster, "wasm-sandbox")
    warned = cluster.kubectl("apply", "-f", str(demo.ROOT / "examples" / "wasm-rival.yaml"))
    assert "held by Worker wasm-sandbox" in warned.stderr
    until("it waits", lambda: condition(get(cluster, "worker", "wasm-rival"), "Ready")[1] == "Clash")
    assert not listed(cluster, "pods", "agentos.dev/worker=wasm-rival")
    cluster.kubectl("delete", "worker", "wasm-sandbox", "-n", NAMESPACE)
    until_ready(cluster, "wasm-rival")
