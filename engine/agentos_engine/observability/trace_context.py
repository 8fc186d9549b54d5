"""The W3C headers that travel with calls: ``traceparent`` and ``baggage``."""

import re
from collections.abc import Iterable
from random import randbytes
from urllib.parse import quote, unquote

import msgspec

MAX_BAGGAGE = 8192
"""Characters of a baggage header, as W3C Baggage has it; a longer one is read as empty."""

Trace = tuple[str | None, str | None]
"""``traceparent`` and ``baggage`` of what caused something."""
NO_TRACE: Trace = (None, None)

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,200})?")
_HEX = re.compile(r"[0-9a-fA-F]+")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAGGAGE_SAFE = "!#$&'()*+-./:<=>?@[]^_`{|}~"


class SpanContext(msgspec.Struct, frozen=True, gc=False):
    """A place in a trace. Ids are lower-case hex; ``parent_span_id`` is None for the first span of a trace."""

    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header that makes what is called a child of this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_traceparent(header: str | None) -> SpanContext | None:
    """Return the caller's span, or None for a header that is absent or no good."""
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None or not match[2].strip("0") or not match[3].strip("0"):
        return None
    if match[5] is not None and match[1] == "00":  # only later versions may go on after the flags
        return None
    return SpanContext(match[2], match[3], sampled=bool(int(match[4], 16) & 1))


def carried(traceparent: str | None, baggage: str | None) -> Trace:
    """Return what is passed on of a cause's context: no ``traceparent`` that is no good, no ``baggage`` too long."""
    return (
        traceparent if parse_traceparent(traceparent) is not None else None,
        baggage if baggage and len(baggage) <= MAX_BAGGAGE else None,
    )


def trace_of(headers: Iterable[tuple[str, str]]) -> Trace:
    """Return the context in the headers of an HTTP request, names in lower case; what is no good is left out."""
    traceparent = baggage = None
    for name, value in headers:
        if name == "traceparent":
            traceparent = value if traceparent is None else ""  # W3C allows only one
        elif name == "baggage":
            baggage = value if baggage is None else f"{baggage},{value}"
    if traceparent is None and baggage is None:
        return NO_TRACE
    return carried(traceparent, baggage if baggage is not None and baggage.isascii() else None)


def new_id(size: int) -> str:
    """Return a random id of so many bytes: 16 for a trace, 8 for a span. Nothing secret: so no system call."""
    return randbytes(size).hex()  # noqa: S311


def hex_id(value: object, digits: int) -> str | None:
    """Return an id in lower case, or None for anything but so many hex digits that are not all zero."""
    if isinstance(value, str) and len(value) == digits and _HEX.fullmatch(value) and value.strip("0"):
        return value.lower()
    return None


def parse_baggage(header: str | None) -> dict[str, str]:
    """Return the entries of a baggage header without their properties; of equal keys the last one counts."""
    entries = {}
    for member in _members(header):
        key, separator, value = member.partition(";")[0].partition("=")
        if separator and _TOKEN.fullmatch(key.strip()):
            entries[key.strip()] = unquote(value.strip())
    return entries


def with_baggage(header: str | None, key: str, value: str) -> str:
    """Return the header with one entry set; the others keep their properties.

    Raises ValueError when ``key`` is not a token, or the header would be longer than :data:`MAX_BAGGAGE`.
    """
    if not _TOKEN.fullmatch(key):
        raise ValueError(f"the key {key[:100]!r} has characters that a baggage header cannot hold")
    others = [member for member in _members(header) if member.partition("=")[0].strip() != key]
    changed = ",".join([*others, f"{key}={quote(value, safe=_BAGGAGE_SAFE)}"])
    if len(changed) > MAX_BAGGAGE:
        raise ValueError(f"the baggage would have {len(changed)} characters, more than {MAX_BAGGAGE}")
    return changed


def _members(header: str | None) -> list[str]:
    if not header or len(header) > MAX_BAGGAGE:
        return []
    return [member.strip() for member in header.split(",") if member.strip()]
