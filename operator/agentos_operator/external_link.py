"""The operator's side of a bus that somebody else runs: an ordinary worker that asks who is there, again and again.

Such an engine tells nothing by itself of who registers what, and takes no grants; it may be any that speaks the protocol of
iii, so both forms of its listings are read. A connection is a pod's when it has the name that SDKs give themselves,
``<hostname>:<pid>``, and the hostname is the pod's name.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection

from .bus import ANSWER_TIMEOUT, EngineRefused, Link
from .grants import GrantTable
from .kinds import Object
from .settings import WORKER_UID_LABEL

POLL = 2.0
"""Seconds between two looks at who is there."""
HOSTNAME_LENGTH = 63
"""Characters of a pod's name that its hostname has at most."""
WORKERS, FUNCTIONS = "engine::workers::list", "engine::functions::list"

PodsByHost = Mapping[str, tuple[str, str]]
"""Hostname → uid of its Worker, uid of the pod."""


def pods_by_host(pods: list[Object]) -> dict[str, tuple[str, str]]:
    """The Workers' pods by the hostname that the kubelet gives them."""
    found: dict[str, tuple[str, str]] = {}
    for pod in pods:
        metadata, spec = pod["metadata"], pod.get("spec", {})
        if uid := metadata.get("labels", {}).get(WORKER_UID_LABEL):
            host = spec.get("hostname") or metadata["name"][:HOSTNAME_LENGTH].rstrip("-.")
            found[host] = (uid, metadata["uid"])
    return found


class ExternalLink(Link):
    """A Link to an engine that the operator did not make. ``pods`` says which pods there are now."""

    enforces = False

    def __init__(
        self, url: str, changed: Callable[[frozenset[str] | None], None], pods: Callable[[], PodsByHost]
    ) -> None:
        super().__init__(url, changed, GrantTable())
        self._pods = pods
        self._asked = itertools.count(1)
        self._replies: dict[str, asyncio.Future[Any]] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        """What was there at the last look, by the connection's id."""
        self.strangers: Mapping[str, frozenset[str]] = {}
        """Who is connected and is no pod of a Worker, by name, with its functions."""

    async def _tell(self, socket: ClientConnection) -> None:
        introduction = {"runtime": "python", "name": "agentos-operator", "version": "0.1.0"}
        await socket.send(
            json.dumps(
                {
                    "type": "invokefunction",
                    "function_id": "engine::workers::register",
                    "action": {"type": "void"},
                    "data": introduction,
                }
            )
        )
        while True:
            workers = await self._list(socket, WORKERS, "workers")
            functions = await self._list(socket, FUNCTIONS, "functions")
            try:
                self._look(list(entries(workers, functions)))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise EngineRefused(f"an entry of what the engine lists cannot be read: {error!r}") from error
            await asyncio.sleep(POLL)

    async def _list(self, socket: ClientConnection, function_id: str, key: str) -> list[dict[str, Any]]:
        invocation_id = f"agentos-{next(self._asked)}"
        reply = self._replies[invocation_id] = asyncio.get_running_loop().create_future()
        call = {"type": "invokefunction", "invocation_id": invocation_id, "function_id": function_id, "data": {}}
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await socket.send(json.dumps(call))
                result = await reply
        except TimeoutError:
            raise EngineRefused(f"{function_id} has not been answered within {ANSWER_TIMEOUT:.0f} s") from None
        finally:
            del self._replies[invocation_id]
        try:
            return [dict(entry) for entry in result[key]]
        except (TypeError, LookupError, ValueError) as error:
            raise EngineRefused(f"the answer of {function_id} cannot be read: {error!r}") from error

    def _take(self, message: dict) -> None:
        match message:
            case {"type": "invocationresult", "invocation_id": invocation_id} if reply := self._replies.get(
                invocation_id
            ):
                if reply.done():
                    return
                if error := message.get("error"):
                    reply.set_exception(
                        EngineRefused(f"the engine refuses to say who is there: {error.get('message')}")
                    )
                else:
                    reply.set_result(message.get("result"))
            case {"type": "error", "error": {"message": text}}:
                raise EngineRefused(f"the engine refused the operator: {text}")

    def _look(self, seen: list[dict[str, Any]]) -> None:
        """Takes who is there now; tells what changed since the last look."""
        pods, there = self._pods(), dict[str, dict[str, Any]]()
        strangers: dict[str, frozenset[str]] = {}
        for each in seen:
            host, _, pid = each["name"].rpartition(":")
            uid, pod_uid = pods.get(host, ("", "")) if pid.isdecimal() else ("", "")
            there[each["worker_id"]] = each | {"uid": uid, "pod_uid": pod_uid, "connected": True}
            if not uid and each["functions"]:
                strangers[each["name"]] = frozenset(each["functions"])
        before, self._entries = self._entries, there
        changed = [entry for worker_id, entry in there.items() if before.get(worker_id) != entry]
        gone = [entry | {"connected": False} for worker_id, entry in before.items() if worker_id not in there]
        others, self.strangers = self.strangers, strangers
        if not self.up:
            self.take_entries(there.values(), snapshot=True)
        elif changed or gone or others != strangers:
            self.take_entries([*gone, *changed], snapshot=False)


def entries(workers: list[dict[str, Any]], functions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The connections in what an engine lists: each ``worker_id``, ``name`` and ``functions``.

    Engines of the 0.11 line list a worker's functions with the worker, later ones name the worker with each function.
    """
    served: defaultdict[tuple[Any, Any], set[str]] = defaultdict(set)
    for function in functions:
        served[function.get("namespace"), function.get("worker_name")].add(str(function["function_id"]))
    for worker in workers:
        if worker.get("internal") or worker.get("runtime") == "engine":
            continue
        own = worker.get("functions")
        if not isinstance(own, list):
            own = served.get((worker.get("namespace"), worker.get("name")), ())
        yield {
            "worker_id": str(worker["id"]),
            "name": str(worker.get("name") or ""),
            "functions": sorted(map(str, own)),
        }
