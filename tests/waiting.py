"""Waiting for what a test expects."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

TURNS = 100
"""Turns of the loop in which a condition is looked at each time; after these it takes more than turns, so time passes."""


async def until(holds: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true answer of ``holds``, which may be a coroutine function; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    turns = 0
    while True:
        answer = holds()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        turns += 1
        await asyncio.sleep(0 if turns < TURNS else 0.005)
