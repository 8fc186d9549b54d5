"""Calls: from whoever makes them to whoever answers, and back."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from agentos_engine import limits
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.enqueuing import Enqueue, idempotency_key
from agentos_engine.bus.errors import BusError, WorkerUnresponsive
from agentos_engine.bus.execution import Execution, check_room, internal_error, shorter
from agentos_engine.bus.functions import Context
from agentos_engine.bus.invocations import NOBODY, Call, Caller, FutureCaller, Invocations, WorkerCaller
from agentos_engine.bus.registry import Registration
from agentos_engine.bus.tap import Tap, Watched
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Message, is_null, kept, text_of

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus


class Calls:
    """The calls of one bus. ``timeout`` is in seconds: the longest that a call may take; None: for ever."""

    def __init__(self, bus: "Bus", timeout: float | None) -> None:
        self._bus = bus
        self.timeout = timeout
        self.invocations = Invocations(bus.clock)
        self._execution = Execution(bus, self)
        self.enqueue: Enqueue | None = None
        """The queues, when there are any."""
        self.accepted = 0
        """Calls accepted, void ones included."""
        self.errors = 0
        """Calls that were refused, failed in the worker, or were stopped."""
        self.follows_voids = False
        """Whether calls that nobody waits for are in flight, too, until their worker has answered."""
        self.deferred: Callable[[str], object] | None = None
        """Told the function id of each call that is put into a queue."""
        self.tap: Tap | None = None
        """Who watches the calls; None: nobody."""

    # From workers

    def receive(self, connection: Connection, message: Message) -> None:
        """Carry out an ``invokefunction`` of a worker."""
        action = message.action.type if message.action is not None else ""
        invocation_id = message.invocation_id if action != "void" else None
        try:
            if invocation_id is not None:
                if len(invocation_id) > limits.MAX_ID_LENGTH:
                    invocation_id = None
                    raise BusError(
                        "invalid_message", f"the invocation id is longer than {limits.MAX_ID_LENGTH} characters"
                    )
                check_room(len(connection.outgoing), "the caller waits for")
            if len(message.function_id or "") > limits.MAX_ID_LENGTH:
                raise BusError("invalid_message", f"the function id is longer than {limits.MAX_ID_LENGTH} characters")
            namespace = _namespace(message.namespace)
            if connection.guard is not None:
                connection.guard.call(connection, message, invocation_id, namespace)
            else:
                self.start(connection, message, invocation_id, namespace)
        except BusError as error:
            self.refuse(connection, invocation_id, message.function_id or "", error)

    def start(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """Start what a worker may do: a call, or putting one into a queue. Raises BusError when that fails at once."""
        action = message.action.type if message.action is not None else ""
        if action in ("", "void"):
            if self.tap is None:
                self._forward(connection, message, invocation_id, namespace)
            else:
                self._forward_watched(self.tap, connection, message, invocation_id, namespace)
        elif action == "enqueue":
            self._enqueue(connection, message, invocation_id, namespace)
        else:
            raise BusError("invocation_error", f"unknown action {action[:100]!r}; leave it out, or use void or enqueue")

    def refuse(self, connection: Connection, invocation_id: str | None, function_id: str, error: BusError) -> None:
        """Answer a worker's call with an error; a void call is only counted."""
        self.errors += 1
        if invocation_id is not None:
            body = frames.error_body(error.code, error.message, error.stacktrace)
            connection.send(frames.failed(invocation_id, function_id[: limits.MAX_ID_LENGTH], body))

    def _forward_watched(
        self, tap: Tap, connection: Connection, message: Message, invocation_id: str | None, namespace: str
    ) -> None:
        caller = WorkerCaller(connection) if invocation_id is not None else NOBODY
        trace = text_of(message.traceparent)
        watched = tap.began(message.function_id or "", message.data, caller, connection, trace, "")
        try:
            self._forward(connection, message, invocation_id, namespace, watched)
        except BusError as error:
            if watched is not None:
                watched.refused(error)
            raise
        if watched is not None and invocation_id is None:
            watched.sent()

    def _forward(
        self,
        connection: Connection,
        message: Message,
        invocation_id: str | None,
        namespace: str,
        watched: Watched | None = None,
    ) -> None:
        function_id = message.function_id or ""
        registration = self._choose(function_id, namespace, invocation_id is not None, watched)
        caller: Caller = NOBODY if invocation_id is None else watched or WorkerCaller(connection)
        if registration is None or registration.remote is not None:
            data = b"null" if is_null(message.data) else bytes(message.data)
            context = Context(
                function_id,
                connection,
                text_of(message.traceparent) if watched is None else watched.traceparent,
                text_of(message.baggage),
                kept(message.metadata),
                namespace,
            )
            if registration is not None:
                data = frames.with_caller(data, connection.id)
            has_span = watched is not None
            self._execution.carry_out(registration, context, data, caller, invocation_id or "", has_span=has_span)
            return
        target = registration.connection
        self.accepted += 1
        call = None
        if invocation_id is not None:
            check_room(len(target.calls), "the worker has")
            timeout = registration.timeout or self.timeout
            call = self.invocations.open(
                function_id, caller, invocation_id, target, connection, timeout, self._bus.clock.monotonic()
            )
            invocation_id = call.id
        elif self.follows_voids:
            call = self.invocations.follow(function_id, target)
            invocation_id = call.id
        frame = frames.invoke(
            registration.local_id,
            message.data,
            invocation_id=invocation_id,
            caller_worker_id=connection.id,
            traceparent=message.traceparent if watched is None else _raw(watched.traceparent),
            baggage=message.baggage,
            metadata=message.metadata,
        )
        if len(frame) > target.max_frame:
            if call is not None:
                self.invocations.close(call)
            raise _too_large(function_id, len(frame), target)
        target.send(frame)

    def _enqueue(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """The answer is the receipt."""
        enqueue, function_id = self.enqueue, message.function_id or ""
        action = message.action
        if enqueue is None or action is None:
            raise BusError("enqueue_error", "No queue provider is installed: list iii-queue in config.yaml.")
        self.accepted += 1
        metadata = kept(message.metadata)
        receipt = enqueue(
            action.queue or "",
            function_id,
            b"null" if is_null(message.data) else bytes(message.data),
            namespace=namespace,
            metadata=metadata,
            traceparent=text_of(message.traceparent),
            baggage=text_of(message.baggage),
            idempotency_key=action.idempotency_key or idempotency_key(metadata),
        )

        async def answer() -> None:
            try:
                value = frames.text({"messageReceiptId": await receipt})
            except BusError as error:
                self.refuse(connection, invocation_id, function_id, error)
            except Exception:
                self.refuse(connection, invocation_id, function_id, internal_error("enqueue"))
            else:
                if self.deferred is not None:
                    self.deferred(function_id)
                if invocation_id is not None:
                    connection.send(frames.result(invocation_id, function_id, value=value))

        self._bus.spawn(answer())

    def answer(self, connection: Connection, message: Message, frame: bytes) -> None:
        """Carry out an ``invocationresult`` of a worker."""
        call = self.invocations.take(connection, message.invocation_id or "")
        if call is None:
            return  # late, after the caller went or its time was over; or the answer to a call that wanted none
        failed = not is_null(message.error)
        if failed:
            self.errors += 1
        observe = self.invocations.observe
        if observe is not None:
            observe(call.function_id, self._bus.clock.monotonic() - call.started, not failed)
        call.caller.answered(call, message, frame)

    # From the engine

    def invoke(
        self,
        function_id: str,
        data: frames.Json,
        caller: Caller,
        metadata: bytes | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        traceparent: str | None = None,
        baggage: str | None = None,
        timeout: float | None = None,
        origin: Connection | None = None,
        source: str = "",
    ) -> Call:
        """Call a function on behalf of a part of the engine, such as an HTTP request; ``data`` is raw JSON.

        The caller is told the answer, or an error. ``timeout`` (seconds) can only shorten the function's own. The call
        counts among those of ``origin`` and ends with it. ``source`` says to people what it was that called. Raises
        BusError when nobody has the function, or the worker that has it is full.
        """
        watched = None
        if self.tap is not None:
            watched = self.tap.began(function_id, data, caller, origin, traceparent, source)
            if watched is not None:
                caller, traceparent = watched, watched.traceparent
        try:
            registration = self._choose(function_id, namespace, watched=watched)
            if registration is None or registration.remote is not None:
                context = Context(function_id, None, traceparent, baggage, metadata, namespace)
                payload, has_span = bytes(data) or b"null", watched is not None
                return self._execution.carry_out(
                    registration, context, payload, caller, "", timeout, origin, has_span=has_span
                )
            target = registration.connection
            check_room(len(target.calls), "the worker has")
            self.accepted += 1
            now = self._bus.clock.monotonic()
            allowed = shorter(timeout, registration.timeout or self.timeout)
            call = self.invocations.open(function_id, caller, "", target, origin, allowed, now)
            frame = frames.invoke(
                registration.local_id,
                data,
                invocation_id=call.id,
                traceparent=_raw(traceparent),
                baggage=_raw(baggage),
                metadata=metadata,
            )
            if len(frame) > target.max_frame:
                self.invocations.close(call)
                raise _too_large(function_id, len(frame), target)
        except BusError as error:
            self.errors += 1
            if watched is not None:
                watched.refused(error)
            raise
        target.send(frame)
        return call

    async def call(
        self,
        function_id: str,
        data: bytes = b"null",
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the bus ends the call, also for those who do not await
        origin: Connection | None = None,
        source: str = "",
    ) -> bytes | None:
        """Call a function and return its raw JSON result, None for none. Raises BusError. Cancelling abandons the call."""
        caller = FutureCaller()
        call = self.invoke(
            function_id,
            data,
            caller,
            metadata,
            namespace=namespace,
            traceparent=traceparent,
            baggage=baggage,
            timeout=timeout,
            origin=origin,
            source=source,
        )
        try:
            return await caller.future
        finally:
            self.invocations.abandon(call)

    def notify(
        self,
        function_id: str,
        data: bytes,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        source: str = "",
    ) -> bool:
        """Call a function without waiting; False when nobody has it. What becomes of it is not told."""
        watched = None
        if self.tap is not None:
            watched = self.tap.began(function_id, data, NOBODY, None, traceparent, source)
            if watched is not None:
                traceparent = watched.traceparent
        try:
            registration = self._choose(function_id, namespace, waits=False, watched=watched)
            if registration is None or registration.remote is not None:
                context = Context(function_id, None, traceparent, baggage, metadata, namespace)
                payload, has_span = bytes(data) or b"null", watched is not None
                self._execution.carry_out(registration, context, payload, NOBODY, "", has_span=has_span)
            else:
                self.accepted += 1
                target = registration.connection
                call = self.invocations.follow(function_id, target) if self.follows_voids else None
                frame = frames.invoke(
                    registration.local_id,
                    data,
                    invocation_id=None if call is None else call.id,
                    traceparent=_raw(traceparent),
                    baggage=_raw(baggage),
                    metadata=metadata,
                )
                if len(frame) > target.max_frame:
                    if call is not None:
                        self.invocations.close(call)
                    raise _too_large(function_id, len(frame), target)
                target.send(frame)
        except BusError as error:
            self.errors += 1
            if watched is not None:
                watched.refused(error)
            return False
        if watched is not None:
            watched.sent()
        return True

    def expire(self) -> None:
        """Answer the calls whose time is over; a result that comes later is dropped."""
        now = self._bus.clock.monotonic()
        for call in self.invocations.expired(now):
            milliseconds = round((call.timeout or 0) * 1000)
            message = f"Function {call.function_id} did not answer within {milliseconds} ms."
            self.errors += 1
            self.invocations.fail(call, BusError("TIMEOUT", message))

    # Carrying out

    def _choose(
        self, function_id: str, namespace: str, waits: bool = True, watched: Watched | None = None
    ) -> Registration | None:
        """Who gets a call. One that nobody waits for may wait in the socket of a worker that is silent."""
        registration = self._bus.registry.choose(function_id, namespace)
        if watched is not None:
            watched.chosen(None if registration is None else registration.connection)
        if registration is None:
            return None
        target = registration.connection
        if target.silent and waits and registration.remote is None:
            raise WorkerUnresponsive(function_id, limits.SILENT_AFTER)
        if target.congested and target.link.unsent() > limits.MAX_UNSENT:
            raise BusError("limit_exceeded", f"Function {function_id}: its worker does not read fast enough; try later")
        return registration


def _too_large(function_id: str, size: int, target: Connection) -> BusError:
    return BusError(
        "payload_too_large",
        f"Function {function_id}: a message of {size} bytes is more than its worker's SDK takes ({target.max_frame})",
    )


def _namespace(raw: msgspec.Raw) -> str:
    """The iii namespace that a message asks for. Null, as some SDKs send it, is as good as nothing."""
    if is_null(raw):
        return DEFAULT_NAMESPACE
    namespace = text_of(raw)
    if namespace is None or not namespace.strip():
        raise BusError("INVALID_NAMESPACE", "namespace must be a text that is not blank; leave it out for the default")
    return namespace


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(frames.text(text))
