"""Parts of the everyday commands that need no engine."""

import json

import pytest
from agentos.errors import CommandError
from agentos.everyday.arguments import alternatives, payload
from agentos.everyday.plain import block, cell, plain, plain_json
from agentos.everyday.times import ago, duration, seconds
from agentos.everyday.traces import latest, walk, waterfall
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00084, "840µs"), (0.0123, "12.3ms"), (0.9999, "1s"), (4.56, "4.56s"), (59.99, "60s"), (192, "3m12s"), (180, "3m"),
        (5 * 3600 + 180, "5h03m"), (7200, "2h"), (2 * 86400 + 4 * 3600, "2d04h"), (86400, "1d"),
    ],
)  # fmt: skip
def test_durations_read_as_people_say_them(value, text):
    assert duration(value) == text


@pytest.mark.parametrize(
    ("text", "value"), [("500ms", 0.5), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("7", 7)]
)
def test_lengths_of_time_are_read(text, value):
    assert seconds(text, "--timeout") == value


@pytest.mark.parametrize("text", ["", "0s", "-1s", "1 s", "1w", "1e3s", "9" * 40 + "s", "400d", "inf", "nan", "١s"])
def test_what_is_no_length_of_time_is_an_error(text):
    with pytest.raises(CommandError, match="--since: "):
        seconds(text, "--since")


@pytest.mark.parametrize("value", [None, "", "x", 0, -1, []])
def test_what_is_no_time_has_no_age(value):
    assert ago(value) == ""


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text):
    for shown in (plain(text), cell(text), block(text).replace("\n", "")):
        assert not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in shown)


@given(JSON)
def test_json_that_is_made_plain_has_the_same_value(value):
    text = plain_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    text.encode()


def test_lines_of_one_entry_cannot_pass_for_others():
    assert block("a\n10:00:00.000  ERROR  bank  forged") == "a\n    10:00:00.000  ERROR  bank  forged"


@given(st.lists(st.text(max_size=20), max_size=5), JSON)
def test_any_argument_and_any_schema_give_a_payload_or_an_error_of_one_line(arguments, schema):
    said = ""
    try:
        json.dumps(payload(arguments, {}, schema))
    except CommandError as error:
        said = str(error)
    assert "\n" not in said


def test_a_schema_that_goes_round_in_circles_comes_to_an_end():
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}
    assert len(list(alternatives(schema, schema))) <= 50
    assert payload(["a.b=1"], {}, schema) == {"a": {"b": "1"}}


def span(span_id, start, end, children=(), **more):
    return {"trace_id": "t", "span_id": span_id, "name": span_id, "start_time_unix_nano": start, "end_time_unix_nano": end,
            "children": list(children), **more}  # fmt: skip


def test_a_waterfall_begins_with_whatever_began_first_and_shows_what_still_runs():
    roots = [span("root", 2_000_000_000, 3_000_000_000, [span("early", 1_000_000_000, 0)])]
    root, early = waterfall(roots)
    assert (root.depth, root.start, root.length, root.took) == (0, 1.0, 1.0, "1s")
    assert (early.depth, early.start, early.length, early.took) == (1, 0.0, None, "running")


def test_a_very_deep_trace_is_walked():
    root = deepest = span("0", 1, 2)
    for depth in range(5000):
        deepest["children"].append(span(str(depth + 1), 1, 2))
        deepest = deepest["children"][0]
    assert [depth for depth, _ in walk([root])] == list(range(5001))


def test_a_trace_is_named_after_its_root_and_failed_when_any_of_it_did():
    spans = [
        span("child", 5, 9, parent_span_id="root", status="error"),
        span("root", 1, 3, parent_span_id=None, status="ok"),
    ]
    (row,) = latest(spans)
    assert (row["name"], row["spans"], row["status"], row["duration_ms"]) == ("root", 2, "error", 8e-6)
