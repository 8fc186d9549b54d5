"""Kubernetes Events, on change only: one for each new reason of Ready. What repeats itself is counted in one Event."""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from .api import Api, ApiError, NotFound
from .kinds import EVENT, Object
from .settings import FIELD_MANAGER

log = logging.getLogger(__name__)
NOTE_LIMIT = 1024
"""Bytes that the API takes in an Event's note."""
SERIES_SECONDS = 360.0
"""For so long after its last time an Event that comes again is counted as one series, as in client-go's recorder."""
SERIES_KEPT = 4096
"""Newest Events that are remembered to be counted."""


@dataclass(slots=True)
class _Posted:
    """An Event that may come again."""

    name: str
    times: int
    at: float
    """Monotonic."""


class Recorder:
    """Posts Events; one that cannot be posted is logged, never retried: status holds the truth."""

    def __init__(self, api: Api, instance: str) -> None:
        self._api, self._instance = api, instance
        self._posted: OrderedDict[tuple[str, str, str], _Posted] = OrderedDict()
        """By the object's uid, the reason and the note; the longest ago first."""

    async def record(self, obj: Object, reason: str, note: str, *, warning: bool) -> None:
        """An Event about ``obj``."""
        metadata = obj["metadata"]
        now = datetime.now(UTC)
        namespace = metadata.get("namespace") or "default"
        regarding = {key: obj[key] for key in ("apiVersion", "kind")} | {
            key: metadata[key] for key in ("namespace", "name", "uid", "resourceVersion") if key in metadata
        }
        note = note.encode()[:NOTE_LIMIT].decode(errors="ignore")
        if await self._counted((metadata["uid"], reason, note), namespace, now):
            return
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{metadata['name'][:220]}.{int(now.timestamp() * 1e6):x}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": f"agentos.dev/{FIELD_MANAGER}",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "reason": reason,
            "note": note,
            "type": "Warning" if warning else "Normal",
            "regarding": regarding,
        }
        try:
            await self._api.create(EVENT, event)
        except (ApiError, OSError, TimeoutError) as error:
            log.warning("an Event could not be posted", extra={"reason": reason, "error": str(error)})
            return
        self._posted[metadata["uid"], reason, note] = _Posted(event["metadata"]["name"], 1, time.monotonic())
        while len(self._posted) > SERIES_KEPT:
            self._posted.popitem(last=False)

    async def _counted(self, key: tuple[str, str, str], namespace: str, now: datetime) -> bool:
        """Whether this was posted a moment ago, and is now counted there."""
        posted = self._posted.pop(key, None)
        if posted is None or time.monotonic() > posted.at + SERIES_SECONDS:
            return False
        series = {"count": posted.times + 1, "lastObservedTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
        try:
            await self._api.patch(EVENT, namespace, posted.name, {"series": series})
        except NotFound:
            return False
        except (ApiError, OSError, TimeoutError) as error:
            log.warning("an Event could not be counted", extra={"reason": key[1], "error": str(error)})
        self._posted[key] = _Posted(posted.name, posted.times + 1, time.monotonic())
        return True
