"""The module ``exec``: commands that run beside the engine."""

import json
import os

import pytest
from agentos_engine.bus.bus import Bus
from agentos_engine.config_file import options
from agentos_engine.exec import Exec

from tests.waiting import until


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
async def run(tmp_path):
    """Starts a module with commands; ``%`` in them stands for the test's folder."""
    started = []

    async def start(*commands, watch=(), url="ws://127.0.0.1:1"):
        config = options.Exec(tuple(each.replace("%", str(tmp_path)) for each in commands), tuple(watch))
        module = Exec(bus=Bus(), config=config, url=lambda: url)
        started.append(module)
        await module.start()
        return module

    yield start
    for module in started:
        await module.stop()


async def test_commands_run_one_after_the_other_and_the_last_one_stays(run, tmp_path):
    await run("echo one >> %/out", "echo two >> %/out; sleep 0.1", "echo three >> %/out; exec sleep 60")
    await until(lambda: len(lines(tmp_path / "out")) == 3)
    assert lines(tmp_path / "out") == ["one", "two", "three"]


async def test_a_command_that_fails_keeps_the_next_ones_from_running(run, tmp_path, caplog):
    await run("exit 3", "echo never >> %/out")
    await until(lambda: "exit code 3" in caplog.text)
    assert lines(tmp_path / "out") == []


async def test_a_last_command_that_fails_is_started_again(run, tmp_path):
    await run("echo run >> %/out; exit 1")
    await until(lambda: len(lines(tmp_path / "out")) == 2)


async def test_the_commands_find_the_engine(run, tmp_path):
    await run("echo $III_URL > %/out", url="ws://127.0.0.1:4711")
    await until(lambda: lines(tmp_path / "out") == ["ws://127.0.0.1:4711"])


async def test_stopping_ends_a_command_with_all_that_it_started(run, tmp_path):
    module = await run("sleep 61 & echo $! > %/child; echo $$ > %/shell; wait")
    await until(lambda: lines(tmp_path / "shell"))
    pids = [int(lines(tmp_path / name)[0]) for name in ("child", "shell")]
    await module.stop()

    def gone(pid):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await until(lambda: all(gone(pid) for pid in pids))


async def test_a_change_of_a_watched_file_starts_the_commands_anew(run, tmp_path):
    source = tmp_path / "src" / "deep"
    source.mkdir(parents=True)
    (source / "a.py").write_text("1")
    await run("echo run >> %/out; exec sleep 60", watch=[f"{tmp_path}/src/**/*.py"])
    await until(lambda: len(lines(tmp_path / "out")) == 1)
    (source / "b.py").write_text("2")
    await until(lambda: len(lines(tmp_path / "out")) == 2)


async def test_a_config_file_runs_commands_that_reach_the_engine(run_engine, tmp_path):
    config = {
        "workers": [
            {"name": "iii-worker-manager", "config": {"host": "127.0.0.1", "port": 0}},
            {"name": "iii-exec", "config": {"exec": [f"echo $III_URL > {tmp_path}/out; exec sleep 60"]}},
        ]
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    running = await run_engine("--config", str(tmp_path / "config.yaml"))
    await until(lambda: lines(tmp_path / "out") == [f"ws://127.0.0.1:{running.ports.workers}"])
    assert os.environ.get("III_URL") is None
