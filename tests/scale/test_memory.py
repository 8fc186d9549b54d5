"""The memory of an engine in a process of its own."""

import asyncio

import pytest

from tests.scale.swarm import Worker, connect_all, engine, leave, register, settle

LARGE = 4 << 20
IDLE = 40
"""Megabytes that an engine may hold that nobody uses."""


async def send_large(workers: list[Worker], first: int, at_once: int) -> None:
    """Have each worker call itself with a large payload, ``at_once`` of them at a time."""
    blank = '"' + "x" * LARGE + '"'
    for start in range(0, len(workers), at_once):
        asked = [
            each.ask(f"large{number}::f0", blank)
            for number, each in enumerate(workers[start : start + at_once], first + start)
        ]
        answers = await asyncio.gather(*asked)
        assert all(b'"error"' not in answer for answer in answers), answers[0][:300]


async def grown_by_large_messages(count: int, at_once: int) -> float:
    """Return what an engine holds after each of so many workers has sent a large message, as a share of before."""
    with engine() as running:
        workers = await connect_all(running.port, count)
        for number, each in enumerate(workers):
            register(each, f"large{number}", 1, 0)
        await settle(workers)
        before = running.resident
        await send_large(workers, 0, at_once)
        await settle(workers)
        held = running.resident
        print(f"{count} connections: {before:.1f} MB before, {held:.1f} MB after")
        await leave(workers)
    return held / before


async def test_what_large_messages_took_is_given_back():
    assert await grown_by_large_messages(40, 10) < 1.2


@pytest.mark.long
async def test_what_large_messages_of_5000_workers_took_is_given_back():
    assert await grown_by_large_messages(5000, 50) < 1.2


@pytest.mark.parametrize("flags", [(), ("--data-dir",)])
async def test_an_engine_that_nobody_uses_is_small(tmp_path, flags):
    with engine(*flags, *([str(tmp_path)] if flags else [])) as running:
        (worker,) = await connect_all(running.port, 1)
        await worker.settled()
        print(f"{running.resident:.1f} MB")
        assert running.resident < IDLE
        await leave([worker])
        await asyncio.sleep(0)
