"""The inputs of the query functions, and what their filters let through.

Times are milliseconds since 1970. A filter that is left out or null lets all through.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agentos_engine.observability import otlp
from agentos_engine.observability.logs import LogEntry
from agentos_engine.observability.spans import Span, attributes_of

Milliseconds = Annotated[float, Meta(ge=0, le=1e15)] | None
Offset = Annotated[int, Meta(ge=0)] | None

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")
"""Characters that every JSON writer leaves as they are."""


class TraceFilter(msgspec.Struct, kw_only=True):
    """Which spans. Texts match any part of the span's, whatever the case; only ``trace_id`` is exact.

    ``search`` looks in name, service, trace id and attributes; ``attributes`` are [key, value] pairs that must all be
    there; ``start_time`` and ``end_time`` bound the start; spans about the engine's own functions are left out unless
    ``include_internal``.
    """

    trace_id: str | None = None
    service_name: str | None = None
    name: str | None = None
    status: str | None = None
    min_duration_ms: Milliseconds = None
    max_duration_ms: Milliseconds = None
    start_time: Milliseconds = None
    end_time: Milliseconds = None
    search: str | None = None
    attributes: list[tuple[str, Any]] | None = None
    include_internal: bool | None = False

    def matches(self, span: Span) -> bool:
        """Return whether a span passes."""
        return (
            (self.trace_id is None or span.trace_id == self.trace_id.lower())
            and (self.include_internal or not span.internal)
            and _within(span.start, self.start_time, self.end_time)
            and _within(span.duration, self.min_duration_ms, self.max_duration_ms)
            and _part(self.service_name, span.service_name)
            and _part(self.name, span.name)
            and _part(self.status, span.status)
            and self._has_attributes(span)
            and self._is_found(span)
        )

    def _has_attributes(self, span: Span) -> bool:
        if not self.attributes:
            return True
        for key, _ in self.attributes:
            if _PLAIN.issuperset(key) and key.encode() not in span.raw:
                return False  # spares taking the span apart
        attributes = attributes_of(span)
        return all(attributes.get(key) == otlp.as_text(value) for key, value in self.attributes)

    def _is_found(self, span: Span) -> bool:
        if not self.search:
            return True
        return any(_part(self.search, text) for text in (span.name, span.service_name, span.trace_id)) or any(
            _part(self.search, text) for pair in attributes_of(span).items() for text in pair
        )


class TracesList(TraceFilter, kw_only=True):
    """Input of ``engine::traces::list``."""

    sort_by: Literal["start_time", "duration", "name"] | None = "start_time"
    sort_order: Literal["asc", "desc"] | None = "asc"
    offset: Offset = 0
    limit: Offset = 100


class TracesGroupBy(TraceFilter, kw_only=True):
    """Input of ``engine::traces::group_by``: ``attribute`` is that of spans, or ``service_name``, ``name``, ``status``."""

    attribute: str
    offset: Offset = 0
    limit: Offset = 100


class TraceTree(msgspec.Struct):
    """Input of ``engine::traces::tree``."""

    trace_id: str


class LogsList(msgspec.Struct, omit_defaults=True):
    """Input of ``engine::logs::list``: ``severity_min`` is a number from 1 to 24, ``level`` one of the five levels."""

    start_time: Milliseconds = None
    end_time: Milliseconds = None
    trace_id: str | None = None
    span_id: str | None = None
    severity_min: int | None = None
    severity_text: str | None = None
    level: str | None = None
    service_name: str | None = None
    search: str | None = None
    sort_order: Literal["asc", "desc"] | None = None
    offset: Offset = None
    limit: Offset = None

    def matches(self, entry: LogEntry) -> bool:
        """Return whether an entry passes."""
        return (
            (self.trace_id is None or entry.trace_id == self.trace_id.lower())
            and (self.span_id is None or entry.span_id == self.span_id.lower())
            and (self.severity_min is None or entry.severity >= self.severity_min)
            and (self.level is None or self.level.lower() in ("all", entry.level))
            and _within(entry.timestamp, self.start_time, self.end_time)
            and _part(self.service_name, entry.service_name)
            and self._has_text(entry)
        )

    def _has_text(self, entry: LogEntry) -> bool:
        if self.severity_text is None and not self.search:
            return True
        stored = msgspec.json.decode(entry.stored, type=_LogTexts)
        return (self.severity_text is None or self.severity_text.lower() == stored.severity_text.lower()) and (
            _part(self.search, stored.body) or _part(self.search, bytes(stored.attributes).decode())
        )


class _LogTexts(msgspec.Struct):
    severity_text: str
    body: str
    attributes: msgspec.Raw


class MetricsList(msgspec.Struct, omit_defaults=True):
    """Input of ``engine::metrics::list``; with ``aggregate_interval`` (seconds) the points are summed up as well."""

    start_time: Milliseconds = None
    end_time: Milliseconds = None
    metric_name: str | None = None
    aggregate_interval: Annotated[float, Meta(ge=1, le=1e9)] | None = None


class RollupsList(msgspec.Struct, omit_defaults=True):
    """Input of ``engine::rollups::list``: ``level`` 0 is by minutes, 1 by five minutes, 2 by hours."""

    start_time: Milliseconds = None
    end_time: Milliseconds = None
    level: Annotated[int, Meta(ge=0, le=2)] | None = None
    metric_name: str | None = None


def _part(wanted: str | None, text: str) -> bool:
    return not wanted or wanted.lower() in text.lower()


def _within(value: int, least: float | None, most: float | None) -> bool:
    return nanoseconds(least, value) <= value <= nanoseconds(most, value)


def nanoseconds(milliseconds: float | None, default: int) -> int:
    """Return milliseconds in nanoseconds, exact to the microsecond."""
    return default if milliseconds is None else round(milliseconds * 1000) * 1000
