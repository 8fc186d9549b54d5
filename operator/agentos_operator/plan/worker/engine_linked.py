"""EngineLinked: the namespace has a Realm, and the operator a link to its engine."""

from agentos_contracts.reasons import ENGINE_NOT_READY, ENGINE_UNREACHABLE, LINKED, NO_REALM, WorkerCondition

from ...settings import BUS_PORT
from ..conditions import Verdict, is_true
from ..objects.metadata import engine_host
from .snapshot import WorkerInput


def engine_linked(i: WorkerInput) -> Verdict:
    """The namespace has a Realm and the operator a link to its engine; short breaks do not count."""
    namespace = i.worker["metadata"]["namespace"]
    if i.engine is None:
        return Verdict(
            False,
            NO_REALM,
            f"no Realm has namespace {namespace}; make one with spec.namespace: {namespace}, or apply the Worker in a realm's namespace",
        )
    if i.engine.linked:
        return Verdict(True, LINKED)
    if i.engine.down_for < i.grace:
        if is_true(i.worker, WorkerCondition.ENGINE_LINKED):
            return Verdict(True, LINKED, f"the link to the engine has been down for less than {i.grace:.0f} s")
        return Verdict(
            False,
            ENGINE_NOT_READY,
            f"the engine of realm {i.engine.realm} is starting; see kubectl get realm {i.engine.realm}",
        )
    return Verdict(
        False,
        ENGINE_UNREACHABLE,
        f"the engine of realm {i.engine.realm} cannot be reached at {engine_host(namespace)}:{BUS_PORT}; "
        f"see kubectl describe realm {i.engine.realm} and kubectl logs -n {namespace} agentos-engine-0",
    )
