"""The HTTP envelope of iii: what functions are given for a request, and what their results mean as a response."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from agentos_contracts.redaction import redacted

from agentos_engine.protocol.frames import Json

MAX_QUERY_FIELDS = 1000
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
"""Headers that belong to the connection; a handler's are left out."""

_JSON = ("content-type", "application/json")

_encode = msgspec.json.Encoder().encode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


@dataclass(slots=True)
class Request:
    """A request as parsed: ``path`` without the query, both percent-encoded; header names in lower case, in order.

    Bytes beyond ASCII in headers are read as latin-1. ``body`` is empty when the body comes as a stream.
    """

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The last value of a header; ``name`` in lower case."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None

    def is_json(self) -> bool:
        """Whether the client says that the body is JSON."""
        return "application/json" in (self.header("content-type") or "").lower()


@dataclass(slots=True)
class Response:
    """A response to send; the server adds Content-Length, Date and Connection."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class ResultError(ValueError):
    """A function returned or wrote what HTTP cannot say; the message is for the worker's author."""


def error_response(status: int, code: str, message: str, headers: Mapping[str, str] = {}, **extra: str) -> Response:
    """A response with the error body of iii 0.23: ``{"error": {"code", "message", …}}``; the message is redacted."""
    body = _encode({"error": {"code": code, "message": redacted(message), **extra}})
    return Response(status, [_JSON, *headers.items()], body)


def condition_not_met() -> Response:
    """The response when a condition said no; ``skipped`` is how the 0.11 line tells it."""
    error = {"code": "CONDITION_NOT_MET", "message": "Request condition not met"}
    return Response(422, [_JSON], _encode({"error": error, "skipped": True}))


# What functions are given


def request_payload(
    request: Request,
    route: str,
    method: str,
    path_params: Mapping[str, str],
    channels: Mapping[str, object] = {},
) -> bytes:
    """Return the JSON that a handler is given; ``route`` and ``method`` are those of the trigger.

    ``body`` is the JSON body as it came when the content type is JSON and the JSON is right, else null. ``channels``
    are the refs of the request's channels by their keys; a condition gets none. Raises ValueError for a query with more
    than MAX_QUERY_FIELDS fields.
    """
    return _encode(
        {
            "path": route,
            "method": request.method,
            "path_params": path_params,
            "query_params": _query_params(request.query) if request.query else {},
            "headers": dict(request.headers),
            "trigger": {"type": "http", "path": route, "method": method},
            **channels,
            "body": msgspec.Raw(_json_body(request)) if request.body else None,
        }
    )


def middleware_payload(request: Request, path_params: Mapping[str, str]) -> bytes:
    """Return the JSON that a middleware is given. Raises ValueError as :func:`request_payload`."""
    view = {
        "path_params": path_params,
        "query_params": _query_params(request.query) if request.query else {},
        "headers": dict(request.headers),
        "method": request.method,
    }
    return _encode({"phase": "preHandler", "request": view, "context": {}})


def _query_params(query: str) -> dict[str, str]:
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_QUERY_FIELDS))
    pairs = query.split("&")
    if len(pairs) > MAX_QUERY_FIELDS:
        raise ValueError(f"it has more than {MAX_QUERY_FIELDS} fields")
    params = {}
    for pair in pairs:
        if pair:
            name, _, value = pair.partition("=")
            params[name] = value
    return params


def _json_body(request: Request) -> bytes:
    if not request.is_json():
        return b"null"
    try:
        if not request.body.isascii():
            request.body.decode()
        _check_json(request.body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return b"null"
    return request.body.strip()


# What their results mean


class _Result(msgspec.Struct):
    """The keys of a handler's result that make a response."""

    status_code: Any = None
    headers: Any = None
    body: msgspec.Raw = msgspec.Raw(b"{}")


_decode_result = msgspec.json.Decoder(_Result).decode
_NO_RESULT = _Result()


def handler_response(result: Json) -> Response:
    """Return the response that a handler's result (raw JSON) stands for.

    A result without any of the keys ``status_code``, ``headers`` and ``body`` is a 200 with the body ``{}``, as in iii.
    Raises ResultError for keys with values that HTTP cannot say.
    """
    try:
        parts = _decode_result(result)
    except msgspec.ValidationError:
        parts = _NO_RESULT  # a scalar or an array
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"the handler's result cannot be read: {error}") from error
    status = 200 if parts.status_code is None else _status(parts.status_code)
    if parts.headers is None:
        return Response(status, [_JSON], bytes(parts.body))
    headers = _headers(parts.headers)
    if any(name == "content-type" for name, _ in headers):
        return Response(status, headers, _body(parts.body))
    return Response(status, [_JSON, *headers], bytes(parts.body))


