"""Data channels: the two ends in every order, their bounds, and the WebSockets that workers open."""

import asyncio
import contextlib
import itertools
import os
import socket
import struct

import picows
import pytest
import websockets
from agentos_engine import limits
from agentos_engine.builtins import channels as builtin
from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import BYTES_PER_PLACE, Channels, Writer
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context
from agentos_engine.clock import ManualClock
from agentos_engine.limits import Limits
from agentos_engine.server.channels import ChannelSocket, ReaderSocket, WriterSocket, accept_channel


@pytest.fixture
def channels():
    """Channels, and a clock that stands still."""
    channels = Channels(ManualClock())
    yield channels
    channels.close()


class Ends:
    """Both ends of a channel, and what they were told."""

    def __init__(self, channel) -> None:
        self.channel = channel
        self.frames: list[tuple[bytes, bool]] = []
        self.ends: list[bool] = []
        self.closed = self.writable = 0
        self.writer = self.reader = None

    def open_writer(self):
        def closed() -> None:
            self.closed += 1

        def writable() -> None:
            self.writable += 1

        self.writer = self.channel.open_writer(writable, closed)
        return self.writer

    def open_reader(self):
        def take(data: bytes, text: bool) -> None:
            assert not self.ends, "a frame after the end"
            self.frames.append((data, text))

        self.reader = self.channel.open_reader(take, self.ends.append)
        return self.reader

    def do(self, step: str) -> None:
        """Carry out one step of an order."""
        {
            "open writer": self.open_writer,
            "write 1": lambda: self.writer.write(b"1", text=True),
            "write 2": lambda: self.writer.write(b"2"),
            "finish": lambda: self.writer.finish(),
            "abort": lambda: self.writer.abort(),
            "open reader": self.open_reader,
            "resume": lambda: self.reader.resume(),
            "close": lambda: self.reader.close(),
            "discard": self.channel.discard,
        }[step]()


SENT = [(b"1", True), (b"2", False)]
ORDERS = [
    [*merged]
    for last in ("finish", "abort")
    for merged in itertools.permutations(["open writer", "write 1", "write 2", last, "open reader", "resume"])
    if [each for each in merged if "read" not in each and each != "resume"]
    == ["open writer", "write 1", "write 2", last]
    and merged.index("open reader") < merged.index("resume")
]


@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_the_reader_gets_all_frames_in_order_and_then_how_it_ended_whatever_comes_first(channels, order):
    ends = Ends(channels.create())
    for step in order:
        ends.do(step)
    assert ends.frames == SENT
    assert ends.ends == ["finish" in order]
    assert ends.closed == 0, "a writer that ended is told nothing"
    assert (len(channels), channels.buffered) == (0, 0)


@pytest.mark.parametrize("stop", ["close", "discard"])
@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_closing_or_discarding_at_any_moment_leaves_nothing_and_tells_each_open_end_once(channels, order, stop):
    first = order.index("open reader") + 1 if stop == "close" else 0
    for position in range(first, len(order) + 1):
        ends = Ends(channels.create())
        for step in order[:position]:
            ends.do(step)
        frames, had_end = list(ends.frames), list(ends.ends)
        is_writing = ends.writer is not None and not {"finish", "abort"} & set(order[:position])
        is_reading = ends.reader is not None and not had_end
        ends.do(stop)
        assert ends.closed == is_writing
        assert ends.ends == had_end + ([False] if is_reading and stop == "discard" else [])
        assert (len(channels), channels.buffered) == (0, 0)
        for step in order[position:]:
            if (ends.reader or step not in ("resume", "close")) and (ends.writer or "read" in step):
                ends.do(step)
        ends.channel.discard()
        assert ends.frames == frames
        assert ends.closed == is_writing
        assert (len(channels), channels.buffered) == (0, 0)


def test_each_end_is_taken_once(channels):
    ends = Ends(channels.create())
    assert ends.open_writer() is not None
    assert ends.open_reader() is not None
    assert ends.channel.open_writer() is None
    assert ends.channel.open_reader(lambda data, text: None, lambda clean: None) is None


def test_the_refs_hold_the_keys_that_sdks_look_for_and_open_the_channel(channels):
    channel = channels.create()
    writer, reader = channel.writer_ref(), channel.reader_ref()
    assert writer == {"channel_id": channel.id, "access_key": channel.key, "direction": "write"}
    assert reader == {**writer, "direction": "read"}
    assert channels.find(writer["channel_id"], writer["access_key"]) is channel
    for key in ("", channel.key[:-1], channel.key + "0", "ключ", channel.id):
        assert channels.find(channel.id, key) is None
    assert channels.find("nope", channel.key) is None
    assert channels.create().key != channel.key


