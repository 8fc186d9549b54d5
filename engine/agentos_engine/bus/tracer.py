"""Spans of the calls of workers: between the span of whoever calls and that of the handler."""

from random import random
from typing import TYPE_CHECKING

import msgspec
from agentos_contracts.redaction import redacted

from agentos_engine.bus.invocations import NOBODY, error_of
from agentos_engine.bus.spans import UNTRACED, Span, Spans
from agentos_engine.bus.tap import Watched
from agentos_engine.protocol.messages import ABSENT, is_null

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus
    from agentos_engine.bus.connection import Connection
    from agentos_engine.bus.errors import BusError
    from agentos_engine.bus.invocations import Call, Caller
    from agentos_engine.protocol.frames import Json
    from agentos_engine.protocol.messages import Message

MAX_NAME = 200
"""Characters of a worker's name that a span keeps."""
MAX_ERROR = 2000
"""Characters of an error that are looked through for tokens; a span keeps fewer."""
_SAMPLED = frozenset((b"1", b"3", b"5", b"7", b"9", b"b", b"d", b"f"))
"""Last digits of the flags of a traceparent that say that the trace is recorded."""


class Tracer:
    """Decides which calls of workers get a span, and makes it. A call that gets none costs 0.1 µs."""

    def __init__(self, bus: "Bus", spans: Spans) -> None:
        self._bus = bus
        self._spans = spans
        self._ratio = spans.root_ratio
        self._parent_based = spans.parent_based

    def samples(self, traceparent: msgspec.Raw) -> bool:
        """Whether a call with this field may get a span; without a trace this is the draw, and must be so only once."""
        if traceparent is ABSENT or is_null(traceparent):
            return self._ratio is None or random() < self._ratio  # noqa: S311 - nothing secret hangs on it
        return not self._parent_based or bytes(memoryview(traceparent)[-2:-1]) in _SAMPLED

    def began(
        self,
        function_id: str,
        data: "Json",
        caller: "Caller",
        origin: "Connection | None",
        traceparent: str | None,
        source: str,
    ) -> "CallSpan | None":
        """Begin the span of a call that :meth:`samples` has said yes to; None: none is recorded after all."""
        if function_id.startswith(UNTRACED):
            return None
        drawn = traceparent is None and self._ratio is not None
        context = self._spans.new_trace() if drawn else self._spans.sample(f"call {function_id}", traceparent)
        if context is None:
            return None
        by = name_of(origin) if origin is not None else source
        span = Span(
            self._bus,
            f"call {function_id}",
            traceparent,
            "server",
            root=context,
            function_id=function_id,
            caller=by,
        )
        return CallSpan(caller, span)


class CallSpan(Watched):
    """One call with a span: its parent is the caller's, and what the worker gets is the span's."""

    __slots__ = ("_caller", "_span", "_worker")

    def __init__(self, caller: "Caller", span: Span) -> None:
        self.traceparent = span.traceparent
        self._caller = caller
        self._span = span
        self._worker = ""

    def chosen(self, connection: "Connection | None") -> None:
        """Somebody has the function, or the engine."""
        if connection is not None:
            self._worker = name_of(connection)

    def refused(self, error: "BusError") -> None:
        """The call was not made."""
        self._end(error)

    def sent(self) -> None:
        """Nothing more will be heard of the call."""
        self._end(None)

    def abandoned(self) -> None:
        """Nobody waits any more."""
        self._caller = NOBODY
        self._finish("abandoned: whoever made the call went away, or waits for the answer no longer")

    def answered(self, call: "Call", message: "Message", frame: bytes) -> None:
        """The worker has answered."""
        self._caller.answered(call, message, frame)
        self._end(None if is_null(message.error) else error_of(message))

    def returned(self, call: "Call", result: bytes | None) -> None:
        """The engine has answered."""
        self._caller.returned(call, result)
        self._end(None)

    def failed(self, call: "Call", error: "BusError") -> None:
        """There will be no answer."""
        self._caller.failed(call, error)
        self._end(error)

    def _end(self, error: "BusError | None") -> None:
        self._finish(None if error is None else redacted(f"{error.code}: {error.message[:MAX_ERROR]}"))

    def _finish(self, error: str | None) -> None:
        self._span.end(error, {"worker": self._worker} if self._worker else {})


def name_of(connection: "Connection") -> str:
    """What people call the worker at a connection."""
    return (connection.about.name or connection.peer.subject or connection.id)[:MAX_NAME]
