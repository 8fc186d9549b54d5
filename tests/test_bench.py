"""The harness of the benchmarks works: tiny runs, whose figures mean nothing and are not kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import measuring, report

ROOT = Path(__file__).parents[1]
TINY = {**os.environ, "BENCH_ROUNDS": "1", "BENCH_WINDOW": "0.02"}


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        (["bus", "calls", "lean", "many"], ["64 B, 1 in flight", "lean client, 16 KiB", "32 callers × 32 workers"]),
        (["events"], ["fan-out to 128", "enqueue → handler", "durable state::set"]),
        (["rest"], ["REST, 64 connections", "REST p50, 128 connections"]),
    ],
)
def test_each_benchmark_runs_and_prints_its_figures(command: list[str], lines: list[str]) -> None:
    before = {path: path.read_bytes() for path in measuring.RESULTS.glob("*.json")}
    line = [sys.executable, "-m", f"tests.bench.{command[0]}", *command[1:]]
    done = subprocess.run(line, cwd=ROOT, env=TINY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(each in done.stdout for each in lines), done.stdout
    assert {path: path.read_bytes() for path in measuring.RESULTS.glob("*.json")} == before


async def test_windows_take_turns_and_each_round_gives_one_ratio() -> None:
    order = []

    def window(name: str, value: float):
        async def run() -> float:
            order.append(name)
            return value

        return run

    values = await measuring.in_turns({"engine": window("engine", 3.0), "sketch": window("sketch", 2.0)}, rounds=3)
    assert measuring.ratios(values, "engine", "sketch") == [1.5, 1.5, 1.5]
    assert order[2:] == ["sketch", "engine", "engine", "sketch", "sketch", "engine"]


def test_a_figure_beyond_its_gate_is_told_as_lost() -> None:
    lost = measuring.figure("calls", "× sketch", [1.2, 1.3, 1.4], gate=1.25)
    assert (lost.value, lost.met) == (1.3, False)
    row = report.table([vars(lost) | {"met": lost.met}])
    assert "| calls | 1.3 × sketch (1.2–1.4) | ≤ 1.25, **not met** |" in row
    assert measuring.figure("rate", "%", [70.0], gate=65, at_most=False).met is True
