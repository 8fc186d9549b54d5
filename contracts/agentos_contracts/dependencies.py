"""Decides whether what a worker depends on is there. Pure: the operator and a laptop gate the first start by the same rule."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from agentos_contracts.reasons import DEPENDENCY_MISSING, DEPENDENCY_NOT_READY, DEPENDENCY_VERSION, Reason
from agentos_contracts.semver import Range


@dataclass(frozen=True, slots=True)
class Dependency:
    """A Worker that others may depend on, by its manifest's name. ``version``: None when nobody says it."""

    worker: str
    manifest_name: str
    version: str | None
    ready: bool


def unmet(
    dependencies: Mapping[str, str], providers: Iterable[Dependency], built_in: Collection[str]
) -> tuple[Reason, str] | None:
    """Return what the first dependency lacks, by name: a reason and a message for people; None when all is there.

    ``dependencies`` maps a manifest's name to a valid version range; ``built_in`` are the names that the engine itself
    satisfies. One provider that fits and is ready is enough.
    """
    known = list(providers)
    for name, wanted in sorted(dependencies.items()):
        if name not in built_in and (lacking := _lacking(name, wanted, known)):
            return lacking
    return None


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
        return DEPENDENCY_NOT_READY, f"needs {name} {wanted}; Worker {fitting[0].worker} is not Ready yet"
    return None


def _fits(wanted: str, version: str | None) -> bool:
    return wanted.strip() == "*" or (version is not None and Range.parse(wanted).contains(version))
