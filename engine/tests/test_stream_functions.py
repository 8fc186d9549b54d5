"""``stream::*`` and the trigger type ``stream``, without clients of the stream port."""

import asyncio
import json
import logging

import pytest
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import Clock, ManualClock
from agentos_engine.config import SettingsError
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.storage.values import StorageError
from agentos_engine.triggers import stream as triggers
from agentos_engine.triggers.registry import Binding

from tests.waiting import until

NOTHING = object()
"""An answer without a result."""
ITEM = {"stream_name": "chat", "group_id": "room", "item_id": "m1"}
GROUP = {"stream_name": "chat", "group_id": "room"}


async def settle():
    """Let everything happen that needs no more than turns of the loop."""
    for _ in range(30):
        await asyncio.sleep(0)


class Worker(Link):
    """A worker: its functions are Python ones, and a coroutine function answers when it is done."""

    def __init__(self, bus) -> None:
        self.bus = bus
        self.functions = {}
        self.connection = bus.connect(self)
        self.answers = []

    def send(self, frame: bytes) -> None:
        message = json.loads(frame)
        if message["type"] == "invokefunction":
            task = asyncio.get_running_loop().create_task(self._run(message))
            task.add_done_callback(lambda _: None)
        elif message["type"] in ("invocationresult", "triggerregistrationresult"):
            self.answers.append(message)

    async def _run(self, message) -> None:
        answer = {
            "type": "invocationresult",
            "invocation_id": message.get("invocation_id"),
            "function_id": message["function_id"],
        }
        try:
            result = self.functions[message["function_id"]](message["data"])
            answer["result"] = await result if asyncio.iscoroutine(result) else result
        except Exception as error:
            answer["error"] = {"code": "handler_error", "message": str(error)}
        if message.get("invocation_id") and not self.connection.closed:
            self.say(**answer)

    def say(self, **message) -> None:
        self.bus.receive(self.connection, json.dumps(message).encode())

    def register(self, function_id, function) -> None:
        self.functions[function_id] = function
        self.say(type="registerfunction", id=function_id)

    def bind(self, trigger_type, function_id, config, trigger_id=None) -> None:
        self.say(
            type="registertrigger",
            id=trigger_id or function_id,
            trigger_type=trigger_type,
            function_id=function_id,
            config=config,
        )


class World:
    """A bus with streams on it."""

    def __init__(self, values, clock=None) -> None:
        self.clock = clock or ManualClock()
        self.bus = Bus(clock=self.clock)
        self.values = values
        self.streams = Streams(bus=self.bus, values=values, port=0)

    async def ask(self, function, **payload):
        """Call a function and return its result, or NOTHING."""
        result = await self.bus.call(function, json.dumps(payload).encode())
        return NOTHING if result is None else json.loads(result)

    async def refusal(self, function, payload) -> BusError:
        """Call a function that fails."""
        with pytest.raises(BusError) as refused:
            await self.bus.call(function, json.dumps(payload).encode())
        return refused.value

    def worker(self) -> Worker:
        return Worker(self.bus)

    def listen(self, config, name="app::seen"):
        """Bind a function to the trigger type; return the list that its events go to."""
        worker, seen = self.worker(), []
        worker.register(name, seen.append)
        worker.bind("stream", name, config)
        assert worker.answers == []
        return seen


@pytest.fixture
async def world():
    world = World(MemoryValues())
    await world.streams.start()
    yield world
    await world.streams.stop()
    await world.bus.close()


# Results


async def test_set_tells_what_it_replaced(world):
    assert await world.ask("stream::set", **ITEM, data={"a": 1}) == {"old_value": None, "new_value": {"a": 1}}
    assert await world.ask("stream::set", **ITEM, data=[2]) == {"old_value": {"a": 1}, "new_value": [2]}


async def test_get_of_a_missing_item_has_no_result_and_a_stored_null_is_null(world):
    assert await world.ask("stream::get", **ITEM) is NOTHING
    await world.ask("stream::set", **ITEM, data=None)
    assert await world.ask("stream::get", **ITEM) is None
    await world.ask("stream::set", **ITEM, data="x")
    assert await world.ask("stream::get", **ITEM) == "x"


