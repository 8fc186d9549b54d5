"""What the messages of one read bring about goes out together: in order, all of it, and never beyond a bound."""

import asyncio
import json
import ssl

import pytest
from agentos_engine.server import gathering
from agentos_engine.server.gathering import Gathering, text_frames

from tests.certificates import Authority

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Outlet:
    """Keeps what was written, one list for each flush."""

    def __init__(self):
        self.gathered, self.writes = [], []

    def flush(self):
        self.writes.append(self.gathered)
        self.gathered = []


@pytest.fixture
async def running(run_engine):
    """An open engine."""
    return await run_engine()


def framed(opcode: int = 1, **message) -> bytes:
    """A frame as a client sends it, with a mask of zeros."""
    body = json.dumps(message).encode() if message else b""
    size = len(body)
    return (
        bytes((0x80 | opcode,))
        + (bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2))
        + bytes(4)
        + body
    )


def called(number: int, function_id: str) -> bytes:
    return framed(type="invokefunction", invocation_id=f"i-{number}", function_id=function_id, data={"n": number})


async def raw(running, context=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers, ssl=context)
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    await read_frame(reader)  # the greeting
    return reader, writer


async def read_frame(reader) -> tuple[int, bytes]:
    async with asyncio.timeout(10):
        opcode, size = await reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        return opcode & 15, await reader.readexactly(size)


async def test_what_is_gathered_is_written_at_the_end_one_write_for_each_socket():
    gathered, first, second = Gathering(), Outlet(), Outlet()
    gathered.begin()
    for outlet, frame in ((first, b"1"), (second, b"2"), (first, b"3")):
        gathered.add(outlet, frame)
    assert first.writes == second.writes == []
    gathered.end()
    gathered.end()
    assert (first.writes, second.writes) == ([[b"1", b"3"]], [[b"2"]])
    assert not gathered.on


async def test_without_an_end_it_is_written_in_the_same_turn_of_the_loop():
    gathered, outlet = Gathering(), Outlet()
    gathered.begin()
    gathered.add(outlet, b"1")
    await asyncio.sleep(0)
    assert outlet.writes == [[b"1"]]
    assert not gathered.on


async def test_more_than_the_bound_is_not_kept():
    gathered, outlet = Gathering(), Outlet()
    gathered.begin()
    for _ in range(5):
        gathered.add(outlet, bytes(gathering.MAX_BYTES // 2 + 1))
    assert [len(each) for each in outlet.writes] == [2, 2]
    assert len(outlet.gathered) == 1


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
async def test_gathered_frames_are_what_a_websocket_reads(size):
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(text_frames([b"a" * size, b"next"])))
    assert [await read_frame(reader), await read_frame(reader)] == [(1, b"a" * size), (1, b"next")]


async def test_calls_that_come_in_one_read_reach_worker_and_caller_in_order(running):
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()
    reader, writer = await raw(running)
    writer.write(b"".join(called(number, "a::f") for number in range(200)))
    for number in range(200):
        call = await worker.receive("invokefunction")
        assert call["data"]["n"] == number
        ids = {"invocation_id": call["invocation_id"], "function_id": "a::f"}
        await worker.send(type="invocationresult", result=number, **ids)
    answers = [json.loads((await read_frame(reader))[1]) for _ in range(200)]
    assert [(each["invocation_id"], each["result"]) for each in answers] == [(f"i-{n}", n) for n in range(200)]
    writer.close()


async def test_over_tls_too_the_answers_of_one_read_come_whole_and_in_order(run_engine, tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    running = await run_engine("--tls-cert", str(cert), "--tls-key", str(key))
    reader, writer = await raw(running, ssl.create_default_context(cafile=authority.ca))
    writer.write(b"".join(called(number, "nobody::has_it") for number in range(200)))
    answers = [json.loads((await read_frame(reader))[1]) for _ in range(200)]
    assert [each["invocation_id"] for each in answers] == [f"i-{number}" for number in range(200)]
    writer.close()


async def test_a_fault_behind_a_call_in_the_same_read_does_not_hold_the_call_back(running):
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()
    _, writer = await raw(running)
    writer.write(called(1, "a::f") + called(2, "a::f") + b"\x81\x01a")  # the last frame has no mask
    assert (await worker.receive("invokefunction"))["data"]["n"] == 1
    writer.close()


async def test_answers_go_out_before_the_close_frame_that_was_asked_for_in_the_same_read(running):
    reader, writer = await raw(running)
    writer.write(framed(type="ping") + framed(type="ping") + framed(opcode=8))
    assert [(await read_frame(reader))[0] for _ in range(3)] == [1, 1, 8]
    writer.close()
