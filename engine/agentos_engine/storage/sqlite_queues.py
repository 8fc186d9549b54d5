"""Jobs, idempotency keys and subscriptions in a SQLite database."""

# ruff: noqa: S608 (queries are put together of constants; what comes from outside is bound)

import heapq
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from agentos_engine.storage import queues
from agentos_engine.storage.queues import Added, Job, Keep, Key, Subscription, Waiting
from agentos_engine.storage.recent import Recent
from agentos_engine.storage.sqlite_threads import Lane, Writer

MAX_RECENT_BYTES = 32 << 20
"""Of waiting jobs that were put in recently and are kept in memory too."""
JOB_BYTES = 1000
"""Counted for each job in addition to its payload."""
VARIABLES = 500
"""Names in one query."""

# The payload comes last: SQLite reads a row from its beginning, and no further than it has to.
SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL, created_at REAL NOT NULL, due_at REAL NOT NULL, "group" TEXT, priority INTEGER NOT NULL,
    size INTEGER NOT NULL, id TEXT NOT NULL, function_id TEXT NOT NULL, namespace TEXT NOT NULL,
    traceparent TEXT, baggage TEXT, max_attempts INTEGER NOT NULL, attempts_made INTEGER NOT NULL,
    idempotency_key TEXT, worker_version TEXT NOT NULL, last_error TEXT, failed_at REAL,
    metadata BLOB, data BLOB NOT NULL
) STRICT;
CREATE INDEX waiting_jobs ON jobs (queue) WHERE failed_at IS NULL;
CREATE INDEX dead_jobs ON jobs (queue, failed_at, seq, size) WHERE failed_at IS NOT NULL;
CREATE TABLE dead_totals (queue TEXT PRIMARY KEY, jobs INTEGER NOT NULL, size INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    scope TEXT NOT NULL, key TEXT NOT NULL, receipt TEXT NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX keys_by_expiry ON keys (scope, expires_at);
CREATE TABLE key_totals (scope TEXT PRIMARY KEY, keys INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE subscriptions (
    queue TEXT PRIMARY KEY, topic TEXT NOT NULL, function_id TEXT NOT NULL, namespace TEXT NOT NULL,
    settings BLOB NOT NULL, expires_at REAL
) STRICT
"""

WAITING = Waiting.__struct_fields__
"""The columns that make a :class:`Waiting`, in its order; those of a job are named as its fields."""


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f'"{each}"' for each in columns)


STORED = [each for each in Job.__struct_fields__ if each != "seq"]
INSERT_JOB = f"INSERT INTO jobs (size, {_names(STORED)}) VALUES (?{', ?' * len(STORED)})"
SELECT_JOB = f"SELECT {_names(Job.__struct_fields__)} FROM jobs"
IS_WAITING = "failed_at IS NULL"
IS_DEAD = "failed_at IS NOT NULL"


class SqliteQueueStore:
    """A :class:`~agentos_engine.storage.queues.QueueStore` that lasts.

    Jobs that were put in recently are kept in memory as well; the writer's results come in order and change or remove
    them there before their callers are answered.
    """

    def __init__(self, writer: Writer, reader: Lane) -> None:
        self._writer = writer
        self._reader = reader
        self._recent: Recent[int, Job] = Recent(MAX_RECENT_BYTES)

    async def add(
        self, jobs: Sequence[Job], *, receipt: str, now: float, keys: Sequence[Key] = (), remove: Sequence[int] = ()
    ) -> Added:
        """Put in jobs."""

        def seen(added: Added) -> None:
            if not added.waiting and jobs:
                return  # a key was known
            for seq in remove:
                self._recent.drop(seq)
            for job, waiting in zip(jobs, added.waiting, strict=True):
                self._recent.put(waiting.seq, msgspec.structs.replace(job, seq=waiting.seq), _size(job))

        size = sum(map(_size, jobs))
        return await self._writer.write(_add, jobs, receipt, now, keys, remove, size=size, seen=seen)

    async def get(self, seq: int) -> Job | None:
        """Return a waiting job."""
        # What is read is not kept: it is meant for one attempt, and the next one may be far away.
        return self._recent.get(seq) or await self._reader.run(_get, seq)

    async def done(self, seq: int) -> None:
        """Remove a waiting job."""
        await self._writer.write(_done, seq, seen=lambda _: self._recent.drop(seq))

    async def retry(self, seq: int, *, attempts_made: int, due_at: float, error: str) -> None:
        """Record a failed attempt."""

        def seen(_: None) -> None:
            job = self._recent.get(seq)
            if job is not None:
                job = msgspec.structs.replace(job, attempts_made=attempts_made, due_at=due_at, last_error=error)
                self._recent.put(seq, job, _size(job))

        await self._writer.write(_retry, seq, attempts_made, due_at, error, seen=seen)

    async def bury(self, seq: int, *, attempts_made: int, failed_at: float, error: str, keep: Keep) -> int:
        """Record the last failed attempt."""
        return await self._writer.write(
            _bury, seq, attempts_made, failed_at, error, keep, seen=lambda _: self._recent.drop(seq)
        )

    async def waiting(self) -> list[Waiting]:
        """Return all waiting jobs."""
        return await self._reader.run(_waiting)

    async def dead(self, queues: Sequence[str], *, offset: int, limit: int, max_bytes: int) -> list[Job]:
        """Return dead jobs of some queues."""
        return await self._reader.run(_dead, sorted(set(queues)), offset, limit, max_bytes)

    async def dead_counts(self) -> dict[str, int]:
        """Return how many dead jobs each queue has."""
        return await self._reader.run(_dead_counts)

    async def redrive(
        self, queue: str, *, due_at: float, id: str | None = None, max_attempts: int | None = None
    ) -> list[Waiting]:
        """Make dead jobs waiting again."""
        return await self._writer.write(_redrive, queue, due_at, id, max_attempts)

    async def discard(self, queue: str, id: str) -> int:
        """Delete dead jobs."""
        return await self._writer.write(_discard, queue, id)

    async def subscriptions(self) -> list[Subscription]:
        """Return all subscriptions."""
        return await self._reader.run(_subscriptions)

    async def subscribe(self, subscription: Subscription) -> None:
        """Add or replace a subscription."""
        await self._writer.write(_subscribe, subscription, size=len(subscription.settings))

    async def forget(self, queue: str) -> int:
        """Delete a subscription and its waiting jobs."""
        return await self._writer.write(
            _forget, queue, seen=lambda _: self._recent.drop_where(lambda _, job: job.queue == queue)
        )

    async def expire_keys(self, now: float) -> None:
        """Forget the keys that have expired."""
        await self._writer.write(_expire_keys, now)

    async def close(self) -> None:
        """Do nothing: the storage is closed as a whole."""


def _size(job: Job) -> int:
    return job.size + JOB_BYTES


# What follows runs in the threads; what writes does so inside a transaction.


def _add(
    database: sqlite3.Connection,
    jobs: Sequence[Job],
    receipt: str,
    now: float,
    keys: Sequence[Key],
    remove: Sequence[int],
) -> Added:
    for key in keys:
        known = database.execute(
            "SELECT receipt FROM keys WHERE scope = ? AND key = ? AND expires_at > ?", (key.scope, key.key, now)
        ).fetchall()
        if known:
            return Added(known[0][0], ())
    for key in keys:
        _remember(database, key, receipt)
    for seq in remove:
        _done(database, seq)
    return Added(receipt, [_insert(database, job) for job in jobs])


def _insert(database: sqlite3.Connection, job: Job) -> Waiting:
    seq = database.execute(INSERT_JOB, (job.size, *(getattr(job, each) for each in STORED))).lastrowid
    assert seq is not None
    return Waiting(seq, job.queue, job.created_at, job.due_at, job.group, job.priority, job.size)


def _remember(database: sqlite3.Connection, key: Key, receipt: str) -> None:
    # Not replaced in place: among keys that expire together the row number tells which is the oldest.
    replaced = database.execute("DELETE FROM keys WHERE scope = ? AND key = ?", (key.scope, key.key)).rowcount
    database.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (key.scope, key.key, receipt, key.expires_at))
    if _count_keys(database, key.scope, 1 - replaced) > queues.MAX_KEYS:
        oldest = "SELECT rowid FROM keys WHERE scope = ? ORDER BY expires_at, rowid LIMIT 1"
        database.execute(f"DELETE FROM keys WHERE rowid = ({oldest})", (key.scope,))
        _count_keys(database, key.scope, -1)


def _count_keys(database: sqlite3.Connection, scope: str, more: int) -> int:
    """Note that a scope has so many more keys; return how many it has. Counting them each time would take too long."""
    return database.execute(
        "INSERT INTO key_totals VALUES (?, ?) ON CONFLICT DO UPDATE SET keys = keys + excluded.keys RETURNING keys",
        (scope, more),
    ).fetchall()[0][0]


def _expire_keys(database: sqlite3.Connection, now: float) -> None:
    for (scope,) in database.execute("SELECT scope FROM key_totals").fetchall():
        expired = database.execute("DELETE FROM keys WHERE scope = ? AND expires_at <= ?", (scope, now)).rowcount
        if expired and not _count_keys(database, scope, -expired):
            database.execute("DELETE FROM key_totals WHERE scope = ?", (scope,))


def _get(database: sqlite3.Connection, seq: int) -> Job | None:
    jobs = _jobs(database, f"{SELECT_JOB} WHERE seq = ? AND {IS_WAITING}", (seq,))
    return jobs[0] if jobs else None


def _jobs(database: sqlite3.Connection, query: str, values: Sequence[object]) -> list[Job]:
    rows = database.execute(query, values).fetchall()
    return [Job(**dict(zip(Job.__struct_fields__, row, strict=True))) for row in rows]


def _done(database: sqlite3.Connection, seq: int) -> None:
    database.execute(f"DELETE FROM jobs WHERE seq = ? AND {IS_WAITING}", (seq,))


def _retry(database: sqlite3.Connection, seq: int, attempts_made: int, due_at: float, error: str) -> None:
    database.execute(
        f"UPDATE jobs SET attempts_made = ?, due_at = ?, last_error = ? WHERE seq = ? AND {IS_WAITING}",
        (attempts_made, due_at, error, seq),
    )


def _bury(database: sqlite3.Connection, seq: int, attempts_made: int, failed_at: float, error: str, keep: Keep) -> int:
    buried = database.execute(
        f"UPDATE jobs SET attempts_made = ?, failed_at = ?, last_error = ? WHERE seq = ? AND {IS_WAITING} "
        "RETURNING queue, size",
        (attempts_made, failed_at, error, seq),
    ).fetchall()
    if not buried:
        return 0
    ((queue, size),) = buried
    count, total = _count_dead(database, queue, 1, size)
    dropped = freed = 0
    while count - dropped > 1 and (count - dropped > keep.count or total - freed > keep.size):
        ((oldest, size),) = database.execute(
            f"SELECT seq, size FROM jobs WHERE queue = ? AND {IS_DEAD} AND seq <> ? ORDER BY failed_at, seq LIMIT 1",
            (queue, seq),
        ).fetchall()
        database.execute("DELETE FROM jobs WHERE seq = ?", (oldest,))
        dropped += 1
        freed += size
    if dropped:
        _count_dead(database, queue, -dropped, -freed)
    return dropped


def _count_dead(database: sqlite3.Connection, queue: str, more: int, size: int) -> tuple[int, int]:
    """Note that a queue has so many more dead jobs and bytes of them; return how many of both it has."""
    ((count, total),) = database.execute(
        "INSERT INTO dead_totals VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, size = size + excluded.size RETURNING jobs, size",
        (queue, more, size),
    ).fetchall()
    if not count:
        database.execute("DELETE FROM dead_totals WHERE queue = ?", (queue,))
    return count, total


def _waiting(database: sqlite3.Connection) -> list[Waiting]:
    query = f"SELECT {_names(WAITING)} FROM jobs WHERE {IS_WAITING} ORDER BY seq"
    return [Waiting(*row) for row in database.execute(query).fetchall()]


def _dead(database: sqlite3.Connection, names: Sequence[str], offset: int, limit: int, max_bytes: int) -> list[Job]:
    found: list[list[tuple[float, int, int]]] = []
    for start in range(0, len(names), VARIABLES):
        some = names[start : start + VARIABLES]
        # All that this reads stands in the index: the payloads are read for those on the page only.
        query = (
            f"SELECT failed_at, seq, size FROM jobs WHERE queue IN (?{', ?' * (len(some) - 1)}) AND {IS_DEAD} "
            "ORDER BY failed_at, seq LIMIT ?"
        )
        found.append(database.execute(query, (*some, offset + limit)).fetchall())
    page: list[Job] = []
    for _, seq, size in islice(heapq.merge(*found), offset, offset + limit):
        max_bytes -= size
        if page and max_bytes < 0:
            break
        page += _jobs(database, f"{SELECT_JOB} WHERE seq = ? AND {IS_DEAD}", (seq,))
    return page


def _dead_counts(database: sqlite3.Connection) -> dict[str, int]:
    return dict(database.execute("SELECT queue, jobs FROM dead_totals").fetchall())


def _redrive(
    database: sqlite3.Connection, queue: str, due_at: float, id: str | None, max_attempts: int | None
) -> list[Waiting]:
    rows = database.execute(
        "UPDATE jobs SET attempts_made = 0, failed_at = NULL, due_at = ?, max_attempts = coalesce(?, max_attempts) "
        f"WHERE queue = ? AND {IS_DEAD} AND (?4 IS NULL OR id = ?4) RETURNING {_names(WAITING)}",
        (due_at, max_attempts, queue, id),
    ).fetchall()
    redriven = sorted((Waiting(*row) for row in rows), key=lambda each: each.seq)
    if redriven:
        _count_dead(database, queue, -len(redriven), -sum(each.size for each in redriven))
    return redriven


def _discard(database: sqlite3.Connection, queue: str, id: str) -> int:
    sizes = database.execute(
        f"DELETE FROM jobs WHERE queue = ? AND id = ? AND {IS_DEAD} RETURNING size", (queue, id)
    ).fetchall()
    if sizes:
        _count_dead(database, queue, -len(sizes), -sum(size for (size,) in sizes))
    return len(sizes)


def _subscriptions(database: sqlite3.Connection) -> list[Subscription]:
    query = f"SELECT {_names(Subscription.__struct_fields__)} FROM subscriptions ORDER BY rowid"
    return [Subscription(*row) for row in database.execute(query).fetchall()]


def _subscribe(database: sqlite3.Connection, subscription: Subscription) -> None:
    columns = Subscription.__struct_fields__
    changes = ", ".join(f"{each} = excluded.{each}" for each in columns)
    database.execute(
        f"INSERT INTO subscriptions ({_names(columns)}) VALUES (?{', ?' * (len(columns) - 1)}) "
        f"ON CONFLICT DO UPDATE SET {changes}",
        msgspec.structs.astuple(subscription),
    )


def _forget(database: sqlite3.Connection, queue: str) -> int:
    database.execute("DELETE FROM subscriptions WHERE queue = ?", (queue,))
    return database.execute(f"DELETE FROM jobs WHERE queue = ? AND {IS_WAITING}", (queue,)).rowcount
