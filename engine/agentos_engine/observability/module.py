"""The module: takes telemetry in, keeps it, passes it on, and serves the functions and triggers on it."""

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec

from agentos_engine.builtins import log as log_functions
from agentos_engine.builtins import observability as query_functions
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection
from agentos_engine.observability import otlp
from agentos_engine.observability.alerts import Alerts
from agentos_engine.observability.call_metrics import CallMetrics
from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.exporter import Exporter, PostJson
from agentos_engine.observability.logs import LogEntry, LogRecord, LogStore, read_record
from agentos_engine.observability.metrics import MetricStore
from agentos_engine.observability.sampling import sampled
from agentos_engine.observability.spans import MAX_NAME, Span, SpanStore, is_internal, read_span
from agentos_engine.observability.trace_context import SpanContext, new_id, parse_traceparent
from agentos_engine.token_bucket import TokenBucket
from agentos_engine.triggers.log import Firings, LogTrigger, TraceTrigger

log = logging.getLogger(__name__)
worker_log = logging.getLogger("agentos_engine.worker_log")
"""Where the entries of workers are printed."""

MAX_FRAME = 4 << 20
"""Bytes of the largest telemetry frame that is read."""
MAX_ENTRIES = 10_000
"""Spans, log records or metric points that are read of one frame; SDKs send about 500."""
MAX_PRINTED = 4096
"""Characters of a log message, and of its attributes as JSON, that are printed."""

_SCOPE = otlp.Scope("agentos-engine")
_PYTHON_LEVELS = {"trace": 10, "debug": 10, "info": 20, "warn": 30, "error": 40}
_OK: dict[str, object] = {"code": 1}
_SPAN_KINDS = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}


