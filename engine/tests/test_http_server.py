import asyncio
import json
import re
import socket

import pytest
from agentos_engine import limits
from agentos_engine.protocol.http import Response
from agentos_engine.server.http import HttpServer
from agentos_engine.server.http_body import HIGH_WATER, PIECE


class Rest:
    """An HTTP server whose handler answers with what it was asked, or keeps the request when the path says so."""

    def __init__(self, **options):
        self.kept = []
        self.abandoned = 0
        self.server = HttpServer(self._handle, headers=lambda request: b"x-common: 1\r\n", **options)
        self.port = 0

    def _handle(self, exchange):
        request = exchange.request
        if request.path == "/bug":
            raise RuntimeError("a bug")
        if request.path == "/keep":
            exchange.on_abandoned = self._abandon
            self.kept.append(exchange)
            return
        size = request.query if request.path == "/big" else ""
        said = {"method": request.method, "path": request.path, "query": request.query, "size": len(request.body)}
        body = b"x" * int(size) if size else json.dumps(said).encode()
        exchange.respond(Response(200, [("content-type", "text/plain")], body))

    def _abandon(self):
        self.abandoned += 1

    async def send(self, *parts, until=None):
        """Send bytes, in parts; return all that comes back until the server closes, or until it ends with a text."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        answer = b""
        async with asyncio.timeout(10):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            while chunk := await reader.read(65536):
                answer += chunk
                if until is not None and until in answer:
                    break
        writer.close()
        return answer


@pytest.fixture
async def start():
    """Starts a server with these options."""
    servers = []

    async def start(**options):
        rest = Rest(**options)
        servers.append(rest.server)
        rest.port = await rest.server.listen("127.0.0.1", 0)
        return rest

    yield start
    for server in servers:
        await server.close()


async def holds(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


GET = b"GET /a?b=1#f HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def test_requests_on_one_connection_are_answered_in_order(start):
    rest = await start()
    answer = await rest.send(GET + GET + LAST)
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b"x-common: 1\r\n") == 3
    assert b'"path": "/a", "query": "b=1"' in answer
    assert answer.count(b"connection: close\r\n") == 1


async def test_a_pipelined_request_waits_for_the_one_before_it(start):
    rest = await start()
    sending = asyncio.create_task(rest.send(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n" + LAST))
    await holds(lambda: rest.kept)
    rest.kept[0].respond(Response(201))
    assert statuses(await sending) == [201, 200]


async def test_a_request_in_single_bytes_and_a_chunked_body_are_read(start):
    rest = await start()
    assert statuses(await rest.send(*(bytes([each]) for each in LAST))) == [200]
    chunked = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = await rest.send(chunked, b"5\r\nhello\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n")
    assert b'"size": 8' in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_what_is_no_request_is_answered_with_400_and_the_connection_closed(start, request_bytes):
    rest = await start()
    answer = await rest.send(request_bytes, until=b"}")
    assert statuses(answer) == [400]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "BAD_REQUEST"


async def test_requests_before_a_bad_one_are_answered_first(start):
    rest = await start()
    sending = asyncio.create_task(rest.send(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n" + GET + b"garbage\r\n\r\n"))
    await holds(lambda: rest.kept)
    rest.kept[0].respond(Response(201))
    assert statuses(await sending) == [201, 200, 400]


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: h\r\n", *(b"X: " + b"a" * 1000 + b"\r\n" for _ in range(70))),
        (b"GET /" + b"a" * 70_000,),
    ],
)
async def test_headers_are_bounded(start, parts):
    rest = await start()
    assert statuses(await rest.send(*parts)) == [431]


async def test_bodies_are_bounded_told_or_not(start):
    rest = await start()
    told = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (limits.MAX_HTTP_BODY + 1)
    assert statuses(await rest.send(told)) == [413]
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    untold = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(await rest.send(untold, *[chunk] * 17)) == [413]


async def test_a_body_of_the_greatest_size_is_taken_after_100_continue(start):
    rest = await start()
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    answer = await rest.send(head % limits.MAX_HTTP_BODY, b"x" * limits.MAX_HTTP_BODY)
    assert statuses(answer) == [100, 200]
    assert b'"size": %d' % limits.MAX_HTTP_BODY in answer


async def test_an_offered_upgrade_is_declined_by_answering(start):
    rest = await start()
    upgrade = b"GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    answer = await rest.send(upgrade)
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


async def test_head_and_bodiless_statuses_have_no_body(start):
    rest = await start()
    answer = await rest.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 5" in answer
    sending = asyncio.create_task(rest.send(b"GET /keep HTTP/1.0\r\n\r\n"))
    await holds(lambda: rest.kept)
    rest.kept[0].respond(Response(204, [], b"not sent"))
    answer = await sending
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length" not in answer


async def test_a_function_that_is_too_slow_gives_504_and_is_abandoned(start):
    rest = await start(request_timeout=0.2)
    answer = await rest.send(b"GET /keep HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert statuses(answer) == [504]
    assert rest.abandoned == 1
    rest.kept[0].respond(Response(200))  # late: ignored
    assert statuses(await rest.send(LAST)) == [200]
    assert rest.server.in_progress == 0


async def test_a_client_that_hangs_up_abandons_its_request(start):
    rest = await start()
    _, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    writer.write(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: rest.kept)
    writer.transport.abort()
    await holds(lambda: rest.abandoned == 1)
    rest.kept[0].respond(Response(200))
    assert rest.server.in_progress == 0
    assert not rest.server.connections


async def test_slow_and_silent_clients_are_not_kept(start):
    rest = await start(read_timeout=0.2, idle_timeout=0.2)
    assert statuses(await rest.send(b"GET / HTTP/1.1\r\nHos")) == [408]
    assert statuses(await rest.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")) == [408]
    assert statuses(await rest.send(GET)) == [200]
    assert await rest.send() == b""


async def test_a_client_that_does_not_read_is_cut(start):
    rest = await start(read_timeout=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port, limit=1024)
    writer.write(b"GET /big?30000000 HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: rest.server.requests == 1)
    await holds(lambda: not rest.server.connections)
    writer.close()
    assert reader is not None


async def test_requests_beyond_the_limit_wait_for_a_place_and_those_beyond_the_queue_are_refused(start):
    rest = await start(max_concurrent=2, max_queued=1)
    keeping = [asyncio.create_task(rest.send(b"GET /keep HTTP/1.0\r\n\r\n")) for _ in range(2)]
    await holds(lambda: len(rest.kept) == 2)
    waiting = asyncio.create_task(rest.send(LAST))
    await holds(lambda: rest.server.in_progress == 3)
    answer = await rest.send(LAST)
    assert statuses(answer) == [503]
    assert b"retry-after: 1" in answer
    assert not waiting.done()
    rest.kept[0].respond(Response(200))
    assert statuses(await waiting) == [200]
    rest.kept[1].respond(Response(200))
    assert [statuses(each) for each in await asyncio.gather(*keeping)] == [[200], [200]]
    assert statuses(await rest.send(LAST)) == [200]
    assert rest.server.in_progress == 0


async def test_a_request_for_which_no_place_comes_is_told_so_and_one_whose_client_goes_gives_up_its_turn(start):
    rest = await start(max_concurrent=1, request_timeout=0.6)
    keeping = asyncio.create_task(rest.send(b"GET /keep HTTP/1.0\r\n\r\n"))
    await holds(lambda: rest.kept)
    _, gone = await asyncio.open_connection("127.0.0.1", rest.port)
    gone.write(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: rest.server.in_progress == 2)
    gone.transport.abort()
    await holds(lambda: rest.server.in_progress == 1)
    rest.kept[0].allow(30)
    answer = await rest.send(LAST)
    assert statuses(answer) == [503]
    assert b"OVERLOADED" in answer
    rest.kept[0].respond(Response(200))
    assert statuses(await keeping) == [200]
    assert statuses(await rest.send(LAST)) == [200]
    assert len(rest.kept) == 1


async def test_a_bug_in_the_handler_is_a_500_and_the_server_goes_on(start, caplog):
    rest = await start()
    assert statuses(await rest.send(b"GET /bug HTTP/1.0\r\n\r\n")) == [500]
    assert "a bug" in caplog.text
    assert statuses(await rest.send(LAST)) == [200]


async def test_draining_answers_what_is_in_progress_and_takes_nothing_new(start):
    rest = await start()
    keeping = asyncio.create_task(rest.send(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n"))
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", rest.port)
    await holds(lambda: rest.kept and len(rest.server.connections) == 2)
    draining = asyncio.create_task(rest.server.drain(10))
    async with asyncio.timeout(5):
        assert await idle_reader.read() == b""
    idle_writer.close()
    assert not draining.done()
    with pytest.raises(OSError):
        await rest.send(LAST)
    rest.kept[0].respond(Response(200))
    assert b"connection: close" in await keeping
    await draining


POST = b"POST /keep HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"


async def test_the_bodies_of_all_requests_together_are_bounded_and_released(start):
    rest = await start(max_buffered=1000)
    sending = asyncio.create_task(rest.send(POST % 600 + b"x" * 600, until=b"\r\n\r\n"))
    await holds(lambda: rest.kept)
    assert rest.server.buffered == 600
    answer = await rest.send(POST % 500 + b"x" * 500)
    assert statuses(answer) == [503]
    assert b"retry-after: 1" in answer
    assert rest.server.buffered == 600
    rest.kept.pop().respond(Response(200))
    assert statuses(await sending) == [200]
    assert rest.server.buffered == 0
    _, half_sent = await asyncio.open_connection("127.0.0.1", rest.port)
    half_sent.write(POST % 900 + b"x" * 400)
    await holds(lambda: rest.server.buffered == 400)
    _, in_progress = await asyncio.open_connection("127.0.0.1", rest.port)
    in_progress.write(POST % 500 + b"x" * 500 + POST % 100 + b"x" * 100)
    await holds(lambda: rest.server.buffered == 1000)
    rest.kept.pop().respond(Response(200))
    await holds(lambda: rest.kept)  # the second of the two
    assert rest.server.buffered == 500
    for writer in (half_sent, in_progress):
        writer.transport.abort()
    await holds(lambda: rest.server.buffered == 0)


async def test_a_request_that_is_refused_is_answered_before_its_body_is_read(start):
    rest = await start(refusal=lambda exchange: Response(404) if exchange.request.path == "/none" else None)
    head = b"POST /none HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9999\r\n\r\n"
    assert statuses(await rest.send(head)) == [404]
    assert statuses(await rest.send(GET + head + b"x" * 50)) == [200, 404]
    assert rest.server.buffered == 0


@pytest.mark.parametrize("target", ["http://host/a/b?c=1", "/a/b?c=1"])
async def test_a_target_may_be_absolute_and_a_path_may_hold_a_url(start, target):
    rest = await start()
    answer = await rest.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
    assert b'"path": "/a/b", "query": "c=1"' in answer
    answer = await rest.send(b"GET /to/http://host/a HTTP/1.0\r\n\r\n")
    assert b'"path": "/to/http://host/a"' in answer


async def test_an_http_1_0_client_may_keep_its_connection(start):
    rest = await start()
    kept = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = await rest.send(kept + LAST)
    assert statuses(answer) == [200, 200]
    assert answer.count(b"connection: keep-alive\r\n") == 1


async def test_a_slow_client_gets_the_whole_of_a_large_answer_as_long_as_it_reads_on(start):
    rest = await start(read_timeout=0.5, idle_timeout=0.5)
    reader, writer = await small_window(rest.port)
    writer.write(b"GET /big?12000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    got = b""
    async with asyncio.timeout(60):
        while chunk := await reader.read(1 << 14):
            got += chunk
            if len(got) < 3_000_000:
                await asyncio.sleep(0.01)
    assert len(got.partition(b"\r\n\r\n")[2]) == 12_000_000
    writer.close()


async def small_window(port):
    """Open a connection whose kernel takes little ahead of its reader."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.connect(("127.0.0.1", port))
    return await asyncio.open_connection(sock=sock, limit=8192)


