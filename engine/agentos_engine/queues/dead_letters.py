"""Jobs whose last attempt has failed: listed, run again, or thrown away, by the names that people know.

A name is that of a queue in the config, a topic (then all its subscribers are meant), or ``topic::function_id``.
"""

from agentos_engine.queues import names
from agentos_engine.queues.runner import Runner
from agentos_engine.storage.queues import Job

MAX_PAGE = 1000
"""Dead letters in one listing."""
MAX_PAGE_BYTES = 16 << 20
"""Bytes of their payloads; the listing ends before they would be more."""


class DeadLetters:
    """Those of all queues, also of queues that are not configured any more. Every method raises StorageError."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def counts(self) -> dict[str, int]:
        """Return how many there are by queue or topic; those without any are left out."""
        counts: dict[str, int] = {}
        for queue, count in (await self._runner.store.dead_counts()).items():
            counts[names.label(queue)] = counts.get(names.label(queue), 0) + count
        return counts

    async def count(self, name: str) -> int:
        """Return how many there are under a name."""
        counts = await self._runner.store.dead_counts()
        return sum(count for queue, count in counts.items() if names.answers_to(queue, name))

    async def page(self, name: str, offset: int, limit: int) -> list[Job]:
        """Return some, oldest first; fewer than ``limit`` when they are too large for one answer."""
        return await self._runner.store.dead(
            await self._queues(name), offset=offset, limit=min(limit, MAX_PAGE), max_bytes=MAX_PAGE_BYTES
        )

    async def redrive(self, name: str, id: str | None = None) -> int:
        """Let all, or the one with an id, run again with all their attempts; return how many there were.

        They are given as many attempts as the queue's settings allow now.
        """
        redriven = 0
        for queue in await self._queues(name):
            consumer = self._runner.consumers.get(queue)
            attempts = consumer.settings.attempts if consumer is not None else None
            now = self._runner.clock.time()
            jobs = await self._runner.store.redrive(queue, due_at=now, id=id, max_attempts=attempts)
            self._runner.take_over(queue, jobs)
            redriven += len(jobs)
        return redriven

    async def discard(self, name: str, id: str) -> int:
        """Delete the one with an id; return how many there were."""
        return sum([await self._runner.store.discard(queue, id) for queue in await self._queues(name)])

    async def _queues(self, name: str) -> list[str]:
        return [queue for queue in await self._runner.store.dead_counts() if names.answers_to(queue, name)]
