"""Decoding of the frames that workers send.

The form of the messages is that of the iii protocol, lines 0.11 to 0.25. One flat envelope serves all types, because
a tagged union would scan the text twice when ``type`` comes last. Payloads stay raw JSON and are forwarded unparsed.
"""

import json

import msgspec

ABSENT = msgspec.Raw()
"""A field that the sender left out (or sent as an empty text, which JSON does not know)."""

MAX_SALVAGED_BYTES = 1 << 20
"""Largest malformed frame that is searched for the call it belongs to: the slow parser must not hold up the loop."""


class Action(msgspec.Struct):
    """How a caller wants a function called: ``type`` is ``void`` or ``enqueue``, the latter with a ``queue``."""

    type: str = ""
    queue: str | None = None


class Message(msgspec.Struct):
    """One message of a worker; which fields are set depends on ``type``. Unknown keys are ignored.

    Raw fields refer to the memory of the received frame: whoever keeps one copies it.
    """

    type: str
    id: str | None = None
    invocation_id: str | None = None
    function_id: str | None = None
    trigger_type: str | None = None
    action: Action | None = None
    data: msgspec.Raw = ABSENT
    result: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    traceparent: msgspec.Raw = ABSENT
    baggage: msgspec.Raw = ABSENT
    metadata: msgspec.Raw = ABSENT
    config: msgspec.Raw = ABSENT
    invocation: msgspec.Raw = ABSENT
    description: msgspec.Raw = ABSENT
    request_format: msgspec.Raw = ABSENT
    response_format: msgspec.Raw = ABSENT


class Malformed(msgspec.Struct, frozen=True):
    """A frame that is no message; ``reason`` says why, without repeating the frame.

    ``type``, ``invocation_id`` and ``function_id`` are what could be made out, so that nobody waits for an answer that
    never comes; empty when nothing could.
    """

    reason: str
    type: str = ""
    invocation_id: str = ""
    function_id: str = ""


class ErrorBody(msgspec.Struct):
    """The ``error`` of a result, as far as the engine looks into it."""

    code: str
    message: str


_decode = msgspec.json.Decoder(Message).decode


def decode(frame: bytes) -> Message | Malformed:
    """Return the message in a frame, or Malformed; raises nothing, whatever the bytes are.

    Invalid UTF-8 is refused as well: forwarded in a text frame it would break the connection of the receiver.
    """
    try:
        if not frame.isascii():
            frame.decode()
        return _decode(frame)
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except msgspec.ValidationError as error:
        reason = f"not a message of this protocol: {error}"
    except msgspec.DecodeError as error:
        reason = f"not JSON: {error}"
    except RecursionError:
        reason = "nested too deeply"
    return _salvaged(frame, reason)


def _salvaged(frame: bytes, reason: str) -> Malformed:
    """Make out which call a malformed frame belongs to, with a parser that is lenient about NaN and lone surrogates."""
    if len(frame) > MAX_SALVAGED_BYTES:
        return Malformed(reason)
    try:
        fields = json.loads(frame.decode(errors="replace"))
    except (ValueError, RecursionError):
        return Malformed(reason)
    if not isinstance(fields, dict):
        return Malformed(reason)
    texts = (fields.get(name) for name in ("type", "invocation_id", "function_id"))
    return Malformed(reason, *(text if isinstance(text, str) and text.isascii() else "" for text in texts))


def decode_error(error: msgspec.Raw) -> ErrorBody | None:
    """Return code and message of a result's error, or None when it has not the form that SDKs can read."""
    try:
        return msgspec.json.decode(error, type=ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        return None


def is_null(value: msgspec.Raw) -> bool:
    """True for an absent value and for a JSON null, which this protocol does not tell apart."""
    size = len(memoryview(value))
    return size == 0 or (size == 4 and bytes(value) == b"null")


def is_text(value: msgspec.Raw) -> bool:
    """True for a JSON string."""
    return bytes(memoryview(value)[:1]) == b'"'


def kept(value: msgspec.Raw) -> bytes | None:
    """Return a copy of a raw value that outlives its frame, or None when it is absent or null."""
    return None if is_null(value) else bytes(value)