async def test_delete_returns_the_old_value_and_null_when_there_was_none(world):
    assert await world.ask("stream::delete", **ITEM) == {"old_value": None}
    await world.ask("stream::set", **ITEM, data=7)
    assert await world.ask("stream::delete", **ITEM) == {"old_value": 7}
    assert await world.ask("stream::get", **ITEM) is NOTHING


async def test_list_and_list_groups_return_arrays(world):
    assert await world.ask("stream::list", **GROUP) == []
    assert await world.ask("stream::list_groups", stream_name="chat") == []
    for group, item in (("room", "b"), ("room", "a"), ("attic", "c")):
        await world.ask("stream::set", stream_name="chat", group_id=group, item_id=item, data=item)
    assert await world.ask("stream::list", **GROUP) == ["a", "b"]
    assert await world.ask("stream::list_groups", stream_name="chat") == ["attic", "room"]


async def test_list_all_returns_streams_with_their_groups(world):
    assert await world.ask("stream::list_all") == {"stream": [], "count": 0}
    for stream, group in (("chat", "room"), ("chat", "attic"), ("a:b", "g")):
        await world.ask("stream::set", stream_name=stream, group_id=group, item_id="i", data=1)
    await world.values.set("state", "scope", "key", b"1")
    assert await world.ask("stream::list_all") == {
        "stream": [{"id": "a:b", "groups": ["g"]}, {"id": "chat", "groups": ["attic", "room"]}],
        "count": 2,
    }


async def test_send_answers_null_and_stores_nothing(world):
    assert await world.ask("stream::send", **GROUP, type="typing", data={}) is None
    assert await world.ask("stream::list", **GROUP) == []


async def test_update_applies_operations_and_reports_those_it_skipped(world):
    ops = [{"type": "increment", "path": "n", "by": 2}]
    assert await world.ask("stream::update", **ITEM, ops=ops) == {"old_value": None, "new_value": {"n": 2}}
    ops = [{"type": "set", "path": "t", "value": "x"}, {"type": "increment", "path": "t", "by": 1}]
    result = await world.ask("stream::update", **ITEM, ops=ops)
    assert result["old_value"] == {"n": 2}
    assert result["new_value"] == {"n": 2, "t": "x"}
    assert [(each["op_index"], each["code"]) for each in result["errors"]] == [(1, "increment.not_number")]


async def test_a_hundred_increments_at_once_are_a_hundred(world):
    ops = [{"type": "increment", "path": "n", "by": 1}]
    await asyncio.gather(*(world.ask("stream::update", **ITEM, ops=ops) for _ in range(100)))
    assert await world.ask("stream::get", **ITEM) == {"n": 100}


async def test_streams_groups_and_items_of_the_same_name_are_apart(world):
    await world.ask("stream::set", stream_name="a", group_id="b", item_id="c", data=1)
    await world.ask("stream::set", stream_name="b", group_id="a", item_id="c", data=2)
    assert await world.ask("stream::get", stream_name="a", group_id="b", item_id="c") == 1


# Errors


@pytest.mark.parametrize(
    ("function", "payload", "missing"),
    [
        ("stream::get", {"stream_name": "s"}, "group_id"),
        ("stream::get", GROUP, "item_id"),
        ("stream::set", ITEM, "data"),
        ("stream::delete", {}, "stream_name"),
        ("stream::list", {"stream_name": "s"}, "group_id"),
        ("stream::list_groups", {}, "stream_name"),
        ("stream::send", {**GROUP, "data": 1}, "type"),
        ("stream::send", {**GROUP, "type": "t"}, "data"),
        ("stream::update", ITEM, "ops"),
    ],
)
async def test_a_missing_field_is_named_in_the_text_that_clients_match(world, function, payload, missing):
    error = await world.refusal(function, payload)
    assert error.code == "deserialization_error"
    assert error.message == f"Failed to deserialize input for {function}: missing field `{missing}`"


@pytest.mark.parametrize("payload", [None, [], "x", {**ITEM, "item_id": 1}, {**ITEM, "group_id": "g" * 1025}])
async def test_a_payload_of_another_form_is_refused(world, payload):
    assert (await world.refusal("stream::get", payload)).code == "deserialization_error"


