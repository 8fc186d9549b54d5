"""Trigger types and the bindings of functions to them.

A type is served by the engine or provided by a worker. A binding to a type that nobody has (yet, or any more) is
parked, and delivered when that changes: workers start in any order.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from agentos_engine import limits
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Binding:
    """A function bound to a trigger type. ``config`` and ``metadata`` are raw JSON or None.

    ``connection`` made it, and takes it along when it goes; None: made with ``engine::register_trigger``, owned by
    nobody. ``namespace`` is that of the function, ``trigger_namespace`` that of the provider when one was asked for.
    """

    id: str
    trigger_type: str
    function_id: str
    connection: Connection | None
    config: bytes | None = None
    metadata: bytes | None = None
    namespace: str = DEFAULT_NAMESPACE
    trigger_namespace: str | None = None
    own_namespace: bool = True
    """The namespace was not named: it follows that of the connection."""
    size: int = 0
    condition: str | None = None
    """A function that is asked first whether this one shall run."""
    on_result: Callable[[bytes | None], None] | None = None
    """Told once what the provider said: the raw error, or None when it took the binding."""

    def __post_init__(self) -> None:
        self.condition = condition_of(self.config)


class BuiltInType(Protocol):
    """A trigger type that the engine serves itself."""

    def bind(self, binding: Binding) -> None:
        """Serve a binding. Raises BusError when its config is refused."""
        ...

    def unbind(self, binding: Binding) -> None:
        """Serve a binding no longer; one that was refused or never bound is ignored."""
        ...


@dataclass(slots=True, eq=False)
class Provided:
    """A trigger type of a worker. The formats are raw JSON or None."""

    trigger_type: str
    connection: Connection
    description: bytes | None = None
    trigger_request_format: bytes | None = None
    call_request_format: bytes | None = None


@dataclass(slots=True)
class Served:
    """A trigger type of the engine.

    ``shared``: bindings of the same function with the same config by several connections, as replicas of a worker
    make them, count as one; the next connection's takes over when the first one goes.
    """

    served: BuiltInType
    description: str
    shared: bool
    groups: dict[tuple[object, ...], list[Binding]] = field(default_factory=dict)


class TriggerRegistry:
    """All trigger types and bindings. A binding's id is unique per connection and stable across reconnects."""

    def __init__(self) -> None:
        self.served: dict[str, Served] = {}
        self._providers: dict[tuple[str, str], list[Provided]] = {}
        """By iii namespace and type; the newest is the one that serves."""
        self._bindings: dict[str, dict[str, list[Binding]]] = {}
        """By type and id; a reconnected worker and its old, half-open connection share an id."""
        self._ownerless: dict[str, Binding] = {}

    def __iter__(self) -> Iterator[Binding]:
        for of_type in self._bindings.values():
            for bindings in of_type.values():
                yield bindings[-1]

    @property
    def provided(self) -> Iterator[Provided]:
        """The trigger types of workers."""
        return (providers[-1] for providers in self._providers.values())

    # Types of the engine

    def serve(self, trigger_type: str, served: BuiltInType, description: str = "", *, shared: bool = True) -> None:
        """Serve a trigger type, those bindings to it included that wait. For ``shared`` see :class:`Served`."""
        entry = self.served[trigger_type] = Served(served, description, shared)
        for bindings in list(self._bindings.get(trigger_type, {}).values()):
            for binding in list(bindings):
                try:
                    _join(entry, binding)
                except BusError as error:
                    body = frames.error_body(error.code, error.message)
                    _tell(binding, body)

    def unserve(self, trigger_type: str) -> None:
        """Serve a trigger type no longer; its bindings wait until somebody does."""
        entry = self.served.pop(trigger_type, None)
        if entry is not None:
            for bindings in list(self._bindings.get(trigger_type, {}).values()):
                for binding in list(bindings):
                    entry.served.unbind(binding)

    # Types of workers

    def provide(self, provided: Provided) -> None:
        """A worker provides a trigger type: it gets every binding to it, also those that a former provider had.

        Raises BusError for a type that the engine serves itself.
        """
        connection, trigger_type = provided.connection, provided.trigger_type
        if trigger_type in self.served or trigger_type.startswith("engine::"):
            raise BusError("FORBIDDEN", f"trigger type {trigger_type} belongs to the engine; choose another id")
        if len(connection.trigger_types) >= limits.MAX_FUNCTIONS:
            raise BusError("limit_exceeded", f"a connection has at most {limits.MAX_FUNCTIONS} trigger types")
        providers = self._providers.setdefault((connection.namespace, trigger_type), [])
        providers[:] = [each for each in providers if each.connection is not connection]
        providers.append(provided)
        connection.trigger_types.add(trigger_type)
        self._deliver_all(trigger_type, connection)

    def withdraw(self, connection: Connection, trigger_type: str) -> None:
        """A worker no longer provides a type; its bindings go to the next provider or are parked."""
        key = (connection.namespace, trigger_type)
        providers = self._providers.get(key, [])
        if all(each.connection is not connection for each in providers):
            return
        was_current = providers[-1].connection is connection
        providers[:] = [each for each in providers if each.connection is not connection]
        connection.trigger_types.discard(trigger_type)
        if not providers:
            del self._providers[key]
        elif was_current:
            self._deliver_all(trigger_type, providers[-1].connection)

    # Bindings

    def bind(self, binding: Binding) -> None:
        """Add a binding; one that the same connection made under the same id is replaced.

        Raises BusError when it is refused.
        """
        connection = binding.connection
        self.unbind(connection, binding.id)
        held = self._ownerless if connection is None else connection.bindings
        if len(held) >= limits.MAX_FUNCTIONS:
            owner = "a connection" if connection is not None else "the engine"
            raise BusError("limit_exceeded", f"{owner} has at most {limits.MAX_FUNCTIONS} triggers")
        if connection is not None:
            if connection.registered_bytes + binding.size > limits.MAX_REGISTERED:
                raise BusError("limit_exceeded", f"a connection registers at most {limits.MAX_REGISTERED} bytes")
            connection.registered_bytes += binding.size
        held[binding.id] = binding
        self._bindings.setdefault(binding.trigger_type, {}).setdefault(binding.id, []).append(binding)
        if (entry := self.served.get(binding.trigger_type)) is not None:
            _join(entry, binding)
            _acknowledge(binding, None)
        elif (provider := self._provider(binding)) is not None:
            _deliver(provider, binding)
        else:
            log.info("trigger parked until its type exists", extra={"trigger_type": binding.trigger_type})

    def unbind(self, connection: Connection | None, trigger_id: str) -> bool:
        """Remove a binding of a connection (None: one that nobody owns); False when there is none of this id."""
        held = self._ownerless if connection is None else connection.bindings
        binding = held.pop(trigger_id, None)
        if binding is None:
            return False
        if connection is not None:
            connection.registered_bytes -= binding.size
        of_type = self._bindings[binding.trigger_type]
        of_type[trigger_id].remove(binding)
        gone = not of_type[trigger_id]
        if gone:
            del of_type[trigger_id]
            if not of_type:
                del self._bindings[binding.trigger_type]
        if (entry := self.served.get(binding.trigger_type)) is not None:
            _leave(entry, binding)
        elif gone and (provider := self._provider(binding)) is not None:
            provider.send(frames.unregister_trigger(trigger_id, binding.trigger_type))
        return True

    def find(self, trigger_id: str) -> Binding | None:
        """Return the newest binding of an id."""
        return next((of_type[trigger_id][-1] for of_type in self._bindings.values() if trigger_id in of_type), None)

    def drop(self, connection: Connection) -> None:
        """Remove everything of a connection that has ended."""
        for trigger_type in list(connection.trigger_types):
            self.withdraw(connection, trigger_type)
        for trigger_id in list(connection.bindings):
            self.unbind(connection, trigger_id)

    def move(self, connection: Connection, change: Callable[[], object], namespace: str) -> None:
        """Take all that a connection has into another iii namespace; ``change`` does so with the connection itself."""
        former = connection.namespace
        own = [
            provided
            for key, providers in list(self._providers.items())
            if key[0] == former
            for provided in list(providers)
            if provided.connection is connection
        ]
        bindings = list(connection.bindings.values())
        self.drop(connection)
        change()
        for provided in own:
            self.provide(provided)
        for binding in bindings:
            if binding.own_namespace:
                binding.namespace = namespace
            try:
                self.bind(binding)
            except BusError as error:
                _tell(binding, frames.error_body(error.code, error.message))

    def result(self, provider: Connection, trigger_type: str, trigger_id: str, error: bytes | None) -> None:
        """A provider took a binding, or refused it with the raw JSON of an error: tell the workers that made it."""
        if trigger_type not in provider.trigger_types:
            return
        for binding in self._bindings.get(trigger_type, {}).get(trigger_id, ()):
            if error is not None:
                _tell(binding, error)
            else:
                _acknowledge(binding, None)

    def _provider(self, binding: Binding) -> Connection | None:
        """The worker that serves a binding: of the namespace that was asked for, else of the own, else the default."""
        own = binding.connection.namespace if binding.connection is not None else DEFAULT_NAMESPACE
        asked = binding.trigger_namespace
        for namespace in (asked,) if asked is not None else (own, DEFAULT_NAMESPACE):
            if providers := self._providers.get((namespace, binding.trigger_type)):
                return providers[-1].connection
        return None

    def _deliver_all(self, trigger_type: str, provider: Connection) -> None:
        for bindings in self._bindings.get(trigger_type, {}).values():
            if self._provider(bindings[-1]) is provider:
                _deliver(provider, bindings[-1])


