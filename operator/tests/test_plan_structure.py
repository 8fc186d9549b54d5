"""Whoever reads a condition in a status finds the rule: one module, and one function, of its name."""

import importlib
import re
from pathlib import Path

import pytest
from agentos_contracts.reasons import REALM_REASONS, WORKER_REASONS

ROOT = Path(__file__).parents[2]
CONDITIONS = [
    (kind, str(condition))
    for kind, table in (("worker", WORKER_REASONS), ("realm", REALM_REASONS))
    for condition in table
    if condition not in ("Ready", "Reconciling", "Stalled")
]


@pytest.mark.parametrize(("kind", "condition"), CONDITIONS)
def test_a_condition_is_decided_in_the_module_of_its_name(kind, condition):
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", condition).lower()
    module = importlib.import_module(f"agentos_operator.plan.{kind}.{name}")
    assert callable(getattr(module, name))
    assert module.__doc__.startswith(f"{condition}: ")


@pytest.mark.parametrize("kind", ["worker", "realm"])
def test_the_stages_are_the_conditions_in_the_order_of_the_table(kind):
    stages = (ROOT / f"operator/agentos_operator/plan/{kind}/stages.py").read_text()
    decided = re.findall(r"verdicts\[\w+Condition\.(\w+)\] =|\w+Condition\.(\w+): \w+\(i", stages)
    order = list(dict.fromkeys(first or second for first, second in decided))
    table = {"worker": WORKER_REASONS, "realm": REALM_REASONS}[kind]
    chain = [condition.name for condition in table if condition.name in order]
    assert order == chain


def test_every_module_that_the_architecture_page_names_is_there():
    page = (ROOT / "docs/architecture.md").read_text()
    named = []
    for row in page[page.index("## Where a rule is") :].splitlines():
        folder = ROOT
        for path in re.findall(r"`([a-z_/]+(?:\.py|/))`", row) if row.startswith("| ") else ():
            # A second module of a row is beside the first.
            named.append(ROOT / path if "/" in path else folder / path)
            folder = named[-1].parent
    assert len(named) > 15
    assert [str(path) for path in named if not path.exists()] == []
