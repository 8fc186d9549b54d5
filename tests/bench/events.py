"""What the engine does beyond calls: fan-out to many subscribers, queues, and stored state.

usage: python -m tests.bench.events [POINTS…]   points: fanout, queue, state (all, when none is named)
"""

import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from agentos_engine.storage.queues import Job
from agentos_engine.storage.sqlite import CHECKPOINT_PAGES, lengthen_log
from agentos_engine.storage.sqlite_queues import INSERT_JOB, SCHEMA, STORED

from tests.bench import routers
from tests.bench.bus import cost
from tests.bench.measuring import ROUNDS, WINDOW, Figure, figure, in_turns, keep, ratios
from tests.bench.peers import TIMEOUT, Route, connect, lean, ordinary, route
from tests.bench.routers import Router

SUBSCRIBERS, BURST = 128, 8
IN_FLIGHT = 256
"""Writes of state at one time."""
PAUSE = 0.005
"""Seconds from one job to the next: the end of the former one is on disk by then, so that each has a commit of its own."""


async def fan_out(engine: Router, sketch: Router) -> list[Figure]:
    """One message published to many subscribers, each on a connection of its own: CPU per delivery."""
    (url,) = await routers.admit(engine, "bench")
    publisher = await connect(url)
    yardstick = [await route(sketch.url, "bench::echo")]
    got, wanted, everybody = 0, 0, asyncio.Event()

    def deliver(message: bytes) -> None:
        nonlocal got
        if b'"invokefunction"' in message[:200]:
            got += 1
            if got == wanted:
                everybody.set()

    for number in range(SUBSCRIBERS):
        peer = await connect(url)
        peer.send({"type": "registerfunction", "id": f"bench::on{number}"})
        config = {"topic": "news"}
        binding = {"trigger_type": "subscribe", "function_id": f"bench::on{number}", "config": config}
        peer.send({"type": "registertrigger", "id": f"binding-{number}", **binding})
        await peer.call("engine::workers::register", {"runtime": "python", "name": "bench", "version": "0"})
        peer.on = deliver
    call = {"type": "invokefunction", "function_id": "publish", "data": {"topic": "news", "data": {"x": "a" * 64}}}
    message = json.dumps(call).encode()

    def publish(at_once: int) -> Callable[[], Awaitable[float]]:
        async def window() -> float:
            nonlocal got, wanted
            got, wanted, before, stop = 0, 0, engine.cpu, time.perf_counter() + WINDOW
            while time.perf_counter() < stop:
                everybody.clear()
                wanted += at_once * SUBSCRIBERS
                for _ in range(at_once):
                    publisher.send(message)
                await asyncio.wait_for(everybody.wait(), TIMEOUT)
            return (engine.cpu - before) / got * 1e6

        return window

    values = await in_turns(
        {
            "one": publish(1),
            "burst": publish(BURST),
            "call": cost(sketch, ordinary, yardstick, 64, 64),
            "single call": cost(sketch, ordinary, yardstick, 1, 64),
        }
    )
    name = f"fan-out to {SUBSCRIBERS}, per delivery"
    one, burst = (f"{statistics.median(values[each]):.1f} µs per delivery" for each in ("one", "burst"))
    return [
        figure(name, "× sketch, 64 in flight", ratios(values, "one", "call"), gate=0.35, note=one),
        figure(name, "× sketch, 1 in flight", ratios(values, "one", "single call"), note=one),
        figure(
            f"{name}, {BURST} messages at once", "× sketch, 64 in flight", ratios(values, "burst", "call"), note=burst
        ),
    ]


