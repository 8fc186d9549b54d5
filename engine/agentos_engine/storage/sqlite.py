"""The durable storage: one SQLite file, written by one thread and read by another.

Imported only when there is a data folder: SQLite takes memory.
"""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Self

from agentos_engine.config import SettingsError
from agentos_engine.storage import sqlite_queues, sqlite_values
from agentos_engine.storage.sqlite_queues import SqliteQueueStore
from agentos_engine.storage.sqlite_threads import Lane, Writer, explain
from agentos_engine.storage.sqlite_values import SqliteValues

FILE = "engine.db"
APPLICATION_ID = 0x41674F53
"""``AgOS``: tells the engine's databases from those of others."""
MIGRATIONS = (f"{sqlite_values.SCHEMA}; {sqlite_queues.SCHEMA}",)
"""Statements that bring a database from one schema version to the next; those of version 0 make it."""
OLDEST_SQLITE = (3, 37, 0)

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another program, such as one that makes a backup, to give up its lock."""
CHECKPOINT_PAGES = 4000
"""Pages of 4 KiB in the write-ahead log after which they are moved into the database."""
KEPT_LOG_BYTES = 64 << 20
"""To which the write-ahead log is cut after it had to grow beyond that."""
WRITER_CACHE_BYTES = 8 << 20
MAX_CHECKED_BYTES = 64 << 20
"""A database that is not larger is looked through for damage when it is opened; that takes a fraction of a second."""


class SqliteStorage:
    """The stores of one data folder. ``values`` and ``queues`` may be used until :meth:`close`."""

    def __init__(self, writing: sqlite3.Connection, reading: sqlite3.Connection, path: Path) -> None:
        self._writer = Writer(writing, path)
        self._reader = Lane(reading, path, "storage-reader")
        self.values = SqliteValues(self._writer, self._reader)
        self.queues = SqliteQueueStore(self._writer, self._reader)

    @classmethod
    async def open(cls, data_dir: Path) -> Self:
        """Open the database in a folder; make it when there is none.

        Only one engine may do so at a time: see ``lock_data_dir``. Raises SettingsError.
        """
        path = data_dir / FILE
        return cls(*await asyncio.to_thread(_open, path), path)

    async def close(self) -> None:
        """Carry out all that was asked for and tidy up; safe to call twice."""
        await self._reader.close()
        await self._writer.close()  # last, for the last connection removes the write-ahead log


def _open(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise SettingsError(f"--data-dir needs SQLite {oldest} or newer; this Python has {sqlite3.sqlite_version}")
    connections: list[sqlite3.Connection] = []
    try:
        _make_file(path)
        connections.append(writing := _connect(path))
        _prepare(writing, path)
        connections.append(reading := _connect(path))
        reading.execute("PRAGMA query_only = ON")
        return writing, reading
    except BaseException as error:
        for connection in connections:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise SettingsError(explain(error, path).message) from error
        if isinstance(error, OSError):
            raise SettingsError(
                f"{path}: {error.strerror}; make the file and its folder readable and writable for the engine"
            ) from error
        raise


def _make_file(path: Path) -> None:
    """Make an empty file that only this user may read; SQLite gives its other files the same mode."""
    log = path.with_name(f"{FILE}-wal")
    if not (path.exists() and path.stat().st_size) and log.exists() and log.stat().st_size:
        raise SettingsError(
            f"{path} is missing or empty, but its log {log.name} is there: restore both from a backup, "
            f"or remove {log.name} to start without any data"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else a power failure could take the whole file
    finally:
        os.close(folder)


def _connect(path: Path) -> sqlite3.Connection:
    # Each is handed to a thread of its own later; transactions are begun and ended by hand.
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    """Check that the database is ours, bring its schema up to date, and set how it is written."""
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA cache_size = -{WRITER_CACHE_BYTES >> 10}")
    database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    database.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES}")
    database.execute("BEGIN IMMEDIATE")
    version = _version(database, path)
    if path.stat().st_size <= MAX_CHECKED_BYTES:
        _check(database, path)
    for statements in MIGRATIONS[version:]:
        for statement in statements.split(";"):
            database.execute(statement)
    if version < len(MIGRATIONS):
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    database.execute("COMMIT")
    # Only now: a file in this mode always has a schema, whenever the process or the machine goes down.
    ((mode,),) = database.execute("PRAGMA journal_mode = WAL").fetchall()
    if mode != "wal":
        raise SettingsError(f"{path}: the file system does not support shared memory; use a local disk for --data-dir")


def _version(database: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema; 0 for a new database. Raises SettingsError when it cannot be used."""
    ((application,),) = database.execute("PRAGMA application_id").fetchall()
    ((version,),) = database.execute("PRAGMA user_version").fetchall()
    ((tables,),) = database.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if (application, version, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID:
        raise SettingsError(f"{path} is a database of another program; choose another folder with --data-dir")
    if version > len(MIGRATIONS):
        raise SettingsError(
            f"{path} was written by a newer engine (schema {version}; this engine knows {len(MIGRATIONS)}): "
            "use that engine, or restore a backup from before"
        )
    return version


def _check(database: sqlite3.Connection, path: Path) -> None:
    ((finding,),) = database.execute("PRAGMA quick_check(1)").fetchall()
    if finding != "ok":
        raise SettingsError(f"{path} is damaged: restore a backup; SQLite says: {finding.splitlines()[-1]}")
