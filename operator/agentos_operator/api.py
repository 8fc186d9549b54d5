"""Reads and writes of the Kubernetes API, as JSON, through ``kubernetes.aio``.

Typed models would cost memory and time for nothing here: the planner builds plain objects. Every request has a time-out,
and every write first asks the fence (the leader's deadline), so a replica that lost its Lease cannot write.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from agentos_contracts.resource import API_VERSION, GROUP
from aiohttp import ClientError
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from .kinds import CLAIM, REALM, WORKER, Kind, Object
from .settings import FIELD_MANAGER

T = TypeVar("T")

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 3.0
PAGE = 500
JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server's refusal: ``status`` is the HTTP code, ``reason`` Kubernetes' own word, ``message`` its text."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class NotFound(ApiError):
    """The object is not there (404)."""


class KindMissing(NotFound):
    """The cluster does not serve the kind at all (404 of the whole path): its CRD is not installed."""


class AlreadyExists(ApiError):
    """An object of that name is there already (409 on create)."""


class Conflict(ApiError):
    """Somebody else wrote first (409 on update), or another field manager owns the field."""


class FenceLost(Exception):
    """A write was tried after the leader's deadline: this process has to go."""


def _error(status: int, body: bytes) -> ApiError:
    try:
        answer = json.loads(body)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body[:200].decode(errors="replace")
    kinds: dict[str, type[ApiError]] = {"NotFound": NotFound, "AlreadyExists": AlreadyExists, "Conflict": Conflict}
    return kinds.get(reason, KindMissing if status == 404 else ApiError)(status, reason, message)


class Api:
    """The cluster. ``fence`` says whether this process may write now."""

    def __init__(self, client: ApiClient, fence: Callable[[], bool] = lambda: True) -> None:
        self._client = client
        self.fence = fence

    @classmethod
    async def connect(cls) -> "Api":
        """In a pod by its service account, elsewhere by the kubeconfig."""
        configuration = Configuration()
        try:
            config.load_incluster_config(configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        await self._client.close()

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None, content_type: str = JSON
    ) -> Any:
        if method != "GET" and not self.fence():
            raise FenceLost(f"{method} {path}")
        serialized = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": JSON, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = await self._client.call_api(*serialized, _request_timeout=REQUEST_TIMEOUT)
            data = await response.read()
        except ClientError as error:
            # Not all of aiohttp's are OSErrors (a server that hangs up is not), and callers know only those.
            raise ConnectionError(str(error) or type(error).__name__) from error
        if response.status >= 400:
            raise _error(response.status, data)
        return json.loads(data)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """One object; NotFound when there is none."""
        return await self._request("GET", kind.path(namespace, name))

    async def served(self) -> None:
        """Returns when the API server serves the kinds of this project; NotFound when it does not."""
        served = {each["name"] for each in (await self._request("GET", f"/apis/{API_VERSION}"))["resources"]}
        if missing := {kind.plural for kind in (WORKER, REALM, CLAIM)} - served:
            raise NotFound(
                404, "NotFound", f"the API server does not serve {', '.join(sorted(missing))} of {GROUP} yet"
            )

    async def list(self, kind: Kind, namespace: str | None = None, **query: str) -> AsyncIterator[Object]:
        """All objects of a kind, page by page; query: labelSelector, fieldSelector."""
        query["limit"] = str(PAGE)
        while True:
            page = await self._request("GET", kind.path(namespace), query)
            for item in page["items"]:
                item.setdefault("kind", kind.kind)
                yield item
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def create(self, kind: Kind, obj: Object) -> Object:
        """Makes an object; AlreadyExists when the name is taken."""
        return await self._request(
            "POST",
            kind.path(obj["metadata"].get("namespace")),
            {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"},
            obj,
        )

    async def replace(self, kind: Kind, obj: Object) -> Object:
        """Compare and set by ``metadata.resourceVersion``; Conflict when somebody wrote in between."""
        metadata = obj["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        return await self._request("PUT", path, {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}, obj)

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Object,
        subresource: str | None = None,
        content_type: str = MERGE,
    ) -> Object:
        """Merge patch (or a strategic one) of an object or of its subresource."""
        path = kind.path(namespace, name, subresource)
        return await self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, content_type)

    async def delete(
        self, kind: Kind, namespace: str | None, name: str, uid: str, resource_version: str | None = None
    ) -> None:
        """Deletes just the object with this uid (and version, if given); one that is gone already is fine."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": preconditions,
        }
        try:
            await self._request("DELETE", kind.path(namespace, name), None, body)
        except NotFound:
            return


async def until_reachable(ask: Callable[[], Awaitable[T]]) -> T:
    """Repeats a request until the API server answers it: at a cluster's start it may come later than the operator."""
    while True:
        try:
            return await ask()
        except (ApiError, OSError, TimeoutError) as error:
            log.warning("the API server does not answer yet", extra={"error": str(error) or type(error).__name__})
            await asyncio.sleep(1.0)
