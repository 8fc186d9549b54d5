"""Who owns what in one realm: the recorded FunctionClaims, and what to write so that they are right."""

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from agentos_contracts.assign import (
    Assignment,
    Claimant,
    Clash,
    Holder,
    assign,
    declares_nothing,
    discovered,
    patterns_of,
)
from agentos_contracts.patterns import Pattern, PatternError, claim_name
from agentos_contracts.resource import API_VERSION

from ..kinds import Object
from ..settings import FIELD_MANAGER, MANAGED_BY_LABEL, REALM_LABEL
from .handover import Handover
from .objects.metadata import owner_references
from .presence import Presence


@dataclass(frozen=True, slots=True)
class ClaimsInput:
    """One realm's Workers and claims."""

    realm: Object
    workers: Sequence[Object]
    claims: Sequence[Object]
    presence: Presence
    handovers: Mapping[str, Handover]
    """How far those Workers are that replace another, by uid."""
    now: datetime
    over_quota: Collection[str] = ()
    """Uids of Workers that go beyond the realm's quota: they keep what they hold, and get nothing."""
    room: int | None = None
    """Functions that the quota has room for besides those that are held or declared; None: as many as come."""


@dataclass(frozen=True, slots=True)
class ClaimsPlan:
    """Claims to create, to replace (by compare and set) and to delete, and what stands in whose way, by Worker uid.

    ``waiting``: of what is declared; ``refused``: of what the Worker has registered without declaring it.
    """

    create: tuple[Object, ...]
    replace: tuple[Object, ...]
    delete: tuple[Object, ...]
    waiting: Mapping[str, tuple[Clash, ...]]
    refused: Mapping[str, tuple[Clash, ...]]
    keeping: frozenset[str]
    """Uids of Workers that hold a pattern which they do not claim any more: each change on the bus may free it."""
    handovers: Mapping[str, Handover]
    """Those that wait for nobody but the Worker that they replace, by uid: each change on the bus may let them take over."""
    replaced: Mapping[str, str]
    """Workers from which another has taken over, by uid: its name."""
    look_again_after: float | None = None
    """Seconds after which time alone may free something."""

    @property
    def writes(self) -> int:
        return len(self.create) + len(self.replace) + len(self.delete)


def plan(i: ClaimsInput) -> ClaimsPlan:
    """Decides for a whole realm at once. Pure."""
    recorded = _with_what_is_served(i, {claim["spec"]["segment"]: holders(claim) for claim in i.claims})
    held = _by_uid(recorded)
    living, room = list[Claimant](), None if i.room is None else max(0, i.room)
    for worker in sorted(i.workers, key=lambda w: (w["metadata"]["creationTimestamp"], w["metadata"]["uid"])):
        if worker["metadata"].get("deletionTimestamp"):
            continue
        recorded_for_it = held.get(worker["metadata"]["uid"], ())
        living.append(claimant(worker, i, recorded_for_it, room))
        if room is not None:
            mine = {holder.pattern for holder in recorded_for_it}
            room -= sum(each.is_function and each.text not in mine for each in living[-1].discovered)
    assignment = assign([*living, *_leaving(held, living, i.presence)], recorded, stamp(i.now))
    now_held = _by_uid(assignment.holders)
    keeping = frozenset(w["metadata"]["uid"] for w in i.workers if gives_up(w, now_held.get(w["metadata"]["uid"], ())))
    return _difference(i, assignment, keeping)


def _by_uid(holders_of: Mapping[str, Sequence[Holder]]) -> dict[str, list[Holder]]:
    held: defaultdict[str, list[Holder]] = defaultdict(list)
    for segment in holders_of.values():
        for holder in segment:
            held[holder.uid].append(holder)
    return held


def claimant(worker: Object, i: ClaimsInput, recorded: Sequence[Holder], room: int | None = None) -> Claimant:
    """A Worker as one who claims; ``recorded`` is what it holds, ``room`` how many functions it may discover besides.

    A mistake in spec.owns leaves it what it holds, as it leaves alone what runs. A pattern that it gave up stays its own as
    long as its pods still serve it, so that nobody else does at the same time.
    """
    metadata, declared = worker["metadata"], patterns_of(worker)
    uid = metadata["uid"]
    held = patterns_recorded(recorded)
    mistaken = not declared and bool(worker.get("spec", {}).get("owns"))
    if uid in i.over_quota:
        declared = tuple(pattern for pattern in declared if pattern in held)
    is_served = partial(i.presence.serves, uid, declared=not declares_nothing(worker))
    kept = tuple(pattern for pattern in held if pattern not in declared and (mistaken or is_served(pattern)))
    handover = i.handovers.get(uid)
    return Claimant(
        metadata["name"],
        uid,
        metadata["creationTimestamp"],
        declared,
        kept + _found(worker, i.presence.registers(uid), room),
        started=i.presence.started(uid),
        serving=bool(declared) and not any(pattern.is_function for pattern in held) and i.presence.serving(uid),
        replaces=handover.replaces if handover else "",
        answers=handover is not None and handover.answers,
    )


