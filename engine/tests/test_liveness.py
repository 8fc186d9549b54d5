"""Peers that say nothing, peers that are refused, and the end of the engine, over real sockets."""

import asyncio
import contextlib
import json
import os
import struct

import pytest
from agentos_contracts.tokens import SigningKey
from agentos_engine import limits
from agentos_engine.server.websocket import Liveness

from tests.waiting import until

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Mute:
    """A WebSocket client by hand: it answers no pings unless told to."""

    def __init__(self, reader, writer) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPGRADE)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    def send(self, opcode, payload):
        mask = os.urandom(4)
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.writer.write(bytes([0x80 | opcode]) + length + mask + body)

    def tell(self, **message):
        self.send(1, json.dumps(message).encode())

    async def frame(self):
        async with asyncio.timeout(10):
            head = await self.reader.readexactly(2)
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", await self.reader.readexactly(2))[0]
            return head[0] & 15, await self.reader.readexactly(size)

    async def until(self, opcode):
        while True:
            kind, payload = await self.frame()
            if kind == opcode:
                return payload

    def close(self):
        self.writer.close()


@pytest.fixture
async def impatient(run_engine):
    """An engine that pings each 50 ms, gives no calls after 150 ms of silence and hangs up after 3 s."""

    def prepare(engine):
        engine.parts.liveness = Liveness(ping_interval=0.05, silent_after=0.15, silence_timeout=3.0)

    return await run_engine(prepare=prepare)


async def test_a_silent_worker_gets_no_new_calls_keeps_its_call_and_is_back_at_its_first_sign(impatient):
    worker = await Mute.connect(impatient.ports.workers)
    worker.tell(type="registerfunction", id="a::f")
    caller = await impatient.connect()
    bus = impatient.engine.bus
    await until(lambda: bus.registry.choose("a::f") is not None)
    await caller.send(type="invokefunction", invocation_id="first", function_id="a::f", data=1)
    await worker.until(1)
    connection = bus.registry.choose("a::f").connection
    await until(lambda: connection.silent)
    refused = await caller.ask("a::f")
    assert refused["error"]["code"] == "worker_unresponsive"
    worker.send(10, b"")  # a pong: its loop runs again
    await until(lambda: not connection.silent)
    worker.tell(type="invocationresult", invocation_id="first", function_id="a::f", result="kept")
    answer = await caller.receive("invocationresult")
    assert answer["result"] == "kept"
    worker.close()


async def test_calls_go_to_the_replica_that_answers_and_the_silent_one_is_closed_with_1012(impatient):
    mute = await Mute.connect(impatient.ports.workers)
    mute.tell(type="registerfunction", id="a::f")
    alive, caller = await impatient.connect(), await impatient.connect()
    await alive.send(type="registerfunction", id="a::f")
    await alive.settled()
    bus = impatient.engine.bus
    await until(lambda: any(each.silent for each in bus.connections.values()))
    for number in range(4):
        await caller.send(type="invokefunction", invocation_id=str(number), function_id="a::f")
        assert (await alive.receive("invokefunction"))["invocation_id"] == str(number)
    closed = await mute.until(8)
    assert struct.unpack(">H", closed[:2])[0] == 1012
    mute.close()


async def test_a_refused_peer_is_told_why_and_what_it_goes_on_sending_is_not_read(run_engine):
    guarded = await run_engine("--verify-keys", SigningKey.generate().verify_key)
    peer = await Mute.connect(guarded.ports.workers)
    assert b"AUTH_ERROR" in await peer.until(1)
    peer.writer.write(b"\x82\x7f" + struct.pack(">Q", 60 << 20) + b"mask")
    sent = 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while sent < 60 << 20:
                peer.writer.write(b"x" * (1 << 20))
                await peer.writer.drain()
                sent += 1 << 20
    assert sent < 32 << 20
    peer.close()


async def test_reattaching_over_the_wire_closes_the_old_socket_and_leaves_one_owner(run_engine):
    running = await run_engine()
    old = await running.connect()
    greeting = await old.receive("workerregistered")
    await old.send(type="registerfunction", id="a::f")
    await old.settled()
    new = await running.connect()
    await new.send(type="reattach", previous_worker_id=greeting["worker_id"], reattach_token=greeting["reattach_token"])
    await new.send(type="registerfunction", id="a::f")
    await new.settled()
    async with asyncio.timeout(5):
        await old.socket.wait_closed()
    assert old.socket.close_code == 1012
    caller = await running.connect()
    await caller.send(type="invokefunction", invocation_id="i", function_id="a::f")
    await new.receive("invokefunction")


async def test_at_the_end_calls_in_flight_may_finish_and_no_caller_is_left_waiting(run_engine):
    running = await run_engine()
    worker, caller = await running.connect(), await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.send(type="registerfunction", id="a::never")
    await worker.settled()
    await caller.send(type="invokefunction", invocation_id="ends", function_id="a::f")
    invoked = await worker.receive("invokefunction")
    stopping = asyncio.create_task(running.engine.stop())
    await until(lambda: running.engine.bus.connections and worker.socket.state.name == "OPEN")
    await worker.send(type="invocationresult", invocation_id=invoked["invocation_id"], function_id="a::f", result=5)
    assert (await caller.receive("invocationresult"))["result"] == 5
    await stopping
    assert worker.socket.close_code == 1012 or worker.socket.close_code is None


async def test_at_the_end_every_caller_hears_of_its_unfinished_call_before_its_connection_goes(run_engine, monkeypatch):
    monkeypatch.setattr(limits, "DRAIN_TIMEOUT", 0.2)
    running = await run_engine()
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::never")
    await worker.settled()
    callers = [await running.connect() for _ in range(5)]
    for caller in callers:
        await caller.send(type="invokefunction", invocation_id="i", function_id="a::never")
        await worker.receive("invokefunction")
    stopping = asyncio.create_task(running.engine.stop())
    for caller in callers:
        answer = await caller.receive("invocationresult")
        assert answer["error"]["code"] == "invocation_stopped"
    await stopping


async def test_jobs_and_calls_that_nobody_waits_for_wait_for_a_silent_worker(run_engine):
    running = await run_engine()
    worker, caller = await running.connect(), await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()
    connection = running.engine.bus.registry.choose("a::f").connection
    connection.silent = True
    action = {"type": "enqueue", "queue": "default"}
    await caller.send(type="invokefunction", invocation_id="q", function_id="a::f", data="job", action=action)
    assert "result" in await caller.receive("invocationresult")
    await caller.send(type="invokefunction", function_id="a::f", data="void")
    assert (await worker.receive("invokefunction"))["data"] == "void"
    connection.silent = False
    invoked = await worker.receive("invokefunction")
    assert invoked["data"] == "job"
    (job,) = [
        await running.engine.parts.memory_queues.get(each.seq)
        for each in await running.engine.parts.memory_queues.waiting()
    ]
    assert job.attempts_made == 0
