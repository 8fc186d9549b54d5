"""The command ``agentos import``: what it writes, says and returns."""

import json
import os
from pathlib import Path

import pytest
from commands import Command, Run

CONFIG = "workers:\n  - name: iii-http\n    config: {port: 8080}\n  - name: iii-exec\n    config:\n      exec: [cd a && node x.js]\n"


@pytest.fixture
def agentos(command: Command) -> Run:
    """Run the command in the folder of a project."""
    (command.folder / "a").mkdir()
    (command.folder / "config.yaml").write_text(CONFIG)
    return command.run


def test_it_writes_files_that_validate_and_lists_what_is_left(agentos: Run, tmp_path: Path):
    done = agentos("import", "config.yaml", "--realm", "shop", "--namespace", "team-a", "--out", "made/here")

    assert done.returncode == 0
    assert done.stdout.startswith("wrote made/here/realm.yaml\nwrote made/here/a.yaml\n\n")
    assert "\nconfig.yaml:3: workers[0].config.port: the port of HTTP routes is not carried over; " in done.stdout
    assert agentos("validate", "made").returncode == 0
    worker = (tmp_path / "made/here/a.yaml").read_text()
    assert worker.startswith("# From workers[1].config.exec[0] in line 6 of ../../config.yaml, by agentos import.\n")
    assert "namespace: team-a\n" in worker
    assert "agentos.dev/source: ../../a\n" in worker


def test_the_realm_is_called_after_the_projects_folder(agentos: Run, tmp_path: Path):
    agentos("import", "config.yaml")

    assert f"name: {tmp_path.name.replace('_', '-')}\n" in (tmp_path / "fleet/realm.yaml").read_text()


def test_it_is_said_as_json_too(agentos: Run):
    said = json.loads(agentos("import", "config.yaml", "-o", "json").stdout)

    assert said["written"] == ["fleet/realm.yaml", "fleet/a.yaml"]
    assert said["errors"] == []
    first = said["remarks"][0]
    assert (first["file"], first["line"], first["path"]) == ("config.yaml", 3, "workers[0].config.port")
    assert first["what"]
    assert first["instead"]


def test_the_same_files_give_the_same_output(agentos: Run, tmp_path: Path):
    first, second = (agentos("import", "config.yaml", "--out", name).stdout for name in ("one", "two"))

    assert first.replace("one/", "two/") == second
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nothing_is_overwritten_without_force(agentos: Run, tmp_path: Path):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet/a.yaml").write_text("mine")

    done = agentos("import", "config.yaml")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "agentos: fleet/a.yaml: there already; choose another --out, or overwrite with --force\n"
    assert [each.name for each in (tmp_path / "fleet").iterdir()] == ["a.yaml"]
    assert agentos("import", "config.yaml", "--force").returncode == 0
    assert (tmp_path / "fleet/a.yaml").read_text() != "mine"


def test_errors_of_all_files_are_told_with_their_lines(agentos: Run, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("workers:\n  - name: iii-http\n    config: {prot: 1}\n")
    (tmp_path / "worker-compose.yaml").write_text("containers:\n  a:\n    worker: path://zed\n")

    done = agentos("import", "config.yaml", "worker-compose.yaml")
    said = json.loads(agentos("import", "config.yaml", "-o", "json").stdout)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "agentos: config.yaml:3: workers[0].config.prot: the key 'prot' is not known here; did you mean port?",
        "agentos: worker-compose.yaml:3: containers.a.worker: there is no such folder; correct the path",
    ]
    assert [each["line"] for each in said["errors"]] == [3]
    assert not (tmp_path / "fleet").exists()


def test_a_file_that_cannot_be_read_is_told_in_a_line(agentos: Run, tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"workers: \xff")
    os.mkfifo(tmp_path / "pipe")

    for name in ("nowhere.yaml", "a", "latin.yaml"):
        done = agentos("import", name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"agentos: {name}: cannot be read: ")
        assert done.stderr.count("\n") == 1
    assert agentos("import", "pipe", "--out", "from-pipe").returncode in (0, 2)  # and does not hang


def test_a_file_that_is_too_large_is_refused(agentos: Run, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("# " + "x" * (1 << 20))

    done = agentos("import", "config.yaml")

    assert done.returncode == 1
    assert "more than 1 MiB" in done.stderr


@pytest.mark.parametrize(("flag", "name"), [("--realm", "Not_Good"), ("--namespace", "-x"), ("--realm", "a" * 64)])
def test_a_name_that_kubernetes_does_not_take_is_refused(agentos: Run, flag: str, name: str):
    done = agentos("import", "config.yaml", f"{flag}={name}")

    assert done.returncode == 2
    assert done.stderr.startswith(f"agentos: {flag} ")


def test_a_folder_that_cannot_be_written_is_told_in_a_line(agentos: Run, tmp_path: Path):
    (tmp_path / "fleet").write_text("a file")

    done = agentos("import", "config.yaml")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
