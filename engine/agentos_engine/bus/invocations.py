"""Calls that wait for an answer."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import getrandbits
from typing import Protocol

import msgspec

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.tap import Watched
from agentos_engine.clock import Clock
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import ABSENT, Message, decode_error, is_null

log = logging.getLogger(__name__)

MAX_GIVEN_UP = 1000
"""Ids of calls that were given up, kept for a worker that answers none of them; with more it gets the engine's ids."""


class Caller(Protocol):
    """Whoever waits for an answer: a worker's connection, an HTTP request, a part of the engine."""

    def answered(self, call: "Call", message: Message, frame: bytes) -> None:
        """The worker answered with ``message``, which came as ``frame``."""

    def returned(self, call: "Call", result: bytes | None) -> None:
        """A function of the engine, or one that it called over HTTP, gave raw JSON, or None for nothing."""

    def failed(self, call: "Call", error: BusError) -> None:
        """There will be no answer."""


def _new_id() -> str:
    """A UUID of version 4, as the protocol has them; made by hand, since the library's takes 2 µs.

    No secret, so no system call: a worker's answer counts only for the calls that it was given.
    """
    digits = f"{getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Call(msgspec.Struct, eq=False):
    """One call in flight. ``id`` is the invocation id at the callee, ``caller_id`` that of the caller.

    ``target`` is None when the engine carries it out itself; ``timeout`` is in seconds, None for as long as it takes.
    A Struct, since that is made in 0.1 µs; an ordinary object of this size takes 0.4 µs.
    """

    id: str
    caller_id: str
    function_id: str
    caller: Caller
    target: Connection | None
    origin: Connection | None
    timeout: float | None
    started: float
    open: bool = True
    task: asyncio.Task[None] | None = None
    """What carries it out in the engine."""
    void_of: Connection | None = None

    def count_void(self, connection: Connection | None) -> None:
        """Count it among the calls of a worker that nobody waits for; it goes on when the worker has gone."""
        if connection is not None:
            self.void_of = connection
            connection.voids += 1


def _given_up(target: Connection, invocation_id: str) -> bool:
    """Whether the target may yet answer a call of this id that nobody waits for."""
    return invocation_id in target.given_up or len(target.given_up) >= MAX_GIVEN_UP


def _give_up(call: Call) -> None:
    """Nobody waits for the answer, should it come; an id that the engine made up is used once anyway."""
    target = call.target
    if target is not None and call.id == call.caller_id and len(target.given_up) < MAX_GIVEN_UP:
        target.given_up.add(call.id)


class Invocations:
    """All calls in flight, kept at the connection that has to answer them."""

    def __init__(self, clock: Clock) -> None:
        self.in_flight = 0
        self.observe: Callable[[str, float, bool], object] | None = None
        """Told of each call that has ended: function id, seconds, whether it went well."""
        self._clock = clock
        self._local: set[Call] = set()
        self._deadlines: dict[float, dict[Call, None]] = {}
        """By time-out and then in the order of their starts, which is that of their deadlines."""

    def open(
        self,
        function_id: str,
        caller: Caller,
        caller_id: str,
        target: Connection | None,
        origin: Connection | None,
        timeout: float | None,
        now: float,
    ) -> Call:
        """Record a call; to be done before the frame is sent, since a fast callee may answer at once."""
        # Two callers may use one id: only then the callee gets another than the caller's, which spares a rewrite.
        taken = not caller_id or (
            target is not None and (caller_id in target.calls or (target.given_up and _given_up(target, caller_id)))
        )
        call_id = _new_id() if taken else caller_id
        call = Call(call_id, caller_id, function_id, caller, target, origin, timeout, now)
        if target is not None:
            target.calls[call_id] = call
        else:
            self._local.add(call)
        if origin is not None:
            origin.outgoing.add(call)
        if timeout is not None:
            try:
                self._deadlines[timeout][call] = None
            except KeyError:
                self._deadlines[timeout] = {call: None}
        self.in_flight += 1
        return call

    def follow(self, function_id: str, target: Connection) -> Call:
        """Record a call that nobody waits for, so that it is in flight until the worker has answered."""
        return self.open(function_id, NOBODY, "", target, None, None, self._clock.monotonic())

    def close(self, call: Call) -> bool:
        """Forget a call; False when it was already closed."""
        if not call.open:
            return False
        call.open = False
        self.in_flight -= 1
        origin, timeout, target = call.origin, call.timeout, call.target
        if origin is not None:
            origin.outgoing.discard(call)
        if timeout is not None:
            self._deadlines[timeout].pop(call, None)
        if call.void_of is not None:
            call.void_of.voids -= 1
        if target is None:
            self._local.discard(call)
            return True
        del target.calls[call.id]
        if target.when_idle and not target.calls:
            waiting, target.when_idle = target.when_idle, []
            for idle in waiting:
                idle()
        return True

    def abandon(self, call: Call) -> None:
        """Forget a call that nobody waits for any more; what the engine does for it is stopped."""
        if self.close(call):
            _give_up(call)
            if call.task is not None:
                call.task.cancel()
            if isinstance(call.caller, Watched):
                call.caller.abandoned()

    def fail(self, call: Call, error: BusError) -> bool:
        """End a call with an error; False when it had ended."""
        if not self.close(call):
            return False
        _give_up(call)
        if call.task is not None:
            call.task.cancel()
        if self.observe is not None:
            self.observe(call.function_id, self._clock.monotonic() - call.started, False)
        try:
            call.caller.failed(call, error)
        except Exception:  # the callers of the other calls that end with this one must hear of it all the same
            log.exception("whoever called %s could not be told that it failed", call.function_id)
        return True

    def stop(self, connection: Connection, error: BusError) -> None:
        """Drop the calls that a connection made, and fail those that it was to answer."""
        for call in list(connection.outgoing):
            self.abandon(call)
        for call in list(connection.calls.values()):
            self.fail(call, error)

    def stop_all(self, connections: list[Connection], error: BusError) -> None:
        """Fail every call, so that each caller knows before its own connection ends."""
        for connection in connections:
            for call in list(connection.calls.values()):
                self.fail(call, error)
        for call in list(self._local):
            self.fail(call, error)

    def calls(self, connections: Iterable[Connection]) -> list[Call]:
        """Return all calls in flight; those that workers answer are kept with the connections."""
        return [*self._local, *(call for connection in connections for call in connection.calls.values())]

    def lift_deadline(self, call: Call) -> None:
        """Let a call take as long as it takes."""
        if call.timeout is not None:
            self._deadlines[call.timeout].pop(call, None)
            call.timeout = None

    def next_deadline(self) -> float | None:
        """Return when the time of a call is over next; of the clock of its ``started``. None: no call has a deadline."""
        firsts = (next(iter(calls)) for calls in self._deadlines.values() if calls)
        return min((call.started + (call.timeout or 0.0) for call in firsts), default=None)

    def expired(self, now: float) -> list[Call]:
        """Return the calls whose time is over; ``now`` is of the clock of their ``started``."""
        late = []
        for timeout, calls in list(self._deadlines.items()):
            for call in calls:
                if call.started + timeout > now:
                    break
                late.append(call)
            if not calls:
                del self._deadlines[timeout]
        return late


