"""Many Workers that want the same functions at once: one owner at every moment, and the oldest that fits is next.

They have ``replicas: 0``, so that they own and wait without a pod.
"""

import itertools
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, by_age, condition, listed, until, worker
from tests.e2e.watching import ClaimWatch, Held, claims_watched

pytestmark = pytest.mark.cluster

CLAIMANTS = 200
CLIENTS = 8
PROMOTED_WITHIN = 2.0
"""Seconds from the deletion of a holder, as kubectl tells it, to the claim that names the next one, as a rule."""
AT_MOST = 3 * PROMOTED_WITHIN
"""Any single one, on a machine that is busy with other tests."""


def claimant(name: str, *owns: str) -> dict[str, Any]:
    return worker(name, owns=list(owns), replicas=0)


@pytest.fixture
def watch(cluster: Cluster) -> Iterator[ClaimWatch]:
    with claims_watched(cluster) as watching:
        yield watching
    # All at once: kubectl asks for one after the other.
    cluster.kubectl("delete", "--raw", f"/apis/agentos.dev/v1alpha1/namespaces/{NAMESPACE}/workers")


@pytest.fixture(params=["webhook", "no webhook"])
def admission(request: pytest.FixtureRequest) -> None:
    """With the admission webhook, and without it."""
    if request.param == "no webhook":
        request.getfixturevalue("without_webhook")


def at_once(cluster: Cluster, workers: list[dict[str, Any]]) -> None:
    """Applies Workers by several clients at the same time."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: apply(cluster, *workers[number::CLIENTS]), range(CLIENTS)))


def delete(cluster: Cluster, name: str) -> float:
    """Deletes a Worker; returns when (monotonic) kubectl said so."""
    cluster.kubectl("delete", "worker", name, "-n", NAMESPACE, "--wait=false")
    return time.monotonic()


def until_waiting(cluster: Cluster, number: int) -> None:
    """Waits until so many Workers say that others hold what they want."""
    until(
        f"{number} wait",
        lambda: (
            [condition(each, "FunctionsClaimed")[1] for each in listed(cluster, "workers")].count("Clash") == number
        ),
        60,
    )


@pytest.mark.usefixtures("admission")
def test_of_many_that_want_one_function_one_has_it_and_the_oldest_is_next(cluster: Cluster, watch: ClaimWatch) -> None:
    at_once(cluster, [claimant(f"race-{number:03}", "race::*") for number in range(CLAIMANTS)])
    until_waiting(cluster, CLAIMANTS - 1)
    (first,) = watch.now.names("race")
    expected = [first, *(name for name in by_age(cluster) if name != first)][:21]
    seconds = []
    for holder, following in itertools.pairwise(expected):
        deleted = delete(cluster, holder)
        promoted = watch.until(
            f"{following} follows {holder}", lambda held, name=following: held.names("race") == [name], 10
        )
        seconds.append(max(0.0, promoted.since - deleted))
    held = [name for state in watch.states for name in state.names("race")]
    assert [name for name, _ in itertools.groupby(held)] == expected
    print(f"\n{len(seconds)} promotions: median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s")
    assert statistics.median(seconds) <= PROMOTED_WITHIN
    assert max(seconds) <= AT_MOST


@pytest.mark.usefixtures("admission")
def test_of_those_that_want_the_same_two_in_either_order_one_has_both(cluster: Cluster, watch: ClaimWatch) -> None:
    orders = [("left::*", "right::*"), ("right::*", "left::*")]
    at_once(cluster, [claimant(f"pair-{number:03}", *orders[number % 2]) for number in range(CLAIMANTS)])
    until_waiting(cluster, CLAIMANTS - 1)
    asked: dict[str, float] = {}
    for _ in range(20):
        (holder,) = watch.now.names("left")
        asked[holder] = time.monotonic()
        delete(cluster, holder)
        watch.until(
            "another one has both", lambda held, gone=holder: has_both(held) and gone not in held.names("left"), 10
        )
    first = next(number for number, state in enumerate(watch.states) if has_both(state))
    since = [state.since for state in watch.states[first:] if has_both(state)]
    between = [
        following.since - state.since
        for state, following in itertools.pairwise(watch.states[first:])
        if not has_both(state)
    ]
    for state in watch.states:
        # The claims are two objects: in between, one of them may still name who is gone.
        there = {
            name for name in (*state.names("left"), *state.names("right")) if asked.get(name, math.inf) > state.since
        }
        assert len(there) <= 1, f"two that are there have one each: {state}"
    assert len(since) == 21
    print(f"\n20 promotions; longest time in which nobody had both: {max(between):.3f} s")
    assert statistics.median(between) <= PROMOTED_WITHIN
    assert max(between) <= AT_MOST


def has_both(held: Held) -> bool:
    return len(held.names("left")) == 1 and held.names("left") == held.names("right")


@pytest.mark.usefixtures("admission")
def test_no_edit_of_an_older_one_takes_what_a_younger_one_has(cluster: Cluster, watch: ClaimWatch) -> None:
    numbers = range(CLAIMANTS // 2)
    at_once(cluster, [claimant(f"older-{number:03}", f"old::f{number}") for number in numbers])
    watch.until("the older ones have theirs", lambda held: len(held.names("old")) == len(numbers), 60)
    at_once(cluster, [claimant(f"newer-{number:03}", f"new::f{number}") for number in numbers])
    settled = watch.until("the newer ones have theirs", lambda held: len(held.names("new")) == len(numbers), 60)
    # One that was never set up loses a part that it cannot use (assign, rule 4).
    until("all are set up", lambda: len(listed(cluster, "deployments", "agentos.dev/worker")) == CLAIMANTS, 90)
    edits = len(watch.states) - 1
    # Each wants what a newer one has besides its own, in its place, or all there is.
    wanted = [[f"old::f{number}", f"new::f{number}"] for number in numbers]
    wanted[1::3] = [[f"new::f{number}"] for number in numbers[1::3]]
    wanted[2::3] = [[f"old::f{number}", "new::*"] for number in numbers[2::3]]
    at_once(cluster, [claimant(f"older-{number:03}", *wanted[number]) for number in numbers])
    until_waiting(cluster, len(numbers))
    kept = {f"older-{number:03}" for number in numbers if number % 3 != 1}
    assert set(watch.now.names("old")) == kept
    at_once(cluster, [claimant(f"older-{number:03}", f"old::f{number}") for number in numbers])
    watch.until("the older ones have theirs again", lambda held: len(held.names("old")) == len(numbers), 60)
    until_waiting(cluster, 0)
    for state in watch.states[edits:]:
        assert state.names("new") == settled.names("new")
        assert kept <= set(state.names("old"))
