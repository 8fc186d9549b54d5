"""Queries on telemetry: ``engine::traces|metrics|logs|sampling|health|alerts|rollups::*``.

Times in queries and ``timestamp`` are milliseconds since 1970, those in spans, entries and points nanoseconds. Filters
that are left out or null let all through. ``limit`` is at most :data:`MAX_PAGE`; a page is also ended by
:data:`MAX_PAGE_BYTES`, so the next one begins at ``offset`` plus the number of rows that came. A trace's tree holds no
more than these bytes either, the spans that came first.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agentos_engine import __version__
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, Functions, Handler, decode, decode_optional
from agentos_engine.observability.config import AlertRule
from agentos_engine.observability.filters import (
    LogsList,
    MetricsList,
    RollupsList,
    TraceFilter,
    TracesGroupBy,
    TracesList,
    TraceTree,
    nanoseconds,
)
from agentos_engine.observability.logs import LogStore
from agentos_engine.observability.metrics import MetricStore, aggregate, stored_series
from agentos_engine.observability.spans import Span, SpanStore, attributes_of, stored_span, tree

if TYPE_CHECKING:
    from agentos_engine.observability.module import Observability

MAX_PAGE = 1000
"""Rows of one answer."""
MAX_PAGE_BYTES = 16 << 20
"""Bytes after which a page ends, measured before encoding."""
MAX_TRACE_IDS = 100
"""Ids of traces given for each group of ``engine::traces::group_by``."""
SLICE = 500
"""Rows looked at before others get their turn."""

INTERVALS = (60, 300, 3600)
"""Seconds of the rollup levels 0, 1 and 2."""
_END_OF_TIME = 1 << 63

_Row = TypeVar("_Row")


def install(functions: Functions, module: "Observability") -> list[str]:
    """Add the functions and return their ids."""
    queries = _Queries(module)
    table: tuple[tuple[str, Handler, str], ...] = (
        ("engine::traces::list", queries.traces_list, "List spans"),
        ("engine::traces::tree", queries.traces_tree, "Return the spans of a trace, nested"),
        ("engine::traces::group_by", queries.traces_group_by, "Count traces and spans by an attribute"),
        ("engine::traces::clear", queries.traces_clear, "Forget all spans"),
        ("engine::logs::list", queries.logs_list, "List log entries"),
        ("engine::logs::clear", queries.logs_clear, "Forget all log entries"),
        ("engine::metrics::list", queries.metrics_list, "Return the engine's counts and the metrics of workers"),
        ("engine::rollups::list", queries.rollups_list, "Return the metrics of workers summed up over time"),
        ("engine::sampling::rules", queries.sampling_rules, "Return how the engine's own spans are sampled"),
        ("engine::health::check", queries.health_check, "Return whether telemetry works"),
        ("engine::alerts::list", queries.alerts_list, "List alert rules and their states"),
        ("engine::alerts::evaluate", queries.alerts_evaluate, "Evaluate all alert rules now"),
    )
    for function_id, handler, description in table:
        functions.add(function_id, handler, description)
    return [function_id for function_id, _, _ in table]


class _Queries:
    def __init__(self, module: "Observability") -> None:
        self._module = module

    # Traces

    async def traces_list(self, context: Context, data: bytes) -> object:
        query = decode_optional(context.function_id, data, TracesList)
        found = [span async for span in _sliced(self._candidates(query)) if query.matches(span)]
        keys = {"duration": lambda span: span.duration, "name": lambda span: span.name}
        key = keys.get(query.sort_by or "", lambda span: span.start)
        found.sort(key=key, reverse=query.sort_order == "desc")
        offset, limit = _page(query.offset, query.limit, 100)
        rows, size = [], 0
        async for span in _sliced(found[offset : offset + limit]):
            size += len(span.raw)
            if rows and size > MAX_PAGE_BYTES:
                break
            rows.append(stored_span(span))
        return {"spans": rows, "total": len(found), "offset": offset, "limit": limit}

    async def traces_tree(self, context: Context, data: bytes) -> object:
        trace_id = decode(context.function_id, data, TraceTree).trace_id.lower()
        spans, size = {}, 0
        async for span in _sliced(self._spans().trace(trace_id)):
            size += len(span.raw)
            if size > MAX_PAGE_BYTES:
                break
            spans[span.span_id] = stored_span(span)  # of a span that came twice the newer counts
        return {"roots": tree(spans)}

    async def traces_group_by(self, context: Context, data: bytes) -> object:
        query = decode(context.function_id, data, TracesGroupBy)
        groups: dict[str, _Group] = {}
        async for span in _sliced(self._candidates(query)):
            if query.matches(span) and (value := _group_value(span, query.attribute)) is not None:
                groups.setdefault(value, _Group(value)).add(span)
        offset, limit = _page(query.offset, query.limit, 100)
        ordered = sorted(groups.values(), key=lambda group: group.end, reverse=True)
        rows = [group.row() for group in ordered[offset : offset + limit]]
        return {"groups": rows, "total": len(ordered), "offset": offset, "limit": limit}

    def traces_clear(self, context: Context, data: bytes) -> object:
        return {"success": True, "cleared": self._spans().clear()}

    def _candidates(self, query: TraceFilter) -> list[Span]:
        spans = self._spans()
        return list(spans) if query.trace_id is None else spans.trace(query.trace_id.lower())

    def _spans(self) -> SpanStore:
        return _kept(self._module.spans, "spans", "exporter")

    # Logs

    async def logs_list(self, context: Context, data: bytes) -> object:
        query = decode_optional(context.function_id, data, LogsList)
        found = [entry async for entry in _sliced(list(self._logs())) if query.matches(entry)]
        if query.sort_order == "desc":
            found.reverse()
        offset, limit = _page(query.offset, query.limit, MAX_PAGE)
        rows, size = [], 0
        for entry in found[offset : offset + limit]:
            size += len(entry.stored)
            if rows and size > MAX_PAGE_BYTES:
                break
            rows.append(msgspec.Raw(entry.stored))
        return {"logs": rows, "total": len(found), "query": query, "timestamp": self._now()}

    def logs_clear(self, context: Context, data: bytes) -> object:
        return {"success": True, "cleared": self._logs().clear()}

    def _logs(self) -> LogStore:
        return _kept(self._module.logs, "log entries", "logs_exporter")

    # Metrics

    async def metrics_list(self, context: Context, data: bytes) -> object:
        query = decode_optional(context.function_id, data, MetricsList)
        start, end = nanoseconds(query.start_time, 0), nanoseconds(query.end_time, _END_OF_TIME)
        series = self._series(query.metric_name)
        stored = [row async for each in _sliced(series, 50) if (row := stored_series(each, start, end)) is not None]
        answer: dict[str, object] = {
            "engine_metrics": self._engine_metrics(),
            "sdk_metrics": stored,
            "timestamp": self._now(),
        }
        if query.aggregate_interval is not None:
            interval = query.aggregate_interval
            answer["aggregated_metrics"] = [
                row async for each in _sliced(series, 50) for row in aggregate(each, start, end, interval)
            ]
        if query != MetricsList():
            answer["query"] = query
        return answer

    async def rollups_list(self, context: Context, data: bytes) -> object:
        query = decode_optional(context.function_id, data, RollupsList)
        start, end = nanoseconds(query.start_time, 0), nanoseconds(query.end_time, _END_OF_TIME)
        level = query.level or 0
        values, histograms = [], []
        async for series in _sliced(self._series(query.metric_name), 50):
            (values if series.kind in ("gauge", "sum") else histograms).extend(
                aggregate(series, start, end, INTERVALS[level])
            )
        return {
            "rollups": values,
            "histogram_rollups": histograms,
            "level": level,
            "query": query,
            "timestamp": self._now(),
        }

    def _series(self, name: str | None) -> list[Any]:
        points = self._module.points
        return [series for series in points if name in (None, series.name)] if points is not None else []

    def _engine_metrics(self) -> dict[str, object]:
        metrics = self._module.metrics
        counters = metrics.counters()
        by_function = {function_id: sum(counts.values()) for function_id, counts in metrics.by_function().items()}
        return {
            "invocations": {
                "total": counters.total,
                "success": counters.success,
                "error": counters.error,
                "deferred": counters.deferred,
                "by_function": by_function,
            },
            "workers": {"spawns": counters.spawns, "deaths": counters.deaths, "active": counters.active},
            "performance": metrics.performance(),
        }

    # The rest

    def sampling_rules(self, context: Context, data: bytes) -> object:
        config = self._module.config
        sampling = config.sampling
        return {
            "sampling_ratio": config.sampling_ratio,
            "default": config.sampling_ratio if sampling.default is None else sampling.default,
            "rules": sampling.rules,
            "parent_based": sampling.parent_based,
            "rate_limit": sampling.rate_limit,
        }

    def health_check(self, context: Context, data: bytes) -> object:
        module = self._module
        exporter, spans, logs, points = module.exporter, module.spans, module.logs, module.points
        components = {
            "otel": _component(
                module.config.enabled,
                {
                    "exporter": module.config.exporter,
                    "endpoint": exporter.endpoint if exporter is not None else None,
                    "exported": exporter.exported if exporter is not None else 0,
                    "export_dropped": exporter.dropped if exporter is not None else 0,
                    "received": module.ingested,
                },
                exporter.problem if exporter is not None else None,
            ),
            "metrics": _component(points is not None, _points_details(points)),
            "logs": _component(
                logs is not None,
                {"stored": len(logs), "bytes": logs.bytes, "max_count": logs.max_count} if logs is not None else {},
            ),
            "spans": _component(
                spans is not None,
                {
                    "stored": len(spans),
                    "max_spans": spans.max_spans,
                    "bytes": spans.bytes,
                    "max_bytes": spans.max_bytes,
                    "evicted": spans.evicted,
                }
                if spans is not None
                else {},
            ),
        }
        degraded = any(component["status"] == "degraded" for component in components.values())
        return {
            "status": "degraded" if degraded else "healthy",
            "components": components,
            "timestamp": self._now(),
            "version": __version__,
        }

    def alerts_list(self, context: Context, data: bytes) -> object:
        alerts = self._module.alerts
        rules: list[AlertRule] = alerts.rules()
        return {"alerts": alerts.states(), "rules": rules, "firing_count": alerts.firing}

    def alerts_evaluate(self, context: Context, data: bytes) -> object:
        return {"evaluated": True, "triggered_alerts": self._module.alerts.evaluate(), "timestamp": self._now()}

    def _now(self) -> int:
        return int(self._module.bus.clock.time() * 1000)


class _Group:
    """Traces that have one value of an attribute in common."""

    __slots__ = ("end", "errors", "spans", "start", "traces", "value")

    def __init__(self, value: str) -> None:
        self.value = value
        self.spans = 0
        self.errors = 0
        self.start = _END_OF_TIME
        self.end = 0
        self.traces: dict[str, None] = {}

    def add(self, span: Span) -> None:
        self.spans += 1
        self.errors += span.status == "error"
        self.start, self.end = min(self.start, span.start), max(self.end, span.end)
        self.traces[span.trace_id] = None

    def row(self) -> dict[str, object]:
        return {
            "value": self.value,
            "trace_count": len(self.traces),
            "span_count": self.spans,
            "error_count": self.errors,
            "start_time_unix_nano": self.start,
            "end_time_unix_nano": self.end,
            "trace_ids": list(self.traces)[-MAX_TRACE_IDS:],
        }


def _group_value(span: Span, attribute: str) -> str | None:
    if attribute in ("service_name", "name", "status"):
        return getattr(span, attribute)
    return attributes_of(span).get(attribute)


async def _sliced(rows: Iterable[_Row], size: int = SLICE) -> AsyncIterator[_Row]:
    """Go through rows, giving others their turn after every ``size`` of them."""
    for count, row in enumerate(rows, 1):
        yield row
        if count % size == 0:
            await asyncio.sleep(0)


def _kept(store: _Row | None, what: str, key: str) -> _Row:
    if store is None:
        raise BusError(
            "memory_exporter_not_enabled",
            f"{what} are not kept in memory; set `{key}: memory` or `both` for iii-observability in config.yaml",
        )
    return store


def _page(offset: int | None, limit: int | None, default: int) -> tuple[int, int]:
    return offset or 0, min(default if limit is None else limit, MAX_PAGE)


def _component(on: bool, details: dict[str, object], problem: str | None = None) -> dict[str, Any]:
    status = "disabled" if not on else "healthy" if problem is None else "degraded"
    return {"status": status, "details": details if problem is None else details | {"problem": problem}}


def _points_details(points: MetricStore | None) -> dict[str, object]:
    if points is None:
        return {}
    return {"points": len(points), "series": points.series, "max_count": points.max_count}
