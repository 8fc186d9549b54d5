"""The body of a request on its way from the client to whoever reads it."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

HIGH_WATER = 64 << 10
"""Bytes that wait in one body before the client has to."""
PIECE = 64 << 10
"""Largest piece that a sink is given."""


class Sink(Protocol):
    """Where a body goes to."""

    def write(self, data: bytes) -> bool:
        """Take a piece; False: full with it, no more before the body is told to :meth:`RequestBody.resume`."""
        ...

    def finish(self) -> None:
        """That was the whole body."""
        ...

    def abort(self) -> None:
        """The rest will not come."""
        ...

    def is_read(self) -> bool:
        """Whether somebody takes the data, rather than a buffer that nobody has opened."""
        ...


class RequestBody:
    """A streamed body. What waits is bounded: while ``is_full``, the connection is not read.

    ``on_change(bytes)`` is told by how much the bytes that wait have grown, or shrunk.
    """

    __slots__ = ("_blocked", "_dropped", "_on_change", "_sink", "_waiting", "ended", "is_complete", "size")

    def __init__(self, on_change: Callable[[int], None]) -> None:
        self.size = 0
        """Bytes that wait."""
        self.ended = False
        """Whether no more will come; ``is_complete``: because all has come."""
        self.is_complete = False
        self._waiting: deque[memoryview] = deque()
        self._blocked = False
        self._dropped = False
        self._sink: Sink | None = None
        self._on_change = on_change

    @property
    def is_full(self) -> bool:
        """Whether the client has to wait; for ever when nobody wants the rest: the answer then ends the connection."""
        return self.size >= HIGH_WATER or self._dropped

    @property
    def is_read(self) -> bool:
        """Whether somebody takes the data."""
        return self._sink is not None and self._sink.is_read()

    def send_to(self, sink: Sink, *, blocked: bool = False) -> None:
        """Give all that has come and will come to a sink; not before :meth:`resume` when that is ``blocked``."""
        self._sink = sink
        self._blocked = blocked
        self._pump()

    def resume(self) -> None:
        """The sink takes more."""
        self._blocked = False
        self._pump()

    def drop(self) -> None:
        """Nobody wants the data any more: what waits is forgotten, and what comes."""
        self._dropped = True
        self._sink = None
        self._waiting.clear()
        self._grow(-self.size)

    # For the connection

    def put(self, data: bytes) -> None:
        """Data has come."""
        if self._dropped:
            return
        if self._sink is not None and not self._blocked and not self._waiting and len(data) <= PIECE:
            self._blocked = not self._sink.write(data)
        else:
            self._waiting.append(memoryview(data))
            self._grow(len(data))
            self._pump()

    def end(self, complete: bool) -> None:
        """No more will come: because that was all, or because the client has gone."""
        if not self.ended:
            self.ended = True
            self.is_complete = complete
            self._pump()

    def _pump(self) -> None:
        sink, waiting = self._sink, self._waiting
        if sink is None:
            return
        while waiting and not self._blocked:
            view = waiting.popleft()
            if len(view) > PIECE:
                waiting.appendleft(view[PIECE:])
                view = view[:PIECE]
            self._grow(-len(view))
            self._blocked = not sink.write(bytes(view))
        if self.ended and not waiting and self._sink is not None:
            self._sink = None
            if self.is_complete:
                sink.finish()
            else:
                sink.abort()

    def _grow(self, size: int) -> None:
        if size:
            self.size += size
            self._on_change(size)
