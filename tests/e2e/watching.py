"""What happened on the way, not only how it ended: every state of the claims, and of who serves what on the bus."""

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentos_contracts.patterns import Pattern
from agentos_contracts.tokens import Identity, Role, SigningKey, issue
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, get, listed, until

CLAIMS = f"/apis/agentos.dev/v1alpha1/namespaces/{NAMESPACE}/functionclaims"


@dataclass(frozen=True, slots=True)
class Held:
    """All holders of the realm since a moment (monotonic): by pattern, name and uid of the Worker."""

    since: float
    holders: tuple[tuple[str, str, str], ...]

    def names(self, segment: str) -> list[str]:
        """Who holds something of a segment, in the order of the patterns."""
        return [name for pattern, name, _ in self.holders if Pattern(pattern).segment == segment]


class ClaimWatch:
    """Every state of the default realm's claims, taken together, from now on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        listing = json.loads(cluster.kubectl("get", "--raw", CLAIMS).stdout)
        self._claims: dict[str, list[dict[str, str]]] = {}
        for claim in listing["items"]:
            self._claims[claim["metadata"]["name"]] = claim["spec"]["holders"]
        self.states = [self._state()]
        self._versions: set[str] = {claim["metadata"]["resourceVersion"] for claim in listing["items"]}
        self._process = subprocess.Popen(
            [
                cluster.tools.kubectl,
                *("get", "--raw", f"{CLAIMS}?watch=true&resourceVersion={listing['metadata']['resourceVersion']}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=cluster.environment(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _state(self) -> Held:
        rows = [(row["pattern"], row["worker"], row["uid"]) for rows in self._claims.values() for row in rows]
        return Held(time.monotonic(), tuple(sorted(rows)))

    def _read(self) -> None:
        for line in self._process.stdout or ():
            event = json.loads(line)
            metadata = event["object"]["metadata"]
            gone = event["type"] == "DELETED"
            self._claims[metadata["name"]] = [] if gone else event["object"]["spec"]["holders"]
            self.states.append(self._state())
            self._versions.add(metadata["resourceVersion"])

    @property
    def now(self) -> Held:
        """The newest state."""
        return self.states[-1]

    def until(self, what: str, holds: Callable[[Held], bool], timeout: float = 30.0) -> Held:
        """Waits for a state, from the newest one on; returns it."""
        seen, deadline = len(self.states) - 1, time.monotonic() + timeout
        while time.monotonic() < deadline:
            while seen < len(self.states):
                if holds(self.states[seen]):
                    return self.states[seen]
                seen += 1
            time.sleep(0.01)
        raise AssertionError(f"not within {timeout:.0f} s: {what}; last state: {self.now}")

    def catch_up(self) -> None:
        """Waits until everything that is stored now has been seen."""
        until(
            "the watch has seen all that is stored",
            lambda: (
                {c["metadata"]["resourceVersion"] for c in listed(self._cluster, "functionclaims")} <= self._versions
            ),
            10,
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._reader.join(10)

    def check(self) -> None:
        """Fails when two Workers held one function in any state."""
        before: set[tuple[str, str, str]] = set()
        for state in self.states:
            for pattern, name, uid in set(state.holders) - before:
                for other_pattern, other_name, other_uid in state.holders:
                    if uid != other_uid:
                        clash = Pattern(pattern).clashes(Pattern(other_pattern))
                        assert not clash, f"{name} holds {pattern}, {other_name} holds {other_pattern}"
            before = set(state.holders)


@contextlib.contextmanager
def claims_watched(cluster: Cluster) -> Iterator[ClaimWatch]:
    """Watches the claims; at the end, in no state of them did two Workers hold one function."""
    watching = ClaimWatch(cluster)
    try:
        yield watching
        watching.catch_up()
    finally:
        watching.stop()
    watching.check()


class BusWatch:
    """Who serves what on the bus of the default realm, as its engine tells the operator, from now on."""

    _FUNCTION = "engine::operator::watching"

    def __init__(self, cluster: Cluster) -> None:
        secret = get(cluster, "secret", "agentos-identity", demo.NAMESPACE)
        key = SigningKey.from_text(base64.b64decode(secret["data"]["key"]).decode())
        self._token = issue(key, Identity(demo.REALM, "watching", "watching", Role.OPERATOR), int(time.time()))
        self._cluster = cluster
        self._connections: dict[str, dict[str, Any]] = {}
        self.events = 0
        self.snapshots = 0
        self.last_seen: dict[str, float] = {}
        """When the last connection of a Worker ended (monotonic), by its uid."""
        self.faults: list[str] = []
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._run, daemon=True)
        self._reader.start()
        until("the engine tells who is on the bus", lambda: self.snapshots, 20)

    def servers(self, function_id: str) -> set[str]:
        """Uids of the Workers whose connections serve a function now."""
        return {each["uid"] for each in list(self._connections.values()) if function_id in each["functions"]}

    def _run(self) -> None:
        address = self._cluster.service_address(NAMESPACE, "agentos-engine", demo.BUS_PORT)
        while not self._ended.is_set():
            with contextlib.suppress(OSError, TimeoutError, EOFError, WebSocketException):
                self._read(f"ws://{address}/w/{self._token}/watching")
            self._connections = {}
            self._ended.wait(0.1)

    def _read(self, url: str) -> None:
        with connect(url, open_timeout=3, ping_interval=2, ping_timeout=3, compression=None, max_size=None) as socket:
            binding = {"type": "registertrigger", "id": "watching", "trigger_type": "engine::connections"}
            socket.send(json.dumps({"type": "registerfunction", "id": self._FUNCTION}))
            socket.send(json.dumps({**binding, "function_id": self._FUNCTION, "config": {}}))
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    message = json.loads(socket.recv(timeout=0.5))
                    if message.get("function_id") == self._FUNCTION and "connections" in message.get("data", {}):
                        self._take(message["data"])

    def _take(self, data: dict[str, Any]) -> None:
        before = {each["uid"] for each in self._connections.values()}
        if data["snapshot"]:
            self._connections = {}
            self.snapshots += 1
        for entry in data["connections"]:
            self._connections.pop(entry["worker_id"], None)
            if entry["connected"] and entry["role"] == Role.WORKER:
                self._connections[entry["worker_id"]] = entry
        self.events += 1
        for uid in before - {each["uid"] for each in self._connections.values()}:
            self.last_seen[uid] = time.monotonic()
        servers: dict[str, str] = {}
        for entry in self._connections.values():
            for function_id in entry["functions"]:
                other = servers.setdefault(function_id, entry["uid"])
                if other != entry["uid"]:
                    self.faults.append(
                        f"{function_id} is served for {other} and for {entry['uid']} ({entry['subject']})"
                    )

    def stop(self) -> None:
        self._ended.set()
        self._reader.join(10)

    def check(self) -> None:
        """Fails when two Workers served one function at any moment, or nothing has happened at all."""
        assert self.faults == []
        assert self.events > self.snapshots, "nothing has changed on the bus"


@contextlib.contextmanager
def bus_watched(cluster: Cluster) -> Iterator[BusWatch]:
    """Watches the bus; at the end, at no moment did connections of two Workers serve one function."""
    watching = BusWatch(cluster)
    try:
        yield watching
    finally:
        watching.stop()
    watching.check()
