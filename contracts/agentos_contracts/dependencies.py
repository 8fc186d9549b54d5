"""Decides whether what a worker depends on is there. Pure: the operator and a laptop gate the first start by the same rule."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentos_contracts.manifest import BUILT_IN_WORKERS
from agentos_contracts.reasons import (
    DEPENDENCY_CYCLE,
    DEPENDENCY_MISSING,
    DEPENDENCY_NOT_READY,
    DEPENDENCY_VERSION,
    WORKER_REASONS,
    Outlook,
    Reason,
)
from agentos_contracts.semver import Range

_PASSING = frozenset(
    reason.name for listed in WORKER_REASONS.values() for reason in listed if reason.outlook is Outlook.UNDER_WAY
)
"""Reasons of a Worker that is on its way: not worth a word to those who wait for it."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A Worker that others may depend on, by its manifest's name. ``version``: None when nobody says it.

    ``trouble``: the reason why it is not Ready, when waiting alone may not help. ``waits_for``: the names that it depends
    on itself, while it waits for them with its first start.
    """

    worker: str
    manifest_name: str
    version: str | None
    ready: bool
    trouble: str = ""
    waits_for: frozenset[str] = frozenset()


def trouble(reason: str) -> str:
    """Return the reason of a Worker that is not Ready when it is worth telling those who wait for it, else an empty text."""
    return "" if reason in _PASSING else reason


def unmet(
    dependencies: Mapping[str, str], providers: Iterable[Dependency], built_in: Collection[str], own_name: str = ""
) -> tuple[Reason, str] | None:
    """Return what a worker lacks: a reason and a message for people; None when all is there.

    ``dependencies`` maps a manifest's name to a valid version range; ``built_in`` are the names that the engine itself
    satisfies. One provider that fits and is ready is enough. A cycle through ``own_name`` is told before all else, for
    no waiting ends it; of the rest the first by name.
    """
    known = list(providers)
    lacking = {
        name: lack
        for name, wanted in sorted(dependencies.items())
        if name not in built_in and (lack := _lacking(name, wanted, known))
    }
    if not lacking:
        return None
    if own_name and (way := way_back(own_name, _waiting(known) | {own_name: lacking})):
        return (
            DEPENDENCY_CYCLE,
            f"{shown_way(way)}: each waits for the next, so none of them starts; remove one of these",
        )
    return next(iter(lacking.values()))


def declared(worker: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return a Worker's name on the engine and what it depends on, as far as the resource says; takes any resource.

    With a manifest from a ConfigMap the name is the Worker's own, which is what most manifests have.
    """
    spec, metadata = _mapping(worker.get("spec")), _mapping(worker.get("metadata"))
    manifest = _mapping(spec.get("manifest"))
    wanted = spec.get("dependencies") if spec.get("dependencies") is not None else manifest.get("dependencies")
    name = manifest.get("name") or metadata.get("name")
    texts = {key: value for key, value in _mapping(wanted).items() if isinstance(key, str) and isinstance(value, str)}
    return name if isinstance(name, str) else "", texts


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def cycles(needs: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Return the cycles among names that need each other, each as the shortest way from a name back to it.

    Every name that is on a cycle is on one of those returned. What the engine has needs nothing, so it is on none.
    """
    left = _without_loose_ends(_turned(_without_loose_ends(_turned(needs))))
    found: list[tuple[str, ...]] = []
    told: set[str] = set()
    for name in sorted(left):
        if name not in told and (way := way_back(name, left)):
            found.append(way)
            told.update(way)
    return found


def _turned(needs: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return who needs each name, of those names that need something themselves or are listed."""
    turned: dict[str, set[str]] = {name: set() for name in needs}
    for name, listed in needs.items():
        for each in listed:
            if each in turned:
                turned[each].add(name)
    return turned


def _without_loose_ends(needs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the names without those that lead nowhere, for they are on no cycle."""
    left = {name: set(listed) for name, listed in needs.items()}
    needed_by = _turned(needs)
    ends = [name for name, listed in left.items() if not listed]
    while ends:
        end = ends.pop()
        del left[end]
        for name in needed_by[end]:
            left[name].discard(end)
            if not left[name]:
                ends.append(name)
    return left


def way_back(name: str, needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the shortest way from a name, over what each needs, back to it: ``(a, b, a)``; empty when there is none."""
    came_from: dict[str, str] = {}
    level = [name]
    while level:
        following = []
        for each in level:
            for needed in sorted(needs.get(each, ())):
                if needed == name:
                    way = [each]
                    while way[-1] != name:
                        way.append(came_from[way[-1]])
                    return (*reversed(way), name)
                if needed not in came_from and needed not in BUILT_IN_WORKERS:
                    came_from[needed] = each
                    following.append(needed)
        level = following
    return ()


def shown_way(way: Iterable[str]) -> str:
    """Return a cycle for people: ``a → b → a``."""
    return " → ".join(way)


def _waiting(providers: Iterable[Dependency]) -> dict[str, frozenset[str]]:
    """Return what stands behind each name that waits: with several Workers of a name, what all of them wait for."""
    waits: dict[str, frozenset[str]] = {}
    for each in providers:
        behind = frozenset() if each.ready else each.waits_for
        waits[each.manifest_name] = waits.get(each.manifest_name, behind) & behind
    return waits


def _lacking(name: str, wanted: str, providers: list[Dependency]) -> tuple[Reason, str] | None:
    found = [provider for provider in providers if provider.manifest_name == name]
    if not found:
        return (
            DEPENDENCY_MISSING,
            f"needs {name} {wanted}, which no Worker here has as its manifest's name; apply one, or mend the dependency",
        )
    fitting = [provider for provider in found if _fits(wanted, provider.version)]
    if not fitting:
        have = ", ".join(f"Worker {each.worker} has {each.version or 'no known version'}" for each in found)
        return DEPENDENCY_VERSION, f"needs {name} {wanted}; {have}; change the range or that Worker's spec.version"
    if not any(provider.ready for provider in fitting):
        first = min(fitting, key=lambda each: bool(each.trouble))
        why = f"is not Ready: {first.trouble}" if first.trouble else "is not Ready yet"
        return DEPENDENCY_NOT_READY, f"needs {name} {wanted}; Worker {first.worker} {why}"
    return None


def _fits(wanted: str, version: str | None) -> bool:
    return wanted.strip() == "*" or (version is not None and Range.parse(wanted).contains(version))
