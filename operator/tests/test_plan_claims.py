"""Who owns which functions, and which FunctionClaims are written so that it is recorded."""

import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from agentos_contracts.assign import MAX_DISCOVERED
from agentos_contracts.patterns import Pattern
from agentos_operator.plan.claims import ClaimsInput, ClaimsPlan, patterns_of, plan
from agentos_operator.plan.handover import Handover
from agentos_operator.plan.presence import Presence

NOW, STAMP = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"
EARLIER = "2026-01-01T00:00:00Z"
REALM = {
    "apiVersion": "agentos.dev/v1alpha1",
    "kind": "Realm",
    "metadata": {"name": "prod", "uid": "r-uid"},
    "spec": {"namespace": "team"},
}


def worker(name: str, *owns: str, day: int = 1, **metadata: Any) -> dict:
    """A Worker made on that day of January."""
    return {
        "kind": "Worker",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"{name}-uid",
            "creationTimestamp": f"2026-01-{day:02}T00:00:00Z",
        }
        | metadata,
        "spec": {"owns": list(owns)},
    }


def claim(segment: str, *holders: tuple[str, str], version: str = "7") -> dict:
    """A recorded claim; holders as (pattern, worker)."""
    listed = [{"pattern": p, "worker": w, "uid": f"{w}-uid", "since": EARLIER} for p, w in holders]
    metadata = {"name": segment, "namespace": "team", "uid": f"{segment}-claim", "resourceVersion": version}
    return {"kind": "FunctionClaim", "metadata": metadata, "spec": {"segment": segment, "holders": listed}}


@dataclass
class Told:
    """A Presence of which the tests say by name what it answers."""

    lingering: tuple[str, ...]
    pods: tuple[str, ...]
    answering: tuple[str, ...]
    registered: dict[str, list[str]]
    served: dict[str, list[str]]

    def lingers(self, uid: str) -> bool:
        return uid.removesuffix("-uid") in self.lingering

    def started(self, uid: str) -> bool:
        return uid.removesuffix("-uid") in self.pods

    serving = started

    def serves(self, uid: str, pattern: Pattern, *, declared: bool) -> bool:
        return uid.removesuffix("-uid") in self.answering

    def registers(self, uid: str) -> list[str]:
        return self.registered.get(uid.removesuffix("-uid"), [])

    def has(self, uid: str) -> list[str]:
        return self.served.get(uid.removesuffix("-uid"), [])

    def settles_in(self, uid: str) -> None:
        return None


def decide(
    *workers: dict,
    claims: tuple[dict, ...] = (),
    lingering: tuple[str, ...] = (),
    pods: tuple[str, ...] = (),
    serving: tuple[str, ...] = (),
    registers: dict[str, list[str]] | None = None,
    over_quota: tuple[str, ...] = (),
    room: int | None = None,
    handovers: dict[str, Handover] | None = None,
    has: dict[str, list[str]] | None = None,
) -> ClaimsPlan:
    """Names of Workers: ``lingering`` ones are gone but may still answer, ``pods`` have pods, ``serving`` serve what they had.

    ``registers``: what they have registered without owning it; ``has``: what they serve; ``handovers``: those with
    spec.replaces.
    """
    return plan(
        ClaimsInput(
            REALM,
            workers,
            claims,
            cast(Presence, Told(lingering, pods, serving, registers or {}, has or {})),
            {f"{name}-uid": each for name, each in (handovers or {}).items()},
            NOW,
            [f"{name}-uid" for name in over_quota],
            room,
        )
    )


def held(written: dict) -> list[tuple[str, str, str]]:
    return [(h["pattern"], h["worker"], h["since"]) for h in written["spec"]["holders"]]


def writes(answer: ClaimsPlan) -> tuple[list[str], list[str], list[str]]:
    return tuple([c["spec"]["segment"] for c in part] for part in (answer.create, answer.replace, answer.delete))


