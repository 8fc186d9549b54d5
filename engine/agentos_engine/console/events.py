"""``/api/events``: what happens on the bus, to everybody who looks."""

from typing import TYPE_CHECKING

import msgspec

from agentos_engine.bus.connection import Connection
from agentos_engine.clock import Handle
from agentos_engine.console.readers import EventReader, Readers, message
from agentos_engine.console.recorder import Record, Recorder
from agentos_engine.server.http import Exchange

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

TOPICS = frozenset({"call", "change", "log"})
CHANGE_INTERVAL = 0.25
"""Seconds for which changes are gathered."""


class Events:
    """Tells readers of calls, of changes of workers and functions, and of log entries.

    Calls are recorded at least as long as somebody reads of them.
    """

    def __init__(self, bus: "Bus", recorder: Recorder, readers: Readers) -> None:
        self._bus = bus
        self._recorder = recorder
        self._readers = readers
        self._by_topic: dict[str, set[EventReader]] = {topic: set() for topic in TOPICS}
        self._gathering: Handle | None = None
        bus.watchers.append(self._changed)
        bus.log_watchers.append(self._logged)
        self._unsubscribe = recorder.subscribe(self._called)

    def close(self) -> None:
        """Hear of nothing more."""
        self._bus.watchers.remove(self._changed)
        self._bus.log_watchers.remove(self._logged)
        self._unsubscribe()
        if self._gathering is not None:
            self._gathering.cancel()

    def read(self, exchange: Exchange, topics: frozenset[str]) -> None:
        """Begin to send events of these topics."""
        reader = EventReader(exchange, lambda: self._leave(reader), topics)
        self._readers.add(reader)
        for topic in topics:
            self._by_topic[topic].add(reader)
        if "call" in topics:
            self._recorder.attach()

    def _leave(self, reader: EventReader) -> None:
        self._readers.remove(reader)
        for topic in reader.topics:
            self._by_topic[topic].discard(reader)
        if "call" in reader.topics:
            self._recorder.detach()

    def _called(self, record: Record) -> None:
        self._send("call", msgspec.json.encode(record) if self._by_topic["call"] else b"")

    def _logged(self, entry: bytes) -> None:
        self._send("log", entry)

    def _changed(self, connection: Connection) -> None:
        if self._gathering is None and self._by_topic["change"]:
            self._gathering = self._bus.clock.machine.call_later(CHANGE_INTERVAL, self._tell_change)

    def _tell_change(self) -> None:
        self._gathering = None
        self._send("change", b"{}")

    def _send(self, topic: str, data: bytes) -> None:
        readers = self._by_topic[topic]
        if readers:
            event = message(data, topic.encode())
            for reader in list(readers):
                reader.send(event)
