"""Trigger type ``state``: functions that are told of changes in ``state::*``.

Config: ``scope?``, ``key?`` (absent or null: any), ``condition_function_id?``. The function gets
``{"type": "state", "event_type": "state:created" | "state:updated" | "state:deleted", "scope", "key", "old_value",
"new_value"}``. The writer does not wait for it.

What a binding can rely on: the events of one key reach it in the order of the writes, the next one when the function
has answered the one before (or has failed, or taken longer than EVENT_TIMEOUT); events of different keys run side by
side. Bindings do not wait for one another. Events are not durable. One that cannot keep up loses its oldest
waiting events once more than MAX_WAITING of them, or MAX_WAITING_BYTES, wait for it, or MAX_TOTAL_BYTES for all
bindings together and it has the most: one line in the log tells the beginning of that, ``dropped`` counts them.
What waits survives that the worker binds anew, or that a replica of it goes, but not that the last binding goes.
"""

import asyncio
import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.observability.trace_context import NO_TRACE, Trace, carried
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

TYPE = "state"
EVENT_TIMEOUT = 60.0
"""Seconds for the function to answer before the next event of that key is sent."""
MAX_CONCURRENT = 64
"""Events of one binding, each of another key, that wait for an answer at one time."""
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
EVENT_BYTES = 300
"""Counted for each event that waits, in addition to its payload and baggage."""

EventType = Literal["state:created", "state:updated", "state:deleted"]
Key = tuple[str, str]
"""Scope and key of a value."""
Pattern = tuple[str | None, str | None]
"""The same of a binding; None stands for any."""


class Event(NamedTuple):
    """What a binding is told, and the context of the call that wrote."""

    payload: bytes
    traceparent: str | None
    baggage: str | None

    @property
    def size(self) -> int:
        """Bytes that count against limits."""
        return len(self.payload) + len(self.baggage or "") + EVENT_BYTES


Identity = tuple[str, str, Pattern, str | None, bytes | None]
"""What bindings have in common that do the same work."""


class StateConfig(msgspec.Struct):
    """Config of a binding."""

    scope: str | None = None
    key: str | None = None


def scope_of(config: bytes | None) -> str | None:
    """Return the one scope that a binding is told of; None for all, or for a config that is refused anyway."""
    try:
        return (msgspec.json.decode(config or b"null", type=StateConfig | None) or StateConfig()).scope
    except (msgspec.DecodeError, RecursionError):
        return None


class StateTrigger:
    """Serves the type. A write costs by the bindings that it matches, not by those there are."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._patterns: dict[Pattern, dict[Binding, Backlog]] = {}
        self._bound: dict[Binding, Pattern] = {}
        self._handed_over: dict[Identity, list[Backlog]] = {}
        """Of bindings that have just gone: the registry gives their work to the next one in the same turn of the loop."""
        self._behind: dict[Backlog, None] = {}
        """Those in which events wait."""
        self._waiting_bytes = 0
        self.dropped = 0
        """Events that were not delivered because a binding could not keep up."""

    def bind(self, binding: Binding) -> None:
        """Tell a function of changes. Raises BusError ``trigger_registration_failed`` when its config is refused."""
        try:
            config = msgspec.json.decode(binding.config or b"null", type=StateConfig | None) or StateConfig()
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError(
                "trigger_registration_failed", f"The config of a state trigger takes scope and key, both texts: {error}"
            ) from error
        pattern = (config.scope, config.key)
        identity = _identity(binding, pattern)
        left = self._handed_over.get(identity)
        backlog = left.pop() if left else Backlog(self)
        backlog.binding = binding
        self._bound[binding] = pattern
        self._patterns.setdefault(pattern, {})[binding] = backlog

    def unbind(self, binding: Binding) -> None:
        """Tell a function no more."""
        pattern = self._bound.pop(binding, None)
        if pattern is None:
            return
        backlog = self._patterns[pattern].pop(binding)
        if not self._patterns[pattern]:
            del self._patterns[pattern]
        if backlog.busy:
            identity = _identity(binding, pattern)
            self._handed_over.setdefault(identity, []).append(backlog)
            self._bus.clock.machine.call_later(0, self._forget, identity)

    def release(self) -> None:
        """Unbind everything; what waits is still delivered."""
        self._bound.clear()
        self._patterns.clear()

    def fire(
        self,
        event_type: EventType,
        scope: str,
        key: str,
        old: bytes | None,
        new: bytes | None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Tell of a write; returns at once. ``old`` and ``new`` are raw JSON, None for no value.

        ``trace`` is that of the call that wrote.
        """
        event = None
        for pattern in ((scope, key), (scope, None), (None, key), (None, None)):
            for backlog in self._patterns.get(pattern, {}).values():
                if event is None:
                    event = Event(_payload(event_type, scope, key, old, new), *carried(*trace))
                backlog.add((scope, key), event)
        while self._waiting_bytes > MAX_TOTAL_BYTES:
            max(self._behind, key=lambda each: each.size).drop_oldest()

    def _forget(self, identity: "Identity") -> None:
        for backlog in self._handed_over.pop(identity, ()):
            backlog.clear()

    # For the backlogs

    def deliver(self, backlog: "Backlog", key: Key, event: Event) -> None:
        """Start the delivery of one event; the backlog is told when that is over."""
        self._bus.spawn(self._deliver(backlog, key, event))

    async def _deliver(self, backlog: "Backlog", key: Key, event: Event) -> None:
        binding = backlog.binding
        try:
            with Span(self._bus, "state_triggers", event.traceparent, function_id=binding.function_id) as span:
                await self._firing.run(binding, event.payload, EVENT_TIMEOUT, span.traceparent, event.baggage)
            backlog.failing = False
        except BusError as error:
            # A function that is missing fails with every write: one line for a row of failures.
            log.log(
                logging.DEBUG if backlog.failing else logging.WARNING,
                "state trigger failed: %s: %s",
                error.code[:100],
                error.message[:500],
                extra={"trigger_id": binding.id[:200], "function_id": binding.function_id},
            )
            backlog.failing = True
        except asyncio.CancelledError:
            backlog.clear()  # the engine stops: nothing more is to be started
            raise
        finally:
            backlog.delivered(key)

    def count(self, backlog: "Backlog", size: int) -> None:
        """Take account of bytes that wait in a backlog, or (negative) wait no longer."""
        self._waiting_bytes += size
        if backlog.waiting:
            self._behind[backlog] = None
        else:
            self._behind.pop(backlog, None)


