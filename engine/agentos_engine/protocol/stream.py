"""The messages of the stream port: decoding those of its clients, encoding those of the engine. Bytes in, bytes out."""

from typing import Annotated

import msgspec

from agentos_engine.protocol.frames import text

MAX_NAME_LENGTH = 1024
"""Characters of each name that a client gives: its subscription's, a stream's, a group's, an item's."""
MAX_REASON = 200
"""Characters of what is said about a message that is none."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]


class Subscription(msgspec.Struct, frozen=True, rename="camel"):
    """What a client wants to hear: a group of a stream, or one item of it when ``id`` is given."""

    subscription_id: Name
    stream_name: Name
    group_id: Name
    id: Name | None = None


class Left(msgspec.Struct, frozen=True, rename="camel"):
    """Which subscription a client gives up; the other fields that clients send along say nothing more."""

    subscription_id: Name


class Join(msgspec.Struct, frozen=True, tag_field="type", tag="join"):
    """Subscribe."""

    data: Subscription


class Leave(msgspec.Struct, frozen=True, tag_field="type", tag="leave"):
    """Give up a subscription."""

    data: Left


Request = Join | Leave


class Malformed(Exception):
    """A message that is no request; the text says why."""


_decode = msgspec.json.Decoder(Request).decode


def decode(message: bytes) -> Request:
    """Return what a client asks for. Raises Malformed, and nothing else, whatever the bytes are."""
    try:
        return _decode(message)
    except msgspec.ValidationError as error:
        raise Malformed(f"not a request of the stream protocol: {str(error)[:MAX_REASON]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("not JSON in UTF-8") from error
    except RecursionError as error:
        raise Malformed("nested too deeply") from error


def event(timestamp: int, stream_name: str, group_id: str, item_id: str | None, kind: str, data: bytes) -> bytes:
    """An event for subscribers; it is the payload of ``stream`` triggers as well.

    ``timestamp`` is in milliseconds since 1970, ``kind`` one of sync, create, update, delete, event, unauthorized,
    ``data`` raw JSON.
    """
    return b'{"type":"stream","timestamp":%d,"streamName":%s,"groupId":%s,"id":%s,"event":{"type":"%s","data":%s}}' % (
        timestamp,
        text(stream_name),
        text(group_id),
        text(item_id),
        kind.encode(),
        data,
    )


def custom(kind: str, data: bytes) -> bytes:
    """The ``data`` of an event of kind ``event``: what was given to ``stream::send``."""
    return b'{"type":%s,"data":%s}' % (text(kind), data)


def subscriber(subscription: Subscription, context: bytes) -> bytes:
    """The payload of ``stream:join`` and ``stream:leave`` triggers; ``context`` is raw JSON."""
    return b'{"subscription_id":%s,"stream_name":%s,"group_id":%s,"id":%s,"context":%s}' % (
        text(subscription.subscription_id),
        text(subscription.stream_name),
        text(subscription.group_id),
        text(subscription.id),
        context,
    )


def text_frame(payload: bytes) -> bytes:
    """A whole WebSocket text frame as a server sends it: made once, the same bytes go to every client."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def payload_of(frame: bytes) -> bytes:
    """Return what :func:`text_frame` made a frame of."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]
