"""A new signing key under load: no call is lost, and the old key's tokens are refused once nobody needs them."""

import base64
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, condition, get, until, until_ready, worker

pytestmark = pytest.mark.cluster

CALLS_PER_SECOND = 50


class Caller:
    """Calls a route again and again, and keeps what went wrong."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.calls, self.errors = 0, list[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]

    def __enter__(self) -> "Caller":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        pause = len(self._threads) / CALLS_PER_SECOND
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                demo.post(self.url, {"n": 1}, self.key)
            except Exception as error:
                self.errors.append(repr(error))
            self.calls += 1
            self._stop.wait(max(0.0, pause - (time.monotonic() - began)))


def token_of(cluster: Cluster, name: str) -> str:
    return base64.b64decode(get(cluster, "secret", f"agentos-token-{name}")["data"]["token"]).decode()


def refusal(cluster: Cluster, token: str) -> str:
    """What the engine says to this token; empty when it takes it."""
    bus = cluster.service_address(NAMESPACE, "agentos-engine", demo.BUS_PORT)
    with connect(f"ws://{bus}/w/{token}/host", proxy=None) as socket:
        try:
            said = str(socket.recv(timeout=10))
        except ConnectionClosed as closed:
            return str(closed)
    return said if '"error"' in said else ""


def test_a_new_signing_key_loses_no_call_and_ends_the_old_one(cluster: Cluster) -> None:
    apply(cluster, worker("steady", "steady::one"), worker("other", "other::one"))
    until_ready(cluster, "steady", "other")
    urls = demo.engine_urls(cluster)
    before = token_of(cluster, "steady")
    engine = get(cluster, "pod", "agentos-engine-0")["metadata"]["uid"]
    assert refusal(cluster, before) == ""
    with Caller(f"{urls['http']}/steady/one", urls["key"]) as caller:
        until("calls go through", lambda: caller.calls > CALLS_PER_SECOND)
        cluster.kubectl(
            "annotate", "secret", "agentos-identity", "-n", demo.NAMESPACE, "--overwrite",
            f"agentos.dev/rotate={time.time():.0f}",
        )  # fmt: skip
        until("the Workers have new tokens", lambda: token_of(cluster, "steady") != before, 90)
        until(
            "the old key is out of use",
            lambda: (
                "previous-key" not in get(cluster, "secret", "agentos-identity", demo.NAMESPACE)["data"]
                and condition(get(cluster, "realm", "default", ""), "TokensCurrent")[0] == "True"
            ),
            180,
        )
        made = caller.calls
        until("and calls go on", lambda: caller.calls > made + CALLS_PER_SECOND)
    assert caller.errors == []
    assert "AUTH_ERROR" in refusal(cluster, before)
    assert refusal(cluster, token_of(cluster, "steady")) == ""
    assert get(cluster, "pod", "agentos-engine-0")["metadata"]["uid"] == engine, "the engine was restarted for it"
    for name in ("steady", "other"):
        assert condition(get(cluster, "worker", name), "Ready")[0] == "True"
