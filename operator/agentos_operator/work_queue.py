"""A queue of keys: each at most once in it, never worked on twice at a time, retried with growing delays.

The semantics are those of client-go's workqueue: a key that is added while it is being worked on is worked on once more
afterwards, and a delayed addition never postpones one that is due earlier.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_RETRY, LONGEST_RETRY = 0.1, 30.0


class WorkQueue(Generic[K]):
    """Used from one event loop, whose clock it goes by. Keys that are ``urgent`` when they are added go before all others."""

    def __init__(self, urgent: Callable[[K], bool] = lambda _: False) -> None:
        self._is_urgent = urgent
        self._urgent: dict[K, None] = {}
        self._ready: dict[K, None] = {}
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._ready) + len(self._working) + len(self._due)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Asks for the key to be worked on, now or after ``delay`` seconds."""
        if delay > 0:
            due = asyncio.get_running_loop().time() + delay
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                heapq.heappush(self._delayed, (due, next(self._order), key))
                self._wake.set()
            return
        self._due.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._urgent:
            if self._is_urgent(key):
                self._ready.pop(key, None)
                self._urgent[key] = None
            else:
                self._ready[key] = None
            self._wake.set()

    async def get(self) -> K:
        """The next key; the caller says ``done`` or ``retry`` afterwards."""
        while True:
            now = asyncio.get_running_loop().time()
            while self._delayed and self._delayed[0][0] <= now:
                due, _, key = heapq.heappop(self._delayed)
                if self._due.get(key) == due:
                    self.add(key)
            if ready := self._urgent or self._ready:
                key = next(iter(ready))
                del ready[key]
                self._working.add(key)
                return key
            self._wake.clear()
            timeout = self._delayed[0][0] - now if self._delayed else None
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def done(self, key: K) -> None:
        """The key was worked on and all is well."""
        self._failures.pop(key, None)
        self._finish(key)

    def retry(self, key: K) -> float:
        """The key failed: it comes again after a delay that doubles each time; returns that delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_RETRY * 2 ** min(failures - 1, 20), LONGEST_RETRY)
        self._finish(key)
        self.add(key, delay)
        return delay

    def _finish(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
