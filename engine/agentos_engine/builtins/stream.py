"""``stream::*``: JSON values under a stream, a group and an item, and all who are told what happens to them.

A worker that registers ``stream::get(NAME)``, ``stream::set(NAME)``, ``stream::delete(NAME)``, ``stream::list(NAME)``
or ``stream::list_groups(NAME)`` keeps the values of that stream itself: it is called with the same payload, and what it
answers goes back.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from agentos_engine import limits
from agentos_engine.builtins.stored import Writes, raw, stored
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context, decode
from agentos_engine.config import port_taken
from agentos_engine.observability.trace_context import NO_TRACE, Trace, carried
from agentos_engine.protocol.stream import Subscription, custom, event, subscriber, text_frame
from agentos_engine.server.paths import AccessError, Gate, parse_path
from agentos_engine.server.stream import Handshake, StreamServer
from agentos_engine.server.stream_client import Event, Feed, Wire
from agentos_engine.server.tls import Tls
from agentos_engine.storage.values import (
    MAX_LIST_BYTES,
    MAX_NAME_LENGTH,
    MAX_VALUE_BYTES,
    STREAM,
    StorageError,
    ValueStore,
    check,
)
from agentos_engine.triggers.stream import StreamTriggers
from agentos_engine.updates import OperationError, Operations, Update

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

AUTH_TIMEOUT = 10.0
"""Seconds for ``auth_function`` to decide about a client."""
READ_TIMEOUT = 30.0
"""Seconds for a worker that keeps a stream itself to answer when a client is to be synced."""

Result = TypeVar("Result")
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]


class StreamInput(msgspec.Struct):
    """Payload of ``stream::list_groups``."""

    stream_name: Name


class GroupInput(StreamInput):
    """Payload of ``stream::list``."""

    group_id: Name


class ItemInput(GroupInput):
    """Payload of ``stream::get`` and ``stream::delete``."""

    item_id: Name


class SetInput(ItemInput):
    """Payload of ``stream::set``."""

    data: msgspec.Raw


class UpdateInput(ItemInput):
    """Payload of ``stream::update``."""

    ops: Operations


class SendInput(GroupInput):
    """Payload of ``stream::send``."""

    type: str
    data: msgspec.Raw
    id: Name | None = None


class Changed(msgspec.Struct):
    """Result of ``stream::set`` and ``stream::update``; an old value that was not there is null."""

    old_value: msgspec.Raw | None
    new_value: msgspec.Raw
    errors: list[OperationError] | msgspec.UnsetType = msgspec.UNSET


class Kept(msgspec.Struct):
    """What a worker that keeps a stream itself answers to a write, as far as it does: null is as good as nothing."""

    old_value: msgspec.Raw = msgspec.Raw(b"null")
    new_value: msgspec.Raw = msgspec.Raw(b"null")


class Streams:
    """Serves them on a bus, and clients on a port of its own. ``values`` stays its maker's.

    ``auth_function`` is called for each client with ``{"headers", "path", "query_params", "addr"}`` and answers
    ``{"context": …}``, which stream:join and stream:leave triggers get. Any other answer, an error, or none within
    AUTH_TIMEOUT, and the client is not let in. Without one, ``gate`` decides by the token in the path; without either,
    everybody is let in.
    """

    def __init__(
        self,
        *,
        bus: "Bus",
        values: ValueStore,
        host: str = "127.0.0.1",
        port: int = 3112,
        auth_function: str | None = None,
        gate: Gate | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.port = port
        """Once started, the one that is listened on: 0 becomes a free one."""
        self.clock = bus.clock
        self.triggers = StreamTriggers(bus)
        self._bus = bus
        self._values = values
        self._host = host
        self._auth_function = auth_function
        self._gate = gate
        self.feed = Feed(bus.bounds)
        """Where events are published."""
        self.server = StreamServer(self, self.feed, bus.clock, tls)
        self._writes = Writes()
        self._started = False
        self._functions: dict[str, tuple[Callable[[Context, bytes], object | Awaitable[object]], str]] = {
            "stream::set": (self._set, "Store an item of a stream's group and tell its subscribers"),
            "stream::get": (self._get, "Return an item of a stream's group"),
            "stream::delete": (self._delete, "Delete an item of a stream's group and tell its subscribers"),
            "stream::update": (self._update, "Apply update operations to an item, all at once"),
            "stream::list": (self._list, "Return all items of a stream's group, ordered by their ids"),
            "stream::list_groups": (self._list_groups, "Return the names of a stream's groups"),
            "stream::list_all": (self._list_all, "Return all streams and their groups"),
            "stream::send": (self._send, "Send an event to subscribers that is not stored"),
        }

    async def start(self) -> None:
        """Listen, and add functions and trigger types. Raises SettingsError when the port cannot be had."""
        try:
            self.port = await self.server.listen(self._host, self.port)
        except OSError as error:
            raise port_taken("stream", self._host, self.port, error) from error
        self._started = True
        for function_id, (handler, description) in self._functions.items():
            self._bus.functions.add(function_id, handler, description)
        self.triggers.serve()

    async def stop(self) -> None:
        """Take all that back once the writes in progress are done; clients are disconnected, so that they come again."""
        if not self._started:
            return
        self._started = False
        for function_id in self._functions:
            self._bus.functions.remove(function_id)
        await self._writes.finish(limits.DRAIN_TIMEOUT)
        await self.server.close()
        self.triggers.unserve()

    # Functions

    def _set(self, context: Context, data: bytes) -> Awaitable[object]:
        fields = decode(context.function_id, data, SetInput)
        value = bytes(fields.data)
        check(value, MAX_VALUE_BYTES)

        async def write() -> object:
            if (override := self._override("set", fields.stream_name)) is not None:
                answer = await self._call(context, override, data)
                old, new = _kept(answer)
                self._publish_change(
                    context, fields, "create" if old == b"null" else "update", value if new == b"null" else new
                )
                return _given(answer)
            storing = self._values.set(STREAM + fields.stream_name, fields.group_id, fields.item_id, value)
            old = await stored("STREAM_SET_ERROR", storing)
            self._publish_change(context, fields, "create" if old is None else "update", value)
            return Changed(raw(old), msgspec.Raw(value))

        return self._writes.carry_out(write())

    def _update(self, context: Context, data: bytes) -> Awaitable[object]:
        fields = decode(context.function_id, data, UpdateInput)
        update = Update(fields.ops, MAX_VALUE_BYTES)

        async def write() -> object:
            changing = self._values.update(STREAM + fields.stream_name, fields.group_id, fields.item_id, update)
            old, new = await stored("STREAM_UPDATE_ERROR", changing)
            self._publish_change(context, fields, "create" if old is None else "update", new)
            return Changed(raw(old), msgspec.Raw(new), update.errors or msgspec.UNSET)

        return self._writes.carry_out(write())

    def _delete(self, context: Context, data: bytes) -> Awaitable[object]:
        fields = decode(context.function_id, data, ItemInput)

        async def write() -> object:
            if (override := self._override("delete", fields.stream_name)) is not None:
                answer = await self._call(context, override, data)
                self._publish_change(context, fields, "delete", _kept(answer)[0])
                return _given(answer)
            deleting = self._values.delete(STREAM + fields.stream_name, fields.group_id, fields.item_id)
            old = await stored("STREAM_DELETE_ERROR", deleting)
            if old is not None:
                self._publish_change(context, fields, "delete", old)
            return {"old_value": raw(old)}

        return self._writes.carry_out(write())

    async def _get(self, context: Context, data: bytes) -> object:
        fields = decode(context.function_id, data, ItemInput)
        if (override := self._override("get", fields.stream_name)) is not None:
            return _given(await self._call(context, override, data))
        getting = self._values.get(STREAM + fields.stream_name, fields.group_id, fields.item_id)
        return _given(await stored("STREAM_GET_ERROR", getting))

    async def _list(self, context: Context, data: bytes) -> object:
        fields = decode(context.function_id, data, GroupInput)
        if (override := self._override("list", fields.stream_name)) is not None:
            return _given(await self._call(context, override, data))
        return msgspec.Raw(await self._items(fields.stream_name, fields.group_id))

    async def _list_groups(self, context: Context, data: bytes) -> object:
        fields = decode(context.function_id, data, StreamInput)
        if (override := self._override("list_groups", fields.stream_name)) is not None:
            return _given(await self._call(context, override, data))
        return await stored("STREAM_LIST_GROUPS_ERROR", self._values.scopes(STREAM + fields.stream_name))

    async def _list_all(self, context: Context, data: bytes) -> object:
        code = "STREAM_LIST_ALL_ERROR"
        streams: list[dict[str, object]] = []
        size = 0
        for space in await stored(code, self._values.spaces()):
            if space.startswith(STREAM):
                groups = await stored(code, self._values.scopes(space))
                size += len(space) + sum(map(len, groups))
                if size > MAX_LIST_BYTES:
                    raise StorageError(
                        "listing_too_large",
                        f"The names of all streams and groups have more than {MAX_LIST_BYTES} characters; "
                        "list the groups of one stream at a time.",
                    )
                streams.append({"id": space.removeprefix(STREAM), "groups": groups})
        return {"stream": streams, "count": len(streams)}

    def _send(self, context: Context, data: bytes) -> None:
        fields = decode(context.function_id, data, SendInput)
        self._publish(context, fields, fields.id, "event", custom(fields.type, bytes(fields.data)), change=False)

    async def _call(self, context: Context, override: str, data: bytes) -> bytes | None:
        return await self._bus.call(override, data, traceparent=context.traceparent, baggage=context.baggage)

    def _override(self, operation: str, stream_name: str) -> str | None:
        """The function of the worker that keeps a stream itself, if one does."""
        function_id = f"stream::{operation}({stream_name})"
        return function_id if self._bus.registry.owners(function_id) is not None else None

    async def _items(self, stream_name: str, group_id: str) -> bytes:
        items = await stored("STREAM_GET_GROUP_ERROR", self._values.list(STREAM + stream_name, group_id))
        return b"[%b]" % b",".join(value for _, value in items)

    # Events

    def _publish_change(self, context: Context, item: ItemInput, kind: str, data: bytes) -> None:
        # Right after the write returned, without waiting for anything: so events come in the order of the writes.
        self._publish(context, item, item.item_id, kind, data, change=True)

    def _publish(
        self, context: Context, group: GroupInput, item_id: str | None, kind: str, data: bytes, *, change: bool
    ) -> None:
        stream_name, group_id = group.stream_name, group.group_id
        heard, bound = self.feed.wants(stream_name, group_id), self.triggers.wants(stream_name)
        if not heard and not bound:
            return
        payload = event(int(self.clock.time() * 1000), stream_name, group_id, item_id, kind, data)
        if heard:
            self.feed.publish(stream_name, group_id, Event(text_frame(payload), item_id, change))
        if bound:
            trace = context.traceparent, context.baggage
            self.triggers.changed(stream_name, group_id, item_id, payload, trace)

    # For the clients of the port

    async def authenticate(self, handshake: Handshake, wire: Wire) -> bytes:
        """Return the context of a client that connects, as raw JSON. Raises BusError when it is not let in."""
        if self._auth_function is None:
            if self._gate is not None:
                try:
                    target = parse_path(handshake.path.encode("latin-1", "replace"))
                    identity = self._gate.identify(target, handshake.headers.get("origin"))
                    if identity is not None:
                        self._gate.follow(identity, wire)
                except AccessError as error:
                    raise BusError("AUTH_ERROR", str(error)) from error
            return b"null"
        payload = {
            "headers": handshake.headers,
            "path": handshake.path,
            "query_params": handshake.query,
            "addr": handshake.address,
        }
        traceparent, baggage = carried(*handshake.trace)
        answer = await self._bus.call(
            self._auth_function,
            msgspec.json.encode(payload),
            traceparent=traceparent,
            baggage=baggage,
            timeout=AUTH_TIMEOUT,
        )
        try:
            return bytes(msgspec.json.decode(answer or b"null", type=_Admission).context)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError("AUTH_ERROR", f"{self._auth_function} has to answer with an object: {error}") from error

    async def join(self, subscription: Subscription, context: bytes, trace: Trace = NO_TRACE) -> bool:
        """Ask the stream:join triggers."""
        return await self.triggers.join(subscriber(subscription, context), trace)

    def leave(self, subscription: Subscription, context: bytes, trace: Trace = NO_TRACE) -> None:
        """Tell the stream:leave triggers."""
        self.triggers.leave(subscriber(subscription, context), trace)

    async def read(self, stream_name: str, group_id: str, key: str | None) -> bytes:
        """Return, as raw JSON, an item or null, or without a key the list of a group's items. Raises BusError."""
        fields = {"stream_name": stream_name, "group_id": group_id}
        if key is None:
            if (override := self._override("list", stream_name)) is not None:
                return await self._bus.call(override, msgspec.json.encode(fields), timeout=READ_TIMEOUT) or b"[]"
            return await self._items(stream_name, group_id)
        if (override := self._override("get", stream_name)) is not None:
            payload = msgspec.json.encode(fields | {"item_id": key})
            return await self._bus.call(override, payload, timeout=READ_TIMEOUT) or b"null"
        getting = self._values.get(STREAM + stream_name, group_id, key)
        return await stored("STREAM_GET_ERROR", getting) or b"null"


class _Admission(msgspec.Struct):
    """What ``auth_function`` answers."""

    context: msgspec.Raw = msgspec.Raw(b"null")


def _kept(answer: bytes | None) -> tuple[bytes, bytes]:
    """Return the old and the new value that a worker tells of; one that says nothing has made something new."""
    try:
        kept = msgspec.json.decode(answer or b"{}", type=Kept)
    except (msgspec.DecodeError, RecursionError):
        kept = Kept()
    return bytes(kept.old_value), bytes(kept.new_value)


def _given(value: bytes | None) -> object:
    return MISSING if value is None else msgspec.Raw(value)