def _group(binding: Binding) -> tuple[object, ...]:
    return (binding.namespace, binding.function_id, _canonical(binding.config), binding.metadata)


def _join(entry: Served, binding: Binding) -> None:
    """Bind, unless another connection's binding to the same serves already."""
    if entry.shared:
        key = _group(binding)
        group = entry.groups.setdefault(key, [])
        if group and group[0].connection is not binding.connection:
            group.append(binding)
            return
        try:
            entry.served.bind(binding)
        except BusError:
            if not group:
                del entry.groups[key]
            raise
        group.append(binding)
    else:
        entry.served.bind(binding)


def _leave(entry: Served, binding: Binding) -> None:
    """Unbind; when that was the last one of the connection that served, the next one's take over."""
    if not entry.shared:
        entry.served.unbind(binding)
        return
    key = _group(binding)
    group = entry.groups.get(key, [])
    if binding not in group:
        return
    was_serving = group[0].connection is binding.connection
    group.remove(binding)
    if was_serving:
        entry.served.unbind(binding)
    if not group:
        del entry.groups[key]
    elif was_serving and group[0].connection is not binding.connection:
        # The connections stand in the order of their first binding, but those of one need not be neighbours.
        for each in [other for other in group if other.connection is group[0].connection]:
            entry.served.bind(each)


