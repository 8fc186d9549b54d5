"""The bounds of one engine as they are held: who may have how much more, and how often somebody was refused."""

import asyncio
from dataclasses import fields
from typing import TYPE_CHECKING

from agentos_engine.bus.backlog import Backlog
from agentos_engine.bus.errors import BusError
from agentos_engine.limits import DEFAULT, Limits

if TYPE_CHECKING:
    from agentos_engine.bus.connection import Connection

TASK_BYTES = 3000
"""Counted for a payload that the engine is at work on in addition to its own bytes: what a task takes."""
SETTABLE = frozenset(each.name for each in fields(Limits))


class Bounds:
    """``limits`` are the figures; ``hit`` counts by the name of the limit what was refused or cut because of it."""

    __slots__ = ("_most_held", "backlog", "functions", "held", "hit", "limits", "registered", "triggers")

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.hit: dict[str, int] = {}
        self.functions = self.triggers = 0
        """How many are registered in all."""
        self.registered = 0
        """Bytes of all registrations."""
        self.held = 0
        """Bytes of the payloads that the engine is at work on."""
        self._most_held = limits.held_bytes
        self.backlog = Backlog(limits.unsent_bytes, lambda: self.count("unsent_bytes"))

    def count(self, name: str) -> None:
        """Count a refusal because of a limit."""
        self.hit[name] = self.hit.get(name, 0) + 1

    def exceeded(
        self, name: str, problem: str, remedy: str = "try again later", code: str = "limit_exceeded"
    ) -> BusError:
        """Count a refusal, and return the error that tells of it: the problem, the limit's name and value, a remedy."""
        self.count(name)
        key = name if name in SETTABLE or not hasattr(self.limits, name) else "memory_bytes"
        if key in SETTABLE:
            remedy += f", or raise agentos.limits.{key} (now {getattr(self.limits, key)}) in the engine's config"
        return BusError(code, f"{problem}; {remedy}")

    def check(self, name: str, has: int, used: int, what: str, more: int = 1, who: str = "a connection") -> None:
        """Raise BusError ``limit_exceeded`` unless somebody who has so much may have ``more``.

        ``name`` is that of the limit for all, of which ``used`` is taken; there may be one with ``_per_connection``
        behind it. ``what`` names the thing, in the plural.
        """
        each = f"{name}_per_connection"
        most = getattr(self.limits, each, None)
        if most is not None and has + more > most:
            raise self.exceeded(each, f"{who} has at most {most} {what}", "use fewer")
        if has + more > getattr(self.limits, name) - used:
            raise self.exceeded(name, f"all {what} together are {used} already, and {who} has {has} of them")

    def check_registered(self, has: int, more: int, who: str = "a connection") -> None:
        """The same for bytes of registrations."""
        if more > 0:
            self.check("registered_bytes", has, self.registered, "bytes of registrations", more, who)

    def check_held(self, connection: "Connection | None", size: int) -> None:
        """Raise BusError ``limit_exceeded`` unless the engine may work on one more payload, of a worker or its own."""
        held = 0 if connection is None else connection.held
        if held + size + TASK_BYTES > self._most_held - self.held:
            problem = f"the engine is at work on payloads of {self.held} bytes, {held} of them from this worker"
            raise self.exceeded("held_bytes", problem)

    def hold(self, task: "asyncio.Task[None]", connection: "Connection | None", size: int) -> None:
        """Count a payload for as long as a task has it: also after the caller has gone."""
        size += TASK_BYTES
        self.held += size
        if connection is not None:
            connection.held += size

        def release(task: "asyncio.Task[None]") -> None:
            self.held -= size
            if connection is not None:
                connection.held -= size

        task.add_done_callback(release)
