"""Finds Workers, Realms and worker manifests in files and says what is wrong with them."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from agentos_contracts.dependencies import cycles, declared, shown_way
from agentos_contracts.documents import Document, read_documents
from agentos_contracts.findings import Finding, Severity, error, shown
from agentos_contracts.manifest import MANIFEST_FILE
from agentos_contracts.model_findings import at, at_key
from agentos_contracts.reasons import DEPENDENCY_CYCLE
from agentos_contracts.resource import GROUP
from agentos_contracts.validation import WRITTEN_KINDS, validate

from agentos.everyday.realm import Kubectl
from agentos.files import (
    KUBECTL_YAML,
    MAX_FILE_BYTES,
    STDIN,
    Unreadable,
    checked_manifest,
    has_resources,
    is_manifest_file,
    resources_in,
    text_of,
    yaml_files,
)
from agentos.foreseeing import foresee, outcome
from agentos.terminal import counted


@dataclass(frozen=True, slots=True)
class Given:
    """A resource of ours in a file: where it stands, and what is wrong with it by itself."""

    file: str
    document: Document
    path: str
    value: dict[str, Any]
    findings: tuple[Finding, ...]

    def placed(self, found: Finding) -> Finding:
        """Return a finding of the resource as one of its file."""
        path = at(self.path, found.path)
        return replace(found, path=path, line=self.document.line_of(path))


@dataclass(slots=True)
class Report:
    """What came out: findings with their file, what was checked, skipped, and could not be read.

    After ``--server``: ``sources`` of the findings that are not of the files alone, what comes of each resource, and
    what could not be checked.
    """

    findings: list[tuple[str, Finding]] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    manifests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    config_maps: list[Given] = field(default_factory=list)
    asked: bool = False
    sources: dict[tuple[str, Finding], str] = field(default_factory=dict)
    outcomes: list[tuple[str, str, str]] = field(default_factory=list)
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, findings: Iterable[Finding]) -> None:
        """Take the findings of a file, in the order of its lines."""
        self.findings += [(name, finding) for finding in sorted(findings, key=lambda finding: finding.line or 1)]

    def count(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity is severity for _, finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 when something could not be read, 1 when there are errors, else 0."""
        if self.unreadable:
            return 2
        return 1 if self.count(Severity.ERROR) else 0


def validate_paths(paths: Iterable[str]) -> Report:
    """Validate files, folders (searched for manifests and resources of ours) and ``-`` (standard input)."""
    report = Report()
    for path in paths:
        if path != STDIN and os.path.isdir(path):
            for file in yaml_files(path):
                _validate_file(file, report, searched=True)
        else:
            _validate_file(path, report, searched=False)
    _validate_config_maps(report)
    _find_cycles(report)
    return report


def ask_server(report: Report, kubectl: Kubectl) -> None:
    """Add what a cluster says of the resources. Raises CommandError when it does not answer."""
    foreseen = foresee(kubectl, [each.value for each in report.given], [each.findings for each in report.given])
    report.asked, report.unchecked = True, foreseen.unchecked
    for given, found in zip(report.given, foreseen.findings, strict=True):
        for source, finding in found:
            placed = given.placed(finding)
            report.add(given.file, [placed])
            report.sources[given.file, placed] = source
        said = [*given.findings, *(finding for _, finding in found)]
        line = given.document.line_of(given.path)
        report.outcomes.append((f"{given.file}:{line}", called(given.value), outcome(said)))


def _validate_config_maps(report: Report) -> None:
    """Validate the manifests in ConfigMaps of the files that Workers of the files name."""
    for worker in report.given:
        source = worker.value.get("spec")
        source = source.get("manifestFrom") if isinstance(source, dict) else None
        reference = source.get("configMapKeyRef") if isinstance(source, dict) else None
        if not isinstance(reference, dict):
            continue
        key = reference.get("key", MANIFEST_FILE)
        wanted = (worker.value["metadata"].get("namespace"), reference.get("name"))
        for config_map in report.config_maps:
            metadata, data = config_map.value.get("metadata"), config_map.value.get("data")
            if not isinstance(metadata, dict) or (metadata.get("namespace"), metadata.get("name")) != wanted:
                continue
            if isinstance(data, dict) and isinstance(text := data.get(key), str):
                path = at(config_map.path, f"data[{key}]")
                before = config_map.document.line_before_text(path)
                found = checked_manifest(text)[1]
                report.add(
                    config_map.file,
                    [
                        replace(
                            each, path=path + (f".{each.path}" if each.path else ""), line=before + (each.line or 1)
                        )
                        for each in found
                    ],
                )


def _find_cycles(report: Report) -> None:
    """Tell dependencies that lead back to where they began: among the Workers of a namespace, and among manifests."""
    groups: dict[str | None, dict[str, dict[str, str]]] = {}
    places: dict[tuple[str | None, str], list[tuple[str, Callable[[str], tuple[str, int]]]]] = {}
    for given in report.given:
        if given.value.get("kind") != "Worker":
            continue
        metadata = given.value.get("metadata")
        namespace = metadata.get("namespace", "") if isinstance(metadata, dict) else ""
        name, needs = declared(given.value)
        groups.setdefault(str(namespace), {}).setdefault(name, {}).update(needs)
        places.setdefault((str(namespace), name), []).append((given.file, partial(_dependency_of_worker, given)))
    for file, text, manifest in report.manifests:
        name, needs = declared({"spec": {"manifest": manifest}})
        groups.setdefault(None, {}).setdefault(name, {}).update(needs)
        places.setdefault((None, name), []).append((file, partial(_dependency_of_manifest, text)))
    for group, needs in groups.items():
        for way in cycles(needs):
            if len(way) == 2:
                continue  # on itself: told by validation
            for name, following in pairwise(way):
                for file, place in places[group, name]:
                    path, line = place(following)
                    message = f"{shown_way(way)}: each waits for the next, so none of them starts; remove one of these"
                    report.add(file, [error(path, DEPENDENCY_CYCLE.name, message, line)])


