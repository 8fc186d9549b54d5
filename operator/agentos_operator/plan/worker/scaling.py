"""How many pods the calls in flight need: as Kubernetes' HorizontalPodAutoscaler decides, with its tolerance and its window.

Up at once, down only after the window: of what was recommended in it the most counts, so a short pause removes no pod.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

TOLERANCE = 0.1
"""Part of the target by which the load may differ before anything changes."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """So many pods would have been right at a time (in seconds)."""

    at: float
    pods: int


def recommended(in_flight: float, target: int, present: int) -> int:
    """Pods for so many calls in flight, when each should have ``target`` of them and there are ``present`` pods."""
    if present and abs(in_flight - target * present) <= TOLERANCE * target * present:
        return present
    return ceil(in_flight / target)


def recent(history: Sequence[Recommendation], now: float, window: float) -> tuple[Recommendation, ...]:
    """What still counts of a history: the window's, and its end."""
    return tuple(each for each in history if each.at >= now - window)


def decided(history: Sequence[Recommendation]) -> int:
    """Pods to run, from what was recommended in the window; there is at least one recommendation."""
    return max(each.pods for each in history)