def middleware_response(result: Json) -> Response | None:
    """Return the response that a middleware's result (raw JSON, empty: none) asks for; None: the request goes on.

    Raises ResultError when it asks for one that HTTP cannot say.
    """
    if bytes(memoryview(result)[:1]) != b"{":
        return None
    try:
        asked = msgspec.json.decode(result, type=_MiddlewareResult)
        if asked.action != "respond":
            return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"the middleware's result cannot be read: {error}") from error
    return handler_response(asked.response)


class _MiddlewareResult(msgspec.Struct):
    action: Any = None
    response: msgspec.Raw = msgspec.Raw(b"null")


class ResponseHead(msgspec.Struct):
    """Status and headers of a streamed response, as its writer sets them; ``length`` of the body, if it said so."""

    status: int = 200
    headers: list[tuple[str, str]] = []
    length: int | None = None

    def apply(self, text: bytes) -> bool:
        """Take a control message of the writer; False when it is none. Raises ResultError for a wrong one."""
        try:
            control = msgspec.json.decode(text, type=_Control)
            if control.type == "set_status":
                self.status = _status(control.status_code)
            elif control.type == "set_headers":
                self._set_headers(control.headers)
            else:
                return False
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def _set_headers(self, given: Any) -> None:
        headers = _headers(given, framing={"content-length"})
        names = {name for name, _ in headers}
        self.headers = [(name, value) for name, value in self.headers if name not in names]
        for name, value in headers:
            if name != "content-length":
                self.headers.append((name, value))
            elif value.isascii() and value.isdecimal() and len(value) <= 18:
                self.length = int(value)
            else:
                raise ResultError(f"the handler's content-length is {value[:50]!r}, not a number of bytes")


class _Control(msgspec.Struct):
    type: Any = None
    status_code: Any = None
    headers: Any = None


def _status(status: Any) -> int:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise ResultError(f"the handler's status_code is {str(status)[:50]!r}, not a number from 200 to 599")
    return status


def _body(body: msgspec.Raw) -> bytes:
    """The bytes of a body whose content type the handler set: text as it is, null as nothing, the rest as JSON."""
    raw = bytes(body)
    if raw == b"null":
        return b""
    if raw.startswith(b'"'):
        try:
            return msgspec.json.decode(raw, type=str).encode()
        except UnicodeDecodeError as error:
            raise ResultError(f"the handler's body cannot be read: {error}") from error
    return raw


def _headers(value: Any, framing: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Read headers given as an object, or as a list of ``Name: value`` texts. Raises ResultError.

    Those that belong to the connection are left out, except for the ones named in ``framing``.
    """
    if value is None:
        return []
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for name, given in value.items():
            pairs += [(name, each) for each in (given if isinstance(given, list) else [given])]
    elif isinstance(value, list):
        for line in value:
            name, separator, text = line.partition(":") if isinstance(line, str) else ("", "", "")
            if not separator:
                raise ResultError("the handler's headers hold an entry that is not of the form 'Name: value'")
            pairs.append((name, text.strip()))
    else:
        raise ResultError("the handler's headers are neither an object nor a list of 'Name: value' texts")
    headers = []
    for name, given in pairs:
        if isinstance(given, bool):
            given = "true" if given else "false"
        text = str(given) if isinstance(given, str | int | float) else None
        if text is None or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(text):
            raise ResultError(f"the handler's header {name[:100]!r} has a name or a value that HTTP does not allow")
        name = name.lower()
        if name not in _FRAMING or name in framing:
            headers.append((name, text))
    return headers
