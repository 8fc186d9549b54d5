"""EngineLinked: the operator is connected to the engine."""

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import ENGINE_NOT_READY, ENGINE_UNREACHABLE, LINKED, TOKEN_MISSING, RealmCondition

from ..conditions import Verdict, is_true
from ..objects.metadata import engine_address
from .engine_available import engine_available
from .snapshot import RealmInput


def engine_linked(i: RealmInput) -> Verdict:
    """The operator is connected to the engine; short breaks do not count."""
    if i.linked:
        return Verdict(True, LINKED, i.link_error)
    if i.token_missing:
        return Verdict(False, TOKEN_MISSING, i.token_missing)
    if not engine_available(i).ok:
        return Verdict(False, ENGINE_NOT_READY, "the engine is not there yet")
    if i.down_for < i.grace:
        if is_true(i.realm, RealmCondition.ENGINE_LINKED):
            return Verdict(True, LINKED, f"the link has been down for less than {i.grace:.0f} s")
        return Verdict(False, ENGINE_NOT_READY, "waiting for the first connection to the engine")
    external = external_engine(i.realm)
    address = engine_address(i.realm["spec"]["namespace"], external)
    why = f" ({i.link_error})" if i.link_error else ""
    remedy = "see that it runs, and that spec.engine is right" if external else "look at the engine's logs"
    return Verdict(False, ENGINE_UNREACHABLE, f"the operator cannot reach the engine at {address}{why}; {remedy}")
