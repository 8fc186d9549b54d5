"""``spec.replaces``: a Worker takes over live functions of another, with no call lost."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import WebSocketException

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, condition, get, listed, until, until_condition, until_ready, worker
from tests.e2e.test_permissions import connected
from tests.e2e.watching import bus_watched

pytestmark = pytest.mark.cluster

CALLERS, PER_SECOND = 10, 100
"""Callers, and their calls together, on the bus; as many over REST."""

SCRIPT = """
import os, signal, threading, time
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
def serve(data):
    time.sleep(0.02)
    body = {"from": os.environ["III_WORKER_NAME"]}
    return {"status_code": 200, "body": body} if "path_params" in data or "headers" in data else body
for name in os.environ["FUNCTIONS"].split():
    worker.register_function(name, serve)
    worker.register_trigger({"type": "http", "function_id": name, "config": {"api_path": name.replace("::", "/"), "http_method": "POST"}})
ended.wait()
time.sleep(1)
worker.shutdown()
"""
"""A worker whose calls take 20 ms, and that ends those in progress before it goes."""


def live(name: str, *functions: str, **spec: Any) -> dict[str, Any]:
    return worker(name, *functions, command=["python3", "-c", SCRIPT], **spec)


class Load:
    """Calls of one function, on the bus and over REST, and what became of each."""

    def __init__(self, cluster: Cluster, function_id: str) -> None:
        self._urls = demo.engine_urls(cluster)
        self._function_id = function_id
        self._key = demo.api_key(cluster)
        self.answers: Counter[str] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def _note(self, who: str, error: str) -> None:
        with self._lock:
            if error:
                self.errors.append(f"{time.monotonic():.2f} {error}"[:300])
            else:
                self.answers[who] += 1

    def _turns(self) -> Iterator[None]:
        """One caller's turns: whoever is late calls at once, so that the rate is held."""
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            yield
            due += CALLERS / PER_SECOND

    def _on_bus(self) -> None:
        with connected(self._urls["ws"]) as bus:
            for _ in self._turns():
                try:
                    answer = bus.call(self._function_id, {})
                except (OSError, EOFError, TimeoutError, WebSocketException) as error:
                    self._note("", f"bus: {error!r}")
                    return
                self._note(f"bus {answer.get('result', {}).get('from')}", str(answer.get("error", "")))

    def _over_rest(self) -> None:
        url = f"{self._urls['http']}/{self._function_id.replace('::', '/')}"
        for _ in self._turns():
            request = urllib.request.Request(
                url, data=b"{}", headers={"content-type": "application/json", "authorization": f"Bearer {self._key}"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    self._note(f"rest {response.read().decode()}", "")
            except urllib.error.HTTPError as error:
                self._note("", f"rest: {error.code} {error.read()[:200]!r}")
            except OSError as error:
                self._note("", f"rest: {error!r}")

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """As many callers on the bus as over REST."""
        threads = [threading.Thread(target=each) for _ in range(CALLERS) for each in (self._on_bus, self._over_rest)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(30)

    def served_by(self, name: str, more: int = 50) -> None:
        """Waits until this Worker has answered some more calls on the bus, and over REST."""
        before = {kind: self._count(kind, name) for kind in ("bus", "rest")}
        until(
            f"{name} answers, bus and REST",
            lambda: all(self._count(kind, name) >= count + more for kind, count in before.items()) or self.errors,
            30,
        )

    def _count(self, kind: str, name: str) -> int:
        with self._lock:
            return sum(count for who, count in self.answers.items() if who.startswith(kind) and name in who)


def test_a_live_function_changes_hands_both_ways_under_load_without_a_call_lost(cluster: Cluster) -> None:
    apply(cluster, live("mailer", "mail::send"))
    until_ready(cluster, "mailer")
    load = Load(cluster, "mail::send")
    with bus_watched(cluster), load.running():
        load.served_by("mailer")
        started = time.monotonic()
        applied = apply(cluster, live("poster", "mail::send", owns=["mail::*"], replaces="mailer"))
        assert "this Worker takes over as soon as its pods answer" in applied.stderr
        until_ready(cluster, "poster")
        print(f"poster ready after {time.monotonic() - started:.1f} s")
        load.served_by("poster")
        message = until_condition(cluster, "mailer", "FunctionsClaimed", "False", "Replaced")
        assert "Worker poster has taken over its functions; delete this Worker" in message
        until("its pods are gone", lambda: not listed(cluster, "pods", "agentos.dev/worker=mailer"))
        cluster.kubectl("delete", "worker", "mailer", "-n", NAMESPACE, "--wait=true")
        # The old name comes back.
        apply(cluster, live("mailer", "mail::send", replaces="poster"))
        until_ready(cluster, "mailer")
        load.served_by("mailer")
        cluster.kubectl("delete", "worker", "poster", "-n", NAMESPACE, "--wait=true")
        until("its pods are gone", lambda: not listed(cluster, "pods", "agentos.dev/worker=poster"))
        load.served_by("mailer")
    seconds = time.monotonic() - started
    print(f"{sum(load.answers.values())} calls, {sum(load.answers.values()) / seconds:.0f}/s: {dict(load.answers)}")
    assert load.errors == []
    holders = get(cluster, "functionclaim", "mail")["spec"]["holders"]
    assert [(each["pattern"], each["worker"]) for each in holders] == [("mail::send", "mailer")]


def test_one_that_lacks_a_function_waits_and_names_it_and_the_old_one_serves_on(cluster: Cluster) -> None:
    apply(cluster, live("whole", "part::one", "part::two", owns=["part::*"]))
    until_ready(cluster, "whole")
    apply(cluster, live("half", "part::one", owns=["part::*"], replaces="whole"))
    until(
        "the function is named",
        lambda: "not registered: part::two" in condition(get(cluster, "worker", "half"), "FunctionsClaimed")[2],
    )
    assert condition(get(cluster, "worker", "half"), "Ready")[:2] == ("False", "HandingOver")
    assert condition(get(cluster, "worker", "whole"), "Ready")[0] == "True"
    apply(cluster, live("half", "part::one", owns=["part::one"], replaces="whole"))
    until_ready(cluster, "half")
    until_condition(cluster, "whole", "FunctionsClaimed", "False", "Replaced")
    cluster.kubectl("delete", "worker", "half", "-n", NAMESPACE)
    until_ready(cluster, "whole")


def test_a_worker_must_not_replace_itself_with_or_without_the_webhook(cluster: Cluster) -> None:
    refused = apply(cluster, live("itself", "self::one", replaces="itself"), check=False)
    assert refused.returncode != 0
    assert "spec.replaces: names this Worker itself" in refused.stderr
