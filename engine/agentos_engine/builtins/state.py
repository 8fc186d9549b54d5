"""``state::*``: JSON values under a scope and a key, and the trigger type ``state`` that tells of their changes."""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from agentos_engine.builtins.stored import Writes, raw, stored
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import MISSING, Context, decode
from agentos_engine.config import SettingsError
from agentos_engine.storage.values import MAX_NAME_LENGTH, MAX_VALUE_BYTES, STATE, ValueStore, check
from agentos_engine.triggers.state import TYPE, StateTrigger
from agentos_engine.updates import OperationError, Operations, Update

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]
ABSENT = msgspec.Raw()


class ScopeInput(msgspec.Struct):
    """Payload of ``state::list``."""

    scope: Name


class ItemInput(ScopeInput):
    """Payload of ``state::get`` and ``state::delete``."""

    key: Name


class SetInput(ItemInput):
    """Payload of ``state::set``; ``data`` is another name of ``value``."""

    value: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT


class UpdateInput(ItemInput):
    """Payload of ``state::update``."""

    ops: Operations


class Changed(msgspec.Struct):
    """Result of ``state::set`` and ``state::update``; an old value that was not there is null."""

    old_value: msgspec.Raw | None
    new_value: msgspec.Raw
    errors: list[OperationError] | msgspec.UnsetType = msgspec.UNSET


class State:
    """Serves them on a bus. ``values`` stays its maker's; ``max_value_bytes``: of one value as JSON."""

    def __init__(self, *, bus: "Bus", values: ValueStore, max_value_bytes: int | None = None) -> None:
        self._bus = bus
        self._values = values
        self._max_value_bytes = MAX_VALUE_BYTES if max_value_bytes is None else max_value_bytes
        self._writes = Writes()
        self.trigger = StateTrigger(bus)
        self._functions: dict[str, tuple[Callable[[Context, bytes], Awaitable[object]], str]] = {
            "state::set": (self._set, "Store a value under a scope and a key"),
            "state::get": (self._get, "Return the value of a scope and a key"),
            "state::delete": (self._delete, "Delete the value of a scope and a key and return it"),
            "state::update": (self._update, "Apply update operations to a value, all at once"),
            "state::list": (self._list, "Return all values of a scope, ordered by key"),
            "state::list_groups": (self._list_groups, "Return the names of all scopes that hold a value"),
        }

    async def start(self) -> None:
        """Add the functions and the trigger type. Raises SettingsError for a bound that no message could keep."""
        if not 0 < self._max_value_bytes <= MAX_VALUE_BYTES:
            raise SettingsError(f"state: max_value_bytes is {self._max_value_bytes}; give 1 to {MAX_VALUE_BYTES}")
        for function_id, (handler, description) in self._functions.items():
            self._bus.functions.add(function_id, handler, description)
        self._bus.triggers.serve(TYPE, self.trigger, "Fires when a value of state::* is created, updated or deleted")

    async def stop(self) -> None:
        """Take them back once the writes in progress are done. What waits for functions is still delivered."""
        for function_id in self._functions:
            self._bus.functions.remove(function_id)
        await self._writes.finish()
        self.trigger.release()
        self._bus.triggers.unserve(TYPE)

    def _set(self, context: Context, data: bytes) -> Awaitable[Changed]:
        function_id = context.function_id
        fields = decode(function_id, data, SetInput)
        value = bytes(fields.value) or bytes(fields.data)
        if not value:
            raise BusError(
                "deserialization_error", f"Failed to deserialize input for {function_id}: missing field `value`"
            )
        check(value, self._max_value_bytes)
        self._check_scope(context, fields.scope)

        async def write() -> Changed:
            old = await stored("SET_ERROR", self._values.set(STATE, fields.scope, fields.key, value))
            self._fire(context, fields, old, value)
            return Changed(raw(old), msgspec.Raw(value))

        return self._writes.carry_out(write())

    def _update(self, context: Context, data: bytes) -> Awaitable[Changed]:
        fields = decode(context.function_id, data, UpdateInput)
        self._check_scope(context, fields.scope)
        update = Update(fields.ops, self._max_value_bytes)

        async def write() -> Changed:
            changing = self._values.update(STATE, fields.scope, fields.key, update)
            old, new = await stored("UPDATE_ERROR", changing)
            self._fire(context, fields, old, new)
            return Changed(raw(old), msgspec.Raw(new), update.errors or msgspec.UNSET)

        return self._writes.carry_out(write())

    def _delete(self, context: Context, data: bytes) -> Awaitable[object]:
        fields = decode(context.function_id, data, ItemInput)
        self._check_scope(context, fields.scope)

        async def write() -> object:
            old = await stored("DELETE_ERROR", self._values.delete(STATE, fields.scope, fields.key))
            trace = context.traceparent, context.baggage
            self.trigger.fire("state:deleted", fields.scope, fields.key, old, None, trace)
            return MISSING if old is None else msgspec.Raw(old)

        return self._writes.carry_out(write())

    async def _get(self, context: Context, data: bytes) -> object:
        fields = decode(context.function_id, data, ItemInput)
        self._check_scope(context, fields.scope)
        value = await stored("GET_ERROR", self._values.get(STATE, fields.scope, fields.key))
        return MISSING if value is None else msgspec.Raw(value)

    async def _list(self, context: Context, data: bytes) -> list[msgspec.Raw]:
        fields = decode(context.function_id, data, ScopeInput)
        self._check_scope(context, fields.scope)
        items = await stored("LIST_ERROR", self._values.list(STATE, fields.scope))
        return [msgspec.Raw(value) for _, value in items]

    async def _list_groups(self, context: Context, data: bytes) -> dict[str, list[str]]:
        groups = await stored("LIST_GROUPS_ERROR", self._values.scopes(STATE))
        permissions = context.connection.permissions if context.connection is not None else None
        return {"groups": groups if permissions is None else [each for each in groups if permissions.sees_scope(each)]}

    def _check_scope(self, context: Context, scope: str) -> None:
        permissions = context.connection.permissions if context.connection is not None else None
        if permissions is not None and permissions.grant.state_scopes is not None:
            try:
                permissions.check_scope(scope, context.function_id)
            except BusError:
                self._bus.permissions_denied["scope"] += 1
                raise

    def _fire(self, context: Context, item: ItemInput, old: bytes | None, new: bytes) -> None:
        # Right after the write returned, without waiting for anything: so events are fired in the order of the writes.
        event_type = "state:created" if old is None else "state:updated"
        self.trigger.fire(event_type, item.scope, item.key, old, new, (context.traceparent, context.baggage))
