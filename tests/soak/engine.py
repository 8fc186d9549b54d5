"""An engine in a process of its own that tells what it holds: ``python -m tests.soak.engine COUNTED CONFIG FOLDER``.

It prints its ports as a line of JSON, then for each line that it reads one with what there is. COUNTED is ``counts``
for the objects in it, on asyncio's own loop, whose timers can be seen; or ``memory`` for the resident memory, on uvloop
and with the allocator as the command has it.
"""

import asyncio
import gc
import json
import linecache
import logging
import os
import sys
import threading
from collections import Counter, deque
from dataclasses import asdict
from pathlib import Path

import psutil
import uvloop
from agentos_engine import memory
from agentos_engine.app import Engine
from agentos_engine.config import read_settings
from agentos_engine.config_file import read_config_file

_CONTAINERS = (dict, set, list, deque)
_OWN = ("agentos_engine", "picows", "asyncio", "_asyncio")


def counts(engine: Engine) -> dict[str, int]:
    """What an engine has a number of: its own objects by type, all containers and their items, tasks, timers, files."""
    linecache.clearcache()  # the sources of each traceback that was ever logged
    for _ in range(3):
        gc.collect()
    objects = gc.get_objects()
    found: Counter[str] = Counter()
    for each in objects:
        kind = type(each)
        if str(kind.__module__).partition(".")[0] in _OWN:
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
        elif kind in _CONTAINERS:
            found[f"all {kind.__name__}"] += 1
            found[f"items of all {kind.__name__}"] += len(each)
    del objects
    loop = asyncio.get_running_loop()
    bus, bounds = engine.bus, engine.bus.bounds
    return dict(found) | {
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not each.cancelled() for each in loop._scheduled),  # type: ignore[attr-defined]
        "files": len(os.listdir("/proc/self/fd")),
        "connections": len(bus.connections),
        "functions": bounds.functions,
        "triggers": bounds.triggers,
        "bytes registered": bounds.registered,
        "bytes held": bounds.held,
        "bytes unsent": bounds.backlog.total,
        "slow peers": len(bounds.backlog),
        "calls in flight": bus.calls.invocations.in_flight,
        "channels": len(engine.channels),
        "bytes in channels": engine.channels.buffered,
    }


async def _serve(counted: str, config: str, folder: str) -> None:
    ports = ("--port", "0", "--http-port", "0", "--stream-port", "0", "--admin-port", "0")
    settings = read_settings([*ports, "--host", "127.0.0.1", "--data-dir", folder, "--log-level", "error"], {})
    logging.basicConfig(level=logging.ERROR)  # to stderr: standard output is for what is told
    engine = Engine(settings, read_config_file(Path(config), {}))
    listening = await engine.start()
    if counted == "memory":
        memory.settle()
        memory.give_back()
        engine.bus.watchers.append(memory.Watch(engine.bus))
    print(json.dumps(asdict(listening)), flush=True)
    process, loop = psutil.Process(), asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    while await lines.get():
        bus = engine.bus
        told = {"rss": process.memory_info().rss, "connections": len(bus.connections), "hit": dict(bus.bounds.hit)}
        told |= {"accepted": bus.calls.accepted, "in_flight": bus.calls.invocations.in_flight}
        if counted == "counts":
            told["counts"] = counts(engine)
        print(json.dumps(told), flush=True)
    await engine.stop()


if __name__ == "__main__":
    memory.bound()
    if sys.argv[1] == "memory":
        uvloop.run(_serve(*sys.argv[1:]))
    else:
        asyncio.run(_serve(*sys.argv[1:]))
