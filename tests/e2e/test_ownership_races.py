"""Many Workers that want the same functions at once: one owner at every moment, and the oldest that fits is next.

They have ``replicas: 0``, so that they own and wait without a pod.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agentos_contracts.patterns import Pattern

from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, condition, get, listed, until, worker

pytestmark = pytest.mark.cluster

CLAIMANTS = 200
CLIENTS = 8


def claimant(name: str, *owns: str) -> dict[str, Any]:
    return worker(name, owns=list(owns), replicas=0)


class Watch:
    """Every state of every FunctionClaim from now on, and what was wrong in any."""

    def __init__(self, cluster: Cluster) -> None:
        self.seen = 0
        self.faults: list[str] = []
        self._process = subprocess.Popen(
            [
                "kubectl",
                "--kubeconfig",
                str(cluster.kubeconfig),
                "get",
                "functionclaims",
                "-n",
                NAMESPACE,
                "-w",
                "-o",
                "json",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        for line in self._process.stdout or ():
            text += line
            if line.rstrip() != "}":
                continue
            claim, _ = decoder.raw_decode(text)
            text = ""
            self.seen += 1
            self._check(claim["spec"]["holders"])

    def _check(self, holders: list[dict[str, str]]) -> None:
        for index, one in enumerate(holders):
            for other in holders[index + 1 :]:
                if one["uid"] != other["uid"] and Pattern(one["pattern"]).clashes(Pattern(other["pattern"])):
                    self.faults.append(f"{one} and {other}")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)


@pytest.fixture
def watch(cluster: Cluster) -> Iterator[Watch]:
    watching = Watch(cluster)
    yield watching
    watching.end()
    assert watching.seen > 0
    assert watching.faults == []


@pytest.fixture(params=["webhook", "no webhook"])
def admission(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """With the admission webhook, and without it; it is put back."""
    if request.param == "webhook":
        yield
        return
    name = "validatingwebhookconfiguration/agentos"
    kept = json.loads(cluster.kubectl("get", name, "-o", "json").stdout)
    for key in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
        kept["metadata"].pop(key, None)
    cluster.kubectl("delete", name)
    try:
        yield
    finally:
        apply(cluster, kept)


def create(cluster: Cluster, workers: list[dict[str, Any]]) -> None:
    """Creates Workers by several clients at once."""
    parts = [workers[number::CLIENTS] for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda part: apply(cluster, *part), [part for part in parts if part]))


def holder_of(cluster: Cluster, segment: str) -> str:
    holders = get(cluster, "functionclaim", segment).get("spec", {}).get("holders", [])
    return holders[0]["worker"] if holders else ""


def by_age(cluster: Cluster, names: set[str]) -> list[str]:
    found = [each["metadata"] for each in listed(cluster, "workers") if each["metadata"]["name"] in names]
    return [each["name"] for each in sorted(found, key=lambda each: (each["creationTimestamp"], each["uid"]))]


@pytest.mark.usefixtures("admission")
def test_of_many_that_want_one_function_one_has_it_and_the_oldest_is_next(cluster: Cluster, watch: Watch) -> None:
    workers = [claimant(f"race-{number:03}", "race::*") for number in range(CLAIMANTS)]
    create(cluster, workers)
    until("somebody has it", lambda: holder_of(cluster, "race"), 30)
    until(
        "all others wait",
        lambda: (
            sum(condition(each, "FunctionsClaimed")[1] == "Clash" for each in listed(cluster, "workers"))
            == CLAIMANTS - 1
        ),
        120,
    )
    names = {each["metadata"]["name"] for each in workers}
    slowest = 0.0
    for _ in range(10):
        holder = holder_of(cluster, "race")
        expected = next(name for name in by_age(cluster, names) if name != holder)
        cluster.kubectl("delete", "worker", holder, "-n", NAMESPACE, "--wait=false")
        names.discard(holder)
        deleted = time.monotonic()
        until("it has passed on", lambda gone=holder: holder_of(cluster, "race") not in ("", gone), 10)
        slowest = max(slowest, time.monotonic() - deleted)
        assert holder_of(cluster, "race") == expected
    print(f"passed on within {slowest:.2f} s")
    assert slowest < 2
    assert watch.seen > 10


@pytest.mark.usefixtures("admission")
def test_of_those_that_want_the_same_two_in_any_order_one_has_both(cluster: Cluster, watch: Watch) -> None:
    pairs = [("left", "right"), ("right", "left")]
    workers = [claimant(f"pair-{number:03}", *pairs[number % 2]) for number in range(CLAIMANTS // 2)]
    create(cluster, workers)
    until("somebody has both", lambda: holder_of(cluster, "left") and holder_of(cluster, "right"), 30)
    for _ in range(5):
        holder = holder_of(cluster, "left")
        cluster.kubectl("delete", "worker", holder, "-n", NAMESPACE, "--wait=false")
        until(
            "another one has both",
            lambda gone=holder: holder_of(cluster, "left") == holder_of(cluster, "right") not in ("", gone),
            10,
        )
    assert watch.faults == []


@pytest.mark.usefixtures("admission")
def test_an_edit_of_an_older_one_takes_nothing(cluster: Cluster, watch: Watch) -> None:
    apply(cluster, claimant("older", "other::*"))
    until("the older one has its own", lambda: holder_of(cluster, "other") == "older")
    apply(cluster, claimant("newer", "wanted::*"))
    until("the newer one has its own", lambda: holder_of(cluster, "wanted") == "newer")
    apply(cluster, claimant("older", "other::*", "wanted::*"))
    until("it waits", lambda: condition(get(cluster, "worker", "older"), "FunctionsClaimed")[1] == "Clash")
    assert holder_of(cluster, "wanted") == "newer"
    apply(cluster, claimant("older", "wanted::*"))
    until("what it gave up is free", lambda: holder_of(cluster, "other") == "")
    assert holder_of(cluster, "wanted") == "newer"
    apply(cluster, claimant("older", "other::*"))
    until("it has it again", lambda: holder_of(cluster, "other") == "older")
    assert watch.faults == []
