"""Trigger types ``stream``, ``stream:join`` and ``stream:leave``.

``stream``: a function is told what happens in a stream. Config: ``stream_name``, ``group_id?``, ``item_id?`` (absent or
null: any), ``condition_function_id?``. It gets the same event as the stream's subscribers; the writer does not wait.

``stream:join``: functions that are asked before a client is subscribed. They all run at the same time; one that answers
``{"unauthorized": true}``, fails, or does not answer within JOIN_TIMEOUT, keeps the client out. ``stream:leave``:
functions that are told when a subscription ends.

A binding gets its events in their order, each when the function has answered the one before (or has failed, or taken
longer than EVENT_TIMEOUT). Bindings do not wait for one another. Events are not durable: a binding that cannot keep up
loses the oldest that wait once there are more than MAX_WAITING of them, or MAX_WAITING_BYTES; one line in the log tells
the beginning of that, ``dropped`` counts them.
"""

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.observability.trace_context import NO_TRACE, Trace, carried
from agentos_engine.triggers.firing import SKIPPED, Firing
from agentos_engine.triggers.registry import Binding, Bindings, replica_group

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

CHANGE = "stream"
JOIN = "stream:join"
LEAVE = "stream:leave"

EVENT_TIMEOUT = 60.0
"""Seconds for a function to answer before it gets its next event."""
JOIN_TIMEOUT = 30.0
"""Seconds for a function to decide about a subscription."""
MAX_WAITING = 10_000
"""Events that wait for one binding."""
MAX_WAITING_BYTES = 32 << 20


class StreamConfig(msgspec.Struct):
    """Config of a ``stream`` binding."""

    stream_name: str
    group_id: str | None = None
    item_id: str | None = None


class StreamTriggers:
    """Serves the three types on a bus."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._changes = ChangeType(self)
        self._joins = Bindings()
        self._leaves = LeaveType(self)
        self._left: dict[tuple[object, ...], list[Queue]] = {}
        self.dropped = 0
        """Events that were not delivered because a binding could not keep up."""

    def serve(self) -> None:
        """Start, with the bindings that wait."""
        serve = self._bus.triggers.serve
        serve(CHANGE, self._changes, "Fires when something happens in a stream")
        serve(JOIN, self._joins, "Asked before a client is subscribed to a stream")
        serve(LEAVE, self._leaves, "Fires when a client's subscription to a stream ends")

    def unserve(self) -> None:
        """End. What waits for functions is still delivered."""
        self._changes.release()
        self._leaves.release()
        for trigger_type in (CHANGE, JOIN, LEAVE):
            self._bus.triggers.unserve(trigger_type)

    def wants(self, stream_name: str) -> bool:
        """Whether any function is told of a stream."""
        return stream_name in self._changes.queues

    def changed(
        self, stream_name: str, group_id: str, item_id: str | None, payload: bytes, trace: Trace = NO_TRACE
    ) -> None:
        """Tell of an event; returns at once. ``trace`` is that of the call that caused it."""
        trace = carried(*trace)
        for config, queue in self._changes.queues.get(stream_name, {}).values():
            if config.group_id in (None, group_id) and config.item_id in (None, item_id):
                queue.add(payload, trace)

    async def join(self, payload: bytes, trace: Trace = NO_TRACE) -> bool:
        """Ask whether a client may subscribe; ``trace`` is what it came with."""
        if not self._joins:
            return True
        trace = carried(*trace)
        return all(await asyncio.gather(*(self._permits(binding, payload, trace) for binding in self._joins)))

    def leave(self, payload: bytes, trace: Trace = NO_TRACE) -> None:
        """Tell that a subscription has ended; returns at once. ``trace`` is what the client came with."""
        trace = carried(*trace)
        for queue in self._leaves.queues.values():
            queue.add(payload, trace)

    async def _run(self, binding: Binding, payload: bytes, seconds: float, trace: Trace) -> bytes | None:
        traceparent, baggage = trace
        with Span(self._bus, "stream_triggers", traceparent, function_id=binding.function_id) as span:
            return await self._firing.run(binding, payload, seconds, span.traceparent, baggage)

    async def _permits(self, binding: Binding, payload: bytes, trace: Trace) -> bool:
        try:
            result = await self._run(binding, payload, JOIN_TIMEOUT, trace)
        except BusError as error:
            # It may be there to keep clients out, and nobody knows what it would have said.
            log.warning(
                "subscription refused, since a stream:join trigger failed: %s: %s",
                error.code[:100],
                error.message[:500],
                extra={"trigger_id": binding.id[:200], "function_id": binding.function_id},
            )
            return False
        return result is SKIPPED or not _unauthorized(result)

    # For the queues

    def open(self, binding: Binding) -> "Queue":
        """Return the queue of a new binding: with what the one that it stands in for has left, if there is such."""
        left = self._left.get(replica_group(binding))
        queue = left.pop() if left else Queue(self, binding)
        queue.binding = binding
        return queue

    def close(self, queue: "Queue") -> None:
        """A binding has gone. A replica's of the same function may follow in the same turn of the loop."""
        if queue.busy:
            identity = replica_group(queue.binding)
            self._left.setdefault(identity, []).append(queue)
            self._bus.clock.machine.call_later(0, self._forget, identity)

    def _forget(self, identity: tuple[object, ...]) -> None:
        for queue in self._left.pop(identity, ()):
            queue.clear()

    def spawn(self, queue: "Queue") -> None:
        """Deliver what waits for a binding."""
        self._bus.spawn(self._deliver(queue))

    async def _deliver(self, queue: "Queue") -> None:
        while (event := queue.take()) is not None:
            binding, (payload, trace) = queue.binding, event
            try:
                await self._run(binding, payload, EVENT_TIMEOUT, trace)
            except BusError as error:
                log.warning(
                    "stream trigger failed: %s: %s",
                    error.code[:100],
                    error.message[:500],
                    extra={"trigger_id": binding.id[:200], "function_id": binding.function_id},
                )


