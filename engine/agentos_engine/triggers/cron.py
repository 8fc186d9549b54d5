"""The trigger type ``cron``: functions that are called when their expression comes true.

A job never overlaps with itself: what comes due while it runs is left out, and nothing is made up for later. That
replicas of a worker bind the same function, and shall get one call a tick together, is the registry's part.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.spans import Span
from agentos_engine.cron import ExpressionError, Schedule, parse
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

log = logging.getLogger(__name__)

LONGEST_SLEEP = 60.0
"""Seconds after which the wall clock is looked at again: it may have been set, or the machine suspended."""

CLOCK_STEP = 60.0
"""A clock that goes back by fewer seconds repeats no tick; one that goes back further is believed."""


class Cron:
    """Serves the trigger type on a bus."""

    def __init__(self, *, bus: Bus) -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._jobs: dict[Binding, _Job] = {}
        self._ending: dict[_Key, _Job] = {}
        """Jobs without a binding whose last call is still under way: a replica may take over meanwhile."""

    async def start(self) -> None:
        """Take over the bindings of the type."""
        self._bus.triggers.serve("cron", self, "Calls a function at the times of a cron expression (UTC).")

    async def stop(self) -> None:
        """Call nothing any more; the registry keeps the bindings for the next start."""
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
        if job is None:
            job = _Job(key, schedule, binding)
            job.task = self._bus.spawn(self._work(job))
        job.binding = binding
        self._jobs[binding] = job

    def unbind(self, binding: Binding) -> None:
        """End what :meth:`bind` began; a call under way is not stopped."""
        job = self._jobs.pop(binding, None)
        if job is None:
            return
        job.binding = None
        if job.running:
            self._ending[job.key] = job
        elif job.task is not None:
            job.task.cancel()

    async def _work(self, job: "_Job") -> None:
        clock, schedule = self._bus.clock, job.schedule
        ticked = clock.time()
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
            await self._tick(job, job.binding, due)
            due = self._next(schedule, ticked)
        if due is None:
            log.info("cron job has no time left at which it would run", extra={"function_id": job.key.function_id})
        if self._ending.get(job.key) is job:
            del self._ending[job.key]

    def _next(self, schedule: Schedule, ticked: float) -> int | None:
        now = self._bus.clock.time()
        return schedule.next_after(now if ticked - now > CLOCK_STEP else max(ticked, now))

    async def _tick(self, job: "_Job", binding: Binding, due: int) -> None:
        payload = {
            "trigger": "cron",
            "job_id": binding.id,
            "scheduled_time": _rfc3339(due),
            "actual_time": _rfc3339(self._bus.clock.time()),
        }
        job.running = True
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
        finally:
            job.running = False


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


@dataclass(eq=False, slots=True)
class _Job:
    key: _Key
    schedule: Schedule
    binding: Binding | None
    task: asyncio.Task | None = None
    running: bool = False
    failing: bool = False


def _about(binding: Binding, code: str) -> dict[str, str]:
    return {"function_id": binding.function_id, "trigger_id": binding.id, "code": code[:100]}


def _rfc3339(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()