@pytest.mark.parametrize("size", [1, 3, 64, 1024])
def test_a_channel_is_full_with_as_many_frames_as_its_buffer_size_and_writable_again_when_half_empty(channels, size):
    ends = Ends(channels.create(size))
    writer = ends.open_writer()
    assert [writer.write(b"x") for _ in range(size)] == [True] * (size - 1) + [False]
    assert not writer.write(b"read before the pause"), "taken all the same"
    ends.open_reader().resume()
    assert len(ends.frames) == size + 1
    assert ends.writable == 1
    assert writer.write(b"y")


def test_a_reader_that_takes_a_little_lets_the_writer_wait_until_there_is_real_room(channels):
    ends = Ends(channels.create(8))
    writer = ends.open_writer()
    while writer.write(b"x"):
        pass
    taken = []

    def take_one(data: bytes, text: bool) -> None:
        taken.append(data)
        reader.pause()

    reader = ends.channel.open_reader(take_one, ends.ends.append)
    writable = []
    for _ in range(8):
        reader.resume()
        writable.append(ends.writable)
    assert writable == [0, 0, 0, 1, 1, 1, 1, 1]
    assert len(taken) == 8


def test_a_channel_is_full_with_few_big_frames_too(channels):
    writer = channels.create(4).open_writer()
    assert writer.write(bytes(3 * BYTES_PER_PLACE))
    assert not writer.write(bytes(BYTES_PER_PLACE))


@pytest.mark.parametrize(("asked", "size"), [(None, 64), (0, 1), (1, 1), (1024, 1024), (5000, 1024), (10**30, 1024)])
def test_the_buffer_size_is_64_unless_asked_for_and_brought_into_1_to_1024(channels, asked, size):
    assert channels.create(asked).buffer_size == size


def test_when_all_channels_together_hold_too_much_each_is_full_with_one_frame(channels):
    channels.max_buffered = 1000
    greedy = channels.create().open_writer()
    assert greedy.write(bytes(900))
    assert not greedy.write(bytes(101))
    ends = Ends(channels.create())
    assert not ends.open_writer().write(b"x"), "it has to wait although nothing else of its own does"
    ends.open_reader().resume()
    assert ends.writable == 1, "and goes on when that is delivered, whatever the others do"
    assert ends.writer.write(b"y")


def test_a_paused_reader_gets_neither_frames_nor_the_end(channels):
    ends = Ends(channels.create())
    ends.open_reader().resume()
    ends.open_writer().write(b"1")
    ends.reader.pause()
    ends.writer.write(b"2")
    ends.writer.finish()
    assert (ends.frames, ends.ends) == ([(b"1", False)], [])
    ends.reader.resume()
    assert (ends.frames, ends.ends) == ([(b"1", False), (b"2", False)], [True])


def test_writing_and_ending_inside_on_writable_keeps_the_order(channels):
    ends = Ends(channels.create(1))
    rest = [b"2", b"3"]

    def go_on() -> None:
        while rest:
            if not writer.write(rest.pop(0)):
                return
        writer.finish()

    writer = ends.channel.open_writer(go_on)
    assert not writer.write(b"1")
    ends.open_reader().resume()
    assert [data for data, _ in ends.frames] == [b"1", b"2", b"3"]
    assert ends.ends == [True]


def test_a_reader_that_fails_is_closed_and_the_writer_told_not_hit(channels):
    ends = Ends(channels.create())
    writer = ends.open_writer()

    def fail(data: bytes, text: bool) -> None:
        raise RuntimeError("no")

    ends.channel.open_reader(fail, fail).resume()
    assert writer.write(b"1")
    assert ends.closed == 1
    assert len(channels) == 0


def test_a_reader_that_pauses_and_resumes_inside_on_frame_gets_one_frame_at_a_time(channels):
    channel = channels.create()
    writer = channel.open_writer()
    taken = []

    def take(data: bytes, text: bool) -> None:
        reader.pause()
        reader.resume()
        taken.append(data)

    reader = channel.open_reader(take, taken.append)
    for data in (b"1", b"2", b"3"):
        writer.write(data)
    writer.finish()
    reader.resume()
    assert taken == [b"1", b"2", b"3", True]


