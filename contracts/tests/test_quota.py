from decimal import Decimal

import pytest
from agentos_contracts.quantities import amount, cores, size
from agentos_contracts.quota import Applicant, Usage, allot, refusal, worker_usage
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 2**20


def applicant(age: int, replicas: int, running: int | None = None) -> Applicant:
    """A Worker that wants so many pods, and has so many; ``age`` ranks it."""

    def usage(count: int) -> Usage:
        return Usage(1, count, 1, Decimal(count) / 2, Decimal(count * 64 * MIB))

    return Applicant(
        f"u{age}", f"2026-01-01T00:00:{age:02}Z", usage(replicas), None if running is None else usage(running)
    )


TABLE = [
    ("nothing is limited", {}, [applicant(1, 1000)], set()),
    ("all fit", {"replicas": 3}, [applicant(1, 1), applicant(2, 2)], set()),
    ("the younger waits", {"replicas": 2}, [applicant(2, 1), applicant(1, 2)], {"u2"}),
    ("who waits reserves nothing", {"replicas": 2}, [applicant(1, 3), applicant(2, 2)], {"u1"}),
    ("who was started goes before who is older", {"replicas": 2}, [applicant(1, 1), applicant(2, 2, 2)], {"u1"}),
    ("who was started keeps what it has above a lowered limit", {"replicas": 1}, [applicant(1, 2, 2)], set()),
    ("above a lowered limit nobody grows", {"replicas": 1}, [applicant(1, 3, 2)], {"u1"}),
    ("above a lowered limit one shrinks", {"replicas": 1}, [applicant(1, 2, 3)], set()),
    ("who shrinks makes room for the younger", {"replicas": 3}, [applicant(1, 1, 3), applicant(2, 2)], set()),
    ("who grows counts in full", {"replicas": 3}, [applicant(1, 2, 1), applicant(2, 1, 1)], set()),
    ("no Worker at all", {"workers": 0}, [applicant(1, 0)], {"u1"}),
    ("no pod, no replica", {"replicas": 0}, [applicant(1, 0)], set()),
    ("functions", {"functions": 1}, [applicant(1, 1), applicant(2, 1)], {"u2"}),
    ("CPU in another unit", {"cpu": "1500m"}, [applicant(1, 3), applicant(2, 1)], {"u2"}),
    ("memory in another unit", {"memory": "128Mi"}, [applicant(1, 2), applicant(2, 1)], {"u2"}),
    ("a limit that is no number limits nothing", {"cpu": "much"}, [applicant(1, 3)], set()),
]


@pytest.mark.parametrize(("quota", "applicants", "over"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_who_does_not_fit(quota, applicants, over):
    assert set(allot(quota, applicants).over) == over


def test_it_is_told_where_and_by_how_much():
    quota = {"replicas": 4, "cpu": "2", "memory": "1Gi", "workers": 1}
    allotment = allot(quota, [applicant(1, 3, 3), applicant(2, 2)])
    assert refusal("shop", allotment.over["u2"]) == (
        "goes beyond the quota of Realm shop (workers: 1 of 1 are used, 1 more are needed; "
        "replicas: 3 of 4 are used, 2 more are needed; cpu: 1500m of 2 are used, 1 more are needed); "
        "shrink or delete Workers of its namespace, or raise spec.quota of the Realm"
    )
    assert allotment.used.told() == {"workers": 1, "replicas": 3, "functions": 1, "cpu": "1500m", "memory": "192Mi"}


counts = st.integers(0, 5)
crowds = st.lists(st.tuples(counts, st.none() | counts), max_size=8).map(
    lambda rows: [applicant(age, *row) for age, row in enumerate(rows)]
)


@given(crowds, st.integers(0, 12), st.randoms())
@settings(max_examples=300)
def test_whoever_comes_no_limit_is_passed_and_nobody_loses_what_it_has(applicants, limit, random):
    quota = {"replicas": limit}
    allotment = allot(quota, applicants)
    started = sum(each.running.replicas for each in applicants if each.running is not None)
    assert allotment.used.replicas <= max(limit, started)
    for each in applicants:
        if each.running is not None and each.wanted.replicas <= each.running.replicas:
            assert each.uid not in allotment.over
    shuffled = list(applicants)
    random.shuffle(shuffled)
    assert allot(quota, shuffled) == allotment
    # Once those that fit are started, deciding again changes nothing for them.
    begun = [
        each if each.uid in allotment.over else Applicant(each.uid, each.created, each.wanted, each.wanted)
        for each in applicants
    ]
    assert set(allot(quota, begun).over) <= set(allotment.over)


@pytest.mark.parametrize(
    ("spec", "resources", "expected"),
    [
        ({}, {}, Usage(1, 1, 2)),
        ({"replicas": 3}, {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}, Usage(1, 3, 2, Decimal("0.3"))),
        ({"replicas": 2}, {"limits": {"cpu": 1, "memory": "1Mi"}}, Usage(1, 2, 2, Decimal(2), Decimal(2 * MIB))),
        ({"replicas": 0}, {"limits": {"cpu": 1}}, Usage(1, 0, 2)),
        ({"replicas": 2, "suspend": True}, {"limits": {"cpu": 1}}, Usage(1, 0, 2)),
        ({"replicas": 2, "autoscaling": {"min": 1, "max": 5}}, {"limits": {"cpu": 1}}, Usage(1, 5, 2, Decimal(5))),
    ],
)
def test_what_a_worker_counts_for(spec, resources, expected):
    assert worker_usage(spec, resources, 2) == expected


@pytest.mark.parametrize(
    ("written", "value"),
    [("500m", "0.5"), (2, "2"), ("1Ki", "1024"), ("1.5G", "1500000000"), ("1e3", "1000"), ("1E3", "1000"), ("x", None)],
)
def test_quantities_are_read(written, value):
    assert amount(written) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(("value", "written"), [("2", "2"), ("0.5", "500m"), ("0.0001", "1m"), ("0", "0")])
def test_cores_are_written(value, written):
    assert cores(Decimal(value)) == written


@pytest.mark.parametrize(
    ("value", "written"), [("0", "0"), ("1000", "1000"), ("1536", "1536"), ("2048", "2Ki"), ("1073741824", "1Gi")]
)
def test_sizes_are_written(value, written):
    assert size(Decimal(value)) == written
