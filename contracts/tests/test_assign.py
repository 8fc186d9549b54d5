import pytest
from agentos_contracts.assign import MAX_DISCOVERED, MAX_HOLDERS, Cause, Claimant, Holder, assign
from agentos_contracts.patterns import Pattern

NOW = "2026-01-01T12:00:00Z"
BEFORE = "2026-01-01T11:00:00Z"


def claimant(name, *patterns, discovered=(), created="2026-01-01T00:00:00Z", **options):
    declared, found = tuple(map(Pattern.parse, patterns)), tuple(map(Pattern.parse, discovered))
    return Claimant(name, f"uid-{name}", created, declared, found, **options)


def holder(pattern, name, since=BEFORE):
    return Holder(pattern, name, f"uid-{name}", since)


def owners(assignment):
    return {held.pattern: held.worker for holders in assignment.holders.values() for held in holders}


def test_a_newcomer_gets_all_its_patterns():
    result = assign([claimant("w", "wasm", "agent::chat")], {}, NOW)
    assert result.holders == {
        "agent": (Holder("agent::chat", "w", "uid-w", NOW),),
        "wasm": (Holder("wasm::*", "w", "uid-w", NOW),),
    }
    assert result.waiting == {}


def test_of_two_newcomers_the_older_wins_and_the_other_is_told_who_holds_what():
    young = claimant("young", "wasm::run", created="2026-01-02T00:00:00Z")
    old = claimant("old", "wasm", created="2026-01-01T00:00:00Z")
    result = assign([young, old], {}, NOW)
    assert owners(result) == {"wasm::*": "old"}
    (clash,) = result.waiting["uid-young"]
    assert (clash.pattern.text, clash.holder.worker, clash.held_pattern.text) == ("wasm::run", "old", "wasm::*")
    assert clash.message == "wasm::run overlaps wasm::*, which is held by Worker old"


def test_equal_creation_times_are_ranked_by_uid():
    assert owners(assign([claimant("b", "x"), claimant("a", "x")], {}, NOW)) == {"x::*": "a"}


def test_an_incumbent_is_not_dispossessed_by_an_older_worker_that_edits_its_patterns():
    recorded = {"wasm": [holder("wasm::*", "young")]}
    old = claimant("old", "wasm", created="2020-01-01T00:00:00Z")
    result = assign([old, claimant("young", "wasm")], recorded, NOW)
    assert result.holders == {"wasm": (holder("wasm::*", "young"),)}
    assert result.waiting["uid-old"][0].message == "wasm::* is held by Worker young"


def test_what_is_no_longer_wanted_is_dropped_and_the_one_who_waited_gets_it():
    recorded = {"wasm": [holder("wasm::*", "gone")], "a": [holder("a::*", "other")]}
    result = assign([claimant("next", "wasm"), claimant("other", "b")], recorded, NOW)
    assert result.holders == {
        "a": (),
        "b": (Holder("b::*", "other", "uid-other", NOW),),
        "wasm": (Holder("wasm::*", "next", "uid-next", NOW),),
    }


def test_one_who_leaves_keeps_what_is_recorded_and_gets_nothing_new():
    recorded = {"wasm": [holder("wasm::*", "leaving")]}
    leaving = claimant("leaving", "wasm", "more", leaving=True)
    result = assign([leaving, claimant("next", "wasm", created="2026-01-03T00:00:00Z")], recorded, NOW)
    assert owners(result) == {"wasm::*": "leaving"}
    assert set(result.waiting) == {"uid-next"}


def test_a_worker_gets_all_or_nothing_and_reserves_nothing_while_it_waits():
    recorded = {"b": [holder("b::*", "holder")]}
    both = claimant("both", "a", "b", created="2026-01-01T00:00:00Z")
    one = claimant("one", "a", created="2026-01-02T00:00:00Z")
    result = assign([both, one, claimant("holder", "b")], recorded, NOW)
    assert owners(result) == {"a::*": "one", "b::*": "holder"}
    assert [clash.pattern.text for clash in result.waiting["uid-both"]] == ["a::*", "b::*"]


def test_what_is_discovered_is_had_one_by_one_and_what_is_refused_is_told():
    recorded = {"a": [holder("a::x", "other")]}
    finder = claimant("finder", discovered=["a::x", "a::y", "b::x"], started=False)
    result = assign([finder, claimant("other", "a::x")], recorded, NOW)
    assert owners(result) == {"a::x": "other", "a::y": "finder", "b::x": "finder"}
    assert result.waiting == {}
    (clash,) = result.refused["uid-finder"]
    assert clash.message == "a::x is held by Worker other"


def test_what_is_declared_and_what_is_discovered_do_not_wait_for_each_other():
    recorded = {"a": [holder("a::x", "other")]}
    other = claimant("other", "a::x")
    waits = claimant("waits", "a", "c", discovered=["b::x"])
    result = assign([waits, other], recorded, NOW)
    assert owners(result) == {"a::x": "other", "b::x": "waits"}
    assert set(result.waiting) == {"uid-waits"}
    assert result.refused == {}
    lacks = claimant("lacks", "c", discovered=["a::x", "b::x"])
    result = assign([lacks, other], recorded, NOW)
    assert owners(result) == {"a::x": "other", "b::x": "lacks", "c::*": "lacks"}
    assert result.waiting == {}
    assert set(result.refused) == {"uid-lacks"}


