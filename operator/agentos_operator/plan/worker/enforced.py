"""Enforced: whether the engine keeps to what the operator grants. It is told, and does not count for Ready."""

from agentos_contracts.reasons import ENGINE_ENFORCES, ENGINE_NOT_OURS

from ..conditions import Verdict
from .snapshot import WorkerInput


def enforced(i: WorkerInput) -> Verdict | None:
    """Whether ownership and calls are enforced for this Worker; None while it is on no engine."""
    if i.engine is None:
        return None
    return Verdict(True, ENGINE_ENFORCES) if i.engine.external is None else Verdict(False, ENGINE_NOT_OURS)
