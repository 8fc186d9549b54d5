"""An HTTP/1.1 server on httptools, for handlers that answer by callback, at once or piece by piece."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from agentos_engine import limits
from agentos_engine.bus.bounds import Bounds
from agentos_engine.observability.histogram import Histogram
from agentos_engine.protocol.http import Request, Response
from agentos_engine.server import http_refusals
from agentos_engine.server.http_body import RequestBody
from agentos_engine.server.http_connection import HttpConnection
from agentos_engine.server.http_framing import HeadWriter
from agentos_engine.server.listening import Listening, tcp
from agentos_engine.server.tls import Tls, listen

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.25
"""Seconds between two looks at the deadlines of all connections."""
STREAM_TIMEOUT = 300.0
"""Seconds for which nothing may come from the handler of a streamed response."""
MAX_QUEUED = 4096
"""Requests that wait until one in progress is answered; one more gets 503."""

_FUNCTION = ("TIMEOUT", "the function")
_PLACE = ("OVERLOADED", "the server")

Handler = Callable[["Exchange"], None]


class Exchange:
    """One request and its answer: either :meth:`respond`, or :meth:`start`, :meth:`write` and :meth:`finish`."""

    # Defaults in the class: a request that needs none of these costs nothing for them.
    body: RequestBody | None = None
    """Set when the body is streamed; else the whole of it is in the request."""
    found: Any = None
    """What ``refusal`` found out about the request, for the handler."""
    on_abandoned: Callable[[], None] | None = None
    """Called when nobody waits for the answer any more: time-out, or the client went."""
    on_writable: Callable[[], None] | None = None
    """Called when the client takes more, after a write returned False."""
    waits_for: tuple[str, str] = _FUNCTION
    """Code and name of what is late when the time is over."""
    started = False
    """Whether the head of a streamed response is sent."""
    answered = False
    """Whether there is nothing more to answer."""
    given_up: Response | None = None
    """What the client is told instead, for ``on_abandoned``."""
    # For connection and server:
    keep_alive = True
    is_http_1_0 = False
    expects_continue = False
    has_place = False
    deadline = 0.0
    began = 0.0

    def __init__(self, request: Request, connection: HttpConnection) -> None:
        self.request = request
        self._connection = connection

    def respond(self, response: Response) -> None:
        """Send the answer; ignored when there was one, or the client has gone."""
        if not self.answered and not self.started:
            self.answered = True
            self._connection.respond(self, response)

    def start(self, response: Response, length: int | None = None) -> None:
        """Send the head of a response whose body follows in pieces; ``length`` of the body in bytes, when known."""
        if not self.answered and not self.started:
            self.started = True
            self._connection.start(self, response, length)

    def write(self, data: bytes) -> bool:
        """Send a piece of the body, at once; False: the client is slow, no more before ``on_writable``."""
        return self.answered or self._connection.write(self, data)

    def finish(self) -> None:
        """End a streamed response. One that is shorter than its length is cut."""
        if self.started and not self.answered:
            self.answered = True
            self._connection.finish(self)

    def cut(self) -> None:
        """End a streamed response so that the client sees that it is not complete."""
        if self.started and not self.answered:
            self.answered = True
            self._connection.cut(self)

    def send_continue(self) -> None:
        """Ask a client that waits for this to send the body."""
        if self.expects_continue and not self.answered:
            self.expects_continue = False
            self._connection.send_continue(self)

    def allow(self, seconds: float) -> None:
        """Let the answer take so many seconds from now."""
        if not self.answered:
            self._connection.allow(self, seconds)

    def address(self) -> str:
        """Return the client's IP address; empty when it is not known any more."""
        return self._connection.address()

    def whole_body(self) -> RequestBody:
        """Return the body, as a stream also when it has come already."""
        return self.body if self.body is not None else self._connection.loaded_body(self.request.body)

    def abandon(self, response: Response | None) -> None:
        """Stop waiting for the handler; answer with ``response``, if somebody is still there."""
        if self.answered:
            return
        if self.on_abandoned is not None:
            self.given_up = response
            try:
                self.on_abandoned()
            except Exception:
                log.exception("a request could not be abandoned")
        if self.started:
            self.cut()
        elif response is not None:
            self.respond(response)
        self.answered = True


