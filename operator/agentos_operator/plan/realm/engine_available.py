"""EngineAvailable: the engine's pod is ready."""

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import ENGINE_AVAILABLE, ENGINE_STARTING, ENGINE_STORAGE_PENDING, EXTERNAL_ENGINE

from ..conditions import Verdict
from ..pods import refusal, trouble
from .snapshot import RealmInput


def engine_available(i: RealmInput) -> Verdict:
    """The engine's pod is ready; of an engine that somebody else runs there is none."""
    if external_engine(i.realm):
        return Verdict(True, EXTERNAL_ENGINE)
    if i.statefulset is not None and i.statefulset.get("status", {}).get("readyReplicas", 0) >= 1:
        return Verdict(True, ENGINE_AVAILABLE)
    if i.unbound_volume:
        namespace = i.realm["spec"]["namespace"]
        return Verdict(
            False,
            ENGINE_STORAGE_PENDING,
            f"the volume {i.unbound_volume} is not bound; see kubectl describe pvc -n {namespace} {i.unbound_volume}",
        )
    if verdict := refusal(i.statefulset or {}) or trouble(i.pods, i.now):
        return verdict
    return Verdict(False, ENGINE_STARTING, "waiting for the engine's pod")
