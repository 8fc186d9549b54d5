"""Small records in a SQLite database."""

import sqlite3
from collections.abc import Collection, Mapping

from agentos_engine.storage.sqlite_threads import Lane, Writer

SCHEMA = """
CREATE TABLE records (
    kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID
"""


class SqliteRecords:
    """A :class:`~agentos_engine.storage.records.RecordStore` that lasts; ``kind`` tells its records from others."""

    def __init__(self, writer: Writer, reader: Lane, kind: str) -> None:
        self._writer = writer
        self._reader = reader
        self._kind = kind

    async def load(self) -> dict[str, bytes]:
        """Return all records, by key."""
        return await self._reader.run(_load, self._kind)

    async def change(
        self, changed: Mapping[str, bytes], removed: Collection[str] = (), *, replace_all: bool = False
    ) -> None:
        """Add, replace and remove records."""
        # Copied: the caller may go on changing its own while these wait for the disk.
        added, gone = list(changed.items()), list(removed)
        size = sum(len(key) + len(value) for key, value in added)
        await self._writer.write(_change, self._kind, added, gone, replace_all, size=size)


def _load(database: sqlite3.Connection, kind: str) -> dict[str, bytes]:
    return dict(database.execute("SELECT key, value FROM records WHERE kind = ? ORDER BY key", (kind,)).fetchall())


def _change(
    database: sqlite3.Connection, kind: str, added: list[tuple[str, bytes]], gone: list[str], replace_all: bool
) -> None:
    if replace_all:
        database.execute("DELETE FROM records WHERE kind = ?", (kind,))
    else:
        database.executemany("DELETE FROM records WHERE kind = ? AND key = ?", [(kind, key) for key in gone])
    database.executemany(
        "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        [(kind, key, value) for key, value in added],
    )
