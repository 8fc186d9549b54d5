import itertools
import re

import pytest
from agentos_contracts.patterns import (
    BUILT_IN_IDS,
    MAX_PATTERN_LENGTH,
    PATTERN_REGEX,
    RESERVED_SEGMENTS,
    Pattern,
    PatternError,
    called_pattern,
    claim_name,
    claim_segment,
    reserved_by,
)
from hypothesis import given
from hypothesis import strategies as st

PARTS = ["a", "b", "ab"]
SMALL_IDS = ["::".join(parts) for length in (2, 3, 4) for parts in itertools.product(PARTS, repeat=length)]
SMALL_PATTERNS = (
    ["::".join(parts) for length in (2, 3) for parts in itertools.product(PARTS, repeat=length)]
    + [f"{first}::*" for first in PARTS]
    + [f"{first}::{second}{end}" for first in PARTS for second in PARTS for end in ("*", "::*")]
)
small_patterns = st.sampled_from(SMALL_PATTERNS).map(Pattern.parse)
segments = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":*"), min_size=1, max_size=63
)


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("wasm", "wasm::*"),
        ("wasm::*", "wasm::*"),
        ("a::b", "a::b"),
        ("a::b::c", "a::b::c"),
        ("tool::file_*", "tool::file_*"),
        ("a::b::*", "a::b::*"),
        ("stream::get(orders)", "stream::get(orders)"),
        ("Agent_1::chat.v2", "Agent_1::chat.v2"),
        ("hook::post:/x", "hook::post:/x"),
    ],
)
def test_a_pattern_is_read_and_normalised(written, normalised):
    pattern = Pattern.parse(written)
    assert pattern.text == str(pattern) == normalised
    assert Pattern.parse(pattern.text) == pattern


@pytest.mark.parametrize(
    ("written", "fault", "remedy"),
    [
        ("", "must not be empty", "my-worker::*"),
        ("*", "only after the first '::'", "my-worker::*"),
        ("tool*", "only after the first '::'", "tool::*"),
        ("to*l::x", "before the first '::' must have no *", "tol::*"),
        ("a::b*c", "only at the end", "a::b*"),
        ("a::**", "only at the end", "a::*"),
        ("::x", "before the first '::' is missing", "my-worker::x"),
        ("a::", "nothing follows", "a::*"),
        ("a::::b", "a name is missing between", "a::*"),
        ("a::b::", "a name is missing", "a::*"),
        ("wasm:validate", "separated by '::'", "wasm::validate"),
        ("a b", "has a blank", "my-worker::*"),
        (" a::b", "has a blank", "my-worker::*"),
        ("a::b\n", "control character", "my-worker::*"),
        ("wаsm::x", "outside ASCII", "my-worker::*"),
        ("s" * 64 + "::x", "at most 63 characters", "my-worker::*"),
        ("a::" + "x" * MAX_PATTERN_LENGTH, "at most 128 characters", "my-worker::*"),
    ],
)
def test_a_bad_pattern_says_what_is_wrong_and_what_to_write(written, fault, remedy):
    with pytest.raises(PatternError) as caught:
        Pattern.parse(written)
    assert fault in str(caught.value)
    assert remedy in str(caught.value)


def test_a_value_that_is_no_text_is_refused():
    with pytest.raises(PatternError, match="got int"):
        Pattern.parse(7)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_any_text_is_a_pattern_or_a_pattern_error(text):
    try:
        pattern = Pattern.parse(text)
    except PatternError:
        return
    assert re.fullmatch(PATTERN_REGEX, pattern.text)
    assert len(pattern.text) <= MAX_PATTERN_LENGTH


def test_a_pattern_covers_its_ids_and_no_others():
    everything = Pattern.parse("wasm")
    assert everything.segment == "wasm"
    assert not everything.is_exact
    assert everything.matches("wasm::execute")
    assert everything.matches("wasm::a::b")
    assert not everything.matches("wasm2::execute")
    exact = Pattern.parse("agent::chat")
    assert exact.is_exact
    assert exact.matches("agent::chat")
    assert not exact.matches("agent::chat_stream")
    assert Pattern.parse("tool::file_*").matches("tool::file_read")
    assert not Pattern.parse("tool::file_*").matches("tool::web_get")


