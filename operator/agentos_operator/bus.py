"""The operator's side of the bus: one connection per Realm, by which the engine is told who may do what, and tells who did.

First of all the operator pushes the grants of all Workers, and from then on what changes in them; each push is answered. Then
it registers one function and binds it to the engine's trigger type ``engine::connections``: the first event holds every
connection, later ones those that changed, each entry complete.
"""

import asyncio
import itertools
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agentos_contracts.tokens import Role
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from .grants import GrantTable, Push

log = logging.getLogger(__name__)

FUNCTION_ID, TRIGGER_ID, TRIGGER_TYPE = (
    "engine::operator::connections",
    "agentos-operator-connections",
    "engine::connections",
)
APPLY_ID, KEYS_ID = "engine::grants::apply", "engine::keys::apply"
OPEN_TIMEOUT = 3.0
ANSWER_TIMEOUT = 5.0
"""Seconds in which the engine has to answer a push of grants; else the link is made anew."""
REFUSED_RETRY = 5.0
"""Seconds after which grants are pushed again that the engine refused, such as with a full disk."""
FIRST_RETRY, LONGEST_RETRY = 0.25, 2.0
MAX_MESSAGE = 64 << 20


@dataclass(frozen=True, slots=True)
class Connection:
    """A worker's connection to the engine, as the engine states it."""

    worker_id: str
    uid: str
    pod_uid: str
    functions: frozenset[str]
    waiting: frozenset[str] = frozenset()
    """What it has registered without a grant for it: functions, routes, trigger types."""
    claims: frozenset[str] = frozenset()
    """Routes and trigger types that it has, as :mod:`agentos_contracts.claimables` writes them."""
    subject: str = ""
    key_id: str = ""
    """Which key signed its token."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is: the same with a token by each key that may be accepted there, the newest first.

    ``verify_keys`` and their ids: what the engine is to accept; none: it is not told.
    """

    urls: tuple[str, ...] = field(repr=False)
    verify_keys: tuple[str, ...] = ()
    key_ids: tuple[str, ...] = ()


