"""Lengths of time: read from a person, and written for one."""

import re
import time

from agentos.errors import CommandError, ExitCode

MAX_SECONDS = 365 * 86400.0
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)")


def seconds(text: str, option: str, most: float = MAX_SECONDS, *, zero: bool = False) -> float:
    """Return a length of time such as ``500ms``, ``30s``, ``10m``, ``2h`` in seconds; a bare number is seconds.

    Raises CommandError, which names ``option``, for anything else, for more than ``most``, and for 0 unless ``zero``.
    """
    found = _DURATION.fullmatch(text.strip()) if len(text) <= 32 else None
    if found is None:
        raise CommandError(
            f"{option}: {text[:40]!r} is not a length of time; write it as 500ms, 30s, 10m or 2h", ExitCode.USAGE
        )
    value = float(found[1]) * _UNITS[found[2]]
    if value > most or not (value or zero):
        raise CommandError(
            f"{option}: {text} is not {'' if zero else 'more than 0 and '}at most {duration(most)}", ExitCode.USAGE
        )
    return value


def duration(value: float) -> str:
    """Return seconds as a person says them: ``840µs``, ``12.3ms``, ``4.56s``, ``3m12s``, ``5h03m``, ``2d04h``."""
    if value < 0.001:
        return f"{value * 1e6:.0f}µs"
    if value < 1:
        return f"{value * 1000:.3g}ms" if value < 0.9995 else "1s"
    if value < 60:
        return f"{value:.3g}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s" if whole % 60 else f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m" if whole % 3600 >= 60 else f"{whole // 3600}h"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h" if whole % 86400 >= 3600 else f"{whole // 86400}d"


def ago(milliseconds: object) -> str:
    """Return how long ago a time is, ``3s ago``; empty for what is no time (milliseconds since 1970)."""
    if not isinstance(milliseconds, int | float) or not milliseconds > 0:
        return ""
    past = time.time() - milliseconds / 1000
    return "now" if past < 1 else f"{duration(float(int(past)))} ago"


def clock(milliseconds: float) -> str:
    """Return the time of day here, to the millisecond; empty for what no calendar has."""
    try:
        at = time.localtime(milliseconds / 1000)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}.{int(milliseconds % 1000):03d}"
