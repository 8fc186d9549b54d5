"""Who hears what on the stream port: subscriptions, fan-out, and what happens when a client cannot keep up. No sockets.

An event is encoded once and the same bytes go to every client. A client hears an event once, however many of its
subscriptions match: frames carry no subscription id.

A client that does not read fast enough has up to MAX_WAITING events waiting; beyond that the oldest go. When one of
them told of a change, what follows is left out too, and once the client reads again it gets a ``sync`` of what is there
by then: it may miss steps, never the outcome.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import Clock, Handle
from agentos_engine.observability.trace_context import Trace
from agentos_engine.protocol.frames import connection_error
from agentos_engine.protocol.stream import Join, Malformed, Request, Subscription, decode, event, text_frame

if TYPE_CHECKING:
    from agentos_engine.server.stream import Handshake

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Events that wait for a client that does not read."""
MAX_WAITING_BYTES = 4 << 20
"""Their size; one event may be larger."""
MAX_SUBSCRIPTIONS = 1024
"""Of one client."""
MAX_REQUESTS = 64
"""Requests of one client that wait to be carried out; while there are so many, nothing more is read from it."""
SYNC_RETRY = 5.0
"""Seconds until a ``sync`` is tried again for which the values could not be read."""

Key = str | None
"""What is synced at a time: an item, or None for the whole group."""


class Wire(Protocol):
    """The client's socket. On one that is closed all of this does nothing."""

    def write(self, frame: bytes) -> None:
        """Send a whole WebSocket frame."""
        ...

    def read_on(self, wanted: bool) -> None:
        """Whether to read from the client."""
        ...

    def refuse(self) -> None:
        """Close with the code for somebody who is not let in."""
        ...

    def abort(self) -> None:
        """Cut the connection."""


class Host(Protocol):
    """What the port serves, and who decides."""

    clock: Clock

    async def authenticate(self, handshake: "Handshake", wire: Wire) -> bytes:
        """Return the context of a client that connects, as raw JSON. Raises BusError when it is not let in.

        ``wire`` is to be cut when it may no longer be connected.
        """
        ...

    async def join(self, subscription: Subscription, context: bytes, trace: Trace) -> bool:
        """Ask whether a client, which came with this trace, may subscribe."""
        ...

    def leave(self, subscription: Subscription, context: bytes, trace: Trace) -> None:
        """A subscription has ended."""
        ...

    async def read(self, stream_name: str, group_id: str, key: Key) -> bytes:
        """Return, as raw JSON, an item or null, or without a key the list of a group's items. Raises BusError."""
        ...


class Event:
    """What is sent to clients: a frame, the item that it is about, and whether it tells of stored values."""

    __slots__ = ("change", "frame", "item_id")

    def __init__(self, frame: bytes, item_id: str | None = None, change: bool = False) -> None:
        self.frame = frame
        self.item_id = item_id
        self.change = change


class Topic:
    """A group of a stream: who hears all of it, and who an item."""

    __slots__ = ("items", "whole")

    def __init__(self) -> None:
        self.whole: dict[Seat, None] = {}
        self.items: dict[str, dict[Seat, None]] = {}


