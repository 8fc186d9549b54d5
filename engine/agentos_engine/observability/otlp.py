"""OTLP/JSON as SDKs send it: taken apart without decoding more than is needed, and turned into plain JSON values.

Keys are camelCase, ids hex, 64-bit numbers text or numbers. One bad entry never spoils the others of its frame.
"""

import functools
import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec

MAX_DEPTH = 16
"""Levels of nested attribute values that are read; what is deeper becomes null."""
MAX_GROUPS = 10_000
"""Resources of a frame, and scopes of a resource, that are read."""
MAX_REPAIRED = 1 << 20
"""Bytes of the largest frame with NaN in it that is read all the same: that takes five times as long."""

_EMPTY = msgspec.Raw(b"{}")
_CACHED = 4096
"""Bytes of the largest resource that is remembered, so that frames of one worker share it."""

_Decoded = TypeVar("_Decoded")


class Scope(msgspec.Struct, frozen=True):
    """The library that made the telemetry."""

    name: str | None = None
    version: str | None = None


class Resource(msgspec.Struct, frozen=True):
    """What made the telemetry. ``raw`` is the OTLP/JSON resource object."""

    service_name: str
    raw: bytes

    def attributes(self) -> dict[str, object]:
        """Return the attributes as plain values."""
        return attributes(_fields(self.raw).get("attributes"))


class _ScopeSpans(msgspec.Struct):
    scope: msgspec.Raw = _EMPTY
    entries: list[msgspec.Raw] | None = msgspec.field(name="spans", default=None)


class _ResourceSpans(msgspec.Struct):
    resource: msgspec.Raw = _EMPTY
    parts: list[_ScopeSpans] | None = msgspec.field(name="scopeSpans", default=None)


class _Spans(msgspec.Struct):
    groups: list[_ResourceSpans] = msgspec.field(name="resourceSpans")


class _ScopeLogs(msgspec.Struct):
    scope: msgspec.Raw = _EMPTY
    entries: list[msgspec.Raw] | None = msgspec.field(name="logRecords", default=None)


class _ResourceLogs(msgspec.Struct):
    resource: msgspec.Raw = _EMPTY
    parts: list[_ScopeLogs] | None = msgspec.field(name="scopeLogs", default=None)


class _Logs(msgspec.Struct):
    groups: list[_ResourceLogs] = msgspec.field(name="resourceLogs")


class _ScopeMetrics(msgspec.Struct):
    scope: msgspec.Raw = _EMPTY
    entries: list[msgspec.Raw] | None = msgspec.field(name="metrics", default=None)


class _ResourceMetrics(msgspec.Struct):
    resource: msgspec.Raw = _EMPTY
    parts: list[_ScopeMetrics] | None = msgspec.field(name="scopeMetrics", default=None)


class _Metrics(msgspec.Struct):
    groups: list[_ResourceMetrics] = msgspec.field(name="resourceMetrics")


class Malformed(Exception):
    """A frame that is not the OTLP/JSON that its kind says."""


Entry = tuple[Resource, Scope, msgspec.Raw]
"""One span, log record or metric with what it belongs to. The raw JSON is a view into its frame."""


def spans(body: bytes) -> Iterator[Entry]:
    """Return the spans of an ``OTLP`` frame. Raises Malformed at once."""
    return _entries(_decode(body, _Spans))


def log_records(body: bytes) -> Iterator[Entry]:
    """Return the records of a ``LOGS`` frame. Raises Malformed at once."""
    return _entries(_decode(body, _Logs))


def metrics(body: bytes) -> Iterator[Entry]:
    """Return the metrics of an ``MTRC`` frame. Raises Malformed at once."""
    return _entries(_decode(body, _Metrics))


def _entries(frame: _Spans | _Logs | _Metrics) -> Iterator[Entry]:
    for group in islice(frame.groups, MAX_GROUPS):
        resource = resource_of(group.resource)
        for part in islice(group.parts or (), MAX_GROUPS):
            scope = _scope_of(part.scope)
            for entry in part.entries or ():
                yield resource, scope, entry


