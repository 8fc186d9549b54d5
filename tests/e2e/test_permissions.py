"""A Worker's YAML says what it may register and call, and the bus enforces it."""

import base64
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from tests import demo
from tests.cluster import Cluster
from tests.e2e.bus import Bus, connected
from tests.e2e.support import NAMESPACE, apply, get, listed, until, until_condition, until_ready, worker

pytestmark = pytest.mark.cluster

CALLER = """
import os, signal, threading
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
def call(data):
    try:
        return {"value": worker.trigger({"function_id": data["to"], "payload": data.get("payload", {}), "timeout_ms": 5000})}
    except Exception as error:
        return {"error": str(error)}
for name in os.environ["FUNCTIONS"].split():
    worker.register_function(name, call)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
"""
"""A worker on the unmodified SDK whose functions call what they are told to, and answer with the result or the error."""


def caller(name: str, *functions: str, **spec: Any) -> dict[str, Any]:
    return worker(name, *functions, command=["python3", "-c", CALLER], **spec)


@pytest.fixture
def bus(cluster: Cluster) -> Iterator[Bus]:
    """A person's connection."""
    with connected(demo.engine_urls(cluster)["ws"]) as made:
        yield made


def patch(cluster: Cluster, name: str, **spec: Any) -> None:
    cluster.kubectl("patch", "worker", name, "-n", NAMESPACE, "--type=merge", "-p", json.dumps({"spec": spec}))


