"""The stream port: real WebSocket clients on loopback, a real bus, and a clock that stands still."""

import asyncio
import base64
import contextlib
import json
import os
import socket

import pytest
import websockets
from agentos_contracts.tokens import Identity, SigningKey, issue
from agentos_engine.builtins import stream as builtins
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context
from agentos_engine.clock import ManualClock
from agentos_engine.protocol.stream import text_frame
from agentos_engine.server import stream as server
from agentos_engine.server import stream_client
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.triggers.registry import Binding
from agentos_engine.triggers.stream import JOIN_TIMEOUT

from tests.waiting import until

ITEM = {"stream_name": "chat", "group_id": "room", "item_id": "m1"}
GROUP = {"stream_name": "chat", "group_id": "room"}
NOW = 1_750_000_000_000
"""What the clock says, in milliseconds."""


def frame(kind, data, item_id=None, stream="chat", group="room"):
    """A frame of the engine."""
    return {
        "type": "stream",
        "timestamp": NOW,
        "streamName": stream,
        "groupId": group,
        "id": item_id,
        "event": {"type": kind, "data": data},
    }


class GatedValues(MemoryValues):
    """A store whose readers wait while the gate is closed, each with what it has already read."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    async def list(self, space, scope):
        items = await super().list(space, scope)
        self.reads += 1
        await self.gate.wait()
        return items

    async def get(self, space, scope, key):
        value = await super().get(space, scope, key)
        self.reads += 1
        await self.gate.wait()
        return value


class Consumer:
    """A client of the port."""

    def __init__(self, websocket) -> None:
        self.socket = websocket

    async def join(self, subscription_id="s1", stream="chat", group="room", item_id=None):
        data = {"subscriptionId": subscription_id, "streamName": stream, "groupId": group}
        if item_id is not None:
            data["id"] = item_id
        await self.send({"type": "join", "data": data})

    async def leave(self, subscription_id="s1", stream="chat", group="room"):
        data = {"subscriptionId": subscription_id, "streamName": stream, "groupId": group}
        await self.send({"type": "leave", "data": data})

    async def send(self, message):
        await self.socket.send(json.dumps(message))

    async def next(self):
        """Return the next frame."""
        async with asyncio.timeout(10):
            received = await self.socket.recv()
        assert isinstance(received, str)
        return json.loads(received)

    async def joined(self, *arguments, **options):
        """Join and return the sync."""
        await self.join(*arguments, **options)
        synced = await self.next()
        assert synced["event"]["type"] == "sync", synced
        return synced["event"]["data"]

    async def closed(self):
        """Return the code of the close frame that comes next."""
        async with asyncio.timeout(10):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await self.socket.recv()
        return closed.value.rcvd.code if closed.value.rcvd is not None else None


class World:
    """A bus with streams on it, and their clients."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = Bus(clock=self.clock)
        self.values = GatedValues()
        self.open = contextlib.AsyncExitStack()
        self.calls = {}

    async def start(self, **options):
        self.streams = Streams(bus=self.bus, values=self.values, port=0, **options)
        await self.streams.start()

    async def connect(self, path="/", **options) -> Consumer:
        url = f"ws://127.0.0.1:{self.streams.port}{path}"
        options = {"max_size": None, "compression": None, "ping_interval": None, **options}
        return Consumer(await self.open.enter_async_context(websockets.connect(url, **options)))

    async def ask(self, function, **payload):
        result = await self.bus.call(function, json.dumps(payload).encode())
        return None if result is None else json.loads(result)

    async def set(self, data, item_id="m1", stream="chat", group="room"):
        await self.ask("stream::set", stream_name=stream, group_id=group, item_id=item_id, data=data)

    def function(self, function_id, answer=None):
        """Add a function that answers with a value, or with what a function of the payload gives; return its calls."""
        calls = self.calls[function_id] = []

        async def handle(context: Context, data: bytes):
            payload = json.loads(data)
            calls.append(payload)
            result = answer(payload) if callable(answer) else answer
            return await result if asyncio.iscoroutine(result) else result

        self.bus.functions.add(function_id, handle)
        return calls

    def bind(self, trigger_type, function_id, config=None):
        raw = None if config is None else json.dumps(config).encode()
        self.bus.triggers.bind(Binding(f"{trigger_type} {function_id}", trigger_type, function_id, None, raw))

    async def pass_time(self, seconds):
        await self.clock.advance(seconds)
        self.bus.calls.expire()


