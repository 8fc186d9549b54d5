"""The connection itself: handshake, frames, liveness, size."""

import asyncio
import json
import signal
import uuid
from pathlib import Path

import pytest
import websockets

from tests.compat.engine import wait_for
from tests.compat.sdks import SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"
FASTER = str(Path(__file__).parent / "workers/faster.cjs")


@check(1)
async def test_the_first_frame_tells_a_worker_its_id(mesh):
    raw = await mesh.connect()
    first = await raw.receive("workerregistered")
    assert raw.frames == [first]
    assert str(uuid.UUID(first["worker_id"])) == first["worker_id"]


@check(1)
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_knows_the_id_under_which_it_is_listed(mesh, agents, sdk):
    assert await agents[sdk].do("worker_id") == (await mesh.worker(agents[sdk].prefix))["id"]


@check(2)
async def test_compression_is_declined(mesh):
    async with websockets.connect(mesh.engine.url(), compression="deflate", max_size=None) as socket:
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]


@check(2)
@pytest.mark.parametrize("sdk", SDKS)
async def test_large_json_is_exchanged_without_compression(agents, sdk):
    rows = [
        {"row": number, "text": "\u00e4" * 20} for number in range(5000)
    ]  # less than the 1 MiB that py-0.11.6 takes
    echoed = await agents[sdk].call(f"{agents[sdk].prefix}::echo", {"rows": rows})
    assert echoed["rows"] == rows


@check(3)
async def test_the_order_of_registrations_does_not_matter(mesh, unique):
    listings = []
    for name_first in (True, False):
        raw = await mesh.connect()
        name = unique("order")
        if name_first:
            await raw.name(name)
        function = {"type": "registerfunction", "id": f"{name}::one", "description": "one"}
        trigger = {"type": "registertrigger", "id": name, "trigger_type": "subscribe", "function_id": f"{name}::one"}
        trigger["config"] = {"topic": "t"}
        for message in (function, trigger) if name_first else (trigger, function):
            await raw.send(**message)
        if not name_first:
            await raw.name(name)
        await raw.settled()
        functions = (await raw.call("engine::functions::list", {"prefix": f"{name}::"}))["functions"]
        triggers = (await raw.call("engine::registered-triggers::list", {}))["registered_triggers"]
        told = {"functions": functions, "triggers": [each for each in triggers if each["id"] == name]}
        listings.append(json.loads(json.dumps(told).replace(name, "NAME")))
        await raw.close()
    assert listings[0] == listings[1]
    assert listings[0]["functions"]
    assert listings[0]["triggers"]


@check(4)
async def test_what_cannot_be_read_is_ignored_and_json_in_a_binary_frame_is_read(mesh):
    raw = await mesh.connect()
    for frame in (
        "garbage",
        '{"type": "no such type", "id": 1}',
        "",
        "  \n",
        "[1]",
        '"text"',
        "null",
        b"",
        b"\xff\xfe",
        b"{",
    ):
        await raw.socket.send(frame)
    await raw.socket.send(json.dumps({"type": "ping"}).encode())
    await raw.receive("pong")


@check(5)
async def test_pings_of_both_kinds_are_answered(mesh):
    raw = await mesh.connect()
    await raw.send(type="ping")
    await raw.receive("pong")
    await asyncio.wait_for(await raw.socket.ping(b"same payload"), 5)


@check(6)
async def test_a_silent_socket_is_closed_in_time_and_an_idle_worker_is_not(mesh):
    idle = await mesh.connect()
    await idle.receive("workerregistered")
    for _ in range(2):  # the idle worker outlives two of them
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.engine.ports["port"])
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    await idle.settled()


@check(7)
async def test_a_telemetry_connection_is_no_worker(mesh):
    raw = await mesh.connect()
    before = (await raw.call("engine::workers::list", {}))["workers"]
    otel = await mesh.connect(query="/otel")
    await otel.socket.send(b'OTLP{"resourceSpans": []}')
    await otel.socket.send(b'MTRC{"resourceMetrics": []}')
    await otel.socket.send(b'LOGS{"resourceLogs": []}')
    await otel.socket.send("text is not read here")
    await asyncio.wait_for(await otel.socket.ping(), 5)
    assert otel.frames == []
    after = (await raw.call("engine::workers::list", {}))["workers"]
    assert {each["id"] for each in after} == {each["id"] for each in before}


@check(8, sdks=["node-0.22.1"])
@pytest.mark.parametrize("bench", ["open"], indirect=True)
async def test_a_quiet_engine_that_answers_pings_keeps_its_worker_and_a_stopped_one_loses_it(bench):
    agent = await bench.start("node-0.22.1", flags=("-r", FASTER))
    await bench.answering(agent.prefix)
    first = await agent.do("worker_id")
    await agent.do("pass", ms=70_000)  # by the worker's clock, which runs faster
    assert await agent.do("worker_id") == first
    bench.engine.process.send_signal(signal.SIGSTOP)
    try:
        await agent.logged("No inbound data for 60000ms")
    finally:
        bench.engine.process.send_signal(signal.SIGCONT)

    async def reconnected() -> bool:
        return await agent.do("worker_id") != first

    await wait_for(reconnected, "the worker reconnects")
    await bench.answering(agent.prefix)


@check(9)
@pytest.mark.parametrize("callee", ["node-0.11.6", "node-0.22.1"])
@pytest.mark.parametrize("caller", ["py-0.25.0"])
async def test_a_message_of_20_mb_in_fragments_arrives_whole(agents, caller, callee):
    text = "x" * 20_000_000
    echoed = await agents[caller].call(f"{agents[callee].prefix}::echo", {"text": text}, timeout_ms=30000)
    assert echoed["text"] == text


@check(12)
async def test_a_wrong_reattach_token_is_ignored(mesh, unique):
    old, new = await mesh.connect(), await mesh.connect()
    previous = (await old.receive("workerregistered"))["worker_id"]
    name = unique("wrong")
    await new.send(type="reattach", previous_worker_id=previous, reattach_token=str(uuid.uuid4()))
    await new.register(f"{name}::f", lambda data: "served")
    assert await old.call(f"{name}::f") == "served"  # and the old one is still connected
