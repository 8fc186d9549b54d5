"""Decoding of the frames that workers send.

The form of the messages is that of the iii protocol, lines 0.11 to 0.25. One flat envelope serves all types, because
a tagged union would scan the text twice when ``type`` comes last. Payloads stay raw JSON and are forwarded unparsed.
"""

import json
import re

import msgspec

ABSENT = msgspec.Raw()
"""A field that the sender left out (or sent as an empty text, which JSON does not know)."""
_NOTHING = ABSENT, msgspec.Raw(b"null")

MAX_SALVAGED_BYTES = 1 << 20
"""Largest malformed frame that is parsed for the call it belongs to: the slow parser must not hold up the loop."""

_END = 2048
"""Bytes at both ends of any other one that are searched."""
_ACTION = re.compile(rb'"action"\s{0,9}:\s{0,9}\{[^{}]{0,200}\}')
_TEXT_FIELD = re.compile(rb'"(type|invocation_id|function_id)"\s{0,9}:\s{0,9}"([^"\\\x00-\x1f\x80-\xff]*)"')

MAX_DEPTH = 100
"""Deepest nesting of what is registered: it is listed to workers whose JSON parsers have limits of their own."""
MAX_REGISTERED_VALUE = 1 << 20
"""Largest description, schema, metadata or config of one registration, in bytes."""


PLAIN_DEPTH = 500
"""Nesting that every parser reads: Python's ends at 1,000 calls, its caller's among them."""
_DIGITS = re.compile(rb"[0-9]{8}")
_LONG_NUMBER = re.compile(rb"[0-9]{4301}")


class Action(msgspec.Struct, omit_defaults=True):
    """How a caller wants a function called: ``type`` is ``void`` or ``enqueue``, the latter with a ``queue``.

    With an ``idempotency_key``, enqueuing the same once more gives the same receipt and no second job.
    """

    type: str = ""
    queue: str | None = None
    idempotency_key: str | None = None


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
    trigger_request_format: msgspec.Raw = ABSENT
    call_request_format: msgspec.Raw = ABSENT
    namespace: msgspec.Raw = ABSENT
    trigger_namespace: msgspec.Raw = ABSENT
    previous_worker_id: msgspec.Raw = ABSENT
    reattach_token: msgspec.Raw = ABSENT


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
    stacktrace: str | None = None


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
    fields: object = None
    if len(frame) <= MAX_SALVAGED_BYTES:
        try:
            fields = json.loads(frame.decode(errors="replace"))
        except (ValueError, RecursionError):
            pass
        else:
            if not isinstance(fields, dict):
                return Malformed(reason)
    if not isinstance(fields, dict):
        fields = _at_the_ends(frame)
    names = ["type", "invocation_id", "function_id"]
    texts = [text if isinstance(text, str) and text.isascii() else "" for text in map(fields.get, names)]
    action = fields.get("action")
    if isinstance(action, dict) and action.get("type") == "void":
        texts[1] = ""  # nobody waits
    return Malformed(reason, *texts)


def _at_the_ends(frame: bytes) -> dict[str, object]:
    """The texts that stand before and behind the payload: what no parser reads, or is too large for a slow one."""
    fields: dict[str, object] = {}
    if frame[:1] != b"{":
        return fields
    head, tail = frame[1:_END], frame[max(1, len(frame) - _END) :].rstrip().removesuffix(b"}")
    for end in (head, tail):
        for action in _ACTION.finditer(end):
            fields["action"] = {"type": "void" if b'"void"' in action[0] else ""}
    head = re.split(rb"[{\[]", _ACTION.sub(b"", head), maxsplit=1)[0]
    tail = re.split(rb"[}\]]", _ACTION.sub(b"", tail))[-1]
    for end in (head, tail):
        for name, text in _TEXT_FIELD.findall(end):
            fields[name.decode()] = text.decode()
    return fields


def decode_error(error: msgspec.Raw) -> ErrorBody | None:
    """Return the parts of a result's error, or None when it has not the form that SDKs can read."""
    try:
        return msgspec.json.decode(error, type=ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        return None


def text_of(value: msgspec.Raw) -> str | None:
    """Return a raw value that is a text; None for everything else, absent and null included."""
    try:
        return msgspec.json.decode(value, type=str) if is_text(value) else None
    except msgspec.DecodeError:
        return None


def is_null(value: msgspec.Raw) -> bool:
    """True for an absent value and for a JSON null, which this protocol does not tell apart."""
    return value in _NOTHING


def is_text(value: msgspec.Raw) -> bool:
    """True for a JSON string."""
    return bytes(memoryview(value)[:1]) == b'"'


def kept(value: msgspec.Raw) -> bytes | None:
    """Return a copy of a raw value that outlives its frame, or None when it is absent or null."""
    return None if is_null(value) else bytes(value)


def listable(value: msgspec.Raw, what: str) -> bytes | None:
    """The same for what will be listed to other workers: only what any JSON parser can read.

    Raises ValueError with a message for the worker's author: too large, nested too deeply, or with numbers that are
    out of range.
    """
    if is_null(value):
        return None
    size = len(memoryview(value))
    if size > MAX_REGISTERED_VALUE:
        raise ValueError(f"the {what} has {size} bytes, more than {MAX_REGISTERED_VALUE}")
    try:
        decoded = msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise ValueError(f"the {what} is not JSON that every worker can read: {error}") from error
    except RecursionError:
        decoded = None
    if decoded is None or _depth_exceeds(decoded, MAX_DEPTH):
        raise ValueError(f"the {what} is nested more than {MAX_DEPTH} levels deep")
    return bytes(value)


def is_plain(frame: bytes) -> bool:
    """Whether any JSON parser reads a message that is JSON: no number is very long, and nothing nested very deeply."""
    # A number that long has several of every 500th byte; most messages need no closer look than that.
    if _DIGITS.search(frame[::500]) and _LONG_NUMBER.search(frame):
        return False
    if frame.count(b"[") + frame.count(b"{") <= PLAIN_DEPTH:
        return True
    try:
        return not _depth_exceeds(msgspec.json.decode(frame), PLAIN_DEPTH)
    except RecursionError:
        return False
    except msgspec.DecodeError:
        return True  # a number that cannot be calculated with, such as 1e999


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                below += each.values()
            elif isinstance(each, list):
                below += each
        if not below:
            return False
        level = below
    return True
