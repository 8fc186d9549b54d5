"""Who reaches a realm's pods over the network, while its NetworkPolicies are enforced in the node's kernel."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.cluster.command import run
from tests.cluster.policies import PolicyAgent, enforced
from tests.e2e.support import IMAGE, SCRIPT, apply, condition, get, listed, until, worker

pytestmark = pytest.mark.cluster

REALM, ELSEWHERE, MONITORING = "walled", "walled-elsewhere", "monitoring"
BUS, REST, STREAM, METRICS, WORKERS_OWN = 49134, 3111, 3112, 9464, 8000
ENGINE = f"agentos-engine.{REALM}.svc"
SERVING = SCRIPT.replace(
    "ended = ",
    f"from http.server import HTTPServer, SimpleHTTPRequestHandler as Page\n"
    f"threading.Thread(target=HTTPServer(('', {WORKERS_OWN}), Page).serve_forever, daemon=True).start()\nended = ",
)
"""A worker that listens on a port of its own besides."""
ASK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def opens(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor() as pool:
    print(json.dumps([t for t, o in zip(sys.argv[1:], pool.map(opens, sys.argv[1:])) if o]))
"""
PLACES = {"caller": REALM, "stranger": REALM, "visitor": ELSEWHERE, "scraper": MONITORING}


def bystander(name: str) -> dict[str, Any]:
    """A pod that no Worker has."""
    container = {"name": "idle", "image": IMAGE, "command": ["sleep", "3600"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": PLACES[name], "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }


def realm(**spec: Any) -> dict[str, Any]:
    body = {"namespace": REALM, "deletionPolicy": "Delete"} | spec
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": REALM}, "spec": body}


@pytest.fixture(scope="module")
def agent(installed: Cluster) -> Iterator[tuple[Cluster, PolicyAgent | None]]:
    """A realm with a Worker, and pods that are none of its: in its namespace, in another, and where Prometheus is."""
    caller = worker("caller", "walled::one", command=["python3", "-c", SERVING])
    caller["metadata"]["namespace"] = REALM
    try:
        for namespace in PLACES.values():
            until(f"no {namespace} of an earlier run", lambda n=namespace: not get(installed, "namespace", n, ""), 120)
        with enforced(installed) as running:
            apply(installed, realm())
            until("its namespace", lambda: get(installed, "namespace", REALM, ""))
            for namespace in (ELSEWHERE, MONITORING):
                installed.kubectl("create", "namespace", namespace)
            apply(installed, caller, *(bystander(name) for name in PLACES if name != "caller"))
            installed.kubectl(
                "wait", "-n", REALM, "--for=condition=Ready", "worker/caller", "--timeout=120s", timeout=130
            )
            for name in ("stranger", "visitor", "scraper"):
                installed.kubectl("wait", "-n", PLACES[name], "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
            yield installed, running
    finally:
        installed.kubectl("delete", "realm", REALM, "--ignore-not-found", "--wait=false")
        installed.kubectl("delete", "namespace", ELSEWHERE, MONITORING, "--ignore-not-found", "--wait=false")


@pytest.fixture
def walled(agent: tuple[Cluster, PolicyAgent | None]) -> Cluster:
    """The realm as it is by default."""
    change(agent, networkPolicy={"enabled": True, "extraFrom": []})
    return agent[0]


def change(agent: tuple[Cluster, PolicyAgent | None], **spec: Any) -> None:
    """Apply the Realm with this spec, and wait until it is so and enforced."""
    cluster, running = agent
    apply(cluster, realm(**spec))

    def observed() -> bool:
        now = get(cluster, "realm", REALM, "")
        return now["metadata"]["generation"] == now.get("status", {}).get("observedGeneration")

    until("the operator has seen it", observed)
    if running is not None:
        running.settle()


def reached(cluster: Cluster, name: str) -> set[int]:
    """The ports, of the engine and of the Worker's own pod, that a pod gets a connection to."""
    (pod,) = [each for each in listed(cluster, "pods", "agentos.dev/worker=caller", REALM) if "podIP" in each["status"]]
    source = pod["metadata"]["name"] if name == "caller" else name
    targets = [f"{ENGINE}:{port}" for port in (BUS, REST, STREAM, METRICS)]
    targets += [f"{pod['status']['podIP']}:{WORKERS_OWN}"] if name != "caller" else []
    done = cluster.kubectl("exec", "-n", PLACES[name], source, "--", "python3", "-c", ASK, *targets)
    return {int(target.rpartition(":")[2]) for target in json.loads(done.stdout)}


def test_only_the_realms_workers_reach_the_engine(walled: Cluster) -> None:
    assert reached(walled, "caller") == {BUS, REST, STREAM}
    assert reached(walled, "stranger") == set()
    assert reached(walled, "visitor") == set()


def test_prometheus_reads_the_metrics_and_nothing_else(walled: Cluster) -> None:
    assert reached(walled, "scraper") == {METRICS}


def test_an_address_outside_the_cluster_reaches_the_engine_only_when_it_is_named(
    agent: tuple[Cluster, PolicyAgent | None], walled: Cluster
) -> None:
    host, _, port = walled.service_address(REALM, "agentos-engine", REST).rpartition(":")

    def reaches() -> bool:
        try:
            socket.create_connection((host, int(port)), 2).close()
        except OSError:
            return False
        return True

    if agent[1] is None:
        pytest.skip("with kind the host comes in by a port-forward")
    assert not reaches()
    own = json.loads(run(["ip", "-json", "route", "get", host]).stdout)[0]["prefsrc"]
    change(agent, networkPolicy={"extraFrom": [{"ipBlock": {"cidr": f"{own}/32"}}]})
    assert reaches()


def test_extra_from_lets_in_whom_it_names_at_the_ports_that_it_names(
    agent: tuple[Cluster, PolicyAgent | None], walled: Cluster
) -> None:
    elsewhere = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [ELSEWHERE]}]}
    change(
        agent,
        networkPolicy={
            "extraFrom": [
                {"podSelector": {"matchLabels": {"app": "stranger"}}},
                {"namespaceSelector": elsewhere, "ports": ["stream", "bus"]},
            ]
        },
    )
    assert reached(walled, "stranger") == {REST}
    assert reached(walled, "visitor") == {STREAM, BUS}
    assert reached(walled, "scraper") == {METRICS}


