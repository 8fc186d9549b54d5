"""The one status write of a pass: only when something changed, and with little things gathered for a moment."""

import asyncio
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agentos_contracts.reasons import (
    FOREIGN,
    MISSING,
    POD_REFUSED,
    REASONS,
    REPLICAS_SET_ELSEWHERE,
    UNDECLARED,
    Outlook,
    WorkerCondition,
)

from .api import Api, NotFound
from .cache import Cache
from .events import Recorder
from .kinds import Key, Kind, Object
from .metrics import STATUS_WRITES
from .plan.conditions import condition_of, for_people
from .work_queue import WorkQueue

log = logging.getLogger(__name__)

_DRIFTS = {MISSING.name, FOREIGN.name, UNDECLARED.name}
COUNT_DEBOUNCE = 0.2
"""Seconds for which a Realm's count of ready Workers is gathered: people look at it right after a Worker turned Ready."""
MESSAGE_DEBOUNCE = 2.0
"""Seconds for which other words about the same reason are gathered: when a function passes on, all who wait for it name
its new holder, and when it passes on again and again, hundreds of writes each time would hold up everything else."""


class StatusWriter:
    """Writes ``status`` by merge patch. A change of Ready goes out at once; others wait for more.

    Other words about Ready wait ``MESSAGE_DEBOUNCE`` seconds, anything else ``debounce``.
    """

    def __init__(self, api: Api, cache: Cache, queue: WorkQueue[Key], recorder: Recorder, debounce: float) -> None:
        self._api, self._cache, self._queue, self._recorder, self._debounce = api, cache, queue, recorder, debounce
        self._due: dict[Key, float] = {}

    async def write(self, key: Key, kind: Kind, obj: Object, status: dict[str, Any]) -> None:
        """Makes the object's status this one; an object that is gone is fine."""
        before = obj.get("status", {})
        if all(before.get(field) == value for field, value in status.items()):
            self._due.pop(key, None)
            return
        now = asyncio.get_running_loop().time()
        if before.get("conditions") and _urgent(before) == _urgent(status):
            due = min(self._due.get(key, math.inf), now + self._delay(before, status))
            self._due[key] = due
            if now < due:
                self._queue.add(key, due - now + 0.01)
                return
        self._due.pop(key, None)
        metadata = obj["metadata"]
        try:
            # The uid makes the patch fail rather than hit a new object of the same name.
            body = {"metadata": {"uid": metadata["uid"]}, "status": status}
            written = await self._api.patch(kind, metadata.get("namespace"), metadata["name"], body, "status")
        except NotFound:
            return
        STATUS_WRITES.labels(kind.kind).inc()
        if written["metadata"]["generation"] == metadata["generation"]:
            # Otherwise somebody edited the spec meanwhile, which the watch's event has to show as a change.
            self._cache.put(written)
        ready = condition_of(written, "Ready")
        was, now_is = _ready(before), _ready(status)
        if (was["status"], was["reason"]) != (now_is["status"], now_is["reason"]):
            log.info("ready changed", extra={"object": str(key), "ready": ready["status"], "reason": ready["reason"]})
            await self._recorder.record(written, ready["reason"], ready["message"], warning=_is_trouble(ready))
        if _set_elsewhere(status) and not _set_elsewhere(before):
            available = condition_of(written, WorkerCondition.AVAILABLE)
            await self._recorder.record(written, available["reason"], available["message"], warning=True)
        drift = condition_of(written, WorkerCondition.FUNCTIONS_IN_SYNC)
        if drift and _drift(before) != _drift(status):
            await self._recorder.record(written, drift["reason"], drift["message"], warning=drift["status"] == "False")

    def _delay(self, before: dict[str, Any], status: dict[str, Any]) -> float:
        """Seconds for which what is not urgent is gathered."""
        if before.get("readyWorkers") != status.get("readyWorkers"):
            return COUNT_DEBOUNCE
        reworded = _ready(before)["message"] != _ready(status)["message"]
        return min(MESSAGE_DEBOUNCE, self._debounce) if reworded else self._debounce

    def forget(self, key: Key) -> None:
        self._due.pop(key, None)


def _is_trouble(ready: Mapping[str, Any]) -> bool:
    """Whether an Event about Ready is a warning: neither what belongs to every start is one, nor what was wished for."""
    return ready["status"] == "False" and REASONS[ready["reason"]].outlook not in (Outlook.UNDER_WAY, Outlook.RESTING)


def _urgent(status: dict[str, Any]) -> tuple[Any, ...]:
    """What is written at once: Ready, whether something is under way or stuck, a turn of the drift, and that somebody else scales."""
    present = {c["type"] for c in status.get("conditions", ()) if c["type"] in ("Reconciling", "Stalled")}
    ready = _ready(status)
    told = ready["status"], ready["reason"], ready["observedGeneration"]
    return (*told, present, _drift(status)[:1], _set_elsewhere(status))


def _set_elsewhere(status: dict[str, Any]) -> bool:
    """Whether it tells that somebody else sets the number of pods."""
    reason = condition_of({"status": status}, WorkerCondition.AVAILABLE).get("reason")
    return reason == REPLICAS_SET_ELSEWHERE.name


def _ready(status: dict[str, Any]) -> dict[str, Any]:
    ready = condition_of({"status": status}, "Ready")
    return {field: ready.get(field) for field in ("status", "reason", "message", "observedGeneration")}


def _drift(status: dict[str, Any]) -> tuple[Any, ...]:
    """Reason and message of the drift that is told; nothing without drift."""
    found = condition_of({"status": status}, WorkerCondition.FUNCTIONS_IN_SYNC)
    return (found["reason"], found["message"]) if found.get("reason") in _DRIFTS else ()


def refused(obj: Object, status: dict[str, Any], condition: str, message: str) -> dict[str, Any]:
    """The same status, but with the cluster's refusal as the named condition and as the reason of Ready."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"status": "False", "reason": POD_REFUSED.name, "message": for_people(message)}
    conditions = [c | told if c["type"] in (condition, "Ready") else c for c in status["conditions"]]
    ready = next(c for c in conditions if c["type"] == "Ready")
    conditions = [c for c in conditions if c["type"] not in ("Reconciling", "Stalled")]
    conditions.append(ready | {"type": "Reconciling", "status": "True"})
    for c in conditions:
        before = condition_of(obj, c["type"])
        if before.get("status") == c["status"]:
            # Otherwise each pass would find another time, and write it.
            c["lastTransitionTime"] = before["lastTransitionTime"]
        elif before:
            c["lastTransitionTime"] = now
    return status | {"conditions": conditions}
