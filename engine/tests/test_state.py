"""``state::*`` and the trigger type ``state``, on a bus without sockets whose clock stands still."""

import asyncio
import json
import logging
import time

import pytest
from agentos_engine.builtins.state import State
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import ManualClock
from agentos_engine.config import SettingsError
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.storage.values import MAX_VALUE_BYTES
from agentos_engine.triggers import state as triggers
from agentos_engine.triggers.registry import Binding

from tests.waiting import until

NOTHING = object()
"""An answer without a result."""


async def settle():
    """Let everything happen that needs no more than turns of the loop."""
    for _ in range(30):
        await asyncio.sleep(0)


class World:
    """A bus with state on it."""

    def __init__(self, values) -> None:
        self.clock = ManualClock()
        self.bus = Bus(clock=self.clock)
        self.values = values
        self.state = State(bus=self.bus, values=values)

    async def ask(self, function, **payload):
        """Call a function and return its result, or NOTHING."""
        result = await self.bus.call(function, json.dumps(payload).encode())
        return NOTHING if result is None else json.loads(result)

    async def refusal(self, function, payload) -> BusError:
        """Call a function that fails."""
        with pytest.raises(BusError) as refused:
            await self.bus.call(function, payload if isinstance(payload, bytes) else json.dumps(payload).encode())
        return refused.value

    async def set(self, key="k", value=1, scope="s"):
        """Store a value."""
        return await self.ask("state::set", scope=scope, key=key, value=value)

    def listen(self, config=None, name="app::seen", binding_id=None):
        """Bind a new function to the trigger type."""
        listener = Listener()
        self.bus.functions.add(name, listener.handle)
        listener.binding = self.bind(config, name, binding_id or name)
        return listener

    def bind(self, config, name, binding_id, connection=None):
        """Bind a function to the trigger type."""
        raw = None if config is None else json.dumps(config).encode()
        binding = Binding(binding_id, "state", name, connection, raw)
        self.bus.triggers.bind(binding)
        return binding


