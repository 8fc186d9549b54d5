"""What docs/worker.md says of the fields of a Worker, against the model."""

import re
from typing import Any

import pytest
import yaml
from agentos_contracts.validation import validate
from agentos_contracts.worker import WorkerSpec

from tests.cluster.command import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "worker.md").read_text()
HEADINGS = re.findall(r"^## (spec\..*)$", PAGE, re.MULTILINE)
EXAMPLES = [
    pytest.param(resource, id=f"{number}-{resource['kind']}")
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL), 1)
    for resource in yaml.safe_load_all(block)
]


@pytest.mark.parametrize("resource", EXAMPLES)
def test_each_example_is_valid(resource: dict[str, Any]) -> None:
    if resource["apiVersion"].startswith("agentos.dev/"):
        assert validate(resource) == []


def test_every_field_has_an_entry() -> None:
    """A field counts as told of in a heading, alone or with others."""
    fields = [field.alias or name for name, field in WorkerSpec.model_fields.items()]
    assert sorted(re.findall(r"spec\.(\w+)", " ".join(HEADINGS))) == sorted(fields)


def test_every_entry_is_in_the_table_of_fields() -> None:
    links = re.findall(r"^\| \[`[^\]]*`\]\(#([^)]*)\) \|", PAGE, re.MULTILINE)
    assert links == [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS]