# Streamed responses


CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


def chunks(answer):
    """The chunks of a response, and whether the last one is there."""
    at, found = answer.index(b"\r\n\r\n") + 4, []
    while match := CHUNK.match(answer, at):
        size = int(match[1], 16)
        if size == 0:
            return found, True
        found.append(answer[match.end() : match.end() + size])
        at = match.end() + size + 2
    return found, False


@pytest.fixture
async def stream(start):
    """Sends a request that is kept; returns the kept exchange and the client's reader and writer."""

    async def stream(request=b"GET /keep HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", **options):
        rest = await start(**options)
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
        writer.write(request)
        await holds(lambda: rest.kept)
        return rest, rest.kept[0], reader, writer

    return stream


async def test_a_streamed_response_comes_piece_by_piece_in_chunks(stream):
    rest, exchange, reader, writer = await stream(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
    exchange.start(Response(201, [("content-type", "text/event-stream")]))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"201 Created" in head
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        exchange.write(piece)
        assert await asyncio.wait_for(reader.readexactly(len(piece) + 5), 5) == b"9\r\n%s\r\n" % piece
    exchange.write(b"")  # no last chunk
    exchange.finish()
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"0\r\n\r\n"
    assert rest.server.in_progress == 0
    writer.write(LAST)
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
    writer.close()


async def test_a_streamed_response_that_is_cut_lacks_its_last_chunk(stream):
    _, exchange, reader, writer = await stream()
    exchange.start(Response(200))
    exchange.write(b"some")
    exchange.cut()
    exchange.write(b"more")
    assert chunks(await asyncio.wait_for(reader.read(), 5)) == ([b"some"], False)
    writer.close()


async def test_a_streamed_response_of_a_known_length_has_it_and_one_that_fails_it_is_cut(stream):
    _, exchange, reader, writer = await stream()
    exchange.start(Response(200), 4)
    exchange.write(b"some")
    exchange.finish()
    answer = await asyncio.wait_for(reader.read(), 5)
    assert b"content-length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\nsome")
    writer.close()
    for pieces in ([b"a"], [b"abc", b"de"]):
        rest, exchange, reader, writer = await stream(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
        exchange.start(Response(200), 4)
        for piece in pieces:
            exchange.write(piece)
        exchange.finish()
        answer = await asyncio.wait_for(reader.read(), 5)  # the connection ends
        assert len(answer.partition(b"\r\n\r\n")[2]) < 4
        assert rest.server.in_progress == 0
        writer.close()


async def test_an_http_1_0_client_gets_the_plain_bytes_and_a_reset_when_they_are_not_all(stream):
    _, exchange, reader, writer = await stream(b"GET /keep HTTP/1.0\r\n\r\n")
    exchange.start(Response(200))
    exchange.write(b"some")
    exchange.finish()
    answer = await asyncio.wait_for(reader.read(), 5)
    assert b"chunked" not in answer
    assert answer.endswith(b"\r\n\r\nsome")
    writer.close()
    _, exchange, reader, writer = await stream(b"GET /keep HTTP/1.0\r\n\r\n")
    exchange.start(Response(200))
    exchange.write(b"some")
    exchange.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_a_streamed_response_without_a_body_is_its_head(stream, method, status):
    _, exchange, reader, writer = await stream(method + b" /keep HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    exchange.start(Response(status))
    exchange.write(b"dropped")
    exchange.finish()
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.endswith(b"\r\n\r\n")
    assert (b"chunked" in answer) == (status == 200)
    writer.close()


async def test_a_slow_client_holds_up_the_writer_of_a_streamed_response(start):
    rest = await start(read_timeout=0.5)
    reader, writer = await small_window(rest.port)
    writer.write(b"GET /keep HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    await holds(lambda: rest.kept)
    exchange, written, piece = rest.kept[0], 0, b"x" * 65536

    def go_on():
        nonlocal written
        while written < 200:
            written += 1
            if not exchange.write(piece):
                return
        exchange.finish()

    exchange.on_writable = go_on
    exchange.start(Response(200))
    go_on()
    await asyncio.sleep(0)
    assert written < 150  # of 13 MB, what socket buffers hold and little more
    async with asyncio.timeout(30):
        answer = await reader.read()
    pieces, complete = chunks(answer)
    assert (sum(map(len, pieces)), complete) == (200 * 65536, True)
    writer.close()


async def test_a_client_that_stops_reading_a_streamed_response_is_cut_and_its_handler_told(start):
    rest = await start(read_timeout=0.3)
    _, writer = await small_window(rest.port)
    writer.write(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: rest.kept)
    exchange = rest.kept[0]
    exchange.start(Response(200))
    while exchange.write(b"x" * 65536):
        pass
    await holds(lambda: rest.abandoned == 1)
    assert not rest.server.connections
    writer.close()


async def test_a_stream_outlives_the_request_timeout_but_not_silence(stream):
    rest, exchange, reader, writer = await stream(request_timeout=0.2, stream_timeout=0.8)
    exchange.start(Response(200))
    for _ in range(6):
        exchange.write(b"tick")
        await asyncio.sleep(0.2)
    assert rest.abandoned == 0
    answer = await asyncio.wait_for(reader.read(), 5)
    assert chunks(answer) == ([b"tick"] * 6, False)
    assert rest.abandoned == 1
    writer.close()


async def test_streams_leave_their_places_to_other_requests(stream):
    rest, exchange, reader, writer = await stream(max_concurrent=1, max_queued=0)
    assert statuses(await rest.send(LAST)) == [503]
    exchange.start(Response(200))
    assert statuses(await rest.send(LAST)) == [200]
    exchange.finish()
    await asyncio.wait_for(reader.read(), 5)
    assert statuses(await rest.send(LAST)) == [200]
    assert rest.server.in_progress == 0
    writer.close()


async def test_a_client_that_hangs_up_ends_its_stream(stream):
    rest, exchange, _, writer = await stream()
    exchange.start(Response(200))
    writer.transport.abort()
    await holds(lambda: rest.abandoned == 1)
    exchange.write(b"late")
    exchange.finish()
    assert rest.server.in_progress == 0


async def test_closing_the_server_answers_with_503_what_is_in_progress_and_cuts_streams(stream):
    rest, _, reader, writer = await stream()
    streaming_reader, streaming_writer = await asyncio.open_connection("127.0.0.1", rest.port)
    streaming_writer.write(b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: len(rest.kept) == 2)
    rest.kept[1].start(Response(200))
    rest.kept[1].write(b"some")
    await rest.server.close()
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [503]
    assert chunks(await asyncio.wait_for(streaming_reader.read(), 5)) == ([b"some"], False)
    assert rest.abandoned == 2
    writer.close()
    streaming_writer.close()


# Streamed requests


class Sink:
    """Gathers a body; after ``room`` pieces it is full."""

    def __init__(self, room=1 << 30):
        self.pieces, self.room, self.end, self.read = [], room, None, True

    def write(self, data):
        self.pieces.append(data)
        self.room -= 1
        return self.room > 0

    def finish(self):
        self.end = True

    def abort(self):
        self.end = False

    def is_read(self):
        return self.read

    def size(self):
        return sum(map(len, self.pieces))


UPLOAD = b"POST /keep HTTP/1.1\r\nHost: h\r\n%s\r\n"


@pytest.fixture
async def upload(start):
    """Begins an upload to a server that streams bodies; returns it, the exchange and the client's reader and writer."""

    async def upload(headers, body=b"", **options):
        rest = await start(streams=lambda request: True, **options)
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
        writer.write(UPLOAD % headers + body)
        await holds(lambda: rest.kept)
        return rest, rest.kept[0], reader, writer

    return upload


async def test_a_streamed_body_is_handed_on_as_it_comes_and_the_connection_kept(upload):
    rest, exchange, reader, writer = await upload(b"Content-Length: 10\r\n", b"12345")
    sink = Sink()
    exchange.body.send_to(sink)
    assert (b"".join(sink.pieces), sink.end) == (b"12345", None)
    writer.write(b"67890")
    await holds(lambda: sink.end)
    assert b"".join(sink.pieces) == b"1234567890"
    exchange.respond(Response(200))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(LAST)
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
    assert rest.server.buffered == 0
    writer.close()


async def test_a_streamed_body_has_no_greatest_size_and_a_slow_reader_holds_up_the_client(upload):
    size, piece = 24 << 20, b"x" * (1 << 20)
    rest, exchange, reader, writer = await upload(b"Transfer-Encoding: chunked\r\n")

    async def send():
        for _ in range(size // len(piece)):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    sending = asyncio.create_task(send())
    await holds(lambda: rest.server.buffered >= HIGH_WATER)
    await quiet(lambda: rest.server.buffered)
    assert rest.server.buffered < 1 << 20
    assert not sending.done()
    sink = Sink(room=5)
    exchange.body.send_to(sink)
    await quiet(sink.size)
    assert len(sink.pieces) == 5
    assert max(map(len, sink.pieces)) <= PIECE
    sink.room = 1 << 30
    exchange.body.resume()
    await holds(lambda: sink.end)
    assert sink.size() == size
    await sending
    exchange.respond(Response(200))
    assert statuses(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)) == [200]
    assert rest.server.buffered == 0
    writer.close()


async def quiet(measure):
    """Return once a measure has not changed for a while."""
    before = None
    async with asyncio.timeout(10):
        while (now := measure()) != before:
            before = now
            await asyncio.sleep(0.05)


async def test_an_answer_before_a_body_that_nobody_reads_ends_the_connection_and_can_be_read(upload):
    rest, exchange, reader, writer = await upload(b"Content-Length: 50000000\r\n", b"x" * 1000)
    exchange.respond(Response(413, [], b"no"))
    answer = await asyncio.wait_for(reader.readuntil(b"no"), 5)
    assert b"connection: close" in answer
    for _ in range(20):
        writer.write(b"x" * 1_000_000)
        await writer.drain()  # taken, not reset
    writer.close()
    await holds(lambda: not rest.server.connections)
    assert rest.server.buffered == 0


async def test_an_answer_while_somebody_reads_the_body_lets_that_go_on(upload):
    rest, exchange, reader, writer = await upload(b"Content-Length: 10\r\n", b"12345")
    sink = Sink()
    exchange.body.send_to(sink)
    exchange.respond(Response(200))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert rest.server.in_progress == 0
    writer.write(b"67890" + LAST)
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
    assert (b"".join(sink.pieces), sink.end) == (b"1234567890", True)
    writer.close()


async def test_a_client_that_is_to_be_asked_for_the_body_is_asked_when_the_handler_wants_it(upload):
    headers = b"Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n"
    _, exchange, reader, writer = await upload(headers)
    sink = Sink()
    exchange.body.send_to(sink)
    exchange.send_continue()
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"12345")
    await holds(lambda: sink.end)
    exchange.respond(Response(200))
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200]
    writer.close()


async def test_a_client_that_is_never_asked_for_the_body_gets_the_answer_alone(upload):
    rest, exchange, reader, writer = await upload(b"Content-Length: 5\r\nExpect: 100-continue\r\n", read_timeout=0.2)
    await asyncio.sleep(0.6)  # it is not the client that is slow
    exchange.respond(Response(403))
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [403]
    assert rest.abandoned == 0
    writer.close()


async def test_a_client_that_hangs_up_in_the_middle_of_a_body_aborts_it(upload):
    rest, exchange, _, writer = await upload(b"Content-Length: 10\r\n", b"12345")
    sink = Sink()
    exchange.body.send_to(sink)
    writer.transport.abort()
    await holds(lambda: sink.end is False)
    assert rest.abandoned == 1
    assert rest.server.in_progress == 0


async def test_a_body_that_is_not_http_ends_the_request_with_400_and_one_that_stalls_with_408(upload):
    rest, exchange, reader, writer = await upload(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n")
    sink = Sink()
    exchange.body.send_to(sink)
    writer.write(b"zz\r\n")
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [400]
    assert (sink.pieces, sink.end, rest.abandoned) == ([b"abc"], False, 1)
    writer.close()
    rest, exchange, reader, writer = await upload(b"Content-Length: 10\r\n", b"12345", read_timeout=0.2)
    exchange.body.send_to(Sink())
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [408]
    assert rest.abandoned == 1
    writer.close()


async def test_an_upload_that_moves_may_take_longer_than_the_time_outs(upload):
    rest, exchange, reader, writer = await upload(
        b"Content-Length: 20000\r\nConnection: close\r\n", read_timeout=0.3, request_timeout=0.3
    )
    sink = Sink()
    exchange.body.send_to(sink)
    for _ in range(20):
        writer.write(b"x" * 1000)
        await asyncio.sleep(0.07)
    await holds(lambda: sink.end)
    assert rest.abandoned == 0
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [504]  # from the end of the body
    assert rest.abandoned == 1
    writer.close()


async def test_a_handler_that_does_not_take_the_body_in_time_gives_504(upload):
    rest, _, reader, writer = await upload(
        b"Content-Length: 9000000\r\n", b"x" * 200_000, read_timeout=0.2, request_timeout=0.7
    )
    assert statuses(await asyncio.wait_for(reader.read(), 10)) == [504]
    assert rest.abandoned == 1
    assert rest.server.buffered == 0
    writer.close()


async def test_a_pipelined_upload_waits_for_its_turn_in_bounded_memory(start):
    rest = await start(streams=lambda request: True)
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.port)
    writer.write(
        b"GET /keep HTTP/1.1\r\nHost: h\r\n\r\n" + UPLOAD % b"Content-Length: 5000000\r\nConnection: close\r\n"
    )
    sending = asyncio.create_task(_drained(writer, b"x" * 5_000_000))
    await holds(lambda: rest.kept)
    await quiet(lambda: rest.server.buffered)
    assert rest.server.buffered <= 1 << 20
    rest.kept[0].respond(Response(200))
    await holds(lambda: len(rest.kept) == 2)
    sink = Sink()
    rest.kept[1].body.send_to(sink)
    await holds(lambda: sink.end)
    assert sink.size() == 5_000_000
    rest.kept[1].respond(Response(201))
    assert statuses(await asyncio.wait_for(reader.read(), 5)) == [200, 201]
    await sending
    writer.close()


async def _drained(writer, data):
    writer.write(data)
    await writer.drain()
