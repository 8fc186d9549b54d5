"""Asks engines how many calls Workers with spec.autoscaling have in flight, and keeps what follows from it.

One question per realm every two seconds, and none for a realm without such a Worker.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from .bus import CallFailed
from .cache import Cache
from .kinds import DEPLOYMENT, WORKER, Key, Object, key_of
from .links import Links
from .plan.worker.replicas import number_of
from .plan.worker.scaling import Recommendation, decided, recent, recommended

log = logging.getLogger(__name__)

LOAD_ID = "engine::operator::load"
ASK_EVERY = 2.0
ANSWER_TIMEOUT = 5.0


class Autoscaler:
    """``window``: seconds for which fewer pods must have been enough; ``changed`` is told of Workers whose number changes."""

    def __init__(self, cache: Cache, links: Links, window: float, changed: Callable[[Key], None]) -> None:
        self._cache, self._links, self._window, self._changed = cache, links, window, changed
        self._history: dict[str, tuple[Recommendation, ...]] = {}

    def recommended(self, uid: str) -> int | None:
        """Pods that a Worker needs by its calls in flight; None while nothing is known of them."""
        history = self._history.get(uid)
        return decided(history) if history else None

    async def run(self) -> None:
        """Asks for ever."""
        while True:
            await asyncio.sleep(ASK_EVERY)
            await self.ask()

    async def ask(self) -> None:
        """One round over all realms."""
        scaled: defaultdict[str, list[Object]] = defaultdict(list)
        for worker in self._cache.all(WORKER):
            if worker["spec"].get("autoscaling") and not worker["spec"].get("suspend"):
                realm = self._cache.realm_of(worker["metadata"]["namespace"])
                if realm is not None:
                    scaled[realm["metadata"]["name"]].append(worker)
        wanted = {worker["metadata"]["uid"] for workers in scaled.values() for worker in workers}
        self._history = {uid: history for uid, history in self._history.items() if uid in wanted}
        await asyncio.gather(*(self._ask(realm, workers) for realm, workers in scaled.items()))

    async def _ask(self, realm: str, workers: Sequence[Object]) -> None:
        link = self._links.get(realm)
        uids = [worker["metadata"]["uid"] for worker in workers]
        try:
            if link is None or not link.up:
                raise CallFailed("there is no link to the engine")
            told = (await link.call(LOAD_ID, {"uids": uids}, ANSWER_TIMEOUT))["workers"]
            loads = {uid: float(told[uid]["mean"]) for uid in uids}
        except (CallFailed, LookupError, TypeError, ValueError) as error:
            # Without data the number stays: what was known before is too old by the time that there is some again.
            for uid in uids:
                self._history.pop(uid, None)
            log.info("no load is known", extra={"realm": realm, "error": str(error) or repr(error)})
            return
        for worker in workers:
            self._take(worker, loads[worker["metadata"]["uid"]])

    def _take(self, worker: Object, in_flight: float) -> None:
        metadata, now = worker["metadata"], time.monotonic()
        present = number_of(self._cache.get(DEPLOYMENT, metadata["namespace"], metadata["name"]))
        if not present:
            return
        before = self.recommended(metadata["uid"])
        # The first time the present number counts as recommended: an operator that starts takes no pod away at once.
        history = self._history.get(metadata["uid"]) or (Recommendation(now, present),)
        pods = recommended(in_flight, worker["spec"]["autoscaling"]["targetInFlight"], present)
        history = recent((*history, Recommendation(now, pods)), now, self._window)
        self._history[metadata["uid"]] = history
        if decided(history) != before:
            log.info(
                "pods recommended",
                extra={"object": str(key_of(worker)), "pods": decided(history), "in_flight": round(in_flight, 1)},
            )
            self._changed(key_of(worker))
