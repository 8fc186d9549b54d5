"""What workers register: functions, triggers, trigger types. Refusals are told and never end a connection."""

import logging
from typing import TYPE_CHECKING

import msgspec

from agentos_engine import limits
from agentos_engine.bus.connection import ANONYMOUS, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration, Remote, reserved
from agentos_engine.bus.waiting import Waiting
from agentos_engine.permissions.rules import OPERATORS_OWN
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Message, is_null, kept, listable, text_of
from agentos_engine.triggers.registry import Binding, Provided

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

CONSOLE = "engine::console::"
"""The functions of iii's console, which is a worker although they stand in the engine's namespace."""
OF_TRUSTED = (CONSOLE, OPERATORS_OWN)
"""What the engine's own peers may register in its namespace."""
MAX_LOGGED = 20
"""Refusals of one connection that are logged."""
MAX_TIMEOUT = 7 * 24 * 3600.0
"""Longest ``timeout_ms`` in a function's metadata, in seconds."""


class RemoteFunctions:
    """Makes functions that the engine calls over HTTP out of their definitions; this one refuses them."""

    def make(self, function_id: str, definition: bytes) -> Remote:
        """Return the function for the raw JSON of a definition. Raises BusError."""
        raise BusError(
            "http_functions_disabled",
            "functions that are invoked over HTTP are off: list iii-http-functions in config.yaml to allow them",
        )