def test_a_free_pattern_is_recorded_in_a_new_claim():
    answer = decide(worker("wasm", "wasm"))
    (made,) = answer.create
    assert writes(answer) == (["wasm"], [], [])
    assert answer.writes == 1
    assert not answer.waiting
    assert made == {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "FunctionClaim",
        "metadata": {
            "name": "wasm",
            "namespace": "team",
            "labels": {"app.kubernetes.io/managed-by": "agentos-operator", "agentos.dev/realm": "prod"},
            "ownerReferences": [
                {
                    "apiVersion": "agentos.dev/v1alpha1",
                    "kind": "Realm",
                    "name": "prod",
                    "uid": "r-uid",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "segment": "wasm",
            "holders": [{"pattern": "wasm::*", "worker": "wasm", "uid": "wasm-uid", "since": STAMP}],
        },
    }


def test_each_first_segment_has_one_claim_written_in_sorted_order():
    answer = decide(worker("a", "zoo::x", "agent::chat"), worker("b", "agent::list", day=2))
    assert writes(answer) == (["agent", "zoo"], [], [])
    assert held(answer.create[0]) == [("agent::chat", "a", STAMP), ("agent::list", "b", STAMP)]


def test_a_segment_that_is_no_object_name_is_encoded():
    (made,) = decide(worker("a", "Big_Tools::x")).create
    assert made["metadata"]["name"] == "big-tools--" + b"Big_Tools".hex()
    assert made["spec"]["segment"] == "Big_Tools"


def test_what_is_recorded_already_is_not_written_again():
    answer = decide(worker("wasm", "wasm"), claims=(claim("wasm", ("wasm::*", "wasm")),))
    assert answer.writes == 0


def test_a_new_holder_replaces_the_claim_by_compare_and_set():
    answer = decide(
        worker("a", "agent::chat"),
        worker("b", "agent::list"),
        claims=(claim("agent", ("agent::chat", "a"), version="42"),),
    )
    assert writes(answer) == ([], ["agent"], [])
    (changed,) = answer.replace
    assert changed["metadata"]["resourceVersion"] == "42"
    assert held(changed) == [("agent::chat", "a", EARLIER), ("agent::list", "b", STAMP)]


def test_a_new_claim_has_no_version_to_compare():
    assert "resourceVersion" not in decide(worker("a", "a")).create[0]["metadata"]


def test_a_claim_that_nobody_holds_any_more_is_deleted():
    recorded = claim("wasm", ("wasm::*", "gone"))
    answer = decide(claims=(recorded,))
    assert answer.delete == (recorded,)
    assert writes(answer) == ([], [], ["wasm"])


def test_of_a_claim_with_other_holders_only_the_one_who_left_is_removed():
    answer = decide(worker("a", "agent::chat"), claims=(claim("agent", ("agent::chat", "a"), ("agent::list", "gone")),))
    (changed,) = answer.replace
    assert held(changed) == [("agent::chat", "a", EARLIER)]


def test_a_worker_that_edits_its_patterns_gives_up_the_old_ones():
    answer = decide(worker("a", "new"), claims=(claim("old", ("old::*", "a")),))
    assert writes(answer) == (["new"], [], ["old"])


def test_a_pattern_that_was_given_up_stays_with_its_holder_while_its_pods_serve_it():
    recorded = (claim("old", ("old::*", "a")),)
    editing, waiting = worker("a", "new"), worker("b", "old", day=2)
    during = decide(editing, waiting, claims=recorded, pods=("a",), serving=("a",))
    assert writes(during) == (["new"], [], [])
    assert during.waiting["b-uid"][0].message == "old::* is held by Worker a"
    assert during.keeping == {"a-uid"}
    after = decide(editing, waiting, claims=(*recorded, claim("new", ("new::*", "a"))), pods=("a",))
    assert [h["worker"] for c in after.replace for h in c["spec"]["holders"]] == ["b"]


def test_when_a_record_is_lost_the_worker_that_runs_gets_it_back_before_older_ones_that_wait():
    answer = decide(worker("older", "wasm"), worker("running", "wasm", day=9), pods=("running",))
    assert [h["worker"] for c in answer.create for h in c["spec"]["holders"]] == ["running"]


def test_a_holder_is_never_dispossessed_by_an_older_worker():
    answer = decide(
        worker("older", "wasm"), worker("holder", "wasm", day=9), claims=(claim("wasm", ("wasm::*", "holder")),)
    )
    assert answer.writes == 0
    (clash,) = answer.waiting["older-uid"]
    assert clash.message == "wasm::* is held by Worker holder"


def test_of_those_who_wait_the_oldest_gets_it():
    answer = decide(worker("young", "wasm", day=3), worker("old", "wasm", day=2))
    assert held(answer.create[0]) == [("wasm::*", "old", STAMP)]
    assert set(answer.waiting) == {"young-uid"}


def test_a_waiter_gets_the_functions_when_the_holder_is_gone():
    answer = decide(worker("heir", "wasm", day=2), claims=(claim("wasm", ("wasm::*", "gone")),))
    (changed,) = answer.replace
    assert held(changed) == [("wasm::*", "heir", STAMP)]
    assert not answer.waiting


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param([worker("heir", "wasm", day=2)], id="its object is gone"),
        pytest.param(
            [worker("heir", "wasm", day=2), worker("gone", "wasm", deletionTimestamp=STAMP)], id="its object is going"
        ),
    ],
)
def test_a_holder_that_leaves_keeps_its_functions_until_its_pods_are_gone(workers):
    recorded = (claim("wasm", ("wasm::*", "gone")),)
    waits = decide(*workers, claims=recorded, lingering=("gone",))
    assert waits.writes == 0
    assert [c.message for c in waits.waiting["heir-uid"]] == ["wasm::* is held by Worker gone"]
    follows = decide(*workers, claims=recorded)
    assert held(follows.replace[0]) == [("wasm::*", "heir", STAMP)]


