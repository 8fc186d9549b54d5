"""Calls that wait for an answer."""

import uuid
from typing import Protocol

import msgspec

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Message, decode_error, is_null


class Caller(Protocol):
    """Whoever waits for an answer: a worker's connection or an HTTP request."""

    def answered(self, call: "Call", message: Message, frame: bytes) -> None:
        """The worker answered with ``message``, which came as ``frame``."""

    def failed(self, call: "Call", error: BusError) -> None:
        """There will be no answer of the worker."""


class Call:
    """One call in flight. ``id`` is the invocation id at the callee, ``caller_id`` that of the caller."""

    __slots__ = ("caller", "caller_id", "function_id", "id", "origin", "target")

    def __init__(
        self, function_id: str, caller: Caller, caller_id: str, target: Connection, origin: Connection | None
    ) -> None:
        # Two callers may use one id: only then the callee gets another than the caller's, which spares a rewrite.
        self.id = str(uuid.uuid4()) if not caller_id or caller_id in target.calls else caller_id
        self.caller_id = caller_id
        self.function_id = function_id
        self.caller = caller
        self.target = target
        self.origin = origin


class Invocations:
    """All calls in flight, kept at the connection that has to answer them."""

    def __init__(self) -> None:
        self.in_flight = 0

    def open(
        self, function_id: str, caller: Caller, caller_id: str, target: Connection, origin: Connection | None = None
    ) -> Call:
        """Record a call; to be done before the frame is sent, since a fast callee may answer at once."""
        call = Call(function_id, caller, caller_id, target, origin)
        target.calls[call.id] = call
        if origin is not None:
            origin.outgoing.add(call)
        self.in_flight += 1
        return call

    def close(self, call: Call) -> bool:
        """Forget a call; False when it was already closed."""
        if call.target.calls.get(call.id) is not call:
            return False
        del call.target.calls[call.id]
        if call.origin is not None:
            call.origin.outgoing.discard(call)
        self.in_flight -= 1
        return True

    def take(self, target: Connection, invocation_id: str) -> Call | None:
        """Return the call that a connection answers, closing it; None when it has no such call."""
        call = target.calls.get(invocation_id)
        if call is not None:
            self.close(call)
        return call

    def stop(self, connection: Connection, error: BusError) -> None:
        """Drop the calls that a connection made, and fail those that it was to answer."""
        for call in list(connection.outgoing):
            self.close(call)
        for call in list(connection.calls.values()):
            self.close(call)
            call.caller.failed(call, error)


class WorkerCaller:
    """The caller role of a worker's connection: answers go back as frames under the caller's own invocation id."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """Send the answer: as it came when nothing has to be changed in it."""
        self._connection.send(_answer(call, message, frame))

    def failed(self, call: Call, error: BusError) -> None:
        """Send an error."""
        body = frames.error_body(error.code, error.message)
        self._connection.send(frames.failed(call.caller_id, call.function_id, body))


def _answer(call: Call, message: Message, frame: bytes) -> bytes:
    trace = {"traceparent": message.traceparent, "baggage": message.baggage}
    if not is_null(message.error):
        error: msgspec.Raw | bytes = message.error
        if decode_error(message.error) is None:
            error = frames.error_body("invocation_failed", "the worker reported an error without a code and a message")
        elif call.id == call.caller_id:
            return frame
        return frames.failed(call.caller_id, call.function_id, error, **trace)
    if is_null(message.result):
        return frames.result(call.caller_id, call.function_id, **trace)
    if call.id == call.caller_id:
        return frame
    return frames.result(call.caller_id, call.function_id, value=message.result, **trace)
