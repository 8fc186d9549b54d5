"""Spans in memory: the newest ones, as the bytes that came, with an index of what queries ask for most."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from agentos_contracts.redaction import redacted, redacted_bytes

from agentos_engine.observability import otlp
from agentos_engine.observability.otlp import Resource, Scope
from agentos_engine.observability.trace_context import hex_id

MAX_SPAN = 1 << 20
"""Bytes of the largest span that is kept."""
MAX_NAME = 1024
"""Characters kept of a span's name."""
MAX_TREE_DEPTH = 100
"""Levels of a trace's tree; what is deeper hangs at the last level, since JSON parsers refuse very deep nesting."""

_OVERHEAD = 512
"""Bytes that a span takes beside its JSON."""

_STATUS = {0: "unset", 1: "ok", 2: "error", "STATUS_CODE_OK": "ok", "STATUS_CODE_ERROR": "error"}
_INTERNAL_NAME = re.compile(r"(?:.* )?engine(?:::|\.)", re.DOTALL)
_INTERNAL_KIND = b'"iii.function.kind"'


class _Status(msgspec.Struct):
    code: Any = 0


class _Head(msgspec.Struct, rename="camel"):
    """What is read of every span when it comes."""

    trace_id: str
    span_id: str
    name: str = ""
    parent_span_id: Any = None
    start_time_unix_nano: Any = 0
    end_time_unix_nano: Any = 0
    status: _Status | None = None


class Span(msgspec.Struct, gc=False):
    """One span. Times are nanoseconds since 1970; ``raw`` is its OTLP/JSON object."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    start: int
    end: int
    status: str
    internal: bool
    """It is about the engine's own functions."""
    resource: Resource
    scope: Scope
    raw: bytes

    @property
    def service_name(self) -> str:
        """Return the name of the service that made it."""
        return self.resource.service_name

    @property
    def duration(self) -> int:
        """Return how long it took, in nanoseconds; 0 while it has not ended."""
        return max(0, self.end - self.start)

    @property
    def size(self) -> int:
        """Return about how many bytes it takes."""
        return len(self.raw) + _OVERHEAD


def read_span(resource: Resource, scope: Scope, raw: msgspec.Raw) -> Span | None:
    """Return a span from its OTLP/JSON, or None for one without proper ids, or too large to keep."""
    if len(memoryview(raw)) > MAX_SPAN:
        return None
    try:
        head = msgspec.json.decode(raw, type=_Head)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    trace_id, span_id = hex_id(head.trace_id, 32), hex_id(head.span_id, 16)
    if trace_id is None or span_id is None:
        return None
    data = bytes(raw)
    code = head.status.code if head.status is not None else 0
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=hex_id(head.parent_span_id, 16),
        name=head.name[:MAX_NAME],
        start=otlp.nanoseconds(head.start_time_unix_nano),
        end=otlp.nanoseconds(head.end_time_unix_nano),
        status=_STATUS.get(code, "unset") if isinstance(code, int | str) else "unset",
        internal=is_internal(head.name, data),
        resource=resource,
        scope=scope,
        raw=data,
    )


def is_internal(name: str, raw: bytes) -> bool:
    """Return whether a span, of which ``raw`` is the OTLP/JSON, is about the engine's own functions."""
    if "engine" in name and _INTERNAL_NAME.match(name):
        return True
    if _INTERNAL_KIND not in raw:
        return False
    return otlp.attributes(otlp.fields(raw).get("attributes")).get("iii.function.kind") == "internal"


def attributes_of(span: Span) -> dict[str, str]:
    """Return the attributes of a span, values as text."""
    return _texts(_fields(span).get("attributes"))


def _fields(span: Span) -> dict[str, Any]:
    # Done when somebody reads it: most spans are never read.
    return otlp.fields(redacted_bytes(span.raw))