class Listener:
    """A function that records its events, and answers only as long as its gate is open."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BusError | None = None

    async def handle(self, context, data):
        """Take an event."""
        self.raw.append(data)
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    @property
    def events(self):
        """All events that came."""
        return [json.loads(each) for each in self.raw]

    @property
    def values(self):
        """The new values that came."""
        return [each["new_value"] for each in self.events]


class Peer(Link):
    """A worker without a socket."""

    def __init__(self, bus) -> None:
        self.frames: list[dict] = []
        self.bus = bus
        self.connection = bus.connect(self)
        self.frames.clear()

    def send(self, frame):
        """Take a frame of the engine."""
        self.frames.append(json.loads(frame))

    def tell(self, **message):
        """Send a message to the engine."""
        self.bus.receive(self.connection, json.dumps(message).encode())

    def calls(self, function_id):
        """The calls that came for a function."""
        return [each for each in self.frames if each["type"] == "invokefunction" and each["function_id"] == function_id]

    def answer(self, call):
        """Answer a call."""
        self.tell(
            type="invocationresult", invocation_id=call["invocation_id"], function_id=call["function_id"], result=1
        )


@pytest.fixture
async def world():
    """State on a bus."""
    world = World(MemoryValues())
    await world.state.start()
    yield world
    await world.state.stop()
    await world.bus.close()


class TestFunctions:
    async def test_get_answers_nothing_for_a_missing_value_and_null_for_a_stored_null(self, world):
        assert await world.ask("state::get", scope="s", key="k") is NOTHING
        await world.set(value=None)
        assert await world.ask("state::get", scope="s", key="k") is None
        await world.set(value={"a": [1]})
        assert await world.ask("state::get", scope="s", key="k") == {"a": [1]}

    async def test_set_answers_with_the_old_value_which_is_null_at_first(self, world):
        assert await world.set(value=1) == {"old_value": None, "new_value": 1}
        assert await world.set(value=None) == {"old_value": 1, "new_value": None}

    async def test_data_is_another_name_of_value(self, world):
        assert (await world.ask("state::set", scope="s", key="k", data=5))["new_value"] == 5
        assert (await world.ask("state::set", scope="s", key="k", data=6, value=None))["new_value"] is None
        error = await world.refusal("state::set", {"scope": "s", "key": "k"})
        assert (error.code, error.message) == (
            "deserialization_error",
            "Failed to deserialize input for state::set: missing field `value`",
        )

    async def test_delete_answers_the_value_or_nothing(self, world):
        await world.set(value=None)
        assert await world.ask("state::delete", scope="s", key="k") is None
        assert await world.ask("state::delete", scope="s", key="k") is NOTHING
        assert await world.ask("state::get", scope="s", key="k") is NOTHING

    async def test_list_answers_the_values_in_the_order_of_their_keys(self, world):
        for key, value in (("b", 2), ("a", 1), ("c", None)):
            await world.set(key, value)
        assert await world.ask("state::list", scope="s") == [1, 2, None]
        assert await world.ask("state::list", scope="unknown") == []

    async def test_list_groups_answers_the_scopes_in_order_whatever_the_payload(self, world):
        assert await world.ask("state::list_groups") == {"groups": []}
        for scope in ("b", "a"):
            await world.set(scope=scope)
        assert json.loads(await world.bus.call("state::list_groups")) == {"groups": ["a", "b"]}

    async def test_update_answers_both_values_and_errors_only_if_there_are_any(self, world):
        increment = {"type": "increment", "path": "n", "by": 2}
        append = {"type": "append", "path": "n", "value": 2}
        assert await world.ask("state::update", scope="s", key="k", ops=[increment]) == {
            "old_value": None,
            "new_value": {"n": 2},
        }
        changed = await world.ask("state::update", scope="s", key="k", ops=[append, increment])
        assert (changed["old_value"], changed["new_value"]) == ({"n": 2}, {"n": 4})
        (error,) = changed["errors"]
        assert (error["op_index"], error["code"]) == (0, "append.type_mismatch")
        assert error["doc_url"] == "docs/updates.md#append.type_mismatch"
        assert await world.ask("state::get", scope="s", key="k") == {"n": 4}

    async def test_concurrent_updates_lose_nothing(self, world):
        increment = {"type": "increment", "path": "n", "by": 1}
        await asyncio.gather(*(world.ask("state::update", scope="s", key="k", ops=[increment]) for _ in range(200)))
        assert await world.ask("state::get", scope="s", key="k") == {"n": 200}

    async def test_values_are_kept_byte_for_byte(self, world):
        await world.bus.call("state::set", b'{"scope":"s","key":"k","value": {"n":1.10, "big":123456789012345678901} }')
        assert (
            await world.bus.call("state::get", b'{"scope":"s","key":"k"}') == b'{"n":1.10, "big":123456789012345678901}'
        )

    @pytest.mark.parametrize("function", ["set", "get", "delete", "update", "list"])
    @pytest.mark.parametrize(
        ("payload", "reason"),
        [
            (b"null", "Expected `object`, got `null`"),
            (b"[]", "Expected `object`, got `array`"),
            (b'{"key":"k","value":1,"ops":[]}', "missing field `scope`"),
            (b'{"scope":5,"key":"k","value":1,"ops":[]}', "$.scope"),
            (b'{"scope":"%s","key":"k","value":1,"ops":[]}' % (b"x" * 1025), "length <= 1024 - at `$.scope`"),
            (b'{"scope":', "truncated"),
        ],
    )
    async def test_a_bad_payload_is_refused_with_its_place(self, world, function, payload, reason):
        error = await world.refusal(f"state::{function}", payload)
        assert error.code == "deserialization_error"
        assert error.message.startswith(f"Failed to deserialize input for state::{function}: ")
        assert reason in error.message

    async def test_names_of_1024_characters_are_taken_and_longer_keys_are_not(self, world):
        await world.set("ä" * 1024, 1, "ö" * 1024)
        assert await world.ask("state::get", scope="ö" * 1024, key="ä" * 1024) == 1
        assert "`$.key`" in (await world.refusal("state::get", {"scope": "s", "key": "k" * 1025})).message

    async def test_operations_that_do_not_decode_change_nothing(self, world):
        ops = [{"type": "set", "path": "a", "value": 1}, {"type": "increment", "path": "n", "by": 0.5}]
        error = await world.refusal("state::update", {"scope": "s", "key": "k", "ops": ops})
        assert error.code == "deserialization_error"
        assert "$.ops[1].by" in error.message
        assert await world.ask("state::get", scope="s", key="k") is NOTHING

    async def test_a_value_over_the_bound_is_refused_and_told_to_nobody(self):
        world = World(MemoryValues())
        world.state = State(bus=world.bus, values=world.values, max_value_bytes=100)
        await world.state.start()
        listener = world.listen()
        assert (
            await world.refusal("state::set", {"scope": "s", "key": "k", "value": "x" * 99})
        ).code == "VALUE_TOO_LARGE"
        grow = {"scope": "s", "key": "k", "ops": [{"type": "append", "path": "a", "value": "x" * 99}]}
        assert (await world.refusal("state::update", grow)).code == "VALUE_TOO_LARGE"
        await world.set(value="x" * 98)
        await until(lambda: listener.raw)
        assert listener.values == ["x" * 98]
        await world.state.stop()

    async def test_a_value_nested_beyond_what_readers_take_is_refused(self, world):
        for depth in (101, 50_000):
            payload = b'{"scope":"s","key":"k","value":' + b"[" * depth + b"]" * depth + b"}"
            assert (await world.refusal("state::set", payload)).code in ("VALUE_TOO_DEEP", "deserialization_error")
        assert await world.ask("state::list", scope="s") == []

    @pytest.mark.parametrize("bound", [0, -1, MAX_VALUE_BYTES + 1])
    async def test_a_bound_that_cannot_be_kept_is_refused_at_the_start(self, world, bound):
        with pytest.raises(SettingsError, match="max_value_bytes"):
            await State(bus=world.bus, values=world.values, max_value_bytes=bound).start()

    @pytest.mark.parametrize(
        ("function", "code"),
        [
            ("set", "SET_ERROR"),
            ("get", "GET_ERROR"),
            ("delete", "DELETE_ERROR"),
            ("update", "UPDATE_ERROR"),
            ("list", "LIST_ERROR"),
            ("list_groups", "LIST_GROUPS_ERROR"),
        ],
    )
    async def test_a_store_that_breaks_gives_each_function_its_code_and_no_event(self, function, code):
        class Broken:
            def __getattr__(self, name):
                async def fail(*arguments):
                    raise OSError("disk I/O error")

                return fail

        world = World(Broken())
        await world.state.start()
        listener = world.listen()
        payload = {"scope": "s", "key": "k", "value": 1, "ops": []}
        error = await world.refusal(f"state::{function}", payload)
        assert (error.code, error.message) == (code, "The store failed: disk I/O error")
        await settle()
        assert listener.raw == []
        await world.state.stop()

    async def test_a_full_store_says_so(self):
        world = World(MemoryValues(max_bytes=1000))
        await world.state.start()
        error = await world.refusal("state::set", {"scope": "s", "key": "k", "value": "x" * 1000})
        assert error.code == "storage_full"
        await world.state.stop()

    async def test_stop_takes_everything_back_and_another_one_goes_on_with_the_same_values(self, world):
        await world.set(value=1)
        listener = world.listen()
        await world.state.stop()
        await world.state.stop()
        assert (await world.refusal("state::get", {})).code == "function_not_found"
        world.state = State(bus=world.bus, values=world.values)
        await world.state.start()
        assert await world.set(value=2) == {"old_value": 1, "new_value": 2}
        await until(lambda: listener.values == [2])


class SlowValues(MemoryValues):
    """A store whose writes last until its gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.writing = 0

    async def set(self, space, scope, key, value):
        """Store a value."""
        self.writing += 1
        await self.gate.wait()
        return await super().set(space, scope, key, value)


