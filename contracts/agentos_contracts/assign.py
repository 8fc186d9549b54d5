"""Decides who owns which function patterns, HTTP routes and trigger types. Pure: no I/O, no clock but the time passed in.

The rules:

1. What is recorded stays. A holder whose Worker still wants the pattern, or is leaving (deleted, its pods draining),
   keeps it. A holder without a Worker, or whose Worker wants the pattern no longer, is dropped.
2. What a Worker declares (``patterns``) it gets as a whole: all that it lacks, or none of it. A running one that adds a
   pattern which clashes keeps what it has and waits for the rest. What it turns out to want as it runs (``discovered``)
   it gets one by one, what can be had. It may want both.
3. Those who wait are ranked by creation time, then uid. Waiting reserves nothing: the oldest whose missing patterns
   are all free gets them.
4. A Worker that holds a part of what it declares cannot be told apart, by the record alone, from one whose grant was
   interrupted between two writes; so it keeps the part. Only for one that is known to have no pods (``started``
   False) is the part removed when the rest cannot be had: it never ran, and would only stand in others' way.
5. What belongs to the engine is never assigned, one segment has at most 256 holders, and one Worker gets at most 256
   patterns that it has not declared.
6. A Worker may replace another, by name. Until it ``answers`` it waits as everybody does; when it does, and nobody else
   stands in its way, it takes in one step what it wants, and the replaced one loses all that it holds. From then on that
   one gets nothing, as long as the other holds anything. In a circle of Workers that replace each other, the one that
   replaces a younger one is no part of it: the newest wish counts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentos_contracts.claimables import is_claimable
from agentos_contracts.grants import is_sensitive
from agentos_contracts.patterns import Pattern, PatternError, reserved_by

MAX_HOLDERS = 256
"""Most holders of one segment: at 1,000 the apiserver refuses the FunctionClaim's CEL rule as too costly."""
MAX_DISCOVERED = 256
"""Most patterns that a Worker gets without having declared them; for more functions it has to write spec.owns."""


