"""The worker of docs/kit.md, and the pytest plugin that its tests use, under `agentos test`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "kit.md"
MANIFEST = "iii: v1\nname: shop\nlanguage: python\nscripts:\n  start: agentos-worker run worker.py\n"
PLUGIN = """
import datetime, time
import pytest
from agentos_workers.kit import InvocationError

def test_functions_lists_those_of_workers(bus):
    assert bus.functions() == ["shop::echo"]

def test_wait_for_returns_when_the_function_is_there_and_fails_with_those_that_are(bus):
    bus.wait_for("shop::echo")
    with pytest.raises(pytest.fail.Exception, match="shop::no is not there after 0.1 s; there are: shop::echo"):
        bus.wait_for("shop::no", timeout=0.1)

def test_an_error_has_a_code(bus):
    with pytest.raises(InvocationError) as caught:
        bus.call("shop::no")
    assert caught.value.code == "function_not_found"

def test_time_moves_only_when_it_is_moved(bus):
    before = bus.now()
    assert bus.advance(3600) - before == datetime.timedelta(hours=1)
    assert bus.now() - before == datetime.timedelta(hours=1)

def test_http_gives_status_headers_and_body(bus):
    answer = bus.http("POST", "shop/echo?b=query", json={"a": "body"})
    assert (answer.status, answer.body) == (200, {"a": "body", "b": "query"})
    assert answer.headers["content-type"] == "application/json"
    assert bus.http("GET", "/nowhere").status == 404
"""
ECHO = """
from agentos_workers.kit import Context, Http, Reply, Request, Worker
worker = Worker("shop")
class Both(Request):
    a: str
    b: str
@worker.function("shop::echo", http=Http("POST", "shop/echo"))
def echo(request: Both, context: Context) -> Both:
    return request
"""


def snippets() -> dict[str, str]:
    """The page's Python files; blocks for one file make it together, in their order."""
    files: dict[str, str] = {}
    for name, code in re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        files[name] = files.get(name, "") + code
    return files


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **more}


def agentos_test(folder: Path, files: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in {**files, "iii.worker.yaml": MANIFEST}.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "agentos", "test", str(folder)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)


def test_every_python_block_of_the_page_belongs_to_a_file() -> None:
    assert snippets().keys() == {"models.py", "worker.py", "test_worker.py"}
    assert PAGE.read_text().count("```python") == len(
        re.findall(r"^```python\n# \S+\n", PAGE.read_text(), re.MULTILINE)
    )


def test_the_worker_of_the_page_passes_the_tests_of_the_page(tmp_path: Path) -> None:
    done = agentos_test(tmp_path, snippets())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_bus_of_the_plugin_asks_the_engine(tmp_path: Path) -> None:
    done = agentos_test(tmp_path, {"worker.py": ECHO, "test_worker.py": PLUGIN})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


@pytest.fixture
def run_pytest(tmp_path: Path) -> Callable[..., str]:
    """Runs a test that asks for the fixture, without `agentos test`; the output."""

    def run(**environ: str) -> str:
        (tmp_path / "test_worker.py").write_text("def test_it(bus):\n    bus.advance(1)\n")
        command = [sys.executable, "-m", "pytest", "-rs", "--rootdir", str(tmp_path), str(tmp_path)]
        done = subprocess.run(command, env=environment(**environ), capture_output=True, text=True, timeout=60)
        return done.stdout

    return run


def test_without_an_engine_tests_are_skipped_with_the_reason(run_pytest: Callable[..., str]) -> None:
    output = run_pytest()
    assert "there is no engine (III_URL is not set); run the tests with `agentos test`" in output
    assert "1 skipped" in output


def test_a_clock_that_goes_by_itself_cannot_be_moved(run_pytest: Callable[..., str], bus: object) -> None:
    output = run_pytest(III_URL=bus.url)  # type: ignore[attr-defined]
    assert "the clock of this engine goes by itself; run the tests with `agentos test`" in output
    assert "secret-token" not in output


def test_the_plugin_costs_next_to_nothing_where_it_is_not_used() -> None:
    code = "import sys, agentos_workers.testing; print([m for m in ('iii', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
