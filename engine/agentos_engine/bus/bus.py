"""The bus: what each message of a worker does."""

import logging
import uuid
from collections.abc import Callable

import msgspec

from agentos_engine import limits
from agentos_engine.bus.connection import ANONYMOUS, Connection, Peer
from agentos_engine.bus.errors import INVOCATION_STOPPED, BusError, function_not_found
from agentos_engine.bus.invocations import Call, Caller, Invocations, WorkerCaller
from agentos_engine.bus.registry import Registration, Registry, reserved
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Malformed, Message, decode, decode_error, is_null, kept
from agentos_engine.triggers.registry import Binding, TriggerRegistry

log = logging.getLogger(__name__)

BuiltIn = Callable[[Connection, msgspec.Raw], object]
"""One of the engine's own functions: caller and raw payload in, a JSON value out; raises BusError."""


class Bus:
    """All connections of one engine, their functions, triggers and calls."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}
        self.registry = Registry()
        self.triggers = TriggerRegistry()
        self.invocations = Invocations()
        self.built_ins: dict[str, BuiltIn] = {}
        self.built_in_namespaces: dict[str, Callable[[str], object]] = {}
        """For whole function namespaces of the engine: called with the function id when no built-in has it."""
        self.watchers: list[Callable[[Connection], None]] = []
        """Called when a connection comes, goes, or changes its name or functions."""
        self.calls = 0
        """Calls accepted, void ones included."""
        self.errors = 0
        """Calls that were refused, failed in the worker, or were stopped."""
        self._handlers: dict[str, Callable[[Connection, Message, bytes], None]] = {
            "invokefunction": self._invoke,
            "invocationresult": self._answer,
            "registerfunction": self._register_function,
            "unregisterfunction": self._unregister_function,
            "registertrigger": self._register_trigger,
            "unregistertrigger": self._unregister_trigger,
            "registertriggertype": self._register_trigger_type,
            "unregistertriggertype": self._unregister_trigger_type,
            "triggerregistrationresult": self._trigger_result,
            "ping": lambda connection, message, frame: connection.send(frames.PONG),
            "pong": lambda connection, message, frame: None,
            "registerservice": lambda connection, message, frame: None,  # grouping only, of the 0.11 SDKs
            "reattach": lambda connection, message, frame: None,  # no token is given out
        }

    def connect(self, send: Callable[[bytes], None], peer: Peer = ANONYMOUS, ip_address: str = "") -> Connection:
        """Add a worker's connection and greet it."""
        connection = Connection(id=str(uuid.uuid4()), send=send, peer=peer, ip_address=ip_address)
        self.connections[connection.id] = connection
        send(frames.worker_registered(connection.id))
        log.info("worker connected", extra={"worker_id": connection.id, "subject": peer.subject})
        self.changed(connection)
        return connection

    def disconnect(self, connection: Connection, now: float) -> None:
        """Remove a connection and all that was its own; callers that wait for it are answered at once.

        ``now`` is in seconds since 1970.
        """
        connection.closed = True
        connection.since = now
        del self.connections[connection.id]
        for function_id in list(connection.registrations):
            self.registry.remove(connection, function_id)
        self.triggers.drop(connection)
        self.errors += len(connection.calls)
        self.invocations.stop(connection, INVOCATION_STOPPED)
        log.info("worker disconnected", extra={"worker_id": connection.id, "worker": connection.about.name})
        self.changed(connection)

    def changed(self, connection: Connection) -> None:
        """Tell the watchers that a connection is not as it was."""
        for watcher in self.watchers:
            watcher(connection)

    def receive(self, connection: Connection, frame: bytes) -> None:
        """Carry out one message. Bad ones are logged once per connection and never end it."""
        message = decode(frame)
        if isinstance(message, Malformed):
            self._malformed(connection, message)
        elif (handler := self._handlers.get(message.type)) is not None:
            handler(connection, message, frame)
        else:
            self._fault(connection, f"unknown message type {message.type[:100]!r}")

    def invoke(self, function_id: str, data: frames.Json, caller: Caller, metadata: bytes | None = None) -> Call:
        """Call a worker's function on behalf of the engine's own callers, such as HTTP requests.

        ``data`` is raw JSON. The caller gets the answer, or an error when the worker goes. Raises BusError when no
        worker has the function, or the one that has it is full.
        """
        target = self.registry.choose(function_id)
        if target is None:
            self.errors += 1
            raise function_not_found(function_id)
        self._check_room(len(target.calls), "the worker has")
        self.calls += 1
        call = self.invocations.open(function_id, caller, "", target)
        target.send(frames.invoke(function_id, data, invocation_id=call.id, metadata=metadata))
        return call

    def abandon(self, call: Call) -> None:
        """Forget a call of :meth:`invoke` whose answer nobody waits for any more."""
        self.invocations.close(call)

    # Calls

    def _invoke(self, connection: Connection, message: Message, frame: bytes) -> None:
        function_id = message.function_id or ""
        action = message.action.type if message.action is not None else ""
        answered = message.invocation_id is not None and action != "void"
        try:
            if action == "enqueue":
                raise BusError(
                    "enqueue_error", "No queue provider is installed: this engine does not serve queues yet."
                )
            if action not in ("", "void"):
                raise BusError("invocation_error", f"unknown action {action[:100]!r}; leave it out, or use void")
            target = self.registry.choose(function_id)
            if target is None:
                value = self._built_in(connection, function_id, message.data)
                self.calls += 1
                if answered:
                    connection.send(frames.result(message.invocation_id or "", function_id, value=frames.text(value)))
                return
            invocation_id = None
            if answered:
                self._check_room(len(connection.outgoing), "the caller waits for")
                self._check_room(len(target.calls), "the worker has")
                caller = WorkerCaller(connection)
                call = self.invocations.open(function_id, caller, message.invocation_id or "", target, connection)
                invocation_id = call.id
            self.calls += 1
            target.send(
                frames.invoke(
                    function_id,
                    message.data,
                    invocation_id=invocation_id,
                    caller_worker_id=connection.id,
                    traceparent=message.traceparent,
                    baggage=message.baggage,
                    metadata=message.metadata,
                )
            )
        except BusError as error:
            self.errors += 1
            if answered:
                self._fail(connection, message.invocation_id or "", function_id, error)

    def _built_in(self, connection: Connection, function_id: str, data: msgspec.Raw) -> object:
        built_in = self.built_ins.get(function_id)
        if built_in is not None:
            if len(memoryview(data)) > limits.MAX_BUILT_IN_PAYLOAD:
                raise BusError("limit_exceeded", f"{function_id} takes at most {limits.MAX_BUILT_IN_PAYLOAD} bytes")
            return built_in(connection, data)
        refuse = self.built_in_namespaces.get(function_id.partition("::")[0])
        if refuse is not None:
            return refuse(function_id)
        raise function_not_found(function_id)

    def _answer(self, connection: Connection, message: Message, frame: bytes) -> None:
        call = self.invocations.take(connection, message.invocation_id or "")
        if call is None:
            return  # late, after the caller went; or the answer to a call that wanted none
        if not is_null(message.error):
            self.errors += 1
        call.caller.answered(call, message, frame)

    def _fail(self, connection: Connection, invocation_id: str, function_id: str, error: BusError) -> None:
        connection.send(frames.failed(invocation_id, function_id, frames.error_body(error.code, error.message)))

    def _check_room(self, in_flight: int, who: str) -> None:
        if in_flight >= limits.MAX_IN_FLIGHT:
            raise BusError("limit_exceeded", f"{who} {in_flight} unanswered calls, the most allowed; try again later")

    # Registrations

    def _register_function(self, connection: Connection, message: Message, frame: bytes) -> None:
        function_id = message.id or ""
        if reserved(function_id):
            log.warning(
                "function refused: its id belongs to the engine",
                extra={"worker_id": connection.id, "worker": connection.about.name, "function_id": function_id[:200]},
            )
            connection.send(frames.function_refused(function_id))
            return
        new = function_id not in connection.registrations
        problem = _id_problem(function_id, "function id")
        if not is_null(message.invocation):
            problem = "functions that are invoked over HTTP are not served by this engine yet"
        elif new and len(connection.registrations) >= limits.MAX_FUNCTIONS:
            problem = f"a connection has at most {limits.MAX_FUNCTIONS} functions"
        elif connection.registered_bytes + len(frame) > limits.MAX_REGISTERED:
            problem = f"a connection registers at most {limits.MAX_REGISTERED} bytes"
        if problem:
            self._refuse(connection, f"function {function_id[:200]!r} is not registered: {problem}")
            return
        registration = Registration(
            function_id=function_id,
            connection=connection,
            size=len(frame),
            description=kept(message.description),
            request_format=kept(message.request_format),
            response_format=kept(message.response_format),
            metadata=kept(message.metadata),
            internal=_is_internal(message.metadata),
        )
        self.registry.add(registration)
        if new:
            self.changed(connection)

    def _unregister_function(self, connection: Connection, message: Message, frame: bytes) -> None:
        if self.registry.remove(connection, message.id or ""):
            self.changed(connection)

    def _register_trigger(self, connection: Connection, message: Message, frame: bytes) -> None:
        trigger_id, trigger_type, function_id = message.id or "", message.trigger_type or "", message.function_id or ""
        names = ((trigger_id, "trigger id"), (trigger_type, "trigger type"), (function_id, "function id"))
        try:
            for text, what in names:
                if problem := _id_problem(text, what):
                    raise BusError("trigger_registration_failed", problem)
            config, metadata = kept(message.config), kept(message.metadata)
            self.triggers.bind(
                Binding(trigger_id, trigger_type, function_id, connection, config, metadata, size=len(frame))
            )
        except BusError as error:
            log.warning(
                "trigger refused: %s",
                error.message,
                extra={"worker_id": connection.id, "worker": connection.about.name, "trigger_type": trigger_type[:200]},
            )
            body = frames.error_body(error.code, error.message)
            connection.send(frames.trigger_refused(trigger_id, trigger_type, function_id, body))

    def _unregister_trigger(self, connection: Connection, message: Message, frame: bytes) -> None:
        self.triggers.unbind(connection, message.id or "")

    def _register_trigger_type(self, connection: Connection, message: Message, frame: bytes) -> None:
        try:
            if problem := _id_problem(message.id or "", "trigger type"):
                raise BusError("trigger_registration_failed", problem)
            self.triggers.provide(connection, message.id or "")
        except BusError as error:
            self._refuse(connection, error.message)

    def _unregister_trigger_type(self, connection: Connection, message: Message, frame: bytes) -> None:
        self.triggers.withdraw(connection, message.id or "")

    def _trigger_result(self, connection: Connection, message: Message, frame: bytes) -> None:
        if not is_null(message.error) and decode_error(message.error) is not None:
            self.triggers.report(connection, message.trigger_type or "", message.id or "", bytes(message.error))

    # Faults

    def _refuse(self, connection: Connection, message: str) -> None:
        """Tell about a refusal for which the protocol has no message of its own; the connection stays open."""
        log.warning(
            "registration refused: %s", message, extra={"worker_id": connection.id, "worker": connection.about.name}
        )
        connection.send(frames.connection_error("registration_refused", message))

    def _fault(self, connection: Connection, reason: str) -> None:
        connection.faults += 1
        if connection.faults == 1:  # one line per connection: a worker that sends garbage must not fill the log
            log.warning(
                "message ignored: %s", reason, extra={"worker_id": connection.id, "worker": connection.about.name}
            )

    def _malformed(self, connection: Connection, fault: Malformed) -> None:
        self._fault(connection, fault.reason)
        error = BusError("invalid_message", f"the message was {fault.reason}")
        if fault.type == "invokefunction" and fault.invocation_id:
            self.errors += 1
            self._fail(connection, fault.invocation_id, fault.function_id, error)
        elif fault.type == "invocationresult" and fault.invocation_id:
            call = self.invocations.take(connection, fault.invocation_id)
            if call is not None:
                self.errors += 1
                call.caller.failed(call, BusError("invalid_message", f"the worker's answer was {fault.reason}"))


def _id_problem(text: str, what: str) -> str | None:
    if not text:
        return f"the {what} is missing"
    if len(text) > limits.MAX_ID_LENGTH:
        return f"the {what} has {len(text)} characters, more than {limits.MAX_ID_LENGTH}"
    return None


def _is_internal(metadata: msgspec.Raw) -> bool:
    try:
        value = msgspec.json.decode(metadata) if not is_null(metadata) else None
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("internal") is True
