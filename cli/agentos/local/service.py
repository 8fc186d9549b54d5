"""The life of one worker: started when it may, started again when it dies, replaced without a gap when it changes."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

from agentos_contracts.reasons import CRASH_LOOPING, NOT_REGISTERED

from agentos.local.connections import Connections
from agentos.local.fleet import LocalWorker
from agentos.local.instance import Instance, Launcher
from agentos.local.process import StartError

log = logging.getLogger(__name__)

FIRST_DELAY = 0.5
"""Seconds before a worker that died is started again; doubled each time up to the next figure."""
LONGEST_DELAY = 30.0
LONG_ENOUGH = 30.0
"""Seconds of running after which the next death counts as the first."""
QUIET = 0.25
"""Seconds without a further registration after which a worker that did not say what it owns has said all."""
QUIET_REPLACEMENT = 1.0
"""The same for one that replaces another and has not registered all that the other has."""
UNUSUAL = 10.0
"""Seconds after which it is told that a running worker is not ready."""


class State(StrEnum):
    """Where a worker is."""

    WAITING = "Waiting"
    INSTALLING = "Installing"
    STARTING = "Starting"
    READY = "Ready"
    BACKING_OFF = "BackingOff"
    STOPPED = "Stopped"


Report = Callable[["Service", str], object]
"""Told each change of a worker's state that a person wants to hear of."""


