"""The jobs of one queue as they run: started when their time has come, then done, retried or dead."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.errors import BusError, WorkerUnresponsive
from agentos_engine.clock import Clock, Handle
from agentos_engine.queues.names import label
from agentos_engine.queues.schedule import Schedule
from agentos_engine.queues.settings import MAX_BACKOFF, MAX_DELAY, QueueSettings
from agentos_engine.storage.queues import Job, Keep, QueueStore, Waiting

log = logging.getLogger(__name__)

KEEP_DEAD = Keep(count=10_000, size=256 << 20)
"""Dead jobs that one queue keeps; the oldest go first."""
UNRESPONSIVE_WAIT = 1.0
"""Seconds until a job is tried again whose only worker says nothing at present."""
RETURN_GRACE = 60.0
"""Seconds after the engine's start for which the function of a job that waited then may be missing: workers come back
one by one, an SDK waits up to 30 s between its attempts. That is no failure of the job either."""
RETURN_WAIT = 0.25
"""Seconds until such a job is tried again,"""
RETURN_RATE = 2000
"""and as many of them a second as do not keep the engine from its other work."""
MAX_ERROR_LENGTH = 4096
"""Characters kept of the error of a failed attempt."""
LOGGED = 500
"""Characters of it in the log."""

Run = Callable[[Job], Awaitable[None]]
"""Carries out one attempt of a job. Raises BusError when it failed, NotNow when it was no attempt."""


class NotNow(Exception):
    """The job could not be tried, and that is nobody's failure: it waits on, and no attempt is counted."""


class Returning(msgspec.Struct, frozen=True):
    """Which jobs wait for workers that are yet to come back: those up to a ``seq``, until a time of the clock."""

    newest: int = 0
    until: float = 0.0


