"""All queues of an engine that run: one consumer each, one store behind them."""

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import Clock
from agentos_engine.queues.consumer import RETURN_GRACE, Consumer, Returning, Room, Run
from agentos_engine.queues.settings import QueueSettings
from agentos_engine.storage.queues import Job, Key, QueueStore, Waiting
from agentos_engine.storage.values import StorageError

log = logging.getLogger(__name__)

KEY_LIFETIME = 24 * 3600.0
"""Seconds for which an idempotency key is remembered."""
MAX_KEY_LENGTH = 1024
"""Characters of an idempotency key, and of a receipt that the caller chose."""

Result = TypeVar("Result")


class Runner:
    """The consumers by queue. :meth:`load` comes first, :meth:`stop` last."""

    def __init__(self, store: QueueStore, clock: Clock, bounds: Bounds | None = None) -> None:
        self.store = store
        self.clock = clock
        self.room = Room(bounds)
        self.consumers: dict[str, Consumer] = {}
        self.unused: dict[str, list[Waiting]] = {}
        """Waiting jobs of queues that nobody has opened: their configuration is gone, or not there yet."""
        self._returning = Returning()
        self.dead: dict[str, int] = {}
        """Dead jobs by queue when somebody last looked; see :meth:`look_for_dead`."""
        self._looking: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()

    async def load(self) -> None:
        """Read what waits in the store. Raises StorageError."""
        newest = 0
        for job in await self.store.waiting():
            self.unused.setdefault(job.queue, []).append(job)
            newest = job.seq
        self._returning = Returning(newest, self.clock.monotonic() + RETURN_GRACE)
        self.dead = await self.store.dead_counts()

    def look_for_dead(self) -> None:
        """Bring :attr:`dead` up to date, soon."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look_for_dead())

    async def _look_for_dead(self) -> None:
        try:
            self.dead = await self.store.dead_counts()
        except StorageError as error:
            log.debug("dead letters could not be counted: %s", error.message)
        finally:
            self._looking = None

    def open(self, queue: str, settings: QueueSettings, run: Run) -> Consumer:
        """Return a new consumer of a queue, not yet active, with all jobs that wait for it."""
        consumer = Consumer(
            queue, settings, run, store=self.store, clock=self.clock, room=self.room, returning=self._returning
        )
        self.consumers[queue] = consumer
        consumer.load(self.unused.pop(queue, ()))
        return consumer

    def drop(self, queue: str) -> None:
        """Forget a queue, whose jobs are gone from the store."""
        consumer = self.consumers.pop(queue, None)
        if consumer is not None:
            consumer.drop()

    def depth(self, queue: str) -> int:
        """Jobs of a queue that are not done."""
        consumer = self.consumers.get(queue)
        return consumer.depth if consumer is not None else len(self.unused.get(queue, ()))

    async def put(self, jobs: Sequence[Job], *, receipt: str, keys: Sequence[Key] = ()) -> str:
        """Put in jobs for open queues; return the receipt once they are durable. With a known key nothing is put in.

        Raises BusError: ``queue_full``, or a StorageError.
        """
        self._admit(jobs)
        arrived: Sequence[Waiting] = ()
        try:
            added = await self.store.add(jobs, receipt=receipt, now=self.clock.time(), keys=keys)
            arrived = added.waiting
            return added.receipt
        finally:
            for job in arrived:
                self.consumers[job.queue].arrived(job)
            if not arrived:
                for job in jobs:
                    self.consumers[job.queue].turned_away(job.size)

    def _admit(self, jobs: Sequence[Job]) -> None:
        for number, job in enumerate(jobs):
            try:
                self.consumers[job.queue].admit(job.size)
            except BusError:
                for admitted in jobs[:number]:
                    self.consumers[admitted.queue].turned_away(admitted.size)
                raise

    def take_over(self, queue: str, jobs: Sequence[Waiting]) -> None:
        """Take over jobs that the store has made waiting; no limit holds them back."""
        consumer = self.consumers.get(queue)
        if consumer is not None:
            consumer.load(jobs)
        else:
            self.unused.setdefault(queue, []).extend(jobs)

    @property
    def moving(self) -> int:
        """How many jobs run or are on their way into a queue, and other work on the store is under way."""
        return sum(consumer.moving for consumer in self.consumers.values()) + len(self._work)

    async def complete(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something to its end even when whoever asked for it goes away meanwhile."""
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; when nobody does, it is not a fault of the engine

    async def stop(self, seconds: float) -> None:
        """Start no more jobs; those that run have so many seconds to end, then they are left for the next start."""
        if self._looking is not None:
            self._looking.cancel()
        for consumer in self.consumers.values():
            consumer.stop()
        running = [task for consumer in self.consumers.values() for task in consumer.tasks]
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)


def new_receipt() -> str:
    """Return an id for a job."""
    return str(uuid.uuid4())


def check_key(key: str | None, what: str) -> None:
    """Raise BusError ``enqueue_error`` for an idempotency key or a receipt that cannot be one."""
    if key is not None and not 0 < len(key) <= MAX_KEY_LENGTH:
        raise BusError("enqueue_error", f"{what} is a text of 1 to {MAX_KEY_LENGTH} characters")