def _deliver(provider: Connection, binding: Binding) -> None:
    namespace = None if binding.namespace == DEFAULT_NAMESPACE else binding.namespace
    provider.send(
        frames.register_trigger(
            binding.id, binding.trigger_type, binding.function_id, binding.config, binding.metadata, namespace
        )
    )


def _tell(binding: Binding, error: bytes) -> None:
    """Tell whoever made a binding that it is refused; ``error`` is the raw JSON of an error object."""
    if binding.connection is not None:
        frame = frames.trigger_refused(binding.id, binding.trigger_type, binding.function_id, error)
        binding.connection.send(frame)
    _acknowledge(binding, error)


def _acknowledge(binding: Binding, error: bytes | None) -> None:
    if binding.on_result is not None:
        on_result, binding.on_result = binding.on_result, None
        on_result(error)


def _canonical(config: bytes | None) -> bytes:
    """The same bytes for configs that say the same."""
    try:
        return msgspec.json.encode(msgspec.json.decode(config or b"null"), order="sorted")
    except (msgspec.DecodeError, RecursionError):
        return config or b""


def condition_of(config: bytes | None) -> str | None:
    """Return the ``condition_function_id`` in the raw config of a binding."""
    if config is None or b"condition_function_id" not in config:
        return None
    try:
        fields = msgspec.json.decode(config)
    except (msgspec.DecodeError, RecursionError):
        return None
    condition = fields.get("condition_function_id") if isinstance(fields, dict) else None
    return condition if isinstance(condition, str) and condition else None
