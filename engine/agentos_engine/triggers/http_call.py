"""One HTTP request on its way through middleware and condition to the function, and the answer back."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channel, ChannelRef, Reader, Writer
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.invocations import Call
from agentos_engine.bus.spans import Span
from agentos_engine.clock import Handle
from agentos_engine.observability.trace_context import trace_of
from agentos_engine.protocol.frames import Json
from agentos_engine.protocol.http import (
    Response,
    ResponseHead,
    ResultError,
    condition_not_met,
    error_response,
    handler_response,
    middleware_payload,
    middleware_response,
    request_payload,
)
from agentos_engine.protocol.messages import Message, decode_error, is_null
from agentos_engine.server.http import Exchange
from agentos_engine.server.http_body import PIECE
from agentos_engine.triggers.firing import Firing

if TYPE_CHECKING:
    from agentos_engine.triggers.http import Http, Owner

log = logging.getLogger(__name__)

CHANNEL_SIZE = 4
"""Frames that wait in a channel of a request before whoever writes them has to."""
WRITER_GRACE = 5.0
"""Seconds in which a function that returned nothing may begin to write a streamed response."""
LATE_ANSWER = 5.0
"""Seconds in which a function is to return after it has ended its streamed response."""

_CUT = "the client went, or the response was cut off"


class RouteCall:
    """The request. It is the caller of the function, and the engine's end of the two channels of the request."""

    # Defaults in the class: a request that needs none of these costs nothing for them.
    _body_channel: Channel | None = None
    _response_channel: Channel | None = None
    _reader: Reader | None = None
    _call: Call | None = None
    _span: Span | None = None
    _task: asyncio.Task[None] | None = None
    _grace: Handle | None = None
    _head: ResponseHead | None = None
    """Set once the function has written something."""
    _returned = False
    """The function has returned nothing: the answer is what it writes."""
    _writer_ended: bool | None = None
    """How the writer of the response ended, when it wrote nothing before: whether that was its wish."""

    def __init__(self, http: "Http", exchange: Exchange, owner: "Owner", method: str, values: list[str]) -> None:
        self._http = http
        self._exchange = exchange
        self._owner = owner
        self._method = method
        self._params = dict(zip(owner.path.names, values, strict=True)) if values else {}

        self._traceparent, self._baggage = trace_of(exchange.request.headers)

    def start(self) -> None:
        """Begin."""
        bus = self._http.bus
        if bus.spans is not None:
            self._begin_span(bus)
        self._exchange.on_abandoned = self._abandon
        if self._owner.middleware or self._http.middleware or self._owner.binding.condition is not None:
            self._task = bus.spawn(self._ask())
        else:
            self._invoke()

    def _begin_span(self, bus: Bus) -> None:
        method, route = self._exchange.request.method, self._owner.path.text
        about = {"http.method": method, "http.route": route, "function_id": self._owner.binding.function_id}
        self._span = Span(bus, f"{method} {route}", self._traceparent, "server", root=True, **about)
        self._traceparent = self._span.traceparent

    # Middleware and condition

    async def _ask(self) -> None:
        """Ask whoever is to be asked before the function, then call it."""
        binding = self._owner.binding
        asked = ""
        try:
            for asked in self._http.middleware:
                if await self._stops(asked, "default"):
                    return
            if binding.condition is not None:
                asked = binding.condition
                self._exchange.waits_for = ("TIMEOUT", "the condition")
                firing = Firing(self._http.bus)
                if not await firing.allows(binding, self._payload(), self._traceparent, self._baggage):
                    self._respond(condition_not_met())
                    return
            for asked in self._owner.middleware:
                if await self._stops(asked, binding.namespace):
                    return
        except BusError as error:
            self._fail(asked, error.code, error.message)
        except ResultError as error:
            self._fail(asked, "INTERNAL_ERROR", str(error))
        except ValueError as error:
            self._respond(_bad_query(error))
        else:
            self._task = None
            self._exchange.waits_for = ("TIMEOUT", "the function")
            self._invoke()

    async def _stops(self, middleware: str, namespace: str) -> bool:
        """Ask a middleware; True when it has answered the request."""
        self._exchange.waits_for = ("MIDDLEWARE_TIMEOUT", f"middleware {middleware}")
        view = middleware_payload(self._exchange.request, self._params)
        result = await self._http.bus.call(
            middleware,
            view,
            namespace=namespace,
            traceparent=self._traceparent,
            baggage=self._baggage,
            source="http",
        )
        response = middleware_response(result or b"")
        if response is None:
            return False
        self._respond(response)
        return True

    # The function

    def _payload(self, channels: Mapping[str, ChannelRef] = {}) -> bytes:
        """Raises ValueError for a query that cannot be read."""
        return request_payload(self._exchange.request, self._owner.path.text, self._method, self._params, channels)

    def _invoke(self) -> None:
        exchange, binding, channels = self._exchange, self._owner.binding, self._http.channels
        body_channel = self._body_channel = channels.create(1 if exchange.expects_continue else CHANNEL_SIZE)
        response_channel = self._response_channel = channels.create(CHANNEL_SIZE)
        refs = {"request_body": body_channel.reader_ref(), "response": response_channel.writer_ref()}
        try:
            payload = self._payload(refs)
        except ValueError as error:
            self._respond(_bad_query(error))
            return
        offer_body(exchange, body_channel)
        self._reader = response_channel.open_reader(self._on_frame, self._on_end)
        if self._reader is not None:
            self._reader.resume()
        try:
            call = self._http.bus.invoke(
                binding.function_id,
                payload,
                self,
                binding.metadata,
                namespace=binding.namespace,
                traceparent=self._traceparent,
                baggage=self._baggage,
                source=f"http {exchange.request.method} {self._owner.path.text}",
            )
        except BusError as error:
            self._fail(binding.function_id, error.code, error.message)
        else:
            if call.open:
                self._call = call

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """The worker has answered."""
        self._call = None
        if is_null(message.error):
            self._take(message.result)
            return
        error = decode_error(message.error)
        if error is None:
            error_message = "the worker reported an error that has no code and message"
            self._fail(call.function_id, "INTERNAL_ERROR", error_message)
        else:
            self._fail(call.function_id, error.code or "INTERNAL_ERROR", error.message)

    def returned(self, call: Call, result: bytes | None) -> None:
        """A function of the engine, or one that it calls over HTTP, has answered."""
        self._call = None
        self._take(result or b"")

    def failed(self, call: Call, error: BusError) -> None:
        """The function's worker has gone, or its time is over."""
        self._call = None
        if error.code == "TIMEOUT":
            if not self._exchange.started:
                self._respond(error_response(504, "TIMEOUT", error.message), f"TIMEOUT: {error.message}")
        else:
            self._fail(call.function_id, error.code, error.message)

    def _take(self, result: Json) -> None:
        """The function has returned a result, or nothing."""
        if self._exchange.started or self._exchange.answered:
            return
        if bytes(memoryview(result)[:5]) in (b"", b"null"):
            self._returned = True
            self._expect_writer()
            return
        try:
            response = handler_response(result)
        except ResultError as error:
            self._fail(self._owner.binding.function_id, "INTERNAL_ERROR", str(error))
        else:
            self._respond(response)

    # A streamed response

    def _expect_writer(self) -> None:
        """The function has returned nothing and written nothing yet."""
        exchange = self._exchange
        if self._writer_ended is not None:
            self._respond_to_nothing()
        elif self._response_channel is not None and self._response_channel.is_connected:
            exchange.allow(self._http.server.stream_timeout)
        else:
            exchange.allow(2 * WRITER_GRACE)
            self._grace = self._http.bus.clock.machine.call_later(WRITER_GRACE, self._end_grace)

    def _end_grace(self) -> None:
        self._grace = None
        if self._response_channel is not None and self._response_channel.is_connected:
            self._exchange.allow(self._http.server.stream_timeout)
        elif not self._exchange.answered:
            self._respond_to_nothing()

    def _respond_to_nothing(self) -> None:
        """Answer a request whose function has neither returned nor written anything."""
        if self._writer_ended is False:
            self._fail(self._owner.binding.function_id, "INTERNAL_ERROR", "the writer of the response was cut off")
        else:
            self._respond(handler_response(b"{}"))

    def _on_frame(self, data: bytes, text: bool) -> None:
        """The function has written something."""
        exchange = self._exchange
        if exchange.answered or (text and exchange.started):
            return
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
            exchange.allow(self._http.server.stream_timeout)
        head = self._head or ResponseHead()
        if not text:
            self._head = head
            if not exchange.started:
                self._start(head)
            if not exchange.write(data) and self._reader is not None:
                self._reader.pause()
            return
        try:
            if head.apply(data):
                self._head = head
        except ResultError as error:
            self._fail(self._owner.binding.function_id, "INTERNAL_ERROR", str(error))

    def _on_end(self, clean: bool) -> None:
        """The writer has ended, or was cut off."""
        exchange = self._exchange
        if exchange.answered:
            return
        if clean and self._head is not None and not exchange.started:
            self._start(self._head)
        if exchange.started:
            if clean:
                exchange.finish()
            else:
                exchange.cut()
            self._end(self._head.status if self._head is not None else 200, None if clean else _CUT)
        else:
            self._writer_ended = clean
            if self._returned:
                self._respond_to_nothing()

    def _start(self, head: ResponseHead) -> None:
        if self._reader is not None:
            self._exchange.on_writable = self._reader.resume
        self._exchange.start(Response(head.status, head.headers), head.length)

    # Ends

    def _respond(self, response: Response, error: str | None = None) -> None:
        status = self._head.status if self._exchange.started and self._head is not None else response.status
        self._exchange.respond(response)
        self._end(status, error)

    def _fail(self, function_id: str, code: str, message: str) -> None:
        """Answer with an id under which the log has the function; the worker's stack trace goes to neither."""
        error_id = str(uuid.uuid4())
        log.warning("HTTP handler failed", extra={"error_id": error_id, "function_id": function_id, "code": code[:100]})
        self._exchange.cut()
        status = 503 if code == "worker_asleep" else 500
        self._respond(error_response(status, code, message, error_id=error_id), f"{code}: {message}")

    def _end(self, status: int, error: str | None) -> None:
        """The request is answered: let go of all that belongs to it."""
        self._end_span(status, error)
        self._exchange.on_abandoned = None
        if self._call is not None:
            # Its function has written the response, and is about to return.
            call, self._call = self._call, None
            self._http.bus.clock.machine.call_later(LATE_ANSWER, self._http.bus.calls.invocations.abandon, call)
        self._close(keep_body=True)

    def _abandon(self) -> None:
        """Nobody waits for the answer any more."""
        given_up = self._exchange.given_up
        if given_up is not None:
            code, what = self._exchange.waits_for
            self._end_span(given_up.status, f"{code}: no answer from {what}")
        else:
            self._end_span(None, _CUT)
        if self._task is not None:
            self._task.cancel()
        if self._call is not None:
            self._http.bus.calls.invocations.abandon(self._call)
            self._call = None
        self._close(keep_body=False)

    def _end_span(self, status: int | None, error: str | None) -> None:
        if self._span is None:
            return
        span, self._span = self._span, None
        if error is None and status is not None and status >= 500:
            error = f"the function answered with status {status}"
        span.end(error, {"http.status_code": status} if status is not None else {})

    def _close(self, keep_body: bool) -> None:
        """``keep_body``: whoever reads the body may read it to its end."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        body = self._body_channel
        if body is not None and not (keep_body and body.is_connected):
            body.discard()
        self._body_channel = self._response_channel = None


class _BodySink:
    """The channel of a body, as the place where the body goes to."""

    __slots__ = ("_channel", "abort", "finish", "write")

    def __init__(self, channel: Channel, writer: Writer) -> None:
        self._channel = channel
        self.write = writer.write
        self.finish = writer.finish
        self.abort = writer.abort

    def is_read(self) -> bool:
        """Whether somebody has connected."""
        return self._channel.is_connected


def offer_body(exchange: Exchange, channel: Channel) -> None:
    """Let whoever connects to a channel have the body of a request."""
    data = exchange.request.body
    if exchange.body is None and len(data) <= PIECE:
        writer = channel.open_writer()
        if writer is not None:
            if data:
                writer.write(data)
            writer.finish()
        return
    body = exchange.whole_body()

    def go_on() -> None:
        exchange.send_continue()
        body.resume()

    writer = channel.open_writer(go_on, body.drop)
    if writer is not None:
        # The client waits until somebody wants the body. An empty frame that is taken tells when that is so.
        waits = exchange.expects_continue and not writer.write(b"")
        body.send_to(_BodySink(channel, writer), blocked=waits)


def _bad_query(error: ValueError) -> Response:
    return error_response(400, "BAD_REQUEST", f"the query cannot be read: {error}")
