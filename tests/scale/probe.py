"""A bystander: one worker calls another all the time, in a process of its own, and tells how that went.

``python -m tests.scale.probe PORT`` calls until its standard input ends, then prints ``{"calls", "errors", "worst"}``;
``worst`` is the longest that a call took, in milliseconds.
"""

import asyncio
import json
import sys
import time

import uvloop

from tests.scale.swarm import connect, register

PAUSE = 0.002
"""Seconds between two calls."""


async def _watch(port: int) -> dict[str, float]:
    callee, caller = await connect(port), await connect(port)
    register(callee, "probe", 1, 0)
    await callee.settled()
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("ready", flush=True)
    calls = errors = 0
    worst = 0.0
    while not ended.done():
        began = time.monotonic()
        answer = await caller.ask("probe::f0")
        worst = max(worst, time.monotonic() - began)
        calls += 1
        errors += b'"error"' in answer
        await asyncio.sleep(PAUSE)
    return {"calls": calls, "errors": errors, "worst": worst * 1000}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_watch(int(sys.argv[1])))))
