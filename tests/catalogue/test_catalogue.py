"""The manifests of the catalogue have no error, and all its workers in one realm do not clash."""

import re
from collections import Counter

import pytest
from agentos_contracts.assign import Claimant, assign, patterns_of
from agentos_contracts.dependencies import cycles
from agentos_contracts.findings import Severity
from agentos_contracts.manifest import read_manifest, validate_manifest
from agentos_contracts.patterns import Pattern
from agentos_contracts.validation import validate_worker

from tests.catalogue import entries, functions, manifest_text, owns, routes, worker

NAMES = sorted(entries())


def test_the_catalogue_is_whole() -> None:
    assert Counter(entry["group"] for entry in entries().values()) == {
        "Reasoning": 6, "State": 7, "Coordination": 5, "Execution": 5, "Safety": 9, "Surfaces": 6, "Channels": 14,
        "Telemetry": 10, "Embeddings": 1,
    }  # fmt: skip
    assert sum(len(entry["functions"]) for entry in entries().values()) == 268
    assert sum(len(entry.get("routes", ())) for entry in entries().values()) == 208


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_has_no_error_and_only_the_warnings_that_are_known(name: str) -> None:
    manifest, unreadable = read_manifest(manifest_text(name))
    assert unreadable == []
    said = {(finding.severity, finding.path, finding.reason) for finding in validate_manifest(manifest, "")}
    # iii's own 0.23 refuses the field bin, which its registry needs of a binary.
    binary = {(Severity.WARNING, "bin", "RefusedBySome")} if entries()[name].get("language") != "python" else set()
    assert said == binary


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_has_no_error_and_claims_all_that_it_registers(name: str) -> None:
    assert [finding for finding in validate_worker(worker(name)) if finding.severity is Severity.ERROR] == []
    patterns = [Pattern.parse(each) for each in owns(name)]
    assert [each for each in functions(name) if not any(p.matches(each) for p in patterns)] == []


def test_all_together_get_everything() -> None:
    claimants = [Claimant(name, f"uid-{name}", "2026-01-01T00:00:00Z", patterns_of(worker(name))) for name in NAMES]
    assert all(each.patterns for each in claimants)
    result = assign(claimants, {}, "2026-01-02T00:00:00Z")
    assert result.waiting == {}
    held = {(holder.uid, holder.pattern) for holders in result.holders.values() for holder in holders}
    assert held == {(each.uid, pattern.text) for each in claimants for pattern in each.patterns}


def test_no_function_and_no_route_is_registered_twice() -> None:
    assert [each for each, count in Counter(f for name in NAMES for f in functions(name)).items() if count > 1] == []
    shapes = Counter((method, re.sub("/:[^/]+", "/:", path)) for name in NAMES for method, path in routes(name))
    assert [each for each, count in shapes.items() if count > 1] == []
    assert sum(shapes.values()) == 208


def test_each_can_start_for_what_it_needs_is_there_and_needs_no_other_way_round() -> None:
    needs = {name: entries()[name].get("needs", []) for name in NAMES}
    assert {each for listed in needs.values() for each in listed} <= set(NAMES)
    assert cycles(needs) == []