async def test_a_value_nested_too_deeply_is_refused(world):
    deep = "x"
    for _ in range(200):
        deep = [deep]
    assert (await world.refusal("stream::set", {**ITEM, "data": deep})).code == "VALUE_TOO_DEEP"


class BrokenValues(MemoryValues):
    """A store on a disk that fails."""

    error: Exception = OSError(5, "Input/output error")

    async def _fail(self, *arguments):
        raise self.error

    get = set = delete = update = list = scopes = spaces = _fail  # type: ignore[assignment]


CODES = {
    "stream::set": "STREAM_SET_ERROR",
    "stream::get": "STREAM_GET_ERROR",
    "stream::delete": "STREAM_DELETE_ERROR",
    "stream::list": "STREAM_GET_GROUP_ERROR",
    "stream::list_groups": "STREAM_LIST_GROUPS_ERROR",
    "stream::list_all": "STREAM_LIST_ALL_ERROR",
    "stream::update": "STREAM_UPDATE_ERROR",
}


@pytest.mark.parametrize(("function", "code"), CODES.items())
async def test_a_store_that_fails_gives_each_function_its_own_code(world, function, code):
    world.streams._values = BrokenValues()
    error = await world.refusal(function, {**ITEM, "data": 1, "ops": []})
    assert (error.code, "Input/output error" in error.message) == (code, True)


async def test_what_a_store_refuses_keeps_the_stores_code(world):
    world.streams._values = BrokenValues()
    world.streams._values.error = StorageError("storage_full", "full")
    assert (await world.refusal("stream::set", {**ITEM, "data": 1})).code == "storage_full"


# Streams that a worker keeps itself


async def test_functions_that_a_worker_registers_for_a_stream_take_the_place_of_the_store(world):
    worker, asked = world.worker(), []
    answers = {
        "get": {"from": "worker"},
        "set": {"old_value": 1, "new_value": 2, "more": 3},
        "delete": {"old_value": 4},
        "list": ["own"],
        "list_groups": ["g1", "g2"],
    }
    for name, answer in answers.items():
        worker.register(f"stream::{name}(chat)", lambda data, name=name, answer=answer: asked.append(data) or answer)
    for name, answer in answers.items():
        assert await world.ask(f"stream::{name}", **ITEM, data=5, extra=True) == answer
    assert asked == [{**ITEM, "data": 5, "extra": True}] * 5
    assert await world.ask("stream::get", stream_name="other", group_id="g", item_id="i") is NOTHING
    assert await world.values.spaces() == []


async def test_they_are_looked_up_at_each_call(world):
    worker = world.worker()
    worker.register("stream::get(chat)", lambda data: "worker")
    assert await world.ask("stream::get", **ITEM) == "worker"
    world.bus.disconnect(worker.connection)
    assert await world.ask("stream::get", **ITEM) is NOTHING


async def test_their_errors_reach_the_caller_unchanged(world):
    def fail(data):
        raise ValueError("no")

    world.worker().register("stream::set(chat)", fail)
    error = await world.refusal("stream::set", {**ITEM, "data": 1})
    assert (error.code, error.message) == ("handler_error", "no")


async def test_their_nothing_is_nothing(world):
    world.worker().register("stream::get(chat)", lambda data: None)
    assert await world.ask("stream::get", **ITEM) is NOTHING


@pytest.mark.parametrize(
    ("function", "answer", "event"),
    [
        ("set", {"old_value": None, "new_value": {"x": 1}}, {"type": "create", "data": {"x": 1}}),
        ("set", {"new_value": {"x": 1}}, {"type": "create", "data": {"x": 1}}),
        ("set", {"old_value": 0, "new_value": 2}, {"type": "update", "data": 2}),
        ("set", None, {"type": "create", "data": 5}),
        ("set", "odd", {"type": "create", "data": 5}),
        ("delete", {"old_value": 4}, {"type": "delete", "data": 4}),
        ("delete", None, {"type": "delete", "data": None}),
    ],
)
async def test_their_writes_are_told_as_well(world, function, answer, event):
    world.worker().register(f"stream::{function}(chat)", lambda data: answer)
    seen = world.listen({"stream_name": "chat"})
    await world.ask(f"stream::{function}", **ITEM, data=5)
    await until(lambda: seen)
    assert seen[0]["event"] == event