def test_of_those_who_discovered_the_same_the_older_gets_it():
    young = claimant("young", discovered=["a::x", "a::y"], created="2026-01-02T00:00:00Z")
    result = assign([young, claimant("old", discovered=["a::x"])], {}, NOW)
    assert owners(result) == {"a::x": "old", "a::y": "young"}


def test_a_segment_is_filled_up_function_by_function():
    many = [f"a::f{number:03}" for number in range(MAX_HOLDERS - 1)]
    claimants = [claimant("w", *many), claimant("z", discovered=["a::x", "a::y", "a::z"])]
    result = assign(claimants, {}, NOW)
    assert len(result.holders["a"]) == MAX_HOLDERS
    assert [each.cause for each in result.refused["uid-z"]] == [Cause.FULL, Cause.FULL]
    assert assign(claimants, result.holders, NOW) == result


def test_a_worker_gets_a_bounded_number_of_patterns_that_it_has_not_declared():
    many = [f"s{number:03}::x" for number in range(MAX_DISCOVERED + 2)]
    result = assign([claimant("w", "mine", discovered=many)], {}, NOW)
    assert len(owners(result)) == MAX_DISCOVERED + 1
    assert [(each.cause, each.pattern.text) for each in result.refused["uid-w"]] == [
        (Cause.BEYOND, "s256::x"),
        (Cause.BEYOND, "s257::x"),
    ]
    assert "name its functions in spec.owns" in result.refused["uid-w"][0].message
    assert assign([claimant("w", "mine", discovered=many)], result.holders, NOW) == result


def test_two_that_want_the_same_in_another_order_do_not_block_each_other():
    result = assign([claimant("p", "a", "b"), claimant("q", "b", "a")], {}, NOW)
    assert owners(result) == {"a::*": "p", "b::*": "p"}


def test_a_running_worker_that_adds_a_pattern_that_clashes_keeps_what_it_has():
    recorded = {"a": [holder("a::*", "runs")], "b": [holder("b::*", "other")]}
    result = assign([claimant("runs", "a", "b", "c"), claimant("other", "b")], recorded, NOW)
    assert owners(result) == {"a::*": "runs", "b::*": "other"}
    assert [clash.pattern.text for clash in result.waiting["uid-runs"]] == ["b::*"]


def test_a_grant_that_was_interrupted_is_completed():
    recorded = {"a": [holder("a::*", "half")]}
    result = assign([claimant("half", "a", "b", started=False)], recorded, NOW)
    assert result.holders["a"] == (holder("a::*", "half"),)
    assert owners(result) == {"a::*": "half", "b::*": "half"}


def test_an_interrupted_grant_of_a_worker_that_never_ran_is_removed_when_it_cannot_be_completed():
    recorded = {"a": [holder("a::*", "half")], "b": [holder("b::*", "other")]}
    claimants = [claimant("half", "a", "b", started=False), claimant("other", "b"), claimant("next", "a")]
    result = assign(claimants, recorded, NOW)
    assert owners(result) == {"a::*": "next", "b::*": "other"}


def test_two_interrupted_grants_that_block_each_other_are_sorted_out_by_age():
    recorded = {"a": [holder("a::*", "p")], "b": [holder("b::*", "q")]}
    claimants = [claimant("q", "a", "b", started=False), claimant("p", "a", "b", started=False)]
    assert owners(assign(claimants, recorded, NOW)) == {"a::*": "p", "b::*": "p"}


def test_what_belongs_to_the_engine_is_never_assigned():
    recorded = {"sandbox": [holder("sandbox::*", "thief")], "state": [holder("state::get", "thief")]}
    result = assign([claimant("thief", "sandbox", "state::get", "mine")], recorded, NOW)
    assert result.holders == {"sandbox": (), "state": ()}
    assert {clash.cause for clash in result.waiting["uid-thief"]} == {Cause.RESERVED}
    assert result.waiting["uid-thief"][0].message == "sandbox::* takes sandbox, which belongs to the engine"


