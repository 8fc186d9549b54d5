"""The trigger type ``cron``: functions that are called when their expression comes true.

A job never overlaps with itself: what comes due while it runs is left out. That replicas of a worker bind the same
function, and shall get one call a tick together, is the registry's part.

Across an end of the engine, a crash too: a tick is recorded before its call, so none is called twice. What came due
while the engine was away is made up for by one call when the job is bound again, if it is not older than GRACE. A call
that the crash cut off is not repeated.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.clock import Handle
from agentos_engine.config import SettingsError
from agentos_engine.cron import ExpressionError, Schedule, parse
from agentos_engine.storage.records import MemoryRecords, RecordStore
from agentos_engine.storage.values import StorageError
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

log = logging.getLogger(__name__)

LONGEST_SLEEP = 60.0
"""Seconds after which the wall clock is looked at again: it may have been set, or the machine suspended."""

CLOCK_STEP = 60.0
"""A clock that goes back by fewer seconds repeats no tick; one that goes back further is believed."""

GRACE = 300.0
"""Seconds: how late a tick may be that came due while the engine was away; and how long a job may take to come back."""


class Cron:
    """Serves the trigger type on a bus. ``records`` keeps, for each job, up to when its ticks have been dealt with."""

    def __init__(self, *, bus: Bus, records: RecordStore | None = None) -> None:
        self._bus = bus
        self._records = records or MemoryRecords()
        self._before: dict[str, float] = {}
        """By job that an earlier engine had, and that has not come back yet: when its ticks had been dealt with."""
        self._recorded: set[str] = set()
        """The jobs that have a record."""
        self._tidying: Handle | None = None
        self._stopping = False
        self._unrecorded = False
        """Whether the store fails; told once until it works again."""
        self._firing = Firing(bus)
        self._jobs: dict[Binding, _Job] = {}
        self._ending: dict[_Key, _Job] = {}
        """Jobs without a binding whose last call is still under way: a replica may take over meanwhile."""

    async def start(self) -> None:
        """Take over the bindings of the type. Raises SettingsError when the records cannot be read."""
        try:
            self._before = {name: float(value) for name, value in (await self._records.load()).items()}
        except StorageError as error:
            raise SettingsError(f"the record of cron jobs cannot be read: {error.message}") from error
        if self._before:
            self._tidying = self._bus.clock.call_idly(GRACE, self._forget_others)
        self._bus.triggers.serve("cron", self, "Calls a function at the times of a cron expression (UTC).")

    async def stop(self) -> None:
        """Call nothing any more; the registry keeps the bindings for the next start."""
        self._stopping = True
        if self._tidying is not None:
            self._tidying.cancel()
        self._bus.triggers.unserve("cron")
        for job in [*self._jobs.values(), *self._ending.values()]:
            job.binding = None
            if job.task is not None:
                job.task.cancel()
        self._jobs.clear()
        self._ending.clear()

    def bind(self, binding: Binding) -> None:
        """Begin to call a function. Raises BusError ``trigger_registration_failed`` when the config is refused."""
        try:
            config = msgspec.json.decode(binding.config or b"null", type=_Config)
            schedule = parse(config.expression)
        except ExpressionError as error:
            raise BusError("trigger_registration_failed", str(error)) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError(
                "trigger_registration_failed",
                f'the config of the cron trigger is wrong: {error}; it is like {{"expression": "0 30 9 * * MON-FRI"}}',
            ) from error
        expression = " ".join(config.expression.split())
        key = _Key(binding.namespace, binding.function_id, expression, binding.condition, binding.metadata)
        job = self._ending.pop(key, None)
        if job is not None:
            if job.record is not None:
                self._recorded.add(job.record)  # its next tick writes it anew
        else:
            job = _Job(key, schedule, binding)
            self._begin(job)
            job.task = self._bus.spawn(self._work(job))
        job.binding = binding
        self._jobs[binding] = job

    def unbind(self, binding: Binding) -> None:
        """End what :meth:`bind` began; a call under way is not stopped."""
        job = self._jobs.pop(binding, None)
        if job is None:
            return
        job.binding = None
        if job.record is not None and not self._stopping:
            # Its worker has gone and the engine has not: so it is not for the next engine to make up for its ticks.
            self._recorded.discard(job.record)
            self._bus.spawn(self._record({}, [job.record]))
        if job.running:
            self._ending[job.key] = job
        elif job.task is not None:
            job.task.cancel()

    def _begin(self, job: "_Job") -> None:
        """Set from when on the ticks of a job count: an earlier engine may have missed some."""
        now = self._bus.clock.time()
        name = job.key.text
        if name in self._recorded:
            job.since = now  # the same function bound twice to the same times: the first one has the record
            return
        self._recorded.add(name)
        job.record = name
        since = self._before.pop(name, now)
        if since - now > CLOCK_STEP:
            since = now
        elif (missed := job.schedule.next_after(since)) is not None and missed < now - GRACE:
            log.warning(
                "cron job was not called while the engine was away: it came due more than %d s ago",
                GRACE,
                extra={"function_id": job.key.function_id, "scheduled_time": _rfc3339(missed)},
            )
        job.since = max(since, now - GRACE)
        if job.since == now:
            self._bus.spawn(self._record({name: now}))

    def _forget_others(self) -> None:
        gone, self._before = list(self._before), {}
        self._bus.spawn(self._record({}, gone))

    async def _record(self, times: dict[str, float], gone: Collection[str] = ()) -> None:
        try:
            await self._records.change({name: b"%d" % time for name, time in times.items()}, gone)
        except StorageError as error:
            if not self._unrecorded:
                log.warning("ticks of cron jobs are not recorded, one may be called again: %s", error.message)
            self._unrecorded = True
        else:
            self._unrecorded = False

    async def _work(self, job: "_Job") -> None:
        clock, schedule = self._bus.clock, job.schedule
        ticked = job.since
        due = schedule.next_after(ticked)
        while job.binding is not None and due is not None:
            left = due - clock.time()
            if left > 0:
                longest = LONGEST_SLEEP if clock.may_be_set else left
                await clock.sleep(min(left, longest))
                if left > longest:
                    due = self._next(schedule, ticked)
                continue
            ticked = due
            await self._tick(job, due)
            due = self._next(schedule, ticked)
        if due is None:
            log.info("cron job has no time left at which it would run", extra={"function_id": job.key.function_id})
        if self._ending.get(job.key) is job:
            del self._ending[job.key]

    def _next(self, schedule: Schedule, ticked: float) -> int | None:
        now = self._bus.clock.time()
        return schedule.next_after(now if ticked - now > CLOCK_STEP else max(ticked, now))

    async def _tick(self, job: "_Job", due: int) -> None:
        job.running = True
        try:
            if job.record is not None:
                await self._record({job.record: due})
            if job.binding is not None:
                await self._call(job, job.binding, due)
        finally:
            job.running = False

    async def _call(self, job: "_Job", binding: Binding, due: int) -> None:
        payload = {
            "trigger": "cron",
            "job_id": binding.id,
            "scheduled_time": _rfc3339(due),
            "actual_time": _rfc3339(self._bus.clock.time()),
        }
        try:
            about = {"function_id": binding.function_id, "trigger_id": binding.id}
            with Span(self._bus, "cron_trigger", None, root=True, **about) as span:
                await self._firing.run(binding, msgspec.json.encode(payload), traceparent=span.traceparent)
        except BusError as error:
            if not job.failing:  # one line until it works again: a job may come round each second
                log.warning("cron job failed: %s", error.message, extra=_about(binding, error.code))
            job.failing = True
        except Exception:
            log.exception("cron job failed", extra=_about(binding, "invocation_error"))
        else:
            job.failing = False


class _Config(msgspec.Struct):
    expression: str


@dataclass(frozen=True, slots=True)
class _Key:
    """What is the same for the bindings of replicas."""

    namespace: str
    function_id: str
    expression: str
    condition: str | None
    metadata: bytes | None

    @property
    def text(self) -> str:
        """What the job is called in the store."""
        metadata = None if self.metadata is None else self.metadata.decode(errors="replace")
        parts = (self.namespace, self.function_id, self.expression, self.condition, metadata)
        return msgspec.json.encode(parts).decode()


@dataclass(eq=False, slots=True)
class _Job:
    key: _Key
    schedule: Schedule
    binding: Binding | None
    since: float = 0.0
    """Ticks after this time are to be called."""
    record: str | None = None
    """Its name in the store."""
    task: asyncio.Task | None = None
    running: bool = False
    failing: bool = False


def _about(binding: Binding, code: str) -> dict[str, str]:
    return {"function_id": binding.function_id, "trigger_id": binding.id, "code": code[:100]}


def _rfc3339(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()
