"""When a Worker's pods are started, left alone and stopped, and when it is looked at again."""

import pytest
from agentos_contracts.dependencies import Dependency
from agentos_contracts.findings import error
from agentos_operator.bus import Connection
from agentos_operator.plan.handover import Handover
from agentos_operator.plan.worker import plan

from tests.worker_snapshots import (
    NO_ROOM,
    OUTAGE,
    clash,
    condition,
    deployment,
    fresh,
    kinds,
    pod,
    snapshot,
)

NOT_STARTED = [
    ("a waiter", {"held": frozenset(), "clashes": [clash()]}),
    ("a claim not yet recorded", {"held": frozenset()}),
    ("a Worker outside any Realm", {"engine": None}),
    ("an invalid manifest", {"effective": None, "findings": [error("spec", "E", "bad")]}),
    ("a missing manifest", {"effective": None, "manifest_missing": "ConfigMap m is not there"}),
    ("a missing dependency", {"spec": {"dependencies": {"memory": "*"}}}),
]


@pytest.mark.parametrize("changes", [pytest.param(r[1], id=r[0]) for r in NOT_STARTED])
def test_nothing_is_started_for(changes):
    answer = plan(fresh(**changes))
    assert answer.children == ()
    assert not answer.stop
    assert condition(answer, "Available")["reason"] == condition(answer, "Registered")["reason"] == "NotStarted"


def test_a_worker_starts_with_token_account_and_deployment_in_that_order():
    assert kinds(plan(fresh())) == ["Secret", "ServiceAccount", "Deployment"]


def test_a_worker_starts_while_the_engine_is_away():
    assert kinds(plan(fresh(engine=OUTAGE))) == ["Secret", "ServiceAccount", "Deployment"]


def test_no_account_is_made_for_a_worker_that_names_one():
    answer = plan(fresh(spec={"serviceAccountName": "mine"}))
    assert kinds(answer) == ["Secret", "Deployment"]
    assert answer.children[-1]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


@pytest.mark.parametrize(
    "providers",
    [
        pytest.param([], id="gone"),
        pytest.param([Dependency("mem", "memory", "1.4.0", ready=False)], id="not ready"),
        pytest.param([Dependency("mem", "memory", "9.0.0", ready=True)], id="other version"),
    ],
)
def test_dependencies_gate_only_the_first_start(providers):
    answer = plan(snapshot(spec={"dependencies": {"memory": "^1"}}, providers=providers))
    assert kinds(answer) == ["Secret", "ServiceAccount", "Deployment"]
    assert not answer.stop
    told = condition(answer, "DependenciesReady")
    assert (told["status"], told["reason"]) == ("True", "Satisfied")
    assert told["message"].startswith("were ready at the first start; now: needs memory ^1")
    assert condition(answer, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"effective": None, "findings": [error("spec", "E", "bad")]}, id="error in the manifest"),
        pytest.param({"effective": None, "manifest_missing": "gone"}, id="ConfigMap deleted"),
        pytest.param(
            {"effective": None, "findings": [error("spec.owns[0]", "E", "bad")], "wanted": ()}, id="bad pattern"
        ),
    ],
)
def test_a_mistake_in_an_edit_leaves_what_runs_alone(changes):
    answer = plan(snapshot(**changes))
    assert not answer.stop
    assert answer.children == ()
    assert condition(answer, "Available")["status"] == condition(answer, "Registered")["status"] == "True"
    assert condition(answer, "Ready")["status"] == "False"
    assert answer.status["replicas"] == 1


def test_a_running_worker_that_adds_a_clashing_pattern_keeps_running_and_says_so():
    answer = plan(
        snapshot(
            spec={"owns": ["wasm::*", "agent::*"]}, held=frozenset({"wasm::*"}), clashes=[clash("agent::*", "agent::*")]
        )
    )
    assert not answer.stop
    assert answer.children == ()
    assert condition(answer, "FunctionsClaimed")["reason"] == condition(answer, "Ready")["reason"] == "Clash"
    assert condition(answer, "Available")["status"] == "True"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"held": frozenset(), "clashes": [clash()]}, id="owns nothing any more"),
        pytest.param({"engine": None}, id="lost its realm"),
    ],
)
def test_what_must_not_run_is_stopped(changes):
    answer = plan(snapshot(**changes))
    assert answer.stop
    assert answer.children == ()
    assert condition(answer, "Available")["reason"] == "NotStarted"
    assert (answer.status["replicas"], answer.status["readyReplicas"]) == (0, 0)


