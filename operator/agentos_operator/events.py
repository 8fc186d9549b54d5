"""Kubernetes Events, on change only: one for each new reason of Ready."""

import logging
from datetime import UTC, datetime

from .api import Api, ApiError
from .kinds import EVENT, Object
from .settings import FIELD_MANAGER

log = logging.getLogger(__name__)
NOTE_LIMIT = 1024
"""Bytes that the API takes in an Event's note."""


class Recorder:
    """Posts Events; one that cannot be posted is logged, never retried: status holds the truth."""

    def __init__(self, api: Api, instance: str) -> None:
        self._api, self._instance = api, instance

    async def record(self, obj: Object, reason: str, note: str, *, warning: bool) -> None:
        """An Event about ``obj``."""
        metadata = obj["metadata"]
        now = datetime.now(UTC)
        namespace = metadata.get("namespace") or "default"
        regarding = {key: obj[key] for key in ("apiVersion", "kind")} | {
            key: metadata[key] for key in ("namespace", "name", "uid", "resourceVersion") if key in metadata
        }
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{metadata['name'][:220]}.{int(now.timestamp() * 1e6):x}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": f"agentos.dev/{FIELD_MANAGER}",
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "reason": reason,
            "note": note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
            "type": "Warning" if warning else "Normal",
            "regarding": regarding,
        }
        try:
            await self._api.create(EVENT, event)
        except (ApiError, OSError, TimeoutError) as error:
            log.warning("an Event could not be posted", extra={"reason": reason, "error": str(error)})
