"""Decides who owns which function patterns. Pure: no I/O, and no clock but the time passed in.

The rules:

1. What is recorded stays. A holder whose Worker still wants the pattern, or is leaving (deleted, its pods draining),
   keeps it. A holder without a Worker, or whose Worker wants the pattern no longer, is dropped.
2. A Worker gets all the patterns that it lacks, or none of them. A running one that adds a pattern which clashes keeps
   what it has and waits for the rest.
3. Those who wait are ranked by creation time, then uid. Waiting reserves nothing: the oldest whose missing patterns
   are all free gets them.
4. A Worker that holds a part of what it wants cannot be told apart, by the record alone, from one whose grant was
   interrupted between two writes; so it keeps the part. Only for one that is known to have no pods (``started``
   False) is the part removed when the rest cannot be had: it never ran, and would only stand in others' way.
5. One that declared nothing (``piecemeal``) wants what it happens to register: it gets each function that it can.
6. What belongs to the engine is never assigned, and one segment has at most 256 holders.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agentos_contracts.grants import is_sensitive
from agentos_contracts.patterns import Pattern, PatternError, reserved_by

MAX_HOLDERS = 256
"""Most holders of one segment: at 1,000 the apiserver refuses the FunctionClaim's CEL rule as too costly."""
MAX_DISCOVERED = 256
"""Functions that a Worker gets without having declared them; with more it has to write spec.owns."""


class Cause(StrEnum):
    """Why a pattern cannot be had."""

    HELD = "Held"
    RESERVED = "Reserved"
    FULL = "Full"


@dataclass(frozen=True, slots=True)
class Claimant:
    """A Worker that wants patterns.

    ``created``: its creationTimestamp as Kubernetes writes it (RFC 3339 in UTC, so that text order is time order).
    ``leaving``: deleted or gone while its pods still run: keeps what is recorded, gets nothing new.
    ``started``: False when it certainly has no pods (rule 4).
    ``piecemeal``: gets what can be had of its patterns, not all or none (rule 5).
    ``serving``: it runs although nothing is recorded for it: its record was lost, and it goes before all who wait.
    """

    name: str
    uid: str
    created: str
    patterns: tuple[Pattern, ...]
    leaving: bool = False
    started: bool = True
    serving: bool = False
    piecemeal: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """One recorded owner, as in ``spec.holders`` of a FunctionClaim."""

    pattern: str
    worker: str
    uid: str
    since: str


