"""What the operator's tests share: an API server in memory, and a clock that skips every wait."""

import asyncio
import copy
import importlib
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

# pytest names the modules of this folder operator.tests.…, and to that end puts an empty package in the place of the standard
# library's module `operator`. This file is the first that it imports: here the real one comes back, for the whole session.
del sys.modules["operator"]
importlib.import_module("operator")

from agentos_operator.api import AlreadyExists, ApiError, Conflict, NotFound  # noqa: E402
from agentos_operator.kinds import Key, Kind, Object  # noqa: E402


class FakeApi:
    """The methods of ``Api`` on a dictionary: uids, resource versions, preconditions and conflicts as in Kubernetes.

    ``writes`` lists what was written as (verb, kind, name); ``fail`` maps such an entry (or one of a read) to the error
    that it meets once.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.reads: list[tuple[str, str, str]] = []
        self.bodies: list[Object] = []
        self.fail: dict[tuple[str, str, str], Exception] = {}
        self._version = 100

    def seed(self, obj: Object) -> Object:
        """Puts an object there as if somebody else had made it."""
        metadata = obj["metadata"]
        self._version += 1
        metadata.setdefault("uid", f"uid-of-{metadata['name']}")
        metadata["resourceVersion"] = str(self._version)
        self.objects[Key(obj["kind"], metadata.get("namespace", ""), metadata["name"])] = obj
        return copy.deepcopy(obj)

    def find(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return self.objects.get(Key(kind.kind, namespace or "", name))

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        self._pass(self.reads, "get", kind, name)
        return copy.deepcopy(self._there(kind, namespace, name))

    async def list(self, kind: Kind, namespace: str | None = None, **_: str) -> AsyncIterator[Object]:
        self._pass(self.reads, "list", kind, "")
        for key, obj in list(self.objects.items()):
            if key.kind == kind.kind and namespace in (None, key.namespace):
                yield copy.deepcopy(obj)

    async def create(self, kind: Kind, obj: Object) -> Object:
        metadata = obj["metadata"]
        self._pass(self.writes, "create", kind, metadata["name"], obj)
        if self.find(kind, metadata.get("namespace"), metadata["name"]) is not None:
            raise AlreadyExists(409, "AlreadyExists", f"{kind.plural} {metadata['name']} already exists")
        made = copy.deepcopy(obj)
        made["metadata"] |= {"generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z"}
        return self.seed(made)

    async def replace(self, kind: Kind, obj: Object) -> Object:
        metadata = obj["metadata"]
        self._pass(self.writes, "replace", kind, metadata["name"], obj)
        there = self._there(kind, metadata.get("namespace"), metadata["name"])
        version = metadata.get("resourceVersion", there["metadata"]["resourceVersion"])
        if version != there["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "the object has been modified")
        replaced = copy.deepcopy(obj)
        replaced["metadata"]["uid"] = there["metadata"]["uid"]
        return self.seed(replaced)

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Object,
        subresource: str | None = None,
        content_type: str = "application/merge-patch+json",
    ) -> Object:
        self._pass(self.writes, f"patch {subresource}" if subresource else "patch", kind, name, body)
        there = self._there(kind, namespace, name)
        if body.get("metadata", {}).get("uid", there["metadata"]["uid"]) != there["metadata"]["uid"]:
            raise Conflict(409, "Conflict", "the uid in the precondition does not match")
        return self.seed(_merge(copy.deepcopy(there), copy.deepcopy(body)))

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, uid: str, resource_version: str | None = None
    ) -> None:
        self._pass(self.writes, "delete", kind, name)
        there = self.find(kind, namespace, name)
        if there is None:
            return
        wanted = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        if any(there["metadata"][field] != value for field, value in wanted.items()):
            raise Conflict(409, "Conflict", "the precondition does not match")
        del self.objects[Key(kind.kind, namespace or "", name)]

    def _there(self, kind: Kind, namespace: str | None, name: str) -> Object:
        obj = self.find(kind, namespace, name)
        if obj is None:
            raise NotFound(404, "NotFound", f'{kind.plural} "{name}" not found')
        return obj

    def _pass(self, log: list, verb: str, kind: Kind, name: str, body: Object | None = None) -> None:
        entry = (verb, kind.kind, name)
        log.append(entry)
        if body is not None:
            self.bodies.append(json.loads(json.dumps(body)))
        if error := self.fail.pop(entry, None):
            raise error


def _merge(target: Any, change: Any) -> Any:
    if not isinstance(change, dict) or not isinstance(target, dict):
        return change
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merge(target.get(key), value)
    return target


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def refused() -> ApiError:
    """An error of the API server that says nothing in particular."""
    return ApiError(500, "InternalError", "etcd is away")


LONGEST = 100_000.0
"""Seconds on the clock after which a test is taken for one that does not end."""


class Clock:
    """Time that stands still until every task waits; then it jumps to what is due next. For tests without sockets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def skip(timeout: float | None = None) -> list:
        events = select(0)
        if not events and timeout is None:
            raise RuntimeError("every task waits, and for nothing that will ever come")
        if not events and timeout > 0:
            made.now += timeout
        if made.now > LONGEST:
            raise RuntimeError("some task goes on for ever")
        return events

    monkeypatch.setattr(time, "monotonic", made)
    monkeypatch.setattr(selector, "select", skip)
    return made
