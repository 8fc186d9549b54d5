"""Hostile peers by name, over real sockets: each may harm itself, none the engine or another peer."""

import asyncio
import contextlib
import json
import re
import struct
import time
from dataclasses import replace

import pytest
from agentos_engine import limits
from agentos_engine.server.websocket import Liveness

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CONTINUATION, CLOSE, PING = 1, 0, 8, 9


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def masked(opcode, payload, fin=True):
    """A frame as clients send it, with a mask that changes nothing."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack(">H", size) if size < 1 << 16 else b"\xff" + struct.pack(">Q", size)
    return bytes([(0x80 if fin else 0) | opcode]) + length + b"\0\0\0\0" + payload


class Raw:
    """A WebSocket client by hand that sends what no library sends and answers no pings."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, payload, opcode=TEXT):
        self.writer.write(masked(opcode, payload))

    def tell(self, **message):
        self.send(json.dumps(message).encode())

    async def frame(self):
        async with asyncio.timeout(20):
            head = await self.reader.readexactly(2)
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", await self.reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", await self.reader.readexactly(8))[0]
            return head[0] & 15, await self.reader.readexactly(size)

    async def receive(self, message_type):
        """The next message of a type; all that come are JSON for the strictest parser."""
        while True:
            opcode, payload = await self.frame()
            if opcode == TEXT:
                message = json.loads(payload.decode(), parse_constant=refuse_constant)
                if message["type"] == message_type:
                    return message
            assert opcode != CLOSE, payload

    async def settled(self):
        self.tell(type="ping")
        await self.receive("pong")

    async def closed(self):
        """The code of the close frame; None when the connection was cut."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return struct.unpack(">H", payload[:2])[0] if payload else None
        return None


@pytest.fixture
async def running(run_engine):
    """An open engine."""
    return await run_engine()


@pytest.fixture
async def raw():
    """Connects peers by hand: ``await raw(running)``."""
    peers = []

    async def connect(running, upgrade=UPGRADE):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers, limit=1 << 27)
        peers.append(Raw(reader, writer))
        writer.write(upgrade)
        if upgrade == UPGRADE:
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return peers[-1]

    yield connect
    for peer in peers:
        peer.writer.transport.abort()


@pytest.fixture
async def pair(running):
    """A worker with the function ``a::f``, which answers at once with its data, and a caller of it."""
    worker, caller = await running.connect(), await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()

    async def work():
        while True:
            asked = await worker.receive("invokefunction")
            answer = {"invocation_id": asked["invocation_id"], "function_id": "a::f", "result": asked["data"]}
            await worker.send(type="invocationresult", **answer)

    async def work_until_closed():
        while True:
            with contextlib.suppress(TimeoutError):  # nobody called
                await work()

    working = asyncio.create_task(work_until_closed())
    yield caller
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def still_answers(caller, seconds=2.0):
    """Others are served as if nothing happened: a call takes less than so many seconds."""
    before = time.monotonic()
    assert (await caller.ask("a::f", 5))["result"] == 5
    assert time.monotonic() - before < seconds


NO_JSON = {
    "NaN": b"NaN",
    "infinite": b'{"x":[-Infinity]}',
    "half a number": b"1e",
    "a lone surrogate": b'"\\ud800"',
    "no UTF-8": b'"\xff"',
    "a raw control character": b'"\x00"',
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "large": b'["' + b"x" * (2 << 20) + b'",NaN]',
    "never ends": b'{"x":[',
    "two values": b"1 2",
}


@pytest.mark.parametrize("what", NO_JSON)
async def test_a_call_with_a_payload_that_is_no_json_is_refused_and_never_reaches_the_worker(running, raw, what):
    worker, caller = await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    for form in (
        b'{"type":"invokefunction","invocation_id":"i-1","function_id":"b::f","data":%s}',
        b'{"function_id": "b::f", "data": %s, "invocation_id": "i-1", "type": "invokefunction"}',
    ):
        caller.send(form % NO_JSON[what])
        answer = await caller.receive("invocationresult")
        assert (answer["invocation_id"], answer["error"]["code"]) == ("i-1", "invalid_message")
        assert len(answer["error"]["message"]) < 300
    caller.tell(type="invokefunction", invocation_id="i-2", function_id="b::f", data="right")
    assert (await worker.receive("invokefunction"))["data"] == "right"


@pytest.mark.parametrize("what", NO_JSON)
async def test_an_answer_that_is_no_json_fails_the_call_and_never_reaches_the_caller(running, raw, what):
    worker, caller = await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    for key in (b"result", b"error"):
        caller.tell(type="invokefunction", invocation_id="i-1", function_id="b::f")
        await worker.receive("invokefunction")
        worker.send(b'{"type":"invocationresult","invocation_id":"i-1","%s":%s}' % (key, NO_JSON[what]))
        answer = await caller.receive("invocationresult")
        assert (answer["invocation_id"], answer["error"]["code"]) == ("i-1", "invalid_message")
    await worker.settled()


async def test_what_is_nested_too_deeply_is_not_registered_and_kills_nobody(running, raw, pair):
    peer, deep = await raw(running), b"[" * 100_000 + b"]" * 100_000
    for message in (
        b'{"type":"registerfunction","id":"c::f","metadata":%s}',
        b'{"type":"registertrigger","id":"t","trigger_type":"x","function_id":"c::f","config":%s}',
        b'{"type":"registertriggertype","id":"x","description":%s}',
        b'{"type":"triggerregistrationresult","id":"t","trigger_type":"x","error":%s}',
        b'{"type":"reattach","previous_worker_id":%s}',
        b"%s",
    ):
        peer.send(message % deep)
    await peer.settled()
    assert len(running.engine.bus.registry) == 1
    await still_answers(pair)


async def test_of_duplicate_keys_the_last_one_counts_for_the_engine_and_the_receiver(running, raw):
    worker, caller = await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    caller.send(
        b'{"type":"ping","invocation_id":"no","function_id":"no::such","data":1,"type":"invokefunction",'
        b'"invocation_id":"i-1","function_id":"b::f",'
        b'"data":{"_caller_worker_id":"forged","_caller_worker_id":"twice","\\u005fcaller_worker_id":"escaped"}}'
    )
    asked = await worker.receive("invokefunction")
    (own,) = [each.id for each in running.engine.bus.connections.values() if not each.registrations]
    assert (asked["invocation_id"], asked["data"]) == ("i-1", {"_caller_worker_id": own})
    worker.send(
        b'{"type":"pong","type":"invocationresult","invocation_id":"x","invocation_id":"i-1","result":1,"result":2}'
    )
    answer = await caller.receive("invocationresult")
    assert (answer["invocation_id"], answer["result"]) == ("i-1", 2)


async def test_a_message_of_64_mib_is_taken_and_one_byte_more_is_not(running, raw, pair):
    greatest, larger = await raw(running), await raw(running)
    start, end = b'{"type":"ping","data":"', b'"}'
    greatest.send(start + b"x" * (limits.MAX_MESSAGE - len(start) - len(end)) + end)
    await greatest.receive("pong")
    larger.writer.write(b"\x81\xff" + struct.pack(">Q", limits.MAX_MESSAGE + 1) + b"\0\0\0\0" + b"x" * 1000)
    assert await larger.closed() == 1009
    await still_answers(pair)


async def test_a_message_in_ten_thousands_of_fragments_is_read_and_delays_no_other(running, raw, pair):
    worker, caller = await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    message = json.dumps({"type": "invokefunction", "function_id": "b::f", "data": "x" * 30_000}).encode()
    caller.writer.write(masked(TEXT, b"", fin=False))
    pieces = [masked(CONTINUATION, message[at : at + 1], fin=False) for at in range(len(message))]
    pieces += [masked(CONTINUATION, b"", fin=False)] * 50_000 + [masked(CONTINUATION, b"")]
    caller.writer.write(b"".join(pieces))
    await still_answers(pair)
    assert (await worker.receive("invokefunction"))["data"] == "x" * 30_000


@pytest.mark.parametrize(
    ("frame", "codes"),
    [
        (masked(PING, b"x" * 126), {1002}),
        (masked(PING, b"x", fin=False), {1002}),
        (masked(CLOSE, b"x" * 126), {1002}),
        (masked(CLOSE, b"\x03\xe8", fin=False), {1002}),
        (masked(CLOSE, b"x"), {1002, None}),
        (masked(CLOSE, struct.pack(">H", 1005)), {1002, 1005, 1000}),
        (masked(CLOSE, struct.pack(">H", 999)), {1002, 999, 1000}),
        (masked(CLOSE, struct.pack(">H", 1000) + b"\xff\xfe"), {1007, 1002, 1000}),
        (b"\xbf\x80\0\0\0\0", {1002}),  # all reserved bits
        (b"\x81\xfe\x00\x05\0\0\0\0hello", {1002}),  # a length in more bytes than it needs
        (b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", {1009, 1002}),  # a negative length
    ],
)
async def test_control_frames_against_the_rules_end_that_connection_and_no_other(running, raw, pair, frame, codes):
    peer = await raw(running)
    peer.writer.write(frame)
    assert await peer.closed() in codes
    await still_answers(pair)
    async with asyncio.timeout(5):
        while len(running.engine.bus.connections) > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_peers_that_stop_half_way_are_given_up_and_disturb_nobody(run_engine, raw):
    def impatient(engine):
        engine.parts.liveness = Liveness(ping_interval=0.05, silent_after=0.1, silence_timeout=0.4)
        entry = engine.config.entries["worker-manager"]
        options = replace(entry.options, handshake_timeout_ms=400)
        engine.config.entries["worker-manager"] = replace(entry, options=options)

    running = await run_engine(prepare=impatient)
    caller = await running.connect()
    halves = [b"", UPGRADE[:1], UPGRADE[:50], UPGRADE[:-2], b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
    halves = [await raw(running, upgrade=each) for each in halves]
    for start in (b"\x81", b"\x81\xfe\xff", masked(TEXT, b"x" * 1000)[:500], masked(TEXT, b"{", fin=False)):
        halves.append(await raw(running))
        halves[-1].writer.write(start)
    for each in halves:
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                await each.reader.read()
    await caller.settled()
    assert len(running.engine.bus.connections) == 1


async def test_fifty_peers_that_send_a_byte_now_and_then_delay_nobody(running, raw, pair):
    slow = [await raw(running) for _ in range(50)]
    frame = masked(TEXT, b'{"type":"ping"}')
    for at in range(0, len(frame), 2):
        for each in slow:
            each.writer.write(frame[at : at + 2])
        await still_answers(pair)
        await asyncio.sleep(0.05)
    for each in slow:
        each.writer.write(frame[len(frame) - len(frame) % 2 + 2 :])
        await each.receive("pong")


async def test_an_upgrade_that_comes_byte_by_byte_ends_with_the_handshake_time(run_engine, raw):
    def impatient(engine):
        entry = engine.config.entries["worker-manager"]
        options = replace(entry.options, handshake_timeout_ms=300)
        engine.config.entries["worker-manager"] = replace(entry, options=options)

    running = await run_engine(prepare=impatient)
    peer = await raw(running, upgrade=b"G")
    before = time.monotonic()
    ending = asyncio.create_task(peer.reader.read())
    for byte in UPGRADE[1:-4]:
        if ending.done():
            break
        peer.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(ending, 5)
    assert time.monotonic() - before < 2


async def test_a_hundred_thousand_garbage_frames_delay_nobody_and_fill_no_log(running, raw, pair, caplog):
    flooder = await raw(running)
    for piece in (
        b"garbage",
        b'{"type":"x"}',
        b"\xff",
        b'{"type":"invocationresult","invocation_id":"i","result":NaN}',
    ):
        flooder.writer.write(masked(TEXT, piece) * 25_000)
        for _ in range(5):
            await still_answers(pair)
    await flooder.settled()
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


async def test_a_flood_of_calls_to_a_worker_that_does_not_read_is_refused_and_that_worker_survives(running, raw, pair):
    slow, flooder = await raw(running), await raw(running)
    slow.tell(type="registerfunction", id="slow::f")
    await slow.settled()
    slow.writer.transport.pause_reading()
    call = {"type": "invokefunction", "function_id": "slow::f", "data": "x" * 200_000}
    refused = asyncio.create_task(flooder.receive("invocationresult"))
    sent = 0
    while not refused.done():
        flooder.tell(invocation_id=f"i-{sent}", **call)
        await flooder.writer.drain()
        await asyncio.sleep(0)
        sent += 1
        assert sent < 2000
    assert (await refused)["error"]["code"] == "limit_exceeded"
    await still_answers(pair)
    assert len(running.engine.bus.connections) == 4
    slow.writer.transport.resume_reading()
    asked = await slow.receive("invokefunction")
    assert asked["invocation_id"] == "i-0"
    slow.tell(type="invocationresult", invocation_id="i-0", function_id="slow::f", result="kept")
    while (answer := await flooder.receive("invocationresult"))["invocation_id"] != "i-0":
        assert answer["error"]["code"] == "limit_exceeded"
    assert answer["result"] == "kept"


async def test_a_worker_that_answers_twice_or_for_another_or_hugely_harms_nobody(running, raw, pair):
    bad, good, caller = await raw(running), await raw(running), await raw(running)
    bad.tell(type="registerfunction", id="bad::f")
    good.tell(type="registerfunction", id="good::f")
    await bad.settled()
    await good.settled()
    caller.tell(type="invokefunction", invocation_id="g", function_id="good::f")
    await good.receive("invokefunction")
    for number in range(2):
        caller.tell(type="invokefunction", invocation_id=f"b-{number}", function_id="bad::f")
        await bad.receive("invokefunction")
    for invocation_id in ("g", "b-0", "b-0", "no such", ""):
        bad.tell(type="invocationresult", invocation_id=invocation_id, function_id="good::f", result="of the bad one")
    answer = await caller.receive("invocationresult")
    assert (answer["invocation_id"], answer["result"]) == ("b-0", "of the bad one")
    huge = b'{"type":"invocationresult","invocation_id":"b-1","function_id":"bad::f","result":"%s"}'
    bad.send(huge % (b"x" * (60 << 20)))
    await bad.settled()
    await still_answers(pair)
    answer = await caller.receive("invocationresult")
    assert (answer["invocation_id"], len(answer["result"])) == ("b-1", 60 << 20)
    good.tell(type="invocationresult", invocation_id="g", function_id="good::f", result="of the good one")
    assert (await caller.receive("invocationresult"))["result"] == "of the good one"
    assert running.engine.bus.calls.invocations.in_flight == 0


async def test_a_call_under_an_id_that_was_given_up_gets_no_late_answer_to_another(running, raw):
    worker, first, second = await raw(running), await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    first.tell(type="invokefunction", invocation_id="1", function_id="b::f", data="of the first")
    await worker.receive("invokefunction")
    first.writer.transport.abort()
    async with asyncio.timeout(5):
        while len(running.engine.bus.connections) > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    second.tell(type="invokefunction", invocation_id="1", function_id="b::f", data="of the second")
    asked = await worker.receive("invokefunction")
    assert asked["invocation_id"] != "1"
    worker.tell(type="invocationresult", invocation_id="1", function_id="b::f", result="for the first")
    worker.tell(type="invocationresult", invocation_id=asked["invocation_id"], function_id="b::f", result="right")
    answer = await second.receive("invocationresult")
    assert (answer["invocation_id"], answer["result"]) == ("1", "right")
    second.tell(type="invokefunction", invocation_id="1", function_id="b::f")
    assert (await worker.receive("invokefunction"))["invocation_id"] == "1"  # it has been answered: free again


def unmasked(opcode, payload):
    return bytes([0x80 | opcode, len(payload)]) + payload


@pytest.mark.parametrize(
    "frame",
    [
        unmasked(TEXT, b'{"type":"ping"}'),
        b"\xc1" + masked(TEXT, b"{}")[1:],  # compressed, which nobody agreed to
        b"\x83" + masked(TEXT, b"{}")[1:],  # an opcode that is reserved
        b"\x8b" + masked(TEXT, b"")[1:],
        masked(CONTINUATION, b"{}"),
        masked(TEXT, b"{", fin=False) + masked(TEXT, b"}"),
    ],
)
async def test_frames_that_are_against_the_protocol_end_that_connection_and_no_other(running, raw, pair, frame):
    peer = await raw(running)
    peer.writer.write(frame)
    assert await peer.closed() in (1002, None)
    await still_answers(pair)


async def test_floods_of_close_frames_pings_and_tiny_messages_delay_nobody(running, raw, pair):
    for flood in (
        masked(CLOSE, struct.pack(">H", 1000)) * 20_000,
        masked(PING, b"") * 50_000,
        masked(10, b"x") * 50_000,
        masked(TEXT, b"") * 50_000,
        masked(TEXT, b'{"type":"pong"}') * 50_000,
        masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"", fin=False) * 100_000,
    ):
        peer = await raw(running)
        peer.writer.write(flood)
        for _ in range(3):
            await still_answers(pair)


async def test_an_upgrade_without_end_is_given_up_and_takes_little_memory(run_engine, raw):
    def impatient(engine):
        entry = engine.config.entries["worker-manager"]
        engine.config.entries["worker-manager"] = replace(
            entry, options=replace(entry.options, handshake_timeout_ms=500)
        )

    running = await run_engine(prepare=impatient)
    caller = await running.connect()
    peers = [await raw(running, upgrade=UPGRADE[:-2]) for _ in range(5)]
    before, sent = time.monotonic(), 0
    while any(not each.writer.is_closing() for each in peers) and time.monotonic() - before < 10:
        for each in peers:
            if not each.writer.is_closing():
                each.writer.write(b"X-More: " + b"x" * 4000 + b"\r\n")
                sent += 4010
        await caller.settled()
        await asyncio.sleep(0.005)
    assert all(each.writer.is_closing() for each in peers)
    assert time.monotonic() - before < 8


async def test_a_thousand_connections_that_say_nothing_lock_nobody_out(run_engine):
    def impatient(engine):
        entry = engine.config.entries["worker-manager"]
        engine.config.entries["worker-manager"] = replace(
            entry, options=replace(entry.options, handshake_timeout_ms=500)
        )

    running = await run_engine(prepare=impatient)
    silent = []
    for _ in range(300):
        silent.append(await asyncio.open_connection("127.0.0.1", running.ports.workers))
    for _ in range(200):
        silent.append(await asyncio.open_connection("127.0.0.1", running.ports.http))
    before = time.monotonic()
    await (await running.connect()).settled()
    assert (await running.http(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 404")
    assert time.monotonic() - before < 2
    for reader, _ in silent[:300]:
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    for _, writer in silent:
        writer.transport.abort()


async def test_a_call_that_grows_beyond_the_largest_message_is_refused_and_its_worker_goes_on(running, raw, pair):
    worker, caller = await raw(running), await raw(running)
    worker.tell(type="registerfunction", id="b::f")
    await worker.settled()
    start, end = b'{"type":"invokefunction","invocation_id":"i","function_id":"b::f","data":{"x":"', b'"}}'
    caller.send(start + b"x" * (limits.MAX_MESSAGE - len(start) - len(end)) + end)  # and the engine adds who called
    answer = await caller.receive("invocationresult")
    assert (answer["invocation_id"], answer["error"]["code"]) == ("i", "payload_too_large")
    caller.tell(type="invokefunction", invocation_id="j", function_id="b::f")
    assert (await worker.receive("invokefunction"))["invocation_id"] == "j"
    await still_answers(pair)


FATAL = {
    "a number of 5,000 digits": b"1" * 5000,
    "a negative one in an object": b'{"n":-%s}' % (b"1" * 4301),
    "900 deep": b"[" * 900 + b"]" * 900,
    "900 deep in objects": b'{"a":' * 900 + b"1" + b"}" * 900,
}
"""Python SDKs before 0.25 stop reading at what their parser refuses, and stay connected."""


@pytest.mark.parametrize("what", FATAL)
async def test_what_ends_the_work_of_an_old_python_sdk_is_never_sent_to_one(running, raw, what):
    worker, caller = await raw(running), await raw(running)
    about = {"runtime": "python", "version": "0.11.6", "name": "old"}
    worker.tell(type="invokefunction", function_id="engine::workers::register", data=about)
    worker.tell(type="registerfunction", id="old::f")
    worker.tell(type="registerfunction", id="old::g")
    caller.tell(type="registerfunction", id="new::f")
    await worker.settled()
    await caller.settled()
    caller.send(b'{"type":"invokefunction","invocation_id":"i","function_id":"old::f","data":%s}' % FATAL[what])
    answer = await caller.receive("invocationresult")
    assert answer["error"]["code"] == "payload_too_large"
    assert "cannot read" in answer["error"]["message"]
    caller.send(b'{"type":"invokefunction","function_id":"old::f","data":%s,"action":{"type":"void"}}' % FATAL[what])
    worker.tell(type="invokefunction", invocation_id="j", function_id="new::f")
    await caller.receive("invokefunction")
    caller.send(b'{"type":"invocationresult","invocation_id":"j","function_id":"new::f","result":%s}' % FATAL[what])
    answer = await worker.receive("invocationresult")
    assert (answer["invocation_id"], answer["error"]["code"]) == ("j", "payload_too_large")
    large = {"text": "x" * 10_000, "digits": "1" * 4000, "flat": [{"n": 10**4000 // 7}] * 20 + [[]] * 600}
    caller.tell(type="invokefunction", invocation_id="k", function_id="old::g", data=large)
    assert (await worker.receive("invokefunction"))["data"]["flat"] == large["flat"]


# HTTP


@pytest.fixture
async def rest(running):
    """An engine with the routes ``/pub/:name`` and ``/secret``; the requests that reach the function are gathered."""
    worker, seen = await running.connect(), []
    await worker.send(type="registerfunction", id="h::f")
    for method in ("GET", "POST"):
        for path in ("/pub/:name", "/secret"):
            config = {"api_path": path, "http_method": method}
            await worker.send(
                type="registertrigger", id=f"{method} {path}", trigger_type="http", function_id="h::f", config=config
            )
    await worker.settled()

    async def work():
        while True:
            message = json.loads(await worker.socket.recv())
            if message["type"] == "invokefunction":
                data = message["data"]
                seen.append((data["path"], data["path_params"].get("name")))
                running.headers = data["headers"]
                await worker.send(
                    type="invocationresult",
                    invocation_id=message["invocation_id"],
                    function_id="h::f",
                    result={"body": "done"},
                )

    working = asyncio.create_task(work())
    running.seen = seen
    yield running
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


def statuses(answer):
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (b"/pub/../secret", 400),
        (b"/pub/%2e%2e/secret", 400),
        (b"/pub/%2E./secret", 400),
        (b"/./secret", 400),
        (b"/pub/a%00b", 400),
        (b"/pub/%c0%af", 400),
        (b"/pub/%ff", 400),
        (b"/pub/\xff", 400),
        (b"/" + b"a/" * 1000, 400),
        (b"secret", 400),
        (b"/secret\0", 400),
        (b"/sec ret", 400),
        (b"/secret\t", 400),
        (b"//secret", 404),
        (b"/secret/", 404),
        (b"http://h//secret", 404),
        (b"/pub%2Fa", 404),
        (b"*", 404),
        (b"/pub/a%2Fb", ("/pub/:name", "a/b")),
        (b"/pub/..%2fsecret", ("/pub/:name", "../secret")),
        (b"/pub/%252e%252e", ("/pub/:name", "%2e%2e")),
        (b"/pub/%zz", ("/pub/:name", "%zz")),
        (b"/pub/a;b", ("/pub/:name", "a;b")),
        (b"/pub/x?/../../secret", ("/pub/:name", "x")),
        (b"/pub/x#/../secret", ("/pub/:name", "x")),
        (b"/%73ecret", ("/secret", None)),
    ],
)
async def test_no_spelling_of_a_path_reaches_another_route(rest, target, reached):
    answer = await rest.http(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    if isinstance(reached, int):
        assert (statuses(answer), rest.seen) == ([reached], [])
    else:
        assert (statuses(answer), rest.seen) == ([200], [reached])


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "rest_of_head",
    [
        b"Content-Length: 3, 3\r\n\r\nabc",
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length: 0x3\r\n\r\nabc",
        b"Content-Length: 3 3\r\n\r\nabc",
        b"Content-Length: \r\n\r\n",
        b"Content-Length: \xb3\r\n\r\nabc",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n",
        CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
        b"X: a\r\n b: c\r\n\r\n",
        b"X: a\nY: b\r\n\r\n",
        b"X: a\rY: b\r\n\r\n",
        b"X: a\0b\r\n\r\n",
        b": b\r\n\r\n",
        b"no colon\r\n\r\n",
        b"\n",
    ],
)
async def test_a_request_whose_end_two_parsers_could_see_at_two_places_hides_no_other(rest, rest_of_head):
    hidden = b"GET /secret HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = await rest.http(b"POST /pub/a HTTP/1.1\r\nHost: h\r\n" + rest_of_head + hidden)
    assert statuses(answer) == [400]
    assert ("/secret", None) not in rest.seen


async def test_what_follows_a_closing_or_upgrading_request_is_no_request(rest):
    hidden = b"GET /secret HTTP/1.1\r\nHost: h\r\n\r\n"
    for header in (b"Connection: close", b"Connection: upgrade\r\nUpgrade: websocket"):
        answer = await rest.http(b"GET /pub/a HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n\r\n" + hidden)
        assert statuses(answer) == [200]
    assert rest.seen == [("/pub/:name", "a")] * 2


async def test_clients_that_send_a_byte_now_and_then_delay_no_other_request(rest):
    slow = [await asyncio.open_connection("127.0.0.1", rest.ports.http) for _ in range(50)]
    request = b"GET /pub/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    for at in range(0, len(request) - 1, 4):
        for _, writer in slow:
            writer.write(request[at : at + 4] if at + 4 < len(request) else request[at:-1])
        before = time.monotonic()
        assert statuses(await rest.http(request)) == [200]
        assert time.monotonic() - before < 2
    for reader, writer in slow:
        writer.write(request[-1:])
        assert statuses(await asyncio.wait_for(reader.read(), 10)) == [200]
        writer.close()


async def test_trailers_never_pass_for_headers_and_are_bounded(rest):
    head = b"POST /pub/a HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\n" + CHUNKED
    head += b"2\r\n{}\r\n"
    answer = await rest.http(head + b"0\r\nX-User: admin\r\nContent-Type: text/plain\r\n\r\n")
    assert statuses(answer) == [200]
    assert "x-user" not in rest.headers
    assert rest.headers["content-type"] == "application/json"
    for endless in (b"0\r\nX: " + b"a" * 1_000_000, b"0\r\n" + b"X: a\r\n" * 200_000, b"5;" + b"a" * 1_000_000):
        assert statuses(await rest.http(head + endless)) == [431]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
    ],
)
async def test_what_a_proxy_could_read_otherwise_is_refused(run_engine, head, status):
    running = await run_engine()
    assert (await running.http(head)).startswith(b"HTTP/1.1 " + status)


async def test_a_flood_of_pipelined_requests_is_answered_in_order_and_delays_no_other(rest):
    request = b"GET /pub/a HTTP/1.1\r\nHost: h\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.ports.http)
    writer.write(request * 3000 + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    for _ in range(5):
        before = time.monotonic()
        assert statuses(await rest.http(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) == [200]
        assert time.monotonic() - before < 2
    async with asyncio.timeout(30):
        assert statuses(await reader.read()) == [200] * 3001
    writer.close()


async def test_a_client_that_is_asked_for_its_body_and_sends_nothing_is_given_up(rest):
    rest.engine.modules["http"].server.read_timeout = 0.5
    head = b"Host: h\r\nContent-Type: application/json\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    answer = await rest.http(b"POST /pub/a HTTP/1.1\r\n" + head)
    assert statuses(answer) == [100, 408]
    answer = await rest.http(b"POST /nowhere HTTP/1.1\r\n" + head)
    assert statuses(answer) == [404], "nobody has the route, so the body is not asked for"
    assert rest.seen == []