class Registrations:
    """Carries out the registering messages of one bus."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self.remote_functions = RemoteFunctions()
        self._waiting = Waiting(bus, self)
        self.look_again = self._waiting.look_again
        self.withhold = self._waiting.withhold
        self.withhold_ownerless = self._waiting.withhold_ownerless
        self.forget = self._waiting.forget
        self.check_binding = self._waiting.check
        self.await_route = self._waiting.await_route

    def log(self, connection: Connection, text: str, reason: str, **more: str) -> None:
        """One line for each of a connection's first refusals: a worker in a loop must not fill the log."""
        connection.refusals += 1
        if connection.refusals <= MAX_LOGGED:
            about = {"worker_id": connection.id, "worker": connection.about.name, **more}
            log.warning(text, reason[:500], extra=about)

    def function(self, connection: Connection, message: Message, frame: bytes, function_id: str | None = None) -> bool:
        """Register a function; under another ``function_id`` when its listener gives one. False when it is refused."""
        local_id = message.id or ""
        function_id = local_id if function_id is None else function_id
        taken = reserved(function_id) and not _may_have(connection, function_id)
        if taken or self._bus.functions.get(function_id) is not None:
            self._taken(connection, function_id, local_id, None)
            return False
        new = function_id not in connection.registrations and function_id not in connection.waiting
        try:
            bounds = self._bus.bounds
            if new:
                has = len(connection.registrations) + len(connection.waiting)
                bounds.check("functions", has, bounds.functions, "functions")
                self._bus.check_namespace(connection.namespace)
            bounds.check_registered(connection.registered_bytes, len(frame))
            registration = self._registration(connection, message, function_id, local_id, len(frame))
        except BusError as error:
            problem = f"function {function_id[:200]!r} is not registered: {error.message}"
            self.refuse(connection, problem, error.code)
            return False
        if connection.permissions is not None and (obstacle := self._waiting.obstacle(registration)) is not None:
            self._waiting.add(registration, obstacle)
            return True
        return self.serve(registration)

    def serve(self, registration: Registration) -> bool:
        """Let a worker have the calls of a function; False when another has them."""
        connection, function_id = registration.connection, registration.function_id
        new = function_id not in connection.registrations
        owner = self._bus.registry.add(registration)
        if owner is not None:
            self._taken(connection, function_id, registration.local_id, owner)
            return False
        if new:
            self._bus.changed(connection)
        return True

    def _registration(
        self, connection: Connection, message: Message, function_id: str, local_id: str, size: int
    ) -> Registration:
        check_id(function_id, "function id")
        try:
            metadata = listable(message.metadata, "metadata")
            description = listable(message.description, "description")
            request_format = listable(message.request_format, "request format")
            response_format = listable(message.response_format, "response format")
        except ValueError as error:
            raise BusError("invalid_registration", str(error)) from error
        facts = msgspec.json.decode(metadata) if metadata is not None else None
        facts = facts if isinstance(facts, dict) else {}
        remote = None
        if not is_null(message.invocation):
            remote = self.remote_functions.make(function_id, bytes(message.invocation))
        version = facts.get("version")
        return Registration(
            function_id=function_id,
            connection=connection,
            local_id=local_id,
            size=size,
            description=description,
            request_format=request_format,
            response_format=response_format,
            metadata=metadata,
            internal=facts.get("internal") is True or function_id.startswith(OF_TRUSTED),
            timeout=_timeout(facts),
            version=version[:100] if isinstance(version, str) else connection.peer.version,
            remote=remote,
        )

    def _taken(self, connection: Connection, function_id: str, local_id: str, owner: Connection | None) -> None:
        whose = "the engine" if owner is None else "another worker"
        self.log(connection, "function refused: its id belongs to %s", whose, function_id=function_id[:200])
        owner_id = "engine" if owner is None else owner.id
        connection.send(frames.function_refused(local_id[: limits.MAX_ID_LENGTH], connection.namespace, owner_id))

    def unregister_function(self, connection: Connection, function_id: str) -> None:
        """Remove a function of a connection."""
        if self._bus.registry.remove(connection, function_id) or self._waiting.unregister(connection, function_id):
            self._bus.changed(connection)

    def unregister_trigger(self, connection: Connection, trigger_id: str) -> None:
        """Remove a trigger of a connection."""
        binding = connection.bindings.get(trigger_id) or connection.waiting_bindings.get(trigger_id)
        self._waiting.drop_binding(connection, trigger_id)
        self._bus.triggers.unbind(connection, trigger_id)
        if binding is not None and binding.claim:
            self._bus.changed(connection)

    def trigger(self, connection: Connection, message: Message, frame: bytes, function_id: str | None = None) -> None:
        """Register a trigger; for another ``function_id`` when its listener gives one."""
        trigger_id, trigger_type = message.id or "", message.trigger_type or ""
        local_id = message.function_id or ""
        function_id = local_id if function_id is None else function_id
        try:
            for text, what in (
                (trigger_id, "trigger id"),
                (trigger_type, "trigger type"),
                (function_id, "function id"),
            ):
                check_id(text, what)
            try:
                config = listable(message.config, "config")
                metadata = listable(message.metadata, "metadata")
            except ValueError as error:
                raise BusError("trigger_registration_failed", str(error)) from error
            namespace = text_of(message.namespace)
            binding = Binding(
                trigger_id,
                trigger_type,
                function_id,
                connection,
                config,
                metadata,
                namespace=namespace or connection.namespace,
                trigger_namespace=text_of(message.trigger_namespace) or None,
                own_namespace=not namespace,
                size=len(frame),
            )
            if connection.permissions is None or self._waiting.admits(binding):
                try:
                    self._bus.triggers.bind(binding)
                finally:
                    if binding.claim:
                        self._bus.changed(connection)
        except BusError as error:
            self.refuse_trigger(connection, message, error)

    def refuse_trigger(self, connection: Connection, message: Message, error: BusError) -> None:
        """Tell a worker that a trigger is not registered."""
        trigger_type = message.trigger_type or ""
        self.log(connection, "trigger refused: %s", error.message, trigger_type=trigger_type[:200])
        body, longest = frames.error_body(error.code, error.message), limits.MAX_ID_LENGTH
        connection.send(
            frames.trigger_refused(
                (message.id or "")[:longest], trigger_type[:longest], (message.function_id or "")[:longest], body
            )
        )

    def trigger_type(self, connection: Connection, message: Message, frame: bytes) -> None:
        """Register a trigger type."""
        try:
            check_id(message.id or "", "trigger type")
            self._waiting.provide(
                Provided(
                    message.id or "",
                    connection,
                    listable(message.description, "description"),
                    listable(message.trigger_request_format, "trigger request format"),
                    listable(message.call_request_format, "call request format"),
                    size=len(frame),
                )
            )
        except ValueError as error:
            self.refuse(connection, str(error))
        except BusError as error:
            self.refuse(connection, error.message, error.code)

    def unregister_trigger_type(self, connection: Connection, trigger_type: str) -> None:
        """Remove a trigger type of a connection."""
        self._waiting.drop_type(connection, trigger_type)
        self._bus.triggers.withdraw(connection, trigger_type)
        self._bus.changed(connection)

    def trigger_result(self, connection: Connection, message: Message, frame: bytes) -> None:
        """What the provider of a trigger type said to a binding."""
        self._bus.triggers.result(connection, message.trigger_type or "", message.id or "", kept(message.error))

    def refuse(self, connection: Connection, message: str, code: str = "") -> None:
        """Tell about a refusal for which the protocol has no message of its own; the connection stays open."""
        self.log(connection, "registration refused: %s", message)
        connection.send(frames.connection_error(code if code == "limit_exceeded" else "registration_refused", message))


def _may_have(connection: Connection, function_id: str) -> bool:
    """True for what peers that are no workers of a realm, and all on an open engine, may register for the engine."""
    if function_id.startswith(OPERATORS_OWN):
        return connection.peer is ANONYMOUS or connection.peer.role == "operator"
    return function_id.startswith(CONSOLE) and (
        connection.peer is ANONYMOUS or connection.peer.role in ("operator", "host")
    )


def check_id(text: str, what: str) -> None:
    """Raise BusError for an id that is missing or too long."""
    if not text:
        raise BusError("trigger_registration_failed", f"the {what} is missing")
    if len(text) > limits.MAX_ID_LENGTH:
        message = f"the {what} has {len(text)} characters, more than {limits.MAX_ID_LENGTH}"
        raise BusError("trigger_registration_failed", message)


def _timeout(facts: dict[str, object]) -> float | None:
    """Seconds of ``timeout_ms`` in a function's metadata; what is no sensible number is ignored."""
    value = facts.get("timeout_ms")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return value / 1000 if value < MAX_TIMEOUT * 1000 else MAX_TIMEOUT