async def test_a_channel_with_an_end_never_taken_is_removed_after_five_minutes_and_its_ends_told():
    clock = ManualClock()
    channels = Channels(clock)
    unused, writing, reading, both = (Ends(channels.create(owner="worker")) for _ in range(4))
    engines_own = channels.create()
    writing.open_writer().write(b"waits")
    reading.open_reader().resume()
    both.open_writer()
    both.open_reader()
    await clock.advance(299)
    assert len(channels) == 5
    await clock.advance(62)
    assert len(channels) == 2
    assert (writing.closed, reading.ends, channels.buffered) == (1, [False], 0)
    assert (both.closed, both.ends) == (0, [])
    assert channels.find(unused.channel.id, unused.channel.key) is None
    assert channels.find(engines_own.id, engines_own.key) is not None, "the engine ends its own itself"
    channels.close()
    assert (both.closed, both.ends) == (1, [False])
    assert len(channels) == 0


def test_the_number_of_channels_is_bounded_for_one_owner_and_for_all():
    channels = Channels(ManualClock(), Bounds(Limits(channels_per_connection=2, channels=5)))
    first = channels.create(owner="a")
    channels.create(owner="a")
    with pytest.raises(BusError, match="a connection has at most 2 open data channels") as caught:
        channels.create(owner="a")
    assert caught.value.code == "limit_exceeded"
    for owner in "bcd":
        channels.create(owner=owner)
    with pytest.raises(BusError, match="all open data channels together are 5 already"):
        channels.create(owner="e")
    channels.create()
    first.discard()
    first.discard()
    channels.create(owner="e")
    channels.close()


class Port:
    """A WebSocket port that serves channels alone."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.bounds = Bounds()
        self.open: set[ChannelSocket] = set()
        self.number = 0
        self.clients: list = []

    async def listen(self) -> asyncio.Server:
        server = await picows.ws_create_server(
            self._accept, "127.0.0.1", 0, disconnect_on_exception=False, max_frame_size=64 << 20
        )
        self.number = server.sockets[0].getsockname()[1]
        return server

    def _accept(self, request):
        return accept_channel(self.channels, request.path, self.open.add, self.open.discard, self.bounds)

    def path(self, ref) -> str:
        return f"/ws/channels/{ref['channel_id']}?key={ref['access_key']}&dir={ref['direction']}"

    def end(self, kind: type[ChannelSocket]) -> ChannelSocket:
        """The engine's side of the one open end of this kind."""
        (end,) = [each for each in self.open if isinstance(each, kind)]
        return end

    async def connect(self, ref, prefix: str = "", **options):
        """Open an end as a worker does."""
        url = f"ws://127.0.0.1:{self.number}{prefix}{self.path(ref)}"
        client = await websockets.connect(url, **{"max_size": None, **options})
        self.clients.append(client)
        return client

    async def connect_raw(self, ref):
        """Open an end without a WebSocket library."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        request = (
            f"GET {self.path(ref)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        writer.write(request.encode())
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        self.clients.append(writer)
        return reader, writer


@pytest.fixture
async def port(channels):
    """The port, open."""
    port = Port(channels)
    server = await port.listen()
    yield port
    for client in port.clients:
        client.transport.abort()
    await eventually(lambda: not port.open, "all sockets have ended")
    assert channels.buffered == 0
    server.close()


async def eventually(probe, what: str, seconds: float = 10.0) -> None:
    """Return once a probe is true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not probe():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


async def drain(reader) -> list:
    """Return all messages until the close."""
    async with asyncio.timeout(30):
        return [message async for message in reader]