def test_a_worker_made_anew_under_the_same_name_is_another_one():
    again = worker("wasm", "wasm", uid="new-uid")
    recorded = (claim("wasm", ("wasm::*", "wasm")),)
    assert set(decide(again, claims=recorded, lingering=("wasm",)).waiting) == {"new-uid"}
    assert decide(again, claims=recorded).replace[0]["spec"]["holders"][0]["uid"] == "new-uid"


def test_a_worker_that_is_going_claims_nothing_new():
    assert decide(worker("a", "wasm", deletionTimestamp=STAMP), lingering=("a",)).writes == 0


def test_a_worker_gets_all_its_patterns_or_none():
    answer = decide(
        worker("holder", "b"),
        worker("late", "a", "b", day=2),
        pods=("holder",),
        claims=(claim("b", ("b::*", "holder")),),
    )
    assert answer.writes == 0
    assert [c.pattern.text for c in answer.waiting["late-uid"]] == ["b::*"]


def test_a_part_recorded_by_an_interrupted_write_is_removed_when_the_rest_cannot_be_had():
    holder, late = worker("holder", "b"), worker("late", "a", "b", day=2)
    recorded = (claim("a", ("a::*", "late")), claim("b", ("b::*", "holder")))
    assert writes(decide(holder, late, pods=("holder",), claims=recorded)) == ([], [], ["a"])
    assert decide(holder, late, pods=("holder", "late"), claims=recorded).writes == 0


NOT_CLAIMED = [
    ("the engine's namespace", ["sandbox"]),
    ("the engine's namespace under another name", ["wasm", "engine::x"]),
    ("one of the engine's functions", ["state::get"]),
    ("a wildcard over the engine's functions", ["state::*"]),
    ("a star before the first colons", ["tool*"]),
    ("an empty text", [""]),
    ("no text", [7]),
    ("one malformed among good ones", ["wasm", "tool*"]),
    ("nothing", []),
]


@pytest.mark.parametrize("owns", [pytest.param(r[1], id=r[0]) for r in NOT_CLAIMED])
def test_what_validation_refuses_is_never_claimed(owns):
    assert patterns_of(worker("a", *owns)) == ()
    answer = decide(worker("a", *owns))
    assert (answer.writes, dict(answer.waiting)) == (0, {})