class _Made(msgspec.Struct, rename="camel", gc=False):
    """A span of the engine as OTLP/JSON."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: msgspec.Raw | list[object]
    status: dict[str, object]
    parent_span_id: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(slots=True)
class Ingested:
    """What came since the start."""

    frames: int = 0
    malformed: int = 0
    """Frames that were not OTLP/JSON."""
    too_large: int = 0
    entries: int = 0
    dropped: int = 0
    """Spans, log records and points that could not be read, or were too many for their frame."""


class Observability:
    """All telemetry of one engine.

    ``post_json`` sends a JSON body to a URL, for webhooks and the collector; without it neither works. ``metrics`` is
    what the bus counts.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        config: ObservabilityConfig | None = None,
        metrics: CallMetrics | None = None,
        post_json: PostJson | None = None,
    ) -> None:
        self.config = config = config or ObservabilityConfig()
        self.bus = bus
        self.metrics = metrics or CallMetrics()
        self.ingested = Ingested()
        on = config.enabled
        self.spans: SpanStore | None = None
        """None when spans are not kept in memory; likewise the next two."""
        if on and config.exporter != "otlp":
            self.spans = SpanStore(config.memory_max_spans, config.trace_storage.memory_max_bytes)
        self.logs: LogStore | None = None
        if on and config.logs_enabled and config.logs_exporter != "otlp":
            self.logs = LogStore(bus.clock, config.logs_max_count, config.logs_retention_seconds)
        self.points: MetricStore | None = None
        if on and config.metrics_enabled and config.metrics_exporter != "otlp":
            self.points = MetricStore(bus.clock, config.metrics_max_count, config.metrics_retention_seconds)
        exported = {
            b"OTLP": config.exporter != "memory",
            b"LOGS": config.logs_enabled and config.logs_exporter != "memory",
            b"MTRC": config.metrics_enabled and config.metrics_exporter != "memory",
        }
        self._exported = {kind for kind, wanted in exported.items() if on and wanted}
        self.exporter = Exporter(bus, config.endpoint, post_json) if self._exported else None
        self.alerts = Alerts(bus, self.metrics, config.alerts if on else (), post_json)
        self._firings = firings = Firings(bus)
        self._log_trigger = LogTrigger(firings)
        self._trace_trigger = TraceTrigger(bus, firings)
        limit = config.sampling.rate_limit
        self._trace_bucket = (
            TokenBucket(limit.max_traces_per_second, max(1.0, limit.max_traces_per_second)) if limit else None
        )
        self._resource = _resource_of(config)
        self._log_share = 0.0
        self._warned_at = float("-inf")
        self._function_ids: list[str] = []

    @property
    def firings_dropped(self) -> int:
        """How often a function was not told of a log entry or trace, because it is called too often or hangs."""
        return self._firings.dropped

    async def start(self) -> None:
        """Serve functions and triggers, and begin to evaluate alerts."""
        self._function_ids = [
            *query_functions.install(self.bus.functions, self),
            *log_functions.install(self.bus.functions, self),
        ]
        self.bus.triggers.serve("log", self._log_trigger, "Fires for log entries of a level")
        self.bus.triggers.serve("trace", self._trace_trigger, "Fires for traces of which spans came")
        self.alerts.start()
        if self.exporter is not None and self.exporter.problem is not None:
            log.warning(self.exporter.problem)
        if self.config.trace_storage.enabled:
            log.warning("trace_storage: spans are kept in memory only, not on disk")

    async def stop(self) -> None:
        """Take all that back; telemetry that waits for the collector is sent if that is possible soon."""
        self.alerts.stop()
        for function_id in self._function_ids:
            self.bus.functions.remove(function_id)
        if self._function_ids:
            self.bus.triggers.unserve("log")
            self.bus.triggers.unserve("trace")
        self._function_ids = []
        if self.exporter is not None:
            await self.exporter.stop()

    # In

    def ingest(self, connection: Connection | None, kind: bytes, body: bytes) -> None:
        """Take in a telemetry frame: ``kind`` is OTLP, MTRC or LOGS, ``body`` the OTLP/JSON after it. Never raises.

        ``connection`` is the worker's, None on a socket that carries telemetry alone.
        """
        self.ingested.frames += 1
        if not self.config.enabled:
            return
        if len(body) > MAX_FRAME:
            self.ingested.too_large += 1
            self._warn(connection, f"it has {len(body)} bytes, more than {MAX_FRAME}")
            return
        try:
            try:
                self._ingest(kind, body)
            except otlp.Malformed:
                repaired = otlp.repaired(body)
                if repaired is None:
                    raise
                self._ingest(kind, repaired)
        except otlp.Malformed as error:
            self.ingested.malformed += 1
            self._warn(connection, str(error))
        except Exception:  # what a worker sends must never end its connection
            log.exception("telemetry could not be taken in")

    def _ingest(self, kind: bytes, body: bytes) -> None:
        match kind:
            case b"OTLP":
                self._add_spans(otlp.spans(body))
            case b"LOGS":
                self._add_logs(otlp.log_records(body))
            case b"MTRC":
                self._add_metrics(otlp.metrics(body))
            case _:
                raise otlp.Malformed(f"unknown kind {kind[:8]!r}")
        if kind in self._exported and self.exporter is not None:
            self.exporter.add(kind, body)

    def _add_spans(self, entries: Iterator[otlp.Entry]) -> None:
        came = []
        for resource, scope, raw in self._first(entries):
            span = read_span(resource, scope, raw)
            if span is None:
                self.ingested.dropped += 1
                continue
            came.append(span)
        self._keep_spans(came)

    def _keep_spans(self, came: list[Span]) -> None:
        if self.spans is not None:
            for span in came:
                self.spans.add(span)
        self.ingested.entries += len(came)
        self._trace_trigger.came(came)

    def _add_logs(self, entries: Iterator[otlp.Entry]) -> None:
        if not self.config.logs_enabled:
            return
        now = self.bus.clock.time()
        for resource, scope, raw in self._first(entries):
            record = read_record(resource, scope, raw, now)
            if record is None:
                self.ingested.dropped += 1
                continue
            self.ingested.entries += 1
            self._keep_log(record)

    def _add_metrics(self, entries: Iterator[otlp.Entry]) -> None:
        if self.points is None:
            return
        count, dropped = 0, self.points.dropped
        for resource, scope, raw in self._first(entries):
            count += self.points.add(resource, scope, raw, max(0, MAX_ENTRIES - count))
        dropped = self.points.dropped - dropped
        self.ingested.dropped += dropped
        self.ingested.entries += count - dropped

    def _first(self, entries: Iterator[otlp.Entry]) -> Iterator[otlp.Entry]:
        """Go through the first entries of a frame, and count the others as dropped."""
        yield from islice(entries, MAX_ENTRIES)
        self.ingested.dropped += sum(1 for _ in entries)

    # The engine's own

    def log(self, record: LogRecord, traceparent: str | None = None, connection: Connection | None = None) -> None:
        """Take in an entry that a call made; ``traceparent`` and ``connection`` are those of the call."""
        if not self.config.enabled or not self.config.logs_enabled:
            return
        self._keep_log(record, traceparent, connection)
        if b"LOGS" in self._exported and self.exporter is not None:
            self.exporter.add(b"LOGS", _exported_log(record))

    @property
    def makes_spans(self) -> bool:
        """Whether any span of the engine may be recorded. With all rates 0 none is, whatever a caller has decided."""
        sampling, ratio = self.config.sampling, self.config.sampling_ratio
        default = ratio if sampling.default is None else sampling.default
        return self.config.enabled and (default > 0 or any(rule.rate > 0 for rule in sampling.rules))

    @property
    def root_ratio(self) -> float | None:
        """The share of new traces that is recorded; None: that depends on the span's name."""
        sampling = self.config.sampling
        if sampling.rules:
            return None
        return self.config.sampling_ratio if sampling.default is None else sampling.default

    @property
    def parent_based(self) -> bool:
        """Whether a caller's decision about its trace is followed."""
        return self.config.sampling.parent_based

    def new_trace(self) -> SpanContext | None:
        """Return the beginning of a trace that is to be recorded; None when there were too many of them just now."""
        if self._trace_bucket is not None and not self._trace_bucket.allow(self.bus.clock.machine.monotonic()):
            return None
        ids = new_id(24)
        return SpanContext(ids[:32], ids[32:])

    def sample(self, name: str, traceparent: str | None = None) -> SpanContext | None:
        """Return a place in the caller's trace, or in a new one, for a span of the engine; None: do not record it.

        What the span calls gets the result's ``traceparent``; :meth:`record_span` is to be called at its end.
        """
        config = self.config
        if not config.enabled:
            return None
        parent = parse_traceparent(traceparent)
        trace_id = parent.trace_id if parent is not None else new_id(16)
        if not sampled(config, name, trace_id, parent):
            return None
        if parent is not None:
            return SpanContext(trace_id, new_id(8), parent.span_id)
        if self._trace_bucket is not None and not self._trace_bucket.allow(self.bus.clock.machine.monotonic()):
            return None
        return SpanContext(trace_id, new_id(8))

    def record_span(
        self,
        span: SpanContext,
        name: str,
        *,
        start: float,
        end: float,
        kind: str = "internal",
        attributes: Mapping[str, str | int | float | bool] | None = None,
        error: str | None = None,
    ) -> None:
        """Record a span of the engine: times in seconds since 1970, ``kind`` internal, server, client, producer or
        consumer; ``error`` says why it failed."""
        began, ended = int(start * 1e9), int(end * 1e9)
        raw = msgspec.json.encode(
            _Made(
                span.trace_id,
                span.span_id,
                name,
                _SPAN_KINDS.get(kind, 1),
                str(began),
                str(ended),
                _encoded(tuple(attributes.items()), tuple(map(type, attributes.values()))) if attributes else [],
                _OK if error is None else {"code": 2, "message": error},
                span.parent_span_id or msgspec.UNSET,
            )
        )
        kept = Span(
            trace_id=span.trace_id,
            span_id=span.span_id,
            parent_span_id=span.parent_span_id,
            name=name[:MAX_NAME],
            start=began,
            end=ended,
            status="ok" if error is None else "error",
            internal=is_internal(name, raw),
            resource=self._resource,
            scope=_SCOPE,
            raw=raw,
        )
        self._keep_spans([kept])
        if b"OTLP" in self._exported and self.exporter is not None:
            part = {"scope": {"name": _SCOPE.name}, "spans": [msgspec.Raw(raw)]}
            group = {"resource": msgspec.Raw(self._resource.raw), "scopeSpans": [part]}
            self.exporter.add(b"OTLP", msgspec.json.encode({"resourceSpans": [group]}))

    def _keep_log(
        self, record: LogRecord, traceparent: str | None = None, connection: Connection | None = None
    ) -> None:
        if self.config.logs_console_output:
            _print(record)
        caller = parse_traceparent(traceparent)
        entry: LogEntry = record.entry(self.bus.clock.time())
        for watcher in list(self.bus.log_watchers):
            watcher(entry.stored)
        if self.logs is not None:
            self._log_share += self.config.logs_sampling_ratio
            if self._log_share >= 1:
                self._log_share -= 1
                self.logs.add(entry)
        self._log_trigger.logged(
            entry, caller.trace_id if caller is not None else None, connection if caller is None else None
        )

    def _warn(self, connection: Connection | None, reason: str) -> None:
        now = self.bus.clock.machine.monotonic()
        if now - self._warned_at >= 60:  # a worker that sends garbage must not fill the log
            self._warned_at = now
            worker = connection.about.name if connection is not None else ""
            log.warning("telemetry frame ignored: %s", reason[:500], extra={"worker": worker})


