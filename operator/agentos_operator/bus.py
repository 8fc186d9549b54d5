"""The operator's side of the bus: one connection per Realm, over which the engine tells who registered what.

The operator is an ordinary worker there: it registers one function and binds it to the engine's trigger type
``engine::connections``. The first event holds every connection, later ones those that changed, each entry complete.
"""

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agentos_contracts.tokens import Role
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

log = logging.getLogger(__name__)

FUNCTION_ID, TRIGGER_ID, TRIGGER_TYPE = (
    "agentos-operator::connections",
    "agentos-operator-connections",
    "engine::connections",
)
OPEN_TIMEOUT = 3.0
FIRST_RETRY, LONGEST_RETRY = 0.25, 2.0
MAX_MESSAGE = 64 << 20


@dataclass(frozen=True, slots=True)
class Connection:
    """A worker's connection to the engine, as the engine states it."""

    worker_id: str
    uid: str
    pod_uid: str
    functions: frozenset[str]


class Link:
    """The connection to one Realm's engine, made again for ever, and the table that it feeds.

    ``changed`` is called with the uids of the Workers whose connections changed (None: the link itself went up or down).
    """

    def __init__(self, url: str, changed: Callable[[frozenset[str] | None], None]) -> None:
        self.url = url
        self._changed = changed
        self._connections: dict[str, Connection] = {}
        self._by_uid: defaultdict[str, set[str]] = defaultdict(set)
        self.up = False
        self.since = time.monotonic()
        """When the link went up, or down (monotonic)."""
        self.last_error = ""
        self._touched: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="engine link")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def of(self, uid: str) -> tuple[Connection, ...]:
        """The connections of one Worker, by its uid."""
        return tuple(self._connections[worker_id] for worker_id in sorted(self._by_uid.get(uid, ())))

    def touched(self, pod_uid: str) -> float:
        """When a pod's connections last changed (monotonic); when the link went up, if they have not since."""
        return self._touched.get(pod_uid, self.since)

    def __len__(self) -> int:
        return len(self._connections)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                await self._serve()
            except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed, EngineRefused) as error:
                self.last_error = type(error).__name__ if isinstance(error, InvalidURI) else str(error)
                log.info("no link to the engine", extra={"error": self.last_error})
            finally:
                was_up, self.up = self.up, False
                if was_up:
                    delay = FIRST_RETRY
                    self.since = time.monotonic()
                    self._changed(None)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY)

    async def _serve(self) -> None:
        async with connect(
            self.url,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=5,
            ping_timeout=10,
            max_size=MAX_MESSAGE,
            compression=None,
            proxy=None,
        ) as socket:
            for message in (
                {"type": "registerfunction", "id": FUNCTION_ID, "metadata": {"internal": True}},
                {
                    "type": "registertrigger",
                    "id": TRIGGER_ID,
                    "trigger_type": TRIGGER_TYPE,
                    "function_id": FUNCTION_ID,
                    "config": {},
                },
                {
                    "type": "invokefunction",
                    "function_id": "engine::workers::register",
                    "action": {"type": "void"},
                    "data": {"runtime": "python", "name": "agentos-operator", "version": "0.1.0"},
                },
            ):
                await socket.send(json.dumps(message))
            async for text in socket:
                try:
                    self._take(json.loads(text))
                except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                    # The table may be half changed: the next link brings a whole one.
                    raise EngineRefused(f"an event of the engine cannot be read: {error!r}") from error

    def _take(self, message: dict) -> None:
        match message:
            case {
                "type": "invokefunction",
                "function_id": fid,
                "data": {"connections": entries, "snapshot": snapshot},
            } if fid == FUNCTION_ID:
                self.take_entries(entries, snapshot=bool(snapshot))
            case {"type": "triggerregistrationresult", "error": {"message": text}} | {
                "type": "error",
                "error": {"message": text},
            }:
                raise EngineRefused(f"the engine refused the operator: {text}")

    def take_entries(self, entries: Iterable[dict], *, snapshot: bool) -> None:
        """Brings the table up to date and tells which Workers are touched."""
        touched: set[str] = set()
        if snapshot:
            before, self._connections = self._connections, {}
            self._by_uid.clear()
            self._touched.clear()
            touched |= {connection.uid for connection in before.values()}
        now = time.monotonic()
        for entry in entries:
            if entry.get("role") == Role.OPERATOR:
                continue
            worker_id, uid = entry["worker_id"], entry["uid"]
            touched.add(uid)
            self._touched[entry["pod_uid"]] = now
            if entry["connected"]:
                self._connections[worker_id] = Connection(
                    worker_id, uid, entry["pod_uid"], frozenset(entry["functions"])
                )
                self._by_uid[uid].add(worker_id)
            elif self._connections.pop(worker_id, None):
                self._by_uid[uid].discard(worker_id)
                if not self._by_uid[uid]:
                    del self._by_uid[uid]
        if snapshot and not self.up:
            self.up, self.since, self.last_error = True, time.monotonic(), ""
            log.info("linked to the engine", extra={"connections": len(self._connections)})
            self._changed(None)
        else:
            self._changed(frozenset(touched - {""}))


class EngineRefused(Exception):
    """The engine is there and does not want the operator (a token of another key or realm)."""