def test_a_worker_without_owns_claims_nothing():
    bare = worker("a")
    for spec in ({}, {"owns": None}):
        assert decide(bare | {"spec": spec}).writes == 0


@pytest.mark.parametrize("bad", ["state::get", "tool*"])
def test_a_mistake_in_an_edit_of_owns_keeps_what_is_held(bad):
    recorded = (claim("wasm", ("wasm::*", "runs")),)
    answer = decide(worker("runs", "wasm", bad), worker("waits", "wasm", day=2), claims=recorded)
    assert answer.writes == 0
    assert set(answer.waiting) == {"waits-uid"}


def test_a_pattern_given_twice_is_claimed_once():
    (made,) = decide(worker("a", "wasm", "wasm::*")).create
    assert held(made) == [("wasm::*", "a", STAMP)]


def test_a_record_that_makes_no_sense_is_removed_and_stops_nobody():
    recorded = claim("wasm", ("not a pattern", "gone"))
    answer = decide(worker("a", "wasm"), claims=(recorded,), lingering=("gone",))
    assert held(answer.replace[0]) == [("wasm::*", "a", STAMP)]


def test_the_same_input_gives_the_same_plan_and_is_not_changed():
    workers = (worker("a", "x", "y"), worker("b", "x", day=2), worker("c", "z", day=3))
    recorded = (claim("x", ("x::*", "gone")), claim("q", ("q::*", "gone")))
    before = copy.deepcopy((workers, recorded))
    first = decide(*workers, claims=recorded)
    assert decide(*reversed(workers), claims=tuple(reversed(recorded))) == first
    assert (workers, recorded) == before


def test_deciding_again_on_the_result_changes_nothing():
    workers = (worker("a", "x", "y"), worker("b", "x", day=2))
    made = tuple(c | {"metadata": c["metadata"] | {"resourceVersion": "1"}} for c in decide(*workers).create)
    again = decide(*workers, claims=made)
    assert again.writes == 0
    assert set(again.waiting) == {"b-uid"}


# --- Workers that declare nothing ---


def undeclared(name: str, **more: Any) -> dict:
    made = worker(name, **more)
    del made["spec"]["owns"]
    return made


def test_a_worker_that_declares_nothing_gets_what_it_registers_and_nobody_holds():
    answer = decide(
        undeclared("finder"),
        worker("other", "a::x"),
        claims=(claim("a", ("a::x", "other")),),
        pods=("finder",),
        registers={"finder": ["a::x", "a::y", "b::z"]},
    )
    assert [held(each) for each in (*answer.create, *answer.replace)] == [
        [("b::z", "finder", STAMP)],
        [("a::x", "other", EARLIER), ("a::y", "finder", STAMP)],
    ]
    assert answer.waiting == {}
    assert answer.keeping == {"finder-uid"}


def test_what_it_got_stays_its_own_as_long_as_it_serves_it():
    recorded = (claim("a", ("a::y", "finder")),)
    answer = decide(undeclared("finder"), worker("greedy", "a"), claims=recorded, pods=("finder",), serving=("finder",))
    assert answer.writes == 0
    assert answer.keeping == {"finder-uid"}
    assert set(answer.waiting) == {"greedy-uid"}
    answer = decide(undeclared("finder"), worker("greedy", "a"), claims=recorded, pods=("finder",))
    assert held(answer.replace[0]) == [("a::*", "greedy", STAMP)]


def test_an_empty_list_claims_nothing_of_what_is_registered():
    answer = decide(worker("none"), pods=("none",), registers={"none": ["a::x"]})
    assert answer.writes == 0


@pytest.mark.parametrize("function_id", ["state::get", "engine::x", "publish", "a::*", "a::b c", "a" * 64 + "::x"])
def test_what_nobody_can_claim_is_not_claimed_for_it(function_id):
    answer = decide(undeclared("finder"), pods=("finder",), registers={"finder": [function_id, "a::x"]})
    assert [held(each) for each in answer.create] == [[("a::x", "finder", STAMP)]]


