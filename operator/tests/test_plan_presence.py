"""Whether a Worker runs and serves, by its pods, its Deployment and its connections."""

from typing import Any

import pytest
from agentos_contracts.patterns import Pattern
from agentos_operator.bus import Connection
from agentos_operator.plan.presence import Presence

GRACE = 15.0


def pod(phase: str = "Running", *, leaving: bool = False) -> dict:
    metadata = {"name": "p", "uid": "p"} | ({"deletionTimestamp": "2026-01-02T03:04:05Z"} if leaving else {})
    return {"metadata": metadata, "status": {"phase": phase}}


def connection(functions=(), waiting=(), claims=()) -> Connection:
    return Connection("id", "w", "p", frozenset(functions), frozenset(waiting), frozenset(claims))


def presence(
    *pods: dict,
    connections: tuple[Connection, ...] = (),
    linked: bool = True,
    enforces: bool = True,
    quiet: float = 60.0,
    deployed: bool = False,
) -> Presence:
    """What is known of the Worker ``w``, whose pod's connections have been as they are for ``quiet`` seconds."""
    there: dict[str, Any] = {"w": connections} if connections else {}
    return Presence(linked, enforces, there, {("w", "p"): quiet}, {"w": pods}, ("w",) if deployed else (), GRACE)


CONNECTED = (connection(),)


@pytest.mark.parametrize(
    ("seen", "lingers"),
    [
        (presence(), False),
        (presence(deployed=True), True),
        (presence(pod()), True),
        (presence(pod("Succeeded"), pod("Failed")), False),
        (presence(pod(leaving=True)), False),
        (presence(pod(leaving=True), pod()), True),
        (presence(pod(leaving=True), connections=CONNECTED), True),
        (presence(pod("Failed"), connections=CONNECTED), False),
        (presence(pod(leaving=True), linked=False), True),
    ],
)
def test_one_that_is_gone_lingers_while_a_pod_may_still_be_connected(seen: Presence, lingers: bool):
    assert seen.lingers("w") == lingers


@pytest.mark.parametrize(
    ("seen", "started"),
    [(presence(), False), (presence(deployed=True), True), (presence(pod(leaving=True)), True)],
)
def test_it_may_have_pods_once_it_has_a_deployment_or_one_is_seen(seen: Presence, started: bool):
    assert seen.started("w") == started
    assert not seen.started("another")


@pytest.mark.parametrize(
    ("seen", "serving"),
    [
        (presence(pod()), False),
        (presence(pod(), connections=CONNECTED), False),
        (presence(pod(), connections=(connection(["a::x"]),)), True),
        (presence(pod(), linked=False), True),
        (presence(linked=False), False),
    ],
)
def test_it_serves_what_the_engine_tells_and_without_a_link_all_that_has_pods(seen: Presence, serving: bool):
    assert seen.serving("w") == serving


@pytest.mark.parametrize(
    ("seen", "serves"),
    [
        (presence(pod(), connections=(connection(["a::x"]),)), True),
        (presence(pod(), connections=(connection(waiting=["a::x"]),)), True),
        (presence(pod(), connections=(connection(["b::x"]),), quiet=0.0), False),
        (presence(pod()), False),
        (presence(pod(), linked=False), True),
        (presence(linked=False), False),
    ],
)
def test_what_it_declared_once_is_given_up_as_soon_as_no_connection_has_it(seen: Presence, serves: bool):
    assert seen.serves("w", Pattern("a::*"), declared=True) == serves


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("seen", "serves", "settles_in"),
    [
        (presence(pod(), connections=CONNECTED, quiet=1.0), True, GRACE - 1.0),
        (presence(pod(), connections=CONNECTED, quiet=GRACE), False, None),
        (presence(pod(), connections=(connection(claims=["http GET /a"]),)), True, None),
        (presence(pod()), True, None),
        (presence(pod(), connections=CONNECTED, linked=False), True, None),
    ],
)
def test_what_it_discovered_is_given_up_when_a_pod_that_came_back_has_not_registered_it(
    seen: Presence, serves: bool, settles_in: float | None, declared: bool
):
    assert seen.serves("w", Pattern.recorded("http GET /a"), declared=declared) == serves
    assert seen.settles_in("w") == settles_in


def test_what_waits_for_a_grant_is_registered_and_what_is_served_was_granted():
    mixed = (connection(["a::x"], ["b::x"], ["http GET /a"]), connection(["a::y"], ["c::x"]))
    seen = presence(connections=mixed)
    assert seen.registers("w") == {"b::x", "c::x"}
    assert seen.has("w") == {"a::x", "a::y", "http GET /a"}


def test_an_engine_that_grants_nothing_proves_nothing():
    seen = presence(connections=(connection(["a::x"]),), enforces=False)
    assert seen.registers("w") == {"a::x"}
    assert seen.has("w") == set()


def test_without_a_link_nothing_is_registered():
    seen = presence(connections=(connection(["a::x"], ["b::x"]),), linked=False)
    assert not seen.registers("w")
    assert not seen.has("w")
