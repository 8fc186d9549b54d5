"""spec.replicas, spec.autoscaling, spec.suspend and spec.rollout, and the rules between them."""

import pytest
from agentos_contracts.drain import HOOK_TAKEN
from agentos_contracts.findings import errors, warnings
from agentos_contracts.scaling import drain_seconds, scaling_findings, wants_no_pods
from agentos_contracts.validation import validate_worker


def worker(**spec) -> dict:
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": "greeter"},
        "spec": {"image": "greeter:1.0.0", "manifest": {"iii": "v1", "name": "greeter"}} | spec,
    }


GOOD = [
    {"autoscaling": {"max": 3, "targetInFlight": 1}},
    {"autoscaling": {"min": 3, "max": 3, "targetInFlight": 1}},
    {"autoscaling": {"max": 3, "targetInFlight": 1}, "replicas": 1},
    {"suspend": True},
    {"rollout": {}},
    {"rollout": {"drainSeconds": 0}},
]
WRONG = [
    ({"autoscaling": {"min": 4, "max": 3, "targetInFlight": 1}}, "spec.autoscaling.min"),
    ({"autoscaling": {"min": 0, "max": 3, "targetInFlight": 1}}, "spec.autoscaling.min"),
    ({"autoscaling": {"targetInFlight": 1}}, "spec.autoscaling.max"),
    ({"autoscaling": {"max": 3}}, "spec.autoscaling.targetInFlight"),
    ({"autoscaling": {"max": 1001, "targetInFlight": 1}}, "spec.autoscaling.max"),
    ({"autoscaling": {"min": "x", "max": [], "targetInFlight": 0.5}}, "spec.autoscaling.min"),
    ({"autoscaling": []}, "spec.autoscaling"),
    ({"suspend": "yes"}, "spec.suspend"),
    ({"rollout": {"drainSeconds": -1}}, "spec.rollout.drainSeconds"),
    ({"rollout": {"drainSeconds": 3601}}, "spec.rollout.drainSeconds"),
    ({"rollout": {"strategy": "Canary"}}, "spec.rollout.strategy"),
]


@pytest.mark.parametrize("spec", GOOD)
def test_it_is_taken(spec):
    assert validate_worker(worker(**spec)) == []


@pytest.mark.parametrize(("spec", "path"), WRONG)
def test_it_is_refused_with_its_path(spec, path):
    assert path in [finding.path for finding in errors(validate_worker(worker(**spec)))]


@pytest.mark.parametrize("replicas", [0, 2])
def test_replicas_beside_autoscaling_is_warned_of(replicas):
    spec = {"replicas": replicas, "autoscaling": {"max": 3, "targetInFlight": 1}}
    assert [finding.path for finding in warnings(scaling_findings(spec))] == ["spec.replicas"]


@pytest.mark.parametrize(
    ("spec", "none"),
    [
        ({}, False),
        ({"replicas": 1}, False),
        ({"replicas": 0}, True),
        ({"suspend": True}, True),
        ({"suspend": False}, False),
        ({"suspend": True, "replicas": 2}, True),
        ({"replicas": 0, "autoscaling": {"max": 2, "targetInFlight": 1}}, False),
        ({"suspend": True, "autoscaling": {"max": 2, "targetInFlight": 1}}, True),
    ],
)
def test_who_wants_no_pods(spec, none):
    assert wants_no_pods(spec) is none


@pytest.mark.parametrize(
    ("spec", "seconds"), [({}, 5), ({"rollout": {}}, 5), ({"rollout": {"drainSeconds": 0}}, 0), ({"rollout": None}, 5)]
)
def test_the_time_to_drain(spec, seconds):
    assert drain_seconds(spec) == seconds


def in_container(**fields) -> dict:
    return {"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}, {"name": "worker"} | fields]}}


EXEC = {"exec": {"command": ["flush"]}}
GRACE = "spec.template.spec.terminationGracePeriodSeconds"
HOOK = "spec.template.spec.containers[1].lifecycle.preStop"


@pytest.mark.parametrize(
    "spec",
    [
        {"template": {"spec": {"terminationGracePeriodSeconds": 6}}},
        {"template": {"spec": {"terminationGracePeriodSeconds": 60}}, "rollout": {"drainSeconds": 59}},
        {"template": {"spec": {"terminationGracePeriodSeconds": None}}},
        {"template": {"spec": {"terminationGracePeriodSeconds": 0}}, "rollout": {"drainSeconds": 0}},
        {"template": in_container(lifecycle={"postStart": EXEC})},
        {"template": in_container(lifecycle={"preStop": EXEC}), "rollout": {"drainSeconds": 0}},
        {"template": {"spec": {"containers": [{"name": "proxy", "image": "p", "lifecycle": {"preStop": EXEC}}]}}},
    ],
)
def test_a_template_may_change_how_pods_end_when_calls_in_progress_still_have_their_time(spec):
    assert validate_worker(worker(**spec)) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"template": {"spec": {"terminationGracePeriodSeconds": 5}}}, GRACE),
        ({"template": {"spec": {"terminationGracePeriodSeconds": 60}}, "rollout": {"drainSeconds": 60}}, GRACE),
        ({"template": {"spec": {"terminationGracePeriodSeconds": None}}, "rollout": {"drainSeconds": 30}}, GRACE),
        ({"template": in_container(lifecycle={"preStop": EXEC})}, HOOK),
        ({"template": in_container(lifecycle={"preStop": {"sleep": {"seconds": 1}}})}, HOOK),
        ({"template": in_container(lifecycle={"preStop": None})}, HOOK),
        ({"template": in_container(lifecycle={"$patch": "delete"})}, HOOK),
        ({"template": in_container(lifecycle=None)}, HOOK),
    ],
)
def test_a_template_must_not_take_their_time_from_calls_in_progress(spec, path):
    (found,) = errors(validate_worker(worker(**spec)))
    assert found.path == path
    assert found.message == HOOK_TAKEN if path == HOOK else found.message.startswith("must be more than the")


@pytest.mark.parametrize("rollout", [[], "x", {"drainSeconds": "5"}, {"drainSeconds": -1}, {"drainSeconds": True}])
@pytest.mark.parametrize("template", [[], {"spec": 1}, {"spec": {"containers": {}}}, {"spec": {"containers": [1]}}, {}])
def test_times_and_templates_of_a_wrong_form_are_told_and_not_tripped_over(rollout, template):
    assert errors(validate_worker(worker(rollout=rollout, template=template)))
