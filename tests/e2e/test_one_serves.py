"""At no moment do connections of two Workers serve one function: through promotions, restarts and Workers made anew."""

import itertools
import time

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, by_age, get, until, until_condition, until_ready, worker
from tests.e2e.watching import bus_watched, claims_watched

pytestmark = pytest.mark.cluster

PROMOTED_WITHIN = 2.0
"""Seconds from the end of the old holder's last connection to the claim that names the next one."""


def uid(cluster: Cluster, name: str) -> str:
    return get(cluster, "worker", name)["metadata"]["uid"]


def test_the_next_one_is_promoted_soon_after_the_last_connection_of_the_holder_ends(cluster: Cluster) -> None:
    with bus_watched(cluster) as bus, claims_watched(cluster) as claims:
        apply(cluster, worker("first", "shared::one", replicas=2))
        until_ready(cluster, "first")
        apply(cluster, worker("second", "shared::one", owns=["shared::*"]))
        until_condition(cluster, "second", "FunctionsClaimed", "False", "Clash")
        apply(cluster, worker("third", "shared::one"))
        until_condition(cluster, "third", "FunctionsClaimed", "False", "Clash")
        for old, new in itertools.pairwise(by_age(cluster)):
            leaving = uid(cluster, old)
            cluster.kubectl("delete", "worker", old, "-n", NAMESPACE, "--wait=false")
            promoted = claims.until(f"{new} follows {old}", lambda held, new=new: held.names("shared") == [new])
            took = promoted.since - bus.last_seen[leaving]
            print(f"\n{new} promoted {took:.3f} s after the last connection of {old} ended")
            # Not before it, but for what the two ways of hearing of it differ by.
            assert -0.25 <= took <= PROMOTED_WITHIN
            until_ready(cluster, new)
            assert bus.servers("shared::one") == {uid(cluster, new)}


def test_a_restart_of_the_engine_gives_nothing_to_those_who_wait(cluster: Cluster) -> None:
    with bus_watched(cluster) as bus, claims_watched(cluster) as claims:
        apply(cluster, worker("holder", "shared::one", replicas=2))
        until_ready(cluster, "holder")
        apply(cluster, worker("waits", "shared::one"))
        until_condition(cluster, "waits", "FunctionsClaimed", "False", "Clash")
        before = bus.snapshots
        cluster.kubectl("delete", "pod", "agentos-engine-0", "-n", NAMESPACE, "--grace-period=1", timeout=60)
        until("the new engine tells", lambda: bus.snapshots > before)
        until("it is served again", lambda: bus.servers("shared::one") == {uid(cluster, "holder")})
        until_ready(cluster, "holder")
        assert {name for state in claims.states for name in state.names("shared")} == {"holder"}


def test_what_is_released_while_no_operator_runs_is_passed_on_when_one_does(cluster: Cluster) -> None:
    operator = ("-n", demo.NAMESPACE, "deployment/agentos-operator")
    with bus_watched(cluster) as bus, claims_watched(cluster):
        apply(cluster, worker("holder", "shared::one"))
        until_ready(cluster, "holder")
        apply(cluster, worker("waits", "shared::one"))
        until_condition(cluster, "waits", "FunctionsClaimed", "False", "Clash")
        replicas = cluster.kubectl("get", *operator, "-o", "jsonpath={.spec.replicas}").stdout
        cluster.kubectl("scale", *operator, "--replicas=0")
        try:
            cluster.kubectl("delete", "worker", "holder", "-n", NAMESPACE, "--wait=false")
        finally:
            cluster.kubectl("scale", *operator, f"--replicas={replicas}")
        started = time.monotonic()
        until_ready(cluster, "waits")
        print(f"\nready {time.monotonic() - started:.1f} s after the operator was wanted again")
        assert bus.servers("shared::one") == {uid(cluster, "waits")}


def test_one_made_anew_under_its_name_has_its_functions_again_without_a_gap(cluster: Cluster) -> None:
    with bus_watched(cluster) as bus, claims_watched(cluster) as claims:
        apply(cluster, worker("phoenix", "phoenix::one"))
        until_ready(cluster, "phoenix")
        old = uid(cluster, "phoenix")
        cluster.kubectl("delete", "worker", "phoenix", "-n", NAMESPACE, "--wait=true")
        apply(cluster, worker("phoenix", "phoenix::one"))
        until_ready(cluster, "phoenix", timeout=30)
        new = uid(cluster, "phoenix")
        assert new != old
        assert bus.servers("phoenix::one") == {new}
        holders = [each[2] for state in claims.states for each in state.holders]
        assert list(dict.fromkeys(holders)) == [old, new]
