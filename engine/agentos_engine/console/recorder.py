"""The record of calls: the newest ones, who made them, who answered, how long it took; each is a span of its trace, too."""

import logging
from collections.abc import Callable
from itertools import count, islice
from typing import TYPE_CHECKING, Literal

import msgspec
from agentos_contracts.redaction import redacted

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.invocations import NOBODY, Call, Caller, FutureCaller, error_of
from agentos_engine.bus.spans import UNTRACED, Span
from agentos_engine.bus.tap import Watched
from agentos_engine.observability.trace_context import SpanContext, parse_traceparent
from agentos_engine.protocol.frames import Json
from agentos_engine.protocol.messages import Message, is_null

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

ENGINE = "engine"
"""Who calls or answers when it is the engine itself."""
CONSOLE = "console"
"""The source of calls that a person makes."""

MAX_PAYLOAD = 64 << 10
"""Bytes of a payload, and likewise of a result, beyond which it is not kept."""
MAX_BYTES = 16 << 20
"""Of all payloads and results together; with more the oldest records go."""
MAX_ERROR = 2000
"""Characters that are kept of an error's message."""
MAX_NAME = 200
"""Characters that are kept of a caller's or worker's name."""

ABANDONED = BusError("abandoned", "whoever made the call went away, or waits for the answer no longer")


def is_recorded(function_id: str, source: str) -> bool:
    """Whether a call is worth a record: not what every worker does all the time, nor what the console asks to show it."""
    return not function_id.startswith(UNTRACED) and not (source == CONSOLE and function_id.startswith("engine::"))


class Failure(msgspec.Struct):
    """Why a call failed."""

    code: str
    message: str


class Record(msgspec.Struct):
    """One call. ``started_at`` is in milliseconds since 1970, ``duration_ms`` None while the call runs.

    ``span_id`` is None when no span is recorded. A call that nobody waits for is ``ok`` as soon as it was sent.
    """

    id: str
    function_id: str
    caller: str
    worker: str | None
    """Who answers; None: nobody has the function."""
    started_at: int
    duration_ms: float | None = None
    status: Literal["running", "ok", "error"] = "running"
    error: Failure | None = None
    trace_id: str | None = None
    span_id: str | None = None


Listener = Callable[[Record], object]
"""Told of a record when the call begins and when it has ended."""


class Asking(FutureCaller):
    """A caller that learns the record of its call; None: it has none."""

    __slots__ = ("record",)

    def __init__(self) -> None:
        super().__init__()
        self.record: Record | None = None


class Recorder:
    """Records the calls of a bus between :meth:`attach` and :meth:`detach`.

    At most ``keep`` records, the newest ones; with ``payloads`` also what goes in and out. A bus has one recorder.
    """

    def __init__(self, bus: "Bus", *, keep: int = 1000, payloads: bool = False) -> None:
        self.payloads = payloads
        self._bus = bus
        self._keep = keep
        self._kept: dict[str, Recording] = {}
        self._bytes = 0
        self._ids = count(1)
        self._listeners: dict[object, Listener] = {}
        self._users = 0

    # For those who want records

    def attach(self) -> None:
        """Record from now on; until :meth:`detach` was called as often as this."""
        self._users += 1
        self._bus.calls.tap = self

    def detach(self) -> None:
        """Record no longer, unless somebody else still wants it. Calls in progress are followed to their end."""
        self._users -= 1
        if self._users == 0:
            self._bus.calls.tap = None

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell of calls that begin and end; returns what ends this."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def records(self, limit: int) -> list[Record]:
        """Return so many of the records, newest first."""
        return [each.record for each in islice(reversed(self._kept.values()), limit)]

    def find(self, record_id: str) -> "Recording | None":
        """Return a record with payload and result; None when there is none of this id, or none any more."""
        return self._kept.get(record_id)

    # For the bus

    def began(
        self,
        function_id: str,
        data: Json,
        caller: Caller,
        origin: Connection | None,
        traceparent: str | None,
        source: str,
    ) -> "Recording | None":
        """Begin a record, unless the call is not worth one."""
        if not is_recorded(function_id, source):
            return None
        by = _name(origin) if origin is not None else source or ENGINE
        span = Span(
            self._bus,
            f"call {function_id}",
            traceparent,
            "client",
            root=self._root(traceparent),
            function_id=function_id,
            caller=by,
        )
        trace = parse_traceparent(span.traceparent)
        record = Record(
            id=str(next(self._ids)),
            function_id=function_id,
            caller=by[:MAX_NAME],
            worker=None,
            started_at=int(self._bus.clock.time() * 1000),
            trace_id=trace.trace_id if trace is not None else None,
            span_id=trace.span_id if trace is not None and span.traceparent != traceparent else None,
        )
        recording = Recording(self, record, caller, span, self._bus.clock.machine.monotonic())
        if isinstance(caller, Asking):
            caller.record = record
        if self.payloads:
            recording.payload, recording.payload_truncated = _copy(data)
        self._kept[record.id] = recording
        self._count(recording, recording.size)
        return recording

    def _root(self, traceparent: str | None) -> bool | SpanContext:
        """Where a call without a trace begins one: while somebody looks, whatever share is recorded otherwise."""
        spans = self._bus.spans
        if spans is None or parse_traceparent(traceparent) is not None:
            return True
        return spans.new_trace() or False

    # For the recordings

    def seconds_since(self, started: float) -> float:
        """Seconds since a moment of the machine's clock."""
        return self._bus.clock.machine.monotonic() - started

    def owns(self, connection: Connection | None, function_id: str) -> bool:
        """Whether somebody has the function: a worker, or the engine."""
        return connection is not None or self._bus.functions.get(function_id) is not None

    def tell(self, recording: "Recording", result: Json | None = None) -> None:
        """Something about a call has changed; ``result`` is what it returned."""
        if result is not None and self.payloads:
            before = recording.size
            recording.result, recording.result_truncated = _copy(result)
            self._count(recording, recording.size - before)
        for listener in list(self._listeners.values()):
            try:
                listener(recording.record)
            except Exception:
                log.exception("whoever wanted to hear of calls failed")

    def _count(self, recording: "Recording", size: int) -> None:
        if recording.record.id not in self._kept:
            return
        self._bytes += size
        while len(self._kept) > self._keep or self._bytes > MAX_BYTES:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._bytes -= oldest.size


