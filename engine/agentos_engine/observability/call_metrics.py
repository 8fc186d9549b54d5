"""What the bus counts about calls, cheaply enough for every call."""

from typing import NamedTuple

MAX_FUNCTIONS = 10_000
"""Function ids counted one by one; calls of further ones are counted together under :data:`OTHER`."""
OTHER = "other"

_BUCKETS = 64
"""Durations by the number of bits of their microseconds: 64 bits are half a million years."""


class Counters(NamedTuple):
    """Totals since the engine started; ``active`` is the number of workers connected now."""

    total: int
    success: int
    error: int
    deferred: int
    spawns: int
    deaths: int
    active: int


class CallMetrics:
    """Counts per function, a histogram of durations, workers that came and went."""

    __slots__ = ("_buckets", "_counts", "deaths", "longest", "seconds", "shortest", "spawns")

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        """By function id: [ok, error, deferred]."""
        self._buckets = [0] * (_BUCKETS + 1)
        self.seconds = 0.0
        """Sum of all durations."""
        self.shortest = float("inf")
        self.longest = 0.0
        self.spawns = 0
        self.deaths = 0

    def called(self, function_id: str, seconds: float, ok: bool) -> None:
        """A call was answered after so many seconds, by a result (``ok``) or an error."""
        try:
            counts = self._counts[function_id]
        except KeyError:
            counts = self._new(function_id)
        if ok:
            counts[0] += 1
        else:
            counts[1] += 1
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds
        if seconds < self.shortest:
            self.shortest = seconds
        self._buckets[int(seconds * 1e6).bit_length()] += 1

    def deferred(self, function_id: str) -> None:
        """A call was accepted whose outcome nobody waits for: a void call, or one put into a queue."""
        try:
            self._counts[function_id][2] += 1
        except KeyError:
            self._new(function_id)[2] += 1

    def spawned(self) -> None:
        """A worker connected."""
        self.spawns += 1

    def died(self) -> None:
        """A worker's connection ended."""
        self.deaths += 1

    def counters(self) -> Counters:
        """Return the totals."""
        success, error, deferred = (sum(column) for column in zip(*self._counts.values(), (0, 0, 0), strict=True))
        total = success + error + deferred
        return Counters(total, success, error, deferred, self.spawns, self.deaths, self.spawns - self.deaths)

    def by_function(self) -> dict[str, dict[str, int]]:
        """Return ``{function id: {"ok", "error", "deferred"}}``."""
        return {
            function_id: {"ok": ok, "error": error, "deferred": deferred}
            for function_id, (ok, error, deferred) in self._counts.items()
        }

    def histogram(self) -> list[tuple[float, int]]:
        """Return ``[(upper bound in seconds, durations below it and not below the one before)]``, without empty ends."""
        last = max((index for index, count in enumerate(self._buckets) if count), default=-1)
        return [((1 << index) / 1e6, count) for index, count in enumerate(self._buckets[: last + 1])]

    def percentile(self, fraction: float) -> float:
        """Return the duration in seconds that this fraction (0 to 1) of the calls did not exceed.

        Estimated within the power of two of microseconds in which it lies; 0 when there was no call.
        """
        count = sum(self._buckets)
        if not count:
            return 0.0
        rank, below = fraction * count, 0
        for index, inside in enumerate(self._buckets):
            if inside and below + inside >= rank:
                low, high = (1 << index) >> 1, 1 << index
                estimate = (low + (high - low) * max(0.0, rank - below) / inside) / 1e6
                return min(max(estimate, self.shortest), self.longest)
            below += inside
        return self.longest

    def performance(self) -> dict[str, float]:
        """Return average, percentiles, least and most of the durations, in milliseconds; zeros before the first call."""
        count = sum(self._buckets)
        return {
            "avg_duration_ms": self.seconds / count * 1e3 if count else 0.0,
            "p50_duration_ms": self.percentile(0.50) * 1e3,
            "p95_duration_ms": self.percentile(0.95) * 1e3,
            "p99_duration_ms": self.percentile(0.99) * 1e3,
            "min_duration_ms": self.shortest * 1e3 if count else 0.0,
            "max_duration_ms": self.longest * 1e3,
        }

    def _new(self, function_id: str) -> list[int]:
        if len(self._counts) >= MAX_FUNCTIONS:
            function_id = OTHER
        return self._counts.setdefault(function_id, [0, 0, 0])
