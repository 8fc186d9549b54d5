"""HTTP routes and trigger types have one owner each, as functions do; what differs from what is owned is told as drift."""

import time
from typing import Any

import pytest
from websockets.exceptions import WebSocketException

from tests import demo
from tests.cluster import Cluster
from tests.e2e.bus import connected
from tests.e2e.support import apply, condition, get, listed, until, until_condition, until_ready, worker

pytestmark = pytest.mark.cluster

ROUTES = """
import os, signal, threading
from iii import InitOptions, register_worker
from iii.triggers import TriggerHandler
class Mail(TriggerHandler):
    async def register_trigger(self, config): pass
    async def unregister_trigger(self, config): pass
worker = register_worker(os.environ["III_URL"], InitOptions())
name = os.environ["FUNCTION"]
for each in (name, *os.environ.get("ALSO", "").split()):
    worker.register_function(each, lambda data: {"status_code": 200, "body": {"from": os.environ["III_WORKER_NAME"]}})
for path in os.environ.get("PATHS", "").split():
    worker.register_trigger({"type": "http", "function_id": name, "config": {"api_path": path, "http_method": "POST"}})
if os.environ.get("TYPE"):
    worker.register_trigger_type({"id": os.environ["TYPE"], "description": "mail that came"}, Mail())
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
"""


def routed(name: str, *paths: str, provides: str = "", also: str = "", owns: list[str] | None = None) -> dict[str, Any]:
    """A Worker with one function, bound to these paths; ``provides``: a trigger type; ``also``: further functions."""
    env = {
        "FUNCTION": f"{name}::run",
        "PATHS": " ".join(paths),
        "TYPE": provides,
        "ALSO": also,
        "OTEL_ENABLED": "false",
    }
    return worker(
        name,
        owns=[f"{name}::run"] if owns is None else owns,
        command=["python3", "-c", ROUTES],
        env=[{"name": key, "value": value} for key, value in env.items() if value],
    )


def holders(cluster: Cluster) -> dict[str, str]:
    """Who holds what, as ``kubectl get functionclaims`` knows it."""
    claims = [each["spec"] for each in listed(cluster, "functionclaims")]
    return {held["pattern"]: held["worker"] for claim in claims for held in claim["holders"]}


def bound(cluster: Cluster) -> set[str]:
    """The functions that are bound to routes on the engine; empty while it cannot be asked."""
    try:
        with connected(demo.engine_urls(cluster)["ws"]) as bus:
            listing = bus.call("engine::registered-triggers::list", {})["result"]
    except (OSError, EOFError, TimeoutError, WebSocketException):
        return set()
    return {
        f"{each['function_id']} {each['config']['api_path']}"
        for each in listing["registered_triggers"]
        if each["trigger_type"] == "http"
    }


def events(cluster: Cluster, name: str) -> list[tuple[str, str]]:
    """Reasons and notes of the Events about a Worker."""
    found = listed(cluster, "events.events.k8s.io")
    about = [each for each in found if each["regarding"].get("name") == name and each["regarding"]["kind"] == "Worker"]
    return [(each["reason"], each["note"]) for each in about]


def test_the_first_worker_has_the_route_and_the_second_gets_it_when_that_is_deleted(cluster: Cluster) -> None:
    apply(cluster, routed("first", "orders/:id", provides="mail"))
    until_ready(cluster, "first")
    assert bound(cluster) == {"first::run orders/:id"}
    route = "http POST /orders/:"
    assert holders(cluster)[route] == holders(cluster)["trigger-type mail"] == "first"
    assert until_condition(cluster, "first", "FunctionsInSync", "True", "InSync")
    shown = cluster.kubectl("get", "functionclaims", "-n", "default").stdout
    assert any(route in line and line.split()[-2] == "first" for line in shown.splitlines()), shown

    apply(cluster, routed("second", "orders/:number", "refunds", provides="mail"))
    until_ready(cluster, "second")
    message = until_condition(cluster, "second", "FunctionsInSync", "False", "Foreign")
    assert f"{route}, trigger-type mail, which Worker first holds" in message
    assert get(cluster, "worker", "second")["status"]["drift"]["foreign"] == [route, "trigger-type mail"]
    assert holders(cluster)["http POST /refunds"] == "second"
    until("an Event tells it", lambda: ("Foreign", message) in events(cluster, "second"))

    restart = get(cluster, "pod", "agentos-engine-0")["metadata"]["uid"]
    cluster.kubectl("delete", "pod", "agentos-engine-0", "-n", "default", "--wait=true", timeout=90)
    until("the engine is another", lambda: get(cluster, "pod", "agentos-engine-0")["metadata"]["uid"] != restart)
    cluster.kubectl(
        "wait", "-n", "default", "--for=condition=Ready", "pod/agentos-engine-0", "--timeout=90s", timeout=95
    )
    until(
        "both are on the bus again, each with its own routes",
        lambda: bound(cluster) == {"first::run orders/:id", "second::run refunds"},
    )
    assert holders(cluster)[route] == holders(cluster)["trigger-type mail"] == "first"
    assert condition(get(cluster, "worker", "second"), "FunctionsInSync")[1] == "Foreign"

    cluster.kubectl("delete", "worker", "first", "-n", "default")
    gone = time.monotonic()
    until("the second has both", lambda: set(holders(cluster).values()) == {"second"}, timeout=30)
    promoted = time.monotonic() - gone
    until("the second serves both", lambda: bound(cluster) == {"second::run orders/:number", "second::run refunds"})
    until_condition(cluster, "second", "FunctionsInSync", "True", "InSync")
    until("an Event tells that, too", lambda: "InSync" in [reason for reason, _ in events(cluster, "second")])
    assert promoted < 15, promoted


def test_what_is_registered_without_owning_it_and_owned_without_registering_it_is_told(cluster: Cluster) -> None:
    apply(cluster, routed("loose", also="loot::one", owns=["loose::*"]))
    until_ready(cluster, "loose")
    message = until_condition(cluster, "loose", "FunctionsInSync", "False", "Undeclared")
    assert "it registers loot::one, which spec.owns does not cover" in message
    assert condition(get(cluster, "worker", "loose"), "Ready")[0] == "True"
    apply(cluster, routed("lacking", owns=["lacking::run", "lacking::more"]))
    message = until_condition(cluster, "lacking", "FunctionsInSync", "False", "Missing")
    assert "spec.owns names lacking::more, which no pod has registered" in message
    assert condition(get(cluster, "worker", "lacking"), "Ready")[:2] == ("False", "NotRegistered")
    until("an Event tells it", lambda: ("Missing", message) in events(cluster, "lacking"))
    apply(cluster, routed("loose", also="loot::one", owns=["loose::*", "loot::one"]))
    until_condition(cluster, "loose", "FunctionsInSync", "True", "InSync")
