"""A Realm that is deleted: calls in progress get their answers, its Workers say why they stopped, and a new Realm takes over."""

import threading
from collections.abc import Iterator

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import IMAGE, apply, condition, get, listed, realm, until, until_realm_ready, worker

pytestmark = pytest.mark.cluster

NAME = "ending"
SLOW = """
import os, signal, threading, time
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
def slow(data):
    time.sleep(3)
    return {"status_code": 200, "body": {"slept": 3}}
worker.register_function("slow::one", slow)
worker.register_trigger({"type": "http", "function_id": "slow::one", "config": {"api_path": "slow/one", "http_method": "POST"}})
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
"""


@pytest.fixture
def ending(cluster: Cluster) -> Iterator[Cluster]:
    """A realm with a Worker whose function takes three seconds."""
    slow = worker("slow", "slow::one", image=IMAGE, command=["python3", "-c", SLOW])
    slow["metadata"]["namespace"] = NAME
    try:
        apply(cluster, realm(NAME, http={"auth": "none"}))
        until_realm_ready(cluster, NAME)
        apply(cluster, slow)
        cluster.kubectl("wait", "-n", NAME, "--for=condition=Ready", "worker/slow", "--timeout=90s", timeout=100)
        yield cluster
    finally:
        cluster.kubectl("delete", "realm", NAME, "--ignore-not-found", "--timeout=60s", timeout=70)
        cluster.kubectl("delete", "namespace", NAME, "--ignore-not-found", "--timeout=90s", timeout=100)


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_a_call_in_progress_is_answered_and_the_workers_follow_the_engine(ending: Cluster, cascade: str) -> None:
    rest = ending.service_address(NAME, "agentos-engine", demo.HTTP_PORT)
    answers: list[object] = []

    def call() -> None:
        try:
            answers.append(demo.post(f"http://{rest}/slow/one", {}))
        except Exception as error:
            answers.append(repr(error))

    calling = threading.Thread(target=call, daemon=True)
    calling.start()
    calling.join(1)
    assert not answers
    ending.kubectl("delete", "realm", NAME, f"--cascade={cascade}", "--wait=false")
    if cascade == "foreground":
        until("it says so", lambda: condition(get(ending, "realm", NAME, ""), "Ready")[1] == "Deleting", 10)
    calling.join(30)
    assert answers == [{"slept": 3}]
    until("the Realm is gone", lambda: not get(ending, "realm", NAME, ""), 90)
    until("no pod is left", lambda: not listed(ending, "pods", namespace=NAME), 90)
    until(
        "the Worker is told",
        lambda: (
            condition(get(ending, "worker", "slow", NAME), "Ready")[2]
            == f"Realm {NAME}, which had namespace {NAME}, was deleted; make one with spec.namespace: {NAME}, or delete the Worker"
        ),
    )
    apply(ending, realm(NAME))
    until_realm_ready(ending, NAME)
    ending.kubectl("wait", "-n", NAME, "--for=condition=Ready", "worker/slow", "--timeout=90s", timeout=100)
