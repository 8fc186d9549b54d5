"""Requests to the Kubernetes API and its answers, against a real HTTP server on loopback."""

import asyncio
import json
from typing import Any

import pytest
from agentos_operator import api as module
from agentos_operator.api import AlreadyExists, Api, ApiError, Conflict, FenceLost, KindMissing, NotFound
from agentos_operator.kinds import NAMESPACE, POD, REALM, WORKER
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

WORKER_OBJECT = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Worker", "metadata": {"name": "wasm", "namespace": "t"}}
PATH = "/apis/agentos.dev/v1alpha1/namespaces/t/workers"


class Server:
    """Answers every request with what is next in line, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: list[web.Response | str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.requests.append(
            {
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "type": request.headers.get("Content-Type", ""),
                "accept": request.headers.get("Accept", ""),
                "authorization": request.headers.get("Authorization", ""),
                "body": json.loads(text) if text else None,
            }
        )
        answer = self.answers.pop(0) if self.answers else web.json_response({"kind": "Any", "metadata": {}})
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "drop":
            request.transport.abort()
            return web.Response()
        return answer

    def refuse(self, status: int, reason: str = "", message: str = "no") -> None:
        self.answers.append(web.json_response({"reason": reason, "message": message, "code": status}, status=status))


@pytest.fixture
async def server(unused_tcp_port):
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    made.url = f"http://127.0.0.1:{unused_tcp_port}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def kube(server):
    configuration = Configuration(host=server.url)
    configuration.api_key = {"BearerToken": "sesame"}
    configuration.api_key_prefix = {"BearerToken": "Bearer"}
    made = Api(ApiClient(configuration))
    yield made
    await made.close()


async def test_get_reads_one_object(server, kube):
    server.answers.append(web.json_response(WORKER_OBJECT))
    assert await kube.get(WORKER, "t", "wasm") == WORKER_OBJECT
    (request,) = server.requests
    assert (request["method"], request["path"], request["body"]) == ("GET", f"{PATH}/wasm", None)
    assert (request["accept"], request["authorization"]) == ("application/json", "Bearer sesame")


@pytest.mark.parametrize(
    ("kind", "namespace", "path"),
    [
        pytest.param(POD, "t", "/api/v1/namespaces/t/pods/x", id="core"),
        pytest.param(NAMESPACE, None, "/api/v1/namespaces/x", id="core of the cluster"),
        pytest.param(REALM, None, "/apis/agentos.dev/v1alpha1/realms/x", id="own of the cluster"),
    ],
)
async def test_every_kind_has_its_path(server, kube, kind, namespace, path):
    await kube.get(kind, namespace, "x")
    assert server.requests[0]["path"] == path


async def test_list_reads_page_by_page(server, kube):
    def page(more: str, *names: str) -> web.Response:
        return web.json_response({"metadata": {"continue": more}, "items": [{"metadata": {"name": n}} for n in names]})

    server.answers += [page("next", "a", "b"), page("", "c")]
    found = [item async for item in kube.list(POD, "t", labelSelector="a=b")]
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [("Pod", "a"), ("Pod", "b"), ("Pod", "c")]
    assert [r["query"] for r in server.requests] == [
        {"labelSelector": "a=b", "limit": "500"},
        {"labelSelector": "a=b", "limit": "500", "continue": "next"},
    ]


async def test_listing_every_namespace_asks_the_whole_cluster(server, kube):
    server.answers.append(web.json_response({"metadata": {}, "items": []}))
    assert [item async for item in kube.list(WORKER)] == []
    assert server.requests[0]["path"] == "/apis/agentos.dev/v1alpha1/workers"


STRICT = {"fieldManager": "agentos-operator", "fieldValidation": "Strict"}
WRITES = [
    ("create", lambda k: k.create(WORKER, WORKER_OBJECT), "POST", PATH, STRICT, "application/json", WORKER_OBJECT),
    (
        "replace",
        lambda k: k.replace(WORKER, WORKER_OBJECT),
        "PUT",
        f"{PATH}/wasm",
        STRICT,
        "application/json",
        WORKER_OBJECT,
    ),
    (
        "patch status",
        lambda k: k.patch(WORKER, "t", "wasm", {"status": {"replicas": 1}}, "status"),
        "PATCH",
        f"{PATH}/wasm/status",
        {"fieldManager": "agentos-operator"},
        "application/merge-patch+json",
        {"status": {"replicas": 1}},
    ),
    (
        "strategic patch",
        lambda k: k.patch(POD, "t", "p", {"status": {}}, "status", module.STRATEGIC),
        "PATCH",
        "/api/v1/namespaces/t/pods/p/status",
        {"fieldManager": "agentos-operator"},
        "application/strategic-merge-patch+json",
        {"status": {}},
    ),
    (
        "delete",
        lambda k: k.delete(WORKER, "t", "wasm", "the-uid"),
        "DELETE",
        f"{PATH}/wasm",
        {},
        "application/json",
        {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": "the-uid"},
        },
    ),
    (
        "delete of one version",
        lambda k: k.delete(WORKER, "t", "wasm", "the-uid", "42"),
        "DELETE",
        f"{PATH}/wasm",
        {},
        "application/json",
        {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": "the-uid", "resourceVersion": "42"},
        },
    ),
]


@pytest.mark.parametrize(
    ("write", "method", "path", "query", "content_type", "body"), [pytest.param(*w[1:], id=w[0]) for w in WRITES]
)
async def test_a_write_has_its_form(server, kube, write, method, path, query, content_type, body):
    await write(kube)
    (request,) = server.requests
    assert (request["method"], request["path"], request["query"]) == (method, path, query)
    assert request["type"] == content_type
    assert request["body"] == body


@pytest.mark.parametrize("write", [pytest.param(w[1], id=w[0]) for w in WRITES])
async def test_no_write_leaves_once_the_fence_is_down(server, kube, write):
    kube.fence = lambda: False
    with pytest.raises(FenceLost):
        await write(kube)
    assert server.requests == []


async def test_reading_needs_no_fence(server, kube):
    kube.fence = lambda: False
    await kube.get(WORKER, "t", "wasm")
    assert len(server.requests) == 1


ERRORS = [
    ("not there", 404, "NotFound", NotFound),
    ("no such kind", 404, "", KindMissing),
    ("name taken", 409, "AlreadyExists", AlreadyExists),
    ("written in between", 409, "Conflict", Conflict),
    ("invalid", 422, "Invalid", ApiError),
    ("forbidden", 403, "Forbidden", ApiError),
    ("too many", 429, "TooManyRequests", ApiError),
    ("failure", 500, "InternalError", ApiError),
]


@pytest.mark.parametrize(("status", "reason", "kind"), [pytest.param(*e[1:], id=e[0]) for e in ERRORS])
async def test_a_refusal_is_told_with_status_reason_and_the_servers_words(server, kube, status, reason, kind):
    server.refuse(status, reason, "the server's own words")
    with pytest.raises(ApiError) as caught:
        await kube.create(WORKER, WORKER_OBJECT)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert str(caught.value) == f"{status} {reason}: the server's own words"


@pytest.mark.parametrize("text", ["upstream connect error", "null", "[]", ""])
async def test_an_answer_that_is_no_status_is_told_as_it_is(server, kube, text):
    server.answers.append(web.Response(status=503, text=text))
    with pytest.raises(ApiError) as caught:
        await kube.get(WORKER, "t", "wasm")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (503, "", text)


async def test_deleting_what_is_gone_is_fine(server, kube):
    server.refuse(404, "NotFound")
    await kube.delete(WORKER, "t", "wasm", "uid")


async def test_deleting_another_of_the_same_name_is_a_conflict(server, kube):
    server.refuse(409, "Conflict")
    with pytest.raises(Conflict):
        await kube.delete(WORKER, "t", "wasm", "uid")


async def test_a_server_that_hangs_is_given_up(server, kube, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_TIMEOUT", 0.05)
    server.answers.append("hang")
    with pytest.raises(TimeoutError):
        await kube.get(WORKER, "t", "wasm")


async def test_a_connection_that_breaks_is_an_os_error(server, kube):
    server.answers += ["drop", "drop"]
    with pytest.raises(OSError, match="disconnected"):
        await kube.create(WORKER, WORKER_OBJECT)


async def test_a_server_that_is_not_there_is_an_os_error(unused_tcp_port_factory):
    kube = Api(ApiClient(Configuration(host=f"http://127.0.0.1:{unused_tcp_port_factory()}")))
    try:
        with pytest.raises(OSError, match="Cannot connect"):
            await kube.get(WORKER, "t", "wasm")
    finally:
        await kube.close()