def repaired(body: bytes) -> bytes | None:
    """Return a frame that holds NaN or Infinity, which Python's ``json`` writes and JSON forbids, with null for them.

    None when that is not what is wrong with it, or it is too large.
    """
    if len(body) > MAX_REPAIRED or (b"NaN" not in body and b"Infinity" not in body):
        return None
    try:
        return msgspec.json.encode(json.loads(body, parse_constant=lambda name: None))
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return None


def _decode(body: bytes, form: type[_Decoded]) -> _Decoded:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error


def resource_of(raw: msgspec.Raw | bytes) -> Resource:
    """Return a resource; equal ones share memory."""
    data = bytes(raw)
    return _cached_resource(data) if len(data) <= _CACHED else _resource(data)


def _resource(raw: bytes) -> Resource:
    name = attributes(_fields(raw).get("attributes")).get("service.name")
    return Resource(name if isinstance(name, str) and name else "unknown", raw)


_cached_resource = functools.lru_cache(maxsize=256)(_resource)


def _scope_of(raw: msgspec.Raw) -> Scope:
    data = bytes(raw)
    return _cached_scope(data) if len(data) <= _CACHED else Scope()


@functools.lru_cache(maxsize=256)
def _cached_scope(raw: bytes) -> Scope:
    fields = _fields(raw)
    return Scope(text(fields.get("name")) or None, text(fields.get("version")) or None)


def _fields(raw: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def fields(raw: msgspec.Raw | bytes) -> dict[str, Any]:
    """Return a JSON object; empty for anything else."""
    return _fields(bytes(raw))


# Values


def text(value: object) -> str:
    """Return a text, or the empty one for anything else."""
    return value if isinstance(value, str) else ""


def nanoseconds(value: object) -> int:
    """Return a time in nanoseconds since 1970, given as a number or as its text; 0 when it is neither."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    return 0


def number(value: object) -> int | float | None:
    """Return a number that JSON can hold, given as one or as its text; else None."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None


def attributes(pairs: object) -> dict[str, object]:
    """Return OTLP key and value objects as a dict of plain values."""
    if not isinstance(pairs, list):
        return {}
    return {text(pair.get("key")): plain(pair.get("value")) for pair in pairs if isinstance(pair, dict)}


def plain(value: object, depth: int = 0) -> object:
    """Return an OTLP AnyValue as a plain value."""
    if depth > MAX_DEPTH or not isinstance(value, dict):
        return value if isinstance(value, str | bool) else number(value)
    for kind, inner in value.items():
        match kind:
            case "stringValue" | "boolValue" | "bytesValue":
                return inner if isinstance(inner, str | bool) else number(inner)
            case "intValue" | "doubleValue":
                converted = number(inner)
                return inner if converted is None and isinstance(inner, str) else converted
            case "arrayValue":
                return [plain(each, depth + 1) for each in _list(inner, "values")]
            case "kvlistValue":
                return {
                    text(each.get("key")): plain(each.get("value"), depth + 1)
                    for each in _list(inner, "values")
                    if isinstance(each, dict)
                }
    return None


def any_value(value: object, depth: int = 0) -> dict[str, object]:
    """Return a plain JSON value as an OTLP AnyValue; what is too deep becomes its JSON text."""
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple) and depth < MAX_DEPTH:
        return {"arrayValue": {"values": [any_value(each, depth + 1) for each in value]}}
    if isinstance(value, dict) and depth < MAX_DEPTH:
        return {"kvlistValue": {"values": key_values(value, depth + 1)}}
    return {} if value is None else {"stringValue": as_text(value)}


def key_values(values: dict[str, Any], depth: int = 0) -> list[dict[str, object]]:
    """Return a dict as OTLP key and value objects."""
    return [{"key": key, "value": any_value(value, depth)} for key, value in values.items()]


def as_text(value: object) -> str:
    """Return a text as it is, anything else as its JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _list(value: object, key: str) -> list[Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else []