class Recording(Watched):
    """One call on its way, and what is kept of it: payload and result as raw JSON, None when absent or too large."""

    __slots__ = (
        "_caller",
        "_recorder",
        "_span",
        "_started",
        "payload",
        "payload_truncated",
        "record",
        "result",
        "result_truncated",
    )

    def __init__(self, recorder: Recorder, record: Record, caller: Caller, span: Span, started: float) -> None:
        self.record = record
        self.traceparent = span.traceparent
        self.payload: bytes | None = None
        self.payload_truncated = False
        self.result: bytes | None = None
        self.result_truncated = False
        self._recorder = recorder
        self._caller = caller
        self._span = span
        self._started = started

    @property
    def size(self) -> int:
        """Bytes of payload and result that are kept."""
        return len(self.payload or b"") + len(self.result or b"")

    # As the bus sees it

    def chosen(self, connection: Connection | None) -> None:
        """Somebody has the function, or nobody."""
        if self._recorder.owns(connection, self.record.function_id):
            self.record.worker = ENGINE if connection is None else _name(connection)[:MAX_NAME]
            self._recorder.tell(self)

    def refused(self, error: BusError) -> None:
        """The call was not made."""
        self._end(error)

    def sent(self) -> None:
        """Nothing more will be heard of the call."""
        self._end(None)

    def abandoned(self) -> None:
        """Nobody waits any more."""
        self._end(ABANDONED)

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        """The worker has answered."""
        try:
            self._caller.answered(call, message, frame)
        finally:
            failed = not is_null(message.error)
            self._end(error_of(message) if failed else None, None if failed else message.result)

    def returned(self, call: Call, result: bytes | None) -> None:
        """The engine has answered."""
        try:
            self._caller.returned(call, result)
        finally:
            self._end(None, result)

    def failed(self, call: Call, error: BusError) -> None:
        """There will be no answer."""
        try:
            self._caller.failed(call, error)
        finally:
            self._end(error)

    def _end(self, error: BusError | None, result: Json | None = None) -> None:
        record = self.record
        if record.status != "running":
            return
        self._caller = NOBODY
        record.duration_ms = round(self._recorder.seconds_since(self._started) * 1000, 3)
        record.status = "ok" if error is None else "error"
        if error is not None:
            # Errors of connections name the URL, which holds a worker's token.
            record.error = Failure(error.code[:MAX_NAME], redacted(error.message[:MAX_ERROR]))
        text = None if record.error is None else f"{record.error.code}: {record.error.message}"
        self._span.end(text, {} if record.worker is None else {"worker": record.worker})
        self._recorder.tell(self, result)


def _name(connection: Connection) -> str:
    return connection.about.name or connection.peer.subject or connection.id


def _copy(data: Json) -> tuple[bytes | None, bool]:
    """Return a copy of raw JSON, and whether it was too large for one."""
    size = len(memoryview(data))
    if size > MAX_PAYLOAD:
        return None, True
    return bytes(data) if size else None, False
