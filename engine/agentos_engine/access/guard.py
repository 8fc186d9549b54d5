"""The rules of a listener, applied to the messages of one connection."""

import logging
from collections import deque
from dataclasses import dataclass

import msgspec

from agentos_engine.access.gatekeeper import Gatekeeper
from agentos_engine.access.hooks import FunctionRegistration, TriggerRegistration, TriggerTypeRegistration
from agentos_engine.access.names import Names
from agentos_engine.access.policy import trigger_type_visible
from agentos_engine.access.session import Session
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registrations import check_id
from agentos_engine.bus.registry import Registration
from agentos_engine.permissions.rules import FOR_CALLERS
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import ABSENT, Message, is_null, kept, text_of
from agentos_engine.triggers.registry import functions_named_in

log = logging.getLogger(__name__)

_QUEUED = frozenset(
    {
        "registerfunction",
        "unregisterfunction",
        "registertrigger",
        "unregistertrigger",
        "registertriggertype",
        "unregistertriggertype",
    }
)
"""What has to be carried out in the order in which it came, although hooks are asked in between."""

MAX_WAITING = 10_000
"""Registrations, and calls after them, of one connection that wait for its listener's hooks."""
MAX_WAITING_BYTES = 8 << 20
"""Of messages that wait for hooks, besides the first; more are refused."""


