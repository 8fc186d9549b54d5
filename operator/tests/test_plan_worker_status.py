"""What the status of a Worker tells besides its conditions."""

import copy
from datetime import UTC, datetime

import pytest
from agentos_contracts.findings import error
from agentos_operator.plan.conditions import MESSAGE_LIMIT
from agentos_operator.plan.worker import plan
from agentos_operator.plan.worker.status import FUNCTIONS_SHOWN

from tests.worker_snapshots import (
    EARLIER,
    OUTAGE,
    STAMP,
    clash,
    condition,
    connection,
    deployment,
    fresh,
    pod,
    snapshot,
    waiting,
    worker,
)


def test_a_ready_worker_that_is_settled_has_neither_reconciling_nor_stalled():
    settled = deployment()
    settled["metadata"]["annotations"] = plan(snapshot()).children[-1]["metadata"]["annotations"]
    answer = plan(snapshot(deployment=settled))
    assert [c["type"] for c in answer.status["conditions"]] == [
        "ManifestValid",
        "EngineLinked",
        "WithinQuota",
        "FunctionsClaimed",
        "DependenciesReady",
        "Available",
        "Registered",
        "FunctionsInSync",
        "Enforced",
        "Ready",
    ]


def test_right_after_an_edit_the_counts_of_before_do_not_pass_for_settled():
    before = deployment()
    before["metadata"]["annotations"] = {"agentos.dev/applied-hash": "of another template"}
    conditions = {c["type"]: c["status"] for c in plan(snapshot(deployment=before)).status["conditions"]}
    assert conditions["Reconciling"] == "True"
    assert conditions["Ready"] == "True"


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        pytest.param(fresh(), "Reconciling", "PodsStarting", id="starting"),
        pytest.param(
            fresh(held=frozenset(), clashes=[clash()]), "Reconciling", "Clash", id="a waiter goes on by itself"
        ),
        pytest.param(snapshot(engine=None), "Stalled", "NoRealm", id="no realm"),
        pytest.param(
            snapshot(effective=None, findings=[error("spec", "E", "bad")]), "Stalled", "ManifestInvalid", id="invalid"
        ),
        pytest.param(snapshot(effective=None, manifest_missing="gone"), "Reconciling", "ManifestNotFound", id="no map"),
        pytest.param(
            snapshot(deployment=deployment(2, 1, updated=1)), "Reconciling", "RolloutInProgress", id="surplus"
        ),
        pytest.param(
            snapshot(deployment=deployment(1, 1, updated=0)), "Reconciling", "RolloutInProgress", id="old pod"
        ),
    ],
)
def test_kstatus_knows_whether_it_goes_on_by_itself(given, kind, reason):
    answer = plan(given)
    told = condition(answer, kind)
    assert (told["status"], told["reason"]) == ("True", reason)
    assert condition(answer, "Stalled" if kind == "Reconciling" else "Reconciling") == {}


def test_a_rollout_tells_how_far_it_is_and_what_holds_it_up():
    assert (
        condition(plan(snapshot(deployment=deployment(2, 1, updated=1))), "Reconciling")["message"]
        == "1 of 1 pods have the newest template"
    )
    stuck = waiting("ErrImagePull")
    stuck["metadata"] |= {"uid": "pod-2", "creationTimestamp": STAMP}
    answer = plan(snapshot(deployment=deployment(2, 1, updated=1), pods=[pod(), stuck]))
    assert condition(answer, "Ready")["status"] == "True"
    assert 'the image "wasm:1.2.3" cannot be pulled' in condition(answer, "Reconciling")["message"]


def test_the_transition_time_is_kept_while_the_status_stays():
    answer = plan(snapshot(engine=OUTAGE, conditions={"ManifestValid": "True", "EngineLinked": "True"}))
    assert condition(answer, "ManifestValid")["lastTransitionTime"] == EARLIER
    assert condition(answer, "EngineLinked")["lastTransitionTime"] == STAMP
    assert condition(answer, "Ready")["lastTransitionTime"] == STAMP


def test_the_transition_time_is_kept_when_only_the_reason_changes():
    answer = plan(snapshot(engine=None, conditions={"Ready": "False"}))
    assert condition(answer, "Ready")["lastTransitionTime"] == EARLIER


def test_the_same_status_comes_out_again_from_its_own_echo():
    first = plan(snapshot())
    echoed = worker()
    echoed["status"] = copy.deepcopy(first.status)
    later = datetime(2026, 1, 3, tzinfo=UTC)
    assert plan(snapshot(worker=echoed, now=later)).status == first.status


def test_counts_and_names_are_told():
    status = plan(
        snapshot(
            spec={"replicas": 2},
            deployment=deployment(2, 2),
            pods=[pod("pod-1"), pod("pod-2")],
            connections=[connection("pod-1", "wasm::b", "wasm::a"), connection("pod-2", "wasm::a")],
        )
    ).status
    conditions = status.pop("conditions")
    assert conditions
    assert status == {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 2,
        "registeredPods": 2,
        "functions": ["wasm::a", "wasm::b"],
        "functionCount": 2,
        "drift": None,
        "selector": "agentos.dev/worker-uid=w-uid",
        "engine": "agentos-engine.team.svc:49134",
        "version": "1.2.3",
    }


def test_a_worker_with_very_many_functions_shows_some_and_counts_all():
    many = [f"wasm::f{number:04}" for number in range(FUNCTIONS_SHOWN + 50)]
    status = plan(snapshot(connections=[connection("pod-1", *many)])).status
    assert status["functions"] == many[:FUNCTIONS_SHOWN]
    assert status["functionCount"] == len(many)


def test_an_endless_message_is_cut():
    answer = plan(snapshot(effective=None, findings=[error("spec", "E", "x" * 5000)]))
    message = condition(answer, "ManifestValid")["message"]
    assert len(message) == MESSAGE_LIMIT
    assert message.endswith("…")


def test_unknown_things_are_told_as_empty_texts():
    status = plan(fresh(engine=None, effective=None, manifest_missing="gone")).status
    assert (status["engine"], status["version"]) == ("", "")
