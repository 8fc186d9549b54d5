"""The examples of docs/realm.md are valid, and every field of a Realm's spec has its section."""

import re

import pytest
import yaml
from agentos_contracts.realm import RealmSpec
from agentos_contracts.validation import validate

from tests.cluster.command import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "realm.md").read_text()
EXAMPLES = [
    resource
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for resource in yaml.safe_load_all(block)
]
REALMS = [example for example in EXAMPLES if example["kind"] == "Realm"]


@pytest.mark.parametrize("realm", REALMS, ids=lambda each: each["metadata"]["name"])
def test_each_example_is_valid(realm):
    assert validate(realm) == []


def test_no_example_has_another_ones_name():
    names = [realm["metadata"]["name"] for realm in REALMS]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("field", [field.alias for field in RealmSpec.model_fields.values()])
def test_each_field_has_a_section_and_an_example(field):
    assert re.search(rf"^## spec\.{field}$", PAGE, re.MULTILINE)
    assert any(field in realm["spec"] for realm in REALMS)
