"""What ``agentos validate --server`` says is what happens on apply; and it changes nothing itself."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, apply, get, listed, until_condition, worker
from tests.e2e.test_cli_realm import AGENTOS, environment

pytestmark = pytest.mark.cluster


def resting(name: str, owns: list[str], **spec: Any) -> dict[str, Any]:
    return worker(name, owns=owns, replicas=0, **spec)


EXPECTED = {
    "fine": ("starts", "FunctionsClaimed", "True", "Claimed"),
    "rival": ("waits", "FunctionsClaimed", "False", "Clash"),
    "heir": ("starts", "FunctionsClaimed", "False", "HandingOver"),
    "needy": ("waits", "DependenciesReady", "False", "DependencyMissing"),
    "old-needs": ("waits", "DependenciesReady", "False", "DependencyVersion"),
    "ring-a": ("stalls", "DependenciesReady", "False", "DependencyCycle"),
    "ring-b": ("stalls", "DependenciesReady", "False", "DependencyCycle"),
}
FILES = [
    resting("fine", ["fine::*"], calls=["fine::*", "nobody::*", "state::get"]),
    resting("rival", ["held::one"]),
    resting("heir", ["held::*"], replaces="holder"),
    resting("needy", ["needy::*"], manifest={"name": "needy", "dependencies": {"nowhere": "^1"}}),
    resting("old-needs", ["old::*"], manifest={"name": "old-needs", "dependencies": {"holder": "^2"}}),
    resting("ring-a", ["ring-a::*"], manifest={"name": "ring-a", "dependencies": {"ring-b": "*"}}),
    resting("ring-b", ["ring-b::*"], manifest={"name": "ring-b", "dependencies": {"ring-a": "*"}}),
]
FORBIDDEN = resting("forbidden", ["sandbox::*"])


def test_what_was_foreseen_is_what_happens(cluster: Cluster, tmp_path: Path) -> None:
    apply(cluster, resting("holder", ["held::*"], version="1.0.0"))
    until_condition(cluster, "holder", "FunctionsClaimed", "True", "Claimed")
    file = tmp_path / "all.yaml"
    file.write_text("\n---\n".join(json.dumps(each) for each in [*FILES, FORBIDDEN]))
    done = subprocess.run(
        [AGENTOS, "validate", "--server", "-o", "json", str(file)],
        env=environment(cluster), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    outcomes = {each["resource"].rpartition("/")[2]: each["outcome"] for each in report["outcomes"]}
    assert outcomes == {name: expected[0] for name, expected in EXPECTED.items()} | {"forbidden": "refused"}
    assert report["unchecked"] == []
    told = {(each["source"], each["reason"]) for each in report["findings"]}
    assert ("forecast", "NotServed") in told
    assert ("file", "Reserved") in told
    assert [each["metadata"]["name"] for each in listed(cluster, "workers")] == ["holder"]

    apply(cluster, *FILES)
    for name, (_, kind, status, reason) in EXPECTED.items():
        until_condition(cluster, name, kind, status, reason)
    assert apply(cluster, FORBIDDEN, check=False).returncode != 0
    assert not get(cluster, "worker", "forbidden", NAMESPACE)
