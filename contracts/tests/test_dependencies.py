import time
from itertools import pairwise

import pytest
from agentos_contracts import reasons
from agentos_contracts.dependencies import Dependency, cycles, declared, trouble, unmet
from hypothesis import given
from hypothesis import strategies as st

READY = Dependency("mem", "memory", "1.4.0", ready=True)
STARTING = Dependency("mem", "memory", "1.4.0", ready=False)
UNKNOWN = Dependency("mem", "memory", None, ready=True)


@pytest.mark.parametrize(
    ("dependencies", "providers"),
    [
        pytest.param({}, [], id="nothing is needed"),
        pytest.param({"iii-state": "^1"}, [], id="the engine has it"),
        pytest.param({"memory": "^1.2"}, [READY], id="a ready Worker fits"),
        pytest.param({"memory": "^1.2"}, [STARTING, READY], id="one of two is ready"),
        pytest.param({"memory": " * "}, [UNKNOWN], id="any version will do"),
    ],
)
def test_what_is_there_is_not_lacking(dependencies, providers):
    assert unmet(dependencies, providers, {"iii-state"}) is None


@pytest.mark.parametrize(
    ("wanted", "providers", "reason", "said"),
    [
        ("^1", [], reasons.DEPENDENCY_MISSING, "needs memory ^1, which no Worker here has as its manifest's name; "),
        (
            "^1",
            [Dependency("memory", "other", "1.0.0", ready=True)],
            reasons.DEPENDENCY_MISSING,
            "needs memory ^1, which no Worker here has as its manifest's name; ",
        ),
        ("^2", [READY], reasons.DEPENDENCY_VERSION, "needs memory ^2; Worker mem has 1.4.0; "),
        ("^2", [UNKNOWN], reasons.DEPENDENCY_VERSION, "needs memory ^2; Worker mem has no known version; "),
        ("^1", [STARTING], reasons.DEPENDENCY_NOT_READY, "needs memory ^1; Worker mem is not Ready yet"),
    ],
)
def test_what_is_lacking_is_said(wanted, providers, reason, said):
    lacking = unmet({"memory": wanted}, iter(providers), set())
    assert lacking is not None
    assert lacking[0] is reason
    assert lacking[1].startswith(said)


def test_of_several_the_first_by_name_is_told():
    lacking = unmet({"z": "*", "iii-state": "*", "b": "*"}, [], {"iii-state"})
    assert lacking is not None
    assert lacking[1].startswith("needs b *")


def waiting(name, *names, ready=False, trouble="", worker=None):
    return Dependency(worker or name, name, "1.0.0", ready=ready, trouble=trouble, waits_for=frozenset(names))


@pytest.mark.parametrize(
    ("dependencies", "providers", "way"),
    [
        pytest.param({"b": "*"}, [waiting("b", "a")], "a → b → a", id="two"),
        pytest.param({"b": "*"}, [waiting("b", "c"), waiting("c", "d", "a")], "a → b → c → a", id="three"),
        pytest.param({"0": "*", "b": "*"}, [waiting("b", "a")], "a → b → a", id="before what is missing"),
        pytest.param({"b": "^2"}, [waiting("b", "a")], "a → b → a", id="before another version"),
        pytest.param(
            {"b": "*"}, [waiting("b", "a", "x"), waiting("b", "a", "y", worker="b2")], "a → b → a", id="all of a name"
        ),
    ],
)
def test_a_cycle_is_told_before_all_else_with_the_way_round(dependencies, providers, way):
    lacking = unmet(dependencies, providers, set(), "a")
    assert lacking == (
        reasons.DEPENDENCY_CYCLE,
        f"{way}: each waits for the next, so none of them starts; remove one of these",
    )


@pytest.mark.parametrize(
    ("dependencies", "providers"),
    [
        pytest.param({"b": "*"}, [waiting("b")], id="it runs, and is not Ready at the moment"),
        pytest.param(
            {"b": "*"}, [waiting("b", "a"), waiting("b", worker="b2")], id="another of the name does not wait"
        ),
        pytest.param({"b": "*"}, [waiting("b", "c"), waiting("c", "b")], id="a cycle of others"),
        pytest.param(
            {"b": "*", "c": "*"}, [waiting("b"), waiting("c", "a", ready=True)], id="the one that needs it is ready"
        ),
        pytest.param(
            {"b": "*"}, [waiting("b", "iii-state"), waiting("iii-state", "a")], id="the engine's is no part of one"
        ),
    ],
)
def test_what_only_has_to_be_waited_for_is_no_cycle(dependencies, providers):
    lacking = unmet(dependencies, providers, {"iii-state"}, "a")
    assert lacking is not None
    assert lacking[0] is reasons.DEPENDENCY_NOT_READY


def test_the_deeper_cause_is_told_when_waiting_may_not_help():
    lacking = unmet({"b": "^1"}, [waiting("b", trouble="ManifestInvalid")], set())
    assert lacking == (reasons.DEPENDENCY_NOT_READY, "needs b ^1; Worker b is not Ready: ManifestInvalid")
    lacking = unmet({"b": "^1"}, [waiting("b", trouble="Clash"), waiting("b", worker="other")], set())
    assert lacking == (reasons.DEPENDENCY_NOT_READY, "needs b ^1; Worker other is not Ready yet")
    assert [trouble(reason.name) for reason in (reasons.PODS_STARTING, reasons.CLASH)] == ["", "Clash"]


@pytest.mark.parametrize(
    ("needs", "found"),
    [
        ({}, []),
        ({"a": ["b"], "b": ["c"]}, []),
        ({"a": ["a"]}, [("a", "a")]),
        ({"a": ["b"], "b": ["a"], "z": ["a"]}, [("a", "b", "a")]),
        ({"a": ["b", "c"], "b": ["c"], "c": ["a"]}, [("a", "c", "a"), ("b", "c", "a", "b")]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, [("a", "b", "a"), ("c", "d", "c")]),
    ],
)
def test_cycles_are_found_with_the_shortest_way_round(needs, found):
    assert cycles(needs) == found


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefg"), max_size=3)))
def test_what_is_on_a_cycle_is_on_one_that_is_told_and_nothing_else(needs):
    def reach(name):
        seen, todo = set(), [name]
        while todo:
            for each in needs.get(todo.pop(), ()):
                if each not in seen:
                    seen.add(each)
                    todo.append(each)
        return seen

    found = cycles(needs)
    assert {name for way in found for name in way} == {name for name in needs if name in reach(name)}
    assert all(following in needs[name] for way in found for name, following in pairwise(way))


def test_a_fleet_of_thousands_is_looked_through_at_once():
    chain = {f"w{n}": [f"w{n + 1}", f"w{n + 2}"] for n in range(20_000)} | {"w20000": [], "w20001": ["w19990"]}
    began = time.process_time()
    assert [way[0] for way in cycles(chain)][:1] == ["w19990"]
    assert time.process_time() - began < 5


def test_what_a_resource_declares_is_read_from_any_resource():
    manifest = {"name": "m", "dependencies": {"a": "^1"}}
    assert declared({"metadata": {"name": "w"}, "spec": {"manifest": manifest}}) == ("m", {"a": "^1"})
    assert declared({"metadata": {"name": "w"}, "spec": {"manifest": manifest, "dependencies": {}}}) == ("m", {})
    assert declared({"metadata": {"name": "w"}, "spec": {"manifestFrom": {}}}) == ("w", {})
    assert declared({"metadata": 5, "spec": {"manifest": {"name": 5, "dependencies": [1]}}}) == ("", {})
