"""When a pod's gate turns, and when the Worker is looked at again for it."""

import pytest
from agentos_operator.bus import Connection
from agentos_operator.plan.worker import EngineView, WorkerInput, plan

from tests.worker_snapshots import (
    BREAK,
    HELD,
    OUTAGE,
    STAMP,
    condition,
    connection,
    deployment,
    pod,
    refused,
    snapshot,
    worker,
)


def gates(given: WorkerInput) -> dict[str, bool]:
    return {changed["metadata"]["uid"]: to for changed, to in plan(given).gates}


def test_a_gate_opens_when_the_pods_own_connection_answers():
    assert gates(snapshot(pods=[pod(gate=None)])) == {"pod-1": True}
    assert gates(snapshot(pods=[pod(gate=False)])) == {"pod-1": True}


def test_a_gate_that_is_right_is_not_written():
    assert gates(snapshot()) == {}
    assert gates(snapshot(pods=[pod(gate=None)], connections=())) == {}


def test_another_pods_connection_opens_no_gate():
    assert gates(snapshot(pods=[pod(gate=None)], connections=[connection("pod-2")])) == {}


def test_of_two_pods_only_the_one_that_answers_is_opened():
    both = [pod("pod-1", gate=None), pod("pod-2", gate=None)]
    assert gates(snapshot(pods=both, connections=[connection("pod-2")])) == {"pod-2": True}


def test_a_pods_connections_answer_together():
    halves = [
        Connection("a", "w-uid", "pod-1", frozenset({"wasm::execute"})),
        Connection("b", "w-uid", "pod-1", frozenset({"agent::chat"})),
    ]
    owned = {"owns": ["wasm::*", "agent::chat"]}
    assert gates(snapshot(spec=owned, pods=[pod(gate=None)], connections=halves)) == {"pod-1": True}
    assert gates(snapshot(spec=owned, pods=[pod(gate=None)], connections=halves[:1])) == {}


def test_a_worker_that_owns_nothing_answers_by_being_connected():
    empty = Connection("a", "w-uid", "pod-1", frozenset())
    assert gates(snapshot(spec={"owns": []}, pods=[pod(gate=None)], connections=[empty])) == {"pod-1": True}
    assert gates(snapshot(spec={"owns": []}, pods=[pod(gate=None)], connections=())) == {}


def up(seconds: float) -> EngineView:
    return EngineView("prod", linked=True, up_for=seconds, down_for=0)


LOST = [
    ("gone for longer than the grace", {"engine": up(16), "quiet_for": 16.0}, {"pod-1": False}),
    ("exactly the grace", {"engine": up(15), "quiet_for": 15.0}, {"pod-1": False}),
    ("gone within the grace", {"engine": up(100), "quiet_for": 14.0}, {}),
    ("link up for less than the grace", {"engine": up(14), "quiet_for": 100.0}, {}),
    ("outage of the engine", {"engine": OUTAGE, "quiet_for": 100.0}, {}),
    ("no realm", {"engine": None, "quiet_for": 100.0}, {}),
    ("another pod answers", {"connections": [connection("pod-2")]}, {"pod-1": False}),
    ("the pod registers something else", {"connections": [connection("pod-1", "other::x")]}, {"pod-1": False}),
]


@pytest.mark.parametrize(("ungranted", "opens"), [({}, False), ({"a::x": HELD}, True)], ids=["soon", "never"])
def test_a_worker_that_declared_nothing_answers_once_all_is_granted_that_can_be(ungranted, opens):
    answer = plan(refused("a::x", spec={"owns": None}, pods=[pod(gate=None)], ungranted=ungranted, quiet_for=1.0))
    assert [wanted for _, wanted in answer.gates] == ([True] if opens else [])


def test_a_pod_whose_route_is_free_answers_once_that_is_granted_and_a_route_of_another_keeps_no_gate_closed():
    route, unready = "http GET /x", {"pods": [pod(gate=None)], "quiet_for": 1.0}
    soon = plan(refused(route, **unready))
    assert soon.gates == ()
    assert soon.requeue_after == pytest.approx(4.1)
    assert [wanted for _, wanted in plan(refused(route, ungranted={route: HELD}, **unready)).gates] == [True]
    assert [wanted for _, wanted in plan(refused(route, **unready | {"quiet_for": 5.0})).gates] == [True]


