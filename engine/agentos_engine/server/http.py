"""An HTTP/1.1 server on httptools, for handlers that answer by callback."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from agentos_engine import limits
from agentos_engine.protocol.http import Request, Response, error_response

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.25
"""Seconds between two looks at the deadlines of all connections."""

Handler = Callable[["Exchange"], None]


class Exchange:
    """One request and its answer."""

    __slots__ = ("_connection", "answered", "on_abandoned", "request")

    def __init__(self, request: Request, connection: "HttpConnection") -> None:
        self.request = request
        self.on_abandoned: Callable[[], None] | None = None
        self.answered = False
        self._connection = connection

    def respond(self, response: Response) -> None:
        """Send the answer; ignored when there was one, or the client has gone."""
        if not self.answered:
            self.answered = True
            self._connection.finish(self, response)

    def abandon(self, response: Response | None) -> None:
        """Stop waiting for the handler; answer with ``response``, if somebody is still there."""
        if self.answered:
            return
        if self.on_abandoned is not None:
            self.on_abandoned()
        if response is not None:
            self.respond(response)
        self.answered = True


class HttpServer:
    """A listening port. ``headers`` go into every response.

    ``refusal`` is asked about each request with a body as soon as its headers are there: the response that it returns
    is sent at once and the body not read. With None the body is read and the handler called.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        refusal: Callable[[Request], Response | None] = lambda request: None,
        headers: tuple[tuple[str, str], ...] = (),
        request_timeout: float = limits.HTTP_REQUEST_TIMEOUT,
        read_timeout: float = limits.HTTP_READ_TIMEOUT,
        idle_timeout: float = limits.HTTP_IDLE_TIMEOUT,
        max_concurrent: int = limits.MAX_HTTP_CONCURRENT,
        max_buffered: int = limits.MAX_HTTP_BUFFERED,
    ) -> None:
        self.handler = handler
        self.refusal = refusal
        self.common = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
        self.request_timeout = request_timeout
        self.read_timeout = read_timeout
        self.idle_timeout = idle_timeout
        self.max_concurrent = max_concurrent
        self.max_buffered = max_buffered
        self.buffered = 0
        """Bytes of all bodies that are in memory."""
        self.connections: set[HttpConnection] = set()
        self.in_progress = 0
        self.requests = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises OSError when that is not possible."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: HttpConnection(self), host, port, backlog=1024)
        self._sweeper = loop.create_task(self._sweep())
        return self._server.sockets[0].getsockname()[1]

    async def drain(self, seconds: float) -> None:
        """Take no more requests; return when those in progress are answered, or after so many seconds."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            log.warning("requests still in progress at shutdown", extra={"requests": self.in_progress})

    async def close(self) -> None:
        """End all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end()
        await asyncio.sleep(0)

    def begin(self) -> None:
        """A request starts to be handled."""
        self.requests += 1
        self.in_progress += 1
        self._idle.clear()

    def done(self) -> None:
        """A request is not handled any more."""
        self.in_progress -= 1
        if self.in_progress == 0:
            self._idle.set()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = loop.time()
            for connection in list(self.connections):
                if now > connection.deadline:
                    connection.expire()


