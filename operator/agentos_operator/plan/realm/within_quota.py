"""WithinQuota: the realm's Workers have no more together than they may; told beside Ready, for all that runs goes on."""

from agentos_contracts.quota import DIMENSIONS, limits_of
from agentos_contracts.reasons import QUOTA_EXCEEDED, WITHIN_QUOTA

from ..conditions import Verdict
from .snapshot import RealmInput


def within_quota(i: RealmInput) -> Verdict:
    """No limit is passed, and nobody waits for room."""
    limits, used = limits_of(i.realm["spec"].get("quota") or {}), i.allotment.used
    passed = [name for name in DIMENSIONS if name in limits and getattr(used, name) > limits[name]]
    if passed:
        told = ", ".join(f"{name} {used.told()[name]} of {i.realm['spec']['quota'][name]}" for name in passed)
        return Verdict(
            False, QUOTA_EXCEEDED, f"more is used than spec.quota allows: {told}; what runs goes on, nothing grows"
        )
    if waiting := len(i.allotment.over):
        return Verdict(True, WITHIN_QUOTA, f"{waiting} {'Worker waits' if waiting == 1 else 'Workers wait'} for room")
    return Verdict(True, WITHIN_QUOTA)
