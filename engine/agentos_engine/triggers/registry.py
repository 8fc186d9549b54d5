"""Trigger types and the bindings of functions to them.

A type is served by the engine or provided by a worker. A binding to a type that nobody has (yet, or any more) is
parked, and delivered when that changes: workers start in any order.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
from agentos_contracts import claimables

from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.connection import ANONYMOUS, DEFAULT_NAMESPACE, Connection, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import decode_error
from agentos_engine.triggers.routes import claim_of

log = logging.getLogger(__name__)

Entry = TypeVar("Entry", bound="Made")

MAX_ERROR_TEXT = 2000
"""Characters of a provider's error that are passed on."""


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
    claim: str = field(init=False)
    """The route that has to be the worker's own for it, as :mod:`agentos_contracts.claimables` writes it; else empty."""
    condition: str | None = None
    """A function that is asked first whether this one shall run."""
    refused: bool = False
    """Whoever serves the type does not take it; it is kept, as that may change, but not listed."""
    maker: Peer = ANONYMOUS
    """Who made it, also when nobody owns it."""
    on_result: Callable[[BusError | None], None] | None = None
    """Told once what became of it: the error, or None when it is served."""

    def __post_init__(self) -> None:
        self.condition = condition_of(self.config)
        self.claim = claim_of(self.trigger_type, self.config)
        if self.connection is not None:
            self.maker = self.connection.peer


class BuiltInType(Protocol):
    """A trigger type that the engine serves itself."""

    def bind(self, binding: Binding) -> None:
        """Serve a binding. Raises BusError when its config is refused."""
        ...

    def unbind(self, binding: Binding) -> None:
        """Serve a binding no longer; one that was refused or never bound is ignored."""
        ...


class Made(Protocol):
    """Something on the bus that somebody made."""

    @property
    def maker(self) -> Peer:
        """Who made it."""
        ...


class Bindings:
    """A type that only has to know its bindings, in the order in which they were made; it takes any config."""

    def __init__(self) -> None:
        self._bindings: dict[Binding, None] = {}

    def __iter__(self) -> Iterator[Binding]:
        return iter(list(self._bindings))

    def __bool__(self) -> bool:
        return bool(self._bindings)

    def bind(self, binding: Binding) -> None:
        """Keep a binding."""
        self._bindings[binding] = None

    def unbind(self, binding: Binding) -> None:
        """Forget a binding."""
        self._bindings.pop(binding, None)


@dataclass(slots=True, eq=False)
class Provided:
    """A trigger type of a worker. The formats are raw JSON or None."""

    trigger_type: str
    connection: Connection
    description: bytes | None = None
    trigger_request_format: bytes | None = None
    call_request_format: bytes | None = None
    size: int = 0

    @property
    def claim(self) -> str:
        """What has to be the worker's own for it, as :mod:`agentos_contracts.claimables` writes it."""
        return claimables.trigger_type(self.trigger_type)

    @property
    def maker(self) -> Peer:
        """Who provides it."""
        return self.connection.peer


@dataclass(slots=True)
class Served:
    """A trigger type of the engine.

    ``shared``: bindings of the same function with the same config by several connections, as replicas of a worker
    make them, count as one; the next connection's takes over when the first one goes.
    """

    served: BuiltInType
    description: str
    shared: bool
    groups: dict[tuple[object, ...], dict[Connection | None, dict[Binding, None]]] = field(default_factory=dict)
    """By what is the same of them, then by connection: those of the first one serve."""