class WorkerCaller:
    """The caller role of a worker's connection: answers go back as frames under the caller's own invocation id."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """Send the answer: as it came when nothing has to be changed in it."""
        if call.id != call.caller_id or message.error is not ABSENT or is_null(message.result):
            frame = _answer(call, message, frame)
        if len(frame) <= self._connection.max_frame:
            self._connection.send(frame)
        else:
            self._send(call, frame)

    def returned(self, call: Call, result: bytes | None) -> None:
        """Send a result of the engine."""
        self._send(call, frames.result(call.caller_id, call.function_id, value=result))

    def failed(self, call: Call, error: BusError) -> None:
        """Send an error."""
        self._send(call, frames.failed(call.caller_id, call.function_id, _body(error)))

    def _send(self, call: Call, frame: bytes) -> None:
        connection = self._connection
        if len(frame) > connection.max_frame and (why := connection.refusal_of(frame)):
            text = f"the answer cannot be sent: the caller's SDK {why}"
            frame = frames.failed(call.caller_id, call.function_id, frames.error_body("payload_too_large", text))
        self._connection.send(frame)


class FutureCaller:
    """A part of the engine that awaits the answer."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """Take the worker's answer."""
        if self.future.done():
            return
        if not is_null(message.error):
            self.future.set_exception(error_of(message))
        else:
            self.future.set_result(None if is_null(message.result) else bytes(message.result))

    def returned(self, call: Call, result: bytes | None) -> None:
        """Take a result of the engine."""
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, call: Call, error: BusError) -> None:
        """Take an error."""
        if not self.future.done():
            self.future.set_exception(BusError(error.code, error.message, error.stacktrace))


class Nobody:
    """The caller of a void call: it hears nothing."""

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """Drop the answer."""

    def returned(self, call: Call, result: bytes | None) -> None:
        """Drop the result."""

    def failed(self, call: Call, error: BusError) -> None:
        """Drop the error."""


NOBODY = Nobody()


def error_of(message: Message) -> BusError:
    """The error in a worker's answer."""
    error = decode_error(message.error)
    if error is None:
        return BusError("invocation_failed", "the worker reported an error without a code and a message")
    return BusError(error.code, error.message, error.stacktrace)


def _body(error: BusError) -> bytes:
    return frames.error_body(error.code, error.message, error.stacktrace)


def _answer(call: Call, message: Message, frame: bytes) -> bytes:
    trace = {"traceparent": message.traceparent, "baggage": message.baggage}
    if not is_null(message.error):
        error: msgspec.Raw | bytes = message.error
        if decode_error(message.error) is None:
            error = _body(error_of(message))
        elif call.id == call.caller_id:
            return frame
        return frames.failed(call.caller_id, call.function_id, error, **trace)
    if is_null(message.result):
        return frames.result(call.caller_id, call.function_id, **trace)
    if call.id == call.caller_id:
        return frame
    return frames.result(call.caller_id, call.function_id, value=message.result, **trace)
