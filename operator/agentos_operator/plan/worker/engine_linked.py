"""EngineLinked: the namespace has a Realm, and the operator a link to its engine."""

from agentos_contracts.reasons import ENGINE_NOT_READY, ENGINE_UNREACHABLE, LINKED, NO_REALM, WorkerCondition

from ..conditions import Verdict, is_true
from ..objects.metadata import engine_address
from .snapshot import WorkerInput


def engine_linked(i: WorkerInput) -> Verdict:
    """The namespace has a Realm and the operator a link to its engine; short breaks do not count."""
    namespace = i.worker["metadata"]["namespace"]
    if i.engine is None and i.engine_ending:
        return Verdict(
            False,
            NO_REALM,
            f"Realm {i.ended_realm} is being deleted: its engine lets calls in progress end, then this Worker's pods stop",
        )
    if i.engine is None and i.ended_realm:
        return Verdict(
            False,
            NO_REALM,
            f"Realm {i.ended_realm}, which had namespace {namespace}, was deleted; make one with spec.namespace: {namespace}, "
            "or delete the Worker",
        )
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
            # Told on the Realm: no Worker's status is written for it.
            return Verdict(True, LINKED)
        return Verdict(
            False,
            ENGINE_NOT_READY,
            f"the engine of realm {i.engine.realm} is starting; see kubectl get realm {i.engine.realm}",
        )
    logs = "" if i.engine.external else f" and kubectl logs -n {namespace} agentos-engine-0"
    return Verdict(
        False,
        ENGINE_UNREACHABLE,
        f"the engine of realm {i.engine.realm} cannot be reached at {engine_address(namespace, i.engine.external)}; "
        f"see kubectl describe realm {i.engine.realm}{logs}",
    )
