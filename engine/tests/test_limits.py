"""Who asks for too much is refused with a coded error that names the limit; others are served as if nothing happened."""

import asyncio
import contextlib
import importlib
import json
import re
import struct
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import websockets
from agentos_contracts.tokens import Identity, Role, SigningKey, issue
from agentos_engine import limits
from agentos_engine.bus.backlog import Backlog
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.config_file import ConfigError, parse
from agentos_engine.limits import Limits, default_memory, of_config, usable_memory
from agentos_engine.server.liveness import received_lately
from agentos_engine.server.websocket import Liveness

from tests.waiting import until

MIB = 1 << 20


# The figures


def test_a_config_file_sets_each_of_the_limits():
    given = {each.name: limits.range_of(each.name)[0] for each in fields(Limits)}
    text = "agentos:\n  limits:\n" + "".join(f"    {name}: {value}\n" for name, value in given.items())
    found = of_config(parse(text, {}).agentos.limits)
    assert {each.name: getattr(found, each.name) for each in fields(Limits)} == given


@pytest.mark.parametrize(
    "line", ["calls: 0", "calls: many", "message_bytes: 100000000000", "memory_bytes: 1", "cals: 5"]
)
def test_a_limit_that_makes_no_sense_is_refused_with_its_line(line):
    with pytest.raises(ConfigError) as caught:
        parse(f"agentos:\n  limits:\n    {line}\n", {})
    (finding,) = caught.value.findings
    assert (finding.line, finding.path.rpartition(".")[0]) == (3, "agentos.limits")


def test_what_may_wait_in_memory_follows_the_memory_of_the_container(tmp_path):
    (tmp_path / "memory.max").write_text("536870912\n")
    assert usable_memory(tmp_path) == 512 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path) > 512 * MIB
    assert default_memory(512 * MIB) == 256 * MIB
    assert (default_memory(1 << 20), default_memory(1 << 50)) == (limits.MIN_MEMORY, limits.MAX_MEMORY)
    assert of_config((("memory_bytes", 64 * MIB),)).unsent_bytes == 32 * MIB