@dataclass(frozen=True, slots=True)
class Clash:
    """Why one wanted pattern cannot be had: ``holder`` has ``held_pattern``, which overlaps it.

    For what belongs to the engine the holder's worker is ``engine``, with neither uid nor since. When the segment is
    full the holder is the first one recorded in it.
    """

    pattern: Pattern
    holder: Holder
    held_pattern: Pattern
    cause: Cause = Cause.HELD

    @property
    def message(self) -> str:
        """What stands in the way, for people."""
        match self.cause:
            case Cause.RESERVED:
                return f"{self.pattern} takes {self.holder.pattern}, which belongs to the engine"
            case Cause.FULL:
                return (
                    f"{self.pattern} finds no room: {MAX_HOLDERS} patterns of {self.pattern.segment} are held already, "
                    f"such as {self.held_pattern} by Worker {self.holder.worker}; claim fewer, wider patterns"
                )
            case Cause.HELD if self.pattern == self.held_pattern:
                return f"{self.pattern} is held by Worker {self.holder.worker}"
            case _:
                return f"{self.pattern} overlaps {self.held_pattern}, which is held by Worker {self.holder.worker}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who holds what.

    ``holders``: for every segment recorded or granted, its complete new list sorted by pattern; empty when nobody
    holds any of it. ``waiting``: uid to what stands in its way. ``granted``: uids of those, not leaving, that hold
    everything they want.
    """

    holders: dict[str, tuple[Holder, ...]]
    waiting: dict[str, tuple[Clash, ...]]
    granted: frozenset[str]


def patterns_of(worker: Mapping[str, Any]) -> tuple[Pattern, ...]:
    """Return the patterns that a Worker claims: those of its spec.owns, each once.

    Empty when one of them is malformed or the engine's: that is told by validation, and nothing of it is claimed.
    """
    wanted: list[Pattern] = []
    for text in worker.get("spec", {}).get("owns") or ():
        try:
            pattern = Pattern.parse(text)
        except (PatternError, TypeError):
            return ()
        if reserved_by(pattern):
            return ()
        wanted.append(pattern)
    return tuple(dict.fromkeys(wanted))


def declares_nothing(worker: Mapping[str, Any]) -> bool:
    """True when spec.owns is left out, so that a Worker gets what it registers, one by one."""
    return worker.get("spec", {}).get("owns") is None


def claimable(function_ids: Iterable[str]) -> tuple[Pattern, ...]:
    """Return the patterns of those functions that can be claimed at all, sorted."""
    return tuple(Pattern.parse(function_id) for function_id in sorted(function_ids) if not unclaimable(function_id))


def unclaimable(function_id: str) -> str:
    """Return why a function that a worker registers cannot be claimed, for people; empty when it can."""
    try:
        pattern = Pattern.parse(function_id)
    except PatternError as error:
        return str(error)
    if function_id.endswith("*"):
        return f"{function_id}: a function's own id must not end in *"
    if reserved_by(pattern):
        return f"{function_id} belongs to the engine"
    if is_sensitive(function_id):  # who calls it trusts it with secrets or decisions: nobody is it by chance
        return f"{function_id} is sensitive: spec.owns has to name it"
    return ""


def assign(claimants: Iterable[Claimant], recorded: Mapping[str, Sequence[Holder]], now: str) -> Assignment:
    """Decide who holds what in one realm.

    ``recorded`` maps a segment to the holders in its FunctionClaim; ``now`` (RFC 3339) becomes ``since`` of what is
    new. The order of the inputs does not matter, and assigning again on the result changes nothing.
    """
    by_uid = {claimant.uid: claimant for claimant in sorted(claimants, key=_rank, reverse=True)}
    ranked = sorted((claimant for claimant in by_uid.values() if not claimant.leaving), key=_rank)
    table = _Table(now)
    table.keep(recorded, by_uid)
    for claimant in ranked:
        table.grant(claimant)
    stranded = [claimant for claimant in ranked if not claimant.started and table.is_partial(claimant)]
    if stranded:
        for claimant in stranded:
            table.release(claimant)
        for claimant in ranked:
            table.grant(claimant)
    return Assignment(
        holders={
            segment: tuple(sorted(held.values()))
            for segment, held in sorted(({key: {} for key in recorded} | table.held).items())
        },
        waiting={claimant.uid: clashes for claimant in ranked if (clashes := table.obstacles(claimant))},
        granted=frozenset(claimant.uid for claimant in ranked if not table.missing(claimant)),
    )


def _rank(claimant: Claimant) -> tuple[bool, str, str]:
    return not claimant.serving, claimant.created, claimant.uid


class _Table:
    """The holders while an assignment is worked out: segment to (pattern text, uid) to holder."""

    def __init__(self, now: str) -> None:
        self.held: dict[str, dict[tuple[str, str], Holder]] = {}
        self._now = now

    def keep(self, recorded: Mapping[str, Sequence[Holder]], claimants: Mapping[str, Claimant]) -> None:
        """Take over the recorded holders that stay; of two that overlap, which no apiserver admits, the older."""
        rows = [
            (holder.since, holder.uid, holder.pattern, segment, holder)
            for segment in recorded
            for holder in recorded[segment]
        ]
        for _, _, _, segment, holder in sorted(rows):
            claimant = claimants.get(holder.uid)
            try:
                pattern = Pattern.parse(holder.pattern)
            except PatternError:
                continue
            if claimant is None or pattern.segment != segment or pattern.text != holder.pattern or reserved_by(pattern):
                continue
            wanted = claimant.leaving or pattern in claimant.patterns
            if wanted and not self._overlapping(pattern, holder.uid):
                self.held.setdefault(segment, {})[pattern.text, holder.uid] = holder

    def grant(self, claimant: Claimant) -> None:
        """Give a claimant all that it lacks, if all of it can be had; piecemeal, what can be had."""
        missing = self.missing(claimant)
        for part in [[each] for each in missing] if claimant.piecemeal else [missing]:
            if self._obstacles(claimant, part):
                continue
            for pattern in part:
                holder = Holder(pattern.text, claimant.name, claimant.uid, self._now)
                self.held.setdefault(pattern.segment, {})[pattern.text, claimant.uid] = holder

    def release(self, claimant: Claimant) -> None:
        """Take back all that a claimant holds."""
        for pattern in claimant.patterns:
            self.held.get(pattern.segment, {}).pop((pattern.text, claimant.uid), None)

    def missing(self, claimant: Claimant) -> list[Pattern]:
        """Return the patterns that a claimant wants and does not hold."""
        return [
            pattern
            for pattern in sorted(set(claimant.patterns))
            if (pattern.text, claimant.uid) not in self.held.get(pattern.segment, {})
        ]

    def is_partial(self, claimant: Claimant) -> bool:
        """True when a claimant holds some of its patterns and lacks others, and needs them together."""
        return not claimant.piecemeal and 0 < len(self.missing(claimant)) < len(set(claimant.patterns))

    def obstacles(self, claimant: Claimant) -> tuple[Clash, ...]:
        """Return all that keeps a claimant from what it lacks."""
        return self._obstacles(claimant, self.missing(claimant))

    def _obstacles(self, claimant: Claimant, wanted: Sequence[Pattern]) -> tuple[Clash, ...]:
        found: list[Clash] = []
        wanted_more: dict[str, int] = {}
        for pattern in wanted:
            wanted_more[pattern.segment] = wanted_more.get(pattern.segment, 0) + 1
            held = self.held.get(pattern.segment, {})
            if reserved := reserved_by(pattern):
                found.append(Clash(pattern, Holder(reserved, "engine", "", ""), Pattern(reserved), Cause.RESERVED))
            elif overlapping := self._overlapping(pattern, claimant.uid):
                found += [Clash(pattern, holder, Pattern(holder.pattern)) for holder in overlapping]
            elif len(held) + wanted_more[pattern.segment] > MAX_HOLDERS:
                first = min(held.values(), default=Holder(pattern.text, claimant.name, claimant.uid, self._now))
                found.append(Clash(pattern, first, Pattern(first.pattern), Cause.FULL))
        return tuple(found)

    def _overlapping(self, pattern: Pattern, uid: str) -> list[Holder]:
        held = self.held.get(pattern.segment, {})
        return sorted(
            holder for holder in held.values() if holder.uid != uid and pattern.clashes(Pattern(holder.pattern))
        )