class TestWritesInProgress:
    async def test_a_write_is_done_and_told_when_its_caller_goes_meanwhile(self):
        world = World(SlowValues())
        await world.state.start()
        listener, peer = world.listen(), Peer(world.bus)
        data = {"scope": "s", "key": "k", "value": 1}
        peer.tell(type="invokefunction", invocation_id="1", function_id="state::set", data=data)
        await until(lambda: world.values.writing)
        world.bus.disconnect(peer.connection)
        world.values.gate.set()
        await until(lambda: listener.values == [1])
        assert await world.ask("state::get", scope="s", key="k") == 1

    async def test_what_a_worker_writes_right_before_it_goes_is_written(self):
        world = World(SlowValues())
        await world.state.start()
        peer = Peer(world.bus)
        data = {"scope": "s", "key": "k", "value": 1}
        peer.tell(type="invokefunction", function_id="state::set", data=data, action={"type": "void"})
        peer.tell(type="invokefunction", invocation_id="1", function_id="state::set", data={**data, "key": "l"})
        world.bus.disconnect(peer.connection)
        world.values.gate.set()
        await settle()
        assert await world.ask("state::list", scope="s") == [1, 1]

    async def test_stop_waits_for_them(self):
        world = World(SlowValues())
        await world.state.start()
        listener = world.listen()
        write = asyncio.create_task(world.set())
        await until(lambda: world.values.writing)
        stop = asyncio.create_task(world.state.stop())
        await settle()
        assert not stop.done()
        world.values.gate.set()
        await asyncio.gather(write, stop)
        await until(lambda: listener.values == [1])


