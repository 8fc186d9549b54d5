"""``agentos render``: the Worker of a folder, with what it owns and calls filled in."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentos_contracts.findings import Finding, errors
from agentos_contracts.manifest import Manifest
from agentos_contracts.patterns import MAX_PATTERN_LENGTH, Pattern, PatternError, called_pattern, reserved_by
from agentos_contracts.validation import validate
from agentos_contracts.worker import MAX_CALLED_PATTERNS, MAX_OWNED_PATTERNS

from agentos.author.build import reference_of
from agentos.author.inspecting import Call, Inspection, some_of
from agentos.errors import CommandError
from agentos.local.fleet import SOURCE_ANNOTATION, LocalWorker
from agentos.resource_yaml import resource_yaml


@dataclass(slots=True)
class Rendered:
    """The YAML of a Worker, what validation says of it, and what could not be written."""

    text: str
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def render(
    worker: LocalWorker, found: Inspection, *, image: str | None, namespace: str | None, source: str, ran: bool
) -> Rendered:
    """Return the Worker of a folder. ``source``: the folder, relative to where the YAML is kept.

    ``ran``: the worker was run, and ``found`` has all that it registered; else it is taken to own its own namespace.
    Raises CommandError for an image that is none.
    """
    manifest = worker.resource["spec"]["manifest"]
    remarks = list(found.warnings)
    owned = _owned(worker, found, remarks) if ran else [Pattern.parse(f"{worker.effective.name}::*")]
    calls = _called([each for each in found.calls if not _any_matches(owned, each.function_id)], remarks)
    resource = {
        "apiVersion": worker.resource["apiVersion"],
        "kind": "Worker",
        "metadata": {
            "name": worker.name,
            **({"namespace": namespace} if namespace else {}),
            "annotations": {SOURCE_ANNOTATION: source},
        },
        "spec": {
            "image": reference_of(Manifest.model_validate(manifest), image),
            "owns": [pattern.text for pattern in owned],
            "calls": list(calls),
            "manifest": manifest,
        },
    }
    for part in ("owns", "calls"):
        if not resource["spec"][part]:
            del resource["spec"][part]
    beside = {"calls": [some_of(places) for places in calls.values()]} if calls else {}
    if not ran:
        beside["owns"] = ["not run: taken from its name"]
    # What the manifest is warned of was told when it was read.
    findings = [each for each in validate(resource) if not each.path.startswith("spec.manifest") or errors([each])]
    return Rendered(_yaml(resource, beside), findings, remarks)


def _yaml(resource: dict[str, Any], beside: dict[str, list[str]]) -> str:
    try:
        return resource_yaml(resource, beside=beside)
    except ValueError as error:
        raise CommandError(f"no Worker was written: {error}") from None


def relative_source(folder: Path, out: Path | None) -> str:
    """Return a folder's path as the annotation has it: relative to the file, or to the current folder without one."""
    start = out.resolve().parent if out is not None else Path.cwd()
    return os.path.relpath(folder.resolve(), start)


def _owned(worker: LocalWorker, found: Inspection, remarks: list[str]) -> list[Pattern]:
    """The worker's whole namespace when all its functions are in it, else each function."""
    ids = [each["id"] for each in found.functions]
    patterns, unfit = _patterns(ids, Pattern.parse)
    remarks += [f"{function_id} cannot be claimed: {why}" for function_id, why in unfit.items()]
    if not ids:
        remarks.append("it has registered no function; spec.owns is left out, and it claims nothing")
    whole = f"{worker.effective.name}::"
    if patterns and not unfit and all(function_id.startswith(whole) for function_id in ids):
        everything = Pattern(f"{whole}*")
        if reserved_by(everything) is None:
            return [everything]
    if len(patterns) > MAX_OWNED_PATTERNS:
        count, patterns = len(patterns), _widened(patterns, MAX_OWNED_PATTERNS)
        wide = ", ".join(pattern.text for pattern in patterns if not pattern.is_exact)
        remarks.append(f"it has {count} functions, and spec.owns takes {MAX_OWNED_PATTERNS}: it claims all of {wide}")
    return patterns


def _called(calls: Iterable[Call], remarks: list[str]) -> dict[str, list[str]]:
    """The patterns of what it calls, with where each was found."""
    found = {each.function_id: each.found for each in calls}
    patterns, unfit = _patterns(found, called_pattern)
    remarks += [f"the call of {function_id} cannot be written: {why}" for function_id, why in unfit.items()]
    if len(patterns) > MAX_CALLED_PATTERNS:
        count, patterns = len(patterns), _widened(patterns, MAX_CALLED_PATTERNS)
        remarks.append(f"it calls {count} functions, and spec.calls takes {MAX_CALLED_PATTERNS}: see its wide patterns")
    return {
        pattern.text: [place for function_id in found if pattern.matches(function_id) for place in found[function_id]]
        for pattern in patterns
    }


def _patterns(function_ids: Iterable[str], read: Callable[[str], Pattern]) -> tuple[list[Pattern], dict[str, str]]:
    """The patterns of ids, sorted, and why others have none."""
    patterns: list[Pattern] = []
    unfit: dict[str, str] = {}
    for function_id in function_ids:
        try:
            patterns.append(read(function_id))
        except PatternError as problem:
            unfit[function_id[:MAX_PATTERN_LENGTH]] = str(problem)
    return sorted(patterns), unfit


def _widened(patterns: list[Pattern], most: int) -> list[Pattern]:
    """At most so many patterns: whole namespaces in the place of their functions, the largest first."""
    for segment, _ in Counter(pattern.segment for pattern in patterns).most_common():
        if len(patterns) <= most:
            break
        patterns = [pattern for pattern in patterns if pattern.segment != segment] + [Pattern(f"{segment}::*")]
    return sorted(patterns)


def _any_matches(patterns: Iterable[Pattern], function_id: str) -> bool:
    return any(pattern.matches(function_id) for pattern in patterns)