@pytest.fixture
async def world():
    world = World()
    await world.start()
    yield world
    async with asyncio.timeout(10):
        world.values.gate.set()
        await world.streams.stop()
        await world.open.aclose()
        await world.bus.close()


# The sequence of a subscription


async def test_a_group_is_synced_with_its_values_and_an_item_with_its_own(world):
    await world.set({"text": "b"}, "m2")
    await world.set({"text": "a"}, "m1")
    client = await world.connect()
    await client.join("s1")
    assert await client.next() == frame("sync", [{"text": "a"}, {"text": "b"}])
    await client.join("s2", item_id="m2")
    assert await client.next() == frame("sync", {"text": "b"}, "m2")
    await client.join("s3", item_id="none")
    assert await client.next() == frame("sync", None, "none")
    await client.join("s4", group="empty")
    assert await client.next() == frame("sync", [], group="empty")


async def test_live_events_follow_the_sync(world):
    client = await world.connect()
    assert await client.joined() == []
    await world.set({"a": 1})
    await world.set({"a": 2})
    await world.ask("stream::update", **ITEM, ops=[{"type": "increment", "path": "a", "by": 3}])
    await world.ask("stream::delete", **ITEM)
    await world.ask("stream::send", **GROUP, type="typing", data={"who": "x"})
    await world.ask("stream::send", **GROUP, id="m1", type="typing", data=None)
    assert await client.next() == frame("create", {"a": 1}, "m1")
    assert await client.next() == frame("update", {"a": 2}, "m1")
    assert await client.next() == frame("update", {"a": 5}, "m1")
    assert await client.next() == frame("delete", {"a": 5}, "m1")
    assert await client.next() == frame("event", {"type": "typing", "data": {"who": "x"}})
    assert await client.next() == frame("event", {"type": "typing", "data": None}, "m1")


async def test_an_item_subscription_hears_its_item_only(world):
    client = await world.connect()
    assert await client.joined(item_id="m1") is None
    await world.set(1, "m2")
    await world.set(2, "m1", group="attic")
    await world.set(3, "m1", stream="other")
    await world.ask("stream::send", **GROUP, type="for all", data=0)
    await world.ask("stream::send", **GROUP, id="m2", type="for another", data=0)
    await world.set(4, "m1")
    assert await client.next() == frame("create", 4, "m1")


async def test_several_clients_get_the_same_event(world):
    clients = [await world.connect() for _ in range(20)]
    for number, client in enumerate(clients):
        await client.joined(item_id="m1" if number % 2 else None)
    await world.set("x" * 100_000)
    for client in clients:
        assert await client.next() == frame("create", "x" * 100_000, "m1")


async def test_an_event_comes_once_however_many_subscriptions_of_a_client_match(world):
    client = await world.connect()
    await client.joined("s1")
    await client.joined("s2")
    await client.joined("s3", item_id="m1")
    await world.set(1)
    await world.set(2)
    assert (await client.next())["event"] == {"type": "create", "data": 1}
    assert (await client.next())["event"] == {"type": "update", "data": 2}


async def test_after_leave_nothing_comes_until_the_last_subscription_is_left(world):
    client = await world.connect()
    await client.joined("s1")
    await client.joined("s2")
    await client.leave("s1")
    await client.joined("probe", group="attic")
    await world.set(1)
    assert (await client.next())["event"]["data"] == 1
    await client.leave("s2")
    await client.leave("never")
    await client.joined("probe", group="attic")
    await world.set(2)
    await world.set(3, group="attic")
    assert (await client.next())["event"]["data"] == 3


async def test_joining_again_under_the_same_id_replaces_the_subscription(world):
    joins, leaves = world.function("app::join"), world.function("app::leave")
    world.bind("stream:join", "app::join")
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.joined("s1")
    await client.joined("s1", group="attic")
    await world.set(1)
    await world.set(2, group="attic")
    assert (await client.next())["event"]["data"] == 2
    await until(lambda: len(leaves) == 1)
    assert [each["group_id"] for each in joins] == ["room", "attic"]
    assert [each["group_id"] for each in leaves] == ["room"]


async def test_no_change_is_lost_or_hidden_between_subscribing_and_the_sync(world):
    await world.set("old")
    world.values.gate.clear()
    client = await world.connect()
    await client.join()
    await until(lambda: world.values.reads == 1)
    await world.set("new")
    await world.set("other", "m2")
    await world.ask("stream::send", **GROUP, type="t", data=0)
    world.values.gate.set()
    assert (await client.next())["event"] == {"type": "sync", "data": ["old"]}
    assert (await client.next())["event"] == {"type": "update", "data": "new"}
    assert (await client.next())["event"] == {"type": "create", "data": "other"}
    assert (await client.next())["event"]["type"] == "event"


