"""Update operations: each error by a table, everything else against a model that is written another way."""

import json
from copy import deepcopy
from pathlib import Path

import msgspec
import pytest
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import decode
from agentos_engine.storage.values import MAX_VALUE_DEPTH, deeper
from agentos_engine.updates import MAX_OPERATIONS, Operations, Update, apply
from hypothesis import given, settings
from hypothesis import strategies as st

LIMIT = (1 << 63) - 1


class Payload(msgspec.Struct):
    ops: Operations


def operations(ops):
    return decode("state::update", json.dumps({"ops": ops}).encode(), Payload).ops


def run(value, *ops):
    """The new value, and the codes of what was skipped by index."""
    new, errors = apply(value, operations(list(ops)))
    return new, [(each.op_index, each.code) for each in errors]


def nested(depth):
    return json.loads('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize(
    ("value", "op", "expected"),
    [
        ({"a": 1}, {"type": "set", "path": "b", "value": [2]}, {"a": 1, "b": [2]}),
        ({"a": 1}, {"type": "set", "path": "a.b", "value": 2}, {"a": 1, "a.b": 2}),
        ({"a": 1}, {"type": "set", "path": "a"}, {"a": None}),
        ({"a": 1}, {"type": "set", "path": "", "value": 2}, 2),
        (5, {"type": "set", "path": "", "value": {}}, {}),
        ({"a": 1}, {"type": "merge", "value": {"a": 2, "b": 3}}, {"a": 2, "b": 3}),
        ({"a": 1}, {"type": "merge", "path": "", "value": {"b": 3}}, {"a": 1, "b": 3}),
        ({"a": 1}, {"type": "merge", "path": [], "value": {"b": 3}}, {"a": 1, "b": 3}),
        ({"a": 1}, {"type": "merge", "path": None, "value": {"b": 3}}, {"a": 1, "b": 3}),
        ({"a": {"x": {"y": 1}}}, {"type": "merge", "path": "a", "value": {"x": {}}}, {"a": {"x": {}}}),
        ({"a": {"x": 1}}, {"type": "merge", "path": ["a", "b.c"], "value": {"y": 2}}, {"a": {"x": 1, "b.c": {"y": 2}}}),
        ({"a": None}, {"type": "merge", "path": ["a", "b"], "value": {"y": 2}}, {"a": {"b": {"y": 2}}}),
        ({"a": [1]}, {"type": "merge", "path": "a", "value": {"y": 2}}, {"a": {"y": 2}}),
        (None, {"type": "merge", "path": "a", "value": {"y": 2}}, {"a": {"y": 2}}),
        (None, {"type": "merge", "value": {"y": 2}}, None),
        ([1], {"type": "merge", "value": {"y": 2}}, [1]),
        ({}, {"type": "increment", "path": "n", "by": 5}, {"n": 5}),
        ({}, {"type": "decrement", "path": "n", "by": 5}, {"n": -5}),
        ({"n": 1}, {"type": "increment", "path": "n", "by": -3}, {"n": -2}),
        ({"n": 0.5}, {"type": "increment", "path": "n", "by": 1}, {"n": 1.5}),
        ({"n": 0.5}, {"type": "decrement", "path": "n", "by": 1}, {"n": -0.5}),
        ({"n": 0}, {"type": "increment", "path": "n", "by": LIMIT}, {"n": LIMIT}),
        ({"n": 0}, {"type": "increment", "path": "n", "by": -LIMIT - 1}, {"n": -LIMIT - 1}),
        ({"n": 1e308}, {"type": "increment", "path": "n", "by": LIMIT}, {"n": 1e308}),
        ({"a": [1]}, {"type": "append", "path": "a", "value": [2]}, {"a": [1, [2]]}),
        ({"a": "x"}, {"type": "append", "path": "a", "value": "y"}, {"a": "xy"}),
        ({}, {"type": "append", "path": "a", "value": "y"}, {"a": "y"}),
        ({}, {"type": "append", "path": ["a"], "value": "y"}, {"a": "y"}),
        ({}, {"type": "append", "path": "a", "value": {"y": 1}}, {"a": [{"y": 1}]}),
        ({"a": None}, {"type": "append", "path": "a", "value": None}, {"a": [None]}),
        ({}, {"type": "append", "path": ["a", "b"], "value": "y"}, {"a": {"b": ["y"]}}),
        ({"a": {"b": None}}, {"type": "append", "path": ["a", "b"], "value": "y"}, {"a": {"b": ["y"]}}),
        ({"a": {"b": "x"}}, {"type": "append", "path": ["a", "b"], "value": "y"}, {"a": {"b": "xy"}}),
        ({"a": 5}, {"type": "append", "path": ["a", "b"], "value": 1}, {"a": {"b": [1]}}),
        ([1], {"type": "append", "value": 2}, [1, 2]),
        ("x", {"type": "append", "path": "", "value": "y"}, "xy"),
        (None, {"type": "append", "path": [], "value": "y"}, "y"),
        (None, {"type": "append", "value": 2}, [2]),
        ({"a": 1, "b": 2}, {"type": "remove", "path": "a"}, {"b": 2}),
        ({"b": 2}, {"type": "remove", "path": "a"}, {"b": 2}),
        ({"b": 2}, {"type": "remove", "path": ""}, None),
        (7, {"type": "remove", "path": ""}, None),
    ],
)
def test_what_an_operation_makes(value, op, expected):
    new, errors = run(value, op)
    assert json.dumps(new) == json.dumps(expected)
    assert errors == []