class Backlog:
    """The events of one binding that wait, and the keys of which one is being delivered."""

    binding: Binding

    def __init__(self, trigger: StateTrigger) -> None:
        self.size = 0
        """Bytes of what waits."""
        self.failing = False
        """The last delivery failed."""
        self._trigger = trigger
        self._numbers = itertools.count()
        self._events: dict[int, tuple[Key, Event]] = {}
        """What waits, oldest first, by number."""
        self._by_key: dict[Key, deque[int]] = {}
        """What waits of each key; empty for a key of which one event is being delivered and none waits."""
        self._ready: dict[Key, None] = {}
        """Keys of which events wait and none is being delivered."""
        self._delivering = 0
        self._dropping = False

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return len(self._events)

    @property
    def busy(self) -> bool:
        """Events wait or are being delivered."""
        return bool(self._by_key)

    def add(self, key: Key, event: Event) -> None:
        """Take an event."""
        numbers = self._by_key.get(key)
        if numbers is None:
            numbers = self._by_key[key] = deque()
            if self._delivering < MAX_CONCURRENT:
                self._deliver(key, event)
                return
            self._ready[key] = None
        number = next(self._numbers)
        numbers.append(number)
        self._events[number] = key, event
        self._count(event.size)
        while len(self._events) > MAX_WAITING or self.size > MAX_WAITING_BYTES:
            self.drop_oldest()

    def delivered(self, key: Key) -> None:
        """An event was delivered, or failed: go on with the next."""
        self._delivering -= 1
        if self._by_key[key]:
            self._ready[key] = None
        else:
            del self._by_key[key]
        if self._ready:
            key = next(iter(self._ready))
            del self._ready[key]
            self._deliver(key, self._take(self._by_key[key].popleft()))
        if not self._events:
            self._dropping = False

    def drop_oldest(self) -> None:
        """Give up the event that has waited longest."""
        number, (key, _) = next(iter(self._events.items()))
        numbers = self._by_key[key]
        numbers.popleft()
        if not numbers and key in self._ready:
            del self._ready[key], self._by_key[key]
        if not self._dropping:
            self._dropping = True
            log.warning(
                "state trigger cannot keep up: %d events wait for its function, and the oldest are dropped",
                len(self._events),
                extra={"trigger_id": self.binding.id[:200], "function_id": self.binding.function_id},
            )
        self._take(number)
        self._trigger.dropped += 1

    def clear(self) -> None:
        """Forget what waits; what is being delivered goes on."""
        for key in self._ready:
            del self._by_key[key]
        self._ready.clear()
        for numbers in self._by_key.values():
            numbers.clear()
        self._events.clear()
        self._count(-self.size)

    def _deliver(self, key: Key, event: Event) -> None:
        self._delivering += 1
        self._trigger.deliver(self, key, event)

    def _take(self, number: int) -> Event:
        _, event = self._events.pop(number)
        self._count(-event.size)
        return event

    def _count(self, size: int) -> None:
        self.size += size
        self._trigger.count(self, size)


def _identity(binding: Binding, pattern: Pattern) -> Identity:
    return (binding.namespace, binding.function_id, pattern, binding.condition, binding.metadata)


def _payload(event_type: EventType, scope: str, key: str, old: bytes | None, new: bytes | None) -> bytes:
    encode = msgspec.json.encode
    parts = (
        b'{"type":"state","event_type":"',
        event_type.encode(),
        b'","scope":',
        encode(scope),
        b',"key":',
        encode(key),
        b',"old_value":',
        old or b"null",
        b',"new_value":',
        new or b"null",
        b"}",
    )
    return b"".join(parts)