class ChangeType:
    """The type ``stream``."""

    def __init__(self, triggers: StreamTriggers) -> None:
        self._triggers = triggers
        self._bound: dict[Binding, StreamConfig] = {}
        self.queues: dict[str, dict[Binding, tuple[StreamConfig, Queue]]] = {}
        """By the name of the stream."""

    def bind(self, binding: Binding) -> None:
        """Tell a function of events. Raises BusError ``trigger_registration_failed`` when its config is refused."""
        try:
            config = msgspec.json.decode(binding.config or b"null", type=StreamConfig)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError(
                "trigger_registration_failed",
                "The config of a stream trigger takes stream_name, and if wanted group_id and item_id, all texts: "
                f"{error}",
            ) from error
        self.unbind(binding)
        self._bound[binding] = config
        self.queues.setdefault(config.stream_name, {})[binding] = config, self._triggers.open(binding)

    def unbind(self, binding: Binding) -> None:
        """Tell a function no more; what waits for it is dropped, unless a replica takes over."""
        config = self._bound.pop(binding, None)
        if config is None:
            return
        of_stream = self.queues[config.stream_name]
        self._triggers.close(of_stream.pop(binding)[1])
        if not of_stream:
            del self.queues[config.stream_name]

    def release(self) -> None:
        """Forget all bindings; their queues are still delivered."""
        self._bound.clear()
        self.queues.clear()


class LeaveType:
    """The type ``stream:leave``."""

    def __init__(self, triggers: StreamTriggers) -> None:
        self._triggers = triggers
        self.queues: dict[Binding, Queue] = {}

    def bind(self, binding: Binding) -> None:
        """Tell a function from now on."""
        self.unbind(binding)
        self.queues[binding] = self._triggers.open(binding)

    def unbind(self, binding: Binding) -> None:
        """Tell a function no more; what waits for it is dropped, unless a replica takes over."""
        queue = self.queues.pop(binding, None)
        if queue is not None:
            self._triggers.close(queue)

    def release(self) -> None:
        """Forget all bindings; their queues are still delivered."""
        self.queues.clear()


class Queue:
    """The events that wait for one binding."""

    def __init__(self, triggers: StreamTriggers, binding: Binding) -> None:
        self.binding = binding
        self._triggers = triggers
        self._events: deque[tuple[bytes, Trace]] = deque()
        self._size = 0
        self._delivering = False
        self._dropping = False

    @property
    def busy(self) -> bool:
        """Whether events wait."""
        return bool(self._events)

    def add(self, payload: bytes, trace: Trace) -> None:
        """Take an event."""
        event = payload, trace
        self._events.append(event)
        self._size += _size(event)
        while len(self._events) > MAX_WAITING or self._size > MAX_WAITING_BYTES:
            self._drop_oldest()
        if not self._delivering and self._events:
            self._delivering = True
            self._triggers.spawn(self)

    def take(self) -> tuple[bytes, Trace] | None:
        """Return the next event to deliver; None, and nothing is being delivered any more, when none waits."""
        if not self._events:
            self._delivering = self._dropping = False
            return None
        event = self._events.popleft()
        self._size -= _size(event)
        return event

    def clear(self) -> None:
        """Forget what waits."""
        self._events.clear()
        self._size = 0

    def _drop_oldest(self) -> None:
        self._triggers.dropped += 1
        if not self._dropping:
            self._dropping = True
            log.warning(
                "stream trigger cannot keep up: its function gets %d events later, and the oldest not at all",
                len(self._events),
                extra={"trigger_id": self.binding.id[:200], "function_id": self.binding.function_id},
            )
        self._size -= _size(self._events.popleft())


def _size(event: tuple[bytes, Trace]) -> int:
    payload, (_, baggage) = event
    return len(payload) + len(baggage or "")


def _unauthorized(result: bytes | None) -> bool:
    if result is None or b"unauthorized" not in result:
        return False
    try:
        answer = msgspec.json.decode(result)
    except (msgspec.DecodeError, RecursionError):
        return True
    return isinstance(answer, dict) and answer.get("unauthorized") is True