LONG, DEEP = "é" * 129, ["x"] * 33
ERRORS = [
    *[
        (root, {"type": name, "path": "a", **fields}, f"{name}.target_not_object")
        for name, fields in (
            ("set", {"value": 1}),
            ("increment", {"by": 1}),
            ("decrement", {"by": 1}),
            ("append", {"value": 1}),
            ("remove", {}),
        )
        for root in ([1], None, 5, "text", True)
    ],
    (5, {"type": "append", "path": ["a", "b"], "value": 1}, "append.target_not_object"),
    *[
        ({"n": old}, {"type": name, "path": "n", "by": 1}, f"{name}.not_number")
        for name in ("increment", "decrement")
        for old in (None, "1", True, [], {})
    ],
    ({"n": LIMIT}, {"type": "increment", "path": "n", "by": 1}, "increment.overflow"),
    ({"n": -LIMIT}, {"type": "decrement", "path": "n", "by": 2}, "decrement.overflow"),
    ({}, {"type": "decrement", "path": "n", "by": -LIMIT - 1}, "decrement.overflow"),
    ({"n": 10**30}, {"type": "increment", "path": "n", "by": 1}, "increment.overflow"),
    *[
        ({"a": old}, {"type": "append", "path": "a", "value": value}, "append.type_mismatch")
        for old, value in (({}, 1), (5, 1), (True, 1), ("x", 1), ("x", None), ({}, "x"))
    ],
    ({}, {"type": "append", "value": 1}, "append.type_mismatch"),
    *[({}, {"type": "merge", "value": value}, "merge.value.not_an_object") for value in (None, 1, "x", [{}], True)],
    ({}, {"type": "merge", "value": {str(key): 1 for key in range(1025)}}, "merge.value.too_many_keys"),
    ({}, {"type": "merge", "value": nested(17)}, "merge.value.too_deep"),
    ({}, {"type": "merge", "value": {"a": json.loads("[" * 16 + "]" * 16)}}, "merge.value.too_deep"),
    *[
        ({}, {"type": "merge", "value": {name: 1}}, "merge.value.proto_polluted")
        for name in ("__proto__", "constructor", "prototype")
    ],
    ({}, {"type": "set", "path": "a", "value": nested(65)}, "set.value.too_deep"),
    ({}, {"type": "set", "path": "", "value": nested(65)}, "set.value.too_deep"),
    ({}, {"type": "append", "path": "a", "value": nested(65)}, "append.value.too_deep"),
    *[
        ({}, {"type": name, "path": path, **fields}, f"{name}.path.{code}")
        for name, fields in (
            ("set", {"value": 1}),
            ("merge", {"value": {}}),
            ("increment", {"by": 1}),
            ("decrement", {"by": 1}),
            ("append", {"value": 1}),
            ("remove", {}),
        )
        for path, code in (
            (LONG, "segment_too_long"),
            ("__proto__", "proto_polluted"),
            ("constructor", "proto_polluted"),
            ("prototype", "proto_polluted"),
        )
    ],
    *[
        ({}, {"type": name, "path": path, "value": {}}, f"{name}.path.{code}")
        for name in ("merge", "append")
        for path, code in (
            (DEEP, "too_deep"),
            (["a", LONG], "segment_too_long"),
            (["a", ""], "empty_segment"),
            ([""], "empty_segment"),
            (["a", "__proto__"], "proto_polluted"),
        )
    ],
    ({}, {"type": "increment", "path": "", "by": 1}, "increment.path.empty_segment"),
    ({}, {"type": "decrement", "path": "", "by": 1}, "decrement.path.empty_segment"),
]