async def test_more_changes_during_a_sync_than_may_wait_lead_to_another_sync(world, monkeypatch):
    monkeypatch.setattr(stream_client, "MAX_WAITING", 2)
    world.values.gate.clear()
    client = await world.connect()
    await client.join()
    await until(lambda: world.values.reads == 1)
    for number in range(5):
        await world.set(number, f"m{number}")
    world.values.gate.set()
    assert (await client.next())["event"] == {"type": "sync", "data": []}
    assert (await client.next())["event"] == {"type": "sync", "data": [0, 1, 2, 3, 4]}
    await world.set("live")
    assert (await client.next())["event"]["data"] == "live"


async def test_events_of_other_groups_do_not_wait_for_a_sync(world):
    client = await world.connect()
    await client.joined("s1", group="attic")
    world.values.gate.clear()
    await client.join("s2")
    await until(lambda: world.values.reads == 2)
    await world.set(1, group="attic")
    assert (await client.next())["groupId"] == "attic"
    world.values.gate.set()
    assert (await client.next())["event"]["type"] == "sync"


async def test_any_path_will_do(world):
    for path in ("/", "/stream/chat/room", "/stream/chat/room/", "/x?y=1"):
        client = await world.connect(path)
        assert await client.joined() == []


async def test_a_subprotocol_that_is_offered_is_taken(world):
    client = await world.connect(subprotocols=["Authorization", "secret"])
    assert client.socket.subprotocol == "Authorization"
    assert await client.joined() == []


# Streams that a worker keeps itself


async def keep(world, function_id, answer):
    """Connect a worker with one function; return the payloads that it gets."""

    class Worker(Link):
        def send(self, received: bytes) -> None:
            message = json.loads(received)
            if message["type"] == "invokefunction":
                asked.append(message["data"])
                reply = {"type": "invocationresult", "invocation_id": message["invocation_id"]}
                reply |= {"function_id": function_id, **answer}
                asyncio.get_running_loop().call_soon(world.bus.receive, connection, json.dumps(reply).encode())

    asked: list = []
    connection = world.bus.connect(Worker())
    world.bus.receive(connection, json.dumps({"type": "registerfunction", "id": function_id}).encode())
    return asked


async def test_a_sync_asks_the_worker_that_keeps_the_stream(world):
    listed = await keep(world, "stream::list(chat)", {"result": ["own"]})
    got = await keep(world, "stream::get(chat)", {"result": {"own": 1}})
    client = await world.connect()
    assert await client.joined("s1") == ["own"]
    assert await client.joined("s2", item_id="m1") == {"own": 1}
    assert listed == [GROUP]
    assert got == [ITEM]


async def test_a_sync_that_fails_is_told_and_tried_again_while_events_go_on(world):
    await keep(world, "stream::list(chat)", {"error": {"code": "x", "message": "secret"}})
    client = await world.connect()
    await client.join()
    told = await client.next()
    assert told["type"] == "error"
    assert told["error"]["code"] == "STREAM_SYNC_ERROR"
    assert "secret" not in told["error"]["message"]
    await world.set("live")
    assert (await client.next())["event"] == {"type": "create", "data": "live"}
    await world.pass_time(stream_client.SYNC_RETRY)
    for connection in list(world.bus.connections.values()):
        world.bus.disconnect(connection)
    await world.pass_time(stream_client.SYNC_RETRY)
    assert (await client.next())["event"] == {"type": "sync", "data": ["live"]}


async def test_a_sync_that_failed_is_not_tried_again_for_a_subscription_that_was_left(world):
    listed = await keep(world, "stream::list(chat)", {"error": {"code": "x", "message": "y"}})
    client = await world.connect()
    await client.join()
    assert (await client.next())["type"] == "error"
    await client.leave()
    await client.joined("probe", stream="other")
    await world.pass_time(stream_client.SYNC_RETRY)
    await client.joined("probe", stream="other")
    assert len(listed) == 1


# Join and leave triggers


