"""FunctionsClaimed: all that spec.owns names is recorded for this Worker."""

from agentos_contracts.reasons import CLAIM_PENDING, CLAIMED, CLASH, HANDING_OVER, NOTHING_DECLARED, REPLACED

from ..conditions import Verdict
from .snapshot import WorkerInput


def functions_claimed(i: WorkerInput) -> Verdict:
    """Every pattern of spec.owns is recorded for this Worker, and the engine knows it before the first pod starts."""
    pending = Verdict(False, CLAIM_PENDING, "waiting for the engine to take what this Worker may register and call")
    untold = not i.granted and i.deployment is None
    if i.replaced_by:
        other = i.replaced_by
        return Verdict(
            False,
            REPLACED,
            f"Worker {other} has taken over its functions; delete this Worker, or remove spec.replaces of Worker {other}",
        )
    if i.handover is not None:
        return pending if untold else Verdict(False, HANDING_OVER, i.handover.message)
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


def must_not_run(i: WorkerInput) -> bool:
    """Whether pods that there are have to go. A mistake in an edit, or a wish for more, leaves what runs alone."""
    if i.replaced_by:
        return i.released  # until then the engine may still give them calls
    return bool(i.clashes) and not i.held and i.handover is None