@pytest.mark.parametrize(("value", "op", "code"), ERRORS)
def test_an_operation_that_fails_is_reported_and_the_others_still_count(value, op, code):
    before = {"type": "set", "path": "", "value": value}
    after = {"type": "append", "path": [], "value": "later"} if isinstance(value, list) else before
    new, errors = run({"old": 1}, before, op, after)
    assert errors == [(1, code)]
    assert new == ([*value, "later"] if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ({"type": "set", "path": "é" * 128, "value": nested(64)}, {}),
        ({"type": "merge", "path": ["x"] * 32, "value": nested(16)}, {}),
        ({"type": "merge", "value": {str(key): {"__proto__": 1} for key in range(1024)}}, {}),
        ({"type": "append", "path": ["x"] * 32, "value": nested(64)}, {}),
    ],
)
def test_the_limits_themselves_are_allowed_and_nothing_gets_too_deep_to_store(op, value):
    new, errors = run(value, op)
    assert errors == []
    assert not deeper(new, MAX_VALUE_DEPTH)


def test_an_error_has_its_index_a_message_and_a_page():
    _, errors = apply(
        {"n": "x"}, operations([{"type": "remove", "path": "a"}, {"type": "increment", "path": "n", "by": 1}])
    )
    assert json.loads(msgspec.json.encode(errors)) == [
        {
            "op_index": 1,
            "code": "increment.not_number",
            "message": "'n' is a text; only a number can be changed by increment.",
            "doc_url": "docs/updates.md#increment.not_number",
        }
    ]


def test_every_code_has_its_place_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "updates.md").read_text()
    for code in {code for _, _, code in ERRORS}:
        assert f'<a id="{code}"></a>' in page, code
    assert page.count("<a id=") == len({code for _, _, code in ERRORS})


@pytest.mark.parametrize(
    ("ops", "reason"),
    [
        ({}, "Expected `array`"),
        (None, "Expected `array`"),
        ("set", "Expected `array`"),
        ([1], "Expected `object`"),
        ([{"path": "a"}], "missing required field `type`"),
        ([{"type": "rename", "path": "a"}], "'rename'"),
        ([{"type": "increment", "path": "a", "by": 1.5}], "got `float`"),
        ([{"type": "increment", "path": "a", "by": 1.0}], "got `float`"),
        ([{"type": "decrement", "path": "a", "by": "1"}], "got `str`"),
        ([{"type": "increment", "path": "a", "by": True}], "got `bool`"),
        ([{"type": "increment", "path": "a", "by": LIMIT + 1}], "ops[0].by"),
        ([{"type": "increment", "path": "a", "by": -LIMIT - 2}], "ops[0].by"),
        ([{"type": "increment", "path": "a"}], "field `by`"),
        ([{"type": "set", "value": 1}], "field `path`"),
        ([{"type": "set", "path": ["a"], "value": 1}], "ops[0].path"),
        ([{"type": "remove", "path": None}], "ops[0].path"),
        ([{"type": "merge", "path": [1], "value": {}}], "ops[0].path"),
        ([{"type": "append", "path": "a"}], "field `value`"),
        ([{"type": "merge", "path": "a"}], "field `value`"),
        ([{"type": "remove", "path": "a"}] * (MAX_OPERATIONS + 1), "length"),
    ],
)
def test_what_is_no_list_of_operations_does_not_decode(ops, reason):
    with pytest.raises(BusError) as refused:
        operations(ops)
    assert refused.value.code == "deserialization_error"
    assert refused.value.message.startswith("Failed to deserialize input for state::update: ")
    assert reason in refused.value.message


def test_a_missing_value_starts_as_an_object_and_a_stored_null_does_not():
    ops = operations([{"type": "set", "path": "a", "value": 1}])
    assert Update(ops)(None) == b'{"a":1}'
    update = Update(ops)
    assert update(b"null") == b"null"
    assert [each.code for each in update.errors] == ["set.target_not_object"]


def test_numbers_that_are_not_touched_stay_as_they_are():
    update = Update(operations([{"type": "set", "path": "z", "value": 0}]))
    kept = b'{"big":123456789012345678901234567890,"float":1.0,"small":1e-300,"z":0}'
    assert update(kept) == kept


def test_a_result_that_is_too_large_is_no_result():
    update = Update(operations([{"type": "append", "path": "a", "value": "x" * 100}]), max_bytes=100)
    with pytest.raises(BusError) as refused:
        update(None)
    assert refused.value.code == "VALUE_TOO_LARGE"


def test_a_stored_value_that_cannot_be_calculated_with_is_left_alone():
    with pytest.raises(BusError) as refused:
        Update(operations([{"type": "set", "path": "a", "value": 1}]))(b'{"n":1e999}')
    assert refused.value.code == "VALUE_UNREADABLE"


# The model: no copying on demand, no shared paths, everything rebuilt from the root at each step.


