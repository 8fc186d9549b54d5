"""What becomes of the process's memory: the C library's thresholds, and what the garbage collector looks at."""

import asyncio
import contextlib
import ctypes
import gc

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

LARGE = 256 << 10
"""Bytes of a block that is mapped for itself, and so given back to the kernel as soon as it is free."""
KEPT = 1 << 20
"""Free bytes at the end of the heap that are kept for later."""

CONNECTION = 8
"""What a connection costs in memory, in registrations."""
SETTLED = 4000
"""Registrations after which the collector is told to leave them alone: some 20,000 objects."""
GONE = 20_000
"""Registrations fewer than there were after which free memory is given back: some 20 MB."""
TRIM_AFTER = 1.0
"""Seconds: those that go together are gone by then."""


def bound() -> None:
    """Have large blocks given back when they are free.

    Left alone glibc raises both thresholds, up to 32 and 64 MiB, once blocks of such a size were freed, and then keeps
    what a burst of large messages took. Other C libraries are as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, KEPT)


def settle() -> None:
    """Leave what there is out of all later garbage collections; it is still freed when nothing refers to it."""
    gc.freeze()


def give_back() -> None:
    """Give the kernel what is free between blocks in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Watch:
    """Follows how much is registered on a bus; one of its watchers.

    A full garbage collection would look at half a million objects of 50,000 functions, and hold up all calls for some
    0.4 s; again and again, while they register. None of them is in a cycle, so reference counts suffice.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._settled = self._most = 0

    def __call__(self, connection: Connection) -> None:
        bounds = self._bus.bounds
        registered = bounds.functions + bounds.triggers + CONNECTION * len(self._bus.connections)
        if registered < self._settled:
            self._settled = registered
        elif registered - self._settled >= SETTLED:
            self._settled = registered
            settle()
        if registered > self._most:
            self._most = registered
        elif self._most - registered >= GONE:
            self._most = registered
            asyncio.get_running_loop().call_later(TRIM_AFTER, give_back)
