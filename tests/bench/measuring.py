"""How it is measured: short windows that take turns, ratios of neighbours, medians; and what is kept of a run.

Absolute figures drift by half within an hour on a shared machine. Windows that lie side by side drift together, so each
round gives one ratio, and the median of many rounds holds.
"""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "15"))
"""Rounds of a measurement: 15 at least for figures that are kept."""
WINDOW = float(os.environ.get("BENCH_WINDOW", "0.5"))
"""Seconds of one window."""

Windows = Mapping[str, Callable[[], Awaitable[float]]]


@dataclass
class Figure:
    """One figure: the median of its rounds with the quartiles; ``gate`` is what must hold, ``aim`` what was hoped for.

    ``at_most`` says on which side of the gate it is well. ``native``: the same of the native engine, as published.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    gate: float | None = None
    aim: float | None = None
    at_most: bool = True
    native: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the gate holds; None when there is none."""
        if self.gate is None:
            return None
        return self.value <= self.gate if self.at_most else self.value >= self.gate


def figure(
    name: str,
    unit: str,
    values: list[float],
    *,
    gate: float | None = None,
    aim: float | None = None,
    at_most: bool = True,
    native: float | None = None,
    note: str = "",
) -> Figure:
    """Return the median of the values with their quartiles."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return Figure(name, unit, statistics.median(values), low, high, len(values), gate, aim, at_most, native, note)


async def in_turns(windows: Windows, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run every window once in each round, the order reversed in each second one; returns the values by name."""
    values: dict[str, list[float]] = {name: [] for name in windows}
    names = list(windows)
    for name in names:  # to warm up
        await windows[name]()
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            values[name].append(await windows[name]())
    return values


def ratios(values: dict[str, list[float]], over: str, under: str) -> list[float]:
    """Return the ratios of two windows, one for each round."""
    return [a / b for a, b in zip(values[over], values[under], strict=True)]


def keep(bench: str, figures: list[Figure], **more: object) -> None:
    """Print the figures, and write them to ``results`` with when, of what, and where they were measured."""
    about = {
        "bench": bench,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
    }
    kept = [asdict(each) | {"met": each.met} for each in figures]
    for each in figures:
        gate = "" if each.gate is None else f"  gate {each.gate:g}: {'met' if each.met else 'NOT MET'}"
        print(f"{each.name:58} {each.value:9.2f} {each.unit:12} [{each.low:.2f}–{each.high:.2f}]{gate}", flush=True)
    if ROUNDS >= 15:
        rounded = json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.4g}"))
        text = json.dumps(about | {"figures": rounded} | more, indent=1, ensure_ascii=False)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{bench}.json").write_text(text + "\n")


def machine() -> dict[str, object]:
    """Return the shape of this machine."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _commit() -> str:
    line = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(line, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip()