class Skip(Exception):
    pass


GONE = object()


def look(root, path):
    for key in path:
        root = root.get(key, GONE) if isinstance(root, dict) else GONE
    return root


def put(root, path, leaf):
    if not path:
        return leaf
    base = root if isinstance(root, dict) else {}
    return {**base, path[0]: put(base.get(path[0]), path[1:], leaf)}


def keys_of(op):
    path = op.get("path")
    keys = [] if path in (None, "") else [path] if isinstance(path, str) else path
    if op["type"] in ("increment", "decrement") and path == "":
        keys = [""]
    if len(keys) > 32:
        raise Skip("path.too_deep")
    for key in keys:
        if key == "":
            raise Skip("path.empty_segment")
        if len(key.encode()) > 256:
            raise Skip("path.segment_too_long")
        if key in ("__proto__", "constructor", "prototype"):
            raise Skip("path.proto_polluted")
    return keys


def step(root, op):
    name, value = op["type"], op.get("value")
    keys = keys_of(op)
    if name == "merge":
        if not isinstance(value, dict):
            raise Skip("value.not_an_object")
        if "__proto__" in value:
            raise Skip("value.proto_polluted")
        if not keys and not isinstance(root, dict):
            return root
        old = look(root, keys)
        return put(root, keys, {**(old if isinstance(old, dict) else {}), **value})
    if keys and not isinstance(root, dict):
        raise Skip("target_not_object")
    old = look(root, keys)
    if name == "set":
        return put(root, keys, value)
    if name == "remove":
        return {key: each for key, each in root.items() if [key] != keys} if keys else None
    if name in ("increment", "decrement"):
        number = 0 if old is GONE else old
        if type(number) not in (int, float):
            raise Skip("not_number")
        new = number + op["by"] if name == "increment" else number - op["by"]
        if type(new) is int and not -LIMIT - 1 <= new <= LIMIT:
            raise Skip("overflow")
        return put(root, keys, new)
    if old in (None, GONE):
        return put(root, keys, value if isinstance(value, str) and len(keys) < 2 else [value])
    if isinstance(old, list):
        return put(root, keys, [*old, value])
    if isinstance(old, str) and isinstance(value, str):
        return put(root, keys, old + value)
    raise Skip("type_mismatch")


def model(root, ops):
    codes = []
    for index, op in enumerate(ops):
        try:
            root = step(deepcopy(root), op)
        except Skip as skip:
            codes.append((index, f"{op['type']}.{skip}"))
    return root, codes


KEYS = st.sampled_from(["a", "b", "c", "a.b", "", "__proto__", "é" * 129])
PLAIN = st.sampled_from(["a", "b", "c"])
INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-LIMIT - 1, LIMIT))
LEAVES = st.one_of(st.none(), st.booleans(), INTEGERS, st.sampled_from([0.5, 1e300]), st.sampled_from(["", "x", "yz"]))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3), max_leaves=8
)
PATHS = st.one_of(st.none(), KEYS, st.lists(st.one_of(PLAIN, PLAIN, KEYS), max_size=4))
OPS = st.one_of(
    st.fixed_dictionaries({"type": st.just("set"), "path": KEYS, "value": VALUES}),
    st.fixed_dictionaries(
        {"type": st.just("merge"), "path": PATHS, "value": st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=3))}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["increment", "decrement"]), "path": KEYS, "by": INTEGERS}),
    st.fixed_dictionaries({"type": st.just("append"), "path": PATHS, "value": VALUES}),
    st.fixed_dictionaries({"type": st.just("remove"), "path": KEYS}),
)
ROOTS = st.one_of(st.dictionaries(PLAIN, VALUES, max_size=3), VALUES)


@given(root=ROOTS, ops=st.lists(OPS, max_size=12))
@settings(deadline=None, max_examples=500)
def test_any_list_of_operations_does_what_the_model_does_and_changes_no_argument(root, ops):
    before, decoded = deepcopy(root), operations(ops)
    decoded_before = deepcopy(decoded)
    new, errors = apply(root, decoded)
    expected, codes = model(root, ops)
    assert json.dumps(new) == json.dumps(expected)
    assert [(each.op_index, each.code) for each in errors] == codes
    assert json.dumps(root) == json.dumps(before)
    assert decoded == decoded_before


@given(root=ROOTS, ops=st.lists(OPS, max_size=8))
@settings(deadline=None, max_examples=100)
def test_an_update_may_be_run_again_from_the_same_value(root, ops):
    update, raw = Update(operations(ops)), json.dumps(root).encode()
    first = update(raw), [each.code for each in update.errors]
    assert (update(raw), [each.code for each in update.errors]) == first
