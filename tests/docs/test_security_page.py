"""What docs/security.md says of permissions, against what the code does."""

import re

import pytest
import yaml
from agentos_contracts.grants import SENSITIVE, Grant
from agentos_contracts.patterns import Pattern
from agentos_contracts.validation import validate
from agentos_engine.bus.errors import BusError
from agentos_engine.permissions.rules import Permissions

from tests.cluster.command import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "security.md").read_text()
RESOURCES = [
    resource
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for resource in yaml.safe_load_all(block)
    if isinstance(resource, dict) and "apiVersion" in resource
]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: each["metadata"]["name"])
def test_each_example_is_valid(resource):
    if resource["apiVersion"].startswith("agentos.dev/"):
        assert validate(resource) == []


def test_every_line_of_who_can_do_what_names_tests_that_there_are():
    table = PAGE.split("## Who can do what")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(lines) > 10
    for line in lines:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", line)
        assert named, line
        for path, test in named:
            assert f"def {test}(" in (PROJECT_ROOT / path).read_text(), f"{path}::{test}"


def test_the_page_has_examples():
    assert {"shop", "reader"} <= {each["metadata"]["name"] for each in RESOURCES}


def test_the_sensitive_functions_are_those_of_the_one_list():
    listed = re.search(r"^<!-- sensitive:.*?-->\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert re.findall(r"`([^`]+)`", listed[1]) == [pattern.text for pattern in SENSITIVE]


def test_the_refusal_that_is_shown_is_the_engines():
    permissions = Permissions(Grant("uid", "default/shop", calls=(Pattern("state::*"),)))
    with pytest.raises(BusError) as refused:
        permissions.check_call("vault::get")
    assert refused.value.message in PAGE