class TriggerRegistry:
    """All trigger types and bindings. A binding's id is unique per connection and stable across reconnects."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.served: dict[str, Served] = {}
        self._providers: dict[tuple[str, str], dict[Provided, None]] = {}
        """By iii namespace and type; the newest is the one that serves."""
        self._bindings: dict[str, dict[str, dict[Binding, None]]] = {}
        """By type and id, oldest first; a reconnected worker and its old, half-open connection share an id."""
        self._delivered: dict[tuple[str, str], tuple[Connection, Binding]] = {}
        """By type and id: which provider has been given which binding."""
        self._ownerless: dict[str, Binding] = {}
        self._ownerless_routes: dict[str, dict[Binding, None]] = {}
        """Those of them that are bound to routes, by the uid of the worker that made them."""
        self._ownerless_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._bindings.values()))

    def __iter__(self) -> Iterator[Binding]:
        for of_type in self._bindings.values():
            for bindings in of_type.values():
                yield _newest(bindings)

    @property
    def provided(self) -> Iterator[Provided]:
        """The trigger types of workers."""
        return (_newest(providers) for providers in self._providers.values())

    def counts(self) -> dict[str, int]:
        """How many bindings there are of each type; those to types that nobody has are among them."""
        return {trigger_type: len(bindings) for trigger_type, bindings in self._bindings.items() if bindings}

    # Types of the engine

    def serve(self, trigger_type: str, served: BuiltInType, description: str = "", *, shared: bool = True) -> None:
        """Serve a trigger type, those bindings to it included that wait. For ``shared`` see :class:`Served`."""
        entry = self.served[trigger_type] = Served(served, description, shared)
        for trigger_id, bindings in list(self._bindings.get(trigger_type, {}).items()):
            self._route(trigger_type, trigger_id)
            for binding in list(bindings):
                try:
                    _join(entry, binding)
                    binding.refused = False
                except BusError as error:
                    _tell(binding, error)

    def unserve(self, trigger_type: str) -> None:
        """Serve a trigger type no longer; its bindings go to the worker that provides it, or wait for one."""
        entry = self.served.pop(trigger_type, None)
        if entry is None:
            return
        for trigger_id, bindings in list(self._bindings.get(trigger_type, {}).items()):
            for binding in list(bindings):
                entry.served.unbind(binding)
            self._route(trigger_type, trigger_id)

    # Types of workers

    def provide(self, provided: Provided) -> None:
        """A worker provides a trigger type: it gets every binding to it, also those that a former provider had.

        Raises BusError for a type that the engine serves itself.
        """
        connection, trigger_type = provided.connection, provided.trigger_type
        self.check_type(trigger_type)
        former = connection.trigger_types.get(trigger_type)
        size = provided.size - (former.size if former is not None else 0)
        if former is None:
            self._bounds.check("triggers", len(connection.trigger_types), self._bounds.triggers, "trigger types")
            self._bounds.triggers += 1
        try:
            self._bounds.check_registered(connection.registered_bytes, size)
        except BusError:
            self._bounds.triggers -= former is None
            raise
        self._count(connection, size)
        connection.trigger_types[trigger_type] = provided
        providers = self._providers.setdefault((connection.namespace, trigger_type), {})
        providers[provided] = None
        if former in providers:
            leave(providers, former)
        self._route_all(trigger_type, anew=connection)
        serving = _newest(providers)
        if serving is not provided:
            text = f"Worker {serving.maker.subject} provides trigger type {trigger_type}; it is yours when that is gone"
            raise BusError("FORBIDDEN", text)

    def check_type(self, trigger_type: str) -> None:
        """Raise BusError for a type that no worker can provide."""
        if trigger_type in self.served or trigger_type.startswith("engine::"):
            raise BusError("FORBIDDEN", f"trigger type {trigger_type} belongs to the engine; choose another id")

    def withdraw(self, connection: Connection, trigger_type: str) -> None:
        """A worker no longer provides a type; its bindings go to the next provider or are parked."""
        provided = connection.trigger_types.pop(trigger_type, None)
        if provided is None:
            return
        self._bounds.triggers -= 1
        self._count(connection, -provided.size)
        key = (connection.namespace, trigger_type)
        serving = _newest(self._providers[key]) is provided
        leave(self._providers[key], provided)
        if not self._providers[key]:
            del self._providers[key]
        if serving:
            self._route_all(trigger_type)

    # Bindings

    def bind(self, binding: Binding) -> None:
        """Add a binding; one that the same connection made under the same id is replaced.

        Raises BusError when it is refused.
        """
        connection = binding.connection
        self.unbind(connection, binding.id, replaced=binding)
        held = self._ownerless if connection is None else connection.bindings
        size = self._ownerless_bytes if connection is None else connection.registered_bytes
        owner = "a connection" if connection is not None else "engine::register_trigger"
        try:
            self._bounds.check("triggers", len(held), self._bounds.triggers, "triggers", who=owner)
            self._bounds.check_registered(size, binding.size, owner)
        except BusError:
            self._route(binding.trigger_type, binding.id)  # the one that was to be replaced is gone
            raise
        self._bounds.triggers += 1
        self._count(connection, binding.size)
        held[binding.id] = binding
        if connection is None and binding.claim:
            self._ownerless_routes.setdefault(binding.maker.uid, {})[binding] = None
        self._bindings.setdefault(binding.trigger_type, {}).setdefault(binding.id, {})[binding] = None
        if (entry := self.served.get(binding.trigger_type)) is not None:
            try:
                _join(entry, binding)
            except BusError:
                binding.refused = True
                raise
            _acknowledge(binding, None)
        else:
            self._route(binding.trigger_type, binding.id)

    def unbind(self, connection: Connection | None, trigger_id: str, replaced: Binding | None = None) -> bool:
        """Remove a binding of a connection (None: one that nobody owns); False when there is none of this id.

        ``replaced``: the one that takes its place at once, so that its provider need not be told of the end.
        """
        held = self._ownerless if connection is None else connection.bindings
        binding = held.pop(trigger_id, None)
        if binding is None:
            return False
        self._bounds.triggers -= 1
        self._count(connection, -binding.size)
        if connection is None and binding.claim:
            of_maker = self._ownerless_routes[binding.maker.uid]
            del of_maker[binding]
            if not of_maker:
                del self._ownerless_routes[binding.maker.uid]
        of_type = self._bindings[binding.trigger_type]
        leave(of_type[trigger_id], binding)
        if not of_type[trigger_id]:
            del of_type[trigger_id]
            if not of_type:
                del self._bindings[binding.trigger_type]
        if (entry := self.served.get(binding.trigger_type)) is not None:
            _leave(entry, binding)
        elif replaced is None or replaced.trigger_type != binding.trigger_type:
            self._route(binding.trigger_type, trigger_id)
        return True

    def find(self, trigger_id: str) -> Binding | None:
        """Return the newest binding of an id."""
        return next(
            (_newest(of_type[trigger_id]) for of_type in self._bindings.values() if trigger_id in of_type), None
        )

    def drop(self, connection: Connection) -> None:
        """Remove everything of a connection that has ended."""
        for trigger_type in list(connection.trigger_types):
            self.withdraw(connection, trigger_type)
        for trigger_id in list(connection.bindings):
            self.unbind(connection, trigger_id)

    def drop_of(self, uid: str) -> None:
        """Remove the bindings that nobody owns and that the worker with this uid made."""
        for trigger_id in [each.id for each in self._ownerless.values() if each.maker.uid == uid]:
            self.unbind(None, trigger_id)

    @property
    def ownerless(self) -> list[Binding]:
        """The bindings that nobody owns."""
        return list(self._ownerless.values())

    def ownerless_routes(self, uid: str) -> list[str]:
        """The routes of bindings that nobody owns and that the worker with this uid made."""
        return [each.claim for each in self._ownerless_routes.get(uid, ())]

    def maker_of(self, trigger_id: str) -> Peer | None:
        """Return who made a binding that nobody owns; None when there is none of this id."""
        binding = self._ownerless.get(trigger_id)
        return binding.maker if binding is not None else None

    def move(self, connection: Connection, change: Callable[[], object], namespace: str) -> None:
        """Take all that a connection has into another iii namespace; ``change`` does so with the connection itself."""
        own = list(connection.trigger_types.values())
        bindings = list(connection.bindings.values())
        self.drop(connection)
        change()
        for provided in own:
            try:
                self.provide(provided)
            except BusError as error:
                log.warning("trigger type not provided any more: %s", error.message)
        for binding in bindings:
            if binding.own_namespace:
                binding.namespace = namespace
            try:
                self.bind(binding)
            except BusError as error:
                _tell(binding, error)

    def result(self, provider: Connection, trigger_type: str, trigger_id: str, error: bytes | None) -> None:
        """A provider took a binding, or refused it with the raw JSON of an error: tell the workers that made it."""
        given = self._delivered.get((trigger_type, trigger_id))
        if given is None or given[0] is not provider:
            return
        for binding in self._bindings.get(trigger_type, {}).get(trigger_id, ()):
            if error is not None:
                _tell(binding, _readable(error))
            else:
                _acknowledge(binding, None)

    def _count(self, connection: Connection | None, size: int) -> None:
        self._bounds.registered += size
        if connection is None:
            self._ownerless_bytes += size
        else:
            connection.registered_bytes += size

    # Delivery to providers

    def _provider(self, binding: Binding) -> Connection | None:
        """The worker that serves a binding: of the namespace that was asked for, else of the own, else the default."""
        own = binding.connection.namespace if binding.connection is not None else DEFAULT_NAMESPACE
        asked = binding.trigger_namespace
        for namespace in (asked,) if asked is not None else (own, DEFAULT_NAMESPACE):
            if providers := self._providers.get((namespace, binding.trigger_type)):
                return _newest(providers).connection
        return None

    def _route_all(self, trigger_type: str, anew: Connection | None = None) -> None:
        """Bring all bindings of a type to where they belong; ``anew``: a provider that gets its own once more."""
        for trigger_id in list(self._bindings.get(trigger_type, ())):
            self._route(trigger_type, trigger_id, anew)

    def _route(self, trigger_type: str, trigger_id: str, anew: Connection | None = None) -> None:
        """See to it that the right provider, and no other, has the newest binding of an id."""
        key = (trigger_type, trigger_id)
        bindings = self._bindings.get(trigger_type, {}).get(trigger_id)
        binding = _newest(bindings) if bindings and trigger_type not in self.served else None
        provider = self._provider(binding) if binding is not None else None
        given = self._delivered.get(key)
        if given is not None and given[0] is not provider:
            del self._delivered[key]
            if not given[0].closed:
                given[0].send(frames.unregister_trigger(trigger_id, trigger_type))
            given = None
        if binding is None:
            return
        if provider is None:
            log.debug("trigger parked until its type exists", extra={"trigger_type": trigger_type})
        elif given is None or given[1] is not binding or provider is anew:
            self._deliver(provider, binding)

    def _deliver(self, provider: Connection, binding: Binding) -> None:
        namespace = None if binding.namespace == DEFAULT_NAMESPACE else binding.namespace
        frame = frames.register_trigger(
            binding.id, binding.trigger_type, binding.function_id, binding.config, binding.metadata, namespace
        )
        if len(frame) > provider.max_frame and (why := provider.refusal_of(frame)):
            text = f"the SDK of the type's provider {why}"
            _tell(binding, BusError("payload_too_large", text))
            return
        if provider.congested and provider.link.is_full():
            problem = f"the provider of trigger type {binding.trigger_type[:100]} does not read fast enough"
            _tell(binding, self._bounds.exceeded("unsent_bytes", problem))
            return
        self._delivered[(binding.trigger_type, binding.id)] = (provider, binding)
        binding.refused = False
        provider.send(frame)


def leave(entries: dict[Entry, None], gone: Entry) -> None:
    """Remove one; what it had, as the first, stays with its worker as long as that has another one there."""
    del entries[gone]
    if entries and not next(iter(entries)).maker.shares_with(gone.maker):
        others = [each for each in entries if each.maker.uid != gone.maker.uid]
        if len(others) < len(entries):
            for each in others:
                del entries[each]
            entries.update(dict.fromkeys(others))


def _newest(entries: dict[Entry, None]) -> Entry:
    """The newest of the worker that was first: the oldest has a trigger id, or a type, and its newest connection serves."""
    first = next(iter(entries)).maker
    return next(each for each in reversed(entries) if each.maker.shares_with(first))


def replica_group(binding: Binding) -> tuple[object, ...]:
    """What is the same of bindings that replicas of one worker make."""
    return (
        binding.trigger_type,
        binding.namespace,
        binding.function_id,
        _canonical(binding.config),
        binding.metadata,
    )


def _join(entry: Served, binding: Binding) -> None:
    """Bind, unless another connection's binding to the same serves already."""
    if not entry.shared:
        entry.served.bind(binding)
        return
    key = replica_group(binding)
    group = entry.groups.get(key, {})
    if not group or next(iter(group)) is binding.connection:
        entry.served.bind(binding)
    group.setdefault(binding.connection, {})[binding] = None
    entry.groups[key] = group


