"""What an engine with thousands of workers costs: ``python -m tests.bench.scale``.

One engine gets 5,000 workers with 50,000 functions and 10,000 routes, all of them in one process of light clients on
loopback. A bystander, in a third process, calls a function all the time: its slowest call is what the loop was held.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import uvloop

from tests.bench.measuring import ROUNDS, WINDOW, Figure, figure, in_turns, keep, ratios
from tests.scale.swarm import Engine, Worker, bystander, connect, connect_all, engine, leave, register, settle

AT_ONCE = 100
"""Workers that register at one time."""
PAIRS, DEPTH = 8, 8
"""Active workers that are called, each by one of its own, and calls in flight of each."""


@dataclass(frozen=True)
class Size:
    """How much there is; functions and routes are those of one worker."""

    workers: int = 5000
    functions: int = 10
    routes: int = 2


FULL = Size()


@dataclass
class Costs:
    """CPU microseconds of the engine per item, for each quarter of the workers, the first one first."""

    connect: list[float]
    function: list[float]
    route: list[float]
    removal: list[float]


async def fill(running: Engine, size: Size, costs: Costs, first: int = 0) -> list[Worker]:
    """Connect workers with functions and routes, a quarter after the other."""
    workers: list[Worker] = []
    quarter = size.workers // 4
    for _ in range(4):
        before = running.cpu
        new = await connect_all(running.port, quarter)
        costs.connect.append((running.cpu - before) / quarter * 1e6)
        for what, per_worker, cost in (
            ((size.functions, 0), size.functions, costs.function),
            ((0, size.routes), size.routes, costs.route),
        ):
            before = running.cpu
            for start in range(0, quarter, AT_ONCE):
                group = new[start : start + AT_ONCE]
                for number, each in enumerate(group, first + len(workers) + start):
                    register(each, f"w{number}", *what)
                await settle(group)
            if per_worker:
                cost.append((running.cpu - before) / quarter / per_worker * 1e6)
        workers += new
    assert not any(each.refused for each in workers), "the engine refused something"
    return workers


async def empty(running: Engine, workers: list[Worker], costs: Costs) -> None:
    """Cut the workers' connections, a quarter after the other; the cost is that of a worker with all that it has."""
    quarter = len(workers) // 4
    observer = await connect(running.port)
    for start in range(0, len(workers), quarter):
        before = running.cpu
        await leave(workers[start : start + quarter])
        await observer.settled()
        costs.removal.append((running.cpu - before) / quarter * 1e6)
    await leave([observer])


class Pairs:
    """Workers that call each other as fast as they can."""

    def __init__(self, running: Engine, callers: list[Worker]) -> None:
        self._running, self._callers = running, callers
        self.answers = 0
        self._going = False

    @classmethod
    async def join(cls, running: Engine) -> "Pairs":
        """Connect them."""
        callees = await connect_all(running.port, PAIRS)
        for number, each in enumerate(callees):
            register(each, f"active{number}", 1, 0)
        await settle(callees)
        pairs = cls(running, await connect_all(running.port, PAIRS))
        for number, each in enumerate(pairs._callers):
            each.on_message = pairs._taker(number, each)
        return pairs

    def _call(self, number: int) -> bytes:
        return b'{"type":"invokefunction","invocation_id":"c","function_id":"active%d::f0","data":null}' % number

    def _taker(self, number: int, caller: Worker) -> Callable[[bytes], None]:
        def take(message: bytes) -> None:
            assert b'"error":{' not in message, message
            self.answers += 1
            if self._going:
                caller.send(self._call(number))

        return take

    async def cpu_per_call(self) -> float:
        """Call for one window; returns the engine's CPU microseconds for each call."""
        self._going, before, answers = True, self._running.cpu, self.answers
        for number, each in enumerate(self._callers):
            for _ in range(DEPTH):
                each.send(self._call(number))
        await asyncio.sleep(WINDOW)
        self._going = False
        await settle(self._callers)
        return (self._running.cpu - before) / (self.answers - answers) * 1e6


async def storm(running: Engine, workers: list[Worker], size: Size) -> tuple[float, list[Worker], dict[str, float]]:
    """Cut all workers at one time and have all of them come back; returns the seconds, they, and the bystander's."""
    async with bystander(running.port) as told:
        for each in workers:
            each.transport.abort()
        began = time.monotonic()
        back = await connect_all(running.port, size.workers)
        for number, each in enumerate(back):
            register(each, f"w{number}", size.functions, size.routes)
        await settle(back)
        seconds = time.monotonic() - began
    return seconds, back, told


