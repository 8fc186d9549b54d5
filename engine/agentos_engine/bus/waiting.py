"""Registrations of workers with grants: what these do not cover waits, and is served as soon as they do."""

from typing import TYPE_CHECKING

from agentos_engine import limits
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol import frames
from agentos_engine.triggers.registry import Binding, functions_named_in
from agentos_engine.triggers.state import TYPE as STATE_TRIGGER
from agentos_engine.triggers.state import scope_of

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus
    from agentos_engine.bus.registrations import Registrations

PARK_SECONDS = 5.0
"""How long a function of a worker that declared nothing may wait before the worker is told that it is refused."""


class Waiting:
    """Decides what a worker's grant covers. What waits is told to the operator with the worker's connection."""

    def __init__(self, bus: "Bus", registrations: "Registrations") -> None:
        self._bus = bus
        self._registrations = registrations
        self._connections: dict[Connection, None] = {}
        """Those with functions that wait, in the order in which they began to."""

    def obstacle(self, registration: Registration) -> str | None:
        """Return why a function may not be served now; None when it may."""
        permissions = registration.connection.permissions
        function_id = registration.function_id
        if permissions is None:
            return None
        if not permissions.may_register(function_id):
            if permissions.grant.leaving:
                return "its Worker is being deleted"
            return "its Worker's grant does not cover it: see spec.owns"
        owners = self._bus.registry.owners(function_id, registration.connection.namespace)
        # Those with a grant all have the same one, or they would wait: the newest tells for thousands of replicas.
        for owner in reversed(owners.registrations) if owners is not None else ():
            other = owner.connection.permissions
            if other is not None:
                return None if other is permissions else f"Worker {other.grant.worker} still serves it"
        return None

    def add(self, registration: Registration, reason: str) -> None:
        """Keep a function until it may be served; its worker is told now, or later when it declared nothing."""
        connection, function_id = registration.connection, registration.function_id
        self._bus.registry.remove(connection, function_id)
        self.remove(connection, function_id)
        connection.waiting[function_id] = registration
        connection.registered_bytes += registration.size
        self._connections[connection] = None
        self._bus.permissions_denied["registration"] += 1
        if connection.permissions is not None and connection.permissions.grant.discover:
            self._bus.clock.machine.call_later(PARK_SECONDS, self._tell_if_waiting, registration, reason)
        else:
            self._tell(registration, reason)
        self._bus.changed(connection)

    def remove(self, connection: Connection, function_id: str) -> bool:
        """Drop a function that waits; False when it does not."""
        registration = connection.waiting.pop(function_id, None)
        if registration is None:
            return False
        connection.registered_bytes -= registration.size
        if not connection.waiting:
            self._connections.pop(connection, None)
        return True

    def forget(self, connection: Connection) -> None:
        """Drop all that waits of a connection that has ended."""
        self._connections.pop(connection, None)
        connection.waiting.clear()
        connection.waiting_bindings.clear()

    def admits(self, binding: Binding) -> bool:
        """True when a binding may be made; False when it waits, as its function does. Raises BusError FORBIDDEN."""
        connection = binding.connection
        if connection is None or connection.permissions is None:
            return True
        connection.waiting_bindings.pop(binding.id, None)
        if binding.function_id in connection.waiting:
            self._bus.triggers.unbind(connection, binding.id)
            size = sum(each.size for each in connection.waiting_bindings.values()) + binding.size
            most = self._bus.bounds.limits
            if (
                len(connection.waiting_bindings) >= most.triggers_per_connection
                or size > most.registered_bytes_per_connection
            ):
                problem = "too many triggers wait for functions that are not granted"
                raise self._bus.bounds.exceeded("triggers_per_connection", problem, "grant them")
            connection.waiting_bindings[binding.id] = binding
            return False
        self.check(connection, binding)
        return True

    def check(self, connection: Connection, binding: Binding) -> None:
        """Raise BusError FORBIDDEN unless a worker may have the functions of a binding called."""
        permissions = connection.permissions
        if permissions is None:
            return
        try:
            for function_id in (binding.function_id, *functions_named_in(binding.config)):
                permissions.check_indirect(function_id)
            if binding.trigger_type == STATE_TRIGGER:
                permissions.check_scope(scope_of(binding.config), "a state trigger")
        except BusError:
            self._bus.permissions_denied["trigger"] += 1
            raise

    def withhold(self, connection: Connection) -> None:
        """Take from a connection what its grant does not cover any more; calls in flight go on."""
        lost = [each for each in connection.registrations.values() if self.obstacle(each) is not None]
        for registration in lost:
            self.add(registration, self.obstacle(registration) or "")
        for binding in list(connection.bindings.values()):
            if binding.function_id in connection.waiting:
                self._bus.triggers.unbind(connection, binding.id)
                connection.waiting_bindings[binding.id] = binding
                continue
            try:
                self.check(connection, binding)
            except BusError as error:
                self._bus.triggers.unbind(connection, binding.id)
                self._refuse(connection, binding, error)

    def look_again(self) -> None:
        """Serve what may be served by now."""
        for connection in list(self._connections):
            for registration in list(connection.waiting.values()):
                if self.obstacle(registration) is None:
                    self.remove(connection, registration.function_id)
                    self._registrations.serve(registration)
            for binding in list(connection.waiting_bindings.values()):
                if binding.function_id in connection.waiting:
                    continue
                del connection.waiting_bindings[binding.id]
                try:
                    self.check(connection, binding)
                    self._bus.triggers.bind(binding)
                except BusError as error:
                    self._refuse(connection, binding, error)

    def _tell_if_waiting(self, registration: Registration, reason: str) -> None:
        if registration.connection.waiting.get(registration.function_id) is registration:
            self._tell(registration, reason)

    def _tell(self, registration: Registration, reason: str) -> None:
        connection = registration.connection
        self._registrations.log(
            connection, "function not served: %s", reason, function_id=registration.function_id[:200]
        )
        owners = self._bus.registry.owners(registration.function_id, connection.namespace)
        owner_id = owners.registrations[0].connection.id if owners is not None else "engine"
        local_id = registration.local_id[: limits.MAX_ID_LENGTH]
        connection.send(frames.function_refused(local_id, connection.namespace, owner_id))

    def _refuse(self, connection: Connection, binding: Binding, error: BusError) -> None:
        self._registrations.log(
            connection, "trigger refused: %s", error.message, trigger_type=binding.trigger_type[:200]
        )
        body = frames.error_body(error.code, error.message)
        connection.send(frames.trigger_refused(binding.id, binding.trigger_type, binding.function_id, body))