def _leave(entry: Served, binding: Binding) -> None:
    """Unbind; when that was the last one of the connection that served, the next one's take over."""
    if not entry.shared:
        entry.served.unbind(binding)
        return
    key, connection = replica_group(binding), binding.connection
    group = entry.groups.get(key, {})
    if binding not in group.get(connection, ()):
        return
    serving = next(iter(group)) is connection
    del group[connection][binding]
    if not group[connection]:
        del group[connection]
    if not group:
        del entry.groups[key]
    if not serving:
        return
    entry.served.unbind(binding)
    if connection in group:
        return
    for each in list(group[next(iter(group))]) if group else ():
        try:
            entry.served.bind(each)
        except BusError as error:
            _tell(each, error)


def _tell(binding: Binding, error: BusError) -> None:
    """Tell whoever made a binding that it is refused."""
    binding.refused = True
    if binding.connection is not None:
        body = frames.error_body(error.code, error.message)
        frame = frames.trigger_refused(binding.id, binding.trigger_type, binding.function_id, body)
        binding.connection.send(frame)
    _acknowledge(binding, error)


def _acknowledge(binding: Binding, error: BusError | None) -> None:
    if binding.on_result is not None:
        on_result, binding.on_result = binding.on_result, None
        on_result(error)


def _readable(error: bytes) -> BusError:
    """A provider's error, in the form and size that can be passed on."""
    body = decode_error(msgspec.Raw(error))
    if body is None:
        return BusError("trigger_registration_failed", "the provider of the trigger type refused it without a reason")
    return BusError(body.code[:100], body.message[:MAX_ERROR_TEXT])


def _canonical(config: bytes | None) -> bytes:
    """The same bytes for configs that say the same."""
    try:
        return msgspec.json.encode(msgspec.json.decode(config or b"null"), order="sorted")
    except (msgspec.DecodeError, RecursionError):
        return config or b""


def functions_named_in(config: bytes | None) -> list[str]:
    """Return the functions that a trigger of the engine would call because its config names them."""
    try:
        fields = msgspec.json.decode(config or b"null")
    except (msgspec.DecodeError, RecursionError):
        return []
    if not isinstance(fields, dict):
        return []
    middleware = fields.get("middleware_function_ids")
    named = [fields.get("condition_function_id"), *(middleware if isinstance(middleware, list) else ())]
    return [each for each in named if isinstance(each, str) and each]


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
