"""spec.replicas, spec.autoscaling, spec.suspend and spec.rollout, and the rules between them."""

import pytest
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