class Service:
    """One worker. :meth:`allow`, :meth:`keep` and :meth:`hold` say whether it may run, :meth:`change` what it is now.

    ``uid`` is the Worker's.
    """

    def __init__(
        self,
        worker: LocalWorker,
        uid: str,
        launcher: Launcher,
        connections: Connections,
        report: Report,
    ) -> None:
        self.worker = worker
        self.state = State.WAITING
        self.reason = ""
        self.message = ""
        self.restarts = 0
        self.current: Instance | None = None
        self._uid = uid
        self._launcher = launcher
        self._connections = connections
        self._report = report
        self._allowed = False
        self._changed = asyncio.Event()  # set while nobody has looked at what is wanted now
        self._next: LocalWorker | None = None
        self._incoming: Instance | None = None
        self._endings: dict[Instance, asyncio.Task[None]] = {}
        self._started_before = False
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it has a process, be it one that is ending."""
        return bool(self._instances())

    @property
    def allowed(self) -> bool:
        """Whether it may run."""
        return self._allowed

    @property
    def settled(self) -> bool:
        """Whether waiting longer is of no use: it is ready, or it has told why not."""
        settled = self.state in (State.READY, State.BACKING_OFF, State.STOPPED)
        return settled or not self._allowed or self.reason == NOT_REGISTERED.name

    def functions(self) -> frozenset[str]:
        """Return the ids of the functions that its processes serve now."""
        return frozenset().union(*map(self._connections.functions, self._instances()))

    def claims(self) -> frozenset[str]:
        """Return the routes and trigger types that its processes serve now."""
        return frozenset().union(*map(self._connections.claims, self._instances()))

    def waiting(self) -> frozenset[str]:
        """Return what its processes have registered and may not serve (yet): functions, routes and trigger types."""
        return frozenset().union(*map(self._connections.waiting, self._instances()))

    def has_registered_all(self) -> bool:
        """Whether it has been connected for long enough that what it does not register is not to come."""
        return any(self._connections.quiet_for(each) > QUIET_REPLACEMENT for each in self._instances())

    def allow(self) -> None:
        """Let it run."""
        if not self._allowed:
            self._allowed = True
            self._changed.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._live())
            self._task.add_done_callback(self._failed)

    def keep(self, reason: str, message: str) -> None:
        """Let what runs go on as it is, and tell why it is not changed."""
        if self.state is State.READY and (self.reason, self.message) != (reason, message):
            self._set(State.READY, reason, message)
            self._report(self, f"its change waits: {message}")

    def hold(self, reason: str, message: str) -> None:
        """Keep it from running, and tell why; what runs is stopped."""
        if not self._allowed and (self.reason, self.message) == (reason, message):
            return
        self._allowed = False
        self._set(State.WAITING, reason, message)
        self._changed.set()
        self._report(self, f"waits: {message}")

    def change(self, worker: LocalWorker) -> None:
        """Replace what runs by another form of the worker, or by the same with changed files."""
        self._next = worker
        self._changed.set()
        if self._task is None:
            self.worker = worker

    async def stop(self) -> None:
        """End it; calls in progress are let through."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        endings = [self._end(each) for each in self._instances()]
        self._incoming = self.current = None
        await asyncio.gather(*endings)
        self._set(State.STOPPED)

    # Its life

    async def _live(self) -> None:
        delay = FIRST_DELAY
        while True:
            while not self._allowed:
                await self._look_again()
            started = time.monotonic()
            try:
                self.current = await self._start()
            except StartError as error:
                why = str(error)
            else:
                why = await self._run()
            if why is None or not self._allowed:  # it is not to run any more, or not as it was
                continue
            if time.monotonic() - started > LONG_ENOUGH:
                delay = FIRST_DELAY
            self.restarts += 1
            self._set(State.BACKING_OFF, CRASH_LOOPING.name, why)
            self._report(self, f"{why}; it is started again in {delay:g} s")
            await self._pause(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _run(self) -> str | None:
        """Return why the current instance is gone; None when it was stopped because another one is wanted, or none."""
        assert self.current is not None
        ready = await self._until_ready(self.current, frozenset())
        if ready:
            self._ready()
        while True:
            current = self.current
            if current.ended.done() or not ready or not self._allowed:
                break
            if self.state is State.WAITING:  # it was held for so short a time that it runs on
                self._ready()
            if self._next is not None:
                await self._replace(current)
            else:
                await self._look_again(ended=current.ended)
        why = (current.ended.result() or "it ended") if current.ended.done() else None
        self.current = None
        ending = self._end(current)
        if why is None:
            await asyncio.shield(ending)
        return why

    async def _replace(self, old: Instance) -> None:
        """Start the new form beside the old one, and end that once the new one answers."""
        self._report(self, "changed: starting it anew")
        new, why = None, ""
        try:
            self._incoming = new = await self._start()
            if await self._until_ready(new, self._connections.functions(old)):
                self.current, self._incoming = new, None
                self._ready()
                self._end(old)
                return
        except StartError as error:
            why = str(error)
        self._incoming = None
        if new is not None:
            why = new.ended.result() if new.ended.done() else ""
            self._end(new)
        if not self._allowed or self._next is not None:
            return
        self.worker = old.worker
        if not old.ended.done():
            self._set(State.READY, "KeptOld", why)
            self._report(self, f"{why}; the one from before goes on")

    async def _start(self) -> Instance:
        """Start an instance of the newest form. Raises StartError."""
        if self._next is not None:
            self.worker, self._next = self._next, None
        worker = self.worker
        if self._launcher.needs_install(worker):
            if self.current is None:
                self._set(State.INSTALLING)
            self._report(self, "installing what it needs")
            await self._launcher.install(worker)
            if not self._allowed:
                raise StartError("it may not run any more")
        if self.current is None:
            self._set(State.STARTING)
        # Code that has changed needs a new interpreter, and one that ended may have taken others with it.
        shared, self._started_before = not self._started_before, True
        starting = asyncio.ensure_future(self._launcher.start(worker, self._uid, shared=shared))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A process that comes now would be nobody's.
            if await asyncio.wait([starting]) and starting.exception() is None:
                self._incoming = starting.result()
            raise

    async def _until_ready(self, instance: Instance, before: frozenset[str]) -> bool:
        """Return True once an instance serves what its worker owns, and what the instance before it did.

        Returns False when it ends before that, or is not wanted any more.
        """
        started, told = time.monotonic(), False
        while not self._answers(instance, before):
            if instance.ended.done() or not self._allowed or self._next is not None:
                return False
            if not told and time.monotonic() - started > UNUSUAL:
                told = True
                self._set(self.state, NOT_REGISTERED.name, self._lacking(instance))
                self._report(self, f"not ready yet: {self.message}")
            await self._look_again(self._connections.change(QUIET / 2), ended=instance.ended)
        return True

    def _answers(self, instance: Instance, before: frozenset[str]) -> bool:
        functions = self._connections.functions(instance)
        patterns = instance.worker.patterns
        if not all(any(map(pattern.matches, functions)) for pattern in patterns):
            return False
        if self._connections.waiting(instance) and self._connections.quiet_for(instance) < QUIET:
            return False  # what nobody else has it gets at once
        if before:
            return before <= functions or self._connections.quiet_for(instance) > QUIET_REPLACEMENT
        if patterns and all(pattern.is_exact for pattern in patterns):
            return True
        return instance.started or self._connections.quiet_for(instance) > QUIET

    def _lacking(self, instance: Instance) -> str:
        functions = self._connections.functions(instance)
        if not self._connections.of(instance):
            return "it has not connected to $III_URL"
        lacking = [each.text for each in instance.worker.patterns if not any(map(each.matches, functions))]
        return f"it is connected, but has not registered {', '.join(lacking) or 'any function'}"

    def _instances(self) -> list[Instance]:
        """All that have processes."""
        return [each for each in (self.current, self._incoming, *self._endings) if each is not None]

    def _end(self, instance: Instance) -> asyncio.Task[None]:
        """Let an instance finish its calls and go, whatever becomes of whoever asked for it."""
        if instance not in self._endings:
            self._endings[instance] = asyncio.ensure_future(self._let_go(instance))
        return self._endings[instance]

    async def _let_go(self, instance: Instance) -> None:
        try:
            await self._connections.drain(instance)
            await instance.stop()
        finally:
            del self._endings[instance]
            self._connections.wake()

    async def _look_again(
        self,
        *also: Coroutine[Any, Any, object],
        ended: "asyncio.Future[str] | None" = None,
        seconds: float | None = None,
    ) -> None:
        """Return when something else may be wanted, an instance has ended, one of the others is done, or in time."""
        waits = [asyncio.ensure_future(each) for each in (self._changed.wait(), *also)]
        try:
            await asyncio.wait([*waits, *filter(None, [ended])], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        self._changed.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until something else is wanted."""
        until = time.monotonic() + seconds
        while self._allowed and self._next is None and (left := until - time.monotonic()) > 0:
            await self._look_again(seconds=left)

    # What is told

    def _failed(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("worker %s is looked after no more", self.worker.name, exc_info=error)

    def _ready(self) -> None:
        self._set(State.READY)
        self._report(self, "ready")
        self._connections.wake()

    def _set(self, state: State, reason: str = "", message: str = "") -> None:
        self.state, self.reason, self.message = state, reason, message
        self._connections.wake()