class TestEvents:
    async def test_created_updated_and_deleted(self, world):
        listener = world.listen()
        await world.set(value=None)
        await world.set(value=None)
        await world.ask("state::update", scope="s", key="k", ops=[{"type": "set", "path": "", "value": {"a": 1}}])
        await world.ask("state::delete", scope="s", key="k")
        await world.ask("state::delete", scope="s", key="k")
        await until(lambda: len(listener.raw) == 5)
        place = {"type": "state", "scope": "s", "key": "k"}
        assert listener.events == [
            {**place, "event_type": "state:created", "old_value": None, "new_value": None},
            {**place, "event_type": "state:updated", "old_value": None, "new_value": None},
            {**place, "event_type": "state:updated", "old_value": None, "new_value": {"a": 1}},
            {**place, "event_type": "state:deleted", "old_value": {"a": 1}, "new_value": None},
            {**place, "event_type": "state:deleted", "old_value": None, "new_value": None},
        ]

    async def test_names_and_values_are_written_as_json(self, world):
        listener = world.listen()
        await world.set('"ä\n', "\u2028", "\\")
        await until(lambda: listener.raw)
        assert [(each["scope"], each["key"], each["new_value"]) for each in listener.events] == [
            ("\\", '"ä\n', "\u2028")
        ]

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            (None, ["aa", "ab", "ba", "bb"]),
            ({}, ["aa", "ab", "ba", "bb"]),
            ({"scope": None, "key": None}, ["aa", "ab", "ba", "bb"]),
            ({"scope": "a"}, ["aa", "ab"]),
            ({"key": "a"}, ["aa", "ba"]),
            ({"scope": "a", "key": "b", "unknown": 1}, ["ab"]),
            ({"scope": "c"}, []),
            ({"scope": ""}, []),
        ],
    )
    async def test_a_binding_hears_of_its_scope_and_key_only(self, world, config, expected):
        listener, everything = world.listen(config), world.listen(name="app::all")
        for scope in "ab":
            for key in "ab":
                await world.set(key, scope + key, scope)
        await until(lambda: len(everything.raw) == 4)
        assert sorted(listener.values) == expected

    @pytest.mark.parametrize("config", [{"scope": 1}, {"key": ["a"]}, [], "state", 5])
    async def test_a_config_of_another_form_is_refused(self, world, config):
        with pytest.raises(BusError) as refused:
            world.listen(config)
        assert refused.value.code == "trigger_registration_failed"
        assert "scope and key" in refused.value.message
        await world.set()

    async def test_the_writer_does_not_wait_and_bindings_do_not_wait_for_each_other(self, world):
        slow, quick = world.listen(name="app::slow"), world.listen(name="app::quick")
        slow.gate.clear()
        for value in range(5):
            await world.set(value=value)
        await until(lambda: quick.values == [0, 1, 2, 3, 4])
        assert slow.values == [0]

    async def test_events_of_one_key_come_one_by_one_in_the_order_of_the_writes_and_other_keys_meanwhile(self, world):
        listener = world.listen()
        listener.gate.clear()
        await asyncio.gather(*(world.set(value=value) for value in range(100)))
        await world.set("other", "x")
        await settle()
        assert listener.values == [0, "x"]
        listener.gate.set()
        await until(lambda: len(listener.raw) == 101)
        assert [each for each in listener.values if each != "x"] == list(range(100))

    async def test_no_more_than_so_many_events_wait_for_an_answer_at_one_time(self, world, monkeypatch):
        monkeypatch.setattr(triggers, "MAX_CONCURRENT", 2)
        listener = world.listen()
        listener.gate.clear()
        for key in "abcd":
            await world.set(key, key)
        await settle()
        assert listener.values == ["a", "b"]
        listener.gate.set()
        await until(lambda: listener.values == ["a", "b", "c", "d"])

    async def test_a_function_that_does_not_answer_holds_its_key_up_for_a_time_only(self, world):
        listener = world.listen()
        listener.gate.clear()
        await world.set(value=1)
        await world.set(value=2)
        await settle()
        await world.clock.advance(triggers.EVENT_TIMEOUT - 1)
        world.bus.calls.expire()
        await settle()
        assert listener.values == [1]
        await world.clock.advance(2)
        world.bus.calls.expire()
        await until(lambda: listener.values == [1, 2])

    async def test_a_function_that_fails_gets_the_next_event_and_one_line_in_the_log(self, world, caplog):
        listener = world.listen()
        listener.error = BusError("boom", "no luck")
        with caplog.at_level(logging.INFO):
            for value in range(3):
                await world.set(value=value)
            await until(lambda: listener.values == [0, 1, 2])
            await settle()
        assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == [
            "state trigger failed: boom: no luck"
        ]

    async def test_a_missing_function_costs_nobody_else_an_event(self, world):
        world.bind(None, "app::missing", "1")
        listener = world.listen()
        for value in range(3):
            await world.set(value=value)
        await until(lambda: listener.values == [0, 1, 2])

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [(True, [1]), (None, [1]), (0, [1]), ("false", [1]), (False, []), (BusError("x", "y"), [])],
    )
    async def test_only_a_false_or_a_failing_condition_keeps_an_event_back(self, world, answer, expected):
        asked = []

        def condition(context, data):
            asked.append(json.loads(data))
            if isinstance(answer, BusError):
                raise answer
            return answer

        world.bus.functions.add("app::condition", condition)
        listener = world.listen({"condition_function_id": "app::condition"})
        await world.set()
        await until(lambda: asked)
        await settle()
        assert listener.values == expected
        assert asked[0]["new_value"] == 1

    async def test_a_function_gets_the_metadata_of_its_binding(self, world):
        contexts = []
        world.bus.functions.add("app::seen", lambda context, data: contexts.append(context))
        world.bus.triggers.bind(Binding("1", "state", "app::seen", None, None, b'{"a":1}'))
        await world.set()
        await until(lambda: contexts)
        assert contexts[0].metadata == b'{"a":1}'

    async def test_a_write_costs_by_the_bindings_that_it_matches(self, world):
        async def seconds():
            best = 60.0
            for _ in range(5):
                start = time.perf_counter()
                for _ in range(100):
                    await world.set()
                best = min(best, time.perf_counter() - start)
            return best

        alone = await seconds()
        for number in range(9_000):
            world.bind({"scope": "s", "key": f"other{number}"}, "app::other", str(number))
        assert await seconds() < 5 * alone


