"""Functions that belong to the engine and are not served: each answers with a coded error that says so."""

from agentos_contracts.patterns import BUILT_IN_IDS

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.functions import Context

CODE = "NOT_SERVED"

_REASONS = {
    "sandbox": "sandbox::* belongs to the engine and is not served yet",
    "worker": "workers are run by the operator (kubectl apply) or by `agentos up`, not by the engine",
    "compose": "workers are run by the operator (kubectl apply) or by `agentos up`, not by the engine",
}


def install(bus: Bus) -> None:
    """Answer all of ``sandbox::*``, and the functions of iii's operations daemon."""

    def refuse(context: Context, data: bytes) -> object:
        reason = _REASONS[context.function_id.partition("::")[0]]
        raise BusError(CODE, f"{context.function_id}: {reason}")

    bus.functions.add_family("sandbox", refuse, "Sandboxes: not served yet.")
    for function_id in BUILT_IN_IDS:
        if function_id.partition("::")[0] in ("worker", "compose"):
            bus.functions.add(function_id, refuse, "Not served: the operator runs workers.", internal=True)
