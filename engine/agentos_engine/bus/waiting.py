"""Registrations of workers with grants: what these do not cover waits, and is served as soon as they do."""

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from agentos_engine import limits
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.registry import Registration
from agentos_engine.protocol import frames
from agentos_engine.triggers.registry import Binding, Provided, functions_named_in
from agentos_engine.triggers.state import TYPE as STATE_TRIGGER
from agentos_engine.triggers.state import scope_of

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus
    from agentos_engine.bus.registrations import Registrations
    from agentos_engine.permissions.rules import Permissions

log = logging.getLogger(__name__)

PARK_SECONDS = 5.0
"""How long a function of a worker that declared nothing may wait before the worker is told that it is refused."""

TELLS = {"configuration": "configuration::get", "log": "engine::logs::list", "trace": "engine::traces::list"}
"""Trigger types that tell a worker, unasked, what it would need this function for."""


class Waiting:
    """Decides what a worker's grant covers. What waits is told to the operator with the worker's connection."""

    def __init__(self, bus: "Bus", registrations: "Registrations") -> None:
        self._bus = bus
        self._registrations = registrations
        self._connections: dict[Connection, None] = {}
        """Those with something that waits, in the order in which it began to."""
        self._queued: dict[Connection, None] = {}
        """Those of them with functions that are granted and that another worker still has: these get them when it goes."""

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
        self._count(connection, registration.size, functions=1)
        self._connections[connection] = None
        if connection.permissions is not None and connection.permissions.may_register(function_id):
            self._queued[connection] = None
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
        self._count(connection, -registration.size, functions=-1)
        if not connection.waiting:
            self._queued.pop(connection, None)
        self._forget_if_served(connection)
        return True

    def _forget_if_served(self, connection: Connection) -> None:
        if not (connection.waiting or connection.waiting_bindings or connection.waiting_types):
            self._connections.pop(connection, None)

    def _count(self, connection: Connection, size: int, *, functions: int = 0, triggers: int = 0) -> None:
        """What waits takes as much memory as what is served."""
        connection.registered_bytes += size
        self._bus.bounds.functions += functions
        self._bus.bounds.triggers += triggers
        self._bus.bounds.registered += size

    def forget(self, connection: Connection) -> None:
        """Drop all that waits of a connection that has ended."""
        for function_id in list(connection.waiting):
            self.remove(connection, function_id)
        for trigger_id in list(connection.waiting_bindings):
            self.drop_binding(connection, trigger_id)
        for trigger_type in list(connection.waiting_types):
            self.drop_type(connection, trigger_type)

    def unregister(self, connection: Connection, function_id: str) -> bool:
        """Drop a function that waits, as its worker wishes; its triggers wait for it no longer. False: it did not wait."""
        removed = self.remove(connection, function_id)
        if removed:
            self._bind_again(connection)
        return removed

    # Trigger types

    def provide(self, provided: Provided) -> None:
        """Have a worker provide a trigger type, now or once it is granted. Raises BusError when it is refused."""
        connection, trigger_type = provided.connection, provided.trigger_type
        self.drop_type(connection, trigger_type)
        if connection.permissions is None or connection.permissions.may_serve(provided.claim):
            try:
                self._bus.triggers.provide(provided)
            finally:
                self._bus.changed(connection)
            return
        self._bus.triggers.check_type(trigger_type)
        bounds = self._bus.bounds
        bounds.check("triggers", len(connection.waiting_types), bounds.triggers, "trigger types")
        bounds.check_registered(connection.registered_bytes, provided.size)
        self._keep_type(provided)

    def drop_type(self, connection: Connection, trigger_type: str) -> None:
        """Drop a trigger type that waits; one that does not is ignored."""
        provided = connection.waiting_types.pop(trigger_type, None)
        if provided is not None:
            self._count(connection, -provided.size, triggers=-1)
            self._forget_if_served(connection)

    def _keep_type(self, provided: Provided) -> None:
        connection = provided.connection
        connection.waiting_types[provided.trigger_type] = provided
        self._count(connection, provided.size, triggers=1)
        self._connections[connection] = None
        self._bus.permissions_denied["registration"] += 1
        self._bus.clock.machine.call_later(PARK_SECONDS, self._tell_of_type, provided)
        self._bus.changed(connection)

    # Bindings

    def drop_binding(self, connection: Connection, trigger_id: str) -> None:
        """Drop a trigger that waits; one that does not is ignored."""
        binding = connection.waiting_bindings.pop(trigger_id, None)
        if binding is not None:
            self._count(connection, -binding.size, triggers=-1)
            self._forget_if_served(connection)

    def _keep_binding(self, connection: Connection, binding: Binding) -> None:
        connection.waiting_bindings[binding.id] = binding
        self._count(connection, binding.size, triggers=1)
        self._connections[connection] = None
        if connection.permissions is not None and not connection.permissions.may_serve(binding.claim):
            self._bus.permissions_denied["trigger"] += 1
            self._bus.clock.machine.call_later(PARK_SECONDS, self._tell_of_binding, connection, binding)
            self._bus.changed(connection)

    def _park(self, connection: Connection, binding: Binding) -> None:
        """Keep a binding that has just come until it may be served. Raises BusError when there is too much."""
        bounds = self._bus.bounds
        bounds.check("triggers", len(connection.waiting_bindings), bounds.triggers, "triggers")
        bounds.check_registered(connection.registered_bytes, binding.size)
        self._keep_binding(connection, binding)

    def admits(self, binding: Binding) -> bool:
        """True when a binding may be made; False when it waits, as its function or its route does. Raises BusError FORBIDDEN."""
        connection = binding.connection
        if connection is None or connection.permissions is None:
            return True
        self.drop_binding(connection, binding.id)
        if binding.function_id not in connection.waiting:
            self._check_calls(connection.permissions, binding)
            if connection.permissions.may_serve(binding.claim):
                return True
        self._bus.triggers.unbind(connection, binding.id)
        self._park(connection, binding)
        return False

    def await_route(self, connection: Connection, binding: Binding) -> bool:
        """True when a binding that nobody shall own waits until its route is granted to the worker that makes it.

        Raises BusError when it is refused.
        """
        permissions = connection.permissions
        self._check_calls(permissions, binding)
        if permissions is None or permissions.may_serve(binding.claim):
            return False
        self._park(connection, binding)
        return True

    def check(self, permissions: "Permissions | None", binding: Binding) -> None:
        """Raise BusError FORBIDDEN unless a worker has the route of a binding, and may have its functions called."""
        self._check_calls(permissions, binding)
        if permissions is not None and not permissions.may_serve(binding.claim):
            raise BusError("FORBIDDEN", not_granted(binding.claim))

    def _check_calls(self, permissions: "Permissions | None", binding: Binding) -> None:
        if permissions is None:
            return
        try:
            for function_id in (binding.function_id, *functions_named_in(binding.config)):
                permissions.check_indirect(function_id)
            if (reads := TELLS.get(binding.trigger_type)) is not None:
                permissions.check_call(reads)
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
        permissions = connection.permissions
        for provided in list(connection.trigger_types.values()):
            if permissions is not None and not permissions.may_serve(provided.claim):
                self._bus.triggers.withdraw(connection, provided.trigger_type)
                self._keep_type(provided)
        for binding in list(connection.bindings.values()):
            if binding.function_id in connection.waiting or (
                permissions is not None and not permissions.may_serve(binding.claim)
            ):
                self._bus.triggers.unbind(connection, binding.id)
                self._keep_binding(connection, binding)
                continue
            try:
                self.check(connection.permissions, binding)
            except BusError as error:
                self._bus.triggers.unbind(connection, binding.id)
                self._refuse(connection, binding, error)

    def withhold_ownerless(self, changed: Mapping[str, "Permissions"]) -> None:
        """The same for what workers, by uid, had bound with ``engine::register_trigger``."""
        for binding in self._bus.triggers.ownerless:
            if (permissions := changed.get(binding.maker.uid)) is not None:
                try:
                    self.check(permissions, binding)
                except BusError as error:
                    self._bus.triggers.unbind(None, binding.id)
                    log.warning("trigger removed: %s", error.message[:500], extra={"subject": binding.maker.subject})

    def look_again(self, changed: "Collection[Permissions]" = ()) -> None:
        """Serve what may be served by now, because a worker has gone or these grants have ``changed``.

        What nobody has granted yet, of other workers, is not looked at: it may be a lot.
        """
        if self._queued or changed:
            self._look_at([each for each in self._connections if each in self._queued or each.permissions in changed])

    def _look_at(self, connections: list[Connection]) -> None:
        for connection in connections:
            for registration in list(connection.waiting.values()):
                if self.obstacle(registration) is None:
                    self.remove(connection, registration.function_id)
                    self._registrations.serve(registration)
                elif connection.permissions is not None and connection.permissions.may_register(
                    registration.function_id
                ):
                    self._queued[connection] = None
            self._provide_again(connection)
            self._bind_again(connection)

    def _provide_again(self, connection: Connection) -> None:
        permissions = connection.permissions
        for provided in list(connection.waiting_types.values()):
            if permissions is not None and permissions.may_serve(provided.claim):
                try:
                    self.provide(provided)
                except BusError as error:
                    self._registrations.refuse(connection, error.message, error.code)

    def _bind_again(self, connection: Connection) -> None:
        permissions = connection.permissions
        for binding in list(connection.waiting_bindings.values()):
            if binding.function_id in connection.waiting or (
                permissions is not None and not permissions.may_serve(binding.claim)
            ):
                continue
            self.drop_binding(connection, binding.id)
            try:
                self.check(permissions, binding)
                self._bus.triggers.bind(binding)
            except BusError as error:
                self._refuse(connection, binding, error)
            if binding.claim:
                self._bus.changed(connection)

    def _tell_of_type(self, provided: Provided) -> None:
        connection = provided.connection
        if connection.waiting_types.get(provided.trigger_type) is provided:
            self._registrations.refuse(connection, not_granted(provided.claim), "FORBIDDEN")

    def _tell_of_binding(self, connection: Connection, binding: Binding) -> None:
        if binding.connection is not None and connection.waiting_bindings.get(binding.id) is binding:
            self._refuse(connection, binding, BusError("FORBIDDEN", not_granted(binding.claim)))

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
        if binding.connection is None:
            if binding.on_result is not None:
                binding.on_result(error)
            return
        body = frames.error_body(error.code, error.message)
        connection.send(frames.trigger_refused(binding.id, binding.trigger_type, binding.function_id, body))


def not_granted(claim: str) -> str:
    """Return what a worker is told whose route or trigger type waits."""
    return f"{claim} is not granted to this Worker: another one has it, or the operator is away; it is served once it is granted"