def frame(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = struct.pack(">BQ", 0xFF, len(data)) if len(data) > 65535 else struct.pack(">BH", 0xFE, len(data))
    if len(data) < 126:
        size = bytes([0x80 | len(data)])
    return bytes([opcode | 0x80 * fin]) + size + bytes(4) + data


@pytest.mark.parametrize("first", ["reader", "writer"])
async def test_text_and_binary_messages_arrive_in_order_with_their_type_and_close_comes_last(port, first):
    channel = port.channels.create()
    messages = ["начало", b"\x00\xff", "", b"", *(os.urandom(70_000) for _ in range(5)), '{"type":"end"}']
    reader = await port.connect(channel.reader_ref()) if first == "reader" else None
    writer = await port.connect(channel.writer_ref())
    for message in messages:
        await writer.send(message)
    await writer.close(1000, "stream_complete")
    reader = reader or await port.connect(channel.reader_ref())
    assert await drain(reader) == messages
    assert reader.close_code == 1000
    await eventually(lambda: len(port.channels) == 0, "the channel is gone")


async def test_an_end_is_found_below_a_token_path_and_after_other_parameters(port):
    channel = port.channels.create()
    writer = await port.connect(channel.writer_ref(), prefix="/w/token/pod-1")
    await writer.send("x")
    await writer.close()
    path = port.path(channel.reader_ref()).replace("?", "?token=abc&")
    reader = await websockets.connect(f"ws://127.0.0.1:{port.number}{path}")
    assert await drain(reader) == ["x"]


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (("key=", "key=0"), 404, b"Channel not found"),
        (("key=", "k="), 404, b"Channel not found"),
        (("/ws/channels/", "/ws/channels/0"), 404, b"Channel not found"),
        (("&dir=read", ""), 400, b"dir has to be read or write"),
        (("dir=read", "dir=both"), 400, b"dir has to be read or write"),
        (("?", "?" + "a=1&" * 50), 400, b"more than 32 query parameters"),
    ],
)
async def test_a_wrong_request_is_refused_before_the_upgrade(port, change, status, text):
    path = port.path(port.channels.create().reader_ref()).replace(*change)
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"ws://127.0.0.1:{port.number}{path}")
    assert caught.value.response.status_code == status
    assert text in caught.value.response.body


async def test_a_second_connection_to_a_taken_end_is_upgraded_and_closed_and_does_not_disturb_the_first(port):
    channel = port.channels.create()
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    for ref in (channel.writer_ref(), channel.reader_ref()):
        second = await port.connect(ref)
        assert await drain_closed(second) == 1008
    await writer.send("still here")
    await writer.close()
    assert await drain(reader) == ["still here"]


async def drain_closed(client) -> int:
    """Return the code with which the engine closes."""
    async with asyncio.timeout(10):
        await client.wait_closed()
    return client.close_code


async def test_when_the_reader_closes_the_writer_is_closed(port):
    channel = port.channels.create()
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    await reader.close()
    assert await drain_closed(writer) == 1000
    with pytest.raises(websockets.ConnectionClosed):
        await writer.send("x")
    assert len(port.channels) == 0


async def test_when_the_reader_vanishes_a_writer_that_waits_is_closed_too(port, monkeypatch):
    monkeypatch.setattr("agentos_engine.limits.CLOSE_TIMEOUT", 60)
    channel = port.channels.create(1)
    reader, writer = await port.connect(channel.reader_ref()), await port.connect(channel.writer_ref())
    reader.transport.pause_reading()
    flood = asyncio.ensure_future(send_until_closed(writer))
    await eventually(lambda: port.channels.buffered > 0, "the writer has to wait")
    reader.transport.abort()
    async with asyncio.timeout(10):
        await flood
    await eventually(lambda: not port.open, "the engine has read the writer's answer to its close frame")


async def send_until_closed(writer) -> None:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await writer.send(bytes(65536))


@pytest.mark.parametrize("how", ["reset", "going away"])
async def test_when_the_writer_vanishes_the_reader_gets_what_was_sent_and_a_close_that_says_so(port, how):
    channel = port.channels.create()
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    await writer.send("part")
    assert await reader.recv() == "part"
    if how == "reset":
        writer.transport.abort()
    else:
        await writer.close(1001)
    assert await drain_closed(reader) == 1011


async def test_a_channel_that_is_discarded_closes_both_ends(port):
    channel = port.channels.create()
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    channel.discard()
    assert (await drain_closed(writer), await drain_closed(reader)) == (1000, 1011)


async def test_a_writer_waits_for_a_reader_that_does_not_read_and_nothing_is_lost(port):
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref(), max_queue=1)
    reader.transport.pause_reading()
    writer = await port.connect(channel.writer_ref())
    total = 800
    sent = 0

    async def send() -> None:
        nonlocal sent
        for number in range(total):
            await writer.send(struct.pack(">I", number) * 16384)
            sent = number + 1
        await writer.close()

    sending = asyncio.ensure_future(send())
    end = next(each for each in port.open if isinstance(each._writer if hasattr(each, "_writer") else None, Writer))
    await eventually(lambda: end.is_held_up and writer.transport.get_write_buffer_size() > 0, "the writer has to wait")
    waiting = sent
    assert waiting < total, "50 MB are not in the engine"
    assert port.channels.buffered < 6 << 20
    reader.transport.resume_reading()
    got = await drain(reader)
    await sending
    assert got == [struct.pack(">I", number) * 16384 for number in range(total)]


