"""FunctionsClaimed: all that spec.owns names is recorded for this Worker."""

from agentos_contracts.reasons import CLAIM_PENDING, CLAIMED, CLASH, NOTHING_DECLARED

from ..conditions import Verdict
from .snapshot import WorkerInput


def functions_claimed(i: WorkerInput) -> Verdict:
    """Every pattern of spec.owns is recorded for this Worker, and the engine knows it before the first pod starts."""
    pending = Verdict(False, CLAIM_PENDING, "waiting for the engine to take what this Worker may register and call")
    untold = not i.granted and i.deployment is None
    if not i.wanted:
        return pending if untold else Verdict(True, NOTHING_DECLARED)
    if i.clashes:
        held = "; ".join(clash.message for clash in i.clashes)
        return Verdict(
            False, CLASH, f"{held}; no pod runs until it is free: delete the holder, or claim other functions"
        )
    missing = sorted(pattern.text for pattern in i.wanted if pattern.text not in i.held)
    if missing:
        return Verdict(False, CLAIM_PENDING, f"{', '.join(missing)}: the claim is being recorded")
    if untold:
        return pending
    return Verdict(True, CLAIMED, ", ".join(sorted(pattern.text for pattern in i.wanted)))
