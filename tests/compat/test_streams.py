"""Streams: their functions, their WebSocket, and the triggers around both."""

import asyncio
import json
import time

import pytest
import websockets

from tests.compat.engine import wait_for
from tests.compat.sdks import SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"


class Subscriber:
    """A browser, as the engine sees one."""

    def __init__(self, socket) -> None:
        self.socket = socket

    @classmethod
    async def connect(cls, mesh) -> "Subscriber":
        url = mesh.engine.url(port=mesh.engine.ports["stream_port"])
        return cls(await websockets.connect(f"{url}/", compression=None))

    async def join(self, stream: str, group: str, item: str | None = None, kind: str = "join") -> None:
        data = {"subscriptionId": f"{stream}/{group}/{item}", "streamName": stream, "groupId": group}
        await self.socket.send(json.dumps({"type": kind, "data": data if item is None else {**data, "id": item}}))

    async def event(self) -> dict:
        return json.loads(await asyncio.wait_for(self.socket.recv(), 10))

    async def close(self) -> None:
        await self.socket.close()


@check(67)
@pytest.mark.parametrize("sdk", SDKS)
async def test_stream_functions_answer_with_what_they_changed(agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    item = {"stream_name": stream, "group_id": "g", "item_id": "i"}
    assert await agent.call("stream::get", item) is None
    assert await agent.call("stream::set", {**item, "data": {"n": 1}}) == {"old_value": None, "new_value": {"n": 1}}
    assert await agent.call("stream::get", item) == {"n": 1}
    changed = await agent.call("stream::update", {**item, "ops": [{"type": "increment", "path": "n", "by": 2}]})
    assert changed == {"old_value": {"n": 1}, "new_value": {"n": 3}}
    assert await agent.call("stream::list", {"stream_name": stream, "group_id": "g"}) == [{"n": 3}]
    assert await agent.call("stream::list_groups", {"stream_name": stream}) == ["g"]
    everything = await agent.call("stream::list_all", {})
    assert {"id": stream, "groups": ["g"]} in everything["stream"]
    assert everything["count"] == len(everything["stream"])
    assert await agent.call("stream::delete", item) == {"old_value": {"n": 3}}
    assert await agent.call("stream::list", {"stream_name": unique("none"), "group_id": "g"}) == []


@check(67)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscriber_gets_all_that_happens_in_its_group(mesh, agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    item = {"stream_name": stream, "group_id": "g", "item_id": "i"}
    await agent.call("stream::set", {**item, "item_id": "earlier", "data": {"n": 0}})
    subscriber = await Subscriber.connect(mesh)
    await subscriber.join(stream, "g")
    events = [await subscriber.event()]
    await agent.call("stream::set", {**item, "group_id": "another", "data": {"n": 9}})
    await agent.call("stream::set", {**item, "data": {"n": 1}})
    await agent.call("stream::set", {**item, "data": {"n": 2}})
    await agent.call("stream::update", {**item, "ops": [{"type": "increment", "path": "n", "by": 1}]})
    await agent.call("stream::delete", item)
    await agent.call("stream::send", {"stream_name": stream, "group_id": "g", "type": "typing", "data": {"who": "me"}})
    events += [await subscriber.event() for _ in range(5)]
    assert [each["event"]["type"] for each in events] == ["sync", "create", "update", "update", "delete", "event"]
    assert [each["event"]["data"] for each in events[:4]] == [[{"n": 0}], {"n": 1}, {"n": 2}, {"n": 3}]
    assert events[5]["event"]["data"] == {"type": "typing", "data": {"who": "me"}}
    assert [each["id"] for each in events] == [None, "i", "i", "i", "i", None]
    for each in events:
        assert (each["type"], each["streamName"], each["groupId"]) == ("stream", stream, "g")
        assert abs(each["timestamp"] - time.time() * 1000) < 60_000
    await subscriber.join(stream, "g", kind="leave")
    await subscriber.join(stream, "g", "i")
    assert (await subscriber.event())["event"] == {"type": "sync", "data": None}
    await agent.call("stream::set", {**item, "data": {"n": 5}})
    assert (await subscriber.event())["event"] == {"type": "create", "data": {"n": 5}}
    await subscriber.close()


@check(67)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscription_to_an_item_hears_of_its_item_alone(mesh, agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    item = {"stream_name": stream, "group_id": "g", "item_id": "mine"}
    await agent.call("stream::set", {**item, "data": 1})
    subscriber = await Subscriber.connect(mesh)
    await subscriber.join(stream, "g", "mine")
    assert (await subscriber.event())["event"] == {"type": "sync", "data": 1}
    await agent.call("stream::set", {**item, "item_id": "other", "data": 2})
    await agent.call("stream::send", {"stream_name": stream, "group_id": "g", "id": "mine", "type": "t", "data": 3})
    await agent.call("stream::set", {**item, "data": 4})
    events = [await subscriber.event() for _ in range(2)]
    assert [(each["id"], each["event"]) for each in events] == [
        ("mine", {"type": "event", "data": {"type": "t", "data": 3}}),
        ("mine", {"type": "update", "data": 4}),
    ]
    await subscriber.close()


@check(67)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_stream_trigger_fires_with_what_subscribers_get(agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    heard = await agent.function(unique(f"{agent.prefix}::heard"))
    await agent.bind("stream", heard, {"stream_name": stream, "group_id": "g", "item_id": "i"})
    item = {"stream_name": stream, "group_id": "g", "item_id": "i"}
    await agent.call("stream::set", {**item, "item_id": "other", "data": 0})
    await agent.call("stream::set", {**item, "data": 1})
    (event,) = await agent.saw(heard)
    assert (event["type"], event["streamName"], event["groupId"], event["id"]) == ("stream", stream, "g", "i")
    assert event["event"] == {"type": "create", "data": 1}


@check(68)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_join_trigger_can_refuse_a_subscriber_and_a_leave_trigger_hears_of_its_going(mesh, agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    only = unique("raw::only")
    raw = await mesh.connect()  # the triggers are those of all streams: a condition picks this one
    await raw.register(only, lambda data: data["stream_name"] == stream)
    refuse = await agent.function(unique(f"{agent.prefix}::join"), result={"unauthorized": True})
    left = await agent.function(unique(f"{agent.prefix}::leave"))
    joining = await agent.bind("stream:join", refuse, {"condition_function_id": only})
    leaving = await agent.bind("stream:leave", left, {"condition_function_id": only})
    subscriber = await Subscriber.connect(mesh)
    await subscriber.join(stream, "g")
    assert (await subscriber.event())["event"]["type"] == "unauthorized"
    item = {"stream_name": stream, "group_id": "g", "item_id": "i"}
    await agent.call("stream::set", {**item, "data": 1})
    (asked,) = await agent.seen(refuse)
    assert (asked["stream_name"], asked["group_id"]) == (stream, "g")
    assert asked["subscription_id"] == f"{stream}/g/None"
    await agent.unbind(joining)
    await subscriber.join(stream, "g")
    assert (await subscriber.event())["event"] == {"type": "sync", "data": [1]}  # and nothing of what it missed
    await subscriber.close()
    assert (await agent.saw(left))[0]["stream_name"] == stream
    await agent.unbind(leaving)
    await raw.close()


@check(69)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_stream_of_a_workers_own_is_used_in_place_of_the_stored_one(mesh, agents, unique, sdk):
    agent, stream = agents[sdk], unique("stream")
    await agent.do("stream", name=stream)
    await agent.settled()
    raw = await mesh.connect()
    item = {"stream_name": stream, "group_id": "g", "item_id": "i"}
    assert await raw.call("stream::get", item) == {"of": agent.prefix, "item": "i"}
    assert await raw.call("stream::list", {"stream_name": stream, "group_id": "g"}) == [
        {"of": agent.prefix, "group": "g"}
    ]
    assert await raw.call("stream::list_groups", {"stream_name": stream}) == [f"group of {agent.prefix}"]
    await raw.call("stream::set", {**item, "data": {"n": 1}})

    async def told() -> bool:
        return {"n": 1} in await agent.seen(f"stream:{stream}")

    await wait_for(told, "the worker's own set is called")
    await raw.call("stream::delete", item)
    subscriber = await Subscriber.connect(mesh)
    await subscriber.join(stream, "g")
    assert (await subscriber.event())["event"] == {"type": "sync", "data": [{"of": agent.prefix, "group": "g"}]}
    await subscriber.close()
