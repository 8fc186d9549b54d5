"""Data channels: frames from one writer end to one reader end, in order and with their type; without sockets.

Both ends are taken by a WebSocket or by the engine itself, in any order, each once::

    channel = channels.create()
    writer = channel.open_writer(on_writable=go_on, on_closed=stop)
    if not writer.write(b"data"):
        ...  # full: wait for go_on
    writer.finish()

    reader = channel.open_reader(on_frame=take, on_end=done)
    reader.resume()  # nothing is delivered before

A channel is gone when its reader has had the end or has closed, when it is discarded, or when one of its ends was not
taken within ``UNCONNECTED_TIMEOUT``. Callbacks run inside the call that causes them; they may call anything here.
"""

import hmac
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Literal, TypedDict

from agentos_engine.bus.bounds import Bounds
from agentos_engine.clock import Clock, Handle

log = logging.getLogger(__name__)

DEFAULT_BUFFER_SIZE = 64
"""Frames that wait in a channel before its writer has to."""
MAX_BUFFER_SIZE = 1024
BYTES_PER_PLACE = 64 << 10
"""A channel is full, too, at its buffer size times this many bytes: SDKs cut binary data into frames of this size."""
UNCONNECTED_TIMEOUT = 300.0
"""Seconds after which a channel is removed when one of its ends was never taken."""
SWEEP_INTERVAL = 60.0

OnFrame = Callable[[bytes, bool], None]
"""Takes a frame: its bytes, and whether it is text."""
OnEnd = Callable[[bool], None]
"""Takes the end: True when the writer finished, False when it was cut off and data may be missing."""


class ChannelRef(TypedDict):
    """What a worker needs to open an end; SDKs know it by its keys."""

    channel_id: str
    access_key: str
    direction: Literal["read", "write"]


