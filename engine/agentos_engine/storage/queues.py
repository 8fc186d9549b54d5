"""Stored jobs: what a queue store keeps and promises, and the store that keeps them in memory.

A job is waiting until it is done, or dead once its last attempt has failed. What runs right now is not stored, so a
job whose attempt a crash cut off is still waiting afterwards: every job is carried out at least once. Queue names are
opaque texts here; whoever takes names from outside bounds their length.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

MAX_KEYS = 100_000
"""Idempotency keys remembered per scope; beyond that the oldest are forgotten first."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits in a queue. Times are in seconds since 1970; ``data`` and ``metadata`` are raw JSON.

    ``id`` is the receipt that the caller got. ``worker_version`` is the version of the worker that the job was meant
    for when it was put in ("": unknown). ``seq`` is given by the store: unique, growing in the order of putting in.
    A dead job has a ``failed_at``.
    """

    queue: str
    id: str
    function_id: str
    data: bytes
    namespace: str = "default"
    metadata: bytes | None = None
    traceparent: str | None = None
    baggage: str | None = None
    created_at: float
    due_at: float
    max_attempts: int
    attempts_made: int = 0
    group: str | None = None
    priority: int = 0
    idempotency_key: str | None = None
    worker_version: str = ""
    last_error: str | None = None
    failed_at: float | None = None
    seq: int = 0

    @property
    def size(self) -> int:
        """Bytes that count against limits."""
        return len(self.data) + len(self.metadata or b"")


class Waiting(msgspec.Struct, frozen=True):
    """What has to be known of a waiting job to decide when it runs; its payload stays in the store."""

    seq: int
    queue: str
    created_at: float
    due_at: float
    group: str | None
    priority: int
    size: int


class Key(msgspec.Struct, frozen=True):
    """An idempotency key: jobs put in under a live key of the same scope are not put in again."""

    scope: str
    key: str
    expires_at: float


class Added(msgspec.Struct, frozen=True):
    """The outcome of putting in. ``waiting`` is empty when a key was known already; then ``receipt`` is the first one."""

    receipt: str
    waiting: Sequence[Waiting]


class Keep(msgspec.Struct, frozen=True):
    """How many dead jobs a queue keeps, and how many bytes of them; the newest one is kept in any case."""

    count: int
    size: int


class Subscription(msgspec.Struct, frozen=True):
    """A function that gets the messages of a topic, through a queue of its own.

    ``settings`` is the raw JSON of its retry settings; ``expires_at`` is when to forget it (None: its worker is there).
    """

    queue: str
    topic: str
    function_id: str
    namespace: str
    settings: bytes
    expires_at: float | None = None


class QueueStore(Protocol):
    """Jobs, idempotency keys and subscriptions.

    Writes take effect in the order in which they are called, return in that order, and return only when they are
    durable. Each write happens as a whole or not at all; one whose caller is cancelled may or may not happen. Every
    method raises StorageError when the store cannot do its work.
    """

    async def add(
        self, jobs: Sequence[Job], *, receipt: str, now: float, keys: Sequence[Key] = (), remove: Sequence[int] = ()
    ) -> Added:
        """Put in jobs, remember the keys with the receipt, and remove the waiting jobs with the numbers ``remove``.

        When one of the keys is known and has not expired at ``now``, nothing is changed.
        """
        ...

    async def get(self, seq: int) -> Job | None:
        """Return a waiting job; None when there is none of this number. Called before every attempt: recently added
        jobs should come from memory.
        """
        ...

    async def done(self, seq: int) -> None:
        """Remove a waiting job; an unknown one is ignored."""
        ...

    async def retry(self, seq: int, *, attempts_made: int, due_at: float, error: str) -> None:
        """Record a failed attempt of a waiting job; an unknown one is ignored."""
        ...

    async def bury(self, seq: int, *, attempts_made: int, failed_at: float, error: str, keep: Keep) -> int:
        """Record the last failed attempt: the waiting job is dead now. An unknown one is ignored.

        Returns how many older dead jobs of the queue were dropped to stay within ``keep``.
        """
        ...

    async def waiting(self) -> list[Waiting]:
        """Return all waiting jobs, in the order of ``seq``."""
        ...

    async def dead(self, queues: Sequence[str], *, offset: int, limit: int, max_bytes: int) -> list[Job]:
        """Return dead jobs of some queues, by ``failed_at``, oldest first.

        Fewer than ``limit`` when they would exceed ``max_bytes``, but at least one when there is one.
        """
        ...

    async def dead_counts(self) -> dict[str, int]:
        """Return how many dead jobs each queue has; queues without one are left out."""
        ...

    async def redrive(
        self, queue: str, *, due_at: float, id: str | None = None, max_attempts: int | None = None
    ) -> list[Waiting]:
        """Make dead jobs waiting again, all or those with one id, with no attempts made; ordered by ``seq``.

        They keep their ``seq``; ``max_attempts`` replaces theirs when it is given.
        """
        ...

    async def discard(self, queue: str, id: str) -> int:
        """Delete the dead jobs of a queue that have this id; return how many there were."""
        ...

    async def subscriptions(self) -> list[Subscription]:
        """Return all subscriptions."""
        ...

    async def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription, or replace the one that has the same queue."""
        ...

    async def forget(self, queue: str) -> int:
        """Delete a subscription and the waiting jobs of its queue; return how many jobs there were. Dead ones stay."""
        ...

    async def expire_keys(self, now: float) -> None:
        """Forget the keys that have expired."""
        ...

    async def close(self) -> None:
        """End the use of the store; what was written stays. Safe to call twice."""
        ...


