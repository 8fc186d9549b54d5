import asyncio
import json
import re

import pytest
from agentos_engine import limits
from agentos_engine.protocol.http import Response
from agentos_engine.server.http import HttpServer


class Rest:
    """An HTTP server whose handler answers with what it was asked, or keeps the request when the path says so."""

    def __init__(self, **options):
        self.kept = []
        self.abandoned = 0
        self.server = HttpServer(self._handle, headers=(("x-common", "1"),), **options)
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


async def test_requests_in_progress_are_bounded(start):
    rest = await start(max_concurrent=2)
    keeping = [asyncio.create_task(rest.send(b"GET /keep HTTP/1.0\r\n\r\n")) for _ in range(2)]
    await holds(lambda: len(rest.kept) == 2)
    answer = await rest.send(LAST)
    assert statuses(answer) == [503]
    assert b"retry-after: 1" in answer
    for exchange in rest.kept:
        exchange.respond(Response(200))
    assert [statuses(each) for each in await asyncio.gather(*keeping)] == [[200], [200]]
    assert statuses(await rest.send(LAST)) == [200]


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
    rest = await start(refusal=lambda request: Response(404) if request.path == "/none" else None)
    head = b"POST /none HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9999\r\n\r\n"
    assert statuses(await rest.send(head)) == [404]
    assert statuses(await rest.send(GET + head + b"x" * 50)) == [200, 404]
    assert rest.server.buffered == 0
