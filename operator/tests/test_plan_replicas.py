"""How many pods a Worker has, what protects them, and how they go."""

import pytest
from agentos_operator.plan.worker import WorkerInput, WorkerPlan, plan

from tests.worker_snapshots import condition, connection, deployment, pod, scaled_by, snapshot, worker

AUTOSCALING = {"autoscaling": {"min": 2, "max": 5, "targetInFlight": 10}}
SAYS = "autoscaling 2-5 at 10"


def made(answer: WorkerPlan, kind: str) -> dict:
    """The planned object of a kind; empty when there is none."""
    return next((child for child in answer.children if child["kind"] == kind), {})


def number(given: WorkerInput) -> int:
    """The pods that the planned Deployment wants."""
    return made(plan(given), "Deployment")["spec"]["replicas"]


def with_replicas(replicas: int, said: str = "replicas 1") -> dict:
    """A Deployment of the operator's own."""
    return scaled_by("agentos-operator", replicas, said)


NUMBERS = [
    ("nothing said", {}, None, None, 1),
    ("spec.replicas", {"replicas": 3}, None, None, 3),
    ("spec.replicas is zero", {"replicas": 0}, None, None, 0),
    ("it was another number", {"replicas": 3}, with_replicas(1), None, 3),
    ("suspended", {"replicas": 3, "suspend": True}, with_replicas(3, "replicas 3"), None, 0),
    ("suspended, and autoscaled", AUTOSCALING | {"suspend": True}, with_replicas(3, SAYS), 4, 0),
    ("no longer suspended", {"replicas": 3, "suspend": False}, with_replicas(0, "suspend"), None, 3),
    ("autoscaling goes before replicas", AUTOSCALING | {"replicas": 4}, None, 3, 3),
    ("autoscaling goes before no replicas", AUTOSCALING | {"replicas": 0}, None, None, 2),
    ("autoscaling without data keeps the number", AUTOSCALING, with_replicas(4, SAYS), None, 4),
    ("autoscaling without data, number above the most", AUTOSCALING, with_replicas(9), None, 5),
    ("autoscaling without data, from zero", AUTOSCALING, with_replicas(0), None, 2),
    ("autoscaling, at least min", AUTOSCALING, with_replicas(4, SAYS), 1, 2),
    ("autoscaling, at most max", AUTOSCALING, with_replicas(4, SAYS), 70, 5),
    ("min left out is one", {"autoscaling": {"max": 5, "targetInFlight": 1}}, None, 0, 1),
    ("another one's number is left alone", {}, scaled_by("kube-controller-manager", 6), None, 6),
    ("even zero", {}, scaled_by("kubectl", 0), None, 0),
    ("even while autoscaled", AUTOSCALING, scaled_by("kubectl", 9, SAYS), 3, 9),
    ("taken back by a change of replicas", {"replicas": 2}, scaled_by("kubectl", 6), None, 2),
    ("taken back by autoscaling", AUTOSCALING, scaled_by("kubectl", 6), 3, 3),
    ("taken back by another target", AUTOSCALING, scaled_by("kubectl", 6, "autoscaling 2-5 at 9"), 3, 3),
    ("taken back by suspend", {"suspend": True}, scaled_by("kubectl", 6), None, 0),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "there", "recommended", "expected"), [pytest.param(*r[1:], id=r[0]) for r in NUMBERS])
def test_the_number_of_pods(spec, there, recommended, expected):
    assert number(snapshot(spec=spec, deployment=there, recommended=recommended)) == expected


def test_an_edit_of_something_else_leaves_anothers_number_alone():
    there = scaled_by("kubectl", 6)
    planned = made(plan(snapshot(spec={"image": "wasm:2.0.0"}, deployment=there)), "Deployment")
    assert planned["spec"]["replicas"] == 6
    assert planned["metadata"]["annotations"]["agentos.dev/replicas-from"] == "replicas 1"


def test_who_scaled_the_deployment_is_told_while_the_worker_stays_ready():
    pods, connections = (pod(), pod("pod-2")), (connection(), connection("pod-2"))
    answer = plan(snapshot(deployment=scaled_by("kube-controller-manager", 2), pods=pods, connections=connections))
    assert condition(answer, "Ready")["status"] == "True"
    assert answer.status["replicas"] == 2
    available = condition(answer, "Available")
    assert available["reason"] == "ReplicasSetElsewhere"
    assert "kube-controller-manager" in available["message"]


def test_a_deployment_scaled_to_zero_by_another_says_by_whom():
    answer = plan(snapshot(deployment=scaled_by("kubectl", 0), pods=(), connections=()))
    assert condition(answer, "Ready")["reason"] == "ScaledToZero"
    assert condition(answer, "Ready")["message"].startswith("kubectl has set the Deployment's spec.replicas")


def test_the_number_is_no_part_of_the_hash_so_that_a_scaling_writes_no_annotation():
    def hash_of(**changes):
        planned = made(plan(snapshot(**changes)), "Deployment")
        return planned["metadata"]["annotations"]["agentos.dev/applied-hash"]

    assert hash_of(deployment=with_replicas(1)) == hash_of(deployment=scaled_by("kubectl", 6))