class TestUnbinding:
    async def test_an_unregistered_trigger_hears_nothing_more_not_even_what_waits(self, world):
        listener = world.listen()
        listener.gate.clear()
        await world.set(value=1)
        await world.set(value=2)
        await settle()
        world.bus.triggers.unbind(None, "app::seen")
        await world.clock.advance(0)
        listener.gate.set()
        await world.set(value=3)
        await settle()
        assert listener.values == [1]

    async def test_registering_the_same_again_keeps_what_waits_and_its_order(self, world):
        listener = world.listen({"scope": "s"})
        listener.gate.clear()
        await world.set(value=1)
        await world.set(value=2)
        await settle()
        world.bind({"scope": "s"}, "app::seen", "app::seen")
        await world.clock.advance(0)
        await world.set(value=3)
        await settle()
        assert listener.values == [1]
        listener.gate.set()
        await until(lambda: listener.values == [1, 2, 3])

    async def test_replicas_share_a_binding_and_one_takes_over_what_waits_for_another(self, world):
        first, second = Peer(world.bus), Peer(world.bus)
        for peer in (first, second):
            peer.tell(type="registerfunction", id="app::seen")
            peer.tell(type="registertrigger", id="t", trigger_type="state", function_id="app::seen", config={})
        values = {}

        def seen():
            for peer in (first, second):
                for call in peer.calls("app::seen"):
                    values[call["invocation_id"]] = call["data"]["new_value"]
            return sorted(values.values())

        for value in range(3):
            await world.set(value=value)
        await until(lambda: seen() == [0])
        world.bus.disconnect(first.connection)
        await world.clock.advance(0)
        answered = set()
        async with asyncio.timeout(10):
            while seen() != [0, 1, 2]:
                for call in second.calls("app::seen"):
                    if call["invocation_id"] not in answered:
                        answered.add(call["invocation_id"])
                        second.answer(call)
                await asyncio.sleep(0)

    async def test_what_waits_is_still_delivered_when_state_is_stopped(self, world):
        listener = world.listen()
        listener.gate.clear()
        for value in range(3):
            await world.set(value=value)
        await world.state.stop()
        await world.clock.advance(0)
        listener.gate.set()
        await until(lambda: listener.values == [0, 1, 2])

    async def test_an_engine_that_ends_starts_no_more_deliveries(self, world):
        listener = world.listen()
        listener.gate.clear()
        for value in range(3):
            await world.set(value=value)
        await settle()
        await world.bus.close()
        listener.gate.set()
        await settle()
        assert listener.values == [0]


