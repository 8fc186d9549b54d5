"""The HTTP envelope: what the engine's ``http`` trigger hands to a function, and what it wants back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import FieldError, InvalidInput


@dataclass(frozen=True, slots=True)
class Http:
    """An HTTP route of a function: method, and path with ``:name`` for parameters."""

    method: str
    path: str

    def trigger(self, function_id: str) -> dict[str, Any]:
        """The trigger registration for the SDK."""
        return {
            "type": "http",
            "function_id": function_id,
            "config": {"api_path": self.path, "http_method": self.method},
        }


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request as a function sees it; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    path_params: Mapping[str, str]
    query_params: Mapping[str, str]
    body: Any

    @classmethod
    def from_payload(cls, payload: Any) -> HttpRequest | None:
        """The request inside an invocation's payload, or None when the function was called directly."""
        if not isinstance(payload, dict):
            return None
        trigger = payload.get("trigger")
        if not isinstance(trigger, dict) or trigger.get("type") != "http" or "method" not in payload:
            return None
        return cls(
            method=str(payload["method"]),
            path=str(payload.get("path", "")),
            headers=_mapping(payload.get("headers")),
            path_params=_mapping(payload.get("path_params")),
            query_params=_mapping(payload.get("query_params")),
            body=payload.get("body"),
        )

    def fields(self, known: frozenset[str]) -> tuple[dict[str, Any], bool]:
        """The request's fields, and whether any of them came as text from the URL.

        A body's field wins over the query's, a path parameter over both. Of the query only `known` names count: a URL
        may carry others.
        """
        if self.body is None and self.headers.get("content-length", "0") != "0":
            # The engine hands over null for a body that it could not parse.
            raise InvalidInput([FieldError("", "the body must be JSON, sent with Content-Type: application/json")])
        if self.body is not None and not isinstance(self.body, dict):
            raise InvalidInput([FieldError("", "the body must be a JSON object")])
        body: dict[str, Any] = self.body or {}
        from_query = {name: value for name, value in self.query_params.items() if name in known and name not in body}
        return {**from_query, **body, **self.path_params}, bool(from_query or self.path_params)


def _mapping(value: Any) -> Mapping[str, str]:
    return value if isinstance(value, dict) else {}


def response(status: int, body: Any) -> dict[str, Any]:
    """The answer that the engine turns into an HTTP response with a JSON body."""
    return {"status_code": status, "headers": {"content-type": "application/json"}, "body": body}