def _dependency_of_worker(given: Given, name: str) -> tuple[str, int]:
    inline = given.value["spec"].get("dependencies") is None
    field_path = "spec.manifest.dependencies" if inline else "spec.dependencies"
    path = at(given.path, at_key(field_path, name))
    return path, given.document.line_of(path)


def _dependency_of_manifest(text: str, name: str) -> tuple[str, int]:
    path = at_key("dependencies", name)
    (document,), _ = read_documents(text, max_bytes=MAX_FILE_BYTES)
    return path, document.line_of(path)


def called(resource: dict[str, Any]) -> str:
    """Return kind, namespace and name of a resource, for people."""
    metadata = resource.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = "/".join(str(each) for each in (metadata.get("namespace"), metadata.get("name")) if each)
    return shown(f"{resource.get('kind')} {name}", 160)


def as_text(report: Report, *, verbose: bool) -> str:
    """Return one line per finding and a summary line."""
    lines = [f"{shown(name, 4096)}: skipped: {why}" for name, why in report.skipped if verbose]
    lines += [
        f"{shown(name, 4096)}:{finding.line or 1}: {finding.severity}: {finding}" for name, finding in report.findings
    ]
    if report.asked:
        lines += [f"{shown(where, 4096)}: {what}: {word}" for where, what, word in report.outcomes]
        lines += [f"not checked: {what}: {shown(why, 300)}" for what, why in report.unchecked]
    errors, warnings = report.count(Severity.ERROR), report.count(Severity.WARNING)
    lines.append(
        f"{counted(report.checked, 'document')} checked: {counted(errors, 'error')}, {counted(warnings, 'warning')}"
    )
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """Return the report as JSON: ``findings``, ``checked``, ``skipped``, ``unreadable``."""
    findings = [
        {
            "file": name,
            "line": finding.line or 1,
            "severity": finding.severity,
            "path": finding.path,
            "reason": finding.reason,
            "message": finding.message,
        }
        | ({"source": report.sources.get((name, finding), "file")} if report.asked else {})
        for name, finding in report.findings
    ]
    skipped = [{"file": name, "reason": why} for name, why in report.skipped]
    unreadable = [{"file": name, "reason": why} for name, why in report.unreadable]
    server = {
        "outcomes": [{"place": where, "resource": what, "outcome": word} for where, what, word in report.outcomes],
        "unchecked": [{"what": what, "reason": why} for what, why in report.unchecked],
    }
    return json.dumps(
        {"findings": findings, "checked": report.checked, "skipped": skipped, "unreadable": unreadable}
        | (server if report.asked else {}),
        indent=2,
    )


def _validate_file(path: str, report: Report, *, searched: bool) -> None:
    name = "<stdin>" if path == STDIN else path
    try:
        text = text_of(path)
    except Unreadable as problem:
        report.unreadable.append((name, str(problem)))
        return
    is_manifest = is_manifest_file(path)
    if searched and not is_manifest and not has_resources(text):
        report.skipped.append((name, f"neither {MANIFEST_FILE} nor a resource of {GROUP}"))
    elif is_manifest:
        _validate_manifest_text(name, text, report)
    else:
        _validate_resources(name, text, report)


def _validate_manifest_text(name: str, text: str, report: Report) -> None:
    report.checked += 1
    manifest, findings = checked_manifest(text)
    report.add(name, findings)
    if manifest is not None:
        report.manifests.append((name, text, manifest))


def _validate_resources(name: str, text: str, report: Report) -> None:
    documents, findings = read_documents(text, max_bytes=MAX_FILE_BYTES, yaml_version=KUBECTL_YAML)
    if findings:
        report.checked += 1
        report.add(name, findings)
        return
    given = [document for document in documents if document.value is not None]
    if len(given) == 1 and _is_manifest(given[0].value):
        _validate_manifest_text(name, text, report)
        return
    for document in given:
        for resource, path in resources_in(document.value):
            if not _is_ours(resource):
                kind = resource.get("kind") if isinstance(resource, dict) else None
                if isinstance(resource, dict) and kind == "ConfigMap":
                    report.config_maps.append(Given(name, document, path, resource, ()))
                report.skipped.append(
                    (name, f"line {document.line_of(path)}: kind {shown(str(kind))} is not of {GROUP}")
                )
                continue
            report.checked += 1
            found = tuple(validate(resource))
            given_here = Given(name, document, path, resource if isinstance(resource, dict) else {}, found)
            report.add(name, [given_here.placed(finding) for finding in found])
            if given_here.value.get("kind") in WRITTEN_KINDS:
                report.given.append(given_here)


def _is_manifest(value: Any) -> bool:
    return not isinstance(value, dict) or ("kind" not in value and "apiVersion" not in value)


def _is_ours(value: Any) -> bool:
    """True for what has to be checked: a resource of the group, or something that lacks what would tell."""
    version = value.get("apiVersion") if isinstance(value, dict) else None
    return not isinstance(version, str) or version.startswith(f"{GROUP}/")
