"""Which waiting job of one queue runs when. Pure: no clock, no store; times are seconds of one monotonic clock."""

import heapq
from collections import Counter

from agentos_engine.storage.queues import Waiting

MAX_LOOKED_AT = 5000
"""Waiting jobs of which the oldest is looked for: that takes 0.1 ms."""


class Schedule:
    """The waiting and running jobs of one queue.

    Of the jobs whose time has come, those of higher priority run first, then those that were put in first. In a
    ``fifo`` queue the jobs of a group run one at a time and in the order in which they were put in: one that waits for
    its next attempt holds up its own group and no other. Jobs without a group are one group there.
    """

    def __init__(self, concurrency: int, fifo: bool = False) -> None:
        self.concurrency = concurrency
        """How many jobs may run at a time; 0 pauses the queue."""
        self.fifo = fifo
        """Changed by :meth:`order` only."""
        self._jobs: dict[int, tuple[Waiting, float]] = {}
        """Waiting jobs by ``seq``, with the time from which they may run."""
        self._running: dict[int, Waiting] = {}
        self._ready: list[tuple[int, int]] = []
        """A heap of (-priority, seq). This one and the next may hold entries that no longer count; see ``_counts``."""
        self._delayed: list[tuple[float, int]] = []
        """A heap of (time, seq)."""
        self._groups: dict[str, list[int]] = {}
        """Of a fifo queue: a heap of ``seq`` for each group that has waiting jobs."""
        self._busy: Counter[str] = Counter()
        """Of a fifo queue: how many jobs of a group run; more than one only if the queue was not fifo before."""

    def __len__(self) -> int:
        """Jobs that are not finished, running ones included."""
        return len(self._jobs) + len(self._running)

    @property
    def running(self) -> int:
        """Jobs that run."""
        return len(self._running)

    @property
    def oldest(self) -> Waiting | None:
        """The job that was put in first; in a long queue of which some jobs run again, one of the first."""
        first = next(iter(self._jobs), None) if len(self._jobs) > MAX_LOOKED_AT else min(self._jobs, default=None)
        waiting = [] if first is None else [self._jobs[first][0]]
        return min([*waiting, *self._running.values()], key=lambda job: job.seq, default=None)

    def add(self, job: Waiting, ready_at: float, now: float) -> None:
        """Add a waiting job; one that is known already is left as it is."""
        if job.seq in self._jobs or job.seq in self._running:
            return
        self._jobs[job.seq] = (job, ready_at)
        if self.fifo:
            group = self._groups.setdefault(job.group or "", [])
            heapq.heappush(group, job.seq)
            if group[0] != job.seq:
                return
        self._offer(job.seq, now)

    def order(self, fifo: bool, now: float) -> None:
        """Go on as a fifo queue, or as one that is not. What runs already runs on."""
        if fifo == self.fifo:
            return
        self.fifo = fifo
        waiting, self._jobs = self._jobs, {}
        self._ready, self._delayed, self._groups = [], [], {}
        self._busy = Counter(job.group or "" for job in self._running.values()) if fifo else Counter()
        for job, ready_at in waiting.values():
            self.add(job, ready_at, now)

    def take(self, now: float) -> list[Waiting]:
        """Return the jobs to start now; they run until :meth:`finish` or :meth:`retry`."""
        while self._delayed and self._delayed[0][0] <= now:
            _, seq = heapq.heappop(self._delayed)
            if self._counts(seq, now):
                heapq.heappush(self._ready, (-self._jobs[seq][0].priority, seq))
        started = []
        while self._ready and len(self._running) < self.concurrency:
            _, seq = heapq.heappop(self._ready)
            if not self._counts(seq, now):
                continue
            job, _ = self._jobs.pop(seq)
            self._running[seq] = job
            if self.fifo:
                name = job.group or ""
                heapq.heappop(self._groups[name])
                self._busy[name] += 1
            started.append(job)
        return started

    def finish(self, job: Waiting, now: float) -> None:
        """A running job has ended and does not come back."""
        del self._running[job.seq]
        if self.fifo:
            self._free(job.group or "", now)

    def retry(self, job: Waiting, ready_at: float, now: float) -> None:
        """A running job has ended and runs again at ``ready_at``."""
        del self._running[job.seq]
        self._jobs[job.seq] = (job, ready_at)
        if self.fifo:
            heapq.heappush(self._groups.setdefault(job.group or "", []), job.seq)
            self._free(job.group or "", now)
        else:
            self._offer(job.seq, now)

    def next_due(self, now: float) -> float | None:
        """Return when :meth:`take` has to be asked again, if nothing else happens before; None: never."""
        if len(self._running) >= self.concurrency:
            return None
        while self._delayed:
            ready_at, seq = self._delayed[0]
            if self._counts(seq, ready_at):
                return max(ready_at, now)
            heapq.heappop(self._delayed)
        return None

    def _offer(self, seq: int, now: float) -> None:
        job, ready_at = self._jobs[seq]
        if ready_at <= now:
            heapq.heappush(self._ready, (-job.priority, seq))
        else:
            heapq.heappush(self._delayed, (ready_at, seq))

    def _free(self, name: str, now: float) -> None:
        self._busy[name] -= 1
        if self._busy[name] > 0:
            return
        del self._busy[name]
        if group := self._groups.get(name):
            self._offer(group[0], now)
        else:
            self._groups.pop(name, None)

    def _counts(self, seq: int, now: float) -> bool:
        """Whether a heap entry still stands for a job that may run: a group's first job may have changed since."""
        known = self._jobs.get(seq)
        if known is None or known[1] > now:
            return False
        name = known[0].group or ""
        return not self.fifo or (name not in self._busy and self._groups[name][0] == seq)
