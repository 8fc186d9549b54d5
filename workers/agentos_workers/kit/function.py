"""A declared function: its models, its checks, and the way from a payload to a reply."""

from __future__ import annotations

import inspect
import logging
import typing
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticSerializationError, to_json

from .context import Context
from .errors import FieldError, FunctionError, InvalidInput
from .http import HttpRequest, response
from .log import redaction
from .sdk import InvocationError

Handler = Callable[..., Any]
CALLER_KEY = "_caller_worker_id"
DEFAULT_MAX_REQUEST_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)


class _Message(BaseModel):
    # camelCase on the wire, snake_case in code.
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class Request(_Message):
    """Base of request models. Fields that a model does not know are ignored, as every AgentOS worker does."""


class Reply(_Message):
    """Base of reply models."""


class Registrable(Protocol):
    """Something that calls a function: Http, Cron or Trigger."""

    def trigger(self, function_id: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Function:
    """One function as declared: id, handler, what triggers it, models and limits."""

    id: str
    handler: Handler
    triggers: tuple[Registrable, ...]
    request: type[BaseModel] | None
    reply: type[BaseModel] | None
    description: str
    max_request_bytes: int

    @classmethod
    def declare(
        cls,
        function_id: str,
        handler: Handler,
        triggers: tuple[Registrable, ...],
        description: str,
        max_request_bytes: int,
    ) -> Function:
        """Reads the models from the handler's annotations: ``(request: Model, context: Context) -> Model``, or without
        the request, or with None for the reply. Raises TypeError, at import, for anything else."""
        hints = typing.get_type_hints(handler)
        reply = hints.pop("return", None)
        parameters = list(inspect.signature(handler).parameters)
        models = [hints.get(name) for name in parameters]
        if not models or len(models) > 2 or models[-1] is not Context or not (_is_model(reply) or reply is NoneType):
            raise TypeError(f"{function_id}: write the handler as (request: Model, context: Context) -> Model or None")
        request = models[0] if len(models) == 2 else None
        if request is not None and not _is_model(request):
            raise TypeError(f"{function_id}: the request must be a pydantic model, not {request!r}")
        text = description or inspect.getdoc(handler) or ""
        model = None if reply is NoneType else reply
        return cls(function_id, handler, triggers, request, model, text.split("\n\n")[0], max_request_bytes)

    def request_format(self) -> dict[str, Any]:
        """The JSON Schema of the request."""
        return self.request.model_json_schema() if self.request else {"type": "object", "properties": {}}

    def response_format(self) -> dict[str, Any]:
        """The JSON Schema of the reply."""
        return self.reply.model_json_schema(mode="serialization") if self.reply else {"type": "null"}

    def parse(self, payload: Any, http: HttpRequest | None) -> BaseModel | None:
        """The request inside a payload, already without ``_caller_worker_id``; raises InvalidInput.

        Types are strict (``"7"`` is no number), except for fields that came as text in the URL.
        """
        if self.request is None:
            return None
        from_url = False
        if http is not None:
            payload, from_url = http.fields(self._field_names())
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            raise InvalidInput([FieldError("", "the request must be a JSON object")])
        payload.pop(CALLER_KEY, None)
        try:
            raw = to_json(payload)
        except (PydanticSerializationError, ValueError):
            raise InvalidInput([FieldError("", "not JSON that can be read: too deep, or broken Unicode")]) from None
        if len(raw) > self.max_request_bytes:
            text = f"{len(raw)} bytes as JSON; {self.id} takes at most {self.max_request_bytes}"
            raise InvalidInput([FieldError("", text)], status=413)
        try:
            return self.request.model_validate_json(raw, strict=not from_url, by_alias=True, by_name=False)
        except ValidationError as error:
            raise InvalidInput([_field_error(item) for item in error.errors(include_url=False)]) from None

    def _field_names(self) -> frozenset[str]:
        fields = self.request.model_fields if self.request else {}
        return frozenset(field.alias or name for name, field in fields.items())

    def dump(self, reply: Any) -> dict[str, Any] | None:
        """A handler's reply as JSON values."""
        if self.reply is None and reply is None:
            return None
        if self.reply is None or not isinstance(reply, self.reply):
            expected = self.reply.__name__ if self.reply else "None"
            raise TypeError(f"{self.id} returned {type(reply).__name__}, not {expected}")
        return reply.model_dump(mode="json", by_alias=True)


async def answer(
    function: Function,
    payload: Any,
    admit: Callable[[], None],
    run: Callable[[BaseModel | None, HttpRequest | None, str | None], Awaitable[Any]],
) -> dict[str, Any] | None:
    """Takes a payload through `admit` (which may refuse), parsing, `run` and dumping, and gives back what the engine
    wants: the bare reply for a direct call, an HTTP answer for a request that came by HTTP.

    Raises FunctionError for a direct call that failed; whatever a handler did not mean to raise is logged here with its
    traceback and answered as INTERNAL with an id that finds it in the log.
    """
    http = HttpRequest.from_payload(payload)
    caller = payload.pop(CALLER_KEY, None) if isinstance(payload, dict) else None
    try:
        admit()
        request = function.parse(payload, http)
        reply = function.dump(await run(request, http, caller if isinstance(caller, str) else None))
    except Exception as error:
        failure = _as_function_error(function.id, error)
        if http is None:
            # A fresh traceback: the SDK sends it to the caller.
            raise failure.with_traceback(None) from None
        return response(failure.status, failure.body())
    return reply if http is None else response(200, reply)


def _as_function_error(function_id: str, error: Exception) -> FunctionError:
    if isinstance(error, FunctionError):
        message = redaction(error.message)
        if message == error.message:
            return error
        # Such as the text of an exception with the engine's address in it, which holds the worker's token.
        return FunctionError(error.code, message, status=error.status, details=error.details)
    if isinstance(error, InvocationError):
        called = error.function_id or "another function"
        message = f"{called}, which {function_id} needs, failed: {error.code}: {redaction(error.message)}"
        return FunctionError("CALL_FAILED", message, status=504 if error.code == "TIMEOUT" else 502)
    error_id = uuid.uuid4().hex[:12]
    _log.error("%s failed unexpectedly (error id %s)", function_id, error_id, exc_info=error)
    message = f"{function_id} failed unexpectedly; the worker's log has it under error id {error_id}"
    return FunctionError("INTERNAL", message, status=500)


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _field_error(item: Any) -> FieldError:
    path = ""
    for part in item["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return FieldError(path, item["msg"].removeprefix("Value error, "))