def test_an_exposed_rest_port_is_open_to_the_named_controller(
    agent: tuple[Cluster, PolicyAgent | None], walled: Cluster
) -> None:
    controller = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ELSEWHERE}}}
    expose = {"type": "Ingress", "host": "walled.example.org", "from": [controller]}
    change(agent, http={"expose": expose})
    assert reached(walled, "visitor") == {REST}
    assert reached(walled, "stranger") == set()


def test_operator_probes_and_port_forward_get_through(walled: Cluster) -> None:
    before = get(walled, "pod", "agentos-engine-0", REALM)["metadata"]["uid"]
    walled.kubectl("delete", "pod", "-n", REALM, "agentos-engine-0", "--wait=true", timeout=90)

    def linked_anew() -> bool:
        pod, now = get(walled, "pod", "agentos-engine-0", REALM), get(walled, "realm", REALM, "")
        started = pod and pod["metadata"]["uid"] != before and condition(pod, "Ready")[0] == "True"
        return bool(started) and condition(now, "Ready")[0] == "True" and now["status"]["engine"]["connections"] >= 1

    until("the engine is ready, and operator and Worker are connected again", linked_anew, 90)
    forward = ["port-forward", "-n", REALM, "service/agentos-engine", ":3111"]
    with subprocess.Popen(
        [walled.tools.kubectl, *forward],
        stdout=subprocess.PIPE,
        text=True,
        env=walled.environment() | {"HOME": "/root"},
    ) as process:
        try:
            assert process.stdout is not None
            told = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert told is not None
            url, key = f"http://127.0.0.1:{told[1]}/walled/one", demo.api_key(walled, REALM)
            # The SDK's own rule: a result without body, headers or status_code is not an HTTP answer.
            until("the Worker's function answers", lambda: _answer(url, key) == {}, 30)
        finally:
            process.terminate()


def test_turned_off_nothing_is_kept_out(agent: tuple[Cluster, PolicyAgent | None], walled: Cluster) -> None:
    assert {each["metadata"]["name"] for each in listed(walled, "networkpolicies", namespace=REALM)} == {
        "agentos-engine",
        "agentos-workers",
    }
    change(agent, networkPolicy={"enabled": False})
    until("the policies are gone", lambda: not listed(walled, "networkpolicies", namespace=REALM))
    if agent[1] is not None:
        agent[1].settle()
    assert reached(walled, "visitor") == {BUS, REST, STREAM, METRICS, WORKERS_OWN}
    change(agent)
    assert reached(walled, "visitor") == set()


def _answer(url: str, key: str) -> Any:
    try:
        return demo.post(url, {"n": 1}, key)
    except (RuntimeError, OSError) as error:
        return str(error)
