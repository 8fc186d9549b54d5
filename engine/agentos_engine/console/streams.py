"""``/api/streams/…``: a group of a stream, as a client of the stream port hears it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from agentos_engine.console.readers import Reader, Readers, message
from agentos_engine.observability.trace_context import Trace
from agentos_engine.protocol.stream import Subscription, payload_of
from agentos_engine.server.http import Exchange
from agentos_engine.server.stream import Handshake
from agentos_engine.server.stream_client import Client, Wire

if TYPE_CHECKING:
    from agentos_engine.builtins.stream import Streams
    from agentos_engine.bus.bus import Bus

Current = Callable[[], "Streams | None"]
"""Returns the streams that the engine serves at present."""


def follow(
    bus: "Bus", current: Current, streams: "Streams", readers: Readers, exchange: Exchange, stream_name: str, group: str
) -> None:
    """Send the events of a group until the client goes, or the engine's streams do."""
    reader = StreamReader(exchange, readers, streams, current)
    readers.add(reader)
    subscription = {"subscriptionId": "console", "streamName": stream_name, "groupId": group}
    reader.client.receive(msgspec.json.encode({"type": "join", "data": subscription}))
    task: asyncio.Task[None] = bus.spawn(reader.client.run())
    task.add_done_callback(lambda _: reader.end())


class StreamReader(Reader):
    """The response, which is the wire of a client of streams: that one knows what to do when the response is slow."""

    def __init__(self, exchange: Exchange, readers: Readers, streams: "Streams", current: Current) -> None:
        self._streams = streams
        self._current = current
        self.client = Client(_Wire(self), _Trusting(streams), streams.feed, Handshake({}, "/", {}, "console"))

        def ended() -> None:
            readers.remove(self)
            self.client.end()

        super().__init__(exchange, ended)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        super().write(data)
        if self.blocked:
            self.client.block()

    def resume(self) -> None:
        """The client takes more."""
        super().resume()
        self.client.unblock()

    def beat(self) -> None:
        """End what would never come to an end: a configuration without these streams has been read."""
        if self._current() is not self._streams:
            self.end()
        else:
            super().beat()


class _Wire:
    """The response as the client of streams sees it."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    def write(self, frame: bytes) -> None:
        self._reader.write(message(payload_of(frame)))

    def read_on(self, wanted: bool) -> None:
        """It sends nothing."""

    def refuse(self) -> None:
        self._reader.end()

    def abort(self) -> None:
        self._reader.end()


class _Trusting:
    """The engine's streams for somebody who may see everything: nobody is asked, and nobody is told."""

    def __init__(self, streams: "Streams") -> None:
        self._streams = streams
        self.clock = streams.clock

    async def authenticate(self, handshake: Handshake, wire: Wire) -> bytes:
        return b"null"

    async def join(self, subscription: Subscription, context: bytes, trace: Trace) -> bool:
        return True

    def leave(self, subscription: Subscription, context: bytes, trace: Trace) -> None:
        """Nobody was told of the beginning, either."""

    async def read(self, stream_name: str, group_id: str, key: str | None) -> bytes:
        return await self._streams.read(stream_name, group_id, key)
