"""``agentos new worker``: the folder that it makes runs, passes its own test and validates, in each language."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import Command, Run
from ups import until, up

FILES = {
    "python": ["Dockerfile", "README.md", "iii.worker.yaml", "test_worker.py", "worker.py"],
    "node": ["Dockerfile", "README.md", "iii.worker.yaml", "package.json", "worker.mjs", "worker.test.mjs"],
    "rust": ["Cargo.toml", "Dockerfile", "README.md", "iii.worker.yaml", "src/main.rs", "tests/worker.rs"],
}
NEEDS = {"python": "python3", "node": "npm", "rust": "cargo"}
ROOT = Path(__file__).parent.parent.parent
TEMPLATES = ROOT / "cli" / "agentos" / "templates"
INSTALLED = [
    pytest.param(each, marks=pytest.mark.skipif(not shutil.which(need), reason=f"{need} is not installed"))
    for each, need in NEEDS.items()
]


@pytest.fixture
def agentos(command: Command) -> Run:
    """Run the command in a folder of its own."""
    return command.run


@pytest.fixture(scope="session")
def crates() -> Path:
    """What cargo has compiled already, kept between runs; the SDK's crates are those of the compatibility tests."""
    root = Path(os.environ.get("AGENTOS_CACHE") or Path.home() / ".cache" / "agentos") / "sdks"
    folder = max(
        root.glob("rust-*/target"), key=lambda path: path.stat().st_mtime, default=root / "rust-new" / "target"
    )
    return folder.parent


@pytest.fixture(scope="module", params=INSTALLED)
def price_list(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new worker in each language, with the means at hand that make its build quick; the tests share what it installs."""
    folder = tmp_path_factory.mktemp("new") / "price-list"
    done = Command(folder.parent).run("new", "worker", folder.name, "--language", request.param)
    assert (done.returncode, done.stderr) == (0, "")
    if request.param != "rust":
        yield folder
        return
    crates = request.getfixturevalue("crates")
    if (crates / "Cargo.lock").exists():
        shutil.copyfile(crates / "Cargo.lock", folder / "Cargo.lock")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARGO_TARGET_DIR", str(crates / "target"))
        patch.setenv("CARGO_PROFILE_DEV_DEBUG", "false")
        patch.setenv("CARGO_INCREMENTAL", "0")
        yield folder
        subprocess.run(["cargo", "clean", "--quiet", "--package", "price-list"], cwd=folder, check=True, timeout=60)


def source_of(folder: Path) -> Path:
    """The file with the worker's functions."""
    (source,) = (folder / name for name in ("worker.py", "worker.mjs", "src/main.rs") if (folder / name).exists())
    return source


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("language", FILES)
def test_a_new_worker_has_its_files_and_the_next_steps_are_said(agentos: Run, tmp_path: Path, language: str) -> None:
    done = agentos("new", "worker", "price-list", "--language", language)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path / "price-list") == sorted([".dockerignore", ".gitignore", *FILES[language]])
    assert done.stdout.startswith("made price-list: ")
    steps = [line.strip().partition("  ")[0] for line in done.stdout.splitlines()[2:]]
    assert steps == ["cd price-list", "agentos up", "agentos call price-list::greet name=Ada", "agentos test ."]


@pytest.mark.parametrize("language", FILES)
def test_a_new_worker_validates_without_errors_and_warnings(agentos: Run, language: str) -> None:
    agentos("new", "worker", "price-list", "--language", language)
    done = agentos("validate", "price-list")
    assert (done.returncode, done.stdout) == (0, "1 document checked: 0 errors, 0 warnings\n")


@pytest.mark.parametrize("language", FILES)
def test_nothing_of_the_template_is_left_over(agentos: Run, tmp_path: Path, language: str) -> None:
    agentos("new", "worker", "price-list", "--language", language)
    for file in files_in(tmp_path / "price-list"):
        text = (tmp_path / "price-list" / file).read_text()
        assert not re.search(r"my-worker|my_worker|TODO|FIXME|\{\{|\}\}|<[A-Z]+>", text.replace("{{ ", "")), file
        assert text.endswith("\n")


def test_python_is_the_language_unless_another_is_named(agentos: Run, tmp_path: Path) -> None:
    agentos("new", "worker", "prices")
    assert (tmp_path / "prices" / "worker.py").is_file()


def test_the_folder_is_made_where_dir_says(agentos: Run, tmp_path: Path) -> None:
    done = agentos("new", "worker", "prices", "--dir", "fleet/eu")
    assert "\n  cd fleet/eu/prices\n" in done.stdout
    assert (tmp_path / "fleet" / "eu" / "prices" / "iii.worker.yaml").is_file()


def test_an_empty_folder_of_that_name_is_filled(agentos: Run, tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    assert agentos("new", "worker", "prices").returncode == 0
    assert (tmp_path / "prices" / "worker.py").is_file()


def test_a_folder_that_holds_something_is_refused_and_nothing_is_written(agentos: Run, tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "notes.txt").write_text("mine\n")
    done = agentos("new", "worker", "prices")
    message = "prices is there already and not empty; choose another name, or another place with --dir"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"agentos: {message}\n")
    assert files_in(tmp_path) == ["prices/notes.txt"]