@pytest.mark.parametrize(
    "changes", [{"engine": OUTAGE}, {"connections": ()}, {"pods": [pod(since=STAMP)], "connections": ()}]
)
def test_drift_is_told_as_before_while_nothing_can_be_seen_of_it(changes):
    before = refused("a::x", ungranted={"a::x": HELD})
    told = plan(before).status
    resource = worker()
    resource["status"] = told
    after = plan(refused("a::x", worker=resource, ungranted={"a::x": HELD}, **changes)).status
    assert after["drift"] == told["drift"] == {"missing": [], "foreign": ["a::x"], "undeclared": []}
    for status in (told, after):
        (found,) = (each for each in status["conditions"] if each["type"] == "FunctionsInSync")
        assert (found["status"], found["reason"]) == ("False", "Foreign")
        assert "which Worker old holds by a::*" in found["message"]


def test_drift_lists_as_much_as_fits():
    answer = plan(refused(*(f"a::{number:04}" for number in range(1000))))
    assert answer.status["drift"] == {
        "missing": [],
        "foreign": [],
        "undeclared": [f"a::{number:04}" for number in range(32)],
    }
    assert condition(answer, "Ready")["status"] == "True"


def test_what_is_not_granted_keeps_no_gate_closed_when_all_that_is_owned_answers():
    answer = plan(refused("a::x", pods=[pod(gate=None)]))
    assert [wanted for _, wanted in answer.gates] == [True]


def test_what_a_pod_that_goes_has_registered_is_not_told():
    leaving = pod("pod-1", metadata={"deletionTimestamp": STAMP})
    answer = plan(
        refused("a::x", pods=[leaving, pod("pod-2")], connections=(*refused("a::x").connections, connection("pod-2")))
    )
    assert condition(answer, "Registered")["status"] == "True"


@pytest.mark.parametrize(("changes", "expected"), [pytest.param(*r[1:], id=r[0]) for r in LOST])
def test_a_gate_closes_only_after_the_grace_with_the_engine_there(changes, expected):
    assert gates(snapshot(**{"connections": ()} | changes)) == expected


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"metadata": {"deletionTimestamp": STAMP}}, id="leaving"),
        pytest.param({"phase": "Succeeded"}, id="ended"),
        pytest.param({"phase": "Failed"}, id="failed"),
    ],
)
def test_gates_of_pods_that_go_are_left_alone(changes):
    assert gates(snapshot(pods=[pod(gate=None, **changes)])) == {}


def test_a_container_that_just_started_is_not_yet_told_to_lack_its_registration():
    young = snapshot(
        deployment=deployment(available=0), connections=(), pods=[pod(gate=None, since="2026-01-02T03:04:03Z")]
    )
    answer = plan(young)
    assert condition(answer, "Ready")["reason"] == "PodsStarting"
    assert answer.requeue_after == pytest.approx(3.1)


# --- When to look again ---


AGAIN = [
    ("all is well", {}, None),
    ("no realm", {"engine": None}, None),
    ("link down for 4 of 15 s", {"engine": BREAK}, 11.1),
    ("link down for good", {"engine": OUTAGE}, None),
    ("connection gone for 5 s", {"connections": (), "quiet_for": 5.0}, 10.1),
    ("link back for 3 s, connection not yet", {"connections": (), "engine": up(3), "quiet_for": 100.0}, 12.1),
    ("gate closed already, what is not watched may be amiss", {"connections": (), "pods": [pod(gate=False)]}, 30.0),
    ("starting", {"connections": (), "pods": [pod(gate=None)], "quiet_for": 1.0}, 30.0),
]


@pytest.mark.parametrize(("changes", "seconds"), [pytest.param(*r[1:], id=r[0]) for r in AGAIN])
def test_it_looks_again_when_a_grace_ends(changes, seconds):
    again = plan(snapshot(**changes)).requeue_after
    assert again == (None if seconds is None else pytest.approx(seconds))
