"""What each Worker of one realm may do on the bus: from its spec, and from what is recorded for it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentos_contracts.granting import grant_of
from agentos_contracts.grants import Grant

from ..kinds import Object
from .claims import holders, patterns_recorded


@dataclass(frozen=True, slots=True)
class GrantsInput:
    """One realm's Workers, and the FunctionClaims as they stand now.

    ``lingers(uid)`` says whether a Worker that is gone may still serve calls. ``before``: what was granted until now.
    """

    namespace: str
    workers: Sequence[Object]
    claims: Sequence[Object]
    lingers: Callable[[str], bool]
    before: Mapping[str, Grant]


def plan(i: GrantsInput) -> dict[str, Grant]:
    """Decides for a whole realm at once: uid to grant. Who is not in it may do nothing. Pure."""
    recorded = defaultdict(list)
    for claim in i.claims:
        for holder in holders(claim):
            recorded[holder.uid].append(holder)
    owns = {uid: tuple(sorted(patterns_recorded(held))) for uid, held in recorded.items()}
    grants: dict[str, Grant] = {}
    for worker in i.workers:
        uid, leaving = worker["metadata"]["uid"], bool(worker["metadata"].get("deletionTimestamp"))
        grants[uid] = grant_of(worker, uid, owns.get(uid, ()), leaving=leaving, before=i.before.get(uid))
    for uid in (*i.before, *recorded):
        if uid in grants or not i.lingers(uid):
            continue
        # Its calls in progress go on. What it might call is not known any more when the operator has started anew.
        name = recorded[uid][0].worker if uid in recorded else ""
        before = i.before.get(uid) or Grant(uid, f"{i.namespace}/{name}", calls=(), state_scopes=())
        grants[uid] = replace(before, owns=owns.get(uid, ()), leaving=True, sleeping=False)
    return grants