# --- Suspended ---


def test_a_suspended_worker_keeps_spec_claims_and_deployment():
    answer = plan(snapshot(spec={"suspend": True}, deployment=with_replicas(1)))
    assert not answer.unwanted or [kind.kind for kind in answer.unwanted] == ["PodDisruptionBudget"]
    assert condition(answer, "FunctionsClaimed")["status"] == "True"
    assert (condition(answer, "Ready")["status"], condition(answer, "Ready")["reason"]) == ("False", "Suspended")


def test_a_suspended_worker_is_not_under_way():
    made_of = {"spec": {"suspend": True}, "pods": (), "connections": ()}
    written = made(plan(snapshot(**made_of, deployment=deployment(0, 0))), "Deployment")
    answer = plan(snapshot(**made_of, deployment=deployment(0, 0) | {"metadata": written["metadata"]}))
    assert {each["type"] for each in answer.status["conditions"]}.isdisjoint({"Reconciling", "Stalled"})


# --- The budget ---

BUDGETS = [
    ("one pod", {}, None, False),
    ("more pods", {"replicas": 2}, None, True),
    ("no pod", {"replicas": 0}, None, False),
    ("suspended", {"replicas": 2, "suspend": True}, None, False),
    ("autoscaled from two on", AUTOSCALING, None, True),
    ("autoscaled from one on", {"autoscaling": {"min": 1, "max": 5, "targetInFlight": 1}}, None, False),
    ("another one's number", {}, scaled_by("kubectl", 3), True),
]


@pytest.mark.parametrize(("spec", "there", "expected"), [pytest.param(*r[1:], id=r[0]) for r in BUDGETS])
def test_only_more_than_one_pod_has_a_disruption_budget(spec, there, expected):
    answer = plan(snapshot(spec=spec, deployment=there or deployment()))
    budget = made(answer, "PodDisruptionBudget")
    assert bool(budget) == expected
    assert [kind.kind for kind in answer.unwanted] == ([] if expected else ["PodDisruptionBudget"])


def test_the_budget_lets_one_pod_go_at_a_time():
    budget = made(plan(snapshot(spec={"replicas": 2})), "PodDisruptionBudget")
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": {"agentos.dev/worker-uid": "w-uid"}},
    }


def test_a_mistake_in_an_edit_leaves_the_budget_alone():
    answer = plan(snapshot(spec={"replicas": 2}, effective=None))
    assert answer.children == ()
    assert answer.unwanted == ()


def test_the_budget_goes_with_the_pods_of_a_worker_that_must_not_run():
    answer = plan(snapshot(worker=worker({"replicas": 2}), engine=None))
    assert {kind.kind for kind in answer.unwanted} == {"Deployment", "PodDisruptionBudget"}


# --- Going ---


@pytest.mark.parametrize(("rollout", "seconds"), [(None, 5), ({}, 5), ({"drainSeconds": 60}, 60)])
def test_a_going_pod_sleeps_while_its_calls_end_and_has_half_a_minute_more(rollout, seconds):
    planned = made(plan(snapshot(spec={"rollout": rollout} if rollout is not None else {})), "Deployment")
    spec = planned["spec"]["template"]["spec"]
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": seconds}}}
    assert spec["terminationGracePeriodSeconds"] == seconds + 30


def test_without_time_to_drain_a_pod_is_told_to_end_at_once():
    planned = made(plan(snapshot(spec={"rollout": {"drainSeconds": 0}})), "Deployment")
    spec = planned["spec"]["template"]["spec"]
    assert "lifecycle" not in spec["containers"][0]
    assert spec["terminationGracePeriodSeconds"] == 30


def test_a_template_makes_the_end_longer_and_adds_to_the_lifecycle_and_calls_in_progress_keep_their_time():
    started = {"exec": {"command": ["warm-up"]}}
    container = {"name": "worker", "lifecycle": {"postStart": started}}
    template = {"spec": {"terminationGracePeriodSeconds": 120, "containers": [container]}}
    spec = made(plan(snapshot(spec={"template": template})), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 120
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}, "postStart": started}


def test_without_time_to_drain_a_template_says_itself_what_goes_before_the_end():
    flush = {"preStop": {"exec": {"command": ["flush"]}}}
    template = {"spec": {"containers": [{"name": "worker", "lifecycle": flush}]}}
    planned = made(plan(snapshot(spec={"rollout": {"drainSeconds": 0}, "template": template})), "Deployment")
    assert planned["spec"]["template"]["spec"]["containers"][0]["lifecycle"] == flush


def test_a_rollout_tells_which_going_pods_still_have_calls():
    answer = plan(snapshot(deployment=deployment(2, 1, updated=1), draining=1))
    assert condition(answer, "Reconciling")["message"].endswith("; 1 going pod has calls in progress")
