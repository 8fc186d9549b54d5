"""Metric points in memory: the last ones of each series that workers send."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from agentos_engine.clock import Clock
from agentos_engine.observability import otlp
from agentos_engine.observability.otlp import Resource, Scope

MAX_POINT = 16 << 10
"""Bytes of the largest point that is kept; a histogram with a hundred buckets takes about two thousand."""

MAX_BYTES = 32 << 20
"""Bytes that all points together may take."""

_OVERHEAD = 150
_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")
_TYPES = {"exponentialHistogram": "exponential_histogram"}


class Point(msgspec.Struct, gc=False):
    """One point: ``value`` for gauges and sums; for histograms the rest, ``fields`` being its stored JSON object."""

    at: float
    """When it came, seconds since 1970."""
    timestamp: int
    value: int | float | None = None
    fields: bytes = b""

    @property
    def size(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.fields) + _OVERHEAD


class Series:
    """The points of one metric with one set of attributes from one service."""

    __slots__ = ("attributes", "description", "key", "kind", "name", "points", "scope", "service_name", "unit")

    def __init__(
        self, key: bytes, name: str, kind: str, attributes: dict[str, Any], resource: Resource, scope: Scope
    ) -> None:
        self.key = key
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.service_name = resource.service_name
        self.scope = scope
        self.description = ""
        self.unit = ""
        self.points: deque[Point] = deque()

    def describe(self) -> dict[str, Any]:
        """Return what all its points have in common."""
        return {
            "name": self.name,
            "description": self.description,
            "unit": self.unit,
            "metric_type": self.kind,
            "attributes": self.attributes,
            "service_name": self.service_name,
            "instrumentation_scope_name": self.scope.name,
        }


class MetricStore:
    """At most ``max_count`` points, none older than ``retention`` seconds. A series without points is forgotten."""

    def __init__(self, clock: Clock, max_count: int, retention: float) -> None:
        self.max_count = max_count
        self.retention = retention
        self.dropped = 0
        """Points that could not be read, or were too large."""
        self.bytes = 0
        self._clock = clock
        self._series: dict[bytes, Series] = {}
        self._order: deque[Series] = deque()
        """One entry for each point, oldest first."""

    def __len__(self) -> int:
        self._expire()
        return len(self._order)

    def __iter__(self) -> Iterator[Series]:
        self._expire()
        return iter(self._series.values())

    @property
    def series(self) -> int:
        """Return how many series there are."""
        return len(self._series)

    def add(self, resource: Resource, scope: Scope, raw: msgspec.Raw, limit: int) -> int:
        """Keep the first ``limit`` points of one OTLP/JSON metric and return how many it had."""
        metric = otlp.fields(raw)
        name = otlp.text(metric.get("name"))
        count = 0
        for kind in _KINDS if name else ():
            data = metric.get(kind)
            points = data.get("dataPoints") if isinstance(data, dict) else None
            for point in points if isinstance(points, list) else ():
                count += 1
                if count > limit or not self._add_point(resource, scope, metric, name, kind, point):
                    self.dropped += 1
        return count

    def _add_point(
        self, resource: Resource, scope: Scope, metric: dict[str, Any], name: str, kind: str, fields: object
    ) -> bool:
        point = self._point(kind, fields) if isinstance(fields, dict) else None
        if point is None or not isinstance(fields, dict):
            return False
        attributes = otlp.attributes(fields.get("attributes"))
        key = msgspec.json.encode((name, kind, resource.service_name, sorted(attributes.items(), key=_first)))
        if len(key) + len(point.fields) > MAX_POINT:
            return False
        series = self._series.get(key)
        if series is None:
            kind = _TYPES.get(kind, kind)
            series = self._series[key] = Series(key, name, kind, attributes, resource, scope)
        series.description = otlp.text(metric.get("description"))[:1000]
        series.unit = otlp.text(metric.get("unit"))[:100]
        series.points.append(point)
        self._order.append(series)
        self.bytes += point.size
        self._expire()
        while len(self._order) > self.max_count or self.bytes > MAX_BYTES:
            self._evict()
        return True

    def _point(self, kind: str, fields: dict[str, Any]) -> Point | None:
        now = self._clock.time()
        timestamp = otlp.nanoseconds(fields.get("timeUnixNano")) or int(now * 1e9)
        if kind in ("gauge", "sum"):
            given = fields.get("asDouble")
            value = otlp.number(fields.get("asInt") if given is None else given)
            return None if value is None else Point(now, timestamp, value)
        stored = {
            "count": otlp.number(fields.get("count")) or 0,
            "sum": otlp.number(fields.get("sum")),
            "min": otlp.number(fields.get("min")),
            "max": otlp.number(fields.get("max")),
            "bucket_counts": _numbers(fields.get("bucketCounts")),
            "explicit_bounds": _numbers(fields.get("explicitBounds")),
        }
        return Point(now, timestamp, None, msgspec.json.encode(stored))

    def _expire(self) -> None:
        oldest = self._clock.time() - self.retention
        while self._order and self._order[0].points[0].at < oldest:
            self._evict()

    def _evict(self) -> None:
        series = self._order.popleft()
        self.bytes -= series.points.popleft().size
        if not series.points:
            del self._series[series.key]


def stored_series(series: Series, start: int, end: int) -> dict[str, Any] | None:
    """Return a series with its points from ``start`` to ``end`` (nanoseconds since 1970); None when it has none there."""
    points = [
        {"timestamp_unix_nano": point.timestamp}
        | ({"value": point.value} if point.value is not None else otlp.fields(point.fields))
        for point in series.points
        if start <= point.timestamp <= end
    ]
    return series.describe() | {"data_points": points} if points else None


def aggregate(series: Series, start: int, end: int, interval: float) -> list[dict[str, Any]]:
    """Return the points of a series summed up over intervals of so many seconds, each with ``start_time`` (ms).

    For gauges and sums ``count``, ``sum``, ``avg``, ``min``, ``max``, ``last`` of the values; for histograms the last
    distribution of each interval.
    """
    width = max(1, int(interval * 1e9))
    buckets: dict[int, list[Point]] = {}
    for point in series.points:
        if start <= point.timestamp <= end:
            buckets.setdefault(point.timestamp // width, []).append(point)
    return [
        series.describe()
        | {"start_time": index * width // 1_000_000, "end_time": (index + 1) * width // 1_000_000}
        | _summary(buckets[index])
        for index in sorted(buckets)
    ]


def _summary(points: list[Point]) -> dict[str, Any]:
    values = [point.value for point in points if point.value is not None]
    if not values:
        return otlp.fields(points[-1].fields)
    total = sum(values)
    return {
        "count": len(values),
        "sum": total,
        "avg": total / len(values),
        "min": min(values),
        "max": max(values),
        "last": values[-1],
    }


def _first(pair: tuple[str, object]) -> str:
    return pair[0]


def _numbers(value: object) -> list[int | float]:
    numbers = [otlp.number(each) for each in value] if isinstance(value, list) else []
    return [each for each in numbers if each is not None]
