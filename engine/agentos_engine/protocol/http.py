"""The HTTP envelope of iii: what a handler is given for a request, and what its result means as a response."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from agentos_engine.protocol.frames import Json

MAX_QUERY_FIELDS = 1000
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
"""Headers that belong to the connection; a handler's are left out."""

_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(slots=True)
class Request:
    """A request as parsed: ``path`` without the query, both percent-encoded; header names in lower case, in order."""

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The last value of a header; ``name`` in lower case."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(slots=True)
class Response:
    """A response to send; the server adds Content-Length, Date and Connection."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] = {}, **extra: str) -> Response:
    """A response with the error body of iii 0.23: ``{"error": {"code", "message", …}}``."""
    body = _encode({"error": {"code": code, "message": message, **extra}})
    return Response(status, [("content-type", "application/json"), *headers.items()], body)


def request_payload(request: Request, route: str, method: str, path_params: dict[str, str]) -> bytes:
    """Return the JSON that the handler is given; ``route`` and ``method`` are those of its trigger.

    ``body`` is the JSON body as it came when the content type is JSON and the JSON is right, else null.
    """
    query = parse_qsl(request.query, keep_blank_values=True, errors="replace", max_num_fields=MAX_QUERY_FIELDS)
    known = {
        "path": route,
        "method": request.method,
        "path_params": path_params,
        "query_params": dict(query),
        "headers": dict(request.headers),
        "trigger": {"type": "http", "path": route, "method": method},
        "body": msgspec.Raw(_json_body(request)),
    }
    return _encode(known)


def _json_body(request: Request) -> bytes:
    if not request.body or "application/json" not in (request.header("content-type") or "").lower():
        return b"null"
    try:
        request.body.decode()
        _check_json(request.body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return b"null"
    return request.body.strip()


class _Result(msgspec.Struct):
    """The keys of a handler's result that make a response."""

    status_code: msgspec.Raw = msgspec.Raw(b"200")
    headers: msgspec.Raw = msgspec.Raw(b"null")
    body: msgspec.Raw = msgspec.Raw(b"{}")


def handler_response(result: Json) -> Response:
    """Return the response that a handler's result (raw JSON, empty: none) stands for.

    A result without any of the keys ``status_code``, ``headers`` and ``body`` is a 200 with the body ``{}``, as in iii.
    Raises ValueError, with a message for the worker's author, for keys with values that HTTP cannot say.
    """
    parts = _Result()
    if bytes(memoryview(result)[:1]) == b"{":
        parts = msgspec.json.decode(result, type=_Result)
    status = msgspec.json.decode(parts.status_code)
    if status is None:
        status = 200
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise ValueError(f"the handler's status_code is {str(status)[:50]!r}, not a number from 200 to 599")
    headers = _headers(msgspec.json.decode(parts.headers))
    content_type = next((value for name, value in headers if name == "content-type"), None)
    if content_type is None:
        return Response(status, [("content-type", "application/json"), *headers], bytes(parts.body))
    return Response(status, headers, _body(parts.body))


def _body(body: msgspec.Raw) -> bytes:
    """The bytes of a body whose content type the handler set: text as it is, null as nothing, the rest as JSON."""
    raw = bytes(body)
    if raw == b"null":
        return b""
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str).encode()
    return raw


def _headers(value: Any) -> list[tuple[str, str]]:
    """Read headers given as an object, or as a list of ``Name: value`` texts. Raises ValueError."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for name, given in value.items():
            pairs += [(name, each) for each in (given if isinstance(given, list) else [given])]
    elif isinstance(value, list):
        for line in value:
            name, separator, text = line.partition(":") if isinstance(line, str) else ("", "", "")
            if not separator:
                raise ValueError("the handler's headers hold an entry that is not of the form 'Name: value'")
            pairs.append((name, text.strip()))
    elif value is not None:
        raise ValueError("the handler's headers are neither an object nor a list of 'Name: value' texts")
    headers = []
    for name, given in pairs:
        if isinstance(given, bool):
            given = "true" if given else "false"
        text = str(given) if isinstance(given, str | int | float) else None
        if text is None or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(text):
            raise ValueError(f"the handler's header {name[:100]!r} has a name or a value that HTTP does not allow")
        if name.lower() not in _FRAMING:
            headers.append((name.lower(), text))
    return headers
