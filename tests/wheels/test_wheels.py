"""The built wheels. That they are all that a laptop needs is shown by the first ten minutes (tests/docs)."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.cluster.command import PROJECT_ROOT

MEMBERS = ("agentos", "agentos_contracts", "agentos_engine", "agentos_operator", "agentos_workers")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all wheels, as ``make wheels`` builds them."""
    out = tmp_path_factory.mktemp("wheels")
    subprocess.run(["make", "-s", "wheels", f"OUT={out}"], cwd=PROJECT_ROOT, check=True, timeout=300)
    return out


def names_in(wheels: Path, member: str) -> list[str]:
    (wheel,) = wheels.glob(f"{member}-*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_there_is_a_wheel_of_each_member_without_tests(wheels: Path) -> None:
    for member in MEMBERS:
        names = names_in(wheels, member)
        assert all(name.startswith((f"{member}/", f"{member}-0")) for name in names)
        assert not [name for name in names if name.startswith(f"{member}/tests/") or "__pycache__" in name]


def test_wheels_carry_the_page_the_templates_and_the_manifests(wheels: Path) -> None:
    assert "agentos_engine/console/static/index.html" in names_in(wheels, "agentos_engine")
    templates = [name for name in names_in(wheels, "agentos") if name.startswith("agentos/templates/")]
    assert {name.split("/")[2] for name in templates} >= {"python", "node", "rust"}
    assert "agentos_workers/wasm_sandbox/iii.worker.yaml" in names_in(wheels, "agentos_workers")
