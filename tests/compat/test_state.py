"""State, and the operations that change a value in place."""

import asyncio

import pytest

from tests.compat.engine import wait_for
from tests.compat.sdks import SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "new-names.yaml"
IDENTITIES = ("tokens",)


@check(63)
@pytest.mark.parametrize("sdk", SDKS)
async def test_values_are_set_read_listed_and_deleted(agents, unique, sdk):
    agent, scope = agents[sdk], unique("scope")
    one = {"scope": scope, "key": "one"}
    assert await agent.call("state::get", one) is None
    assert await agent.call("state::set", {**one, "value": {"n": 1}}) == {"old_value": None, "new_value": {"n": 1}}
    assert await agent.call("state::set", {**one, "value": [2]}) == {"old_value": {"n": 1}, "new_value": [2]}
    assert await agent.call("state::set", {"scope": scope, "key": "two", "data": "text"}) == {
        "old_value": None,
        "new_value": "text",
    }
    assert await agent.call("state::get", one) == [2]
    assert sorted(map(str, await agent.call("state::list", {"scope": scope}))) == ["[2]", "text"]
    groups = (await agent.call("state::list_groups", {}))["groups"]
    assert scope in groups
    assert groups == sorted(groups)
    assert await agent.call("state::delete", one) == [2]
    assert await agent.call("state::get", one) is None
    assert await agent.call("state::delete", one) is None
    assert await agent.call("state::list", {"scope": scope}) == ["text"]
    assert await agent.call("state::list", {"scope": unique("empty")}) == []


@check(63)
async def test_a_missing_value_is_left_out_and_a_stored_null_is_not(mesh, unique):
    raw, where = await mesh.connect(), {"scope": unique("scope"), "key": "k"}
    assert "result" not in await raw.answer("state::get", where)
    assert (await raw.answer("state::set", {**where, "value": None}))["result"] == {
        "old_value": None,
        "new_value": None,
    }
    answer = await raw.answer("state::get", where)
    assert "result" in answer
    assert answer["result"] is None


LONG, DEEP = "s" * 257, [f"level{number}" for number in range(33)]
NESTED: dict = {}
for _ in range(17):
    NESTED = {"deeper": NESTED}
MERGES = [
    ({"path": DEEP, "value": {}}, "merge.path.too_deep"),
    ({"path": ["a", LONG], "value": {}}, "merge.path.segment_too_long"),
    ({"path": ["a", ""], "value": {}}, "merge.path.empty_segment"),
    ({"path": ["a", "prototype"], "value": {}}, "merge.path.proto_polluted"),
    ({"path": "a", "value": 7}, "merge.value.not_an_object"),
    ({"value": NESTED}, "merge.value.too_deep"),
    ({"value": {f"key{number}": 1 for number in range(1025)}}, "merge.value.too_many_keys"),
    ({"value": {"__proto__": {}}}, "merge.value.proto_polluted"),
]
FAILING = [
    *(({"type": "merge", **fields}, code) for fields, code in MERGES),
    ({"type": "increment", "path": "text", "by": 1}, "increment.not_number"),
    ({"type": "decrement", "path": "text", "by": 1}, "decrement.not_number"),
    ({"type": "append", "path": "number", "value": 1}, "append.type_mismatch"),
    ({"type": "set", "path": LONG, "value": 1}, "set.path.segment_too_long"),
    ({"type": "set", "path": "__proto__", "value": 1}, "set.path.proto_polluted"),
    ({"type": "increment", "path": "constructor", "by": 1}, "increment.path.proto_polluted"),
    ({"type": "decrement", "path": LONG, "by": 1}, "decrement.path.segment_too_long"),
    ({"type": "append", "path": DEEP, "value": 1}, "append.path.too_deep"),
    ({"type": "append", "path": ["a", ""], "value": 1}, "append.path.empty_segment"),
    ({"type": "remove", "path": "prototype"}, "remove.path.proto_polluted"),
]
ROOTS = [
    ({"type": "set", "path": "a", "value": 1}, "set.target_not_object"),
    ({"type": "increment", "path": "a", "by": 1}, "increment.target_not_object"),
    ({"type": "decrement", "path": "a", "by": 1}, "decrement.target_not_object"),
    ({"type": "append", "path": "a", "value": 1}, "append.target_not_object"),
    ({"type": "remove", "path": "a"}, "remove.target_not_object"),
]
WORKING = [
    ({"type": "set", "path": "", "value": {"count": 1.5, "list": [1], "text": "a", "gone": 1, "kept": True}}, {}),
    ({"type": "set", "path": "dotted.key", "value": None}, {"dotted.key": None}),
    ({"type": "increment", "path": "count", "by": 2}, {"count": 3.5}),
    ({"type": "increment", "path": "new", "by": 3}, {"new": 3}),
    ({"type": "decrement", "path": "newer", "by": 4}, {"newer": -4}),
    ({"type": "append", "path": "list", "value": {"x": 1}}, {"list": [1, {"x": 1}]}),
    ({"type": "append", "path": "text", "value": "b"}, {"text": "ab"}),
    ({"type": "append", "path": "word", "value": "w"}, {"word": "w"}),
    ({"type": "append", "path": "items", "value": 1}, {"items": [1]}),
    ({"type": "append", "path": ["deep", "leaf"], "value": "w"}, {"deep": {"leaf": ["w"]}}),
    ({"type": "merge", "value": {"kept": False, "more": {"a": 1}}}, {"kept": False, "more": {"a": 1}}),
    ({"type": "merge", "path": "more", "value": {"b": 2}}, {"more": {"a": 1, "b": 2}}),
    ({"type": "merge", "path": ["more", "a", "x"], "value": {"c": 3}}, {"more": {"a": {"x": {"c": 3}}, "b": 2}}),
    ({"type": "remove", "path": "gone"}, {"gone": ...}),
    ({"type": "remove", "path": "never there"}, {}),
]


