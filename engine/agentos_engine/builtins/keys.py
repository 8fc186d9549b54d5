"""``engine::keys::apply``: by which the operator says whose signatures tokens may have from now on."""

import logging

import msgspec
from agentos_contracts.tokens import Role, TokenError, Verifier

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context, decode
from agentos_engine.server.paths import Gate

log = logging.getLogger(__name__)

MAX_KEYS = 16
ID = "engine::keys::apply"


class _Apply(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str]


def install(bus: Bus, gate: Gate) -> None:
    """Add the function to a bus. What it changes lasts as long as the engine runs: at its start ``--verify-keys`` says."""

    def apply(context: Context, data: bytes) -> object:
        caller = context.connection
        if caller is None or caller.peer.role != Role.OPERATOR:
            raise BusError("FORBIDDEN", f"{ID} is for the operator, on a connection of its own")
        keys = decode(ID, data, _Apply).keys
        if len(keys) > MAX_KEYS:
            raise BusError("INVALID_ARGUMENTS", f"at most {MAX_KEYS} keys are accepted at a time")
        try:
            verifier = Verifier.from_text(",".join(keys))
        except TokenError as error:
            raise BusError("INVALID_ARGUMENTS", str(error)) from error
        if caller.peer.key_id not in verifier.key_ids:
            raise BusError("INVALID_ARGUMENTS", "the key of the caller's own token is not among them")
        gate.accept(verifier)
        cut = [each for each in bus.connections.values() if each.peer.key_id not in ("", *verifier.key_ids)]
        for connection in cut:
            bus.disconnect(connection)
            connection.link.end("the key that signed this worker's token is not accepted any more")
        log.info("keys accepted", extra={"key_ids": list(verifier.key_ids), "cut": len(cut)})
        return {"key_ids": list(verifier.key_ids), "cut": len(cut)}

    bus.functions.add(ID, apply, "Says whose tokens are accepted; for the operator")
