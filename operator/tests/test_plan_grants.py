"""What each Worker may do on the bus, from its spec and from what is recorded."""

from typing import Any

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_operator.plan.grants import GrantsInput, plan


def worker(name: str = "wasm", *, deleted: bool = False, **spec: Any) -> dict:
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "uid": f"{name}-uid"}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    return {"kind": "Worker", "metadata": metadata, "spec": spec}


def claim(segment: str, *holders: tuple[str, str]) -> dict:
    listed = [{"pattern": p, "worker": w, "uid": f"{w}-uid", "since": ""} for p, w in holders]
    return {"kind": "FunctionClaim", "spec": {"segment": segment, "holders": listed}}


def grants(*workers: dict, claims: tuple[dict, ...] = (), lingering: tuple[str, ...] = (), before: Any = None) -> dict:
    return plan(GrantsInput("team", workers, claims, lambda uid: uid.removesuffix("-uid") in lingering, before or {}))


def patterns(*texts: str) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))


# id, spec, the grant but for uid and worker
TABLE = [
    ("nothing said", {}, {"owns": (), "discover": True, "calls": None, "state_scopes": None}),
    ("owns nothing", {"owns": []}, {"owns": (), "discover": False, "calls": None}),
    ("wishes what it does not hold", {"owns": ["wasm"]}, {"owns": (), "discover": False}),
    ("calls nothing", {"calls": []}, {"calls": ()}),
    ("calls", {"calls": ["publish", "state", "vault::get"]}, {"calls": patterns("publish", "state::*", "vault::get")}),
    ("uses some state", {"stateScopes": ["a", "b-*"]}, {"state_scopes": ("a", "b-*")}),
    ("uses no state", {"stateScopes": []}, {"state_scopes": ()}),
    ("scaled to zero", {"replicas": 0}, {"sleeping": True}),
    ("has pods", {"replicas": 1}, {"sleeping": False}),
    # What came past webhook and CRD: fail closed.
    ("calls cannot be read", {"calls": ["a::b", "*"]}, {"calls": ()}),
    ("calls is no list", {"calls": "a::b"}, {"calls": ()}),
    ("scopes cannot be read", {"stateScopes": ["a*b"]}, {"state_scopes": ()}),
    ("scope too long", {"stateScopes": ["x" * 257]}, {"state_scopes": ()}),
]


@pytest.mark.parametrize(("spec", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_a_grant_says_what_the_spec_says(spec, expected):
    answer = grants(worker(**spec))["wasm-uid"]
    assert (answer.uid, answer.worker, answer.leaving) == ("wasm-uid", "team/wasm", False)
    assert {field: getattr(answer, field) for field in expected} == expected
    assert Grant.from_wire(answer.to_wire()) == answer


def test_a_worker_owns_what_is_recorded_for_it_and_not_what_it_wishes():
    claims = (claim("wasm", ("wasm::*", "wasm")), claim("agent", ("agent::chat", "wasm"), ("agent::b", "other")))
    answer = grants(worker(owns=["wasm::*", "tool::x"]), worker("other"), claims=claims)
    assert answer["wasm-uid"].owns == patterns("agent::chat", "wasm::*")
    assert answer["other-uid"].owns == patterns("agent::b")


def test_a_pattern_in_the_record_that_is_none_grants_nothing():
    assert grants(worker(owns=[]), claims=(claim("a", ("a*", "wasm")),))["wasm-uid"].owns == ()


@pytest.mark.parametrize(
    ("spec", "field", "last"),
    [({"calls": ["*"]}, "calls", patterns("a::b")), ({"stateScopes": ["a*b"]}, "state_scopes", ("a",))],
    ids=["calls", "scopes"],
)
def test_a_mistake_in_an_edit_leaves_the_last_grant(spec, field, last):
    before = {"wasm-uid": Grant("wasm-uid", "team/wasm", calls=patterns("a::b"), state_scopes=("a",))}
    assert getattr(grants(worker(**spec), before=before)["wasm-uid"], field) == last


def test_a_worker_that_is_being_deleted_leaves_even_when_it_sleeps():
    answer = grants(worker(deleted=True, replicas=0))["wasm-uid"]
    assert (answer.leaving, answer.sleeping) == (True, False)


def test_one_that_is_gone_leaves_as_long_as_it_may_serve_calls_and_then_has_no_grant():
    before = {"old-uid": Grant("old-uid", "team/old", calls=patterns("a::b"), state_scopes=None)}
    claims = (claim("old", ("old::*", "old")),)
    answer = grants(claims=claims, lingering=("old",), before=before)
    assert answer == {
        "old-uid": Grant(
            "old-uid", "team/old", owns=patterns("old::*"), calls=patterns("a::b"), state_scopes=None, leaving=True
        )
    }
    assert grants(claims=claims, before=answer) == {}


def test_after_a_restart_one_that_is_gone_and_still_serves_keeps_what_is_recorded():
    answer = grants(claims=(claim("old", ("old::*", "old")),), lingering=("old",))
    assert answer == {
        "old-uid": Grant("old-uid", "team/old", owns=patterns("old::*"), calls=(), state_scopes=(), leaving=True)
    }


def test_one_made_anew_under_the_same_name_is_another():
    before = {"old-uid": Grant("old-uid", "team/wasm")}
    answer = grants(worker(), before=before, lingering=("old",))
    assert {uid: grant.leaving for uid, grant in answer.items()} == {"wasm-uid": False, "old-uid": True}


def test_an_unchanged_grant_is_the_same_object_so_that_large_realms_compare_fast():
    before = grants(worker(calls=["a::b"]))
    assert grants(worker(calls=["a::b"]), before=before)["wasm-uid"] is before["wasm-uid"]
