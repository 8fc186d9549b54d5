"""The frames that the engine sends: functions from values to the bytes of one text frame."""

import msgspec

from agentos_engine.protocol.messages import ABSENT, is_text

Json = bytes | memoryview | msgspec.Raw
"""Raw JSON text in memory."""

PONG = b'{"type":"pong"}'

_SPACE = b" \t\r\n"
_NAMELESS = b'{"type":"invokefunction","function_id":""'

text = msgspec.json.Encoder().encode
"""A value as JSON; for a str, the quoted and escaped text."""


def worker_registered(worker_id: str, reattach_token: str) -> bytes:
    """The first frame on a worker's connection."""
    return b'{"type":"workerregistered","worker_id":%s,"reattach_token":%s}' % (text(worker_id), text(reattach_token))


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
    answer. For ``caller_worker_id`` see :func:`with_caller`.
    """
    parts: list[Json] = [b'{"type":"invokefunction","function_id":', text(function_id)]
    if invocation_id is not None:
        parts += (b',"invocation_id":', text(invocation_id))
    # Most calls have none of these, and to look at one that is not there takes 0.1 µs.
    if traceparent is not None and traceparent is not ABSENT and is_text(traceparent):
        parts += (b',"traceparent":', traceparent)
    if baggage is not None and baggage is not ABSENT and is_text(baggage):
        parts += (b',"baggage":', baggage)
    if metadata is not None and metadata is not ABSENT and memoryview(metadata):
        parts += (b',"metadata":', metadata)
    view = memoryview(data)
    if caller_worker_id is None:
        parts += (b',"data":', view if view else b"null", b"}")
    elif (
        len(view) > 2 and view[0] == 0x7B and view[1] == 0x22 and view[-1] == 0x7D
    ):  # an object with a key: nearly always
        parts += (b',"data":', view[:-1], b',"_caller_worker_id":', text(caller_worker_id), b"}}")
    else:
        parts += (b',"data":', *_with_caller(data, caller_worker_id), b"}")
    return b"".join(parts)


def invoke_tail(
    data: Json,
    *,
    traceparent: msgspec.Raw | None = None,
    baggage: msgspec.Raw | None = None,
    metadata: Json | None = None,
) -> bytes:
    """What invocations that want no answer and differ in the function only have in common, for :func:`invoke_with`."""
    return invoke("", data, traceparent=traceparent, baggage=baggage, metadata=metadata)[len(_NAMELESS) :]


def invoke_with(function_id: str, tail: bytes) -> bytes:
    """An invocation of a function with a tail of :func:`invoke_tail`."""
    return b'{"type":"invokefunction","function_id":%b%b' % (text(function_id), tail)


def with_caller(data: Json, caller_worker_id: str) -> bytes:
    """Raw JSON with the caller's id put into it when it is an object: last, so that a key that the caller sent loses."""
    return b"".join(_with_caller(data, caller_worker_id))


def _with_caller(data: Json, caller_worker_id: str) -> tuple[Json, ...]:
    view = memoryview(data)
    size = len(view)
    if size and (view[0] in _SPACE or view[-1] in _SPACE):
        view = memoryview(bytes(view).strip())
        size = len(view)
    if not size:
        return (b"null",)
    if view[0] != 0x7B:  # not an object
        return (view,)
    if view[1] == 0x22 or bytes(view[1:-1]).strip():
        return (view[:-1], b',"_caller_worker_id":', text(caller_worker_id), b"}")
    return (b'{"_caller_worker_id":', text(caller_worker_id), b"}")


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


def error_body(code: str, message: str, stacktrace: str | None = None) -> bytes:
    """The JSON of an error object."""
    body = {"code": code, "message": message}
    return text(body if stacktrace is None else body | {"stacktrace": stacktrace})


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
    trigger_id: str,
    trigger_type: str,
    function_id: str,
    config: bytes | None,
    metadata: bytes | None,
    namespace: str | None = None,
) -> bytes:
    """A binding, for the worker that provides the trigger type; ``namespace`` is that of the function."""
    extra = b"" if metadata is None else b',"metadata":%s' % metadata
    if namespace is not None:
        extra += b',"namespace":%s' % text(namespace)
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


def function_refused(function_id: str, namespace: str, owner_worker_id: str) -> bytes:
    """Tells a worker that a function id belongs to another: ``engine``, or the worker with this id.

    The code is the only one that SDKs take as not fatal for the connection.
    """
    return text(
        {
            "type": "registrationrejected",
            "code": "FUNCTION_NAMESPACE_CONFLICT",
            "namespace": namespace,
            "function_id": function_id,
            "owner_worker_id": owner_worker_id,
        }
    )


def connection_error(code: str, message: str) -> bytes:
    """A fault of the connection as a whole, such as a refused token; SDKs ignore the type, people read it."""
    return b'{"type":"error","error":%s}' % error_body(code, message)
