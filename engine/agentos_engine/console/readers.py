"""Responses with Server-Sent Events, and what happens to a client that takes them more slowly than they come."""

from collections import deque
from collections.abc import Callable

from agentos_engine.clock import Clock, Handle
from agentos_engine.protocol.http import Response
from agentos_engine.server.http import Exchange

MAX_READERS = 64
"""Responses at a time."""
HEARTBEAT = 15.0
"""Seconds between two comments that show both sides that the other is there."""
MAX_WAITING = 1000
"""Events that wait for a client that does not read."""
MAX_WAITING_BYTES = 1 << 20
"""Their size."""

_HEADERS = [("content-type", "text/event-stream"), ("cache-control", "no-store")]


def message(data: bytes, event: bytes = b"") -> bytes:
    """Return an event as it is sent; ``data`` is JSON, ``event`` its type, empty for none."""
    if b"\n" in data or b"\r" in data:  # in JSON only between the values, where a space says the same
        data = data.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %b\ndata: %b\n\n" % (event, data) if event else b"data: %b\n\n" % data


class Reader:
    """One response. ``ended`` is called once, when it is over: the client went, or :meth:`end`."""

    def __init__(self, exchange: Exchange, ended: Callable[[], None]) -> None:
        self.blocked = False
        """The client takes no more for now."""
        self._exchange = exchange
        self._ended: Callable[[], None] | None = ended
        exchange.on_abandoned = self._over
        exchange.on_writable = self.resume
        exchange.start(Response(200, list(_HEADERS)))
        self.write(b": connected\n\n")

    def write(self, data: bytes) -> None:
        """Send bytes, whatever waits."""
        if not self._exchange.write(data):
            self.blocked = True

    def resume(self) -> None:
        """The client takes more."""
        self.blocked = False

    def beat(self) -> None:
        """Show that the engine is there."""
        if not self.blocked:
            self.write(b": heartbeat\n\n")

    def end(self) -> None:
        """End the response."""
        self._exchange.finish()
        self._over()

    def _over(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class EventReader(Reader):
    """A response with events of which the oldest go when too many wait; the client is told how many it has missed."""

    def __init__(self, exchange: Exchange, ended: Callable[[], None], topics: frozenset[str]) -> None:
        self.topics = topics
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._missed = 0
        super().__init__(exchange, ended)

    def send(self, event: bytes) -> None:
        """Send an event now, or when the client takes it."""
        if not self.blocked:
            self.write(event)
            return
        self._waiting.append(event)
        self._waiting_bytes += len(event)
        while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.popleft())
            self._missed += 1

    def resume(self) -> None:
        """Send what waits."""
        super().resume()
        if self._missed:
            missed, self._missed = self._missed, 0
            self.write(message(b'{"count":%d}' % missed, b"missed"))
        while self._waiting and not self.blocked:
            event = self._waiting.popleft()
            self._waiting_bytes -= len(event)
            self.write(event)


class Readers:
    """All responses of the console."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock.machine
        self._readers: set[Reader] = set()
        self._timer: Handle | None = None

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._readers) >= MAX_READERS

    def add(self, reader: Reader) -> None:
        """Keep a response alive."""
        self._readers.add(reader)
        if self._timer is None:
            self._timer = self._clock.call_later(HEARTBEAT, self._beat)

    def remove(self, reader: Reader) -> None:
        """A response is over."""
        self._readers.discard(reader)
        if not self._readers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._clock.call_later(HEARTBEAT, self._beat)
        for reader in list(self._readers):
            reader.beat()