async def test_a_reader_that_takes_longer_than_the_close_timeout_still_gets_all(port, monkeypatch):
    monkeypatch.setattr("agentos_engine.limits.CLOSE_TIMEOUT", 0.05)
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref(), max_queue=1)
    reader.transport.pause_reading()
    end, writer = port.end(ReaderSocket), channel.open_writer()
    count = 0
    while not end._transport.underlying_transport.get_write_buffer_size():
        writer.write(bytes(16384))
        count += 1
    writer.finish()
    loop = asyncio.get_running_loop()
    later = loop.time() + 0.3
    await eventually(lambda: loop.time() > later, "the time has passed")
    reader.transport.resume_reading()
    assert await drain(reader) == [bytes(16384)] * count
    assert reader.close_code == 1000


async def test_megabyte_messages_and_fifty_megabytes_pass_through(port):
    channel = port.channels.create(4)
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    block = os.urandom(1 << 20)

    async def send() -> None:
        for _ in range(50):
            await writer.send(block)
        await writer.close()

    sending = asyncio.ensure_future(send())
    got = await drain(reader)
    await sending
    assert len(got) == 50
    assert all(each == block for each in got)


async def test_fragments_are_put_together(port):
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref())
    writer = await port.connect(channel.writer_ref())
    await writer.send(["при", "вет"])
    await writer.send([b"a" * 70_000, b"", b"b"])
    await writer.close()
    assert await drain(reader) == ["привет", b"a" * 70_000 + b"b"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"\xd0", fin=False) + frame(0, b"\xd0"), 1007),
        (frame(0, b"x"), 1002),
        (frame(1, b"x", fin=False) + frame(2, b"y"), 1002),
        (frame(2 | 0x40, b"x"), 1002),
    ],
)
async def test_a_writer_that_breaks_the_protocol_is_closed_and_the_reader_keeps_what_came_before(port, frames, code):
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref())
    stream, raw = await port.connect_raw(channel.writer_ref())
    raw.write(frame(2, b"good") + frames)
    async with asyncio.timeout(10):
        opcode, _, answer = struct.unpack(">BBH", await stream.readexactly(4))
    assert (opcode, answer) == (0x88, code)
    assert await drain_frames(reader) == [b"good"]
    assert reader.close_code == 1011


async def drain_frames(reader) -> list:
    """Return all messages until the close, of whatever code."""
    got = []
    try:
        async with asyncio.timeout(10):
            while True:
                got.append(await reader.recv())
    except websockets.ConnectionClosed:
        return got


async def test_a_message_beyond_the_bound_ends_the_writer(port):
    port.bounds = Bounds(Limits(message_bytes=1000))
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref())
    writer = await port.connect(channel.writer_ref())
    await writer.send([b"x" * 600, b"x" * 600])
    assert await drain_closed(writer) == 1009
    assert await drain_closed(reader) == 1011


async def test_what_a_writer_sent_before_a_reset_is_delivered_although_the_engine_had_stopped_reading(port):
    ends = Ends(port.channels.create())
    ends.open_reader()
    _, raw = await port.connect_raw(ends.channel.writer_ref())
    raw.write(b"".join(frame(2, bytes(4000)) for _ in range(100)) + frame(8, struct.pack(">H", 1000)))
    await raw.drain()
    await eventually(lambda: raw.transport.get_write_buffer_size() == 0, "all is in the kernel")
    raw.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.transport.abort()
    await eventually(lambda: port.channels.buffered >= 64 * 4000, "the channel is full")
    ends.reader.resume()
    await eventually(lambda: ends.ends, "the end")
    assert len(ends.frames) == 100
    assert ends.ends == [True]


async def test_a_reset_right_after_data_is_noticed_at_the_next_ping_and_the_data_delivered(port):
    ends = Ends(port.channels.create())
    ends.open_reader().resume()
    _, raw = await port.connect_raw(ends.channel.writer_ref())
    end = port.end(WriterSocket)
    raw.write(frame(2, b"last words"))
    raw.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.transport.abort()
    await eventually(lambda: ends.frames == [(b"last words", False)], "the data")
    await eventually(lambda: end.ping(99) or ends.ends == [False], "the end")


