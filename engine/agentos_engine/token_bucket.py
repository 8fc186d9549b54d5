"""How often something may happen: at a steady rate, and some more at once after a pause."""


class TokenBucket:
    """Allows ``rate`` events a second, and ``burst`` at once after a pause. The caller tells the time, in seconds."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = 0.0

    def allow(self, now: float) -> bool:
        """Return whether one more event may happen, and count it if so."""
        return not self.take(now)

    def take(self, now: float) -> float:
        """Return 0 when one more event may happen, and count it; else in how many seconds one may."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
