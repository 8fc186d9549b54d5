"""Who owns which functions on this machine: the cluster's own rules, with the record in a file."""

import json
import logging
import os
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentos_contracts.assign import Claimant, Clash, Holder, assign
from agentos_contracts.patterns import Pattern, PatternError

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""Largest record that is read."""


@dataclass(slots=True)
class Claims:
    """The record: for each Worker an uid and when it was first seen, and who holds which patterns.

    With a ``path`` it outlives the process, so that a Worker keeps what it holds from one start to the next.
    """

    path: Path | None = None
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name to (uid, time of the first sight)."""
    holders: dict[str, tuple[Holder, ...]] = field(default_factory=dict)
    """Segment to its holders."""
    _saved: object = None

    @classmethod
    def load(cls, path: Path) -> "Claims":
        """Read the record; one that is not there, or not readable as one, counts as empty."""
        claims = cls(path)
        try:
            with path.open("rb") as file:
                data: Any = json.loads(file.read(MAX_BYTES))
            claims.seen = {str(name): (str(uid), str(when)) for name, (uid, when) in data["seen"].items()}
            claims.holders = {
                str(segment): tuple(Holder(**{key: str(value) for key, value in each.items()}) for each in held)
                for segment, held in data["holders"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            claims.seen, claims.holders = {}, {}
        return claims

    def uid(self, name: str) -> str:
        """Return the uid of a Worker, which is new when it was not seen before."""
        return self._entry(name)[0]

    def held(self, name: str) -> list[Pattern]:
        """Return the patterns that are recorded for a Worker."""
        return self._held(self.seen[name][0]) if name in self.seen else []

    def holder(self, function_id: str) -> str:
        """Return the name of the Worker that holds a function, route or trigger type; empty when nobody does."""
        for holder in self.holders.get(Pattern(function_id).segment, ()):
            if Pattern(holder.pattern).matches(function_id):
                return holder.worker
        return ""

    def decide(
        self,
        wanted: Mapping[str, tuple[Pattern, ...]],
        running: Mapping[str, Collection[str]],
        registers: Mapping[str, tuple[Pattern, ...]],
        settled: Collection[str] = (),
    ) -> dict[str, tuple[Clash, ...]]:
        """Assign all patterns and return who waits, with what stands in the way.

        ``registers`` has what Workers would get because they have registered it: each gets what nobody else has, and keeps
        it until it is ``settled``, that is, has had the time to register it again.

        ``wanted`` has every Worker there is, in the order of the files, with its patterns; ``running`` has those that
        have processes, with the functions that these serve: they keep what they hold even when their Worker is gone,
        and what they gave up as long as they serve it.
        """
        claimants = [
            self._claimant(name, patterns, running.get(name), registers.get(name, ()), name in settled)
            for name, patterns in wanted.items()
        ]
        claimants += [self._leaving(name) for name in running if name not in wanted]
        assignment = assign(claimants, self.holders, _now())
        self.holders = {segment: held for segment, held in assignment.holders.items() if held}
        known = {*wanted, *running}
        self.seen = {name: entry for name, entry in self.seen.items() if name in known}
        self._save()
        names = {uid: name for name, (uid, _) in self.seen.items()}
        return {names[uid]: clashes for uid, clashes in assignment.waiting.items() if uid in names}

    def _entry(self, name: str) -> tuple[str, str]:
        if name not in self.seen:
            self.seen = {**self.seen, name: (str(uuid.uuid4()), _now())}
        return self.seen[name]

    def _claimant(
        self,
        name: str,
        patterns: tuple[Pattern, ...],
        serves: Collection[str] | None,
        registers: tuple[Pattern, ...],
        settled: bool,
    ) -> Claimant:
        uid, created = self._entry(name)
        held = self._held(uid)
        given_up = [each for each in held if each not in patterns]
        kept = [
            each
            for each in given_up
            if any(map(each.matches, serves or ())) or not (settled or (patterns and each.is_function))
        ]
        return Claimant(
            name,
            uid,
            created,
            patterns,
            (*kept, *registers),
            started=serves is not None,
            serving=serves is not None and bool(patterns) and not any(each.is_function for each in held),
        )

    def _leaving(self, name: str) -> Claimant:
        uid, created = self._entry(name)
        return Claimant(name, uid, created, (), leaving=True)

    def _held(self, uid: str) -> list[Pattern]:
        found = []
        for held in self.holders.values():
            for holder in held:
                if holder.uid == uid:
                    try:
                        found.append(Pattern.recorded(holder.pattern))
                    except PatternError:  # somebody has edited the file
                        continue
        return found

    def _save(self) -> None:
        if self.path is None:
            return
        if self._saved == (self.seen, self.holders):
            return
        self._saved = (self.seen, self.holders)
        data = {
            "seen": self.seen,
            "holders": {key: [asdict(each) for each in held] for key, held in self.holders.items()},
        }
        partial = self.path.with_suffix(".part")
        try:
            partial.write_text(json.dumps(data, indent=1))
            os.replace(partial, self.path)
        except OSError as error:
            log.warning("%s: who owns which functions cannot be written: %s", self.path, error.strerror)


def _now() -> str:
    # Finer than Kubernetes writes it: of Workers that come together the first in the files is the oldest.
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