def stored_span(span: Span) -> dict[str, Any]:
    """Return a span with the keys that the query functions answer with; attributes are pairs of texts."""
    fields = _fields(span)
    status = fields.get("status")
    stored: dict[str, Any] = {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "name": redacted(span.name),
        "start_time_unix_nano": span.start,
        "end_time_unix_nano": span.end,
        "status": span.status,
        "attributes": _pairs(fields.get("attributes")),
        "service_name": span.service_name,
        "events": [
            {
                "name": otlp.text(event.get("name")),
                "timestamp_unix_nano": otlp.nanoseconds(event.get("timeUnixNano")),
                "attributes": _pairs(event.get("attributes")),
            }
            for event in _objects(fields.get("events"))
        ],
        "links": [
            {
                "trace_id": otlp.text(link.get("traceId")).lower(),
                "span_id": otlp.text(link.get("spanId")).lower(),
                "attributes": _pairs(link.get("attributes")),
            }
            for link in _objects(fields.get("links"))
        ],
        "instrumentation_scope_name": span.scope.name,
        "instrumentation_scope_version": span.scope.version,
    }
    if isinstance(status, dict) and (description := otlp.text(status.get("message"))):
        stored["status_description"] = description
    if isinstance(flags := fields.get("flags"), int) and 0 <= flags < 1 << 32:
        stored["flags"] = flags
    if trace_state := otlp.text(fields.get("traceState")):
        stored["trace_state"] = trace_state
    return stored


def _texts(pairs: object) -> dict[str, str]:
    return {key: otlp.as_text(value) for key, value in otlp.attributes(pairs).items()}


def _pairs(pairs: object) -> list[tuple[str, str]]:
    return list(_texts(pairs).items())


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


class SpanStore:
    """A ring of at most ``max_spans`` spans that take at most about ``max_bytes``; the oldest go first."""

    def __init__(self, max_spans: int, max_bytes: int) -> None:
        self.max_spans = max_spans
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evicted = 0
        self._ring: deque[Span] = deque()
        self._traces: dict[str, list[Span | None]] = {}
        self._gone: dict[str, int] = {}
        """How many spans at the front of a trace's list were evicted and are None now."""

    def __len__(self) -> int:
        return len(self._ring)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._ring)

    def add(self, span: Span) -> None:
        """Keep a span."""
        self._ring.append(span)
        self._traces.setdefault(span.trace_id, []).append(span)
        self.bytes += span.size
        while len(self._ring) > self.max_spans or self.bytes > self.max_bytes:
            self._evict()

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace in the order in which they came."""
        return [span for span in self._traces.get(trace_id, ()) if span is not None]

    def clear(self) -> int:
        """Forget all spans and return how many there were."""
        count = len(self._ring)
        self._ring.clear()
        self._traces.clear()
        self._gone.clear()
        self.bytes = 0
        return count

    def _evict(self) -> None:
        span = self._ring.popleft()
        self.bytes -= span.size
        self.evicted += 1
        trace, gone = self._traces[span.trace_id], self._gone.pop(span.trace_id, 0) + 1
        if gone == len(trace):
            del self._traces[span.trace_id]
        elif gone * 2 > len(trace):
            del trace[:gone]
        else:  # shortening the list each time would take long for a trace of a million spans
            trace[gone - 1] = None
            self._gone[span.trace_id] = gone


def tree(spans: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the roots among spans (by span id, as :func:`stored_span` gives them), with ``children`` nested in each.

    A span whose parent is not there is a root; so is one member of a ring of spans. Siblings stand in the order of
    their start.
    """
    ordered = sorted(spans.values(), key=lambda span: (span["start_time_unix_nano"], span["span_id"]))
    children: dict[str, list[dict[str, Any]]] = {}
    roots = []
    for span in ordered:
        parent = span["parent_span_id"]
        if parent in spans and parent != span["span_id"]:
            children.setdefault(parent, []).append(span)
        else:
            roots.append(span)
    placed: set[str] = set()
    _place(roots, children, placed)
    for span in ordered:  # what hangs on no root is part of a ring
        if span["span_id"] not in placed:
            roots.append(span)
            _place([span], children, placed)
    return roots


def _place(roots: list[dict[str, Any]], children: dict[str, list[dict[str, Any]]], placed: set[str]) -> None:
    placed.update(root["span_id"] for root in roots)
    waiting = []
    for root in roots:
        root["children"] = []
        waiting.append((root, root["children"], 1))
    while waiting:
        span, place, depth = waiting.pop()
        for child in children.get(span["span_id"], ()):
            if child["span_id"] in placed:
                continue
            placed.add(child["span_id"])
            child["children"] = []
            place.append(child)
            deeper = depth + 1 < MAX_TREE_DEPTH
            waiting.append((child, child["children"] if deeper else place, depth + 1 if deeper else depth))