async def test_join_and_leave_triggers_get_who_and_what(world):
    joins, leaves = world.function("app::join"), world.function("app::leave")
    world.bind("stream:join", "app::join", {})
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.joined("s1")
    await client.joined("s2", item_id="m1")
    group = {"subscription_id": "s1", "stream_name": "chat", "group_id": "room", "id": None, "context": None}
    item = {"subscription_id": "s2", "stream_name": "chat", "group_id": "room", "id": "m1", "context": None}
    assert joins == [group, item]
    assert leaves == []
    await client.leave("s2")
    await until(lambda: leaves == [item])
    await client.socket.close()
    await until(lambda: leaves == [item, group])


async def test_a_client_that_is_cut_off_leaves_as_well(world):
    leaves = world.function("app::leave")
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.joined()
    client.socket.transport.abort()
    await until(lambda: leaves)
    await until(lambda: len(world.streams.server) == 0)


async def test_whom_a_join_trigger_refuses_hears_nothing(world):
    joins = world.function("app::join", {"unauthorized": True})
    leaves = world.function("app::leave")
    world.bind("stream:join", "app::join")
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.join("s1", item_id="m1")
    assert await client.next() == frame("unauthorized", None, "m1")
    await world.set(1)
    await client.leave("s1")
    await client.join("s2")
    assert await client.next() == frame("unauthorized", None)
    assert len(joins) == 2
    assert leaves == []


@pytest.mark.parametrize("answer", [None, {}, {"unauthorized": False}, {"unauthorized": None}, True, [1]])
async def test_any_other_answer_of_a_join_trigger_lets_in(world, answer):
    world.function("app::join", answer)
    world.bind("stream:join", "app::join")
    client = await world.connect()
    assert await client.joined() == []


async def test_one_of_several_join_triggers_is_enough_to_refuse(world):
    world.function("app::yes")
    world.function("app::no", {"unauthorized": True})
    world.bind("stream:join", "app::yes")
    world.bind("stream:join", "app::no")
    client = await world.connect()
    await client.join()
    assert (await client.next())["event"]["type"] == "unauthorized"


async def test_the_condition_of_a_join_trigger_decides_whether_it_is_asked(world):
    world.function("app::no", {"unauthorized": True})
    world.function("app::secret", lambda payload: payload["stream_name"] == "secret")
    world.bind("stream:join", "app::no", {"condition_function_id": "app::secret"})
    client = await world.connect()
    assert await client.joined() == []
    await client.join("s2", stream="secret")
    assert (await client.next())["event"]["type"] == "unauthorized"


async def test_a_join_trigger_that_fails_lets_nobody_in(world):
    def fail(payload):
        raise BusError("x", "y")

    world.function("app::join", fail)
    world.bind("stream:join", "app::join")
    world.bind("stream:join", "app::missing")
    client = await world.connect()
    await client.join()
    assert (await client.next())["event"]["type"] == "unauthorized"


async def test_a_join_trigger_that_does_not_answer_lets_nobody_in(world):
    gate = asyncio.Event()
    joins = world.function("app::join", lambda payload: gate.wait())
    world.bind("stream:join", "app::join")
    client = await world.connect()
    await client.join()
    await until(lambda: joins)
    await world.pass_time(JOIN_TIMEOUT + 1)
    assert (await client.next())["event"]["type"] == "unauthorized"


async def test_who_goes_while_a_join_trigger_thinks_leaves_too(world):
    gate = asyncio.Event()

    async def think(payload):
        await gate.wait()

    joins, leaves = world.function("app::join", think), world.function("app::leave")
    world.bind("stream:join", "app::join")
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.join()
    await until(lambda: joins)
    await client.socket.close()
    await until(lambda: len(world.streams.server) == 0)
    assert leaves == []
    gate.set()
    await until(lambda: leaves)


async def test_a_client_that_waits_for_a_join_trigger_delays_no_other(world):
    gate = asyncio.Event()

    async def think(payload):
        if payload["group_id"] == "slow":
            await gate.wait()

    world.function("app::join", think)
    world.bind("stream:join", "app::join")
    slow, quick = await world.connect(), await world.connect()
    await slow.join(group="slow")
    assert await quick.joined() == []
    gate.set()
    assert (await slow.next())["event"]["type"] == "sync"


# Who may connect


@pytest.fixture
async def guarded():
    world = World()
    await world.start(auth_function="app::auth")
    yield world
    async with asyncio.timeout(10):
        await world.streams.stop()
        await world.open.aclose()
        await world.bus.close()


