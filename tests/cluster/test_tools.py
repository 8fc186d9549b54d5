"""What must be there beforehand, and the cache of what is built."""

import threading
from pathlib import Path

import pytest

from tests.cluster import tools
from tests.cluster.__main__ import main
from tests.cluster.command import ClusterError, run
from tests.cluster.process import Process
from tests.cluster.progress import Steps


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_go(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    program = folder / "go"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_old_go_is_refused_with_the_version_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, monkeypatch, "go1.24.9")
    with pytest.raises(ClusterError, match=r"Go 1\.25 or newer is needed, this machine has go1\.24\.9"):
        tools.check_go()


def test_a_newer_go_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_go(tmp_path, monkeypatch, "go1.26.8")
    tools.check_go()


def test_without_root_the_error_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match=r"needs root\. Start Docker, or run this as root"):
        tools.check_bare_host()


def test_missing_programs_without_apt_get_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.PACKAGES, "no-such-package", ("/no/such/file",))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name == "apt-get" else f"/bin/{name}")
    with pytest.raises(ClusterError, match=r"no apt-get to install it: no-such-package"):
        tools.install_packages(Steps())


def test_a_tool_is_built_once_by_runs_at_the_same_time(cache: Path) -> None:
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "tool").write_text("built")

    threads = [threading.Thread(target=tools.built, args=("tool", "v1", build, Steps())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert (cache / "bin" / "tool-v1" / "tool").read_text() == "built"


def test_a_build_cut_short_is_not_taken_for_whole(cache: Path) -> None:
    def cut_short(folder: Path) -> None:
        (folder / "tool").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tools.built("tool", "v1", cut_short, Steps())
    whole = tools.built("tool", "v1", lambda folder: (folder / "tool").write_text("whole") and None, Steps())
    assert whole.read_text() == "whole"
    assert [path.name for path in (cache / "bin").iterdir()] == ["tool-v1"]


def test_a_failed_program_is_reported_with_its_last_lines() -> None:
    with pytest.raises(ClusterError, match=r"ended with status 3:\n    no space left"):
        run(["sh", "-c", "echo no space left >&2; exit 3"])


def test_a_program_that_hangs_is_stopped() -> None:
    with pytest.raises(ClusterError, match=r"sleep 60: not finished after 0 s"):
        run(["sleep", "60"], timeout=0.1)


def test_a_process_id_given_anew_is_another_process() -> None:
    own = Process.of(1)
    assert own is not None
    assert own.alive()
    assert not Process(1, own.started + 1).alive()


def test_a_bad_cluster_name_is_an_error_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--name", "../x"]) == 1
    assert "error: '../x' can't be a cluster's name: 1 to 40 of a-z, 0-9 and -" in capsys.readouterr().err


def test_the_kubeconfig_of_a_cluster_that_does_not_run_is_an_error_that_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTOS_STATE", str(tmp_path))
    assert main(["kubeconfig", "--name", "absent"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "start it with: python -m tests.cluster up --name absent" in captured.err
