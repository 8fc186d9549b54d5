import pytest
from agentos_contracts import claimables
from agentos_contracts.grants import Grant, GrantError
from agentos_contracts.patterns import Pattern, PatternError, claim_name, claim_segment
from hypothesis import given
from hypothesis import strategies as st

PARTS = st.lists(st.none() | st.text(max_size=30), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("method", "segments", "text", "segment"),
    [
        ("GET", [""], "http GET /", "http /"),
        ("POST", ["orders"], "http POST /orders", "http /orders"),
        ("GET", ["orders", None, "items"], "http GET /orders/:/items", "http /orders"),
        ("GET", ["api", "v1", "orders", None], "http GET /api/v1/orders/:", "http /api/v1/orders"),
        ("GET", ["api", "orders", "x"], "http GET /api/orders/x", "http /api/orders"),
        ("GET", ["v2"], "http GET /v2", "http /v2"),
        ("GET", ["a b", ":id", "*", "x/y"], "http GET /a%20b/%3Aid/%2A/x%2Fy", "http /a%20b"),
        ("GET", ["é"], "http GET /%C3%A9", "http /%C3%A9"),
        ("GET", [None, "x"], "http GET /:/x", "http /:"),
    ],
)
def test_the_text_of_a_route_has_its_method_and_the_shape_of_its_path(method, segments, text, segment):
    assert claimables.route(method, segments) == text
    assert claimables.segment_of(text) == Pattern(text).segment == segment


def test_the_text_of_a_trigger_type_has_its_name():
    assert claimables.trigger_type("shop::events") == "trigger-type shop::events"
    assert claimables.trigger_type("a b*") == "trigger-type a%20b%2A"
    assert claimables.segment_of("trigger-type shop::events") == "trigger-type shop::events"


@given(PARTS, PARTS)
def test_every_shape_of_path_has_a_text_of_its_own_that_can_be_recorded(one, other):
    mine, theirs = claimables.route("GET", one), claimables.route("GET", other)
    assert (mine == theirs) == (one == other)
    assert mine != claimables.route("POST", one)
    pattern = Pattern.recorded(mine)
    assert pattern.is_exact
    assert not pattern.is_function
    assert claim_segment(claim_name(pattern.segment)) == pattern.segment
    assert len(claim_name(pattern.segment)) <= 253


@given(st.text(min_size=1, max_size=300))
def test_every_trigger_type_can_be_recorded(name):
    pattern = Pattern.recorded(claimables.trigger_type(name))
    assert not pattern.is_function
    assert claim_segment(claim_name(pattern.segment)) == pattern.segment


def test_what_is_too_long_is_cut_and_stays_different():
    one, other = (claimables.route("GET", ["long", "x" * 200, end]) for end in "ab")
    assert len(one) == len(other) == claimables.MAX_LENGTH
    assert one.startswith("http GET /long/xxx")
    assert one != other
    assert claimables.trigger_type("t" * 1000) != claimables.trigger_type("t" * 1001)


@pytest.mark.parametrize(
    "text", ["http GET /a", "trigger-type a", "http GET /:", "http GET /a/#0123456789abcdef0123456789abcdef"]
)
def test_nobody_can_write_a_route_or_trigger_type_where_functions_stand(text):
    assert claimables.is_claimable(text)
    with pytest.raises(PatternError):
        Pattern.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http GET",
        "http GET a",
        "http get /a",
        "http GET /a b",
        "http GET /*",
        "trigger-type ",
        "trigger-type a*",
        "x y",
        "http GET /" + "x" * 128,
    ],
)
def test_what_is_neither_is_not_recorded(text):
    with pytest.raises(PatternError):
        Pattern.recorded(text)


def test_a_grant_carries_routes_and_trigger_types_beside_functions():
    texts = ["a::*", "http GET /a", "trigger-type a"]
    grant = Grant.from_wire({"uid": "u", "owns": texts})
    assert grant.to_wire()["owns"] == texts
    with pytest.raises(GrantError):
        Grant.from_wire({"uid": "u", "owns": ["http GET /*"]})
    with pytest.raises(GrantError):
        Grant.from_wire({"uid": "u", "calls": ["http GET /a"]})