class HttpServer:
    """A listening port.

    ``refusal`` is asked about each request with a body as soon as its headers are there: the response that it returns
    is sent at once and the body not read. With None the handler is called, when the body is there; for requests of
    which ``streams`` says True, at once. ``headers`` are lines that go into every response: as bytes that end with CR
    and LF, for a request or, when that cannot be read, for None.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        refusal: Callable[[Exchange], Response | None] = lambda exchange: None,
        streams: Callable[[Request], bool] = lambda request: False,
        headers: Callable[[Request | None], bytes] = lambda request: b"",
        request_timeout: float = limits.HTTP_REQUEST_TIMEOUT,
        read_timeout: float = limits.HTTP_READ_TIMEOUT,
        idle_timeout: float = limits.HTTP_IDLE_TIMEOUT,
        stream_timeout: float = STREAM_TIMEOUT,
        max_concurrent: int = limits.MAX_HTTP_CONCURRENT,
        max_queued: int = MAX_QUEUED,
        max_buffered: int = limits.MAX_HTTP_BUFFERED,
        bounds: Bounds | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._tls = tls
        self.handler = handler
        self.refusal = refusal
        self.streams = streams
        self.headers = headers
        self.heads = HeadWriter()
        self.request_timeout = request_timeout
        self.read_timeout = read_timeout
        self.idle_timeout = idle_timeout
        self.stream_timeout = stream_timeout
        self.max_concurrent = max_concurrent
        self.max_queued = max_queued
        self.bounds = bounds or Bounds()
        self.max_buffered = min(max_buffered, self.bounds.limits.http_bytes)
        self.buffered = 0
        """Bytes of all bodies that are in memory."""
        self.connections: set[HttpConnection] = set()
        self.in_progress = 0
        """Requests not yet answered, those included that wait for a place."""
        self.requests = 0
        self.statuses: dict[int, int] = {}
        """Answers by HTTP status; those that began and were cut off are among them."""
        self.seconds = Histogram()
        """From the moment at which a request was handled, or waited for a place, to the head of its answer."""
        self.draining = False
        self._taken = 0
        """Places in use. A streamed response gives its place back when it starts."""
        self._queue: dict[Exchange, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._server: Listening | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises OSError when that is not possible."""
        loop = asyncio.get_running_loop()
        create = tcp(lambda: HttpConnection(self, Exchange), secure=self._tls is not None)
        self._server = await listen(create, host, port, self._tls, limits.HANDSHAKE_TIMEOUT)
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
        """End all connections; requests in progress are answered with 503, streamed responses cut."""
        self.draining = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end()
        await asyncio.sleep(0)

    # For the connections

    def admit(self, exchange: Exchange) -> None:
        """Have a request handled: at once when there is a place, else when there is one."""
        self.requests += 1
        self.in_progress += 1
        self._idle.clear()
        if self._taken < self.max_concurrent:
            self._handle(exchange)
        elif len(self._queue) < self.max_queued:
            exchange.waits_for = _PLACE
            self._queue[exchange] = None
        else:
            exchange.respond(self.overloaded())

    def answers(self, status: int, seconds: float | None = None) -> None:
        """The head of an answer is sent; ``seconds`` after the request was there, None when it could not be read."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if seconds is not None:
            self.seconds.observe(seconds)

    def leave(self, exchange: Exchange) -> None:
        """A request needs its place no longer."""
        if exchange.has_place:
            exchange.has_place = False
            self._taken -= 1
            if self._queue:
                # Not at once: many answers that need no waiting would nest.
                asyncio.get_running_loop().call_soon(self._handle_next)
        elif self._queue:
            self._queue.pop(exchange, None)

    def done(self, exchange: Exchange) -> None:
        """A request is answered or abandoned."""
        self.leave(exchange)
        self.in_progress -= 1
        if self.in_progress == 0:
            self._idle.set()

    def count(self, size: int) -> None:
        """So many more bytes of bodies are in memory."""
        self.buffered += size

    def late(self, exchange: Exchange) -> Response:
        """Return the answer to a request whose time is over."""
        if exchange.waits_for is _PLACE:
            return self.overloaded()
        code, what = exchange.waits_for
        return http_refusals.too_late(code, what, self.request_timeout)

    def overloaded(self) -> Response:
        """Return the answer to a request for which there is no place."""
        self.bounds.count("http_requests")
        return http_refusals.overloaded(self.max_concurrent)

    def _handle_next(self) -> None:
        while self._queue and self._taken < self.max_concurrent:
            exchange = next(iter(self._queue))
            del self._queue[exchange]
            exchange.waits_for = _FUNCTION
            exchange.allow(self.request_timeout)
            self._handle(exchange)

    def _handle(self, exchange: Exchange) -> None:
        exchange.has_place = True
        self._taken += 1
        try:
            self.handler(exchange)
        except Exception:
            log.exception("request failed")
            exchange.abandon(http_refusals.broken())

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = loop.time()
            for connection in list(self.connections):
                if now > connection.deadline:
                    try:
                        connection.expire()
                    except Exception:
                        log.exception("a connection could not be ended")
                        connection.abort()
