"""Long work in slices, so that calls go on meanwhile: a generator that yields every now and then, and returns a value."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

Value = TypeVar("Value")

AT_ONCE = 200
"""Things that are listed in one slice: about a millisecond's worth."""

Work = Generator[None, None, Value]


def at_once(work: Work[Value]) -> Value:
    """Do all slices now."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


async def in_slices(work: Work[Value]) -> Value:
    """Do one slice in each turn of the loop."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value
        await asyncio.sleep(0)
