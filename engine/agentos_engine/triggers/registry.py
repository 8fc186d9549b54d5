"""Trigger types and the bindings of functions to them.

A type is built in or provided by a worker. A binding to a type that nobody provides (yet, or any more) is parked, and
delivered when a provider appears: workers start in any order.
"""

import logging
from dataclasses import dataclass
from typing import Protocol

from agentos_engine import limits
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Binding:
    """A function bound to a trigger type by a connection. ``config`` and ``metadata`` are raw JSON or None."""

    id: str
    trigger_type: str
    function_id: str
    connection: Connection
    config: bytes | None = None
    metadata: bytes | None = None
    size: int = 0


class BuiltInType(Protocol):
    """A trigger type that the engine serves itself."""

    def bind(self, binding: Binding) -> None:
        """Serve a binding. Raises BusError when its config is refused."""

    def unbind(self, binding: Binding) -> None:
        """Serve a binding no longer; one that was refused is ignored."""


class TriggerRegistry:
    """All trigger types and bindings. A binding's id is unique per connection and stable across reconnects."""

    def __init__(self) -> None:
        self.built_in: dict[str, BuiltInType] = {}
        self._providers: dict[str, list[Connection]] = {}
        self._bindings: dict[str, dict[str, list[Binding]]] = {}
        """By type and id; a reconnected worker and its old, half-open connection share an id."""

    def provide(self, connection: Connection, trigger_type: str) -> None:
        """A worker provides a trigger type: it gets every binding to it, also those that a former provider had.

        Raises BusError for a type that the engine serves itself.
        """
        if trigger_type in self.built_in or trigger_type.startswith("engine::"):
            raise BusError("FORBIDDEN", f"trigger type {trigger_type} belongs to the engine; choose another id")
        if len(connection.trigger_types) >= limits.MAX_FUNCTIONS:
            raise BusError("limit_exceeded", f"a connection has at most {limits.MAX_FUNCTIONS} trigger types")
        providers = self._providers.setdefault(trigger_type, [])
        if connection in providers:
            providers.remove(connection)
        providers.append(connection)
        connection.trigger_types.add(trigger_type)
        self._deliver_all(connection, trigger_type)

    def withdraw(self, connection: Connection, trigger_type: str) -> None:
        """A worker no longer provides a type; its bindings go to the next provider or are parked."""
        providers = self._providers.get(trigger_type, [])
        if connection not in providers:
            return
        was_current = providers[-1] is connection
        providers.remove(connection)
        connection.trigger_types.discard(trigger_type)
        if not providers:
            del self._providers[trigger_type]
        elif was_current:
            self._deliver_all(providers[-1], trigger_type)

    def bind(self, binding: Binding) -> None:
        """Add a binding; one that the same connection made under the same id is replaced.

        Raises BusError when it is refused.
        """
        connection = binding.connection
        self.unbind(connection, binding.id)
        if len(connection.bindings) >= limits.MAX_FUNCTIONS:
            raise BusError("limit_exceeded", f"a connection has at most {limits.MAX_FUNCTIONS} triggers")
        if connection.registered_bytes + binding.size > limits.MAX_REGISTERED:
            raise BusError("limit_exceeded", f"a connection registers at most {limits.MAX_REGISTERED} bytes")
        connection.bindings[binding.id] = binding
        connection.registered_bytes += binding.size
        self._bindings.setdefault(binding.trigger_type, {}).setdefault(binding.id, []).append(binding)
        if (built_in := self.built_in.get(binding.trigger_type)) is not None:
            built_in.bind(binding)
        elif providers := self._providers.get(binding.trigger_type):
            _deliver(providers[-1], binding)
        else:
            log.info("trigger parked until its type exists", extra={"trigger_type": binding.trigger_type})

    def unbind(self, connection: Connection, trigger_id: str) -> None:
        """Remove a binding of a connection, if it has one of this id."""
        binding = connection.bindings.pop(trigger_id, None)
        if binding is None:
            return
        connection.registered_bytes -= binding.size
        of_type = self._bindings[binding.trigger_type]
        of_type[trigger_id].remove(binding)
        gone = not of_type[trigger_id]
        if gone:
            del of_type[trigger_id]
        if (built_in := self.built_in.get(binding.trigger_type)) is not None:
            built_in.unbind(binding)
        elif gone and (providers := self._providers.get(binding.trigger_type)):
            providers[-1].send(frames.unregister_trigger(trigger_id, binding.trigger_type))

    def drop(self, connection: Connection) -> None:
        """Remove everything of a connection that has ended."""
        for trigger_type in list(connection.trigger_types):
            self.withdraw(connection, trigger_type)
        for trigger_id in list(connection.bindings):
            self.unbind(connection, trigger_id)

    def report(self, provider: Connection, trigger_type: str, trigger_id: str, error: bytes) -> None:
        """A provider refused a binding: tell the workers that made it; ``error`` is raw JSON of an error object."""
        if provider not in self._providers.get(trigger_type, ()):
            return
        for binding in self._bindings.get(trigger_type, {}).get(trigger_id, ()):
            binding.connection.send(frames.trigger_refused(trigger_id, trigger_type, binding.function_id, error))

    def _deliver_all(self, provider: Connection, trigger_type: str) -> None:
        for bindings in self._bindings.get(trigger_type, {}).values():
            _deliver(provider, bindings[-1])


def _deliver(provider: Connection, binding: Binding) -> None:
    provider.send(
        frames.register_trigger(binding.id, binding.trigger_type, binding.function_id, binding.config, binding.metadata)
    )
