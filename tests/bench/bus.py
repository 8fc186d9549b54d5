"""CPU of the engine per call, as a ratio to the sketch's in the same run; also with tracing, and many to many.

usage: python -m tests.bench.bus [POINTS…]   points: calls, lean, tracing, many (all, when none is named)
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from tests.bench import routers
from tests.bench.measuring import WINDOW, Figure, figure, in_turns, keep, ratios
from tests.bench.peers import Route, Window, lean, ordinary, route
from tests.bench.routers import Router

Load = Callable[[list[Route], int, int, float], Awaitable[Window]]
NAMES = {64: "64 B", 16384: "16 KiB"}
PAIRS = 32
"""Callers, and workers, of many to many."""

POINTS = [  # load, in flight, bytes, aim, gate, the native engine as published
    (ordinary, 1, 64, 1.2, 1.25, 1.23),
    (ordinary, 64, 64, 1.05, 1.10, 1.08),
    (ordinary, 1, 16384, 1.05, 1.15, 1.3),
    (ordinary, 64, 16384, 1.05, 1.15, 1.5),
    (lean, 1, 64, None, None, None),
    (lean, 64, 64, 0.95, 1.0, None),
    (lean, 64, 16384, None, None, None),
]


def cost(router: Router, load: Load, routes: list[Route], in_flight: int, size: int) -> Callable[[], Awaitable[float]]:
    """Return a window that gives the router's CPU microseconds per call."""

    async def window() -> float:
        before = router.cpu
        made = await load(routes, in_flight, size, WINDOW)
        return (router.cpu - before) / made.calls * 1e6

    return window


async def calls(engine: Router, sketch: Router, loads: tuple[Load, ...]) -> list[Figure]:
    """One caller and one worker."""
    (url,) = await routers.admit(engine, "bench")
    ours, yardstick = [await route(url, "bench::echo")], [await route(sketch.url, "bench::echo")]
    figures = []
    for load, in_flight, size, aim, gate, native in POINTS:
        if load not in loads:
            continue
        values = await in_turns(
            {
                "engine": cost(engine, load, ours, in_flight, size),
                "sketch": cost(sketch, load, yardstick, in_flight, size),
            }
        )
        client = "lean client, " if load is lean else ""
        name = f"{client}{NAMES[size]}, {in_flight} in flight"
        found = ratios(values, "engine", "sketch")
        figures.append(figure(name, "× sketch", found, aim=aim, gate=gate, native=native))
        figures[-1].note = " / ".join(f"{sorted(values[who])[len(values[who]) // 2]:.1f} µs" for who in values)
    return figures


async def tracing(engines: dict[str, Router], sketch: Router) -> list[Figure]:
    """The same call with more and less of it traced."""
    figures = []
    routes = {}
    for name, engine in engines.items():
        (url,) = await routers.admit(engine, "bench")
        routes[name] = [await route(url, "bench::echo")]
    yardstick = [await route(sketch.url, "bench::echo")]
    for in_flight in (1, 64):
        windows = {name: cost(engine, ordinary, routes[name], in_flight, 64) for name, engine in engines.items()}
        values = await in_turns(windows | {"sketch": cost(sketch, ordinary, yardstick, in_flight, 64)})
        for name in engines:
            gate = 2.0 if name == "100 %" else None
            label = f"tracing {name}, 64 B, {in_flight} in flight"
            figures.append(figure(label, "× sketch", ratios(values, name, "sketch"), gate=gate))
    return figures


async def many(engine: Router, sketch: Router) -> list[Figure]:
    """Many callers, each with a worker of its own, beside one of each: with as many calls in flight each, and in all.

    With as many in all less comes in one read, whatever the router: the sketch's own ratio tells how much that is.
    """
    (url,) = await routers.admit(engine, "bench")
    single, pairs = await _pairs(url)
    plain, plain_pairs = await _pairs(sketch.url)
    figures = []
    for each in (1, 64):
        values = await in_turns(
            {
                "many": cost(engine, ordinary, pairs, PAIRS * each, 64),
                "one": cost(engine, ordinary, single, each, 64),
            }
        )
        name = f"{PAIRS} callers × {PAIRS} workers, {each} in flight each"
        figures.append(figure(name, "× one to one", ratios(values, "many", "one"), gate=1.15))
    values = await in_turns(
        {
            "many": cost(engine, ordinary, pairs, 64, 64),
            "one": cost(engine, ordinary, single, 64, 64),
            "sketch, many": cost(sketch, ordinary, plain_pairs, 64, 64),
            "sketch, one": cost(sketch, ordinary, plain, 64, 64),
        }
    )
    name = f"{PAIRS} callers × {PAIRS} workers, 64 in flight in all"
    figures.append(figure(name, "× one to one", ratios(values, "many", "one"), gate=1.15))
    figures.append(figure(f"{name}, the sketch", "× one to one", ratios(values, "sketch, many", "sketch, one")))
    return figures


async def _pairs(url: str) -> tuple[list[Route], list[Route]]:
    single = [await route(url, "bench::echo", settle=0)]
    pairs = [await route(url, f"bench::echo{number}", settle=0) for number in range(PAIRS)]
    await asyncio.sleep(0.5)
    return single, pairs


async def main(chosen: list[str]) -> None:
    """Measure what was chosen; what is kept on disk is written when all is."""
    routers.take_load_core()
    wanted = chosen or ["calls", "lean", "tracing", "many"]
    with tempfile.TemporaryDirectory() as name, routers.sketch() as sketch:
        folder = Path(name)
        with routers.engine(folder / "one") as engine:
            loads = tuple(load for load, word in ((ordinary, "calls"), (lean, "lean")) if word in wanted)
            if loads:
                keep("bus", await calls(engine, sketch, loads))
            if "many" in wanted:
                keep("many_to_many", await many(engine, sketch))
        if "tracing" in wanted:
            with (
                routers.engine(folder / "off", tracing=0) as off,
                routers.engine(folder / "some", tracing=0.01) as some,
                routers.engine(folder / "all", tracing=1) as everything,
            ):
                engines = {"off": off, "1 %": some, "100 %": everything}
                keep("tracing", await tracing(engines, sketch))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