def test_a_file_in_the_way_is_refused(agentos: Run, tmp_path: Path) -> None:
    (tmp_path / "prices").write_text("mine\n")
    done = agentos("new", "worker", "prices")
    assert (done.returncode, done.stderr.partition(";")[0]) == (2, "agentos: prices is a file")
    done = agentos("new", "worker", "list", "--dir", "prices")
    assert (done.returncode, done.stderr) == (1, "agentos: cannot make prices/list: Not a directory\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Price List", "use lower-case letters, digits and '-', a letter first, such as price-list"),
        ("../prices", "use lower-case letters, digits and '-', a letter first, such as prices"),
        ("price_list", "use lower-case letters, digits and '-', a letter first, such as price-list"),
        ("9lives", "use lower-case letters, digits and '-', a letter first, such as lives"),
        ("prices-", "use lower-case letters, digits and '-', a letter first, such as prices"),
        ("", "use lower-case letters, digits and '-', a letter first, such as my-worker"),
        ("\x1b[31mred", "use lower-case letters, digits and '-', a letter first, such as"),
        ("sandbox", "the name sandbox belongs to the engine; choose another, such as my-sandbox"),
        ("iii-http", "the name iii-http belongs to the engine; choose another, such as my-http"),
        ("state", "its functions would be state::*, and state::delete belongs to the engine; choose another, such as my-state"),
        ("agentos-engine", "agentos-engine is the name of the realm's engine; choose another"),
        ("a" * 64, "has 64 characters, more than the 63 that are allowed"),
    ],
)  # fmt: skip
def test_a_name_that_no_worker_can_have_is_refused_with_what_to_write(
    agentos: Run, tmp_path: Path, name: str, told: str
) -> None:
    done = agentos("new", "worker", "--", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be the name of a worker: " in done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    assert files_in(tmp_path) == []


def test_a_name_that_cargo_keeps_for_itself_is_refused_for_rust_alone(agentos: Run) -> None:
    done = agentos("new", "worker", "examples", "--language", "rust")
    assert (done.returncode, done.stderr.partition(": ")[2].partition(";")[0]) == (
        2,
        "'examples' cannot be the name of a worker in Rust: cargo has a folder of that name",
    )
    assert agentos("new", "worker", "examples").returncode == 0


def test_an_unknown_language_names_those_that_there_are(agentos: Run, tmp_path: Path) -> None:
    done = agentos("new", "worker", "prices", "--language", "cobol")
    assert done.returncode == 2
    assert all(each in done.stderr for each in FILES)
    assert files_in(tmp_path) == []


def test_a_new_worker_passes_its_own_test(price_list: Path, command: Command) -> None:
    done = command.process("test", str(price_list), seconds=500)
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_test_fails_when_the_worker_is_wrong(price_list: Path, command: Command) -> None:
    source = source_of(price_list)
    right = source.read_text()
    source.write_text(right.replace("Hello, ", "Goodbye, "))
    try:
        assert command.process("test", str(price_list), seconds=300).returncode == 1
    finally:
        source.write_text(right)


def test_a_new_worker_runs_under_up_and_is_changed_while_it_runs(price_list: Path) -> None:
    source = source_of(price_list)
    with up(price_list) as running:
        running.line(r"price-list +\* ready", 300)
        url = f"{running.url}/price-list"
        assert httpx.post(f"{url}/greet", json={"name": "Ada"}).json() == {"message": "Hello, Ada!"}
        refused = httpx.post(f"{url}/greet", json={"name": ""})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INVALID_INPUT")
        assert refused.json()["error"]["message"].startswith("name: ")
        assert httpx.post(f"{url}/greet", json=["Ada"]).status_code == 400
        assert httpx.get(f"{url}/total").json()["minutes"] >= 0
        source.write_text(source.read_text().replace("Hello, ", "Welcome, "))
        until(
            "the changed worker answers",
            lambda: httpx.post(f"{url}/greet", json={"name": "Ada"}).json() == {"message": "Welcome, Ada!"},
            seconds=120,
        )
        assert running.stop() == 0
    assert "/w/ey" not in running.output  # the token, as the SDK's telemetry would print it


def test_the_templates_name_the_versions_that_the_tests_run() -> None:
    version = tomllib.loads((ROOT / "cli" / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG BASE=localhost/agentos:{version}\n" in (TEMPLATES / "python" / "Dockerfile").read_text()
    compat = ROOT / "tests" / "compat"
    theirs = tomllib.loads((compat / "rust" / "Cargo.toml").read_text())["dependencies"]["iii-sdk"]
    ours = tomllib.loads((TEMPLATES / "rust" / "Cargo.toml").read_text())["dependencies"]["iii-sdk"]
    assert ours == theirs
    sdk = re.search(r'"iii-sdk": "(.*)"', (TEMPLATES / "node" / "package.json").read_text())
    assert sdk is not None
    assert f'"npm:iii-sdk@{sdk[1]}"' in (compat / "node" / "package.json").read_text()
