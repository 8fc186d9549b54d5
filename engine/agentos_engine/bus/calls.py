"""Calls: from whoever makes them to whoever answers, and back."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec

from agentos_engine import limits
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.enqueuing import Enqueue, idempotency_key
from agentos_engine.bus.error_counts import ErrorCounts
from agentos_engine.bus.errors import BusError, WorkerAsleep, WorkerUnresponsive
from agentos_engine.bus.execution import Execution, internal_error, shorter
from agentos_engine.bus.functions import Context
from agentos_engine.bus.invocations import NOBODY, Call, Caller, FutureCaller, Invocations
from agentos_engine.bus.registry import Registration
from agentos_engine.bus.spans import Span
from agentos_engine.bus.tap import Tap, Watched
from agentos_engine.bus.tracer import Tracer
from agentos_engine.permissions.rules import Permissions
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import ABSENT, Message, is_null, kept, text_of

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus


SENT_TOGETHER = 256 << 10
"""Bytes of frames that are made before they are sent one after the other: after each system call the interpreter is slow
for a while, so nothing is done between them that can be done before."""


class Target(Protocol):
    """A function that is called along with others; ``metadata`` is raw JSON. A binding is one."""

    function_id: str
    namespace: str
    metadata: bytes | None


class Calls:
    """The calls of one bus. ``timeout`` is in seconds: the longest that a call may take; None: for ever."""

    def __init__(self, bus: "Bus", timeout: float | None) -> None:
        self._bus = bus
        self._registry, self._now = bus.registry, bus.clock.monotonic
        self._most = bus.bounds.limits.calls_per_connection
        self._most_in_all = bus.bounds.limits.calls
        self.timeout = timeout
        self.invocations = Invocations(bus.clock)
        self._execution = Execution(bus, self)
        self.enqueue: Enqueue | None = None
        """The queues, when there are any."""
        self.accepted = 0
        """Calls accepted, void ones included."""
        self.errors = ErrorCounts()
        """Calls that were refused, failed in the worker, or were stopped."""
        self.follows_voids = False
        """Whether calls that nobody waits for are in flight, too, until their worker has answered."""
        self.deferred: Callable[[str], object] | None = None
        """Told the function id of each call that is put into a queue."""
        self.tap: Tap | None = None
        """Who watches the calls; None: nobody."""
        self.tracer: Tracer | None = None
        """Makes spans of workers' calls, unless somebody watches, who does so, too; None: nobody."""

    # From workers

    def receive(self, connection: Connection, message: Message, frame: bytes) -> None:
        """Carry out an ``invokefunction`` of a worker."""
        action = message.action
        invocation_id = message.invocation_id if action is None or action.type != "void" else None
        try:
            if invocation_id is not None:
                if len(invocation_id) > limits.MAX_ID_LENGTH:
                    invocation_id = None
                    raise BusError(
                        "invalid_message", f"the invocation id is longer than {limits.MAX_ID_LENGTH} characters"
                    )
                has = len(connection.outgoing)
                if has >= self._most or has >= self._most_in_all - self.invocations.in_flight:
                    raise self._full(has, "the caller")
            if len(message.function_id or "") > limits.MAX_ID_LENGTH:
                raise BusError("invalid_message", f"the function id is longer than {limits.MAX_ID_LENGTH} characters")
            permissions = connection.permissions
            if permissions is not None and (message.function_id not in permissions.callable or action is not None):
                self._permit(permissions, connection, message)
            namespace = DEFAULT_NAMESPACE if message.namespace is ABSENT else _namespace(message.namespace)
            if connection.guard is not None:
                connection.guard.call(connection, message, invocation_id, namespace)
            elif action is None and self.tap is None:
                tracer = self.tracer
                if tracer is None or not tracer.samples(message.traceparent):
                    self._forward(connection, message, invocation_id, namespace)
                else:
                    self._forward_watched(tracer, connection, message, invocation_id, namespace)
            else:
                self.start(connection, message, invocation_id, namespace)
        except BusError as error:
            self.refuse(connection, invocation_id, message.function_id or "", error)

    def _permit(self, permissions: Permissions, connection: Connection, message: Message) -> None:
        function_id = message.function_id or ""
        try:
            if message.action is not None and message.action.type == "enqueue":
                permissions.check_indirect(function_id)
            else:
                permissions.check_call(function_id)
        except BusError as error:
            self._bus.permissions_denied["call"] += 1
            self._bus.registrations.log(connection, "call refused: %s", error.message, function_id=function_id[:200])
            if self.tap is not None:
                caller = connection.caller if message.invocation_id is not None else NOBODY
                trace = text_of(message.traceparent)
                watched = self.tap.began(function_id, message.data, caller, connection, trace, "")
                if watched is not None:
                    watched.refused(error)
            raise

    def start(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """Start what a worker may do: a call, or putting one into a queue. Raises BusError when that fails at once."""
        action = message.action.type if message.action is not None else ""
        if action in ("", "void"):
            watcher = self.tap
            if watcher is None and (tracer := self.tracer) is not None and tracer.samples(message.traceparent):
                watcher = tracer
            if watcher is None:
                self._forward(connection, message, invocation_id, namespace)
            else:
                self._forward_watched(watcher, connection, message, invocation_id, namespace)
        elif action == "enqueue":
            self._enqueue(connection, message, invocation_id, namespace)
        else:
            raise BusError("invocation_error", f"unknown action {action[:100]!r}; leave it out, or use void or enqueue")

    def check_room(self, has: int, who: str) -> None:
        """Raise BusError ``limit_exceeded`` when somebody with so many unanswered calls can have no more."""
        if has >= self._most or has >= self._most_in_all - self.invocations.in_flight:
            raise self._full(has, who)

    def _full(self, has: int, who: str) -> BusError:
        if has >= self._most:
            return self._bus.bounds.exceeded(
                "calls_per_connection", f"{who} has {has} unanswered calls, the most allowed"
            )
        problem = f"{self.invocations.in_flight} calls in all are unanswered, {has} of {who}"
        return self._bus.bounds.exceeded("calls", problem)

    def refuse(self, connection: Connection, invocation_id: str | None, function_id: str, error: BusError) -> None:
        """Answer a worker's call with an error; a void call is only counted."""
        self.errors.count(error.code)
        if invocation_id is not None:
            body = frames.error_body(error.code, error.message, error.stacktrace)
            connection.send(frames.failed(invocation_id, function_id[: limits.MAX_ID_LENGTH], body))

    def _forward_watched(
        self, tap: Tap, connection: Connection, message: Message, invocation_id: str | None, namespace: str
    ) -> None:
        caller = connection.caller if invocation_id is not None else NOBODY
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
        registration = self._registry.choose(function_id, namespace)
        if watched is not None:
            watched.chosen(None if registration is None else registration.connection)
        caller: Caller = NOBODY if invocation_id is None else watched or connection.caller
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
        if target.silent or target.congested:
            self._check_reading(target, function_id, invocation_id is not None)
        self.accepted += 1
        call = None
        if invocation_id is not None:
            if len(target.calls) >= self._most:
                raise self._full(len(target.calls), "the worker that has the function")
            timeout = registration.timeout or self.timeout
            call = self.invocations.open(function_id, caller, invocation_id, target, connection, timeout, self._now())
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
        if len(frame) > target.max_frame and (why := target.refusal_of(frame)):
            if call is not None:
                self.invocations.close(call)
            raise BusError("payload_too_large", f"Function {function_id}: its worker's SDK {why}")
        target.send(frame)

    def _enqueue(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """The answer is the receipt."""
        enqueue, function_id = self.enqueue, message.function_id or ""
        action = message.action
        if enqueue is None or action is None:
            raise BusError("enqueue_error", "No queue provider is installed: list iii-queue in config.yaml.")
        self.check_room(connection.voids, "this worker, in putting calls into queues,")
        self.accepted += 1
        metadata = kept(message.metadata)
        queue = action.queue or ""
        name = f"enqueue {function_id} -> {queue[: limits.MAX_ID_LENGTH]}"
        span = Span(self._bus, name, text_of(message.traceparent), "producer", function_id=function_id)
        receipt = enqueue(
            queue,
            function_id,
            b"null" if is_null(message.data) else bytes(message.data),
            namespace=namespace,
            metadata=metadata,
            traceparent=span.traceparent,
            baggage=text_of(message.baggage),
            idempotency_key=action.idempotency_key or idempotency_key(metadata),
        )

        async def answer() -> None:
            try:
                with span:
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

        connection.voids += 1
        self._bus.spawn(answer()).add_done_callback(lambda task: _less(connection))

    def answer(self, connection: Connection, message: Message, frame: bytes) -> None:
        """Carry out an ``invocationresult`` of a worker."""
        invocation_id = message.invocation_id or ""
        call = connection.calls.get(invocation_id)
        if call is None:  # late, after the caller went or its time was over; or the answer to a call that wanted none
            connection.given_up.discard(invocation_id)
            return
        self.invocations.close(call)
        failed = message.error is not ABSENT and not is_null(message.error)
        if failed:
            self.errors.count_foreign(message.error)
        observe = self.invocations.observe
        if observe is not None:
            observe(call.function_id, self._now() - call.started, not failed)
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
            self.check_room(len(target.calls), "the worker that has the function")
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
            if len(frame) > target.max_frame and (why := target.refusal_of(frame)):
                self.invocations.close(call)
                raise BusError("payload_too_large", f"Function {function_id}: its worker's SDK {why}")
        except BusError as error:
            self.errors.count(error.code)
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
                if len(frame) > target.max_frame and (why := target.refusal_of(frame)):
                    if call is not None:
                        self.invocations.close(call)
                    raise BusError("payload_too_large", f"Function {function_id}: its worker's SDK {why}")
                target.send(frame)
        except BusError as error:
            self.errors.count(error.code)
            if watched is not None:
                watched.refused(error)
            return False
        if watched is not None:
            watched.sent()
        return True

    def notify_all(
        self,
        targets: "Iterable[Target]",
        data: bytes,
        *,
        traceparent: str | None = None,
        baggage: str | None = None,
        source: str = "",
    ) -> None:
        """Call many functions with the same data, as :meth:`notify` does each; the frame is made once for all of them."""
        watched = self.tap is not None or self.follows_voids
        trace = {"traceparent": _raw(traceparent), "baggage": _raw(baggage)}
        choose, tails = self._registry.choose, {}
        ready: list[tuple[Callable[[bytes], None], bytes]] = []
        size = 0
        for each in targets:
            function_id, namespace, metadata = each.function_id, each.namespace, each.metadata
            registration = None if watched else choose(function_id, namespace)
            if registration is not None and registration.remote is None:
                target = registration.connection
                if not target.silent and not target.congested:
                    tail = tails.get(metadata)
                    if tail is None:
                        tail = tails[metadata] = frames.invoke_tail(data, metadata=metadata, **trace)
                    frame = frames.invoke_with(registration.local_id, tail)
                    if len(frame) <= target.max_frame:
                        self.accepted += 1
                        ready.append((target.send, frame))
                        size += len(frame)
                        if size > SENT_TOGETHER:
                            _send(ready)
                            size = 0
                        continue
            self.notify(
                function_id,
                data,
                namespace=namespace,
                metadata=metadata,
                traceparent=traceparent,
                baggage=baggage,
                source=source,
            )
        _send(ready)

    def expire(self) -> None:
        """Answer the calls whose time is over; a result that comes later is dropped."""
        now = self._bus.clock.monotonic()
        for call in self.invocations.expired(now):
            milliseconds = round((call.timeout or 0) * 1000)
            message = f"Function {call.function_id} did not answer within {milliseconds} ms."
            self.errors.count("TIMEOUT")
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
        if target.silent or target.congested:
            self._check_reading(target, function_id, waits and registration.remote is None)
        return registration

    def _check_reading(self, target: Connection, function_id: str, waits: bool) -> None:
        if target.asleep:
            raise WorkerAsleep(function_id, target.peer.subject)
        if target.silent and waits:
            raise WorkerUnresponsive(function_id, limits.SILENT_AFTER)
        if target.congested and target.link.is_full():
            problem = f"Function {function_id}: its worker does not read fast enough"
            raise self._bus.bounds.exceeded("unsent_of_worker", problem)


def _send(ready: list[tuple[Callable[[bytes], None], bytes]]) -> None:
    for send, frame in ready:
        send(frame)
    ready.clear()


def _less(connection: Connection) -> None:
    connection.voids -= 1


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