def test_a_worker_without_pods_has_nothing_to_stop():
    assert not plan(fresh(held=frozenset(), clashes=[clash()])).stop


def test_no_replicas_keep_the_deployment_and_the_claim():
    answer = plan(snapshot(spec={"replicas": 0}, deployment=deployment(0, 0), pods=(), connections=()))
    assert not answer.stop
    assert answer.children[-1]["spec"]["replicas"] == 0
    assert condition(answer, "FunctionsClaimed")["status"] == "True"
    assert condition(answer, "Ready")["reason"] == "ScaledToZero"


def test_a_worker_without_room_starts_nothing_and_one_that_runs_is_left_as_it_is():
    new = plan(snapshot(deployment=None, pods=(), connections=(), over_quota=NO_ROOM))
    grown = plan(snapshot(over_quota=NO_ROOM))
    assert (new.children, new.stop) == (grown.children, grown.stop) == ((), False)
    assert condition(grown, "Ready")["reason"] == "QuotaExceeded"
    assert condition(grown, "Available")["status"] == "True"


# --- spec.replaces ---


TAKING_OVER = {
    "spec": {"owns": ["wasm::*"], "replaces": "old"},
    "held": frozenset(),
    "clashes": [clash("wasm::*", "wasm::*")],
    "handover": Handover("old", 1, answers=False, lacking=("wasm::b",)),
}


def test_pods_of_a_worker_that_replaces_another_start_beside_it():
    answer = plan(snapshot(**TAKING_OVER, deployment=None, pods=(), connections=()))
    assert [child["kind"] for child in answer.children] == ["Secret", "ServiceAccount", "Deployment"]
    assert condition(answer, "Ready")["reason"] == "HandingOver"
    assert condition(answer, "FunctionsClaimed")["message"].endswith("what that one serves; not registered: wasm::b")


def test_they_run_on_while_it_waits_and_their_gate_stays_shut():
    waits = Connection("w", "uid", "pod-1", frozenset(), frozenset({"wasm::a"}))
    answer = plan(snapshot(**TAKING_OVER, connections=(waits,), pods=(pod(gate=None),), deployment=deployment(1, 0)))
    assert not answer.stop
    assert answer.gates == ()
    assert condition(answer, "Registered")["reason"] == condition(answer, "Available")["reason"] == "HandingOver"


def test_no_pod_starts_before_the_engine_knows_what_it_may_do():
    answer = plan(snapshot(**TAKING_OVER, deployment=None, pods=(), connections=(), granted=False))
    assert answer.children == ()
    assert condition(answer, "FunctionsClaimed")["reason"] == "ClaimPending"


@pytest.mark.parametrize("released", [False, True])
def test_a_replaced_worker_keeps_its_pods_until_the_engine_gives_them_no_calls_any_more(released):
    answer = plan(
        snapshot(
            spec={"owns": ["wasm::*"]},
            held=frozenset(),
            clashes=[clash("wasm::*", "wasm::*", "new")],
            replaced_by="new",
            released=released,
        )
    )
    assert answer.stop == released
    assert answer.children == ()
    assert condition(answer, "Ready")["reason"] == "Replaced"
    assert condition(answer, "FunctionsClaimed")["message"] == (
        "Worker new has taken over its functions; delete this Worker, or remove spec.replaces of Worker new"
    )


# --- A Realm that is deleted ---


@pytest.mark.parametrize("ending", [True, False])
def test_the_pods_of_a_deleted_realm_stop_when_its_engine_has_ended(ending):
    answer = plan(snapshot(engine=None, ended_realm="prod", engine_ending=ending, deployment=deployment()))
    assert (answer.stop, answer.children) == (not ending, ())
    told = condition(answer, "Ready")
    assert (told["status"], told["reason"]) == ("False", "NoRealm")
    assert told["message"] == (
        "Realm prod is being deleted: its engine lets calls in progress end, then this Worker's pods stop"
        if ending
        else "Realm prod, which had namespace team, was deleted; make one with spec.namespace: team, or delete the Worker"
    )
