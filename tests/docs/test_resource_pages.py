"""What docs/worker.md and docs/realm.md say of the fields of a Worker and a Realm, against the models."""

import re
from typing import Any

import pytest
import yaml
from agentos_contracts.realm import RealmSpec
from agentos_contracts.validation import validate
from agentos_contracts.worker import WorkerSpec

from tests.cluster.command import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("worker.md", "realm.md") if (DOCS / name).exists()}
MODELS = {"worker.md": WorkerSpec, "realm.md": RealmSpec}
EXAMPLES = [
    pytest.param(resource, id=f"{name}:{resource['kind']}-{number}")
    for name, page in PAGES.items()
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL), 1)
    for resource in yaml.safe_load_all(block)
]


@pytest.mark.parametrize("resource", EXAMPLES)
def test_each_example_is_valid(resource: dict[str, Any]) -> None:
    if resource["apiVersion"].startswith("agentos.dev/"):
        assert validate(resource) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_field_has_an_entry(page: str) -> None:
    """A field counts as told of in a heading, alone or with others."""
    told = re.findall(r"spec\.(\w+)", " ".join(re.findall(r"^## (.*)$", PAGES[page], re.MULTILINE)))
    fields = [field.alias or name for name, field in MODELS[page].model_fields.items()]
    assert sorted(told) == sorted(fields)


@pytest.mark.parametrize("page", PAGES)
def test_every_entry_is_in_the_table_of_fields(page: str) -> None:
    headings = re.findall(r"^## (spec\..*)$", PAGES[page], re.MULTILINE)
    links = re.findall(r"^\| \[`[^\]]*`\]\(#([^)]*)\) \|", PAGES[page], re.MULTILINE)
    assert links == [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