def test_an_id_without_colons_is_claimed_as_a_namespace_of_its_own():
    answer = decide(undeclared("finder"), pods=("finder",), registers={"finder": ["math.add"]})
    assert held(answer.create[0]) == [("math.add::*", "finder", STAMP)]


def test_a_worker_gets_a_bounded_number_of_functions_without_declaring_them():
    many = [f"s{number:03}::x" for number in range(MAX_DISCOVERED + 10)]
    answer = decide(undeclared("finder"), pods=("finder",), registers={"finder": many})
    assert len(answer.create) == MAX_DISCOVERED
    more = decide(
        undeclared("finder"),
        pods=("finder",),
        claims=answer.create,
        serving=("finder",),
        registers={"finder": many[-10:]},
    )
    assert more.writes == 0


# --- Quota ---


def test_a_worker_over_quota_gets_nothing_and_keeps_what_it_holds():
    new, old = worker("new", "new::*"), worker("old", "old::one", "old::two")
    answer = decide(new, old, claims=(claim("old", ("old::one", "old")),), pods=("old",), over_quota=("new", "old"))
    assert writes(answer) == ([], [], [])
    assert answer.waiting == {}


def test_what_a_worker_over_quota_wants_is_free_for_others():
    answer = decide(worker("big", "tool::*"), worker("small", "tool::one"), over_quota=("big",))
    assert [held(each) for each in answer.create] == [[("tool::one", "small", STAMP)]]


def test_functions_are_discovered_only_as_far_as_there_is_room():
    finders = [undeclared("first"), undeclared("second")]
    registers = {"first": ["a::1", "a::2"], "second": ["b::1", "b::2"]}
    found = [
        pattern
        for each in decide(*finders, registers=registers, pods=("first", "second"), room=3).create
        for pattern, _, _ in held(each)
    ]
    assert found == ["a::1", "a::2", "b::1"]


# --- spec.replaces ---


def test_a_worker_that_replaces_another_takes_all_over_in_one_write_for_each_claim_once_it_answers():
    recorded = (claim("a", ("a::x", "old")), claim("b", ("b::*", "old")), claim("c", ("c::*", "old")))
    workers = (worker("old", "a::x", "b", "c"), worker("new", "a", "b", day=2))
    waits = Handover("old", 1, answers=False, lacking=("a::x",))
    answer = decide(*workers, claims=recorded, pods=("old", "new"), handovers={"new": waits})
    assert answer.writes == 0
    assert answer.handovers == {"new-uid": waits}
    answer = decide(*workers, claims=recorded, pods=("old", "new"), handovers={"new": Handover("old", 1, answers=True)})
    assert writes(answer) == ([], ["a", "b"], ["c"])
    assert [held(each) for each in answer.replace] == [[("a::*", "new", STAMP)], [("b::*", "new", STAMP)]]
    assert answer.handovers == {}
    assert answer.replaced == {"old-uid": "new"}


def test_one_that_replaces_a_worker_waits_for_a_third_one_as_everybody_does():
    recorded = (claim("a", ("a::*", "old")), claim("b", ("b::*", "other")))
    workers = (worker("old", "a"), worker("other", "b"), worker("new", "a", "b", day=2))
    answer = decide(
        *workers, claims=recorded, pods=("old", "other"), handovers={"new": Handover("old", 1, answers=False)}
    )
    assert answer.handovers == {}
    assert [each.holder.worker for each in answer.waiting["new-uid"]] == ["old", "other"]