class Cause(StrEnum):
    """Why a pattern cannot be had."""

    HELD = "Held"
    RESERVED = "Reserved"
    FULL = "Full"
    BEYOND = "Beyond"
    """The Worker has discovered more than it gets without declaring it."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A Worker that wants patterns.

    ``patterns``: what it declares; all of it or nothing. ``discovered``: what it wants as it turns out, each by itself;
    also what it gave up and still serves. What is in both counts as declared. Of one that is ``leaving`` neither counts.
    ``created``: its creationTimestamp as Kubernetes writes it (RFC 3339 in UTC, so that text order is time order).
    ``leaving``: deleted or gone while its pods still run: keeps what is recorded, gets nothing new.
    ``started``: False when it certainly has no pods (rule 4).
    ``serving``: it runs although nothing is recorded for it: its record was lost, and it goes before all who wait.
    ``replaces``: the name of the Worker whose patterns it takes over. ``answers``: its pods are up and have registered
    all that it needs for that (rule 6).
    """

    name: str
    uid: str
    created: str
    patterns: tuple[Pattern, ...]
    discovered: tuple[Pattern, ...] = ()
    leaving: bool = False
    started: bool = True
    serving: bool = False
    replaces: str = ""
    answers: bool = False


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
    full the holder is the first one recorded in it; what is beyond MAX_DISCOVERED has the Worker itself as its holder.
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
            case Cause.BEYOND:
                return (
                    f"{self.pattern} is beyond the {MAX_DISCOVERED} that a Worker gets without declaring them; "
                    "name its functions in spec.owns"
                )
            case Cause.HELD if self.pattern == self.held_pattern:
                return f"{self.pattern} is held by Worker {self.holder.worker}"
            case _:
                return f"{self.pattern} overlaps {self.held_pattern}, which is held by Worker {self.holder.worker}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who holds what.

    ``holders``: for every segment recorded or granted, its complete new list sorted by pattern; empty when nobody
    holds any of it. ``waiting``: uid to what stands in the way of what it declares. ``refused``: uid to what stands in
    the way of what it discovered, for each pattern by itself. ``succeeding``: uids of those that wait for nobody but the
    Worker that they replace: they may run already. ``replaced``: uid to the name of the Worker that has taken over.
    """

    holders: dict[str, tuple[Holder, ...]]
    waiting: dict[str, tuple[Clash, ...]]
    refused: dict[str, tuple[Clash, ...]]
    succeeding: frozenset[str] = frozenset()
    replaced: dict[str, str] = field(default_factory=dict)


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


def claimable(registered: Iterable[str]) -> tuple[Pattern, ...]:
    """Return the patterns of those functions, routes and trigger types that can be claimed at all, sorted."""
    return tuple(Pattern.recorded(text) for text in sorted(registered) if not unclaimable(text))


def discovered(worker: Mapping[str, Any], registered: Iterable[str]) -> tuple[Pattern, ...]:
    """Return what a Worker may get because it registers it: routes and trigger types, and functions if it declares none."""
    undeclared = declares_nothing(worker)
    return tuple(pattern for pattern in claimable(registered) if undeclared or not pattern.is_function)


def unclaimable(function_id: str) -> str:
    """Return why a function that a worker registers cannot be claimed, for people; empty when it can.

    Routes and trigger types, as :mod:`agentos_contracts.claimables` writes them, always can.
    """
    if is_claimable(function_id):
        return ""
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
    table = _Table(now, _replaced_by(by_uid.values()))
    table.keep(recorded, by_uid)
    table.settle(ranked)
    stranded = [claimant for claimant in ranked if not claimant.started and table.is_partial(claimant)]
    if stranded:
        for claimant in stranded:
            table.release(claimant)
        table.settle(ranked)
    return Assignment(
        holders={
            segment: tuple(sorted(held.values()))
            for segment, held in sorted(({key: {} for key in recorded} | table.held).items())
        },
        waiting={claimant.uid: clashes for claimant in ranked if (clashes := table.obstacles(claimant))},
        refused={claimant.uid: clashes for claimant in ranked if (clashes := table.refusals(claimant))},
        succeeding=frozenset(claimant.uid for claimant in ranked if table.succeeds(claimant)),
        replaced={
            claimant.uid: other.name for claimant in ranked if (other := table.successor(claimant.uid)) is not None
        },
    )


def _replaced_by(claimants: Collection[Claimant]) -> dict[str, frozenset[str]]:
    """Return the uids of those that a claimant replaces, all of that name that there are, by its own uid."""
    named: dict[str, set[str]] = {}
    for claimant in claimants:
        named.setdefault(claimant.name, set()).add(claimant.uid)
    replacing = {each.name: each for each in claimants if each.replaces and not each.leaving}
    return {
        claimant.uid: frozenset(named.get(claimant.replaces, ()))
        for claimant in replacing.values()
        if claimant.replaces != claimant.name and not _is_older_in_circle(claimant, replacing)
    }


def _is_older_in_circle(claimant: Claimant, replacing: Mapping[str, Claimant]) -> bool:
    """True when the Workers that a claimant replaces, one after the other, come back to it, and it is the older one."""
    first = following = replacing.get(claimant.replaces)
    passed: set[str] = set()
    while following is not None and following.name not in passed:
        if following.name == claimant.name:
            return first is not None and (claimant.created, claimant.uid) < (first.created, first.uid)
        passed.add(following.name)
        following = replacing.get(following.replaces)
    return False


def _rank(claimant: Claimant) -> tuple[bool, str, str]:
    return not claimant.serving, claimant.created, claimant.uid


class _Table:
    """The holders while an assignment is worked out: segment to (pattern text, uid) to holder."""

    def __init__(self, now: str, replaced_by: Mapping[str, frozenset[str]]) -> None:
        self.held: dict[str, dict[tuple[str, str], Holder]] = {}
        self._now = now
        self._replaced_by = replaced_by
        self._replacing: list[Claimant] = []

    def keep(self, recorded: Mapping[str, Sequence[Holder]], claimants: Mapping[str, Claimant]) -> None:
        """Take over the recorded holders that stay; of two that overlap, which no apiserver admits, the older."""
        rows = [
            (holder.since, holder.uid, holder.pattern, segment, holder)
            for segment in recorded
            for holder in recorded[segment]
        ]
        wanted = {uid: frozenset(each.patterns + each.discovered) for uid, each in claimants.items()}
        for _, _, _, segment, holder in sorted(rows):
            claimant = claimants.get(holder.uid)
            try:
                pattern = Pattern.recorded(holder.pattern)
            except PatternError:
                continue
            if claimant is None or pattern.segment != segment or pattern.text != holder.pattern or reserved_by(pattern):
                continue
            stays = claimant.leaving or pattern in wanted[claimant.uid]
            if stays and not self._overlapping(pattern, holder.uid):
                self.held.setdefault(segment, {})[pattern.text, holder.uid] = holder

    def settle(self, ranked: Sequence[Claimant]) -> None:
        """Grant what can be had and hand over what can be, until neither changes anything; the circles are cut, so it ends."""
        self._replacing = [claimant for claimant in ranked if claimant.uid in self._replaced_by]
        while True:
            for claimant in ranked:
                self.grant(claimant)
            if not any(self._hand_over(claimant) for claimant in self._replacing):
                return

    def grant(self, claimant: Claimant) -> None:
        """Give a claimant what it declares, if all that it lacks of it can be had, and what can be had of the rest."""
        if self.successor(claimant.uid) is not None:
            return
        missing = self._missing(claimant, claimant.patterns)
        if not self._obstacles(claimant, missing):
            self._take(claimant, missing)
        undeclared = self._undeclared(claimant)
        room = MAX_DISCOVERED - (len(set(claimant.discovered) - set(claimant.patterns)) - len(undeclared))
        for pattern in undeclared:
            if room > 0 and not self._obstacles(claimant, [pattern]):
                self._take(claimant, [pattern])
                room -= 1

    def successor(self, uid: str) -> Claimant | None:
        """Return the one that has taken over from a claimant, itself or from the one that did, or None."""
        if self._holds(uid):
            return None
        for claimant in self._replacing:
            if uid in self._replaced_by[claimant.uid]:
                taken = claimant if self._holds(claimant.uid) else self.successor(claimant.uid)
                if taken is not None:
                    return taken
        return None

    def succeeds(self, claimant: Claimant) -> bool:
        """True when nobody but those that a claimant replaces stands in its way."""
        replaced = self._replaced_by.get(claimant.uid, frozenset())

        def is_theirs(clash: Clash) -> bool:
            return clash.cause == Cause.HELD and clash.holder.uid in replaced

        obstacles = self.obstacles(claimant)
        return all(map(is_theirs, obstacles)) and any(map(is_theirs, (*obstacles, *self.refusals(claimant))))

    def _hand_over(self, claimant: Claimant) -> bool:
        """Have a claimant that answers take over from those that it replaces; True when it does."""
        giving = {uid for uid in self._replaced_by[claimant.uid] if self._holds(uid)}
        if not giving or not claimant.answers:
            return False
        before, self.held = self.held, {}
        for segment, held in before.items():
            self.held[segment] = {key: holder for key, holder in held.items() if holder.uid not in giving}
        self.grant(claimant)
        if self._missing(claimant, claimant.patterns) or not self._holds(claimant.uid):
            self.held = before
            return False
        return True

    def _holds(self, uid: str) -> bool:
        return any(holder.uid == uid for held in self.held.values() for holder in held.values())

    def release(self, claimant: Claimant) -> None:
        """Take back what a claimant holds of what it declares."""
        for pattern in claimant.patterns:
            self.held.get(pattern.segment, {}).pop((pattern.text, claimant.uid), None)

    def is_partial(self, claimant: Claimant) -> bool:
        """True when a claimant holds some of what it declares and lacks the rest."""
        return 0 < len(self._missing(claimant, claimant.patterns)) < len(set(claimant.patterns))

    def obstacles(self, claimant: Claimant) -> tuple[Clash, ...]:
        """Return all that keeps a claimant from what it declares."""
        return self._obstacles(claimant, self._missing(claimant, claimant.patterns))

    def refusals(self, claimant: Claimant) -> tuple[Clash, ...]:
        """Return all that keeps a claimant from what it discovered."""
        itself = Holder("", claimant.name, claimant.uid, "")
        found: list[Clash] = []
        for pattern in self._undeclared(claimant):
            found += self._obstacles(claimant, [pattern]) or (Clash(pattern, itself, pattern, Cause.BEYOND),)
        return tuple(found)

    def _missing(self, claimant: Claimant, wanted: Iterable[Pattern]) -> list[Pattern]:
        return [pattern for pattern in sorted(set(wanted)) if not self._has(claimant, pattern)]

    def _undeclared(self, claimant: Claimant) -> list[Pattern]:
        """What a claimant discovered and lacks."""
        return self._missing(claimant, set(claimant.discovered) - set(claimant.patterns))

    def _has(self, claimant: Claimant, pattern: Pattern) -> bool:
        return (pattern.text, claimant.uid) in self.held.get(pattern.segment, {})

    def _take(self, claimant: Claimant, patterns: Iterable[Pattern]) -> None:
        for pattern in patterns:
            holder = Holder(pattern.text, claimant.name, claimant.uid, self._now)
            self.held.setdefault(pattern.segment, {})[pattern.text, claimant.uid] = holder

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
