import json

import pytest
from agentos_contracts.grants import Grant, GrantError, is_named, is_sensitive, scope_matches
from agentos_contracts.patterns import Pattern

FULL = {
    "uid": "u1",
    "worker": "default/a",
    "owns": ["a::*", "tool::x"],
    "discover": False,
    "calls": ["state::*", "publish"],
    "state_scopes": ["a", "chat-*"],
    "leaving": False,
    "sleeping": False,
}


def test_a_grant_comes_back_from_its_json_form_as_it_was():
    grant = Grant.from_wire(json.loads(json.dumps(FULL)))
    assert grant.to_wire() == FULL
    assert grant.owns == (Pattern("a::*"), Pattern("tool::x"))
    assert grant.calls == (Pattern("state::*"), Pattern("publish"))


def test_what_is_left_out_grants_nothing():
    grant = Grant.from_wire({"uid": "u1"})
    assert (grant.owns, grant.calls, grant.state_scopes, grant.discover) == ((), (), (), False)


def test_null_calls_and_scopes_mean_no_limit():
    grant = Grant.from_wire({"uid": "u1", "calls": None, "state_scopes": None})
    assert grant.calls is None
    assert grant.state_scopes is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"uid": ""}, "uid"),
        ({"uid": 1}, "uid"),
        ({"uid": "x" * 257}, "uid"),
        ({"worker": None}, "worker"),
        ({"owns": ["*"]}, "owns[0]"),
        ({"owns": "a::*"}, "owns"),
        ({"owns": None}, "owns"),
        ({"owns": ["a::b", 1]}, "owns[1]"),
        ({"calls": ["a::*b"]}, "calls[0]"),
        ({"calls": ["a::b"] * 4097}, "calls"),
        ({"discover": 1}, "discover"),
        ({"leaving": None}, "leaving"),
        ({"state_scopes": ["a*b"]}, "state_scopes[0]"),
        ({"state_scopes": [""]}, "state_scopes[0]"),
        ({"state_scopes": ["x" * 257]}, "state_scopes[0]"),
        ({"stateScopes": []}, "stateScopes"),
    ],
)
def test_what_is_no_grant_is_refused_with_the_place(change: dict, named: str):
    with pytest.raises(GrantError, match=named.replace("[", r"\[")):
        Grant.from_wire(FULL | change)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_only_an_object_is_a_grant(value: object):
    with pytest.raises(GrantError):
        Grant.from_wire(value)


@pytest.mark.parametrize(
    ("function_id", "sensitive"),
    [
        ("vault::get", True),
        ("vault::a::b", True),
        ("vaults::get", False),
        ("approval::resolve", True),
        ("approval::set-mode", True),
        ("approval::list_pending", False),
        ("configuration::set", True),
        ("configuration::get", False),
        ("iii::queue::redrive", True),
        ("iii::durable::publish", False),
        ("bridge.invoke", True),
        ("state::set", False),
    ],
)
def test_sensitive_functions(function_id: str, sensitive: bool):
    assert is_sensitive(function_id) is sensitive


@pytest.mark.parametrize(
    ("calls", "function_id", "named"),
    [
        ("vault::*", "vault::get", True),
        ("vault::g*", "vault::get", True),
        ("vault::get", "vault::get", True),
        ("vault::set", "vault::get", False),
        ("approval::resolve", "approval::resolve", True),
        ("approval::*", "approval::resolve", False),
        ("approval::*", "approval::list_pending", True),
        ("engine::*", "engine::logs::clear", False),
        ("engine::*", "engine::logs::list", True),
        ("iii::*", "iii::queue::redrive", False),
        ("iii::queue::*", "iii::queue::redrive", True),
        ("configuration::*", "configuration::set", False),
    ],
)
def test_a_wide_pattern_does_not_name_what_is_sensitive(calls: str, function_id: str, named: bool):
    assert is_named([Pattern.parse(calls)], function_id) is named


@pytest.mark.parametrize(
    ("entry", "scope", "covered"),
    [("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("a*", "b", False), ("*", "", True), ("*", "x", True)],
)
def test_scopes_are_exact_or_begin_with_what_stands_before_the_star(entry: str, scope: str, covered: bool):
    assert scope_matches(entry, scope) is covered
