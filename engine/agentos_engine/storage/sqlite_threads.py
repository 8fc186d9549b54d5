"""Threads that work on a SQLite database: one that writes in groups, one that reads.

A disk may take any time, so the event loop never waits for it: it gathers what its tasks ask for, hands a whole batch
over, and gathers again while the thread works on that. So the more there is to write, the more goes into one
transaction, and one fsync.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from agentos_engine.observability.histogram import SIZES, Histogram
from agentos_engine.storage.values import StorageError

log = logging.getLogger(__name__)

MAX_GROUP = 4096
"""Writes in one transaction, and reads in one batch."""
MAX_GROUP_BYTES = 16 << 20
"""Bytes to write after which a transaction takes no more, so that its callers do not wait for too long."""
MAX_UNWRITTEN_BYTES = 256 << 20
"""Bytes that wait to be written; beyond that new values and jobs are refused until the disk has caught up."""
SPARED_BYTES = 32 << 20
"""Room on the disk that new values and jobs leave to what adds nothing, so that a full store can be emptied, and jobs
end. SQLite needs some for each change, a deletion too."""
SPARED_PART = 16
"""On a small disk, one part in so many."""
PIECE_BYTES = 1000
"""Counted for each write in addition to what it stores."""

Result = TypeVar("Result")
Seen = Callable[[Any], None]
"""Told the result of a piece of work on the event loop, before its caller is answered and before all later results."""


class Work:
    """A function for the thread, and what came of it."""

    __slots__ = ("args", "error", "function", "future", "result", "seen", "size")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], future: asyncio.Future[Any], seen: Seen | None
    ) -> None:
        self.function = function
        self.args = args
        self.future = future
        self.seen = seen
        self.size = 0
        self.result: Any = None
        self.error: Exception | None = None


class Lane:
    """A thread that owns a connection and carries out work in the order in which it was asked for.

    Made inside the event loop that asks for the work. ``connection`` may have been made in another thread.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, name: str) -> None:
        self._connection = connection
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Work] = deque()
        self._batches: SimpleQueue[Sequence[Work] | None] = SimpleQueue()
        self._busy = False
        """Whether the thread has a batch, or the loop is about to give it one."""
        self._closing = False
        self._damaged = False
        """Whether damage was met, and told."""
        self._ended = self._loop.create_future()
        # A daemon: when the loop was given up without an orderly end, the thread must not keep the process alive.
        threading.Thread(target=self._main, name=name, daemon=True).start()

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call ``function(connection, *args)`` in the thread and return its result. Raises what it raises, with
        StorageError in place of SQLite's errors.
        """
        return await self._submit(Work(function, args, self._loop.create_future(), None))

    async def close(self) -> None:
        """Carry out all that was asked for, then end the thread and its connection; safe to call twice."""
        if not self._closing:
            self._closing = True
            if not self._busy:
                self._batches.put(None)
        await asyncio.shield(self._ended)

    def _submit(self, work: Work) -> asyncio.Future[Any]:
        if self._closing:
            raise StorageError("storage_failed", "The store is closed: the engine is stopping.")
        self._waiting.append(work)
        if not self._busy:
            self._busy = True
            # Later in this turn of the loop other tasks ask too: all that goes into one batch.
            self._loop.call_soon(self._hand_over)
        return work.future

    def _hand_over(self) -> None:
        batch: list[Work] = []
        size = 0
        while self._waiting and len(batch) < MAX_GROUP and size < MAX_GROUP_BYTES:
            work = self._waiting.popleft()
            size += work.size
            batch.append(work)
        self._busy = bool(batch)
        if batch:
            self._batches.put(batch)
        elif self._closing:
            self._batches.put(None)

    def _answer(self, batch: Sequence[Work]) -> None:
        """Answer in the order of the calls; meanwhile the thread works on what was asked for since."""
        self._hand_over()
        for work in batch:
            if work.error is None and work.seen is not None:
                try:
                    work.seen(work.result)
                except Exception as error:
                    log.exception("an outcome could not be taken over")
                    work.error = error
            if work.future.done():
                continue  # the caller has gone
            if work.error is None:
                work.future.set_result(work.result)
            else:
                shown = _presentable(work.error, self._path)
                if not self._damaged and _is_damage(work.error):
                    self._damaged = True
                    log.error("damage was met: %s", shown)
                work.future.set_exception(shown)

    def _main(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._carry_out(batch)
            except Exception as error:
                log.exception("the storage thread failed")
                for work in batch:
                    work.error = error
            try:
                self._loop.call_soon_threadsafe(self._answer, batch)
            except RuntimeError:
                break  # the loop was closed: nobody waits for answers any more
            del batch  # not kept in memory until the next one comes
        try:
            self._end()
        except sqlite3.Error as error:
            log.warning("%s was not closed cleanly; nothing is lost: %s", self._path, error)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set_result, None)

    def _carry_out(self, batch: Sequence[Work]) -> None:
        for work in batch:
            try:
                work.result = work.function(self._connection, *work.args)
            except Exception as error:
                work.error = error

    def _end(self) -> None:
        self._connection.close()


class Writer(Lane):
    """Carries out writes, many in one transaction; callers are answered after its COMMIT and fsync."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(connection, path, "storage-writer")
        self.groups = Histogram(SIZES)
        """Writes in each transaction that was committed; as the next two, counted by the thread."""
        self.seconds = Histogram()
        """How long these transactions took, the fsync included."""
        self.failures = 0
        """Writes that failed because their transaction did."""
        self._unwritten = 0
        self._failing = False
        self._short = False
        """Whether there is too little room on the disk, as far as that was told."""

    @property
    def unwritten(self) -> int:
        """Bytes that wait to be written."""
        return self._unwritten

    def sizes(self) -> tuple[int, int]:
        """Bytes of the database and of its write-ahead log; 0 for what is not there."""
        database, log_file = self._path, self._path.with_name(f"{self._path.name}-wal")
        return _size(database), _size(log_file)

    def free_bytes(self) -> int:
        """Bytes that the disk still takes; 0 when the system does not tell."""
        try:
            return shutil.disk_usage(self._path.parent).free
        except OSError:
            return 0

    async def write(
        self,
        function: Callable[..., Result],
        *args: Any,
        size: int = 0,
        seen: Callable[[Result], None] | None = None,
    ) -> Result:
        """Call ``function(connection, *args)`` inside a transaction; return its result once that is durable.

        ``size``: bytes that it adds to the store; 0 when it adds none. The function may be called twice, the first
        time without effect. Raises what it raises, and then nothing is written; StorageError when the disk fails.
        """
        work = Work(function, args, self._loop.create_future(), seen)
        if size:
            if self._unwritten + size > MAX_UNWRITTEN_BYTES:
                raise StorageError(
                    "storage_busy",
                    f"The disk of {self._path} is too slow: {self._unwritten} bytes wait to be written; try again later.",
                )
            work.size = size + PIECE_BYTES
        answer = self._submit(work)
        self._unwritten += work.size
        return await answer

    def _answer(self, batch: Sequence[Work]) -> None:
        for work in batch:
            self._unwritten -= work.size
        super()._answer(batch)

    def _carry_out(self, batch: Sequence[Work]) -> None:
        self._roll_back()  # should that have failed the last time
        began = time.perf_counter()
        batch = self._admitted(batch)
        if not batch:
            return
        try:
            # First without a savepoint around each write, which would be two statements more for everyone.
            if not self._attempt(batch, apart=False):
                self._attempt(batch, apart=True)
        except Exception as error:
            self._roll_back()
            for work in batch:
                work.error = error
            self.failures += len(batch)
            if not self._failing:  # told once, not for each group while it lasts
                self._failing = True
                log.error("writes fail: %s", _presentable(error, self._path))
        else:
            self.groups.observe(len(batch))
            self.seconds.observe(time.perf_counter() - began)
            if self._failing:
                self._failing = False
                log.info("writes succeed again")

    def _admitted(self, batch: Sequence[Work]) -> Sequence[Work]:
        """Refuse what adds to the store when the disk is nearly full; return the others."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return batch
        room, spared = disk.f_bavail, min(SPARED_BYTES // disk.f_frsize, disk.f_blocks // SPARED_PART)
        if room >= spared:
            if self._short:
                self._short = False
                log.info("there is room on the disk again: new values and jobs are stored")
            return batch
        if not self._short:
            self._short = True
            log.error("new values and jobs are refused: %s", _full(self._path).message)
        for work in batch:
            if work.size:
                work.error = _full(self._path)
                self.failures += 1
        return [work for work in batch if not work.size]

    def _attempt(self, batch: Sequence[Work], *, apart: bool) -> bool:
        """Carry out all writes in a transaction. Returns False, with nothing done, when one failed in its midst.

        With ``apart`` such a write is undone alone. Raises what SQLite raises when the transaction fails as a whole.
        """
        database = self._connection
        database.execute("BEGIN IMMEDIATE")
        for work in batch:
            work.error = None
            before = database.total_changes
            if apart:
                database.execute("SAVEPOINT work")
            try:
                work.result = work.function(database, *work.args)
            except Exception as error:
                if not database.in_transaction:
                    raise  # a full or broken disk has undone everything
                if apart:
                    database.execute("ROLLBACK TO work")
                elif database.total_changes != before:
                    database.execute("ROLLBACK")
                    return False
                work.error = error
            if apart:
                database.execute("RELEASE work")
        database.execute("COMMIT")
        return True

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("a transaction could not be undone")

    def _end(self) -> None:
        try:
            # Without a look first, SQLite 3.40 calls a log locked that only the reader has used.
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            super()._end()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _presentable(error: Exception, path: Path) -> Exception:
    if isinstance(error, sqlite3.Error):
        return explain(error, path)
    if isinstance(error, StopIteration):  # futures do not take it
        return RuntimeError("a function for the store raised StopIteration")
    return error


def explain(error: sqlite3.Error, path: Path) -> StorageError:
    """Say what is wrong with the disk or the file, and what to do. A new error for each caller."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    reason = f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    return StorageError("storage_failed", f"{path}: {reason}; {_REMEDIES.get(code, 'see the log of the engine')}.")


def _is_damage(error: Exception) -> bool:
    damage = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in damage


def _full(path: Path) -> StorageError:
    return StorageError(
        "storage_full",
        f"The disk of {path} is full: nothing was stored; free space on it, or delete values, then try again.",
    )


_REMEDIES = {
    sqlite3.SQLITE_IOERR: "the disk failed, or a quota is used up: look at the system's log",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for the engine",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for the engine",
    sqlite3.SQLITE_CANTOPEN: "make the file and its folder readable and writable for the engine",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop the engine and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is damaged: stop the engine and restore a backup",
    sqlite3.SQLITE_BUSY: "another program holds a lock on the file: end that program",
    sqlite3.SQLITE_LOCKED: "another program holds a lock on the file: end that program",
    sqlite3.SQLITE_NOMEM: "the engine has not enough memory",
    sqlite3.SQLITE_TOOBIG: "the value is too large to be stored",
}
"""By primary result code of SQLite: what to do."""
