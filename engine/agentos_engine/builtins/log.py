"""``engine::log::*``: log entries by call, and ``engine::baggage::*``: the caller's baggage.

``engine::log::trace|debug|info|warn|error {"message", "data"?, "trace_id"?, "span_id"?, "service_name"?}``: the answer
has no result. An object in ``data`` gives the entry's attributes, any other value its attribute ``data``. Ids that are
not given are those of the caller's ``traceparent``; ``service_name`` is by default the name of the worker that calls.

``engine::baggage::get {"key"}`` answers ``{"value": text or null}``; ``get_all`` ``{"baggage": {key: value}}``. A call
cannot change the context of its caller, so ``set {"key", "value"}`` answers with the changed baggage, as ``baggage`` and
as ``header``, the text that the caller can give as ``baggage`` of its next calls.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context, Functions, Handler, decode
from agentos_engine.observability.logs import SEVERITIES, LogRecord
from agentos_engine.observability.trace_context import hex_id, parse_baggage, parse_traceparent, with_baggage

if TYPE_CHECKING:
    from agentos_engine.observability.module import Observability


class _Log(msgspec.Struct):
    message: str
    data: Any = None
    trace_id: str | None = None
    span_id: str | None = None
    service_name: str | None = None


class _Key(msgspec.Struct):
    key: str


class _Entry(msgspec.Struct):
    key: str
    value: str


def install(functions: Functions, module: "Observability") -> list[str]:
    """Add the functions and return their ids."""
    added: list[str] = []

    def add(function_id: str, handler: Handler, description: str) -> None:
        functions.add(function_id, handler, description)
        added.append(function_id)

    for level, severity in SEVERITIES.items():
        add(f"engine::log::{level}", _logger(module, level, severity), f"Log an entry of level {level}")
    add("engine::baggage::get", _baggage_get, "Return one entry of the caller's baggage")
    add("engine::baggage::get_all", _baggage_get_all, "Return the caller's baggage")
    add("engine::baggage::set", _baggage_set, "Return the caller's baggage with one entry changed")
    return added


def _logger(module: "Observability", level: str, severity: int) -> Handler:
    def handle(context: Context, data: bytes) -> object:
        given = decode(context.function_id, data, _Log)
        caller, worker = parse_traceparent(context.traceparent), context.connection
        attributes = given.data if isinstance(given.data, dict) else {"data": given.data}
        now = int(module.bus.clock.time() * 1e9)
        record = LogRecord(
            timestamp_unix_nano=now,
            observed_timestamp_unix_nano=now,
            severity_number=severity,
            severity_text=level.upper(),
            body=given.message,
            attributes=attributes if given.data is not None else {},
            trace_id=hex_id(given.trace_id, 32) or (caller.trace_id if caller is not None else None),
            span_id=hex_id(given.span_id, 16) or (caller.span_id if caller is not None else None),
            resource={},
            service_name=given.service_name or (worker.about.name if worker is not None else "") or "engine",
        )
        module.log(record, context.traceparent, worker)
        return MISSING

    return handle


def _baggage_get(context: Context, data: bytes) -> object:
    key = decode(context.function_id, data, _Key).key
    return {"value": parse_baggage(context.baggage).get(key)}


def _baggage_get_all(context: Context, data: bytes) -> object:
    return {"baggage": parse_baggage(context.baggage)}


def _baggage_set(context: Context, data: bytes) -> object:
    entry = decode(context.function_id, data, _Entry)
    try:
        header = with_baggage(context.baggage, entry.key, entry.value)
    except ValueError as error:
        raise BusError("invalid_baggage", str(error)) from error
    return {"success": True, "baggage": parse_baggage(header), "header": header}
