"""What the functions over stored values have in common: writes that outlive their callers, and errors of the store."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import msgspec

from agentos_engine.bus.errors import BusError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Writes:
    """The writes in progress. They are no coroutines of the caller's: when it goes, what it began is still done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def carry_out(self, write: Coroutine[Any, Any, Result]) -> Awaitable[Result]:
        """Begin a write; awaiting what is returned can be given up, the write cannot."""
        task = asyncio.get_running_loop().create_task(write)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def finish(self, seconds: float | None = None) -> None:
        """Return when all are done, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


async def stored(code: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for the store. What fails there without a code of its own, such as a broken disk, gets this one."""
    try:
        return await work
    except BusError:
        raise
    except Exception as error:
        log.exception("the store failed")
        raise BusError(code, f"The store failed: {error}") from error


def raw(value: bytes | None) -> msgspec.Raw | None:
    """A stored value as it is written into an answer."""
    return None if value is None else msgspec.Raw(value)
