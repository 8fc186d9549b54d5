"""What the bus counts about calls, cheaply enough for every call."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from agentos_engine.observability.histogram import SECONDS, Histogram

MAX_FUNCTIONS = 1000
"""Function ids counted one by one; calls of further ones are counted together under :data:`OTHER`."""
MAX_LENGTH = 200
"""Characters of such an id."""
OTHER = "other"

_DURATIONS = len(SECONDS) + 1
_ERRORS, _DEFERRED, _SECONDS = _DURATIONS, _DURATIONS + 1, _DURATIONS + 2
"""Places in the list of a function; before them are its durations by bound."""


class Counters(NamedTuple):
    """Totals since the engine started; ``active`` is the number of workers connected now."""

    total: int
    success: int
    error: int
    deferred: int
    spawns: int
    deaths: int
    active: int


class FunctionCalls(NamedTuple):
    """What is known of the calls of one function; ``answered`` has how long they took, failed ones included."""

    function_id: str
    ok: int
    error: int
    deferred: int
    answered: Histogram


class CallMetrics:
    """Counts and durations by function, workers that came and went."""

    __slots__ = ("_counts", "deaths", "longest", "shortest", "spawns")

    def __init__(self) -> None:
        self._counts: dict[str, list[float]] = {}
        """One flat list for each function: a call costs 0.3 µs here, with objects it would be twice that."""
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
        counts[bisect_left(SECONDS, seconds)] += 1
        counts[_SECONDS] += seconds
        if not ok:
            counts[_ERRORS] += 1
        if seconds > self.longest:
            self.longest = seconds
        if seconds < self.shortest:
            self.shortest = seconds

    def deferred(self, function_id: str) -> None:
        """A call was accepted whose outcome nobody waits for: a void call, or one put into a queue."""
        try:
            self._counts[function_id][_DEFERRED] += 1
        except KeyError:
            self._new(function_id)[_DEFERRED] += 1

    def spawned(self) -> None:
        """A worker connected."""
        self.spawns += 1

    def died(self) -> None:
        """A worker's connection ended."""
        self.deaths += 1

    def functions(self, most: int = MAX_FUNCTIONS) -> Iterator[FunctionCalls]:
        """The first ``most`` functions that were called, then all others together under :data:`OTHER`."""
        others = [0.0] * (_SECONDS + 1)
        for number, (function_id, counts) in enumerate(self._counts.items()):
            if number < most and function_id != OTHER:
                yield _calls(function_id, counts)
            else:
                others = [ours + theirs for ours, theirs in zip(others, counts, strict=True)]
        if any(others):
            yield _calls(OTHER, others)

    def counters(self) -> Counters:
        """Return the totals."""
        success = error = deferred = 0
        for each in self.functions():
            success, error, deferred = success + each.ok, error + each.error, deferred + each.deferred
        total = success + error + deferred
        return Counters(total, success, error, deferred, self.spawns, self.deaths, self.spawns - self.deaths)

    def by_function(self) -> dict[str, dict[str, int]]:
        """Return ``{function id: {"ok", "error", "deferred"}}``."""
        return {
            each.function_id: {"ok": each.ok, "error": each.error, "deferred": each.deferred}
            for each in self.functions()
        }

    def durations(self) -> Histogram:
        """Return how long the calls of all functions took."""
        together = Histogram()
        for each in self.functions():
            together.add(each.answered.counts, each.answered.sum)
        return together

    def percentile(self, fraction: float) -> float:
        """Return the duration in seconds that this fraction (0 to 1) of the calls did not exceed.

        Estimated within the two bounds between which it lies; 0 when there was no call.
        """
        return self._percentile(self.durations(), fraction)

    def performance(self) -> dict[str, float]:
        """Return average, percentiles, least and most of the durations, in milliseconds; zeros before the first call."""
        durations = self.durations()
        count = sum(durations.counts)
        return {
            "avg_duration_ms": durations.sum / count * 1e3 if count else 0.0,
            "p50_duration_ms": self._percentile(durations, 0.50) * 1e3,
            "p95_duration_ms": self._percentile(durations, 0.95) * 1e3,
            "p99_duration_ms": self._percentile(durations, 0.99) * 1e3,
            "min_duration_ms": self.shortest * 1e3 if count else 0.0,
            "max_duration_ms": self.longest * 1e3,
        }

    def _percentile(self, durations: Histogram, fraction: float) -> float:
        count = sum(durations.counts)
        if not count:
            return 0.0
        rank, below = fraction * count, 0
        bounds = (0.0, *durations.bounds, max(self.longest, durations.bounds[-1]))
        for low, high, inside in zip(bounds, bounds[1:], durations.counts, strict=True):
            if inside and below + inside >= rank:
                estimate = low + (high - low) * max(0.0, rank - below) / inside
                return min(max(estimate, self.shortest), self.longest)
            below += inside
        return self.longest

    def _new(self, function_id: str) -> list[float]:
        if len(self._counts) >= MAX_FUNCTIONS or len(function_id) > MAX_LENGTH:
            function_id = OTHER
        return self._counts.setdefault(function_id, [0] * (_SECONDS + 1))


def _calls(function_id: str, counts: list[float]) -> FunctionCalls:
    answered = Histogram()
    answered.counts = [int(count) for count in counts[:_DURATIONS]]
    answered.sum = counts[_SECONDS]
    error = int(counts[_ERRORS])
    return FunctionCalls(function_id, sum(answered.counts) - error, error, int(counts[_DEFERRED]), answered)