async def test_the_auth_function_gets_the_request_and_its_context_goes_into_triggers(guarded):
    asked = guarded.function("app::auth", {"context": {"user": "u1"}})
    joins, leaves = guarded.function("app::join"), guarded.function("app::leave")
    guarded.bind("stream:join", "app::join")
    guarded.bind("stream:leave", "app::leave")
    client = await guarded.connect(
        "/stream/chat?token=a%20b&tag=1&tag=2&empty=",
        additional_headers=[("Authorization", "Bearer t"), ("X-Two", "1"), ("X-Two", "2")],
    )
    assert await client.joined() == []
    (payload,) = asked
    assert payload["path"] == "/stream/chat"
    assert payload["query_params"] == {"token": ["a b"], "tag": ["1", "2"], "empty": [""]}
    assert payload["headers"]["authorization"] == "Bearer t"
    assert payload["headers"]["x-two"] == "1, 2"
    host, port = client.socket.local_address
    assert payload["addr"] == f"{host}:{port}"
    await client.leave()
    await until(lambda: leaves)
    assert joins[0]["context"] == leaves[0]["context"] == {"user": "u1"}


@pytest.mark.parametrize("answer", [{}, {"context": None}, {"other": 1}])
async def test_an_object_without_a_context_lets_in_without_one(guarded, answer):
    guarded.function("app::auth", answer)
    joins = guarded.function("app::join")
    guarded.bind("stream:join", "app::join")
    client = await guarded.connect()
    await client.joined()
    assert joins[0]["context"] is None


@pytest.mark.parametrize("answer", [MISSING, None, True, "yes", []])
async def test_an_answer_that_is_no_object_lets_nobody_in(guarded, answer):
    guarded.function("app::auth", answer)
    client = await guarded.connect()
    assert (await client.next())["error"]["code"] == "AUTH_ERROR"
    assert await client.closed() == 1008


async def test_an_auth_function_that_fails_lets_nobody_in(guarded):
    def fail(payload):
        raise BusError("denied", "wrong password of user u1")

    guarded.function("app::auth", fail)
    joins = guarded.function("app::join")
    guarded.bind("stream:join", "app::join")
    client = await guarded.connect()
    with contextlib.suppress(websockets.ConnectionClosed):
        await client.join()
    told = await client.next()
    assert told == {"type": "error", "error": {"code": "AUTH_ERROR", "message": "this connection is not authorised"}}
    assert await client.closed() == 1008
    assert joins == []


async def test_an_auth_function_that_nobody_has_lets_nobody_in(guarded):
    client = await guarded.connect()
    assert (await client.next())["error"]["code"] == "AUTH_ERROR"
    assert await client.closed() == 1008


async def test_an_auth_function_that_does_not_answer_lets_nobody_in(guarded):
    gate = asyncio.Event()
    asked = guarded.function("app::auth", lambda payload: gate.wait())
    client = await guarded.connect()
    await client.join()
    await until(lambda: asked)
    await guarded.pass_time(builtins.AUTH_TIMEOUT + 1)
    assert (await client.next())["error"]["code"] == "AUTH_ERROR"
    assert await client.closed() == 1008


async def test_requests_that_come_before_the_client_is_let_in_are_carried_out_then(guarded):
    gate = asyncio.Event()

    async def think(payload):
        await gate.wait()
        return {}

    asked = guarded.function("app::auth", think)
    client = await guarded.connect()
    await client.join()
    await until(lambda: asked)
    await guarded.set(1)
    gate.set()
    assert (await client.next())["event"] == {"type": "sync", "data": [1]}


# What clients do wrong


@pytest.mark.parametrize(
    "garbage",
    ["", "null", "{", '{"type":"join"}', '{"type":"dance","data":{}}', b"\xff\x00", "x" * 100_000, "[" * 9999],
)
async def test_a_message_that_is_none_is_answered_and_harmless(world, garbage):
    client = await world.connect()
    await client.socket.send(garbage)
    told = await client.next()
    assert (told["type"], told["error"]["code"]) == ("error", "invalid_message")
    assert await client.joined() == []


async def test_a_request_may_come_in_fragments_and_in_a_binary_frame(world):
    join = {"type": "join", "data": {"subscriptionId": "s", "streamName": "chat", "groupId": "room"}}
    client = await world.connect()
    text = json.dumps(join)
    await client.socket.send([text[:10], text[10:20], text[20:]])
    assert (await client.next())["event"]["type"] == "sync"
    await client.socket.send(json.dumps(join).encode())
    assert (await client.next())["event"]["type"] == "sync"