async def held_by(running: Engine, work: Callable[[Worker], Awaitable[None]]) -> dict[str, float]:
    """Return how a bystander fares while a worker has the engine do something long, some times."""
    worker = await connect(running.port)
    async with bystander(running.port) as told:
        await work(worker)
    await leave([worker])
    return told


async def list_all(worker: Worker) -> None:
    """Ask for all functions, workers and bindings, some times, with changes between."""
    for number in range(4):
        register(worker, f"changed{number}", 1, 0)
        for what in ("functions", "workers", "registered-triggers"):
            answer = await worker.ask(f"engine::{what}::list")
            assert b'"error":{' not in answer[:200], answer[:200]


async def watch_all(worker: Worker) -> None:
    """Have all connections and functions told."""
    register(worker, "watcher", 1, 0)
    for kind in ("engine::connections", "engine::functions-available"):
        text = '{"type":"registertrigger","id":"%s","trigger_type":"%s","function_id":"watcher::f0","config":{}}'
        worker.send((text % (kind, kind)).encode())
    await worker.settled()
    for number in range(8):
        register(worker, f"seen{number}", 1, 0)
        await asyncio.sleep(0.1)


async def register_many(worker: Worker) -> None:
    """Register 9,900 functions at one go."""
    register(worker, "many", 9900, 0)
    await worker.settled()
    assert not worker.refused


async def replicas(count: int) -> tuple[float, float, float]:
    """Measure many replicas of one function: CPU microseconds to register one, for a call, and to remove one."""
    with engine() as running:
        workers = await connect_all(running.port, count)
        before = running.cpu
        for start in range(0, count, AT_ONCE):
            group = workers[start : start + AT_ONCE]
            for each in group:
                register(each, "same", 1, 1)
            await settle(group)
        registered, before = running.cpu - before, running.cpu
        caller = await connect(running.port)
        for _ in range(500):
            answer = await caller.ask("same::f0")
            assert b'"error":{' not in answer
        called, before = running.cpu - before, running.cpu
        # Not in the order in which they came.
        await leave(workers[1::2] + workers[::2])
        await caller.settled()
        removed = running.cpu - before
        await leave([caller])
    return registered / count * 1e6, called / 500 * 1e6, removed / count * 1e6


async def measure(size: Size) -> list[Figure]:
    """Measure everything."""
    figures: list[Figure] = []

    def note(name: str, unit: str, value: float, gate: float | None = None) -> None:
        figures.append(figure(name, unit, [value], gate=gate))
        print(f"{name}: {value:.2f} {unit}", file=sys.stderr, flush=True)

    costs = Costs([], [], [], [])
    with engine() as small, engine() as running:
        note("idle", "MB", running.resident, 40)
        few = await Pairs.join(small)
        workers = await fill(running, size, costs)
        note("memory, full", "MB", running.resident, 280)
        many = await Pairs.join(running)
        before, began = running.cpu, time.monotonic()
        await asyncio.sleep(10)
        note("nobody calls, share of a core", "%", (running.cpu - before) / (time.monotonic() - began) * 100)
        values = await in_turns({"few": few.cpu_per_call, "many": many.cpu_per_call}, ROUNDS)
        figures.append(figure("call, full to nearly empty", "ratio", ratios(values, "many", "few"), gate=1.2))
        print(figures[-1].value, file=sys.stderr)
        for name, work in (
            ("functions, workers and triggers listed", list_all),
            ("connections and functions watched", watch_all),
            ("9,900 functions registered", register_many),
        ):
            told = await held_by(running, work)
            note(f"slowest call of others: {name}", "ms", told["worst"], 100)
            assert not told["errors"]
        seconds, workers, told = await storm(running, workers, size)
        note("reconnect storm", "s", seconds, 20)
        note("storm, slowest call of others", "ms", told["worst"])
        note("storm, errors of others", "calls", told["errors"], 0)
        note("memory after the storm", "MB", running.resident, 280)
        await empty(running, workers, costs)
        await asyncio.sleep(2)
        note("memory, all gone", "MB", running.resident)
    for name, values in (
        ("connect", costs.connect),
        ("function registered", costs.function),
        ("route registered", costs.route),
        ("worker removed with all it has", costs.removal),
    ):
        figures.append(figure(name, "µs", values, note="quarters: " + ", ".join(f"{each:.0f}" for each in values)))
    first = replace(size, workers=size.workers // 10).workers
    for count in (first, size.workers):
        for name, value in zip(("registered", "called", "removed"), await replicas(count), strict=True):
            note(f"{count} replicas of one function, one {name}", "µs", value)
    return figures


if __name__ == "__main__":
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    figures = uvloop.run(measure(replace(FULL, workers=int(FULL.workers * share))))
    keep("scale", figures)