@check(64)
@pytest.mark.parametrize("sdk", SDKS)
async def test_every_operation_changes_the_value_as_it_should(agents, unique, sdk):
    where = {"scope": unique("scope"), "key": "k"}
    expected = dict(WORKING[0][0]["value"])
    for operation, change in WORKING:
        answer = await agents[sdk].call("state::update", {**where, "ops": [operation]})
        expected |= change
        expected = {key: value for key, value in expected.items() if value is not ...}
        assert answer["new_value"] == expected, operation
        assert "errors" not in answer


@check(64)
@pytest.mark.parametrize("sdk", SDKS)
async def test_operations_that_fail_are_told_by_code_and_position_and_the_others_apply(agents, unique, sdk):
    where = {"scope": unique("scope"), "key": "k"}
    start = {"text": "t", "number": 1}
    await agents[sdk].call("state::set", {**where, "value": start})
    counting = [{"type": "increment", "path": "count", "by": 1} for _ in FAILING]
    operations = [each for pair in zip((failing for failing, _ in FAILING), counting, strict=True) for each in pair]
    answer = await agents[sdk].call("state::update", {**where, "ops": operations})
    told = [(each["op_index"], each["code"]) for each in answer["errors"]]
    assert told == [(2 * position, code) for position, (_, code) in enumerate(FAILING)]
    assert all(each["message"] and "doc_url" in each for each in answer["errors"])
    assert answer["old_value"] == start
    assert answer["new_value"] == {**start, "count": len(FAILING)}
    assert await agents[sdk].call("state::get", where) == answer["new_value"]


@check(64)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_value_that_is_no_object_takes_no_fields(agents, unique, sdk):
    where = {"scope": unique("scope"), "key": "k"}
    await agents[sdk].call("state::set", {**where, "value": "a text"})
    operations = [operation for operation, _ in ROOTS] + [{"type": "merge", "value": {"a": 1}}]
    answer = await agents[sdk].call("state::update", {**where, "ops": operations})
    assert [(each["op_index"], each["code"]) for each in answer["errors"]] == list(enumerate(code for _, code in ROOTS))
    assert answer["new_value"] == "a text"
    answer = await agents[sdk].call("state::update", {**where, "ops": [{"type": "remove", "path": ""}]})
    assert answer["new_value"] is None


@check(65, sdks=SDKS)
async def test_a_hundred_increments_at_a_time_make_a_hundred(agents, unique):
    where = {"scope": unique("scope"), "key": "counter"}
    by = {**where, "ops": [{"type": "increment", "path": "n", "by": 1}]}
    workers = list(agents.values())
    answers = await asyncio.gather(*(workers[number % 4].call("state::update", by) for number in range(100)))
    assert sorted(each["new_value"]["n"] for each in answers) == list(range(1, 101))
    assert await workers[0].call("state::get", where) == {"n": 100}


@check(66)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_trigger_on_a_key_fires_for_its_changes_alone(agents, unique, sdk):
    agent, scope = agents[sdk], unique("scope")
    heard = await agent.function(unique(f"{agent.prefix}::heard"))
    everything = await agent.function(unique(f"{agent.prefix}::everything"))
    await agent.bind("state", heard, {"scope": scope, "key": "k"})
    binding = await agent.bind("state", everything, {})
    where = {"scope": scope, "key": "k"}
    await agent.call("state::set", {**where, "value": 1})
    await agent.saw(heard, 1)
    await agent.call("state::set", {"scope": scope, "key": "other", "value": 1})
    await agent.call("state::set", {"scope": unique("scope"), "key": "k", "value": 1})
    await agent.call("state::update", {**where, "ops": [{"type": "set", "path": "", "value": {"n": 2}}]})
    await agent.saw(heard, 2)
    await agent.call("state::delete", where)
    events = await agent.saw(heard, 3)
    assert [(each["event_type"], each["old_value"], each["new_value"]) for each in events] == [
        ("state:created", None, 1),
        ("state:updated", 1, {"n": 2}),
        ("state:deleted", {"n": 2}, None),
    ]
    assert all((each["type"], each["scope"], each["key"]) == ("state", scope, "k") for each in events)

    async def heard_all() -> bool:
        return sum(each["scope"] == scope for each in await agent.seen(everything)) == 4

    await wait_for(heard_all, "the trigger on everything hears the other key too")
    assert len(await agent.seen(heard)) == 3
    await agent.unbind(binding)


@check(66)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_condition_keeps_a_state_trigger_from_firing(agents, unique, sdk):
    agent, scope = agents[sdk], unique("scope")
    no = await agent.function(unique(f"{agent.prefix}::no"), result=False)
    heard = await agent.function(unique(f"{agent.prefix}::heard"))
    after = await agent.function(unique(f"{agent.prefix}::after"))
    await agent.bind("state", heard, {"scope": scope, "condition_function_id": no})
    await agent.bind("state", after, {"scope": scope})
    await agent.call("state::set", {"scope": scope, "key": "k", "value": 1})
    await agent.saw(after)
    await agent.saw(no)
    assert await agent.seen(heard) == []