# The trigger type


async def test_a_trigger_gets_the_events_of_the_protocol(world):
    seen = world.listen({"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data={"a": 1})
    await world.ask("stream::set", **ITEM, data={"a": 2})
    await world.ask("stream::update", **ITEM, ops=[{"type": "set", "path": "a", "value": 3}])
    await world.ask("stream::delete", **ITEM)
    await world.ask("stream::send", **GROUP, type="typing", data={"who": "x"})
    await world.ask("stream::send", **GROUP, id="m1", type="typing", data=None)
    await until(lambda: len(seen) == 6)
    place = {"type": "stream", "timestamp": 1_750_000_000_000, "streamName": "chat", "groupId": "room"}
    expected = [
        ("m1", {"type": "create", "data": {"a": 1}}),
        ("m1", {"type": "update", "data": {"a": 2}}),
        ("m1", {"type": "update", "data": {"a": 3}}),
        ("m1", {"type": "delete", "data": {"a": 3}}),
        (None, {"type": "event", "data": {"type": "typing", "data": {"who": "x"}}}),
        ("m1", {"type": "event", "data": {"type": "typing", "data": None}}),
    ]
    assert seen == [{**place, "id": item, "event": event} for item, event in expected]


async def test_deleting_what_is_not_there_is_no_event(world):
    seen = world.listen({"stream_name": "chat"})
    await world.ask("stream::delete", **ITEM)
    await world.ask("stream::set", **ITEM, data=1)
    await until(lambda: seen)
    assert [each["event"]["type"] for each in seen] == ["create"]


async def test_a_trigger_hears_of_its_stream_group_and_item_only(world):
    whole = world.listen({"stream_name": "chat"}, "app::whole")
    group = world.listen({"stream_name": "chat", "group_id": "room"}, "app::group")
    item = world.listen({"stream_name": "chat", "group_id": None, "item_id": "m1"}, "app::item")
    for place in (("chat", "room", "m1"), ("chat", "room", "m2"), ("chat", "attic", "m1"), ("other", "room", "m1")):
        await world.ask("stream::set", stream_name=place[0], group_id=place[1], item_id=place[2], data="/".join(place))
    await world.ask("stream::send", **GROUP, type="t", data=0)
    await settle()

    def data(events):
        return [each["event"]["data"] for each in events if each["event"]["type"] != "event"]

    assert data(whole) == ["chat/room/m1", "chat/room/m2", "chat/attic/m1"]
    assert data(group) == ["chat/room/m1", "chat/room/m2"]
    assert data(item) == ["chat/room/m1", "chat/attic/m1"]
    assert (len(whole), len(group), len(item)) == (4, 3, 2)


@pytest.mark.parametrize("config", [None, {}, {"stream_name": 1}, [], {"stream_name": "s", "group_id": 3}])
async def test_a_trigger_whose_config_is_wrong_is_refused(world, config):
    worker = world.worker()
    worker.bind("stream", "app::seen", config)
    (answer,) = worker.answers
    assert answer["error"]["code"] == "trigger_registration_failed"
    assert "stream_name" in answer["error"]["message"]


async def test_a_condition_decides_first(world):
    worker, seen = world.worker(), []
    worker.register("app::seen", seen.append)
    worker.register("app::odd", lambda event: event["event"]["data"] % 2 == 1)
    worker.bind("stream", "app::seen", {"stream_name": "chat", "condition_function_id": "app::odd"})
    for number in range(4):
        await world.ask("stream::set", **ITEM, data=number)
    await until(lambda: len(seen) == 2)
    assert [each["event"]["data"] for each in seen] == [1, 3]


async def test_events_of_a_binding_keep_their_order_and_a_slow_function_delays_no_other(world):
    gate = asyncio.Event()
    worker, slow, quick = world.worker(), [], world.listen({"stream_name": "chat"}, "app::quick")

    async def wait(event):
        slow.append(event["event"]["data"])
        await gate.wait()

    worker.register("app::slow", wait)
    worker.bind("stream", "app::slow", {"stream_name": "chat"})
    for number in range(20):
        await world.ask("stream::set", **ITEM, data=number)
    await until(lambda: len(quick) == 20)
    assert slow == [0]
    gate.set()
    await until(lambda: len(slow) == 20)
    assert slow == list(range(20))
    assert [each["event"]["data"] for each in quick] == list(range(20))


async def test_events_come_in_the_order_of_writes_that_overlap(world):
    seen = world.listen({"stream_name": "chat"})
    ops = [{"type": "append", "path": "", "value": 1}]
    work = []
    for number in range(30):
        work.append(world.ask("stream::set", **ITEM, data=number))
        work.append(world.ask("stream::delete", **ITEM) if number % 3 else world.ask("stream::update", **ITEM, ops=ops))
    await asyncio.gather(*work)
    await until(lambda: len(seen) == 60)
    for number in range(30):
        first, second = seen[2 * number : 2 * number + 2]
        assert first["event"]["data"] == number
        assert second["event"]["type"] == ("delete" if number % 3 else "update")


async def test_a_function_that_fails_gets_the_next_event(world, caplog):
    worker, seen = world.worker(), []

    def fail(event):
        seen.append(event)
        raise ValueError("broken")

    worker.register("app::seen", fail)
    worker.bind("stream", "app::seen", {"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data=1)
    await world.ask("stream::set", **ITEM, data=2)
    await until(lambda: len(seen) == 2)
    assert "stream trigger failed: handler_error: broken" in caplog.text


async def test_a_function_that_does_not_answer_is_given_up(world):
    worker, seen = world.worker(), []

    async def hang(event):
        seen.append(event)
        await asyncio.Event().wait()

    worker.register("app::seen", hang)
    worker.bind("stream", "app::seen", {"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data=1)
    await world.ask("stream::set", **ITEM, data=2)
    await until(lambda: seen)
    await world.clock.advance(triggers.EVENT_TIMEOUT + 1)
    world.bus.calls.expire()
    await until(lambda: len(seen) == 2)


async def test_the_oldest_of_too_many_waiting_events_go_and_the_log_says_so_once(world, monkeypatch, caplog):
    monkeypatch.setattr(triggers, "MAX_WAITING", 3)
    gate, worker, seen = asyncio.Event(), world.worker(), []

    async def wait(event):
        seen.append(event["event"]["data"])
        await gate.wait()

    worker.register("app::seen", wait)
    worker.bind("stream", "app::seen", {"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data="first")
    await until(lambda: seen)
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            await world.ask("stream::set", **ITEM, data=number)
    gate.set()
    await until(lambda: len(seen) == 4)
    assert seen == ["first", 7, 8, 9]
    assert world.streams.triggers.dropped == 7
    assert caplog.text.count("cannot keep up") == 1


async def test_waiting_events_are_bounded_by_size_too(world, monkeypatch):
    monkeypatch.setattr(triggers, "MAX_WAITING_BYTES", 1000)
    gate, worker, seen = asyncio.Event(), world.worker(), []

    async def wait(event):
        seen.append(event["event"]["data"][:1])
        await gate.wait()

    worker.register("app::seen", wait)
    worker.bind("stream", "app::seen", {"stream_name": "chat"})
    for letter in "abcd":
        await world.ask("stream::set", **ITEM, data=letter * 300)
        await settle()
    gate.set()
    await until(lambda: len(seen) == 3)
    assert seen == ["a", "c", "d"]


async def test_what_waits_passes_to_a_replica_when_its_worker_goes():
    world = World(MemoryValues(), Clock())
    await world.streams.start()
    first, second, seen = world.worker(), world.worker(), []

    async def hang(event):
        seen.append("first")
        await asyncio.Event().wait()

    for worker in (first, second):
        worker.register("app::seen", hang if worker is first else lambda event: seen.append(event["event"]["data"]))
    for worker in (first, second):
        worker.bind("stream", "app::seen", {"stream_name": "chat"})
    second.connection.draining = True  # so that the first worker gets the call
    await world.ask("stream::set", **ITEM, data=1)
    await until(lambda: seen)
    await world.ask("stream::set", **ITEM, data=2)
    await world.ask("stream::set", **ITEM, data=3)
    world.bus.disconnect(first.connection)
    await until(lambda: len(seen) == 3)
    assert seen == ["first", 2, 3]
    await world.streams.stop()
    await world.bus.close()


async def test_an_unregistered_trigger_hears_nothing_more(world):
    worker, seen = world.worker(), []
    worker.register("app::seen", seen.append)
    worker.bind("stream", "app::seen", {"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data=1)
    await until(lambda: seen)
    worker.say(type="unregistertrigger", id="app::seen", trigger_type="stream")
    await world.ask("stream::set", **ITEM, data=2)
    await settle()
    assert len(seen) == 1
    assert not world.streams.triggers.wants("chat")


async def test_binding_an_id_again_replaces_it(world):
    worker, seen = world.worker(), []
    worker.register("app::seen", seen.append)
    worker.bind("stream", "app::seen", {"stream_name": "chat"}, "one")
    worker.bind("stream", "app::seen", {"stream_name": "other"}, "one")
    await world.ask("stream::set", **ITEM, data=1)
    await world.ask("stream::set", stream_name="other", group_id="g", item_id="i", data=2)
    await until(lambda: seen)
    await settle()
    assert [each["event"]["data"] for each in seen] == [2]


async def test_bindings_that_nobody_owns_are_served(world):
    worker, seen = world.worker(), []
    worker.register("app::seen", seen.append)
    world.bus.triggers.bind(Binding("one", "stream", "app::seen", None, b'{"stream_name":"chat"}'))
    await world.ask("stream::set", **ITEM, data=1)
    await until(lambda: seen)


# Life


class SlowValues(MemoryValues):
    """A store that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def set(self, space, scope, key, value):
        await self.gate.wait()
        return await super().set(space, scope, key, value)


async def test_a_write_whose_caller_goes_is_done_and_told_all_the_same(world):
    world.streams._values = SlowValues()
    seen = world.listen({"stream_name": "chat"})
    worker = world.worker()
    worker.say(type="invokefunction", invocation_id="1", function_id="stream::set", data={**ITEM, "data": 9})
    await settle()
    world.bus.disconnect(worker.connection)
    world.streams._values.gate.set()
    await until(lambda: seen)
    assert await world.ask("stream::get", **ITEM) == 9


async def test_stop_takes_everything_back_and_another_may_start(world):
    seen = world.listen({"stream_name": "chat"})
    await world.ask("stream::set", **ITEM, data=1)
    await world.streams.stop()
    assert (await world.refusal("stream::get", ITEM)).code == "function_not_found"
    assert "stream" not in world.bus.triggers.served
    world.streams = Streams(bus=world.bus, values=world.values, port=0)
    await world.streams.start()
    assert await world.ask("stream::get", **ITEM) == 1
    await world.ask("stream::set", **ITEM, data=2)
    await until(lambda: len(seen) == 2)


async def test_stopping_the_former_one_once_more_does_not_harm_the_new_one(world):
    former = world.streams
    await former.stop()
    world.streams = Streams(bus=world.bus, values=world.values, port=0)
    await world.streams.start()
    await former.stop()
    assert await world.ask("stream::list", **GROUP) == []
    assert "stream" in world.bus.triggers.served


async def test_stop_waits_for_writes_in_progress(world):
    world.streams._values = SlowValues()
    writing = asyncio.ensure_future(world.ask("stream::set", **ITEM, data=1))
    await settle()
    stopping = asyncio.ensure_future(world.streams.stop())
    await settle()
    assert not stopping.done()
    world.streams._values.gate.set()
    await stopping
    assert (await writing)["new_value"] == 1


async def test_a_port_that_is_taken_is_an_error_with_advice(world):
    second = Streams(bus=world.bus, values=world.values, port=world.streams.port)
    with pytest.raises(SettingsError, match=f"stream: cannot listen on 127.0.0.1 port {world.streams.port}"):
        await second.start()
    await second.stop()
    assert await world.ask("stream::list", **GROUP) == []