def test_a_segment_takes_256_holders_and_the_next_one_waits_with_a_reason():
    claimants = [
        claimant(f"w{n:03}", f"big::f{n}", created=f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z") for n in range(257)
    ]
    result = assign(claimants, {}, NOW)
    assert len(result.holders["big"]) == MAX_HOLDERS
    assert set(result.waiting) == {"uid-w256"}
    assert "finds no room: 256 patterns of big are held already" in result.waiting["uid-w256"][0].message


def test_own_patterns_may_overlap():
    assert owners(assign([claimant("w", "a", "a::x")], {}, NOW)) == {"a::*": "w", "a::x": "w"}


@pytest.mark.parametrize("pattern", ["", "tool*", "a", "b::*"])
def test_a_record_that_does_not_belong_in_its_segment_is_dropped(pattern):
    result = assign([claimant("w", leaving=True)], {"a": [holder(pattern, "w")]}, NOW)
    assert result.holders == {"a": ()}


# --- spec.replaces ---

OLD = {"a": [holder("a::*", "old")]}


def successor(*patterns, **options):
    return claimant("new", *patterns, replaces="old", created="2026-01-05T00:00:00Z", **options)


def test_a_worker_that_replaces_another_waits_for_nobody_else_and_may_run():
    old = claimant("old", "a")
    result = assign([old, successor("a")], OLD, NOW)
    assert owners(result) == {"a::*": "old"}
    assert result.succeeding == {"uid-new"}
    assert result.replaced == {}
    elsewhere = {"b": [holder("b::*", "other")]}
    result = assign([old, claimant("other", "b"), successor("a", "b")], OLD | elsewhere, NOW)
    assert result.succeeding == frozenset()


def test_once_it_answers_it_gets_all_and_the_replaced_one_keeps_nothing():
    recorded = OLD | {"z": [holder("z::*", "old")]}
    old, new = claimant("old", "a", "z"), successor("a::x", "b", answers=True)
    result = assign([old, new], recorded, NOW)
    assert owners(result) == {"a::x": "new", "b::*": "new"}
    assert result.replaced == {"uid-old": "new"}
    assert assign([old, new], result.holders, NOW) == result
    silent = assign([old, successor("a::x", "b", started=False)], result.holders, NOW)
    assert owners(silent) == owners(result)
    assert silent.replaced == {"uid-old": "new"}


def test_a_third_one_in_the_way_keeps_everything_where_it_is():
    recorded = OLD | {"b": [holder("b::*", "other")]}
    claimants = [claimant("old", "a"), claimant("other", "b"), successor("a", "b", answers=True)]
    assert owners(assign(claimants, recorded, NOW)) == {"a::*": "old", "b::*": "other"}


def test_what_nobody_declared_is_handed_over_too():
    recorded = {"a": [holder("a::x", "old"), holder("a::y", "old")]}
    old = claimant("old", discovered=["a::x", "a::y"])
    new = successor(discovered=["a::x"], answers=True)
    result = assign([old, new], recorded, NOW)
    assert owners(result) == {"a::x": "new"}
    assert assign([old, new], result.holders, NOW) == result


def test_the_replaced_one_gets_its_functions_back_when_the_other_is_gone():
    recorded = {"a": [holder("a::*", "new")]}
    old = claimant("old", "a", created="2026-01-02T00:00:00Z")
    assert owners(assign([old, successor("a")], recorded, NOW)) == {"a::*": "new"}
    assert owners(assign([old], recorded, NOW)) == {"a::*": "old"}
    waits = claimant("waits", "a")
    assert owners(assign([old, waits], recorded, NOW)) == {"a::*": "waits"}


def test_one_that_is_leaving_can_still_be_replaced():
    result = assign([claimant("old", leaving=True), successor("a", answers=True)], OLD, NOW)
    assert owners(result) == {"a::*": "new"}


def test_replacing_nobody_or_itself_changes_nothing():
    waits = claimant("waits", "a", replaces="nobody", answers=True)
    result = assign([claimant("old", "a", replaces="old", answers=True), waits], OLD, NOW)
    assert owners(result) == {"a::*": "old"}
    assert result.succeeding == frozenset()
    assert result.replaced == {}


def test_a_chain_is_handed_on_link_by_link():
    first, second = claimant("old", "a"), successor("a", answers=True)
    third = claimant("third", "a", replaces="new", created="2026-01-06T00:00:00Z")
    result = assign([first, second, third], OLD, NOW)
    assert owners(result) == {"a::*": "new"}
    assert result.succeeding == {"uid-third"}
    third = claimant("third", "a", replaces="new", answers=True)
    result = assign([first, second, third], result.holders, NOW)
    assert owners(result) == {"a::*": "third"}
    assert result.replaced == {"uid-new": "third", "uid-old": "third"}
    assert owners(assign([first, second, third], OLD, NOW)) == {"a::*": "third"}


def test_of_two_that_replace_each_other_the_newer_one_does():
    older = claimant("new", "a", replaces="old", answers=True)
    newer = claimant("old", "a", replaces="new", answers=True, created="2026-01-09T00:00:00Z")
    held_by_newer = assign([older, newer], {"a": [holder("a::*", "new")]}, NOW)
    assert owners(held_by_newer) == {"a::*": "old"}
    assert held_by_newer.replaced == {"uid-new": "old"}
    assert owners(assign([older, newer], held_by_newer.holders, NOW)) == {"a::*": "old"}


def test_with_no_room_for_what_it_wants_nothing_is_handed_over():
    many = [f"a::f{number:03}" for number in range(MAX_HOLDERS - 1)]
    recorded = {"a": [*(holder(text, "other") for text in many), holder("a::x", "old")]}
    claimants = [claimant("other", *many), claimant("old", "a::x"), successor("a::x", "a::y", answers=True)]
    assert owners(assign(claimants, recorded, NOW))["a::x"] == "old"
