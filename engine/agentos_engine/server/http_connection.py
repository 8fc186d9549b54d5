"""One client's HTTP connection: requests are parsed as they come and handled one after the other."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from agentos_engine import limits
from agentos_engine.protocol.http import Request, Response
from agentos_engine.server import http_refusals
from agentos_engine.server.http_body import RequestBody
from agentos_engine.server.http_output import Output
from agentos_engine.server.http_parsing import RequestError, RequestParser

if TYPE_CHECKING:
    from agentos_engine.server.http import Exchange, HttpServer

log = logging.getLogger(__name__)

_LIMITS = {413: "http_body", 431: "http_headers", 503: "http_bytes"}
"""By the status of a refusal: the limit that it is because of."""
CLIENT_GONE = 499
"""Counted in the place of a status when the client went before there was an answer."""
MIN_BODY_RATE = 1024
"""Bytes per second below which a body is stuck; one that moves faster may take as long as it takes."""


class HttpConnection(asyncio.Protocol):
    """One client's connection. ``make_exchange`` is given each request and this connection."""

    def __init__(self, server: "HttpServer", make_exchange: "Callable[[Request, HttpConnection], Exchange]") -> None:
        self._server = server
        self._make_exchange = make_exchange
        self._now = asyncio.get_running_loop().time
        self._transport: asyncio.Transport
        self._output: Output
        self._parser = RequestParser(self)
        self._body = bytearray()
        self._buffered = 0
        """Bytes of whole bodies in memory: of the request being read, those that wait, and the one being handled."""
        self._receiving: Exchange | None = None
        """The request whose body is coming."""
        self._waiting: deque[Exchange] = deque()
        self._exchange: Exchange | None = None
        """The request that is being handled."""
        self._refused = False
        """Nothing more is read: what the client sent is no request, or the connection ends."""
        self._last: Response | None = None
        """What a request that cannot be read is answered with, once those before it are."""
        self._lingering = False
        self._reading_held = False
        self._received = self._received_before = 0
        """Bytes in all, and when somebody last looked."""
        self.deadline = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self._output = Output(transport, self._server.heads, self._server.headers)
        self.deadline = self._now() + self._server.read_timeout
        if len(self._server.connections) >= limits.MAX_HTTP_CONNECTIONS or self._server.draining:
            if not self._server.draining:
                self._server.bounds.count("http_connections")
            self._refused = True
            transport.abort()
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._server.bounds.backlog.forget(self)
        self._refused = True
        exchange, self._exchange = self._exchange, None
        unfinished = {each for each in (exchange, self._receiving, *self._waiting) if each is not None}
        self._receiving = None
        self._waiting.clear()
        self._release(self._buffered)
        if exchange is not None:
            if not exchange.started:
                self._server.answers(CLIENT_GONE)
            exchange.request.body = b""
            self._server.done(exchange)
            exchange.abandon(None)
        for each in unfinished:
            if each.body is not None:
                each.body.end(False)
                if not each.body.is_read:
                    each.body.drop()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received += len(data)
        try:
            if not self._parser.feed(data):
                # An offer of h2c or a WebSocket is declined by answering as if it were not there.
                self._refused = True
        except RequestError as error:
            self._refuse(error.response)
        self._next()

    def unsent(self) -> int:
        """Bytes that wait because the client does not read."""
        return self._transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._output.paused = True
        self._server.bounds.backlog.note(self)
        self._output.look()
        self.deadline = self._now() + self._server.read_timeout

    def resume_writing(self) -> None:
        self._output.paused = False
        self._server.bounds.backlog.forget(self)
        exchange = self._exchange
        if exchange is None:
            self.deadline = self._now() + self._server.idle_timeout
        else:
            self.deadline = self._now() + self._server.stream_timeout
            if exchange.on_writable is not None:
                exchange.on_writable()
        self._next()

    # The parser

    def on_begin(self) -> None:
        if self._exchange is None:
            self.deadline = self._now() + self._server.read_timeout

    def on_request(self, request: Request) -> None:
        parser, server = self._parser, self._server
        self._receiving = exchange = self._make_exchange(request, self)
        if not parser.keep_alive:
            exchange.keep_alive = False
        if parser.is_http_1_0:
            exchange.is_http_1_0 = True
        if not parser.has_body:
            return
        response = server.refusal(exchange)
        if response is not None:
            server.requests += 1
            raise RequestError(response)
        if server.buffered >= server.max_buffered:
            raise RequestError(http_refusals.too_much_buffered())
        self._received_before = self._received
        expects = parser.expects_continue and not parser.is_http_1_0
        if server.streams(request):
            exchange.body = RequestBody(self._body_changed)
            exchange.expects_continue = expects
            self._waiting.append(exchange)  # handled when this read has been parsed
            return
        if parser.length is not None and parser.length > limits.MAX_HTTP_BODY:
            raise RequestError(http_refusals.body_too_large())
        if expects and self._exchange is None and not self._waiting:
            self._output.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_data(self, data: bytes) -> None:
        exchange = self._receiving
        if self._refused or exchange is None:
            return
        if exchange.body is not None:
            exchange.body.put(data)
            return
        if len(self._body) + len(data) > limits.MAX_HTTP_BODY:
            raise RequestError(http_refusals.body_too_large())
        if self._server.buffered + len(data) > self._server.max_buffered:
            raise RequestError(http_refusals.too_much_buffered())
        self._body += data
        self._buffered += len(data)
        self._server.count(len(data))

    def on_end(self) -> None:
        exchange, self._receiving = self._receiving, None
        if self._refused or exchange is None:
            return
        if exchange.body is None:
            if self._body:
                exchange.request.body = bytes(self._body)
                self._body = bytearray()
            self._waiting.append(exchange)
            return
        exchange.body.end(True)
        if self._exchange is exchange:
            if not exchange.started:
                self.allow(exchange, self._server.request_timeout)
        elif exchange.answered:  # while somebody still read
            self._go_on(exchange.keep_alive)

    # Bodies

    def loaded_body(self, data: bytes) -> RequestBody:
        """Return a stream of a body that has come."""
        body = RequestBody(self._server.count)
        if data:
            body.put(data)
        body.end(True)
        return body

    def address(self) -> str:
        """Return the client's IP address; empty when it is not known any more."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def send_continue(self, exchange: "Exchange") -> None:
        """Ask for the body of the request that is being handled."""
        body = exchange.body
        if self._exchange is exchange and not exchange.started and body is not None and not body.ended:
            self._received_before = self._received
            self.deadline = self._now() + self._server.read_timeout
            self._output.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _body_changed(self, size: int) -> None:
        self._server.count(size)
        self._hold_reading()

    def _release(self, size: int) -> None:
        """So many bytes of whole bodies are not needed any more."""
        self._buffered -= size
        self._server.count(-size)

    def _hold_reading(self) -> None:
        """Read no further while requests wait or a body is full: what a client sends ahead is bounded by one read."""
        if self._transport.is_closing():
            return
        body = self._receiving.body if self._receiving is not None else None
        hold = not self._refused and (bool(self._waiting) or (body is not None and body.is_full))
        if hold != self._reading_held:
            self._reading_held = hold
            if hold:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # One request after the other

    def _next(self) -> None:
        while self._exchange is None and self._waiting and not self._output.paused:
            self._exchange = exchange = self._waiting.popleft()
            self.allow(exchange, self._server.request_timeout)
            exchange.began = exchange.deadline - self._server.request_timeout
            self._server.admit(exchange)
        if self._last is not None and self._exchange is None and not self._waiting:
            response, self._last = self._last, None
            self._server.answers(response.status)
            self._output.respond(None, response, False, False)
            self._linger()
        self._hold_reading()

    def allow(self, exchange: "Exchange", seconds: float) -> None:
        """Let the answer to the request that is being handled take so many seconds from now."""
        if self._exchange is exchange:
            now = self._now()
            self.deadline = exchange.deadline = now + seconds
            if exchange.body is not None and not exchange.body.ended:
                self.deadline = min(self.deadline, now + self._server.read_timeout)

    def respond(self, exchange: "Exchange", response: Response) -> None:
        """Send the whole answer to the request that is being handled."""
        if self._exchange is exchange:
            keep_alive = exchange.keep_alive and self._can_go_on(exchange)
            self._server.answers(response.status, self._now() - exchange.began)
            self._output.respond(exchange.request, response, keep_alive, exchange.is_http_1_0)
            self._after(exchange, keep_alive)

    def start(self, exchange: "Exchange", response: Response, length: int | None) -> None:
        """Send the head of a streamed answer."""
        if self._exchange is exchange:
            keep_alive = exchange.keep_alive and not self._server.draining
            self._server.leave(exchange)
            now = self._now()
            self._server.answers(response.status, now - exchange.began)
            self.deadline = now + self._server.stream_timeout
            exchange.keep_alive = self._output.start(
                exchange.request, response, length, keep_alive, exchange.is_http_1_0
            )

    def write(self, exchange: "Exchange", data: bytes) -> bool:
        """Send a piece of a streamed answer; False: no more before ``on_writable``."""
        if self._exchange is not exchange:
            return True
        if not self._output.paused:
            self.deadline = self._now() + self._server.stream_timeout
        if not self._output.write(data):
            log.warning("a handler wrote more than its content-length", extra={"path": exchange.request.path[:200]})
            exchange.abandon(None)
            return True
        return not self._output.paused

    def finish(self, exchange: "Exchange") -> None:
        """End a streamed answer."""
        if self._exchange is not exchange:
            return
        if self._output.finish():
            self._after(exchange, exchange.keep_alive and self._can_go_on(exchange))
        else:
            log.warning("a handler wrote less than its content-length", extra={"path": exchange.request.path[:200]})
            self.cut(exchange)

    def cut(self, exchange: "Exchange") -> None:
        """End a streamed answer so that the client notices."""
        if self._exchange is exchange:
            self._leave(exchange)
            self._stop()
            self.deadline = self._now() + self._server.read_timeout
            self._output.cut()

    def _can_go_on(self, exchange: "Exchange") -> bool:
        """Whether another request can come after the answer to this one."""
        body = exchange.body
        if body is not None and not body.is_complete and not body.is_read:
            return False  # its body is in the way
        return (not self._refused or bool(self._waiting) or self._last is not None) and not self._server.draining

    def _leave(self, exchange: "Exchange") -> None:
        """The request is not handled any more."""
        self._exchange = None
        if exchange.request.body:
            self._release(len(exchange.request.body))
            exchange.request.body = b""  # whoever still holds the request has no use for it
        self._server.done(exchange)

    def _after(self, exchange: "Exchange", keep_alive: bool) -> None:
        """The answer is sent: go on, or end the connection."""
        self._leave(exchange)
        body = exchange.body
        if body is None or body.is_complete:
            if body is not None and not body.is_read:
                body.drop()
            self._go_on(keep_alive)
        elif body.is_read:
            exchange.keep_alive = keep_alive
            self.deadline = self._now() + self._server.read_timeout
        else:
            body.drop()
            self._linger()

    def _go_on(self, keep_alive: bool) -> None:
        """Request and answer are through."""
        if not keep_alive:
            self._close()
            return
        if not self._output.paused:
            timeout = self._server.read_timeout if self._parser.in_message else self._server.idle_timeout
            self.deadline = self._now() + timeout
        if self._waiting or self._last is not None:
            asyncio.get_running_loop().call_soon(self._next)
        elif self._reading_held:
            self._hold_reading()

    # Ends

    def _refuse(self, response: Response) -> None:
        """Answer a request that cannot be read, in its turn; nothing after it can be read, either."""
        if (limit := _LIMITS.get(response.status)) is not None:
            self._server.bounds.count(limit)
        self._refused = True
        self._release(len(self._body))
        self._body = bytearray()
        exchange, self._receiving = self._receiving, None
        if exchange is None or exchange.body is None:
            self._last = response
            return
        exchange.body.end(False)
        if exchange is self._exchange:
            exchange.abandon(response)
        elif exchange.answered:
            self._close()
        else:
            exchange.body.drop()
            self._waiting.remove(exchange)
            self._last = response

    def _linger(self) -> None:
        """Close once the client stops sending: before, it would be reset and might not read the answer."""
        if not self._transport.is_closing():
            self._stop()
            self._lingering = True
            self.deadline = self._now() + limits.HTTP_LINGER_TIMEOUT
            if self._transport.can_write_eof():  # not over TLS: there both directions end together
                with contextlib.suppress(OSError):  # the client has reset it; the next read says so
                    self._transport.write_eof()
            self._hold_reading()

    def _close(self) -> None:
        """Close once all is sent."""
        self._stop()
        self.deadline = self._now() + self._server.read_timeout
        self._transport.close()

    def _stop(self) -> None:
        """Handle nothing more."""
        self._refused = True
        self._last = None
        for exchange in self._waiting:
            if exchange.body is not None:
                exchange.body.drop()
        self._waiting.clear()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being handled."""
        if self._exchange is None:
            self._close()

    def end(self) -> None:
        """Close the connection, whatever it is doing."""
        if self._exchange is not None:
            self._exchange.abandon(http_refusals.stopping())
        self._close()

    def expire(self) -> None:
        """The deadline has passed."""
        exchange = self._exchange
        self.deadline = self._now() + self._server.read_timeout
        if self._lingering or self._output.paused or self._transport.is_closing():
            if not self._output.look():
                self._transport.abort()
        elif exchange is not None and exchange.started:
            log.warning("a streamed response was silent for too long", extra={"path": exchange.request.path[:200]})
            exchange.abandon(None)
        elif exchange is not None:
            self._expire_exchange(exchange)
        elif self._receiving is not None and self._body_moves():
            pass
        elif self._receiving is not None and self._receiving.answered:
            self._close()
        elif self._parser.in_message:
            self._refuse(http_refusals.too_slow())
            self._next()
        else:
            self._close()

    def _expire_exchange(self, exchange: "Exchange") -> None:
        body = exchange.body
        if body is None or body.ended:
            exchange.abandon(self._server.late(exchange))
        elif self._body_moves():
            self.allow(exchange, self._server.request_timeout)
        elif self._reading_held or exchange.expects_continue:  # the function's turn
            if self._now() >= exchange.deadline:
                exchange.abandon(self._server.late(exchange))
            else:
                self.deadline = min(self.deadline, exchange.deadline)
        else:
            self._refuse(http_refusals.too_slow())

    def _body_moves(self) -> bool:
        """Whether enough of the body has come since the last look."""
        moved = self._received - self._received_before
        self._received_before = self._received
        return moved >= MIN_BODY_RATE * self._server.read_timeout