class TestBindingsThatCannotKeepUp:
    async def test_the_oldest_events_are_dropped_counted_and_told_once(self, world, monkeypatch, caplog):
        monkeypatch.setattr(triggers, "MAX_WAITING", 3)
        listener, quick = world.listen(), world.listen(name="app::quick")
        for gate_opens in (1, 2):
            listener.gate.clear()
            listener.raw.clear()
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                for value in range(10):
                    await world.set(value=value)
                await until(lambda: quick.values == list(range(10)))
                quick.raw.clear()
                await settle()
                listener.gate.set()
                await until(lambda: listener.values == [0, 7, 8, 9])
            (line,) = [each for each in caplog.records if "cannot keep up" in each.getMessage()]
            assert line.function_id == "app::seen"
            assert world.state.trigger.dropped == 6 * gate_opens
            await settle()

    async def test_events_of_keys_that_are_not_being_delivered_are_dropped_too(self, world, monkeypatch):
        monkeypatch.setattr(triggers, "MAX_WAITING", 2)
        monkeypatch.setattr(triggers, "MAX_CONCURRENT", 1)
        listener = world.listen()
        listener.gate.clear()
        for number, key in enumerate("abcab"):
            await world.set(key, number)
            await settle()
        listener.gate.set()
        await until(lambda: sorted(listener.values) == [0, 3, 4])
        await world.set("c", 5)
        await until(lambda: listener.values[3:] == [5])

    async def test_the_bytes_that_wait_for_one_binding_are_bounded(self, world, monkeypatch):
        monkeypatch.setattr(triggers, "MAX_WAITING_BYTES", 50_000)
        monkeypatch.setattr(triggers, "MAX_CONCURRENT", 1)
        listener = world.listen()
        listener.gate.clear()
        for number in range(10):
            await world.set(str(number), [number, "x" * 20_000])
        await settle()
        listener.gate.set()
        await until(lambda: [value[0] for value in listener.values] == [0, 8, 9])
        assert world.state.trigger.dropped == 7

    async def test_when_all_together_wait_for_too_much_the_longest_drops(self, world, monkeypatch):
        monkeypatch.setattr(triggers, "MAX_TOTAL_BYTES", 100_000)
        busy, calm = world.listen({"scope": "busy"}, "app::busy"), world.listen({"scope": "calm"}, "app::calm")
        busy.gate.clear()
        calm.gate.clear()
        for value in range(3):
            await world.set(value=value, scope="calm")
        for value in range(20):
            await world.set(value=[value, "x" * 10_000], scope="busy")
        await settle()
        assert world.state.trigger.dropped > 5
        calm.gate.set()
        await until(lambda: calm.values == [0, 1, 2])
        busy.gate.set()
        await until(lambda: busy.values[-1][0] == 19)
        numbers = [value[0] for value in busy.values]
        assert numbers == [0, *range(20 - len(numbers) + 1, 20)]
        assert len(numbers) + world.state.trigger.dropped == 20