class Room:
    """Counts all waiting jobs of an engine and their bytes. A queue may hold as many bytes as are free."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.used = 0
        """Bytes."""
        self.jobs = 0
        self._bounds = bounds or Bounds()

    def take(self, size: int, depth: int = 0, held: int = 0) -> None:
        """Count a job into a queue that has so many jobs of so many bytes. Raises BusError ``queue_full``."""
        limits = self._bounds.limits
        if depth >= limits.queue_jobs:
            raise self._full("queue_jobs", f"the queue holds {depth} jobs, the most allowed")
        if depth >= limits.jobs - self.jobs:
            raise self._full("jobs", f"{self.jobs} jobs wait in all queues, {depth} of them in this one")
        if held + size > limits.job_bytes - self.used:
            raise self._full("job_bytes", f"the waiting jobs hold {self.used} bytes, {held} of them in this queue")
        self.add(1, size)

    def give_back(self, size: int) -> None:
        """Count a job out."""
        self.add(-1, -size)

    def add(self, jobs: int, size: int) -> None:
        """Count jobs in, or out when the numbers are negative."""
        self.jobs += jobs
        self.used += size

    def _full(self, name: str, problem: str) -> BusError:
        return self._bounds.exceeded(name, problem, code="queue_full")


class Consumer:
    """Runs the jobs of one queue, while it is ``active``. Woken by events and by the clock; it never polls."""

    def __init__(
        self,
        queue: str,
        settings: QueueSettings,
        run: Run,
        *,
        store: QueueStore,
        clock: Clock,
        room: Room,
        returning: Returning = Returning(),  # noqa: B008 - it cannot change
    ) -> None:
        self.queue = queue
        self.settings = settings
        self.tasks: set[asyncio.Task[None]] = set()
        """Attempts in progress."""
        self._run = run
        self._store = store
        self._clock = clock
        self._room = room
        self._returning = returning
        self._schedule = Schedule(0, settings.fifo)
        self._active = False
        self._stopping = False
        self._size = 0
        self._coming = self._coming_size = 0
        """Jobs that are on their way into the store, and their bytes."""
        self._timer: Handle | None = None
        self._timer_due = 0.0
        self.done = 0
        """Jobs that were done, since the start, as the next two."""
        self.retried = 0
        """Attempts that failed and are made again."""
        self.buried = 0
        """Jobs that failed for the last time."""

    @property
    def running(self) -> int:
        """Jobs that run."""
        return self._schedule.running

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest job was put in that is not done; 0 when there is none."""
        oldest = self._schedule.oldest
        return 0.0 if oldest is None else max(0.0, self._clock.time() - oldest.created_at)

    @property
    def depth(self) -> int:
        """Jobs that are not done, running ones included."""
        return len(self._schedule) + self._coming

    @property
    def busy(self) -> bool:
        """Whether a job runs, or is on its way into the queue."""
        return self.moving > 0

    @property
    def moving(self) -> int:
        """Jobs that run, or are on their way into the queue."""
        return len(self.tasks) + self._coming

    def use(self, settings: QueueSettings, active: bool) -> None:
        """Go on with these settings."""
        self.settings = settings
        self._active = active and not self._stopping
        self._schedule.order(settings.fifo, self._clock.monotonic())
        self._schedule.concurrency = settings.concurrency if self._active else 0
        self.wake()

    def admit(self, size: int) -> None:
        """Make room for a job that is about to be put in. Raises BusError ``queue_full``."""
        self._room.take(size, self.depth, self._size + self._coming_size)
        self._coming += 1
        self._coming_size += size

    def turned_away(self, size: int) -> None:
        """A job that was admitted has not been put in."""
        self._coming -= 1
        self._coming_size -= size
        self._room.give_back(size)

    def arrived(self, job: Waiting) -> None:
        """A job that was admitted is in the store."""
        self._coming -= 1
        self._coming_size -= job.size
        self._schedule_for(job)
        self.wake()

    def load(self, jobs: Iterable[Waiting]) -> None:
        """Take over jobs that are in the store already."""
        for job in jobs:
            self._room.add(1, job.size)
            self._schedule_for(job)
        self.wake()

    def wake(self) -> None:
        """Start what can start, and see to it that the next one starts in time."""
        now = self._clock.monotonic()
        for job in self._schedule.take(now):
            task = asyncio.get_running_loop().create_task(self._attempt(job))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        due = self._schedule.next_due(now)
        if self._timer is not None and due != self._timer_due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due is not None:
            self._timer_due = due
            self._timer = self._clock.call_later(due - now, self._on_time)

    def stop(self) -> None:
        """Start no more jobs. Those that run go on: wait for :attr:`tasks`, or cancel them."""
        self._stopping = True
        self.use(self.settings, active=False)

    def drop(self) -> None:
        """Stop, and give back the room of all jobs: they are gone from the store."""
        self.stop()
        self._room.add(-len(self._schedule), -self._size)
        self._size = 0

    def _on_time(self) -> None:
        self._timer = None
        self.wake()

    def _schedule_for(self, job: Waiting) -> None:
        self._size += job.size
        now = self._clock.monotonic()
        # The stored time is wall time. Bounded, so that a clock that was wrong for a while holds up nothing for ever.
        wait = min(job.due_at - self._clock.time(), max(MAX_BACKOFF, MAX_DELAY))
        self._schedule.add(job, now + max(0.0, wait), now)

    async def _attempt(self, job: Waiting) -> None:
        try:
            wait = await self._outcome(job)
        except Exception:
            log.exception("a job of queue %r could not be recorded; it runs again", label(self.queue))
            wait = self.settings.wait_after(1)
        now = self._clock.monotonic()
        if wait is None:
            self._schedule.finish(job, now)
            self._size -= job.size
            self._room.give_back(job.size)
        else:
            self._schedule.retry(job, now + wait, now)
        self.wake()

    async def _outcome(self, waiting: Waiting) -> float | None:
        """Run a job once and record what came of it. Returns seconds until the next attempt; None: there is none."""
        job = await self._store.get(waiting.seq)
        if job is None:
            return None
        if self._stopping:
            return 0.0
        try:
            await self._run(job)
        except NotNow:
            return 0.0
        except WorkerUnresponsive:
            return UNRESPONSIVE_WAIT  # it was not called, so that is no attempt
        except BusError as failure:
            error = failure
        except Exception:
            log.exception("a job of queue %r failed inside the engine", label(self.queue))
            error = BusError("internal_error", "the attempt failed inside the engine; its log says why")
        else:
            await self._store.done(job.seq)
            self.done += 1
            return None
        if error.code == "function_not_found" and self._may_return(job):
            return RETURN_WAIT + len(self._schedule) / RETURN_RATE
        if self._stopping and error.code == "invocation_stopped":
            return 0.0  # the engine goes, and its connections with it: that is no failure of the job
        return await self._failed(job, f"{error.code}: {error.message}"[:MAX_ERROR_LENGTH])

    def _may_return(self, job: Job) -> bool:
        return job.seq <= self._returning.newest and self._clock.monotonic() < self._returning.until

    async def _failed(self, job: Job, error: str) -> float | None:
        attempts = job.attempts_made + 1
        now = self._clock.time()
        about = {"queue": label(self.queue), "function_id": job.function_id, "job": job.id, "attempt": attempts}
        if attempts < job.max_attempts:
            wait = self.settings.wait_after(attempts)
            log.debug("job failed, next attempt in %g s: %s", wait, error[:LOGGED], extra=about)
            await self._store.retry(job.seq, attempts_made=attempts, due_at=now + wait, error=error)
            self.retried += 1
            return wait
        log.warning("job failed for the last time, now a dead letter: %s", error[:LOGGED], extra=about)
        dropped = await self._store.bury(job.seq, attempts_made=attempts, failed_at=now, error=error, keep=KEEP_DEAD)
        self.buried += 1
        if dropped:
            log.warning("%d older dead letters dropped: a queue keeps %d", dropped, KEEP_DEAD.count, extra=about)
        return None