class Feed:
    """All that is subscribed to."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._topics: dict[tuple[str, str], Topic] = {}

    def wants(self, stream_name: str, group_id: str) -> bool:
        """Whether anybody hears of a group."""
        return (stream_name, group_id) in self._topics

    def publish(self, stream_name: str, group_id: str, published: Event) -> None:
        """Give an event to everybody who is to hear it."""
        topic = self._topics.get((stream_name, group_id))
        if topic is None:
            return
        for seat in topic.whole:
            seat.client.deliver(seat, published)
        if published.item_id is not None and (seats := topic.items.get(published.item_id)) is not None:
            for seat in seats:
                if seat not in topic.whole:
                    seat.client.deliver(seat, published)

    def add(self, seat: "Seat", key: Key) -> None:
        """A client wants to hear of a group or an item."""
        topic = self._topics.setdefault((seat.stream_name, seat.group_id), Topic())
        (topic.whole if key is None else topic.items.setdefault(key, {}))[seat] = None

    def remove(self, seat: "Seat", key: Key) -> None:
        """A client wants that no more."""
        topic = self._topics[seat.stream_name, seat.group_id]
        if key is None:
            del topic.whole[seat]
        else:
            del topic.items[key][seat]
            if not topic.items[key]:
                del topic.items[key]
        if not topic.whole and not topic.items:
            del self._topics[seat.stream_name, seat.group_id]


class Seat:
    """What one client hears of one group."""

    __slots__ = ("client", "group_id", "keys", "stale", "stream_name")

    def __init__(self, client: "Client", stream_name: str, group_id: str) -> None:
        self.client = client
        self.stream_name = stream_name
        self.group_id = group_id
        self.keys: dict[Key, set[str]] = {}
        """Subscription ids, by what they are for."""
        self.stale: set[Key] = set()
        """What the client has missed changes of; they are left out until it is synced."""

    def heard(self, item_id: str | None) -> Iterator[Key]:
        """The keys under which an event about an item is heard."""
        if None in self.keys:
            yield None
        if item_id is not None and item_id in self.keys:
            yield item_id


class Client:
    """One client of the port. :meth:`run` is to run until it returns; everything else is called by the socket."""

    def __init__(self, wire: Wire, host: Host, feed: Feed, handshake: "Handshake") -> None:
        self._wire = wire
        self._host = host
        self._feed = feed
        self._handshake = handshake
        self._context = b"null"
        self._requests: deque[Request | str] = deque()
        """What the client asks for, or why it was not understood."""
        self._subscriptions: dict[str, tuple[Subscription, Seat]] = {}
        self._seats: dict[tuple[str, str], Seat] = {}
        self._waiting: deque[tuple[Seat | None, Event]] = deque()
        self._waiting_bytes = 0
        self._blocked = False
        self._due: dict[tuple[Seat, Key], None] = {}
        """What is to be synced as soon as the client reads."""
        self._retries: dict[tuple[Seat, Key], Handle] = {}
        self._syncing: Seat | None = None
        self._held: deque[Event] = deque()
        """Events of that seat: they come after the ``sync``, so that no change is hidden by an older picture."""
        self._held_bytes = 0
        self._gone = False
        self._wake = asyncio.Event()

    # From the socket

    def receive(self, message: bytes) -> None:
        """Take a message of the client."""
        try:
            request: Request | str = decode(message)
        except Malformed as error:
            request = str(error)
        self._requests.append(request)
        if len(self._requests) == MAX_REQUESTS:
            self._wire.read_on(False)
        self._wake.set()

    def block(self) -> None:
        """The socket takes no more for now."""
        self._blocked = True

    def unblock(self) -> None:
        """The socket has caught up."""
        self._blocked = False
        while self._waiting and not self._blocked:
            _, waiting = self._waiting.popleft()
            self._count_waiting(-len(waiting.frame))
            self._wire.write(waiting.frame)
        self._wake.set()

    def end(self) -> None:
        """The connection has ended."""
        self._gone = True
        self._wake.set()

    # From the feed

    def deliver(self, seat: Seat, published: Event) -> None:
        """Send an event, or keep it for later."""
        if seat is self._syncing:
            self._hold(seat, published)
        elif not (published.change and seat.stale and seat.stale.issuperset(seat.heard(published.item_id))):
            self._send(seat, published)

    def _hold(self, seat: Seat, published: Event) -> None:
        self._held.append(published)
        self._held_bytes += len(published.frame)
        while len(self._held) > MAX_WAITING or (self._held_bytes > MAX_WAITING_BYTES and len(self._held) > 1):
            dropped = self._held.popleft()
            self._held_bytes -= len(dropped.frame)
            self._missed(seat, dropped)

    def _send(self, seat: Seat | None, published: Event) -> None:
        if not self._blocked:
            self._wire.write(published.frame)
            return
        self._waiting.append((seat, published))
        self._count_waiting(len(published.frame))
        backlog = self._feed.bounds.backlog
        while self._waiting and (
            len(self._waiting) > MAX_WAITING
            or (self._waiting_bytes > min(MAX_WAITING_BYTES, backlog.free) and len(self._waiting) > 1)
            or not backlog.free
        ):
            lost_by, dropped = self._waiting.popleft()
            self._count_waiting(-len(dropped.frame))
            if lost_by is not None:
                self._missed(lost_by, dropped)

    def _count_waiting(self, size: int) -> None:
        self._waiting_bytes += size
        self._feed.bounds.backlog.keep(size)

    def _missed(self, seat: Seat, dropped: Event) -> None:
        if dropped.change:
            for key in seat.heard(dropped.item_id):
                seat.stale.add(key)
                self._due[seat, key] = None

    def _tell(self, code: str, message: str) -> None:
        self._send(None, Event(text_frame(connection_error(code, message))))

    # Its own work, one thing after the other

    async def run(self) -> None:
        """Serve the client until it goes."""
        try:
            if await self._admit():
                while not self._gone:
                    await self._step()
        finally:
            self._gone = True
            for handle in self._retries.values():
                handle.cancel()
            for subscription_id in list(self._subscriptions):
                self._leave(subscription_id)
            self._waiting.clear()
            self._count_waiting(-self._waiting_bytes)

    async def _admit(self) -> bool:
        try:
            self._context = await self._host.authenticate(self._handshake, self._wire)
        except BusError as error:
            log.warning(
                "stream client refused: %s: %s",
                error.code[:100],
                error.message[:500],
                extra={"ip_address": self._handshake.address},
            )
            self._tell("AUTH_ERROR", "this connection is not authorised")
            self._wire.refuse()
            return False
        return True

    async def _step(self) -> None:
        if self._due and not self._blocked:
            seat, key = next(iter(self._due))
            await self._sync(seat, key)
        elif self._requests:
            if len(self._requests) == MAX_REQUESTS:
                self._wire.read_on(True)
            request = self._requests.popleft()
            if isinstance(request, str):
                self._tell("invalid_message", f"the message was {request}")
            elif isinstance(request, Join):
                await self._join(request.data)
            else:
                self._leave(request.data.subscription_id)
        else:
            self._wake.clear()
            await self._wake.wait()

    async def _join(self, subscription: Subscription) -> None:
        self._leave(subscription.subscription_id)
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            self._feed.bounds.count("stream_subscriptions")
            self._tell("limit_exceeded", f"a client has at most {MAX_SUBSCRIPTIONS} subscriptions; leave some first")
            return
        if not await self._host.join(subscription, self._context, self._handshake.trace):
            self._send(None, self._event(subscription, subscription.id, "unauthorized", b"null"))
            return
        place = subscription.stream_name, subscription.group_id
        seat = self._seats.get(place)
        if seat is None:
            seat = self._seats[place] = Seat(self, *place)
        key = subscription.id
        if key not in seat.keys:
            seat.keys[key] = set()
            self._feed.add(seat, key)
            seat.stale.add(key)
        seat.keys[key].add(subscription.subscription_id)
        self._subscriptions[subscription.subscription_id] = subscription, seat
        self._due[seat, key] = None

    def _leave(self, subscription_id: str) -> None:
        subscription, seat = self._subscriptions.pop(subscription_id, (None, None))
        if subscription is None or seat is None:
            return
        key = subscription.id
        seat.keys[key].discard(subscription_id)
        if not seat.keys[key]:
            del seat.keys[key]
            self._feed.remove(seat, key)
            seat.stale.discard(key)
            self._due.pop((seat, key), None)
            if (retry := self._retries.pop((seat, key), None)) is not None:
                retry.cancel()
            if not seat.keys:
                del self._seats[seat.stream_name, seat.group_id]
        self._host.leave(subscription, self._context, self._handshake.trace)

    async def _sync(self, seat: Seat, key: Key) -> None:
        """Send a picture of what is stored, and then all changes from the moment on at which it was begun."""
        del self._due[seat, key]
        seat.stale.discard(key)
        retry = self._retries.pop((seat, key), None)
        if retry is not None:
            retry.cancel()
        self._syncing = seat
        try:
            values = await self._host.read(seat.stream_name, seat.group_id, key)
            self._send(seat, self._event(seat, key, "sync", values, change=True))
        except BusError as error:
            if retry is None:
                place = f"stream {seat.stream_name!r}, group {seat.group_id!r}"
                log.warning("%s cannot be synced: %s: %s", place, error.code[:100], error.message[:500])
                self._tell(
                    "STREAM_SYNC_ERROR", f"{place} cannot be read now; changes are sent, the values when they can be"
                )
            self._retries[seat, key] = self._host.clock.machine.call_later(SYNC_RETRY, self._retry, seat, key)
        finally:
            held, self._held, self._held_bytes, self._syncing = self._held, deque(), 0, None
            for each in held:
                self.deliver(seat, each)

    def _retry(self, seat: Seat, key: Key) -> None:
        self._due[seat, key] = None
        self._wake.set()

    def _event(self, where: Subscription | Seat, key: Key, kind: str, data: bytes, *, change: bool = False) -> Event:
        timestamp = int(self._host.clock.time() * 1000)
        payload = event(timestamp, where.stream_name, where.group_id, key, kind, data)
        return Event(text_frame(payload), key, change)
