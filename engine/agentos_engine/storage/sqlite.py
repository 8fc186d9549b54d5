"""The durable storage: one SQLite file, written by one thread and read by another.

Imported only when there is a data folder: SQLite takes memory.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import Self

from agentos_engine.config import SettingsError
from agentos_engine.storage import records, sqlite_queues, sqlite_records, sqlite_values
from agentos_engine.storage.restored import DATABASE, put_in_place, remove_unfinished, sync_folder
from agentos_engine.storage.sqlite_queues import SqliteQueueStore
from agentos_engine.storage.sqlite_records import SqliteRecords
from agentos_engine.storage.sqlite_threads import Lane, Writer, explain
from agentos_engine.storage.sqlite_values import SqliteValues

log = logging.getLogger(__name__)

FILE = DATABASE
APPLICATION_ID = 0x41674F53
"""``AgOS``: tells the engine's databases from those of others."""
MIGRATIONS = (f"{sqlite_values.SCHEMA}; {sqlite_queues.SCHEMA}", sqlite_records.SCHEMA)
"""Statements that bring a database from one schema version to the next; those of version 0 make it."""
OLDEST_SQLITE = (3, 37, 0)

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another program, such as one that makes a backup, to give up its lock."""
CHECKPOINT_PAGES = 2000
"""Pages of 4 KiB in the write-ahead log after which they are moved into the database."""
LOG_ROOM = 64 << 20
"""Bytes that must be free on the disk for the log to get its size at once."""
KEPT_LOG_BYTES = 64 << 20
"""To which the write-ahead log is cut after it had to grow beyond that."""
WRITER_CACHE_BYTES = 8 << 20
MAX_CHECKED_BYTES = 64 << 20
"""A database that is not larger is looked through for damage when it is opened; that takes a fraction of a second."""


class SqliteStorage:
    """The stores of one data folder; they may be used until :meth:`close`."""

    def __init__(self, writing: sqlite3.Connection, reading: sqlite3.Connection, path: Path) -> None:
        self._writer = Writer(writing, path)
        self._reader = Lane(reading, path, "storage-reader")
        self.values = SqliteValues(self._writer, self._reader)
        self.queues = SqliteQueueStore(self._writer, self._reader)
        self.grants = self._records(records.GRANTS)
        self.sleeping = self._records(records.SLEEPING)
        self.cron = self._records(records.CRON)

    @property
    def writer(self) -> Writer:
        """What writes, and counts what it does."""
        return self._writer

    @classmethod
    async def open(cls, data_dir: Path) -> Self:
        """Open the database in a folder; make it when there is none.

        Only one engine may do so at a time: see ``lock_data_dir``. Raises SettingsError.
        """
        path = data_dir / FILE
        return cls(*await asyncio.to_thread(_open, path), path)

    def _records(self, kind: str) -> SqliteRecords:
        return SqliteRecords(self._writer, self._reader, kind)

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
        remove_unfinished(path.parent)
        put_in_place(path.parent)
        _make_file(path)
        _renew_log(path)
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
    wal = path.with_name(f"{FILE}-wal")
    if not (path.exists() and path.stat().st_size) and wal.exists() and wal.stat().st_size:
        raise SettingsError(
            f"{path} is missing or empty, but its log {wal.name} is there: restore both from a backup, "
            f"or remove {wal.name} to start without any data"
        )
    if not path.exists():
        log.info("no database is there, a new one is made: %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_folder(path.parent)  # else a power failure could take the whole file
    with contextlib.suppress(OSError):
        sync_folder(path.parent.parent)  # or the folder, which may be new; the one above may be closed to us


def _renew_log(path: Path) -> None:
    """Write anew, and sync, what the log of an engine that did not end well holds.

    When a sync has failed, Linux counts what was not written as written: the file shows it, but the disk may not have
    it, and no later sync brings it there. The engine that got the error has acknowledged none of it. But this one would
    find it in the log, take it for committed and write behind it; a power failure then would cut off the log before
    what is acknowledged from now on.
    """
    log = path.with_name(f"{FILE}-wal")
    if not log.exists():
        return
    with log.open("r+b") as file:
        while data := file.read(1 << 20):
            file.seek(-len(data), os.SEEK_CUR)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _connect(path: Path) -> sqlite3.Connection:
    # Each is handed to a thread of its own later; transactions are begun and ended by hand.
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    """Check that the database is ours, bring its schema up to date, and set how it is written."""
    database.execute("PRAGMA synchronous = FULL")
    database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    database.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES}")
    database.execute("BEGIN IMMEDIATE")
    version = check_version(database, path)
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
    with contextlib.suppress(sqlite3.Error, OSError):  # it only makes commits faster
        lengthen_log(database, path)
    database.execute(f"PRAGMA cache_size = -{WRITER_CACHE_BYTES >> 10}")


def lengthen_log(database: sqlite3.Connection, path: Path) -> None:
    """Give the write-ahead log at once the size to which it would grow, if the disk has room.

    A commit that makes a file longer waits for the file system's own journal too, which takes as long again or, beside
    others, several times as long. So it writes as much as fits in a transaction that it takes back: SQLite ignores what
    is in the log without a commit, and later ones overwrite it.
    """
    disk = os.statvfs(path.parent)
    if disk.f_bavail * disk.f_frsize < LOG_ROOM:
        return
    ((page,),) = database.execute("PRAGMA page_size").fetchall()
    database.execute("PRAGMA cache_size = 10")  # pages; what does not fit in the cache goes into the log
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("CREATE TABLE filling (bytes BLOB)")
        database.execute("INSERT INTO filling VALUES (zeroblob(?))", (CHECKPOINT_PAGES * page,))
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def check_version(database: sqlite3.Connection, path: Path) -> int:
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