def test_the_engine_takes_as_many_open_files_as_it_may_have():
    script = (
        "import resource; from agentos_engine import limits;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "assert limits.raise_open_files() == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_the_shares_of_the_memory_are_no_more_than_the_whole():
    some = Limits(memory_bytes=1000 * MIB)
    shares = (some.unsent_bytes, some.held_bytes, some.channel_bytes, some.http_bytes)
    assert sum(shares) == some.memory_bytes


def test_the_page_lists_every_limit_with_its_figure():
    page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    told = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert {each.name: _figure(each.name, each.default) for each in fields(Limits)} == {
        name: told.get(name, "").strip() for name in (each.name for each in fields(Limits))
    }
    fixed = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    constants = {name: value for name, value in vars(limits).items() if name.isupper() and name != "DEFAULT"}
    assert {name: _figure(name, value) for name, value in constants.items()} == {
        name: told.strip() for name, told in fixed.items()
    }
    of_parts = re.findall(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert len(of_parts) > 30
    for module, name, told in of_parts:
        value = getattr(importlib.import_module(f"agentos_engine.{module}"), name)
        assert told.strip() == _figure(name, value), f"{module}.{name}"


def _figure(name: str, value: float) -> str:
    """A figure as the page writes it: with thousands set apart, sizes in KiB, MiB or GiB, times in seconds."""
    if name.endswith(("_TIMEOUT", "_INTERVAL", "_AFTER", "_LINGER")):
        return f"{value:g} s"
    value = int(value)
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= 16 << 10 and value % size == 0:
            return f"{value // size} {unit}"
    return f"{value:,}"


# On the bus, without sockets


def refusal(peer, kind="invocationresult"):
    """The one error that a peer was told, as its code and message."""
    (message,) = peer.take(kind)
    return message["error"]["code"], message["error"]["message"]


def ask(peer, function_id, invocation_id="i", **message):
    peer.send(type="invokefunction", function_id=function_id, invocation_id=invocation_id, **message)


def test_calls_in_all_are_bounded_and_who_has_the_most_is_refused_first(join):
    bus = Bus(bounds=Limits(calls=12))
    worker, greedy, modest = (join(bus=bus) for _ in range(3))
    worker.send(type="registerfunction", id="a::f")
    for number in range(20):
        ask(greedy, "a::f", f"i-{number}")
    refused = greedy.take("invocationresult")
    assert bus.calls.invocations.in_flight == 6, "one alone gets half"
    assert {each["error"]["code"] for each in refused} == {"limit_exceeded"}
    assert "agentos.limits.calls (now 12)" in refused[0]["error"]["message"]
    ask(modest, "a::f")
    assert modest.take() == []
    assert bus.bounds.hit == {"calls": 14}


def test_functions_and_triggers_in_all_are_bounded(join):
    bus = Bus(bounds=Limits(functions=5, triggers=5))
    greedy, modest = join(bus=bus), join(bus=bus)
    for number in range(5):
        greedy.send(type="registerfunction", id=f"a::{number}")
        greedy.send(type="registertrigger", id=f"t-{number}", trigger_type="x", function_id="a::0")
    assert {each["error"]["code"] for each in greedy.take()} == {"limit_exceeded"}
    assert (bus.bounds.functions, bus.bounds.triggers) == (3, 3)
    modest.send(type="registerfunction", id="b::f")
    modest.send(type="registertrigger", id="t", trigger_type="x", function_id="b::f")
    modest.send(type="registertriggertype", id="y")
    assert modest.take() == []
    for peer in (greedy, modest):
        peer.end()
    assert (bus.bounds.functions, bus.bounds.triggers, bus.bounds.registered) == (0, 0, 0)


def test_bytes_of_registrations_are_bounded_in_all(join):
    bus = Bus(bounds=Limits(registered_bytes=10_000))
    peers = [join(bus=bus) for _ in range(5)]
    for number in range(20):
        for peer in peers:
            peer.send(type="registerfunction", id=f"a::{number}", description="d" * 1000)
    assert 8000 < bus.bounds.registered <= 10_000
    assert bus.bounds.registered == sum(each.connection.registered_bytes for each in peers)
    assert all(each.connection.registered_bytes for each in peers)


def test_functions_are_in_a_bounded_number_of_iii_namespaces(join, monkeypatch):
    monkeypatch.setattr(limits, "MAX_NAMESPACES", 3)
    bus = Bus()
    peers = [join(bus=bus) for _ in range(4)]
    for number, peer in enumerate(peers[:3]):
        bus.settle(peer.connection, f"n-{number}")
    for peer in peers[:3]:
        peer.send(type="registerfunction", id="a::f")
    assert [each["error"]["code"] for each in peers[2].take()] == ["limit_exceeded"]
    with pytest.raises(BusError, match="3 iii namespaces"):
        bus.settle(peers[3].connection, "another")
    bus.settle(peers[3].connection, "n-0")


async def test_payloads_that_the_engine_is_at_work_on_are_bounded_in_bytes(join):
    bus = Bus(bounds=Limits(memory_bytes=4_000_000))  # a quarter for these
    gate = asyncio.Event()

    async def slow(context, data):
        await gate.wait()

    bus.functions.add("engine::slow", slow)
    greedy, modest = join(bus=bus), join(bus=bus)
    for number in range(10):
        ask(greedy, "engine::slow", f"i-{number}", data="x" * 100_000)
        ask(greedy, "engine::slow", None, data="x" * 100_000)
    refused = greedy.take("invocationresult")
    assert refused
    assert {each["error"]["code"] for each in refused} == {"limit_exceeded"}
    assert "agentos.limits.memory_bytes" in refused[0]["error"]["message"]
    assert 400_000 < bus.bounds.held < 600_000, "one alone gets half"
    ask(modest, "engine::slow", data="x" * 100_000)
    assert modest.take() == []
    greedy.end()
    gate.set()
    await asyncio.sleep(0.01)
    assert (bus.bounds.held, greedy.connection.held) == (0, 0)
    assert modest.take("invocationresult")[0].get("error") is None


async def test_a_call_that_ends_before_its_work_has_begun_leaves_nothing_counted(join):
    bus = Bus()

    async def never(context, data):
        await asyncio.get_running_loop().create_future()

    bus.functions.add("engine::never", never)
    peer = join(bus=bus)
    ask(peer, "engine::never", data="x" * 1000)
    peer.end()
    await asyncio.sleep(0.01)
    assert bus.bounds.held == 0
    assert bus.calls.invocations.in_flight == 0


async def test_calls_on_their_way_into_a_queue_are_bounded(join):
    bus = Bus(bounds=Limits(calls_per_connection=2))
    gate = asyncio.Event()

    async def enqueue(queue, function_id, data, **more):
        await gate.wait()
        return "receipt"

    bus.calls.enqueue = enqueue
    peer = join(bus=bus)
    action = {"type": "enqueue", "queue": "q"}
    for number in range(3):
        ask(peer, "a::f", f"i-{number}", action=action)
    assert refusal(peer)[0] == "limit_exceeded"
    gate.set()
    await asyncio.sleep(0.01)
    assert len(peer.take("invocationresult")) == 2
    ask(peer, "a::f", action=action)
    await asyncio.sleep(0.01)
    assert peer.take("invocationresult")[0]["result"] == {"messageReceiptId": "receipt"}


async def test_a_call_without_an_answer_that_the_engine_carries_out_has_a_deadline(clock, join):
    bus = Bus(clock=clock, call_timeout=10)
    ended = []

    async def never(context, data):
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(data)

    bus.functions.add("engine::never", never)
    peer = join(bus=bus)
    ask(peer, "engine::never", None)
    await asyncio.sleep(0)
    await clock.advance(11)
    bus.calls.expire()
    await asyncio.sleep(0.01)
    assert (ended, peer.connection.voids, bus.bounds.held) == ([b"null"], 0, 0)


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"registerfunction","id":"a::f","metadata":{"n":%s}}',
        b'{"type":"registerfunction","id":"a::f","request_format":[%s]}',
        b'{"type":"registertriggertype","id":"x","trigger_request_format":{"n":-%s}}',
        b'{"type":"registertrigger","id":"t","trigger_type":"x","function_id":"a::f","config":{"n":%s}}',
        b'{"type":"registertrigger","id":"t","trigger_type":"x","function_id":"a::f","metadata":[%s]}',
    ],
)
def test_what_is_listed_to_others_holds_no_number_that_their_parsers_refuse(bus, join, message):
    peer = join()
    bus.receive(peer.connection, message % (b"1" * 4301))
    (refused,) = peer.take()
    assert refused["error"]
    assert (bus.bounds.functions, bus.bounds.triggers, len(peer.connection.bindings)) == (0, 0, 0)


