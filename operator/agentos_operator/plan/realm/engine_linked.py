"""EngineLinked: the operator is connected to the engine."""

from agentos_contracts.reasons import ENGINE_NOT_READY, ENGINE_UNREACHABLE, LINKED, RealmCondition

from ...settings import BUS_PORT
from ..conditions import Verdict, is_true
from ..objects.metadata import engine_host
from .engine_available import engine_available
from .snapshot import RealmInput


def engine_linked(i: RealmInput) -> Verdict:
    """The operator is connected to the engine; short breaks do not count."""
    if i.linked:
        return Verdict(True, LINKED, i.link_error)
    if not engine_available(i).ok:
        return Verdict(False, ENGINE_NOT_READY, "the engine is not there yet")
    if i.down_for < i.grace:
        if is_true(i.realm, RealmCondition.ENGINE_LINKED):
            return Verdict(True, LINKED, f"the link has been down for less than {i.grace:.0f} s")
        return Verdict(False, ENGINE_NOT_READY, "waiting for the first connection to the engine")
    host = engine_host(i.realm["spec"]["namespace"])
    why = f" ({i.link_error})" if i.link_error else ""
    return Verdict(
        False,
        ENGINE_UNREACHABLE,
        f"the operator cannot reach the engine at {host}:{BUS_PORT}{why}; look at the engine's logs",
    )
