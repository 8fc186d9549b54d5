"""Data channels between workers."""

import asyncio
import base64
import hashlib

import pytest
import websockets

from tests.compat.sdks import PREFIXES, PYTHON, SDKS, pairs

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")


def items() -> list[dict]:
    """Text and bytes in turn, the bytes less than what SDKs send in one frame."""
    made: list[dict] = []
    for number in range(40):
        made.append({"text": f'{{"number": {number}}}'})
        made.append({"bytes": base64.b64encode(bytes([number]) * (number * 1000 + 1)).decode()})
    return made


def summary(sent: list[dict]) -> dict:
    """What a reader makes of it when it gets text and bytes in two different ways, as those of Node do."""
    data = b"".join(base64.b64decode(each["bytes"]) for each in sent if "bytes" in each)
    texts = [each["text"] for each in sent if "text" in each]
    return {"texts": texts, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@check(70)
@pytest.mark.parametrize(("writer", "reader"), pairs())
async def test_frames_of_both_kinds_arrive_in_order_and_then_the_end(agents, unique, writer, reader):
    a, b = agents[writer], agents[reader]
    keeps_order = reader in PYTHON
    channel = await a.do("channel")
    drain = await b.function(unique(f"{b.prefix}::drain"), "drain", summary=not keeps_order)
    call = asyncio.create_task(a.call(drain, {"reader": channel["reader"]}))
    await a.do("write", channel=channel["channel"], items=items())
    assert await call == ({"items": items()} if keeps_order else summary(items()))


@check(70)
@pytest.mark.parametrize(("creator", "writer"), pairs())
async def test_the_writing_end_can_be_handed_over_and_the_reader_gets_all_before_the_close(
    agents, unique, creator, writer
):
    a, b = agents[creator], agents[writer]
    channel = await a.do("channel", buffer_size=8)
    pour = await b.function(unique(f"{b.prefix}::pour"), "pour")
    reading = asyncio.create_task(a.do("read", channel=channel["channel"], summary=True))
    await a.call(pour, {"writer": channel["writer"], "items": items()})
    assert await reading == summary(items())


@check(70)
@pytest.mark.parametrize("sdk", SDKS)
async def test_many_bytes_arrive_whole(agents, unique, sdk):
    agent = agents[sdk]
    channel = await agent.do("channel")
    drain = await agent.function(unique(f"{PREFIXES[sdk]}::drain"), "drain", summary=True)
    sent = [{"bytes": base64.b64encode(bytes(range(256)) * 16384).decode()}]
    call = asyncio.create_task(agent.call(drain, {"reader": channel["reader"]}))
    await agent.do("write", channel=channel["channel"], items=sent)
    assert await call == summary(sent)


async def end(
    mesh, channel: dict, direction: str, key: str = "", query: str = "&dir={}"
) -> websockets.ClientConnection:
    path = f"/ws/channels/{channel['channel_id']}?key={key or channel['access_key']}{query.format(direction)}"
    return await websockets.connect(mesh.engine.url() + path, max_size=None, compression=None)


@check(70)
async def test_wrong_keys_and_directions_are_refused_before_the_upgrade(mesh):
    raw = await mesh.connect()
    channel = (await raw.call("engine::channels::create", {"buffer_size": None}))["writer"]
    assert channel["direction"] == "write"
    for wrong in ({"key": "wrong"}, {"query": ""}, {"query": "&dir=sideways"}):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await end(mesh, channel, "read", **wrong)
        assert refused.value.response.status_code == (404 if "key" in wrong else 400)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await end(mesh, {**channel, "channel_id": "no-such"}, "read")
    assert refused.value.response.status_code == 404


@check(70)
async def test_the_second_connection_to_an_end_is_closed_and_the_first_goes_on(mesh):
    raw = await mesh.connect()
    ends = await raw.call("engine::channels::create", {})
    first, second = await end(mesh, ends["reader"], "read"), await end(mesh, ends["reader"], "read")
    with pytest.raises(websockets.ConnectionClosed):
        await asyncio.wait_for(second.recv(), 10)
    writer = await end(mesh, ends["writer"], "write")
    for number in range(30):
        await writer.send(f"text {number}")
        await writer.send(bytes([number]))
    await writer.close()
    for number in range(30):
        assert await asyncio.wait_for(first.recv(), 10) == f"text {number}"
        assert await asyncio.wait_for(first.recv(), 10) == bytes([number])
    with pytest.raises(websockets.ConnectionClosed):
        await asyncio.wait_for(first.recv(), 10)
