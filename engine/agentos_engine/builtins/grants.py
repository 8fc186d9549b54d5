"""``engine::grants::*``: by which the operator says what each worker may do."""

import msgspec
from agentos_contracts.grants import Grant, GrantError
from agentos_contracts.tokens import Role

from agentos_engine import limits
from agentos_engine.builtins.stored import stored
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode, decode_optional


class _Apply(msgspec.Struct, forbid_unknown_fields=True):
    complete: bool = False
    grants: list[object] = []
    removed: list[str] = []


def install(bus: Bus) -> None:
    """Add the functions to a bus."""

    async def apply(context: Context, data: bytes) -> object:
        _check_operator(context)
        wanted = decode(context.function_id, data, _Apply)
        given = []
        for index, each in enumerate(wanted.grants):
            try:
                given.append(Grant.from_wire(each))
            except GrantError as error:
                raise BusError("INVALID_ARGUMENTS", f"grants[{index}].{error}") from error
        applying = bus.grants.apply(given, wanted.removed, complete=wanted.complete)
        return {"applied": await stored("GRANTS_ERROR", applying)}

    def listing(context: Context, data: bytes) -> object:
        _check_operator(context)
        decode_optional(context.function_id, data, dict[str, object])
        return {"grants": [grant.to_wire() for grant in bus.grants.all()]}

    bus.functions.add(
        "engine::grants::apply",
        apply,
        "Says what workers may register and call; for the operator",
        max_payload=limits.MAX_MESSAGE,  # a whole realm's come at once
    )
    bus.functions.add("engine::grants::list", listing, "Returns what each worker may do; for the operator")


def _check_operator(context: Context) -> None:
    """Raise BusError FORBIDDEN unless the caller is the operator, on a connection of its own."""
    caller = context.connection
    if caller is None or caller.peer.role != Role.OPERATOR:
        raise BusError("FORBIDDEN", f"{context.function_id} is for the operator, on a connection of its own")
