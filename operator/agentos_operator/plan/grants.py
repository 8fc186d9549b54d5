"""What each Worker of one realm may do on the bus: from its spec, and from what is recorded for it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentos_contracts.assign import declares_nothing
from agentos_contracts.grants import Grant, GrantError
from agentos_contracts.patterns import Pattern

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
    grants = {
        worker["metadata"]["uid"]: grant_of(
            worker, owns.get(worker["metadata"]["uid"], ()), i.before.get(worker["metadata"]["uid"])
        )
        for worker in i.workers
    }
    for uid in (*i.before, *recorded):
        if uid in grants or not i.lingers(uid):
            continue
        # Its calls in progress go on. What it might call is not known any more when the operator has started anew.
        name = recorded[uid][0].worker if uid in recorded else ""
        before = i.before.get(uid) or Grant(uid, f"{i.namespace}/{name}", calls=(), state_scopes=())
        grants[uid] = replace(before, owns=owns.get(uid, ()), leaving=True, sleeping=False)
    return grants


def grant_of(worker: Object, owns: tuple[Pattern, ...], before: Grant | None) -> Grant:
    """One Worker's grant; ``owns`` is what is recorded for it.

    What cannot be read of its spec (it came past webhook and CRD) stays as it was before, or grants nothing.
    """
    metadata, spec = worker["metadata"], worker.get("spec", {})
    last = before or Grant(metadata["uid"], "", calls=(), state_scopes=())
    leaving = bool(metadata.get("deletionTimestamp"))
    grant = Grant(
        metadata["uid"],
        f"{metadata['namespace']}/{metadata['name']}",
        owns,
        declares_nothing(worker),
        _read("calls", spec.get("calls"), last),
        _read("state_scopes", spec.get("stateScopes"), last),
        leaving=leaving,
        sleeping=spec.get("replicas") == 0 and not leaving,
    )
    return before if before is not None and before == grant else grant


def _read(field: str, value: object, last: Grant) -> Any:
    try:
        return getattr(Grant.from_wire({"uid": last.uid, field: value}), field)
    except GrantError:
        return getattr(last, field)
