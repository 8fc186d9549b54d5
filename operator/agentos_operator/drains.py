"""Has engines drain pods that are going: no new calls for them, and word when those in progress have ended."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from .bus import CallFailed, Link
from .cache import Cache
from .kinds import POD, Key, Object
from .links import Links
from .plan.pods import is_gone, is_leaving, seconds_to_drain
from .settings import REALM_LABEL, WORKER_LABEL, WORKER_UID_LABEL

log = logging.getLogger(__name__)

DRAIN_ID = "engine::workers::drain"
MARGIN = 5.0
"""Seconds for which the engine may be late with its answer."""


class Drains:
    """``frees(namespace, uid)`` says whether somebody else may get what a Worker's going pods serve; ``ended`` is told of
    Workers with a pod whose calls have ended.

    Only the leader has links, so only the leader drains.
    """

    def __init__(
        self, cache: Cache, links: Links, frees: Callable[[str, str], bool], ended: Callable[[Key], None]
    ) -> None:
        self._cache, self._links, self._frees, self._ended = cache, links, frees, ended
        self._told: dict[str, bool] = {}
        """Pods that engines were told of, by uid; True for those that they are to close."""
        self._under_way: dict[asyncio.Task[None], str] = {}
        """What waits for an engine's answer, and the uid of the Worker."""

    def in_progress(self, uid: str) -> int:
        """How many of a Worker's going pods may have calls in progress."""
        return sum(other == uid for other in self._under_way.values())

    def look(self, pod: Object) -> None:
        """A pod was seen: if it is going, the engine is told, once."""
        metadata = pod["metadata"]
        if not is_leaving(pod) or is_gone(pod):
            return
        labels = metadata.get("labels", {})
        uid, link = labels.get(WORKER_UID_LABEL, ""), self._links.get(labels.get(REALM_LABEL, ""))
        if not uid or link is None or not link.up:
            return
        close = self._frees(metadata["namespace"], uid)
        known = self._told.get(metadata["uid"])
        if known is None or (close and not known):
            self._told[metadata["uid"]] = close
            task = asyncio.create_task(self._drain(link, pod, uid, close), name="drain")
            self._under_way[task] = uid
            task.add_done_callback(self._under_way.pop)

    def engine_is_new(self, namespace: str) -> None:
        """The link to an engine is new: what that was told before it may have forgotten."""
        for pod in self._cache.all(POD, namespace):
            self.forget(pod)
            self.look(pod)

    def forget(self, pod: Object) -> None:
        """The pod is gone."""
        self._told.pop(pod["metadata"]["uid"], None)

    async def _drain(self, link: Link, pod: Object, uid: str, close: bool) -> None:
        metadata = pod["metadata"]
        seconds = seconds_to_drain(pod, datetime.now(UTC))
        wanted = {"uid": uid, "pod_uid": metadata["uid"], "timeout_ms": round(seconds * 1000), "close": close}
        about = {"object": f"pod/{metadata['namespace']}/{metadata['name']}", "close": close}
        try:
            answer = await link.call(DRAIN_ID, wanted, seconds + MARGIN)
        except CallFailed as error:
            log.warning("a going pod could not be drained", extra=about | {"error": str(error)})
            return
        left = sum(each.get("in_flight", 0) for each in answer.get("workers", ()))
        log.info("drained", extra=about | {"calls_left": 0 if answer.get("drained") else left})
        self._ended(Key("Worker", metadata["namespace"], metadata["labels"].get(WORKER_LABEL, "")))
