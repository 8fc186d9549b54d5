"""How often one client may fail: a token bucket for each address, in a table of bounded size."""

import ipaddress
from collections.abc import Callable

from agentos_engine.token_bucket import TokenBucket

BURST = 20
"""Failures that are answered as such before they are put off."""
PER_SECOND = 1.0
"""At which rate more are allowed again."""
MAX_ADDRESSES = 4096
"""Addresses that are remembered; the one whose last failure is longest ago is forgotten first."""


class Failures:
    """Counts failures. ``now``: seconds of a clock that never goes back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: dict[str, TokenBucket] = {}
        """By network, in the order of the last failure."""

    def __len__(self) -> int:
        return len(self._buckets)

    def add(self, address: str) -> float:
        """Count one more failure; returns 0, or in how many seconds the next one is allowed."""
        key = _network(address)
        bucket = self._buckets.pop(key, None) or TokenBucket(PER_SECOND, BURST)
        if len(self._buckets) >= MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = bucket
        return bucket.take(self._now())


def _network(address: str) -> str:
    """Who counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that a site gives away at will."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(int(found) >> 64)
