"""An engine with many workers; ``python -m tests.bench.scale`` measures the same, and more of it, at full size."""

import pytest

from tests.bench.scale import (
    FULL,
    Costs,
    Size,
    empty,
    fill,
    held_by,
    list_all,
    register_many,
    replicas,
    storm,
    watch_all,
)
from tests.scale.swarm import engine, leave

SHORT = Size(workers=300)
KILOBYTES_PER_WORKER = 60
"""With ten functions and two routes; measured: 24. Without what saves memory, half as much again."""


async def grow_storm_shrink(size: Size) -> tuple[Costs, dict[str, float]]:
    """Fill an engine, have all workers cut and come back, have them go; returns costs and what was seen."""
    costs = Costs([], [], [], [])
    with engine() as running:
        idle = running.resident
        workers = await fill(running, size, costs)
        seen = {"memory": running.resident - idle}
        seconds, workers, told = await storm(running, workers, size)
        seen |= {"storm": seconds, "errors": told["errors"], "calls": told["calls"], "again": running.resident - idle}
        await empty(running, workers, costs)
    return costs, seen


def check(costs: Costs, seen: dict[str, float], size: Size) -> None:
    """What holds at every size, with room for a machine that does other things, too."""
    assert seen["errors"] == 0
    assert seen["calls"] >= 5
    assert seen["storm"] < 20
    assert seen["memory"] * 1024 / size.workers < KILOBYTES_PER_WORKER
    assert seen["again"] < 1.5 * seen["memory"] + 10
    for quarters in (costs.connect, costs.function, costs.route, costs.removal):
        assert min(quarters[2:]) < 2 * max(quarters[:2]), f"the more there are, the more one costs: {quarters}"


async def test_workers_come_storm_and_go_and_others_see_no_error():
    check(*await grow_storm_shrink(SHORT), SHORT)


@pytest.mark.long
async def test_5000_workers_come_storm_and_go_and_others_see_no_error():
    costs, seen = await grow_storm_shrink(FULL)
    check(costs, seen, FULL)
    assert seen["memory"] < 240


@pytest.mark.parametrize("size", [SHORT, pytest.param(FULL, marks=pytest.mark.long)])
async def test_who_asks_for_much_does_not_hold_up_the_calls_of_others(size):
    with engine() as running:
        workers = await fill(running, size, Costs([], [], [], []))
        for work in (list_all, watch_all, register_many):
            told = await held_by(running, work)
            assert told["errors"] == 0
            assert told["worst"] < 1000, work.__name__  # 40 ms on a machine that has time
        await leave(workers)


@pytest.mark.long
async def test_many_replicas_of_one_function_cost_no_more_each_than_some():
    some, many = await replicas(500), await replicas(5000)
    for few, full in zip(some, many, strict=True):
        assert full < 3 * few + 50