class HttpConnection(asyncio.Protocol):
    """One client's connection: requests are parsed as they come and handled one after the other."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._now = asyncio.get_running_loop().time
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._header_bytes = 0
        self._request = Request("", "")
        self._body = bytearray()
        self._buffered = 0
        """Bytes of bodies in memory: of the request being read, those that wait, and the one being handled."""
        self._in_message = False
        self._reading_headers = False
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._exchange: Exchange | None = None
        self._keep_alive = True
        self._refused = False
        """Nothing more is read: what the client sent is no request."""
        self._last: Response | None = None
        """What a request that cannot be read is answered with, once those before it are."""
        self._lingering = False
        self._write_paused = False
        self.deadline = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self.deadline = self._now() + self._server.read_timeout
        if len(self._server.connections) >= limits.MAX_HTTP_CONNECTIONS or self._server.draining:
            transport.abort()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._waiting.clear()
        self._release(self._buffered)
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            self._server.done()
            exchange.abandon(None)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Clients may offer h2c or a WebSocket on any request; it is declined by answering as if it were not there.
            self._keep_alive = False
            self._refused = True
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, _RequestError):
                raise
            self._refuse(cause.response)
        except httptools.HttpParserError as error:
            self._refuse(error_response(400, "BAD_REQUEST", f"the request is not HTTP/1.1: {error}"))
        else:
            if self._reading_headers:
                self._header_bytes += len(data)
                if self._header_bytes > limits.MAX_HTTP_HEADERS:
                    self._refuse(_too_many_headers())
        self._next()

    def pause_writing(self) -> None:
        self._write_paused = True
        self.deadline = self._now() + self._server.read_timeout
        self._hold_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        self.deadline = self._now() + self._server.idle_timeout
        self._hold_reading()
        self._next()

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._header_bytes = 0
        self._in_message = self._reading_headers = True
        if self._exchange is None:
            self.deadline = self._now() + self._server.read_timeout

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        value = value or b""
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._reading_headers = False
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > limits.MAX_HTTP_HEADERS:
            raise _RequestError(_too_many_headers())
        length = next((value for name, value in self._headers if name == "content-length"), "0")
        has_body = length != "0" or any(name == "transfer-encoding" for name, _ in self._headers)
        if length.isdecimal() and int(length[:20]) > limits.MAX_HTTP_BODY:
            raise _RequestError(_body_too_large())
        if has_body and self._parser.should_upgrade():
            message = "a request with a body cannot be upgraded; leave out the Upgrade header"
            raise _RequestError(error_response(400, "BAD_REQUEST", message))
        self._request = self._parsed_request()
        if has_body:
            response = self._server.refusal(self._request)
            if response is not None:
                self._server.requests += 1
                raise _RequestError(response)
            if self._server.buffered >= self._server.max_buffered:
                raise _RequestError(_too_much_buffered())
        expects = any(name == "expect" and value.lower() == "100-continue" for name, value in self._headers)
        if expects and has_body and self._exchange is None and not self._waiting and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > limits.MAX_HTTP_BODY:
            raise _RequestError(_body_too_large())
        if self._server.buffered + len(body) > self._server.max_buffered:
            raise _RequestError(_too_much_buffered())
        self._body += body
        self._buffered += len(body)
        self._server.buffered += len(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._body:
            self._request.body = bytes(self._body)
            self._body = bytearray()
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._waiting.append((self._request, keep_alive))

    def _parsed_request(self) -> Request:
        """The request without its body."""
        target = self._url.decode("latin-1")
        if "://" in target.partition("?")[0]:  # absolute form, as sent to a proxy
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        path, _, query = target.partition("#")[0].partition("?")
        method = self._parser.get_method().decode("ascii")
        return Request(method, path, query, self._headers)

    def _release(self, size: int) -> None:
        """So many bytes of bodies are not needed any more."""
        self._buffered -= size
        self._server.buffered -= size

    # One request after the other

    def _next(self) -> None:
        while self._exchange is None and self._waiting and not self._write_paused:
            request, self._keep_alive = self._waiting.popleft()
            self._server.begin()
            self._exchange = exchange = Exchange(request, self)
            self.deadline = self._now() + self._server.request_timeout
            if self._server.in_progress > self._server.max_concurrent:
                message = f"more than {self._server.max_concurrent} requests are in progress; try again"
                exchange.respond(error_response(503, "OVERLOADED", message, {"retry-after": "1"}))
                continue
            try:
                self._server.handler(exchange)
            except Exception:
                log.exception("request failed")
                exchange.respond(error_response(500, "INTERNAL_ERROR", "the engine failed; its log says why"))
        if self._last is not None and self._exchange is None and not self._waiting and self._transport is not None:
            response, self._last = self._last, None
            self._write(response, False, False)
            # Closing while the client still sends would reset the connection before it has read the answer.
            self._transport.write_eof()
            self._lingering = True
            self.deadline = self._now() + limits.HTTP_LINGER_TIMEOUT
        self._hold_reading()

    def finish(self, exchange: Exchange, response: Response) -> None:
        """Send the answer to the request that is being handled."""
        if self._exchange is not exchange or self._transport is None:
            return
        self._exchange = None
        self._server.done()
        self._release(len(exchange.request.body))
        more = not self._refused or bool(self._waiting) or self._last is not None
        keep_alive = self._keep_alive and more and not self._server.draining
        self._write(response, exchange.request.method == "HEAD", keep_alive)
        if not keep_alive:
            self._waiting.clear()
            self._last = None
            self._refused = True
            self._transport.close()
            return
        if not self._write_paused:
            self.deadline = self._now() + self._server.idle_timeout
        if self._waiting or self._last is not None:
            asyncio.get_running_loop().call_soon(self._next)
        self._hold_reading()

    def _hold_reading(self) -> None:
        """Read no further while requests wait: what a client may pipeline is bounded by one read."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._waiting or self._write_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _refuse(self, response: Response) -> None:
        """Answer a request that cannot be read, in its turn; nothing after it can be read, either."""
        self._refused = True
        self._last = response
        self._release(len(self._body))
        self._body = bytearray()
        self._next()

    def _write(self, response: Response, head: bool, keep_alive: bool) -> None:
        assert self._transport is not None
        status = response.status
        bodiless = status in (204, 304)
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, 'Status')}\r\n"]
        given = set()
        for name, value in response.headers:
            lines.append(f"{name}: {value}\r\n")
            given.add(name)
        if not bodiless:
            lines.append(f"content-length: {len(response.body)}\r\n")
        if "date" not in given:
            lines.append(f"date: {formatdate(time.time(), usegmt=True)}\r\n")
        if not keep_alive:
            lines.append("connection: close\r\n")
        top = "".join(lines).encode("utf-8", "replace")
        common = b"" if "access-control-allow-origin" in given else self._server.common
        body = b"" if head or bodiless else response.body
        self._transport.write(b"".join((top, common, b"\r\n", body)))

    # Deadlines and shutdown

    def expire(self) -> None:
        """The deadline has passed."""
        assert self._transport is not None
        self.deadline = self._now() + self._server.read_timeout
        if self._exchange is not None:
            seconds = f"{self._server.request_timeout:g}"
            self._exchange.abandon(error_response(504, "TIMEOUT", f"the function did not answer within {seconds} s"))
        elif self._lingering or self._write_paused or self._transport.is_closing():
            self._transport.abort()
        elif self._in_message:
            self._refuse(error_response(408, "REQUEST_TIMEOUT", "the request did not arrive in time"))
        else:
            self._transport.close()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being handled."""
        if self._exchange is None and self._transport is not None:
            self._transport.close()

    def end(self) -> None:
        """Close the connection, whatever it is doing."""
        if self._transport is not None:
            self._transport.close()


class _RequestError(Exception):
    """Raised inside the parser: the request is refused with this response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _too_many_headers() -> Response:
    return error_response(
        431, "HEADERS_TOO_LARGE", f"request line and headers are larger than {limits.MAX_HTTP_HEADERS} bytes"
    )


def _body_too_large() -> Response:
    return error_response(413, "BODY_TOO_LARGE", f"the body is larger than {limits.MAX_HTTP_BODY} bytes")


def _too_much_buffered() -> Response:
    message = "the requests in progress have too large bodies all together; try again"
    return error_response(503, "OVERLOADED", message, {"retry-after": "1"})


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
