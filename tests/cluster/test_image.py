"""The image's key: it changes with what goes into the image, and with nothing else."""

from pathlib import Path

import pytest

from tests.cluster import image
from tests.cluster.command import PROJECT_ROOT, ClusterError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("Dockerfile", ".dockerignore", "requirements.lock", "requirements-dev.lock"):
        (tmp_path / name).write_text(name)
    for member in image.MEMBERS:
        for folder in ("package", "tests", "package/__pycache__"):
            (tmp_path / member / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / member / folder / "file").write_text(folder)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["Dockerfile", ".dockerignore", "requirements.lock", "requirements-dev.lock", "engine/package/file"]
)
def test_a_changed_input_makes_another_image(tree: Path, name: str) -> None:
    before = image.project_key(tree)
    (tree / name).write_text("changed")
    assert image.project_key(tree) != before


def test_a_renamed_or_new_module_makes_another_image(tree: Path) -> None:
    before = image.project_key(tree)
    (tree / "engine/package/file").rename(tree / "engine/package/other")
    renamed = image.project_key(tree)
    (tree / "cli/package/new").write_text("")
    assert len({before, renamed, image.project_key(tree)}) == 3


@pytest.mark.parametrize("name", ["engine/tests/file", "engine/package/__pycache__/file", "README.md"])
def test_what_the_image_leaves_out_makes_no_other_image(tree: Path, name: str) -> None:
    before = image.project_key(tree)
    (tree / name).write_text("changed")
    assert image.project_key(tree) == before


def test_the_dockerfile_copies_nothing_that_the_key_leaves_out() -> None:
    dockerfile = (PROJECT_ROOT / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in dockerfile if line.startswith("COPY") and "--from" not in line}
    ignored = (PROJECT_ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert copied == let_through == {*image.MEMBERS, "requirements.lock", "requirements-dev.lock"}


def test_an_image_that_was_never_built_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOS_CACHE", str(tmp_path))
    with pytest.raises(
        ClusterError, match=r"localhost/agentos:0.1.0: no such image .* `python -m tests.cluster image`"
    ):
        image.archive_of("localhost/agentos:0.1.0")
