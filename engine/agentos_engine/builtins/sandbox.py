"""``sandbox::*``: the engine's, and not served yet."""

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError


def install(bus: Bus) -> None:
    """Answer every function of the namespace with a coded error."""

    def refuse(function_id: str) -> object:
        raise BusError("NOT_SERVED", f"{function_id}: sandbox::* belongs to the engine and is not served yet")

    bus.built_in_namespaces["sandbox"] = refuse