# What waits for those that do not read


class Slow:
    """A peer that takes nothing."""

    def __init__(self):
        self.waiting = 0
        self.cut = False

    def unsent(self):
        return self.waiting

    def abort(self):
        self.cut = True


def test_when_too_much_waits_in_all_the_one_for_which_most_waits_is_cut():
    cut = []
    backlog = Backlog(1000, lambda: cut.append(1))
    peers = [Slow() for _ in range(5)]
    for times in range(1, 5):
        for number, peer in enumerate(peers):
            peer.waiting = times * (30 + 20 * number)
            if not peer.cut:
                backlog.note(peer)
    assert [each.cut for each in peers] == [False, False, False, False, True]
    assert len(cut) == 1
    assert backlog.total == sum(each.waiting for each in peers if not each.cut)
    for peer in peers:
        backlog.forget(peer)
        backlog.forget(peer)
    assert (backlog.total, len(backlog)) == (0, 0)


def test_who_has_read_meanwhile_is_not_cut():
    backlog = Backlog(1000, lambda: None)
    first, second = Slow(), Slow()
    first.waiting = 900
    backlog.note(first)
    first.waiting = 0
    second.waiting = 500
    backlog.note(second)
    assert not first.cut
    assert not second.cut
    assert (backlog.total, backlog.free) == (500, 500)


UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(payload, opcode=1):
    """A frame as clients send it, with a mask that changes nothing."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack(">H", size) if size < 1 << 16 else b"\xff" + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


@pytest.fixture
async def deaf():
    """Connects peers that read nothing but the answer to the upgrade: ``await deaf(port)``; more than is sent by them
    has to be written by the test."""
    writers = []

    async def connect(port, path=b"/"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        writers.append(writer)
        writer.write(UPGRADE % path)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        return writer

    yield connect
    for writer in writers:
        writer.transport.abort()


@pytest.fixture
async def answering():
    """Serves ``a::f`` on an engine, which answers with its data; returns a caller: ``await answering(running)``."""
    working = []

    async def serve(running):
        worker, caller = await running.connect(), await running.connect()
        await worker.send(type="registerfunction", id="a::f")
        await worker.settled()

        async def work():
            with contextlib.suppress(websockets.ConnectionClosed):
                async for frame in worker.socket:
                    asked = json.loads(frame)
                    if asked["type"] == "invokefunction":
                        answer = {"invocation_id": asked["invocation_id"], "function_id": "a::f"}
                        await worker.send(type="invocationresult", **answer, result=asked.get("data"))

        working.append(asyncio.create_task(work()))
        return caller

    yield serve
    for each in working:
        each.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def still_answers(caller, seconds=2.0):
    """Others are served as if nothing happened."""
    before = time.monotonic()
    assert (await caller.ask("a::f", 5))["result"] == 5
    assert time.monotonic() - before < seconds


async def test_peers_that_read_nothing_of_their_answers_are_bounded_together_and_stall_nobody(
    run_engine, deaf, answering
):
    running = await run_engine(limits={"memory_bytes": 64 * MIB})  # half for these: 32 MiB
    bus, caller = running.engine.bus, await answering(running)
    backlog = bus.bounds.backlog
    peers = [await deaf(running.ports.workers) for _ in range(6)]
    call = masked(
        json.dumps({"type": "invokefunction", "invocation_id": "i", "function_id": "a::f", "data": "x" * MIB}).encode()
    )
    most = 0
    for _ in range(16):
        for peer in peers:
            if not peer.transport.is_closing():
                peer.write(call)
        await still_answers(caller)
        most = max(most, backlog.total)
    await until(lambda: bus.bounds.hit.get("unsent_bytes"))
    await still_answers(caller)
    assert most <= backlog.limit
    assert len(bus.connections) > 3, "not all of them had to go"


async def test_a_flood_for_slow_workers_is_refused_before_they_are_cut(run_engine, deaf, answering):
    running = await run_engine(limits={"memory_bytes": 64 * MIB})
    bus, caller = running.engine.bus, await answering(running)
    for number in range(5):
        worker = await deaf(running.ports.workers)
        worker.write(masked(b'{"type":"registerfunction","id":"slow::%d"}' % number))
    await until(lambda: bus.bounds.functions == 6)
    flooder = await running.connect()
    codes = set()
    for _ in range(12):
        for number in range(5):
            await flooder.send(type="invokefunction", function_id=f"slow::{number}", data="x" * MIB)
            await flooder.send(
                type="invokefunction", invocation_id="i", function_id=f"slow::{number}", data="x" * (2 * MIB)
            )
        await still_answers(caller)
    await flooder.settled()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                codes.add((await flooder.receive("invocationresult"))["error"]["code"])
    assert bus.bounds.hit["unsent_of_worker"] > 0
    assert "unsent_bytes" not in bus.bounds.hit
    assert len(bus.connections) == 8, "no worker was cut for what a stranger sent it"


async def test_readers_of_http_streams_topics_and_channels_that_do_not_read_stall_nobody(run_engine, deaf, answering):
    running = await run_engine(limits={"memory_bytes": 64 * MIB})
    bus, caller = running.engine.bus, await answering(running)
    worker = await running.connect()
    await worker.send(
        type="registertrigger",
        id="r",
        trigger_type="http",
        function_id="a::f",
        config={"api_path": "big", "http_method": "POST"},
    )
    stream = await deaf(running.ports.stream)
    stream.write(masked(b'{"type":"join","data":{"subscriptionId":"s","streamName":"n","groupId":"g"}}'))
    await until(lambda: next(iter(running.engine.modules["stream"].feed._topics), None))
    subscriber = await deaf(running.ports.workers)
    subscriber.write(masked(b'{"type":"registerfunction","id":"sub::f"}'))
    subscriber.write(
        masked(
            b'{"type":"registertrigger","id":"s","trigger_type":"subscribe","function_id":"sub::f","config":{"topic":"t"}}'
        )
    )
    await until(lambda: bus.bounds.triggers >= 2)
    body = json.dumps({"body": "x" * (2 * MIB)}).encode()
    head = b"POST /big HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    clients = []
    for _ in range(8):
        _, writer = await asyncio.open_connection("127.0.0.1", running.ports.http)
        writer.transport.pause_reading()
        writer.write(head + body)
        clients.append(writer)
    most = 0
    for number in range(20):
        data = {"stream_name": "n", "group_id": "g", "item_id": str(number), "data": "x" * MIB}
        await caller.ask("stream::set", data)
        await caller.ask("publish", {"topic": "t", "data": "x" * MIB})
        await still_answers(caller)
        most = max(most, bus.bounds.backlog.total)
    assert most <= bus.bounds.backlog.limit
    for writer in clients:
        writer.transport.abort()
    stream.transport.abort()
    subscriber.transport.abort()
    await until(lambda: bus.bounds.backlog.total == 0)
    assert len(bus.bounds.backlog) == 0


async def test_pings_of_a_peer_that_reads_nothing_are_not_answered_into_memory(run_engine, deaf, answering):
    running = await run_engine()
    bus, caller = running.engine.bus, await answering(running)
    flooder = await deaf(running.ports.workers)
    pings = masked(b"x" * 125, 9) * 40_000
    for _ in range(4):
        flooder.write(pings)
        await still_answers(caller)
    await until(lambda: flooder.transport.get_write_buffer_size() == 0)
    await still_answers(caller)
    assert bus.bounds.backlog.total < MIB


async def test_pings_are_answered_with_what_they_hold(run_engine):
    running = await run_engine()
    worker = await running.connect()
    assert await asyncio.wait_for(await worker.socket.ping(b"payload"), 5) >= 0


async def test_a_large_message_on_a_slow_link_is_a_sign_of_life(run_engine):
    def prepare(engine):
        engine.parts.liveness = Liveness(ping_interval=0.1, silent_after=0.3, silence_timeout=0.6)

    running = await run_engine(prepare=prepare)
    bus = running.engine.bus
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers)
    writer.write(UPGRADE % b"/")
    await reader.readuntil(b"\r\n\r\n")
    message = masked(json.dumps({"type": "registerfunction", "id": "late::f", "description": "x" * 3000}).encode())
    before = time.monotonic()
    for at in range(0, len(message) - 1, 100):
        writer.write(message[at : min(at + 100, len(message) - 1)])
        await asyncio.sleep(0.06)  # the slow link
        assert not any(each.silent for each in bus.connections.values())
    assert time.monotonic() - before > 1.5
    writer.write(message[-1:])
    await until(lambda: bus.registry.choose("late::f") is not None)
    await until(lambda: not bus.connections, 10)  # and then it says nothing any more
    writer.close()


async def test_the_kernel_tells_when_bytes_came():
    accepted = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda reader, writer: accepted.set_result(writer), "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
    client.write(b"x")
    writer = await accepted
    await until(lambda: received_lately(writer.transport, 1000))
    await until(lambda: not received_lately(writer.transport, 0.02))
    client.write(b"x")
    await until(lambda: received_lately(writer.transport, 0.5))
    client.close()
    writer.close()
    server.close()


# Connections


async def test_connections_are_bounded_and_those_there_are_go_on(run_engine, answering):
    running = await run_engine(limits={"connections": 3})
    caller = await answering(running)
    more = [await running.connect() for _ in range(3)]
    for each in more[1:]:
        with pytest.raises(websockets.ConnectionClosed):
            await each.settled()
    await more[0].settled()
    await still_answers(caller)
    assert running.engine.bus.bounds.hit == {"connections": 2}
    await more[0].socket.close()
    await until(lambda: len(running.engine.bus.connections) == 2)
    await (await running.connect()).settled()


async def test_connections_of_one_token_are_bounded_and_its_workers_are_told_why(run_engine):
    key = SigningKey.generate()
    running = await run_engine("--verify-keys", key.verify_key, limits={"connections_per_identity": 2})
    paths = [
        f"/w/{issue(key, Identity('local', f'w-{uid}', uid, Role.OPERATOR), 1_700_000_000)}/pod"
        for uid in ("one", "other")
    ]
    first = [await running.connect(paths[0]) for _ in range(3)]
    refused = await first[2].receive("error")
    assert refused["error"]["code"] == "limit_exceeded", refused
    assert "agentos.limits.connections_per_identity (now 2)" in refused["error"]["message"]
    await (await running.connect(paths[1])).settled()
    for each in first:
        await each.socket.close()
    await until(lambda: len(running.engine.bus.connections) == 1)
    await (await running.connect(paths[0])).settled()
