"""Each rule of ``docs/manifest.md`` is what validation does."""

import pytest
from agentos_contracts.documents import read_documents
from agentos_contracts.manifest import read_manifest, validate_manifest
from agentos_contracts.validation import image_findings

from tests.manifest_page import ACCEPTED, ERROR, FIELDS, PAGE, RULES, Rule, page, verdict_by_policy

IDS = [f"{field}: {rule.says}" for field, rules in FIELDS for rule in rules]


def findings(rule: Rule) -> list[tuple[str, str, str]]:
    """Severity, path and reason of what is said of a rule's manifest as the text of a ConfigMap."""
    manifest, found = read_manifest(rule.manifest)
    if manifest is not None:
        found += validate_manifest(manifest, "")
        found += image_findings({"image": "i:1"} if rule.image else {}, manifest)
    return [(str(finding.severity), finding.path, finding.reason) for finding in found]


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_rule_is_what_validation_does(rule: Rule) -> None:
    said = findings(rule)
    assert (rule.verdict == ACCEPTED) == (not said)
    if rule.verdict == ACCEPTED:
        return
    assert (rule.verdict, rule.path, rule.reason) in said
    # Besides an error there may be warnings, of rules of their own.
    assert [each for each in said if each[0] == ERROR] == (
        [(ERROR, rule.path, rule.reason)] if rule.verdict == ERROR else []
    )


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_a_rule_follows_the_policy(rule: Rule) -> None:
    """What differs from the policy about readers says what the platform makes of it."""
    expected = verdict_by_policy(rule)
    assert rule.verdict == expected or rule.here, f"the readers alone would make it {expected}"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run make docs"


def test_every_example_on_the_page_is_valid() -> None:
    from agentos_contracts.validation import validate

    block = page().partition("```yaml\n")[2].partition("```")[0]
    (document,), found = read_documents(block, max_bytes=10_000, yaml_version=(1, 1))
    assert found == []
    assert validate(document.value) == []
