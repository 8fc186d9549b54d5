"""Small records by key: what the engine itself has to remember, such as grants. What a store promises, and one in memory.

A kind of record has a store of its own; a value is raw JSON. There are some thousands of a kind at most, so that they
are loaded as a whole when the engine starts. Whoever writes records bounds their number and size.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

GRANTS = "grant"
"""By the uid of a worker: what it may register and call."""
SLEEPING = "sleeping"
"""By the uid of a worker that has no pod at present: its registrations and bindings."""
CRON = "cron"
"""By cron job: the tick for which it was called last."""


class RecordStore(Protocol):
    """The records of one kind.

    Changes take effect in the order in which they are asked for, each as a whole or not at all, and return only when
    they are durable. One whose caller is cancelled may or may not happen. Every method raises StorageError when the
    store cannot do its work.
    """

    async def load(self) -> dict[str, bytes]:
        """Return all records, by key."""
        ...

    async def change(
        self, changed: Mapping[str, bytes], removed: Collection[str] = (), *, replace_all: bool = False
    ) -> None:
        """Add or replace the records ``changed``, and remove those with the keys ``removed``; unknown ones are ignored.

        A key in both is removed and then added. With ``replace_all`` all records that are not in ``changed`` go.
        """
        ...


class MemoryRecords:
    """A :class:`RecordStore` that lasts as long as the process."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    async def load(self) -> dict[str, bytes]:
        """Return all records, by key."""
        return dict(self._records)

    async def change(
        self, changed: Mapping[str, bytes], removed: Collection[str] = (), *, replace_all: bool = False
    ) -> None:
        """Add, replace and remove records."""
        for key in list(self._records) if replace_all else removed:
            self._records.pop(key, None)
        self._records.update(changed)
