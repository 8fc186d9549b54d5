"""Enforced: whether the engine keeps to what the operator grants. It is told, and does not count for Ready."""

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import ENGINE_ENFORCES, ENGINE_NOT_OURS

from ..bus import listed
from ..conditions import Verdict
from .snapshot import RealmInput


def enforced(i: RealmInput) -> Verdict:
    """Whether ownership and calls are enforced in this realm; names the strangers that serve what a Worker holds."""
    if external_engine(i.realm) is None:
        return Verdict(True, ENGINE_ENFORCES)
    told = [
        f"{listed(sorted(ids))} of Worker {worker} {'is' if len(ids) == 1 else 'are'} also served by {stranger}"
        for (worker, stranger), ids in sorted(i.clashes.items())
    ]
    return Verdict(False, ENGINE_NOT_OURS, " ".join([ENGINE_NOT_OURS.meaning, *(f"{each}." for each in told)]))
