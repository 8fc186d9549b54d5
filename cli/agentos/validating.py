"""Finds Workers, Realms and worker manifests in files and says what is wrong with them."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from agentos_contracts.documents import read_documents
from agentos_contracts.findings import Finding, Severity, shown
from agentos_contracts.manifest import MANIFEST_FILE
from agentos_contracts.model_findings import at
from agentos_contracts.resource import GROUP
from agentos_contracts.validation import validate

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
from agentos.terminal import counted


@dataclass(slots=True)
class Report:
    """What came out: findings with their file, what was checked, skipped, and could not be read."""

    findings: list[tuple[str, Finding]] = field(default_factory=list)
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
    return report


def as_text(report: Report, *, verbose: bool) -> str:
    """Return one line per finding and a summary line."""
    lines = [f"{shown(name, 4096)}: skipped: {why}" for name, why in report.skipped if verbose]
    lines += [
        f"{shown(name, 4096)}:{finding.line or 1}: {finding.severity}: {finding}" for name, finding in report.findings
    ]
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
        for name, finding in report.findings
    ]
    skipped = [{"file": name, "reason": why} for name, why in report.skipped]
    unreadable = [{"file": name, "reason": why} for name, why in report.unreadable]
    return json.dumps(
        {"findings": findings, "checked": report.checked, "skipped": skipped, "unreadable": unreadable}, indent=2
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
    report.add(name, checked_manifest(text)[1])


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
                report.skipped.append(
                    (name, f"line {document.line_of(path)}: kind {shown(str(kind))} is not of {GROUP}")
                )
                continue
            report.checked += 1
            found = [replace(finding, path=at(path, finding.path)) for finding in validate(resource)]
            report.add(name, [replace(finding, line=document.line_of(finding.path)) for finding in found])


def _is_manifest(value: Any) -> bool:
    return not isinstance(value, dict) or ("kind" not in value and "apiVersion" not in value)


def _is_ours(value: Any) -> bool:
    """True for what has to be checked: a resource of the group, or something that lacks what would tell."""
    version = value.get("apiVersion") if isinstance(value, dict) else None
    return not isinstance(version, str) or version.startswith(f"{GROUP}/")