def test_routes_and_trigger_types_move_in_the_same_pass():
    route, dropped = "http POST /orders/:", "trigger-type mail"
    recorded = (
        claim("a", ("a::*", "old")),
        claim("http /orders", (route, "old")),
        claim("trigger-type mail", (dropped, "old")),
    )
    answer = decide(
        worker("old", "a"),
        worker("new", "a", day=2),
        claims=recorded,
        pods=("old", "new"),
        serving=("old",),
        registers={"new": [route]},
        has={"old": ["a::x", route, dropped]},
        handovers={"new": Handover("old", 1, answers=True)},
    )
    assert [held(each) for each in answer.replace] == [[("a::*", "new", STAMP)], [(route, "new", STAMP)]]
    assert writes(answer) == ([], ["a", "http /orders"], ["trigger-type mail"])
    after = tuple(each | {"metadata": {**each["metadata"], "resourceVersion": "2"}} for each in answer.replace)
    again = decide(
        worker("old", "a"),
        worker("new", "a", day=2),
        claims=after,
        pods=("old", "new"),
        serving=("old", "new"),
        registers={"new": [route]},
        has={"old": ["a::x", route, dropped]},
        handovers={"new": Handover("old", 1, answers=False)},
    )
    assert again.writes == 0
    assert again.replaced == {"old-uid": "new"}


# --- Routes and trigger types ---

ROUTE, TYPE = "http POST /orders/:", "trigger-type mail"


def test_a_route_and_a_trigger_type_are_recorded_for_whoever_registers_them():
    answer = decide(worker("a", "a"), claims=(claim("a", ("a::*", "a")),), registers={"a": [ROUTE, TYPE, "b::x"]})
    assert writes(answer) == (["http /orders", "trigger-type mail"], [], [])
    assert answer.create[0]["metadata"]["name"] == "http-orders--" + b"http /orders".hex()
    assert [held(each) for each in answer.create] == [[(ROUTE, "a", STAMP)], [(TYPE, "a", STAMP)]]
    assert answer.keeping == {"a-uid"}


def test_who_registers_a_route_that_another_holds_waits_for_it_alone():
    answer = decide(
        worker("old", "old", day=1),
        worker("new", "new", day=2),
        claims=(
            claim("http /orders", (ROUTE, "new")),
            claim("old", ("old::*", "old")),
            claim("new", ("new::*", "new")),
        ),
        serving=("new",),
        registers={"old": [ROUTE, "http GET /orders"]},
    )
    assert not answer.waiting
    assert [each.message for each in answer.refused["old-uid"]] == [f"{ROUTE} is held by Worker new"]
    (changed,) = answer.replace
    assert held(changed) == [("http GET /orders", "old", STAMP), (ROUTE, "new", EARLIER)]


def test_the_oldest_who_waits_for_a_route_gets_it_when_the_holder_is_gone_or_gives_it_up():
    waiting = (worker("b", "b", day=2), worker("c", "c", day=3))
    registers = {"b": [ROUTE], "c": [ROUTE]}
    recorded = (
        claim("http /orders", (ROUTE, "a")),
        *(claim(each, (f"{each}::*", each)) for each in ("a", "b", "c")),
    )
    still = decide(worker("a", "a"), *waiting, claims=recorded, serving=("a",), registers=registers)
    assert still.writes == 0
    for answer in (
        decide(worker("a", "a"), *waiting, claims=recorded, registers=registers),
        decide(*waiting, claims=recorded, registers=registers),
    ):
        assert held(answer.replace[0]) == [(ROUTE, "b", STAMP)]
    lingering = decide(*waiting, claims=recorded, lingering=("a",), registers=registers)
    assert lingering.writes == 0


def test_what_is_served_though_its_record_was_deleted_stays_with_whoever_serves_it():
    answer = decide(
        worker("old", "old", day=1),
        worker("new", day=2) | {"spec": {}},
        claims=(claim("old", ("old::*", "old")),),
        serving=("new",),
        registers={"old": [ROUTE], "new": []},
        has={"new": [ROUTE, "new::x"], "old": ["old::x"]},
    )
    assert [held(each) for each in answer.create] == [[(ROUTE, "new", STAMP)], [("new::x", "new", STAMP)]]


def test_a_worker_that_floods_gets_some_and_the_rest_is_refused():
    flood = [f"http GET /flood/{number:05}" for number in range(1000)]
    answer = decide(worker("a", "a"), claims=(claim("a", ("a::*", "a")),), registers={"a": flood})
    assert len(answer.create[0]["spec"]["holders"]) == MAX_DISCOVERED
    assert len(answer.refused["a-uid"]) == 1000 - MAX_DISCOVERED