class Link:
    """The connection to one Realm's engine, made again for ever, and the table that it feeds.

    ``changed`` is called with the uids of the Workers whose connections changed (None: the link itself went up or down).
    ``grants`` is what the engine is told; ``may_push`` says whether this process still leads and may tell it.
    """

    enforces = True
    """Whether the engine keeps to the grants: then what it does not grant is never served."""
    strangers: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Who serves functions on an engine that does not, and is no pod of a Worker."""

    def __init__(
        self,
        address: Address | str,
        changed: Callable[[frozenset[str] | None], None],
        grants: GrantTable,
        may_push: Callable[[], bool] = lambda: True,
    ) -> None:
        self.address = Address((address,)) if isinstance(address, str) else address
        self._turn = 0
        """Which of the address' urls is tried next, or is in use."""
        self._due_keys = asyncio.Event()
        self.key_ids: tuple[str, ...] = ()
        """The keys that the engine accepts, as far as it has been told."""
        self._changed, self._grants, self._may_push = changed, grants, may_push
        self._numbers = itertools.count(1)
        self._socket: ClientConnection | None = None
        """Where calls go; None until the engine has told who is on the bus."""
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        """What the engine answers to calls that are under way, by their ids."""
        self.grants_error = ""
        """Why the engine refuses the newest grants."""
        self._connections: dict[str, Connection] = {}
        self._by_uid: defaultdict[str, set[str]] = defaultdict(set)
        self.up = False
        self.since = time.monotonic()
        """When the link went up, or down (monotonic)."""
        self.last_error = ""
        self._touched: dict[tuple[str, str], float] = {}
        self._task: asyncio.Task[None] | None = None

    def use(self, address: Address) -> None:
        """From now on this is the address; what is connected stays until the engine knows the new keys."""
        if address != self.address:
            self.address, self._turn = address, len(address.urls) - 1 if self.up else 0
            self._due_keys.set()

    def connections(self) -> tuple[Connection, ...]:
        """All connections but the operator's."""
        return tuple(self._connections.values())

    def start(self) -> None:
        """Connect, and connect again whenever the link is lost, until :meth:`stop`."""
        self._task = asyncio.create_task(self._run(), name="engine link")

    async def stop(self) -> None:
        """End the link; returns when it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def of(self, uid: str) -> tuple[Connection, ...]:
        """The connections of one Worker, by its uid."""
        return tuple(self._connections[worker_id] for worker_id in sorted(self._by_uid.get(uid, ())))

    def by_uid(self) -> dict[str, tuple[Connection, ...]]:
        """The connections of all Workers."""
        return {uid: self.of(uid) for uid in self._by_uid}

    def touched(self, uid: str, pod_uid: str) -> float:
        """When the connections of a Worker's pod last changed (monotonic); when the link went up, if they have not since."""
        return self._touched.get((uid, pod_uid), self.since)

    def quiet_for(self, uid: str, pod_uid: str) -> float:
        """Seconds since then."""
        return time.monotonic() - self.touched(uid, pod_uid)

    @property
    def connected(self) -> int:
        """How many connections of workers there are."""
        return len(self._connections)

    async def call(self, function_id: str, data: Mapping[str, Any], seconds: float) -> Any:
        """Ask the engine for something and return its result.

        Raises CallFailed when the link is down or ends meanwhile, when the engine refuses, or when the time is over.
        """
        if self._socket is None or not self._may_push():
            raise CallFailed("there is no link to the engine")
        try:
            answer = await self._invoke(self._socket, function_id, data, seconds)
        except (TimeoutError, ConnectionClosed) as error:
            raise CallFailed(str(error) or f"no answer within {seconds:.0f} s") from error
        if error := answer.get("error"):
            raise CallFailed(f"the engine refuses {function_id}: {error.get('message')}")
        return answer.get("result")

    async def _invoke(
        self, socket: ClientConnection, function_id: str, data: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        invocation_id = f"operator-{next(self._numbers)}"
        answer = self._answers[invocation_id] = asyncio.get_running_loop().create_future()
        call = {"type": "invokefunction", "invocation_id": invocation_id, "function_id": function_id, "data": data}
        try:
            async with asyncio.timeout(seconds):
                await socket.send(json.dumps(call))
                return await answer
        finally:
            self._answers.pop(invocation_id, None)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            try:
                await self._serve()
            except (OSError, InvalidHandshake, InvalidURI, ConnectionClosed, EngineRefused) as error:
                self.last_error = type(error).__name__ if isinstance(error, InvalidURI) else str(error)
                log.info("no link to the engine", extra={"error": self.last_error})
                self._turn += 1
            except _NewToken:
                delay, self._turn = 0.0, 0
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
            self.address.urls[self._turn % len(self.address.urls)],
            open_timeout=OPEN_TIMEOUT,
            ping_interval=5,
            ping_timeout=10,
            max_size=MAX_MESSAGE,
            compression=None,
            proxy=None,
        ) as socket:
            self._due_keys.set()
            parts = [asyncio.create_task(part(socket)) for part in (self._read, self._tell, self._tell_keys)]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
                self._socket = None
                for answer in self._answers.values():
                    if not answer.done():
                        answer.set_exception(CallFailed("the link to the engine has ended"))

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            try:
                self._take(json.loads(text))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                # The table may be half changed: the next link brings a whole one.
                raise EngineRefused(f"an event of the engine cannot be read: {error!r}") from error

    async def _tell(self, socket: ClientConnection) -> None:
        """Push grants, all of them before anything else, and then each change."""
        self._grants.start_anew()
        taken = await self._push(socket, await self._grants.next())
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
        self._socket = socket
        while True:
            if not taken:
                await asyncio.sleep(REFUSED_RETRY)
            taken = await self._push(socket, await self._grants.next())

    async def _tell_keys(self, socket: ClientConnection) -> None:
        """Say which keys are accepted, first of all and after each change; then use the newest oneself."""
        while True:
            await self._due_keys.wait()
            self._due_keys.clear()
            address = self.address
            if not address.verify_keys:
                continue
            error = await self._ask(socket, KEYS_ID, {"keys": list(address.verify_keys)}, "keys")
            if error:
                # An engine of its own image may be older than rotation: it keeps the keys that it started with.
                log.warning("keys refused", extra={"error": error})
                continue
            self.key_ids = address.key_ids
            self._changed(None)
            if self._turn % len(address.urls):
                raise _NewToken

    async def _ask(self, socket: ClientConnection, function_id: str, data: Mapping[str, object], what: str) -> str:
        """Why the engine refuses a call of the operator; empty when it does not."""
        if not self._may_push():
            raise EngineRefused("this operator does not lead any more")
        try:
            return _refusal((await self._invoke(socket, function_id, data, ANSWER_TIMEOUT)).get("error"))
        except TimeoutError:
            raise EngineRefused(f"the engine has not acknowledged {what} within {ANSWER_TIMEOUT:.0f} s") from None

    async def _push(self, socket: ClientConnection, push: Push) -> bool:
        """Whether the engine takes it. What it refuses it may hold all the same, and not keep; so the link stays up."""
        error = await self._ask(socket, APPLY_ID, push.to_wire(), "grants")
        error = error and f"the engine refuses grants: {error}"
        told = {"complete": push.complete, "grants": len(push.grants), "removed": len(push.removed)}
        if error:
            log.warning("grants refused", extra=told | {"error": error})
        else:
            log.info("grants acknowledged", extra=told)
            self._grants.acknowledge(push)
        if error != self.grants_error:
            self.grants_error = error
            self._changed(frozenset())
        return not error

    def _take(self, message: dict) -> None:
        match message:
            case {
                "type": "invokefunction",
                "function_id": fid,
                "data": {"connections": entries, "snapshot": snapshot} as data,
            } if fid == FUNCTION_ID:
                if "_caller_worker_id" in data:
                    log.warning("a worker has sent an event that only the engine sends; it is left out")
                    return
                self.take_entries(entries, snapshot=bool(snapshot))
            case {"type": "invocationresult", "invocation_id": invocation_id} if answer := self._answers.get(
                invocation_id
            ):
                if not answer.done():
                    answer.set_result(message)
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
            # A worker names its pod itself: only its own one counts.
            self._touched[uid, entry["pod_uid"]] = now
            if entry["connected"]:
                self._connections[worker_id] = Connection(
                    worker_id,
                    uid,
                    entry["pod_uid"],
                    frozenset(entry["functions"]),
                    frozenset(entry.get("waiting", ())),
                    frozenset(entry.get("claims", ())),
                    entry.get("subject", ""),
                    entry.get("key_id", ""),
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


class CallFailed(Exception):
    """A call of the operator to the engine has brought no result; the message says why."""


class EngineRefused(Exception):
    """The engine is there and does not want the operator (a token of another key or realm)."""


class _NewToken(Exception):
    """The engine accepts the newest key now: the link is made anew with it."""


def _refusal(error: Mapping[str, object] | None) -> str:
    return str(error.get("message")) if error else ""