async def test_a_message_that_is_too_large_ends_the_connection(world):
    client = await world.connect()
    with contextlib.suppress(websockets.ConnectionClosed):
        await client.socket.send("x" * (server.MAX_MESSAGE + 1))
    assert await client.closed() == 1009


async def test_fragments_that_are_too_large_together_end_the_connection(world):
    client = await world.connect()
    with contextlib.suppress(websockets.ConnectionClosed):
        await client.socket.send(["x" * (server.MAX_MESSAGE // 2)] * 3)
    assert await client.closed() == 1009


async def test_subscriptions_of_a_client_are_limited(world, monkeypatch):
    monkeypatch.setattr(stream_client, "MAX_SUBSCRIPTIONS", 2)
    client = await world.connect()
    await client.joined("s1")
    await client.joined("s2")
    await client.join("s3")
    assert (await client.next())["error"]["code"] == "limit_exceeded"
    await client.leave("s1")
    await client.joined("s3")


async def test_clients_are_limited(world, monkeypatch):
    monkeypatch.setattr(server, "MAX_CLIENTS", 1)
    client = await world.connect()
    with pytest.raises(websockets.InvalidStatus) as refused:
        await world.connect()
    assert refused.value.response.status_code == 503
    await client.socket.close()
    await until(lambda: len(world.streams.server) == 0)
    await world.connect()


async def test_requests_that_wait_are_limited_by_not_reading_on(world):
    gate = asyncio.Event()

    async def think(payload):
        await gate.wait()

    joins = world.function("app::join", think)
    world.bind("stream:join", "app::join")
    client = await world.connect()
    count = 4 * stream_client.MAX_REQUESTS
    for number in range(count):
        await client.join(f"s{number}", group=f"g{number}")
    await until(lambda: joins)
    gate.set()
    for number in range(count):
        assert (await client.next())["groupId"] == f"g{number}"
    assert len(joins) == count


async def test_what_is_no_websocket_request_is_answered_and_closed(world):
    reader, writer = await asyncio.open_connection("127.0.0.1", world.streams.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def raw_client(world, *headers: bytes, path=b"/"):
    """A client whose bytes are in the test's hand; its receive buffer is small."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", world.streams.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=4096)
    key = base64.b64encode(os.urandom(16))
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: x", b"Connection: Upgrade", b"Upgrade: websocket"]
    lines += [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key, *headers, b"", b""]
    writer.write(b"\r\n".join(lines))
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked(message: dict) -> bytes:
    """A text frame of a client; the mask is zero, which changes nothing."""
    framed = text_frame(json.dumps(message).encode())
    start = {126: 4, 127: 10}.get(framed[1], 2)
    return bytes((framed[0], framed[1] | 0x80)) + framed[2:start] + b"\0\0\0\0" + framed[start:]


def joining(subscription_id="s1", group="room") -> bytes:
    data = {"subscriptionId": subscription_id, "streamName": "chat", "groupId": group}
    return masked({"type": "join", "data": data})


PONG = b"\x8a\x80\0\0\0\0"


async def fill(world, connection) -> None:
    """Send until the socket takes no more."""
    async with asyncio.timeout(10):
        while not connection._write_paused:
            await world.ask("stream::send", **GROUP, type="t", data="x" * 1_000_000)
            await asyncio.sleep(0)


async def read_frame(reader) -> tuple[int, bytes]:
    """Return opcode and payload of the next frame."""
    async with asyncio.timeout(10):
        first, length = await reader.readexactly(2)
        if length >= 126:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        return first & 0xF, await reader.readexactly(length)


async def read_events(reader):
    """Yield the events that a raw client gets."""
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == 1:
            yield json.loads(payload)["event"]


async def test_headers_and_paths_that_are_no_text_reach_the_auth_function_as_replaced(guarded):
    asked = guarded.function("app::auth", {})
    reader, writer = await raw_client(guarded, b"X-Odd: \xff\xfe\xc3", path=b"/\xff?a=%ff")
    writer.write(joining())
    _, payload = await read_frame(reader)
    assert json.loads(payload)["event"]["type"] == "sync"
    assert "x-odd" in asked[0]["headers"]
    writer.close()


# Clients that do not keep up


async def test_a_slow_client_misses_steps_and_gets_a_sync_when_it_reads_again(world):
    leaves = world.function("app::leave")
    world.bind("stream:leave", "app::leave")
    reader, writer = await raw_client(world)
    writer.write(joining())
    events = read_events(reader)
    assert (await anext(events))["type"] == "sync"
    other = await world.connect()
    await other.joined()
    big, count = "x" * 20_000, 3000
    for number in range(count):
        await world.set([number, big], f"m{number % 7}")
        assert (await other.next())["event"]["data"][0] == number
    seen = []
    async for event in events:
        if event["type"] == "sync":
            break
        seen.append(event["data"][0])
    assert seen == sorted(set(seen))
    assert 0 < len(seen) < count / 2
    assert sorted(item[0] for item in event["data"]) == list(range(count - 7, count))
    await world.set(["live"], "m0")
    assert await anext(events) == {"type": "update", "data": ["live"]}
    assert leaves == []
    writer.close()


async def test_what_waits_for_a_client_is_bounded(world):
    reader, writer = await raw_client(world)
    writer.write(joining())
    assert (await anext(read_events(reader)))["type"] == "sync"
    (task,) = world.streams.server._clients
    client = task.get_coro().cr_frame.f_locals["client"]
    for _ in range(600):
        await world.ask("stream::send", **GROUP, type="t", data="y" * 10_000)
    await until(lambda: client._blocked)
    for number in range(600):
        await world.ask("stream::send", **GROUP, type="t", data=number)
    assert len(client._waiting) == stream_client.MAX_WAITING
    assert client._waiting_bytes == sum(len(event.frame) for _, event in client._waiting)
    for _ in range(50):
        await world.ask("stream::send", **GROUP, type="t", data="z" * 500_000)
    assert client._waiting_bytes <= stream_client.MAX_WAITING_BYTES
    writer.close()


async def test_a_client_that_subscribes_and_does_not_read_costs_no_reads_of_the_store(world):
    await world.set("x" * 500_000, group="big")
    _, writer = await raw_client(world)
    for number in range(100):
        writer.write(joining(f"s{number}", f"g{number}"))
        writer.write(joining(f"b{number}", "big"))
    await until(lambda: world.values.reads > 3)
    (task,) = world.streams.server._clients
    client = task.get_coro().cr_frame.f_locals["client"]
    await until(lambda: client._blocked and len(client._subscriptions) == 200)
    assert world.values.reads < 100
    writer.close()


async def test_a_flood_of_pings_that_nobody_reads_the_answers_of_fills_no_memory(world):
    _, writer = await raw_client(world)
    writer.write(joining())
    ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
    for _ in range(200):
        writer.write(ping * 1000)
        async with asyncio.timeout(10):
            await writer.drain()
    (connection,) = world.streams.server._sockets
    assert connection._transport.underlying_transport.get_write_buffer_size() < 1 << 20
    writer.transport.abort()


# Clients that are gone


async def test_a_client_that_answers_no_pings_is_disconnected_and_leaves(world):
    leaves = world.function("app::leave")
    world.bind("stream:leave", "app::leave")
    reader, writer = await raw_client(world)
    writer.write(joining())
    assert (await anext(read_events(reader)))["type"] == "sync"
    await world.pass_time(server.SILENCE_TIMEOUT - 1)
    assert leaves == []
    await world.pass_time(server.PING_INTERVAL + 1)
    await until(lambda: leaves)
    opcodes = []
    while not opcodes or opcodes[-1] != 8:
        opcodes.append((await read_frame(reader))[0])
    assert opcodes == [9, 9, 9, 9, 8]
    writer.close()


async def test_a_client_that_answers_pings_stays(world):
    client = await world.connect()
    await client.joined()
    (connection,) = world.streams.server._sockets
    for _ in range(10):
        await world.pass_time(server.PING_INTERVAL)
        await until(lambda: connection._silent == 0)
    await world.set(1)
    assert (await client.next())["event"]["type"] == "create"


async def test_the_pings_of_a_client_are_answered(world):
    client = await world.connect()
    async with asyncio.timeout(10):
        await (await client.socket.ping(b"hello"))


async def test_a_client_that_takes_nothing_of_what_it_is_sent_is_disconnected(world):
    reader, writer = await raw_client(world)
    writer.write(joining())
    assert (await anext(read_events(reader)))["type"] == "sync"
    (connection,) = world.streams.server._sockets
    await fill(world, connection)
    for _ in range(10):
        writer.write(masked({"type": "leave", "data": {"subscriptionId": "never"}}))
        await world.pass_time(server.PING_INTERVAL)
    await until(lambda: len(world.streams.server) == 0)
    writer.close()


async def test_a_slow_client_that_takes_a_little_now_and_then_stays(world):
    reader, writer = await raw_client(world)
    writer.write(joining())
    assert (await anext(read_events(reader)))["type"] == "sync"
    (connection,) = world.streams.server._sockets
    unsent = connection._transport.underlying_transport.get_write_buffer_size
    for _ in range(8):
        await fill(world, connection)
        writer.write(PONG)
        before = unsent()
        async with asyncio.timeout(10):
            while unsent() >= before:
                await reader.read(4096)
        await world.pass_time(server.PING_INTERVAL)
    assert len(world.streams.server) == 1
    writer.transport.abort()


# Life


async def test_stop_closes_the_connections_so_that_clients_come_again(world):
    leaves = world.function("app::leave")
    world.bind("stream:leave", "app::leave")
    client = await world.connect()
    await client.joined()
    await world.streams.stop()
    assert await client.closed() == 1012
    await until(lambda: leaves)
    with pytest.raises(OSError):
        await world.connect()
    world.streams = Streams(bus=world.bus, values=world.values, port=world.streams.port)
    await world.streams.start()
    again = await world.connect()
    assert await again.joined() == []


async def test_stop_does_not_wait_for_a_client_that_does_not_answer(world):
    _, writer = await raw_client(world)
    async with asyncio.timeout(8):
        await world.streams.stop()
    assert len(world.streams.server) == 0
    writer.close()


async def test_a_fault_of_the_engine_ends_one_connection_and_no_other(world, monkeypatch, caplog):
    join = world.streams.join

    async def fail(subscription, context, trace):
        if subscription.group_id == "bad":
            raise ZeroDivisionError
        return await join(subscription, context, trace)

    monkeypatch.setattr(world.streams, "join", fail)
    bad, good = await world.connect(), await world.connect()
    await good.joined()
    await bad.join(group="bad")
    assert await bad.closed() == 1011
    await world.set(1)
    assert (await good.next())["event"]["data"] == 1
    assert "failed inside the engine" in caplog.text


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4321])
async def test_a_client_closes_with_the_code_that_it_likes(world, code):
    client = await world.connect()
    await client.joined()
    await client.socket.close(code, "bye")
    assert client.socket.close_code == code
    await until(lambda: len(world.streams.server) == 0)


async def test_nothing_is_left_of_clients_that_have_gone(world):
    for _ in range(20):
        client = await world.connect()
        await client.joined("s1")
        await client.joined("s2", item_id="m1")
        await client.socket.close()
    await until(lambda: not world.streams.server._clients and len(world.streams.server) == 0)
    assert world.streams.feed._topics == {}


async def test_where_workers_need_a_token_clients_without_an_auth_function_need_one_too(run_engine):
    key = SigningKey.generate()
    running = await run_engine("--verify-keys", key.verify_key)
    token = issue(key, Identity("local", "host", "u", "host"), issued_at=1)
    other = issue(key, Identity("elsewhere", "host", "u", "host"), issued_at=1)
    join = {"type": "join", "data": {"subscriptionId": "s", "streamName": "n", "groupId": "g"}}
    for path, event in (("/", None), ("/w/nonsense", None), (f"/w/{other}", None), (f"/w/{token}", "sync")):
        async with websockets.connect(f"ws://127.0.0.1:{running.ports.stream}{path}") as socket:
            with contextlib.suppress(websockets.ConnectionClosed):
                await socket.send(json.dumps(join))
            message = json.loads(await asyncio.wait_for(socket.recv(), 10))
        if event is None:
            assert message["error"]["code"] == "AUTH_ERROR", path
        else:
            assert message["event"]["type"] == event


@pytest.mark.parametrize(("origin", "event"), [("https://evil.example", None), ("http://localhost:5173", "sync")])
async def test_on_a_laptop_only_pages_of_this_machine_follow_streams_without_a_token(run_engine, origin, event):
    running = await run_engine("--verify-keys", SigningKey.generate().verify_key, anonymous=True)
    join = {"type": "join", "data": {"subscriptionId": "s", "streamName": "n", "groupId": "g"}}
    async with websockets.connect(f"ws://127.0.0.1:{running.ports.stream}", origin=origin) as socket:
        with contextlib.suppress(websockets.ConnectionClosed):
            await socket.send(json.dumps(join))
        message = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert message["event"]["type"] == event if event else message["error"]["code"] == "AUTH_ERROR"