class Channels:
    """All channels of an engine."""

    def __init__(self, clock: Clock, bounds: Bounds | None = None) -> None:
        self.buffered = 0
        """Bytes that wait in all channels."""
        self._bounds = bounds or Bounds()
        self.max_buffered = self._bounds.limits.channel_bytes
        """Beyond so many of them a channel is full with a single frame."""
        self._clock = clock.machine
        self._channels: dict[str, Channel] = {}
        self._owned: Counter[Hashable] = Counter()
        self._total_owned = 0
        self._sweeper: Handle | None = None

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: "Channel") -> bool:
        return channel.id in self._channels

    def create(self, buffer_size: int | None = None, owner: Hashable | None = None) -> "Channel":
        """Make a channel; a buffer size outside 1 to 1024 is brought into it.

        One with an ``owner`` (who asked for it) counts against the bounds and is removed when an end is not taken in
        time. One without is the engine's own, which ends or discards it itself. Raises BusError ``limit_exceeded``.
        """
        if owner is not None:
            self._count_in(owner)
        size = DEFAULT_BUFFER_SIZE if buffer_size is None else min(max(buffer_size, 1), MAX_BUFFER_SIZE)
        channel = Channel(self, size, owner, self._clock.monotonic())
        self._channels[channel.id] = channel
        return channel

    def find(self, channel_id: str, key: str) -> "Channel | None":
        """Return the channel that this key opens."""
        channel = self._channels.get(channel_id)
        if channel is None or not hmac.compare_digest(channel.key.encode(), key.encode(errors="replace")):
            return None
        return channel

    def close(self) -> None:
        """Discard all channels and stop the clock's work; new ones may be made afterwards."""
        for channel in list(self._channels.values()):
            channel.discard()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def forget(self, channel: "Channel") -> None:
        """A channel is over; again: nothing happens."""
        if self._channels.pop(channel.id, None) is not None and channel.owner is not None:
            self._total_owned -= 1
            self._owned[channel.owner] -= 1
            if not self._owned[channel.owner]:
                del self._owned[channel.owner]

    def _count_in(self, owner: Hashable) -> None:
        self._bounds.check("channels", self._owned.get(owner, 0), self._total_owned, "open data channels")
        self._owned[owner] += 1
        self._total_owned += 1
        if self._sweeper is None:
            self._sweeper = self._clock.call_later(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        limit = self._clock.monotonic() - UNCONNECTED_TIMEOUT
        unconnected = []
        for channel in self._channels.values():
            if channel.created > limit:
                break  # they are in the order in which they were made
            if channel.owner is not None and not channel.is_connected:
                unconnected.append(channel)
        for channel in unconnected:
            log.info("data channel removed: an end was never connected", extra={"channel_id": channel.id})
            channel.discard()
        if self._total_owned and self._sweeper is None:
            self._sweeper = self._clock.call_later(SWEEP_INTERVAL, self._sweep)


class Channel:
    """One channel; made by ``Channels.create``."""

    __slots__ = (
        "_bytes",
        "_channels",
        "_delivering",
        "_ended",
        "_frames",
        "_reader",
        "_writer",
        "buffer_size",
        "created",
        "id",
        "key",
        "owner",
    )

    def __init__(self, channels: Channels, buffer_size: int, owner: Hashable | None, created: float) -> None:
        secret = os.urandom(32).hex()
        self.id, self.key = secret[:32], secret[32:]
        self.buffer_size = buffer_size
        self.owner = owner
        self.created = created
        self._channels = channels
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._ended: bool | None = None  # how the writer ended, once it has
        self._frames: deque[tuple[bytes, bool]] | None = None  # made with the first frame that has to wait
        self._bytes = 0
        self._delivering = False

    @property
    def is_connected(self) -> bool:
        """Whether both ends were taken."""
        return self._writer is not None and self._reader is not None

    def reader_ref(self) -> ChannelRef:
        """Return the ref of the reader end."""
        return {"channel_id": self.id, "access_key": self.key, "direction": "read"}

    def writer_ref(self) -> ChannelRef:
        """Return the ref of the writer end."""
        return {"channel_id": self.id, "access_key": self.key, "direction": "write"}

    def open_writer(
        self, on_writable: Callable[[], None] | None = None, on_closed: Callable[[], None] | None = None
    ) -> "Writer | None":
        """Take the writer end; None when it was taken before or the channel is gone.

        ``on_writable``: after a write returned False, there is room again. ``on_closed``: the reader closed or the
        channel was discarded before the writer ended; called at most once, and not after the writer's own end.
        """
        if self._writer is not None or self._ended is not None:
            return None
        self._writer = Writer(self, on_writable, on_closed)
        return self._writer

    def open_reader(self, on_frame: OnFrame, on_end: OnEnd) -> "Reader | None":
        """Take the reader end; None when it was taken before or the channel is gone. Paused until ``resume``.

        ``on_end`` is called at most once, after the last frame, and not after the reader's own ``close``. A reader
        whose ``on_frame`` raises is closed.
        """
        if self._reader is not None or self not in self._channels:
            return None
        self._reader = Reader(self, on_frame, on_end)
        return self._reader

    def discard(self) -> None:
        """Remove the channel with what waits in it and tell those of its ends that are open; again: nothing happens."""
        self.stop()
        if self._reader is not None:
            self._reader.end(False)

    # What follows is for the two ends.

    def put(self, data: bytes, text: bool) -> bool:
        """Deliver a frame or keep it; False when the channel is full with it."""
        if self._ended is not None:
            return True
        reader = self._reader
        if reader is not None and not (reader.paused or self._frames or self._delivering):
            reader.take(data, text)
            return True
        if self._frames is None:
            self._frames = deque()
        self._frames.append((data, text))
        self._bytes += len(data)
        self._channels.buffered += len(data)
        return (
            len(self._frames) < self.buffer_size
            and self._bytes < self.buffer_size * BYTES_PER_PLACE
            and self._channels.buffered <= self._channels.max_buffered
        )

    def finish(self, clean: bool) -> None:
        """Let the reader have the end after what waits; only the first one counts."""
        if self._ended is None:
            self._ended = clean
            self.deliver()

    def deliver(self) -> None:
        """Hand over what waits as far as the reader takes it, let the writer go on, hand over the end."""
        reader, frames = self._reader, self._frames
        if reader is None or self._delivering:
            return
        if frames:
            self._delivering = True
            while frames and not (reader.paused or reader.closed):
                data, text = frames.popleft()
                self._bytes -= len(data)
                self._channels.buffered -= len(data)
                reader.take(data, text)
            self._delivering = False
        if self._ended is None and self._writer is not None and self._writer.blocked and self._has_room():
            self._writer.go_on()
        if self._ended is not None and not (self._frames or reader.paused or reader.closed):
            self._channels.forget(self)
            reader.end(self._ended)

    def stop(self) -> None:
        """Forget the channel and all that waits; tell the writer, unless it has ended."""
        self._channels.forget(self)
        self._channels.buffered -= self._bytes
        self._bytes = 0
        self._frames = None
        if self._ended is None:
            self._ended = False
            if self._writer is not None:
                self._writer.stop()

    def _has_room(self) -> bool:
        """Half empty: a writer that stops and goes on with each frame would be slow."""
        waiting = len(self._frames) if self._frames else 0
        return (
            waiting <= self.buffer_size // 2
            and self._bytes <= self.buffer_size * BYTES_PER_PLACE // 2
            and (not waiting or self._channels.buffered <= self._channels.max_buffered)
        )


class Writer:
    """The writer end, for whoever took it."""

    __slots__ = ("_channel", "_on_closed", "_on_writable", "blocked")

    def __init__(
        self, channel: Channel, on_writable: Callable[[], None] | None, on_closed: Callable[[], None] | None
    ) -> None:
        self.blocked = False
        """Whether the last write returned False and ``on_writable`` is still to come."""
        self._channel = channel
        self._on_writable = on_writable
        self._on_closed = on_closed

    def write(self, data: bytes, text: bool = False) -> bool:
        """Send a frame. It is always taken; False: full now, write no more before ``on_writable``.

        After an end, or when the reader is gone, data is dropped and the answer is True.
        """
        if self._channel.put(data, text):
            return True
        self.blocked = True
        return False

    def finish(self) -> None:
        """End well: the reader gets what waits, then ``on_end(True)``. Only the first end counts."""
        self._channel.finish(True)

    def abort(self) -> None:
        """End early: the reader gets what waits, then ``on_end(False)``. Only the first end counts."""
        self._channel.finish(False)

    def go_on(self) -> None:
        """There is room again; for the channel."""
        self.blocked = False
        _run(self._on_writable)

    def stop(self) -> None:
        """The reader is gone; for the channel."""
        self.blocked = False
        _run(self._on_closed)


class Reader:
    """The reader end, for whoever took it."""

    __slots__ = ("_channel", "_on_end", "_on_frame", "closed", "paused")

    def __init__(self, channel: Channel, on_frame: OnFrame, on_end: OnEnd) -> None:
        self.paused = True
        self.closed = False
        """Whether it had the end or has closed."""
        self._channel = channel
        self._on_frame = on_frame
        self._on_end = on_end

    def pause(self) -> None:
        """Deliver nothing, not even the end, until ``resume``; may be called inside ``on_frame``."""
        self.paused = True

    def resume(self) -> None:
        """Deliver what waits, then whatever comes."""
        if self.paused:
            self.paused = False
            self._channel.deliver()

    def close(self) -> None:
        """Want no more: the channel is gone and its writer told. After the end nothing happens."""
        if not self.closed:
            self.closed = True
            self._channel.stop()

    def take(self, data: bytes, text: bool) -> None:
        """A frame has come; for the channel."""
        try:
            self._on_frame(data, text)
        except Exception:  # the writer has no part in it
            log.exception("a data channel's reader failed and is closed")
            self.close()

    def end(self, clean: bool) -> None:
        """The end has come; for the channel."""
        if not self.closed:
            self.closed = True
            _run(self._on_end, clean)


def _run(callback: Callable[..., None] | None, *args: bool) -> None:
    if callback is not None:
        try:
            callback(*args)
        except Exception:  # the other end has no part in it
            log.exception("a callback of a data channel failed")
