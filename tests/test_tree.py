"""The checks of the tree: they pass on this one, and each fails on the fault that it is for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import tree


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tree of its own in which a test plants a fault."""
    for name in ("crds", "docs"):
        shutil.copytree(tree.ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(tree, "ROOT", tmp_path)
    monkeypatch.setattr(tree, "REFUSED", tmp_path / "examples" / "refused")
    return tmp_path


def plant(root: Path, path: str, text: str) -> None:
    """Writes a file into the tree."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize("check", tree.CHECKS, ids=lambda check: check.__name__)
def test_this_tree_passes(check) -> None:
    assert list(check()) == []


def test_a_manifest_that_does_not_validate_is_found(planted: Path) -> None:
    plant(planted, "workers/agentos_workers/mine/iii.worker.yaml", "name: mine\ndescripton: x\n")
    (told,) = tree.invalid_manifests()
    assert (
        "workers/agentos_workers/mine/iii.worker.yaml:2: error: descripton: unknown field descripton; "
        "did you mean description?" in told
    )


def test_a_manifest_that_cannot_be_read_is_found(planted: Path) -> None:
    plant(planted, "workers/agentos_workers/mine/iii.worker.yaml", "name: [\n")
    assert len(list(tree.invalid_manifests())) == 1


def test_a_tree_without_any_manifest_is_not_taken_for_a_sound_one(planted: Path) -> None:
    assert list(tree.invalid_manifests()) == ["no iii.worker.yaml found at all"]


@pytest.mark.parametrize(
    "line", ['@worker.function("sandbox::create")', "id: 'sandbox::fs::read',", "owns = [`sandbox`]"]
)
def test_a_worker_that_names_the_engines_namespace_is_found(planted: Path, line: str) -> None:
    plant(planted, "workers/agentos_workers/mine/functions.py", f"x = 1\n{line}\n")
    assert list(tree.reserved_names()) == [
        "workers/agentos_workers/mine/functions.py:2: sandbox:: belongs to the engine; no worker registers or claims it"
    ]


def test_a_refusal_example_may_name_it_but_must_be_refused(planted: Path) -> None:
    refused = (Path(__file__).parent.parent / "examples" / "refused" / "sandbox.yaml").read_text()
    plant(planted, "examples/refused/sandbox.yaml", refused)
    assert list(tree.reserved_names()) == []
    assert list(tree.invalid_examples()) == []
    plant(planted, "examples/refused/sandbox.yaml", refused.replace("sandbox::*", "mine::*"))
    assert list(tree.invalid_examples()) == [
        "examples/refused/sandbox.yaml: must be refused, but agentos validate ends with 0"
    ]
    plant(planted, "examples/sandbox.yaml", refused)
    assert any(
        "examples/sandbox.yaml" in problem and "belongs to the engine" in problem for problem in tree.invalid_examples()
    )


@pytest.mark.parametrize("name", ["crds/workers.yaml", "docs/conditions.md"])
def test_a_generated_file_that_was_edited_is_found(planted: Path, name: str) -> None:
    plant(planted, name, (planted / name).read_text() + "# edited\n")
    assert [problem.split(" ")[0] for problem in tree.stale_files()] == [name]
