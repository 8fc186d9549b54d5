"""What was used most recently, kept in memory up to a total size."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

ENTRY_BYTES = 500
"""Counted for each entry in addition to its size: what Python takes to hold it."""
LARGEST = 16
"""An entry that is larger than one part in so many of the whole is not kept: it would push out too many others."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A map that forgets what was not used for the longest time when it has more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self.size = 0
        """Bytes held, counted as the bound counts them."""
        self.losses = 0
        """Entries that were put in and are not there any more, or never were because they are too large."""

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """Return the entry and count that as a use; None when there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Add or replace an entry that has so many bytes."""
        size += ENTRY_BYTES
        old = self._entries.pop(key, None)
        if old is not None:
            self.size -= old[1]
        if size > self._max_bytes // LARGEST:
            self.losses += 1
            return
        self._entries[key] = (value, size)
        self.size += size
        while self.size > self._max_bytes:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.size -= oldest
            self.losses += 1

    def drop(self, key: Key) -> None:
        """Remove an entry if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry[1]
            self.losses += 1

    def drop_where(self, unwanted: Callable[[Key, Value], bool]) -> None:
        """Remove all entries for which ``unwanted`` is true."""
        for key in [key for key, (value, _) in self._entries.items() if unwanted(key, value)]:
            self.drop(key)