class SessionGuard:
    """Stands between one connection and the bus."""

    def __init__(self, bus: Bus, gatekeeper: Gatekeeper, session: Session) -> None:
        self._bus = bus
        self._gatekeeper = gatekeeper
        self.session = session
        self._functions = Names()
        self._triggers = Names()
        self._trigger_types = Names()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._working = False

    def receive(self, connection: Connection, message: Message, frame: bytes) -> bool:
        """Take a registration, to be carried out once the hooks have agreed, and calls that come after it."""
        if message.type not in _QUEUED and not (self._working and message.type == "invokefunction"):
            return False
        waiting = self._waiting_bytes + len(frame)
        bounds = self._bus.bounds
        if self._waiting and (
            len(self._waiting) >= MAX_WAITING
            or waiting > MAX_WAITING_BYTES
            or bounds.held + waiting > bounds.limits.held_bytes
        ):
            error = bounds.exceeded("waiting_for_hooks", "too much waits for the hooks of this listener")
            if message.type == "invokefunction":
                invocation_id = (
                    message.invocation_id if message.action is None or message.action.type != "void" else None
                )
                self._bus.calls.refuse(connection, invocation_id, message.function_id or "", error)
            else:
                self._bus.registrations.refuse(connection, error.message)
            return True
        self._waiting.append(frame)
        self._waiting_bytes = waiting
        bounds.held += len(frame)
        if not self._working:
            self._working = True
            self._bus.spawn(self._work(connection))
        return True

    async def _work(self, connection: Connection) -> None:
        try:
            while self._waiting and not connection.closed:
                frame = self._waiting.popleft()
                self._waiting_bytes -= len(frame)
                self._bus.bounds.held -= len(frame)
                try:
                    await self._carry_out(connection, msgspec.json.decode(frame, type=Message), frame)
                except Exception:
                    log.exception("a message could not be carried out", extra={"worker_id": connection.id})
        finally:
            self._working = False
            if connection.closed:
                self._bus.bounds.held -= self._waiting_bytes
                self._waiting.clear()
                self._waiting_bytes = 0

    async def _carry_out(self, connection: Connection, message: Message, frame: bytes) -> None:
        try:
            match message.type:
                case "registerfunction":
                    await self._function(connection, message, frame)
                case "unregisterfunction":
                    outer = self._functions.remove(message.id or "")
                    self._bus.registrations.unregister_function(connection, outer)
                case "registertrigger":
                    await self._trigger(connection, message, frame)
                case "unregistertrigger":
                    self._bus.registrations.unregister_trigger(connection, self._triggers.remove(message.id or ""))
                case "registertriggertype":
                    await self._trigger_type(connection, message, frame)
                case "unregistertriggertype":
                    outer = self._trigger_types.remove(message.id or "")
                    self._bus.registrations.unregister_trigger_type(connection, outer)
                case _:
                    self._bus.carry_out(connection, message, frame)
        except BusError as error:
            if message.type == "registertrigger":
                self._bus.registrations.refuse_trigger(connection, message, error)
            else:
                what = (message.id or "")[:200]
                self._bus.registrations.refuse(connection, f"{message.type} {what!r} is refused: {error.message}")

    async def _function(self, connection: Connection, message: Message, frame: bytes) -> None:
        local_id = message.id or ""
        check_id(local_id, "function id")
        asked = FunctionRegistration(local_id, kept(message.description), kept(message.metadata))
        admitted = await self._gatekeeper.admit_function(self.session, asked, connection.namespace)
        if connection.closed:
            return
        outer_id = admitted.function_id
        if (outer_id in connection.registrations or outer_id in connection.waiting) and self._functions.inner(
            outer_id
        ) != local_id:
            raise BusError("FORBIDDEN", f"the hook gave it the id {outer_id!r}, which another function has")
        message.description = _raw(admitted.description)
        message.metadata = _raw(admitted.metadata)
        if self._bus.registrations.function(connection, message, frame, outer_id):
            former = self._functions.add(local_id, outer_id)
            if former is not None:
                self._bus.registrations.unregister_function(connection, former)

    async def _trigger(self, connection: Connection, message: Message, frame: bytes) -> None:
        local_id = message.id or ""
        check_id(local_id, "trigger id")
        asked = TriggerRegistration(
            local_id,
            message.trigger_type or "",
            self._functions.outer(message.function_id or "").removeprefix(self.session.prefix),
            kept(message.config),
            kept(message.metadata),
        )
        namespace = text_of(message.namespace)
        admitted = await self._gatekeeper.admit_trigger(self.session, asked, namespace or connection.namespace)
        if connection.closed:
            return
        namespace = namespace or connection.namespace
        for function_id in (admitted.function_id, *functions_named_in(admitted.config)):
            self.check_indirect(connection, function_id, namespace)
        former = self._triggers.outer(local_id)
        if former != admitted.trigger_id:
            self._bus.registrations.unregister_trigger(connection, former)
        message.id, message.trigger_type = admitted.trigger_id, admitted.trigger_type
        message.config = _raw(admitted.config)
        message.namespace = msgspec.Raw(frames.text(namespace))  # what was checked is what stays bound
        self._bus.registrations.trigger(connection, message, frame, admitted.function_id)
        if admitted.trigger_id in connection.bindings or admitted.trigger_id in connection.waiting_bindings:
            self._triggers.add(local_id, admitted.trigger_id)

    def check_indirect(self, connection: Connection, function_id: str, namespace: str) -> None:
        """Raise BusError FORBIDDEN unless the session may call the function, or has it: a trigger or queue will call it."""
        prefix = self.session.prefix
        if (
            function_id in connection.registrations
            or function_id in connection.waiting
            or (prefix and function_id.startswith(prefix))
        ):
            return
        _check_engine_may(function_id)
        owners = self._bus.registry.owners(function_id, namespace)
        metadata = owners.registrations[-1].metadata if owners is not None else None
        self._gatekeeper.check_call(self.session, function_id, metadata, namespace)

    async def _trigger_type(self, connection: Connection, message: Message, frame: bytes) -> None:
        local_id = message.id or ""
        check_id(local_id, "trigger type")
        asked = TriggerTypeRegistration(local_id, kept(message.description))
        admitted = await self._gatekeeper.admit_trigger_type(self.session, asked)
        if connection.closed:
            return
        message.id = admitted.trigger_type_id
        message.description = _raw(admitted.description)
        self._bus.registrations.trigger_type(connection, message, frame)
        if admitted.trigger_type_id in connection.trigger_types or admitted.trigger_type_id in connection.waiting_types:
            self._trigger_types.add(local_id, admitted.trigger_type_id)

    def call(self, connection: Connection, message: Message, invocation_id: str | None, namespace: str) -> None:
        """Carry out a call of the connection, through the listener's middleware when it has one. Raises BusError."""
        function_id = message.function_id or ""
        owners = self._bus.registry.owners(function_id, namespace)
        metadata = owners.registrations[-1].metadata if owners is not None else None
        self._gatekeeper.check_call(self.session, function_id, metadata, namespace)
        if message.action is not None and message.action.type == "enqueue":
            _check_engine_may(function_id)
        is_own = owners is None and self._bus.functions.get(function_id) is not None
        if function_id == "engine::workers::register":
            self._check_namespace(message)
        if not self._gatekeeper.uses_middleware(is_own):
            self._bus.calls.start(connection, message, invocation_id, namespace)
            return
        data = None if is_null(message.data) else bytes(message.data)
        question = _Question(function_id, data, message, None if is_null(message.namespace) else namespace)
        size = 0 if data is None else len(data)
        self._bus.calls.check_room(connection.voids + len(connection.outgoing), "the caller")
        self._bus.bounds.check_held(connection, size)
        task = self._bus.spawn(self._ask_middleware(connection, question, invocation_id))
        self._bus.bounds.hold(task, connection, size)

    def _check_namespace(self, message: Message) -> None:
        try:
            fields = msgspec.json.decode(message.data)
        except (msgspec.DecodeError, RecursionError):
            return
        namespace = fields.get("namespace") if isinstance(fields, dict) else None
        if isinstance(namespace, str):
            self._gatekeeper.check_namespace(self.session, namespace)

    async def _ask_middleware(self, connection: Connection, question: "_Question", invocation_id: str | None) -> None:
        try:
            result = await self._gatekeeper.call_middleware(
                self.session,
                question.function_id,
                question.data,
                question.action,
                question.namespace,
                metadata=question.metadata,
                traceparent=question.traceparent,
                baggage=question.baggage,
                origin=connection,
            )
        except BusError as error:
            self._bus.calls.refuse(connection, invocation_id, question.function_id, error)
            return
        except Exception:
            log.exception("the middleware of a listener could not be asked")
            error = BusError(
                "internal_error", "the listener's middleware could not be asked; the engine's log says why"
            )
            self._bus.calls.refuse(connection, invocation_id, question.function_id, error)
            return
        if invocation_id is not None:
            connection.send(frames.result(invocation_id, question.function_id, value=result))

    def sees(self, registration: Registration) -> bool:
        """True when the function may stand in a listing for this connection."""
        return self.sees_id(registration.function_id, registration.metadata, registration.connection.namespace)

    def sees_trigger_type(self, trigger_type: str) -> bool:
        """True when the trigger type may stand in a listing for this connection."""
        return trigger_type_visible(self.session, trigger_type)

    def sees_id(self, function_id: str, metadata: bytes | None = None, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """The same for a function id."""
        return self._gatekeeper.visible(self.session, function_id, metadata, namespace)


@dataclass(slots=True)
class _Question:
    """What the middleware is asked, copied out of the message's frame."""

    function_id: str
    data: bytes | None
    action: bytes | None
    metadata: bytes | None
    traceparent: str | None
    baggage: str | None
    namespace: str | None

    def __init__(self, function_id: str, data: bytes | None, message: Message, namespace: str | None) -> None:
        self.function_id = function_id
        self.data = data
        self.action = None if message.action is None else msgspec.json.encode(message.action)
        self.metadata = kept(message.metadata)
        self.traceparent = text_of(message.traceparent)
        self.baggage = text_of(message.baggage)
        self.namespace = namespace


def _check_engine_may(function_id: str) -> None:
    """Raise BusError FORBIDDEN for a function that looks at who calls: the engine's own call would get by the rules."""
    if function_id in FOR_CALLERS:
        raise BusError("FORBIDDEN", f"{function_id} can only be called directly: not by a queue or a trigger")


def _raw(value: bytes | None) -> msgspec.Raw:
    return ABSENT if value is None else msgspec.Raw(value)
