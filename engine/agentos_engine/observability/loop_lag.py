"""How late the event loop is: what everybody waits who waits for anything."""

from agentos_engine.clock import Clock, Handle
from agentos_engine.observability.histogram import Histogram

INTERVAL = 0.25
"""Seconds between two looks."""
WINDOW = 30.0
"""Seconds for which the longest delay is remembered, and up to twice that: two scrapes a minute miss none."""
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class LoopLag:
    """Measures by a timer how much later than asked for the loop runs what is due."""

    def __init__(self, clock: Clock) -> None:
        self.lags = Histogram(BOUNDS)
        """In seconds."""
        self._clock = clock.machine
        self._due = 0.0
        self._timer: Handle | None = None
        self._window_ends = 0.0
        self._longest = self._longest_before = 0.0

    @property
    def longest(self) -> float:
        """The longest delay of the last 30 to 60 seconds, in seconds, the one that may last at this moment included."""
        now = self._clock.monotonic() - self._due if self._timer is not None else 0.0
        return max(self._longest, self._longest_before, now)

    def start(self) -> None:
        """Begin to measure."""
        now = self._clock.monotonic()
        self._window_ends = now + WINDOW
        self._wait(now)

    def stop(self) -> None:
        """Measure no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, now: float) -> None:
        self._due = now + INTERVAL
        self._timer = self._clock.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        now = self._clock.monotonic()
        lag = max(0.0, now - self._due)
        self.lags.observe(lag)
        if now >= self._window_ends:
            self._window_ends = now + WINDOW
            self._longest_before, self._longest = self._longest, 0.0
        self._longest = max(self._longest, lag)
        self._wait(now)