def pods(cluster: Cluster, name: str) -> list[tuple[str, int]]:
    """Name and restarts of a Worker's pods."""
    return [
        (pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"])
        for pod in listed(cluster, "pods", f"agentos.dev/worker={name}")
    ]


def is_refused(url: str) -> bool:
    """Whether the engine lets nobody in at this URL. It holds a worker for 5 s, since it may still be told of its grant."""
    try:
        with connected(url) as bus:
            return "result" not in bus.call("engine::workers::register", {})
    except ConnectionClosed as closed:
        return "AUTH_ERROR" in str(closed)


def url_of(cluster: Cluster, name: str) -> str:
    """Where a Worker's pods connect, with its token."""
    secret = get(cluster, "secret", f"agentos-token-{name}")
    token = base64.b64decode(secret["data"]["token"]).decode()
    return f"ws://{cluster.service_address(NAMESPACE, 'agentos-engine', demo.BUS_PORT)}/w/{token}/somebody"


def test_a_call_outside_calls_is_refused_with_the_line_and_allowed_a_moment_after_it_is_added(
    cluster: Cluster, bus: Bus
) -> None:
    apply(cluster, worker("target", "target::one"), caller("limited", "limited::call", calls=["state::get"]))
    until_ready(cluster, "target", "limited")
    refused = bus.via("limited::call", "target::one")
    assert "FORBIDDEN" in refused
    assert 'may not call target::one; add this line to its spec.calls:   - "target::one"' in refused
    before = pods(cluster, "limited")
    patch(cluster, "limited", calls=["state::get", "target::one"], stateScopes=["limited-*"])
    patched = time.monotonic()
    until("the call is allowed", lambda: not bus.via("limited::call", "target::one"), 10)
    print(f"allowed {time.monotonic() - patched:.2f} s after the patch")
    assert pods(cluster, "limited") == before
    assert "spec.stateScopes" in bus.via("limited::call", "state::get", scope="other", key="a")
    assert bus.via("limited::call", "state::get", scope="limited-1", key="a") == ""


def test_what_spec_owns_does_not_cover_is_not_served_and_told_until_it_does(cluster: Cluster, bus: Bus) -> None:
    apply(cluster, worker("greedy", "greedy::one", "loot::one", owns=["greedy::*"]))
    until_ready(cluster, "greedy")
    message = until_condition(cluster, "greedy", "FunctionsInSync", "False", "Undeclared")
    assert message.startswith("it registers loot::one, which spec.owns does not cover: add to spec.owns what is free")
    assert get(cluster, "worker", "greedy")["status"]["functions"] == ["greedy::one"]
    assert "function_not_found" in json.dumps(bus.call("loot::one", {}))
    assert bus.call("greedy::one", {})["result"]["from"] == "greedy"
    patch(cluster, "greedy", owns=["greedy::*", "loot::one"])
    until_condition(cluster, "greedy", "FunctionsInSync", "True", "InSync")
    assert bus.call("loot::one", {})["result"]["from"] == "greedy"


def test_a_worker_that_declares_nothing_gets_what_nobody_else_has(cluster: Cluster, bus: Bus) -> None:
    apply(cluster, worker("holder", "shared::one"))
    until_ready(cluster, "holder")
    undeclared = worker("undeclared", "shared::one", "found::one")
    del undeclared["spec"]["owns"]
    apply(cluster, undeclared)
    until_ready(cluster, "undeclared")
    message = until_condition(cluster, "undeclared", "FunctionsInSync", "False", "Foreign")
    assert "it registers http POST /shared/one, shared::one, which Worker holder holds" in message
    assert bus.call("found::one", {})["result"]["from"] == "undeclared"
    assert bus.call("shared::one", {})["result"]["from"] == "holder"
    held = get(cluster, "functionclaim", "found")["spec"]["holders"]
    assert [(each["pattern"], each["worker"]) for each in held] == [("found::one", "undeclared")]
    nothing = worker("nothing", "shared::one")
    del nothing["spec"]["owns"]
    apply(cluster, nothing)
    message = until_condition(cluster, "nothing", "Ready", "False", "NotGranted")
    assert "it registers shared::one, which Worker holder holds, and gets no other" in message


def seconds_until(holds: Callable[[], bool]) -> float:
    """How long it takes from now until it holds; asked all the time."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < 10
        time.sleep(0.01)
    return time.monotonic() - started


def test_owns_and_calls_hold_on_the_bus_within_a_second_of_apply(cluster: Cluster, bus: Bus) -> None:
    functions = [f"target::f{number}" for number in range(6)]
    apply(cluster, worker("target", *functions, owns=functions[:1]), caller("limited", "limited::call", calls=[]))
    until_condition(cluster, "target", "FunctionsInSync", "False", "Undeclared")
    until_ready(cluster, "limited")
    owned, allowed, revoked = list[float](), list[float](), list[float]()
    for number in range(1, len(functions)):
        apply(cluster, worker("target", *functions, owns=functions[: number + 1]))
        owned.append(seconds_until(lambda added=functions[number]: "result" in bus.call(added, {})))
        apply(cluster, caller("limited", "limited::call", calls=["target::f0"]))
        allowed.append(seconds_until(lambda: not bus.via("limited::call", "target::f0")))
        apply(cluster, caller("limited", "limited::call", calls=[]))
        revoked.append(seconds_until(lambda: "FORBIDDEN" in bus.via("limited::call", "target::f0")))
    print(f"\nslowest of 5: owned {max(owned):.2f} s, allowed {max(allowed):.2f} s, revoked {max(revoked):.2f} s")
    for seconds in (owned, allowed, revoked):
        assert statistics.median(seconds) <= 1
        assert max(seconds) <= 5  # the machine is busy with other tests


def test_grants_outlive_the_engine_and_end_with_the_worker(cluster: Cluster) -> None:
    apply(cluster, worker("target", "target::one"), caller("limited", "limited::call", calls=[]))
    until_ready(cluster, "target", "limited")
    url = url_of(cluster, "limited")
    assert not is_refused(url)
    cluster.kubectl("delete", "pod", "agentos-engine-0", "-n", NAMESPACE, "--wait=true", "--grace-period=1", timeout=60)

    def still_limited() -> bool:
        try:
            with connected(demo.engine_urls(cluster)["ws"]) as bus:
                return "FORBIDDEN" in bus.via("limited::call", "target::one")
        except (OSError, EOFError, TimeoutError, WebSocketException):
            return False  # the engine is starting

    until("the worker is back, with its limits", still_limited, 40)
    with connect(url, open_timeout=10, compression=None) as stranger:
        assert "result" in Bus(stranger).call("engine::workers::register", {})
        cluster.kubectl("delete", "worker", "limited", "-n", NAMESPACE)
        until("its pod is gone", lambda: not listed(cluster, "pods", "agentos.dev/worker=limited"))
        with pytest.raises(ConnectionClosed):  # that of a program which has the token and is no pod
            list(stranger)
    assert is_refused(url)