@given(small_patterns, small_patterns)
def test_patterns_clash_exactly_when_some_id_matches_both(one, other):
    by_force = any(one.matches(function_id) and other.matches(function_id) for function_id in SMALL_IDS)
    assert one.clashes(other) == by_force
    assert other.clashes(one) == by_force


@given(small_patterns)
def test_a_pattern_clashes_with_itself(pattern):
    assert pattern.clashes(pattern)


@given(small_patterns, small_patterns)
def test_clashing_patterns_share_their_segment(one, other):
    if one.clashes(other):
        assert one.segment == other.segment


@pytest.mark.parametrize(
    ("written", "owner"),
    [
        ("sandbox", "sandbox"),
        ("sandbox::anything_new", "sandbox"),
        ("engine::functions::list", "engine"),
        ("iii::*", "iii"),
        ("state::get", "state::get"),
        ("state::*", "state::delete"),
        ("stream::s*", "stream::send"),
        ("stream::get*", "stream::get"),
        ("configuration::set", "configuration::set"),
        ("stream::chat", None),
        ("stream::get(orders)", None),
        ("state::snapshot", None),
        ("cron::create", None),
        ("sandboxes::*", None),
        ("wasm", None),
    ],
)
def test_what_belongs_to_the_engine_is_reserved(written, owner):
    assert reserved_by(Pattern.parse(written)) == owner


def test_no_built_in_id_of_the_table_lies_in_a_reserved_segment():
    assert not {built_in for built_in in BUILT_IN_IDS if built_in.partition("::")[0] in RESERVED_SEGMENTS}


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("wasm", "wasm"),
        ("my-worker", "my-worker"),
        ("a--b", "a-b--612d2d62"),
        ("Foo", "foo--466f6f"),
        ("a_b", "a-b--615f62"),
        ("_", "x--5f"),
        ("-a", "a--2d61"),
        ("a.b", "a-b--612e62"),
    ],
)
def test_a_claim_is_named_after_its_segment(segment, name):
    assert claim_name(segment) == name


@given(segments)
def test_claim_names_are_object_names_and_can_be_read_back(segment):
    name = claim_name(segment)
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    assert claim_segment(name) == segment


@given(segments, segments)
def test_two_segments_never_share_a_claim_name(one, other):
    assert (claim_name(one) == claim_name(other)) == (one == other)


@given(st.text(max_size=80))
def test_only_names_that_were_given_are_read_back(name):
    try:
        segment = claim_segment(name)
    except PatternError:
        return
    assert claim_name(segment) == name


@pytest.mark.parametrize(
    "name", ["", "Foo", "foo--466F6F", "bar--466f6f", "wasm--7761736d", "a--zz", "a--", "--61", "a b"]
)
def test_a_name_that_no_segment_has_is_refused(name):
    with pytest.raises(PatternError, match="is not the name of a FunctionClaim"):
        claim_segment(name)


@pytest.mark.parametrize("segment", ["", "a b", "a:b", "a*", "é", "x" * 64])
def test_a_text_that_is_no_segment_has_no_claim_name(segment):
    with pytest.raises(PatternError, match="not the first part"):
        claim_name(segment)


def test_an_id_without_colons_is_covered_by_the_namespace_of_its_name_alone():
    assert Pattern.parse("math.add").matches("math.add")
    assert not Pattern.parse("math.add").matches("math.ad")
    assert not Pattern("math.add::x*").matches("math.add")
    assert reserved_by(Pattern.parse("publish")) == "publish"


@pytest.mark.parametrize(
    ("written", "covered", "not_covered"),
    [
        ("publish", "publish", "publish::later"),
        ("bridge.invoke", "bridge.invoke", "bridge.invoke_async"),
        ("state", "state::get", "states"),
        ("state::get", "state::get", "state::set"),
        ("engine::log::*", "engine::log::info", "engine::logs::list"),
    ],
)
def test_what_is_called_may_be_the_engine_s(written, covered, not_covered):
    pattern = called_pattern(written)
    assert pattern.matches(covered)
    assert not pattern.matches(not_covered)


@pytest.mark.parametrize("text", ["tool*", "", "a b", "*", None, ["publish"]])
def test_what_is_no_pattern_cannot_be_called(text):
    with pytest.raises(PatternError):
        called_pattern(text)