async def test_the_engine_itself_is_either_end(port):
    ends = Ends(port.channels.create())
    writer = await port.connect(ends.channel.writer_ref())
    ends.open_reader().resume()
    await writer.send("from the worker")
    await writer.close()
    await eventually(lambda: ends.ends, "the end")
    assert (ends.frames, ends.ends) == ([(b"from the worker", True)], [True])

    ends = Ends(port.channels.create())
    ends.open_writer().write(b"from the engine")
    ends.writer.write(b"{}", text=True)
    ends.writer.finish()
    assert await drain(await port.connect(ends.channel.reader_ref())) == [b"from the engine", "{}"]


async def test_a_peer_that_answers_no_ping_is_cut_but_one_that_does_is_not(port, monkeypatch):
    monkeypatch.setattr("agentos_engine.server.channels.RECENT", 0.0)
    alive, dead = port.channels.create(), port.channels.create()
    living = await port.connect(alive.reader_ref())
    await port.connect_raw(dead.writer_ref())
    for _ in range(4):
        for each in list(port.open):
            each.ping(2)
        await (await living.ping())  # the engine has had the answers to its own pings, which went before
    await eventually(lambda: len(port.open) == 1, "the silent one is cut")
    assert await (await living.ping()) >= 0


async def test_ends_that_wait_for_one_another_are_not_taken_for_dead(port):
    channel = port.channels.create(1)
    reader = await port.connect(channel.reader_ref(), max_queue=1)
    reader.transport.pause_reading()
    writer = await port.connect(channel.writer_ref())
    sending = asyncio.ensure_future(send_until_closed(writer))
    await eventually(lambda: all(each.is_held_up for each in port.open), "both ends wait")
    for _ in range(50):
        for each in list(port.open):
            each.ping(2)
    reader.transport.resume_reading()
    for _ in range(400):  # more than the kernel may hold for ends that were cut
        assert await asyncio.wait_for(reader.recv(), 10) == bytes(65536)
    reader.transport.abort()
    await sending


async def test_a_reader_still_at_work_on_what_it_got_is_not_taken_for_dead(port):
    channel = port.channels.create()
    reader = await port.connect(channel.reader_ref())
    writer = await port.connect(channel.writer_ref())
    reader.transport.pause_reading()
    await writer.send("a long job")
    end = port.end(ReaderSocket)
    await eventually(lambda: end.sent == 1, "it is sent")
    for _ in range(10):
        end.ping(2)
    await (await writer.ping())  # had the reader been cut, that would have happened by now
    reader.transport.resume_reading()
    await writer.close()
    assert await drain(reader) == ["a long job"]
    assert reader.close_code == 1000


async def test_closing_the_port_closes_the_ends_with_the_code_given(port):
    channel = port.channels.create()
    writer, reader = await port.connect(channel.writer_ref()), await port.connect(channel.reader_ref())
    for each in list(port.open):
        each.close(picows.WSCloseCode.SERVICE_RESTART, "the engine is restarting")
    assert 1012 in (await drain_closed(writer), await drain_closed(reader)), (
        "the other may learn of this one's end first"
    )
    assert len(port.channels) == 0


@pytest.fixture
def create(channels):
    """engine::channels::create as one worker calls it."""
    bus = Bus()
    builtin.install(bus, channels)
    function = bus.functions.get("engine::channels::create")
    assert function is not None
    return lambda data: function.handler(Context(function.function_id), data)


@pytest.mark.parametrize(
    "data", [b"null", b"{}", b'{"buffer_size":null}', b'{"buffer_size":5,"other":1}', b'{"buffer_size":9999}']
)
def test_create_answers_with_both_refs(create, channels, data):
    refs = create(data)
    assert set(refs) == {"writer", "reader"}
    assert (refs["writer"]["direction"], refs["reader"]["direction"]) == ("write", "read")
    assert channels.find(refs["reader"]["channel_id"], refs["writer"]["access_key"]) is not None


@pytest.mark.parametrize("data", [b"7", b'{"buffer_size":"5"}', b'{"buffer_size":-1}', b'{"buffer_size":1.5}', b"{"])
def test_create_refuses_what_it_cannot_read(create, channels, data):
    with pytest.raises(BusError, match="Failed to deserialize input for engine::channels::create: ") as caught:
        create(data)
    assert caught.value.code == "deserialization_error"
    assert len(channels) == 0


def test_create_is_bounded(create):
    for _ in range(limits.DEFAULT.channels_per_connection):
        create(b"{}")
    with pytest.raises(BusError) as caught:
        create(b"{}")
    assert caught.value.code == "limit_exceeded"
