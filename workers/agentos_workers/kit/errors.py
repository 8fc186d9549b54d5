"""Errors that a function may answer with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field of a request that is wrong: `path` as in ``steps[2].name``, empty for the request itself."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class FunctionError(Exception):
    """A failure that the caller may read: over HTTP it becomes `status` and a body, over the bus an error.

    iii-sdk 0.25 gives every exception of a handler the code ``invocation_failed`` and its text as the message, so on
    the bus the text itself starts with the code: ``UNKNOWN_MODULE: no module …``.
    """

    def __init__(self, code: str, message: str, *, status: int = 400, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        """The JSON body of the HTTP answer."""
        return {"error": {"code": self.code, "message": self.message, **self.details}}


class InvalidInput(FunctionError):
    """The request does not fit the function's schema; names every field that is wrong."""

    def __init__(self, fields: Iterable[FieldError], *, status: int = 400) -> None:
        self.fields = tuple(fields)
        super().__init__(
            "INVALID_INPUT",
            "; ".join(str(field) for field in self.fields),
            status=status,
            details={"fields": [{"path": field.path, "message": field.message} for field in self.fields]},
        )


class SettingsError(Exception):
    """An environment variable of the worker has a value that it cannot use; the text names all of them."""


class WorkerRefused(Exception):
    """The engine does not want this worker, and trying again would not help; the text says why."""
