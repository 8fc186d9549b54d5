"""How often a value lay within which bounds: what a Prometheus histogram shows."""

from bisect import bisect_left
from itertools import accumulate

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # fmt: skip
"""Upper bounds of durations: those of the Prometheus clients, and finer ones below since a call takes 0.2 ms."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Upper bounds of how much is done at one time."""


class Histogram:
    """Counts by upper bound. May be written by one thread while another reads; a reader may then miss the last value."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values up to each bound and beyond the one before; the last are beyond all."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, counts: list[int], total: float) -> None:
        """Count what another one with the same bounds has."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, counts, strict=True)]
        self.sum += total

    def cumulative(self) -> list[int]:
        """How many values were not above each bound; the last: all."""
        return list(accumulate(self.counts))