@functools.lru_cache(1024)
def _encoded(attributes: tuple[tuple[str, str | int | float | bool], ...], types: tuple[type, ...]) -> msgspec.Raw:
    """Return attributes as OTLP/JSON; those of a function's calls are mostly the same. 1 and True are equal, hence the types."""
    return msgspec.Raw(msgspec.json.encode(otlp.key_values(dict(attributes))))


def _resource_of(config: ObservabilityConfig) -> otlp.Resource:
    values = {
        "service.name": config.service_name,
        "service.version": config.service_version,
        "service.namespace": config.service_namespace,
    }
    attributes = otlp.key_values({key: value for key, value in values.items() if value is not None})
    return otlp.resource_of(msgspec.json.encode({"attributes": attributes}))


def _exported_log(record: LogRecord) -> bytes:
    fields: dict[str, object] = {
        "timeUnixNano": str(record.timestamp_unix_nano),
        "observedTimeUnixNano": str(record.observed_timestamp_unix_nano),
        "severityNumber": record.severity_number,
        "severityText": record.severity_text,
        "body": {"stringValue": record.body},
        "attributes": otlp.key_values(record.attributes),
    }
    if record.trace_id is not None:
        fields["traceId"] = record.trace_id
    if record.span_id is not None:
        fields["spanId"] = record.span_id
    resource = {"attributes": otlp.key_values({"service.name": record.service_name} | record.resource)}
    scope = {"name": record.instrumentation_scope_name or "agentos-engine"}
    group = {"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": [fields]}]}
    return msgspec.json.encode({"resourceLogs": [group]})


def _print(record: LogRecord) -> None:
    level = _PYTHON_LEVELS[record.level]
    if not worker_log.isEnabledFor(level):
        return
    about = {"service_name": record.service_name, "trace_id": record.trace_id, "span_id": record.span_id}
    extra = {key: value for key, value in about.items() if value is not None}
    if record.attributes:
        extra["data"] = otlp.as_text(record.attributes)[:MAX_PRINTED]
    worker_log.log(level, "%s", record.body[:MAX_PRINTED], extra=extra)
