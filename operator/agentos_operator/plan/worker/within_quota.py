"""WithinQuota: there is room for the Worker in what the Realm's Workers may have together."""

from agentos_contracts.quota import refusal
from agentos_contracts.reasons import QUOTA_EXCEEDED, WITHIN_QUOTA

from ..conditions import Verdict
from .snapshot import WorkerInput


def within_quota(i: WorkerInput) -> Verdict:
    """What the Worker wants fits into the Realm's quota; what it has already it keeps."""
    if not i.over_quota or i.engine is None:
        return Verdict(True, WITHIN_QUOTA)
    told = refusal(i.engine.realm, i.over_quota)
    waits = "what runs stays as it is" if i.deployment is not None else "it starts by itself when there is room"
    return Verdict(False, QUOTA_EXCEEDED, f"it {told}; {waits}")
