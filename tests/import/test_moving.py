"""A small iii project with a Node and a Python worker, on their plain SDKs: the same calls are answered before and after."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from commands import Command
from consoles import Engine
from ups import until, up

from tests.compat import sdks

PROJECT = Path(__file__).parent / "project"
PAGE = Path(__file__).parents[2] / "docs/import.md"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with its dependencies installed: what ``npm install`` and ``pip install`` would have done."""
    folder = tmp_path / "visits"
    shutil.copytree(PROJECT, folder)
    python, node = sdks.command("py-0.25.0", ""), sdks.command("node-0.22.1", "")
    modules = folder / "workers/greeter/node_modules"
    modules.mkdir()
    (modules / "iii-sdk").symlink_to(Path(node[3]) / "node_modules/iii-sdk-0.22")
    monkeypatch.setenv("PATH", f"{Path(python[0]).parent}{os.pathsep}{os.environ['PATH']}")
    return folder


@contextmanager
def engine_with(config: Path) -> Iterator[str]:
    """Run an engine with a config file, as the project ran before; yields the address of its routes."""
    engine = Engine("--config", str(config), folder=config.parent)
    try:
        yield f"http://127.0.0.1:{engine.ports['http_port']}"
    finally:
        engine.stop()


def answers(url: str) -> list[dict]:
    """What the project answers to its callers, once both workers are there."""

    def both() -> bool:
        found = [httpx.post(f"{url}/greet", json={"name": "nobody"}), httpx.get(f"{url}/report?name=nobody")]
        return all(each.status_code == 200 for each in found)

    until("both workers answer", both, 60)
    calls = [httpx.post(f"{url}/greet", json={"name": "Ada"}) for _ in range(2)]
    calls.append(httpx.get(f"{url}/report?name=Ada"))
    return [each.json() for each in calls]


EXPECTED = [{"text": "Hello Ada", "visit": 1}, {"text": "Hello Ada", "visit": 2}, {"report": "Hello Ada (2)"}]


def imported(folder: Path, file: str) -> str:
    return Command(folder)("import", file, "--out", "fleet")


def test_a_project_with_iii_exec_answers_the_same_calls_after_it_has_moved(project: Path):
    with engine_with(project / "config.yaml") as url:
        assert answers(url) == EXPECTED

    said = imported(project, "config.yaml")

    assert sorted(path.name for path in (project / "fleet").iterdir()) == ["counter.yaml", "greeter.yaml", "realm.yaml"]
    assert "config.yaml:8: workers[1].config.port: " in said
    with up(project, "-f", "fleet") as running:
        assert answers(running.url) == EXPECTED


def test_a_project_with_a_worker_compose_file_answers_its_calls_after_it_has_moved(project: Path):
    imported(project, "worker-compose.yaml")

    assert sorted(path.name for path in (project / "fleet").iterdir()) == ["counter.yaml", "greeter.yaml", "realm.yaml"]
    with up(project, "-f", "fleet") as running:
        assert answers(running.url) == EXPECTED


def test_the_example_in_the_docs_is_this_project_and_what_comes_out(project: Path):
    blocks = re.findall(r"```(yaml|console)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (_, config), (_, console), (_, greeter) = blocks
    command, _, said = console.partition("\n")

    assert command == "$ agentos import config.yaml"
    assert config == (project / "config.yaml").read_text()
    assert said == imported(project, "config.yaml")
    assert greeter == (project / "fleet/greeter.yaml").read_text()
