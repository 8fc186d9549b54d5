"""Values in a SQLite database."""

# ruff: noqa: S608 (queries are put together of constants; what comes from outside is bound)

import sqlite3

from agentos_engine.storage.recent import Recent
from agentos_engine.storage.sqlite_threads import Lane, Writer
from agentos_engine.storage.values import Change, Items, Names, check_listing

MAX_RECENT_BYTES = 32 << 20
"""Of values that were used recently and are kept in memory too."""

SCHEMA = """
CREATE TABLE vals (
    space TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (space, scope, key)
) STRICT
"""

# SQLite compares texts by their UTF-8 bytes, which is Unicode order.
NAMES = """
WITH RECURSIVE names(name) AS (
    SELECT min({name}) FROM vals WHERE {where}
    UNION ALL
    SELECT (SELECT min({name}) FROM vals WHERE {where} AND {name} > names.name) FROM names WHERE names.name IS NOT NULL
)
SELECT name FROM names WHERE name IS NOT NULL
"""
"""Goes through the index from name to name, so that it takes no longer when there are many values under each."""
SCOPES = NAMES.format(name="scope", where="space = ?1")
SPACES = NAMES.format(name="space", where="true")

Place = tuple[str, str, str]
"""Space, scope and key."""


class SqliteValues:
    """A :class:`~agentos_engine.storage.values.ValueStore` that lasts.

    Values that were written or read recently are kept in memory. Whatever is found there is the last value that was
    acknowledged, for the writer's results come in order and replace it before their callers are answered.
    """

    def __init__(self, writer: Writer, reader: Lane) -> None:
        self._writer = writer
        self._reader = reader
        self._recent: Recent[Place, bytes | None] = Recent(MAX_RECENT_BYTES)
        """None: there is no such value."""

    async def get(self, space: str, scope: str, key: str) -> bytes | None:
        """Return the value, or None."""
        place = (space, scope, key)
        if place in self._recent:
            return self._recent.get(place)
        losses = self._recent.losses
        value = await self._reader.run(_get, place)
        if place in self._recent:
            return self._recent.get(place)  # written meanwhile
        if self._recent.losses == losses:  # else it may have been written and forgotten again meanwhile
            self._keep(place, value)
        return value

    async def set(self, space: str, scope: str, key: str, value: bytes) -> bytes | None:
        """Store a value and return the old one."""
        place = (space, scope, key)
        return await self._writer.write(
            _set, place, value, size=_size(place, value), seen=lambda _: self._keep(place, value)
        )

    async def delete(self, space: str, scope: str, key: str) -> bytes | None:
        """Delete a value and return it, or None."""
        place = (space, scope, key)
        return await self._writer.write(_delete, place, seen=lambda _: self._keep(place, None))

    async def update(self, space: str, scope: str, key: str, change: Change) -> tuple[bytes | None, bytes]:
        """Replace a value by ``change`` of it; return both."""
        place = (space, scope, key)
        return await self._writer.write(
            _update, place, change, size=_size(place, None), seen=lambda both: self._keep(place, both[1])
        )

    async def list(self, space: str, scope: str) -> Items:
        """Return the keys and values of a scope, by key. Raises StorageError ``listing_too_large``."""
        return await self._reader.run(_list, space, scope)

    async def scopes(self, space: str) -> Names:
        """Return the scopes that hold a value. Raises StorageError ``listing_too_large``."""
        return await self._reader.run(_names, SCOPES, (space,), f"The names of the scopes of {space!r}")

    async def spaces(self) -> Names:
        """Return the spaces that hold a value. Raises StorageError ``listing_too_large``."""
        return await self._reader.run(_names, SPACES, (), "The names of the spaces")

    async def drop(self, space: str, scope: str) -> int:
        """Delete all values of a scope; return how many there were."""

        def forget(_: int) -> None:
            self._recent.drop_where(lambda place, _: place[0] == space and place[1] == scope)

        return await self._writer.write(_drop, space, scope, seen=forget)

    async def close(self) -> None:
        """Do nothing: the storage is closed as a whole."""

    def _keep(self, place: Place, value: bytes | None) -> None:
        self._recent.put(place, value, _size(place, value))


def _size(place: Place, value: bytes | None) -> int:
    return sum(map(len, place)) + len(value or b"")


def _get(database: sqlite3.Connection, place: Place) -> bytes | None:
    return _row(database, place)[1]


def _set(database: sqlite3.Connection, place: Place, value: bytes) -> bytes | None:
    row, old = _row(database, place)
    _put(database, place, row, value)
    return old


def _row(database: sqlite3.Connection, place: Place) -> tuple[int | None, bytes | None]:
    """Return the number of the row that holds a value, and the value; None for both when there is none."""
    found = database.execute(
        "SELECT rowid, value FROM vals WHERE space = ? AND scope = ? AND key = ?", place
    ).fetchall()
    return found[0] if found else (None, None)


def _put(database: sqlite3.Connection, place: Place, row: int | None, value: bytes) -> None:
    if row is None:
        database.execute("INSERT INTO vals VALUES (?, ?, ?, ?)", (*place, value))
    else:
        database.execute("UPDATE vals SET value = ? WHERE rowid = ?", (value, row))


def _delete(database: sqlite3.Connection, place: Place) -> bytes | None:
    deleted = database.execute(
        "DELETE FROM vals WHERE space = ? AND scope = ? AND key = ? RETURNING value", place
    ).fetchall()
    return deleted[0][0] if deleted else None


def _update(database: sqlite3.Connection, place: Place, change: Change) -> tuple[bytes | None, bytes]:
    row, old = _row(database, place)
    new = change(old)
    _put(database, place, row, new)
    return old, new


def _drop(database: sqlite3.Connection, space: str, scope: str) -> int:
    return database.execute("DELETE FROM vals WHERE space = ? AND scope = ?", (space, scope)).rowcount


def _list(database: sqlite3.Connection, space: str, scope: str) -> Items:
    what, where = f"The values of scope {scope!r}", (space, scope)
    size = database.execute(
        "SELECT sum(length(CAST(key AS BLOB)) + length(value)) FROM vals WHERE space = ? AND scope = ?", where
    ).fetchall()[0][0]
    check_listing(size or 0, what)
    return database.execute("SELECT key, value FROM vals WHERE space = ? AND scope = ? ORDER BY key", where).fetchall()


def _names(database: sqlite3.Connection, query: str, where: tuple[str, ...], what: str) -> Names:
    size = database.execute(f"SELECT sum(length(CAST(name AS BLOB))) FROM ({query})", where).fetchall()[0][0]
    check_listing(size or 0, what)
    return [name for (name,) in database.execute(query, where).fetchall()]