def _found(worker: Object, registered: Iterable[str], room: int | None) -> tuple[Pattern, ...]:
    """What a Worker gets by registering it: as many functions as there is ``room`` for, and all else."""
    found = discovered(worker, registered)
    functions = [pattern for pattern in found if pattern.is_function]
    return (*functions[:room], *(pattern for pattern in found if not pattern.is_function))


def _with_what_is_served(
    i: ClaimsInput, recorded: Mapping[str, tuple[Holder, ...]]
) -> Mapping[str, tuple[Holder, ...]]:
    """The record, and what Workers serve of what they discovered although nobody is recorded for it.

    Somebody deleted the record: what a Worker serves on the bus it was granted, and nobody else gets it.
    """
    known = {holder.pattern for held in recorded.values() for holder in held}
    replaced = {each.replaces for each in i.handovers.values()}
    found = {segment: list(held) for segment, held in recorded.items()}
    for worker in i.workers:
        metadata = worker["metadata"]
        if metadata["name"] in replaced:
            continue  # what another has taken over from it, it serves until the engine is told
        lost = [text for text in i.presence.has(metadata["uid"]) if text not in known]
        for pattern in discovered(worker, lost):
            held = found.setdefault(pattern.segment, [])
            if not any(pattern.clashes(Pattern(each.pattern)) for each in held):
                held.append(Holder(pattern.text, metadata["name"], metadata["uid"], stamp(i.now)))
    return {segment: tuple(held) for segment, held in found.items() if held or segment in recorded}


def stamp(now: datetime) -> str:
    """A time as Kubernetes writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def gives_up(worker: Object, recorded: Sequence[Holder]) -> bool:
    """Whether a Worker holds a pattern that it does not claim any more."""
    wanted = {pattern.text for pattern in patterns_of(worker)}
    return any(holder.pattern not in wanted for holder in recorded)


def patterns_recorded(held: Iterable[Holder]) -> tuple[Pattern, ...]:
    """The recorded patterns, without those that make no sense (written by hand)."""
    found = []
    for holder in held:
        with contextlib.suppress(PatternError):
            found.append(Pattern.recorded(holder.pattern))
    return tuple(found)


def holders(claim: Object) -> tuple[Holder, ...]:
    """The recorded holders of one FunctionClaim."""
    return tuple(Holder(h["pattern"], h["worker"], h["uid"], h["since"]) for h in claim["spec"].get("holders", ()))


def _leaving(
    recorded: Mapping[str, Sequence[Holder]], living: Sequence[Claimant], presence: Presence
) -> list[Claimant]:
    known = {c.uid for c in living}
    return [
        Claimant(held[0].worker, uid, held[0].since, (), leaving=True)
        for uid, held in recorded.items()
        if uid not in known and presence.lingers(uid)
    ]


def _difference(i: ClaimsInput, assignment: Assignment, keeping: frozenset[str]) -> ClaimsPlan:
    existing = {claim["spec"]["segment"]: claim for claim in i.claims}
    create, replace, delete = [], [], []
    for segment, wanted in sorted(assignment.holders.items()):
        claim = existing.get(segment)
        if claim is None:
            if wanted:
                create.append(_claim(i.realm, segment, wanted))
        elif not wanted:
            delete.append(claim)
        elif holders(claim) != wanted:
            replace.append(_claim(i.realm, segment, wanted, claim["metadata"]["resourceVersion"]))
    handovers = {uid: each for uid, each in i.handovers.items() if uid in assignment.succeeding}
    return ClaimsPlan(
        tuple(create),
        tuple(replace),
        tuple(delete),
        assignment.waiting,
        assignment.refused,
        keeping,
        handovers,
        assignment.replaced,
        _look_again_after(i, keeping),
    )


def _look_again_after(i: ClaimsInput, keeping: frozenset[str]) -> float | None:
    settling = [i.presence.settles_in(uid) for uid in keeping]
    taking_over = [each.settles_in for each in i.handovers.values()]
    seconds = [each for each in (*settling, *taking_over) if each is not None]
    return min(seconds) + 0.1 if seconds else None


def _claim(realm: Object, segment: str, wanted: Sequence[Holder], resource_version: str | None = None) -> Object:
    metadata: dict[str, Any] = {
        "name": claim_name(segment),
        "namespace": realm["spec"]["namespace"],
        "labels": {MANAGED_BY_LABEL: FIELD_MANAGER, REALM_LABEL: realm["metadata"]["name"]},
        "ownerReferences": owner_references(realm),
    }
    if resource_version:
        metadata["resourceVersion"] = resource_version
    listed = [{"pattern": h.pattern, "worker": h.worker, "uid": h.uid, "since": h.since} for h in wanted]
    return {
        "apiVersion": API_VERSION,
        "kind": "FunctionClaim",
        "metadata": metadata,
        "spec": {"segment": segment, "holders": listed},
    }
