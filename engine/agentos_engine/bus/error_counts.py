"""How many calls failed, by the code of the error."""

import re

import msgspec

from agentos_engine.protocol.messages import decode_error

MAX_CODES = 100
"""Codes counted one by one, those of the engine and those of workers apart; more of them are :data:`OTHER`."""
OTHER = "other"
NO_CODE = "none"

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class ErrorCounts:
    """Counts since the engine started. A worker can make up codes: those that look like none are not told apart."""

    __slots__ = ("_engine", "_workers", "total")

    def __init__(self) -> None:
        self.total = 0
        self._engine: dict[str, int] = {}
        self._workers: dict[str, int] = {}

    def count(self, code: str, times: int = 1) -> None:
        """The engine failed or refused so many calls."""
        self._count(self._engine, code, times)

    def count_foreign(self, error: msgspec.Raw) -> None:
        """A worker answered a call with this error, as raw JSON."""
        known = decode_error(error)
        self._count(self._workers, known.code if known is not None else NO_CODE, 1)

    def by_code(self) -> list[tuple[str, str, int]]:
        """Return ``[(source, code, calls)]``; the source is ``engine`` or ``worker``."""
        return [
            (source, code, count)
            for source, counts in (("engine", self._engine), ("worker", self._workers))
            for code, count in counts.items()
        ]

    def _count(self, counts: dict[str, int], code: str, times: int) -> None:
        if not times:
            return
        self.total += times
        if code not in counts and (len(counts) >= MAX_CODES or not _CODE.fullmatch(code)):
            code = OTHER
        counts[code] = counts.get(code, 0) + times