async def queue(engine: Router, folder: Path) -> list[Figure]:
    """From sending the request to enqueue until the worker receives the job, one at a time, beside one commit on the same disk.

    The commit is of the same kind: the record of such a job, in the store's own tables, with a log that has its size. It
    is made with SQLite alone, while the engine is idle.
    """
    (url,) = await routers.admit(engine, "bench")
    each = await route(url, "bench::job")
    received, started, answered = 0.0, asyncio.Event(), asyncio.Event()

    def work(message: bytes) -> None:
        nonlocal received
        now, fields = time.perf_counter(), json.loads(message)
        if fields["type"] == "invokefunction":
            received = now
            started.set()
            answer = {"type": "invocationresult", "function_id": "bench::job", "result": None}
            each.worker.send(answer | {"invocation_id": fields["invocation_id"]})

    def note(message: bytes) -> None:
        if b'"messageReceiptId"' not in message:
            raise SystemExit(f"not enqueued: {message.decode()}")
        answered.set()

    each.worker.on, each.caller.on = work, note
    call = {"type": "invokefunction", "invocation_id": "1", "function_id": "bench::job", "data": {"x": "a" * 64}}
    request = json.dumps(call | {"action": {"type": "enqueue", "queue": "default"}}).encode()
    database = sqlite3.connect(folder / "one.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    database.executescript(SCHEMA)
    lengthen_log(database, folder / "one.db")
    now = time.time()
    record = Job(
        queue="named default",
        id="0" * 36,
        function_id="bench::job",
        data=b'{"x":"%b"}' % (b"a" * 64),
        created_at=now,
        due_at=now,
        max_attempts=4,
    )
    row = (record.size, *(getattr(record, each) for each in STORED))

    handled, committed, more = [], [], []
    for _ in range(ROUNDS + 1):
        jobs, commits, stop = [], [], time.perf_counter() + WINDOW
        while time.perf_counter() < stop or not commits:
            started.clear()
            answered.clear()
            began = time.perf_counter()
            each.caller.send(request)
            await asyncio.wait_for(asyncio.gather(started.wait(), answered.wait()), TIMEOUT)
            jobs.append(received - began)
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            job = database.execute(INSERT_JOB, row).lastrowid
            commits.append(time.perf_counter() - began)
            database.execute("DELETE FROM jobs WHERE seq = ?", (job,))  # as the engine does once a job is done
        handled.append(1e3 * statistics.median(jobs))
        committed.append(1e3 * statistics.median(commits))
        more.append(handled[-1] - committed[-1])
    database.close()
    return [  # the first round was to warm up
        figure("enqueue → handler, p50", "ms", handled[1:]),
        figure("one commit, p50", "ms", committed[1:]),
        figure("enqueue → handler beyond one commit", "ms", more[1:], gate=1.0),
    ]


async def state(durable: Router, memory: Router) -> list[Figure]:
    """``state::set`` of 64 B under 1,000 keys in turn: the rate on disk beside the rate in memory."""
    payload = b'{"scope":"bench","key":"k","value":{"x":"' + b"a" * 64 + b'"}}'
    windows = {}
    for name, engine in (("durable", durable), ("memory", memory)):
        (url,) = await routers.admit(engine, "bench")
        peer = await connect(url)

        def rate(routes: list[Route]):
            async def window() -> float:
                return (await lean(routes, IN_FLIGHT, 0, WINDOW, payload)).rate

            return window

        windows[name] = rate([Route(peer, peer, "state::set")])
    values = await in_turns(windows)
    share = [100 * each for each in ratios(values, "durable", "memory")]
    note = " / ".join(f"{statistics.median(values[who]):,.0f} per s" for who in values)
    name = f"durable state::set, {IN_FLIGHT} in flight"
    return [figure(name, "% of memory", share, gate=65, at_most=False, note=note)]


async def main(chosen: list[str]) -> None:
    """Measure what was chosen, each on engines of its own."""
    routers.take_load_core()
    wanted = chosen or ["fanout", "queue", "state"]
    # In the working directory's file system: a temporary folder is often in memory, where a commit costs nothing.
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DISK")) as name:
        folder = Path(name)
        if "fanout" in wanted:
            with routers.sketch() as sketch, routers.engine(folder / "fanout") as engine:
                keep("fan_out", await fan_out(engine, sketch))
        if "queue" in wanted:
            with routers.engine(folder / "queue") as engine:
                keep("queue", await queue(engine, folder))
        if "state" in wanted:
            with (
                routers.engine(folder / "disk") as durable,
                routers.engine(folder / "memory", durable=False) as memory,
            ):
                keep("state", await state(durable, memory))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
