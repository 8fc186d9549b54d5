"""What calls a function beside HTTP and other workers: a schedule, or any other trigger type of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of any type, with the config that the engine documents for it, as in
    ``Trigger("durable:subscriber", {"topic": "orders"})``."""

    type: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def trigger(self, function_id: str) -> dict[str, Any]:
        """The trigger registration for the SDK."""
        return {"type": self.type, "function_id": function_id, "config": dict(self.config)}


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule in UTC: second, minute, hour, day of month, month, day of week (1 or SUN to 7 or SAT), and optionally
    the year; or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``. The handler may take a CronTick."""

    expression: str

    def trigger(self, function_id: str) -> dict[str, Any]:
        """The trigger registration for the SDK."""
        return {"type": "cron", "function_id": function_id, "config": {"expression": self.expression}}


class CronTick(BaseModel):
    """The payload of a cron trigger: which job, when it was due and when it ran."""

    job_id: str
    scheduled_time: datetime
    actual_time: datetime