class MemoryQueueStore:
    """A queue store that lasts as long as the process."""

    def __init__(self) -> None:
        self._seq = 0
        self._waiting: dict[int, Job] = {}
        self._dead: dict[str, dict[int, Job]] = {}
        """By queue, in the order in which they died."""
        self._dead_bytes: dict[str, int] = {}
        self._keys: dict[str, dict[str, tuple[str, float]]] = {}
        """By scope and key: receipt and expiry."""
        self._subscriptions: dict[str, Subscription] = {}

    async def add(
        self, jobs: Sequence[Job], *, receipt: str, now: float, keys: Sequence[Key] = (), remove: Sequence[int] = ()
    ) -> Added:
        """Put in jobs."""
        for key in keys:
            known = self._keys.get(key.scope, {}).get(key.key)
            if known is not None and known[1] > now:
                return Added(known[0], ())
        for key in keys:
            scope = self._keys.setdefault(key.scope, {})
            scope.pop(key.key, None)
            scope[key.key] = (receipt, key.expires_at)
            if len(scope) > MAX_KEYS:
                del scope[next(iter(scope))]
        for seq in remove:
            self._waiting.pop(seq, None)
        added = []
        for job in jobs:
            self._seq += 1
            stored = msgspec.structs.replace(job, seq=self._seq)
            self._waiting[self._seq] = stored
            added.append(_waiting(stored))
        return Added(receipt, added)

    async def get(self, seq: int) -> Job | None:
        """Return a waiting job."""
        return self._waiting.get(seq)

    async def done(self, seq: int) -> None:
        """Remove a waiting job."""
        self._waiting.pop(seq, None)

    async def retry(self, seq: int, *, attempts_made: int, due_at: float, error: str) -> None:
        """Record a failed attempt."""
        job = self._waiting.get(seq)
        if job is not None:
            self._waiting[seq] = msgspec.structs.replace(
                job, attempts_made=attempts_made, due_at=due_at, last_error=error
            )

    async def bury(self, seq: int, *, attempts_made: int, failed_at: float, error: str, keep: Keep) -> int:
        """Record the last failed attempt."""
        job = self._waiting.pop(seq, None)
        if job is None:
            return 0
        job = msgspec.structs.replace(job, attempts_made=attempts_made, failed_at=failed_at, last_error=error)
        dead = self._dead.setdefault(job.queue, {})
        dead[seq] = job
        self._dead_bytes[job.queue] = self._dead_bytes.get(job.queue, 0) + job.size
        dropped = 0
        while len(dead) > 1 and (len(dead) > keep.count or self._dead_bytes[job.queue] > keep.size):
            self._revive(next(iter(dead.values())))
            dropped += 1
        return dropped

    async def waiting(self) -> list[Waiting]:
        """Return all waiting jobs."""
        return [_waiting(self._waiting[seq]) for seq in sorted(self._waiting)]

    async def dead(self, queues: Sequence[str], *, offset: int, limit: int, max_bytes: int) -> list[Job]:
        """Return dead jobs of some queues."""
        jobs = [job for queue in set(queues) for job in self._dead.get(queue, {}).values()]
        jobs.sort(key=lambda job: (job.failed_at or 0.0, job.seq))
        page: list[Job] = []
        for job in jobs[offset : offset + limit]:
            max_bytes -= job.size
            if page and max_bytes < 0:
                break
            page.append(job)
        return page

    async def dead_counts(self) -> dict[str, int]:
        """Return how many dead jobs each queue has."""
        return {queue: len(dead) for queue, dead in self._dead.items()}

    async def redrive(
        self, queue: str, *, due_at: float, id: str | None = None, max_attempts: int | None = None
    ) -> list[Waiting]:
        """Make dead jobs waiting again."""
        redriven = []
        for job in sorted(self._dead_with(queue, id), key=lambda job: job.seq):
            self._revive(job)
            again = msgspec.structs.replace(
                job,
                attempts_made=0,
                failed_at=None,
                due_at=due_at,
                max_attempts=job.max_attempts if max_attempts is None else max_attempts,
            )
            self._waiting[job.seq] = again
            redriven.append(_waiting(again))
        return redriven

    async def discard(self, queue: str, id: str) -> int:
        """Delete dead jobs."""
        jobs = self._dead_with(queue, id)
        for job in jobs:
            self._revive(job)
        return len(jobs)

    async def subscriptions(self) -> list[Subscription]:
        """Return all subscriptions."""
        return list(self._subscriptions.values())

    async def subscribe(self, subscription: Subscription) -> None:
        """Add or replace a subscription."""
        self._subscriptions[subscription.queue] = subscription

    async def forget(self, queue: str) -> int:
        """Delete a subscription and its waiting jobs."""
        self._subscriptions.pop(queue, None)
        jobs = [seq for seq, job in self._waiting.items() if job.queue == queue]
        for seq in jobs:
            del self._waiting[seq]
        return len(jobs)

    async def expire_keys(self, now: float) -> None:
        """Forget the keys that have expired."""
        for scope, keys in list(self._keys.items()):
            for key in [key for key, (_, expires_at) in keys.items() if expires_at <= now]:
                del keys[key]
            if not keys:
                del self._keys[scope]

    async def close(self) -> None:
        """Nothing to end."""

    def _dead_with(self, queue: str, id: str | None) -> list[Job]:
        return [job for job in self._dead.get(queue, {}).values() if id is None or job.id == id]

    def _revive(self, job: Job) -> None:
        """Take a job out of the dead ones."""
        dead = self._dead[job.queue]
        del dead[job.seq]
        self._dead_bytes[job.queue] -= job.size
        if not dead:
            del self._dead[job.queue], self._dead_bytes[job.queue]


def _waiting(job: Job) -> Waiting:
    return Waiting(job.seq, job.queue, job.created_at, job.due_at, job.group, job.priority, job.size)
