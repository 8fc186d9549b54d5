"""The frames that the engine sends: functions from values to the bytes of one text frame."""

import msgspec

from agentos_engine.protocol.messages import is_text

Json = bytes | memoryview | msgspec.Raw
"""Raw JSON text in memory."""

PONG = b'{"type":"pong"}'

text = msgspec.json.Encoder().encode
"""A value as JSON; for a str, the quoted and escaped text."""


def worker_registered(worker_id: str) -> bytes:
    """The first frame on a worker's connection."""
    return b'{"type":"workerregistered","worker_id":%s}' % text(worker_id)


def invoke(
    function_id: str,
    data: Json,
    *,
    invocation_id: str | None = None,
    caller_worker_id: str | None = None,
    traceparent: msgspec.Raw | None = None,
    baggage: msgspec.Raw | None = None,
    metadata: Json | None = None,
) -> bytes:
    """An invocation for the worker that has the function.

    ``data`` and ``metadata`` are raw JSON (empty: null, absent). Without an ``invocation_id`` the worker does not
    answer. A ``caller_worker_id`` is put into ``data`` when that is an object: last, so that a key of the same name that
    the caller sent does not win.
    """
    parts: list[Json] = [b'{"type":"invokefunction"']
    if invocation_id is not None:
        parts += (b',"invocation_id":', text(invocation_id))
    parts += (b',"function_id":', text(function_id))
    if traceparent is not None and is_text(traceparent):
        parts += (b',"traceparent":', traceparent)
    if baggage is not None and is_text(baggage):
        parts += (b',"baggage":', baggage)
    if metadata:
        parts += (b',"metadata":', metadata)
    view = memoryview(data)
    parts.append(b',"data":')
    if not view:
        parts.append(b"null")
    elif caller_worker_id is not None and view[0] == 0x7B:  # an object
        empty = view[1] != 0x22 and not bytes(view[1:-1]).strip()
        separator = b"" if empty else b","
        parts += (view[:-1], separator, b'"_caller_worker_id":', text(caller_worker_id), b"}")
    else:
        parts.append(view)
    parts.append(b"}")
    return b"".join(parts)


def result(
    invocation_id: str,
    function_id: str,
    *,
    value: Json | None = None,
    traceparent: msgspec.Raw | None = None,
    baggage: msgspec.Raw | None = None,
) -> bytes:
    """The answer to a call that went well; ``value`` is raw JSON, None or empty: no ``result`` key."""
    return _result(invocation_id, function_id, b',"result":', value, traceparent, baggage)


def failed(
    invocation_id: str,
    function_id: str,
    error: Json,
    *,
    traceparent: msgspec.Raw | None = None,
    baggage: msgspec.Raw | None = None,
) -> bytes:
    """The answer to a call that failed; ``error`` is the raw JSON of its error object."""
    return _result(invocation_id, function_id, b',"error":', error, traceparent, baggage)


def error_body(code: str, message: str) -> bytes:
    """The JSON of an error object."""
    return text({"code": code, "message": message})


def _result(
    invocation_id: str,
    function_id: str,
    key: bytes,
    value: Json | None,
    traceparent: msgspec.Raw | None,
    baggage: msgspec.Raw | None,
) -> bytes:
    parts: list[Json] = [
        b'{"type":"invocationresult","invocation_id":',
        text(invocation_id),
        b',"function_id":',
        text(function_id),
    ]
    if value:
        parts += (key, value)
    if traceparent is not None and is_text(traceparent):
        parts += (b',"traceparent":', traceparent)
    if baggage is not None and is_text(baggage):
        parts += (b',"baggage":', baggage)
    parts.append(b"}")
    return b"".join(parts)


def register_trigger(
    trigger_id: str, trigger_type: str, function_id: str, config: bytes | None, metadata: bytes | None
) -> bytes:
    """A binding, for the worker that provides the trigger type."""
    extra = b"" if metadata is None else b',"metadata":%s' % metadata
    return b'{"type":"registertrigger","id":%s,"trigger_type":%s,"function_id":%s,"config":%s%s}' % (
        text(trigger_id),
        text(trigger_type),
        text(function_id),
        config or b"null",
        extra,
    )


def unregister_trigger(trigger_id: str, trigger_type: str) -> bytes:
    """Tells the provider of a trigger type that a binding is gone."""
    return text({"type": "unregistertrigger", "id": trigger_id, "trigger_type": trigger_type})


def trigger_refused(trigger_id: str, trigger_type: str, function_id: str, error: Json) -> bytes:
    """Tells the worker that registered a trigger why it is not served; ``error`` is the raw JSON of an error object."""
    return b"".join(
        (
            b'{"type":"triggerregistrationresult","id":',
            text(trigger_id),
            b',"trigger_type":',
            text(trigger_type),
            b',"function_id":',
            text(function_id),
            b',"error":',
            error,
            b"}",
        )
    )


def function_refused(function_id: str) -> bytes:
    """Tells a worker that a function id belongs to the engine.

    The code is the only one that SDKs take as not fatal for the connection.
    """
    return text(
        {
            "type": "registrationrejected",
            "code": "FUNCTION_NAMESPACE_CONFLICT",
            "namespace": "default",
            "function_id": function_id,
            "owner_worker_id": "engine",
        }
    )


def connection_error(code: str, message: str) -> bytes:
    """A fault of the connection as a whole, such as a refused token; SDKs ignore the type, people read it."""
    return b'{"type":"error","error":%s}' % error_body(code, message)
