"""After churn of every kind an engine holds what it held before; over a long time its memory does not grow."""

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from tests.soak import churn

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("AGENTOS_SOAK_SECONDS", "900"))
WARM_UP = SECONDS / 5
MAX_SLOPE = 1 << 20
"""Bytes in five minutes."""
MIN_ROUNDS = 20

CONFIG = f"""
agentos: {{limits: {{memory_bytes: {256 << 20}}}}}
workers:
  - name: iii-http
  - name: iii-stream
  - name: iii-state
  - name: iii-pubsub
  - name: iii-cron
  - name: iii-queue
    config: {{queue_configs: {{{churn.QUEUE}: {{max_retries: 1, backoff_ms: 1, concurrency: 20}}}}}}
  - name: iii-observability
    config: {{memory_max_spans: 100, logs_max_count: 100, metrics_max_count: 100}}
"""


class Soaked:
    """The engine's process."""

    def __init__(self, process: asyncio.subprocess.Process, ports: dict[str, int]) -> None:
        self._process, self.ports = process, ports

    async def tell(self) -> dict:
        """What it holds now that all connections have gone."""
        async with asyncio.timeout(30):
            while True:
                self._process.stdin.write(b"now\n")
                told = json.loads(await self._process.stdout.readline())
                if not told["connections"] and not told["in_flight"]:
                    return told
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def soaked(counted: str, folder: Path) -> AsyncIterator[Soaked]:
    (folder / "config.yaml").write_text(CONFIG)
    arguments = ("-m", "tests.soak.engine", counted, str(folder / "config.yaml"), str(folder / "data"))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 24
    )
    try:
        yield Soaked(process, json.loads(await asyncio.wait_for(process.stdout.readline(), 30)))
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 30) == 0, "it ends in order"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_after_churn_of_every_kind_nothing_is_left(tmp_path):
    chance = random.Random(1)
    async with soaked("counts", tmp_path) as engine:
        for _ in range(2):
            await churn.round_of(engine.ports, chance)
        await churn.cleared(engine.ports)
        before = (await engine.tell())["counts"]
        served = 0
        for _ in range(4):
            served += await churn.round_of(engine.ports, chance)
        await churn.cleared(engine.ports)
        deadline = time.monotonic() + 20
        while grown := _grown(before, (await engine.tell())["counts"]):  # some ends come a moment later
            assert time.monotonic() < deadline, grown
            await asyncio.sleep(0.2)
    assert served > 500


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    """What there is more of, before and after; of other objects a few more are no leak, as some caches are not full."""
    exact = ("tasks", "timers", "files", "connections", "functions", "triggers", "calls", "channels", "slow", "bytes")
    found = {}
    for name, count in after.items():
        had = before.get(name, 0)
        if name.startswith(exact):
            slack = 0
        elif name.startswith("items"):
            slack = 100 + had // 500
        else:
            slack = 3 + had // 50
        if count > had + slack:
            found[name] = (had, count)
    return found


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 300)
async def test_the_memory_does_not_grow_in_a_quarter_of_an_hour(tmp_path):
    chance = random.Random(2)
    samples: list[tuple[float, float]] = []
    async with soaked("memory", tmp_path) as engine:
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < SECONDS:
            await churn.round_of(engine.ports, chance)
            told = await engine.tell()
            if elapsed > WARM_UP:
                samples.append((time.monotonic() - begin, told["rss"]))
            if len(samples) % 20 == 0:
                await churn.cleared(engine.ports)
    slope = growth(samples)
    print(
        f"{len(samples)} samples, {samples[0][1] / 1e6:.1f} MB to {samples[-1][1] / 1e6:.1f} MB, {slope * 300 / 1e6:.3f} MB in 5 minutes"
    )
    assert len(samples) >= MIN_ROUNDS
    assert slope * 300 < MAX_SLOPE


def growth(samples: list[tuple[float, float]]) -> float:
    """Bytes per second: the median of the slopes between all pairs of samples, one step of the allocator forgiven.

    A leak is in all pairs, or, where the allocator hides it, in many steps; the outliers of a median are few.
    """
    thinned = samples[:: max(1, len(samples) // 300)]
    size = max(1, len(thinned) // 30)
    blocks = [statistics.median(value for _, value in thinned[at : at + size]) for at in range(0, len(thinned), size)]
    step, at = max((after - before, number * size) for number, (before, after) in enumerate(pairwise(blocks), 1))
    level = [(time, value - max(0.0, step) * (number >= at)) for number, (time, value) in enumerate(thinned)]
    slopes = ((after - before) / (late - early) for (early, before), (late, after) in combinations(level, 2))
    return statistics.median(slopes)


def test_the_slope_is_that_of_a_leak_and_not_of_a_step():
    noise = random.Random(3)
    steps = [(at, 50e6 + (8e6 if at > 400 else 0) + noise.random() * 1e6) for at in range(180, 900, 3)]
    assert abs(growth(steps)) * 300 < MAX_SLOPE
    stairs = [(at, 50e6 + at // 120 * 1.5e6 + noise.random() * 1e6) for at in range(180, 900, 3)]
    assert growth(stairs) * 300 > MAX_SLOPE
    leak = [(at, 50e6 + at * 10_000 + noise.random() * 4e6) for at in range(180, 900, 3)]
    assert growth(leak) * 300 > MAX_SLOPE
