"""Log entries in memory, from workers' telemetry and from the functions ``engine::log::*``."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
from agentos_contracts.redaction import redacted_bytes

from agentos_engine.clock import Clock
from agentos_engine.observability import otlp
from agentos_engine.observability.otlp import Resource, Scope
from agentos_engine.observability.trace_context import hex_id

MAX_BYTES = 64 << 20
"""Bytes that all entries together may take."""

SEVERITIES = {"trace": 1, "debug": 5, "info": 9, "warn": 13, "error": 17}
"""The severity number with which each level begins; ``error`` includes what is worse."""
_LEVELS = ("trace", "debug", "info", "warn", "error", "error")
_OVERHEAD = 400


class LogEntry(msgspec.Struct, gc=False):
    """One entry. ``stored`` is its JSON as queries and triggers give it; ``at`` is when it came, seconds since 1970."""

    at: float
    timestamp: int
    severity: int
    level: str
    service_name: str
    trace_id: str | None
    span_id: str | None
    stored: bytes

    @property
    def size(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.stored) + _OVERHEAD


class LogRecord(msgspec.Struct, kw_only=True):
    """An entry as it is stored. Times are nanoseconds since 1970, ids hex."""

    timestamp_unix_nano: int
    observed_timestamp_unix_nano: int
    severity_number: int
    severity_text: str
    body: str
    attributes: dict[str, Any]
    trace_id: str | None
    span_id: str | None
    resource: dict[str, Any]
    service_name: str
    instrumentation_scope_name: str | None = None
    instrumentation_scope_version: str | None = None

    @property
    def level(self) -> str:
        """Return the level that its severity number stands for."""
        return level_of(self.severity_number)

    def entry(self, at: float) -> LogEntry:
        """Return it ready for the store."""
        return LogEntry(
            at=at,
            timestamp=self.timestamp_unix_nano,
            severity=self.severity_number,
            level=self.level,
            service_name=self.service_name,
            trace_id=self.trace_id,
            span_id=self.span_id,
            stored=redacted_bytes(msgspec.json.encode(self)),
        )


def level_of(severity: int) -> str:
    """Return the level of a severity number; ``info`` for one that says nothing."""
    return _LEVELS[(severity - 1) // 4] if 1 <= severity <= 24 else "info"


def read_record(resource: Resource, scope: Scope, raw: msgspec.Raw, now: float) -> LogRecord | None:
    """Return an entry from its OTLP/JSON record, or None for one that is no JSON object.

    ``now``, seconds since 1970, stands in for times that are missing.
    """
    fields = otlp.fields(raw)
    if not fields:
        return None
    attributes = otlp.attributes(fields.get("attributes"))
    service = attributes.get("service.name")
    observed = otlp.nanoseconds(fields.get("observedTimeUnixNano")) or int(now * 1e9)
    severity, name = otlp.number(fields.get("severityNumber")), otlp.text(fields.get("severityText"))
    if not isinstance(severity, int) or not 1 <= severity <= 24:
        severity = SEVERITIES.get(_level_named(name), 9)
    return LogRecord(
        timestamp_unix_nano=otlp.nanoseconds(fields.get("timeUnixNano")) or observed,
        observed_timestamp_unix_nano=observed,
        severity_number=severity,
        severity_text=name or level_of(severity).upper(),
        body=otlp.as_text(otlp.plain(fields.get("body")) if fields.get("body") is not None else ""),
        attributes=attributes,
        trace_id=hex_id(fields.get("traceId"), 32),
        span_id=hex_id(fields.get("spanId"), 16),
        resource=resource.attributes(),
        service_name=service if isinstance(service, str) and service else resource.service_name,
        instrumentation_scope_name=scope.name,
        instrumentation_scope_version=scope.version,
    )


def _level_named(name: str) -> str:
    lower = name.lower()
    return {"warning": "warn", "fatal": "error", "critical": "error"}.get(lower, lower)


class LogStore:
    """The newest entries: at most ``max_count`` of them, none older than ``retention`` seconds."""

    def __init__(self, clock: Clock, max_count: int, retention: float) -> None:
        self.max_count = max_count
        self.retention = retention
        self.bytes = 0
        self._clock = clock
        self._ring: deque[LogEntry] = deque()

    def __len__(self) -> int:
        self._expire()
        return len(self._ring)

    def __iter__(self) -> Iterator[LogEntry]:
        self._expire()
        return iter(self._ring)

    def add(self, entry: LogEntry) -> None:
        """Keep an entry."""
        self._ring.append(entry)
        self.bytes += entry.size
        self._expire()
        while len(self._ring) > self.max_count or self.bytes > MAX_BYTES:
            self._evict()

    def clear(self) -> int:
        """Forget all entries and return how many there were."""
        count = len(self._ring)
        self._ring.clear()
        self.bytes = 0
        return count

    def _expire(self) -> None:
        oldest = self._clock.time() - self.retention
        while self._ring and self._ring[0].at < oldest:
            self._evict()

    def _evict(self) -> None:
        self.bytes -= self._ring.popleft().size
