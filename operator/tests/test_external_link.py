"""The link to an engine that somebody else runs, against a WebSocket server that lists as engines of both lines do."""

import asyncio
import json
from typing import Any

import pytest
from agentos_operator import bus, external_link
from agentos_operator.external_link import ExternalLink, entries, pods_by_host
from websockets.asyncio.server import ServerConnection, serve

from tests.waiting import until

WITHIN = 5.0
OLD = {"id": "c1", "name": "wasm-7d4f-x2x:7", "runtime": "python", "functions": ["wasm::run"], "function_count": 1}
ENGINES_OWN = {"id": "e", "name": "iii-state", "runtime": "engine", "internal": True, "functions": []}


def pod(name: str, uid: str = "w-uid", **spec: Any) -> dict:
    return {"metadata": {"name": name, "uid": f"{name}-uid", "labels": {"agentos.dev/worker-uid": uid}}, "spec": spec}


class Theirs:
    """An engine that lists ``workers`` and ``functions``, or refuses with ``error``; it keeps what else it was asked."""

    def __init__(self) -> None:
        self.workers: list[dict] = []
        self.functions: list[dict] = []
        self.error: dict | None = None
        self.asked: set[str] = set()
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        async for text in socket:
            message = json.loads(text)
            self.asked.add(message["function_id"])
            if "invocation_id" not in message:
                continue
            key = message["function_id"].split("::")[1]
            said = {"error": self.error} if self.error else {"result": {key: getattr(self, key)}}
            reply = {"type": "invocationresult", "invocation_id": message["invocation_id"]} | said
            await socket.send(json.dumps(reply))


class Watched:
    def __init__(self, url: str, *pods: dict) -> None:
        self.pods = list(pods)
        self.told: asyncio.Queue[frozenset[str] | None] = asyncio.Queue()
        self.link = ExternalLink(url, self.told.put_nowait, lambda: pods_by_host(self.pods))

    async def next(self) -> frozenset[str] | None:
        return await asyncio.wait_for(self.told.get(), WITHIN)


@pytest.fixture
async def theirs(monkeypatch):
    monkeypatch.setattr(bus, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(external_link, "POLL", 0.01)
    made = Theirs()
    async with serve(made.handle, "127.0.0.1", 0) as server:
        made.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@pytest.fixture
async def watched(theirs):
    made = Watched(theirs.url, pod("wasm-7d4f-x2x"))
    yield made
    await made.link.stop()


async def test_a_connection_is_the_pods_whose_hostname_it_has_in_its_name(theirs, watched):
    theirs.workers = [OLD, ENGINES_OWN]
    watched.link.start()
    assert await watched.next() is None
    (connection,) = watched.link.of("w-uid")
    assert (connection.pod_uid, connection.functions) == ("wasm-7d4f-x2x-uid", {"wasm::run"})
    assert (watched.link.connected, watched.link.strangers) == (1, {})


async def test_what_comes_and_goes_is_told_and_what_stays_is_not(theirs, watched):
    theirs.workers = [OLD]
    watched.link.start()
    assert await watched.next() is None
    theirs.workers = [OLD | {"functions": ["wasm::run", "wasm::more"], "active_invocations": 1}]
    assert await watched.next() == {"w-uid"}
    theirs.workers = []
    assert await watched.next() == {"w-uid"}
    assert (watched.link.of("w-uid"), watched.told.empty()) == ((), True)


async def test_who_is_no_pod_is_a_stranger_even_under_a_workers_name(theirs, watched):
    theirs.workers = [OLD | {"id": "s1", "name": "laptop:9"}, OLD | {"id": "s2", "name": "wasm-7d4f-x2x"}]
    watched.link.start()
    assert await watched.next() is None
    assert watched.link.of("w-uid") == ()
    assert watched.link.strangers == {"laptop:9": {"wasm::run"}, "wasm-7d4f-x2x": {"wasm::run"}}


async def test_a_pod_that_the_operator_sees_later_than_the_engine_is_found_then(theirs, watched):
    theirs.workers, late = [OLD], watched.pods
    watched.pods = []
    watched.link.start()
    assert await watched.next() is None
    assert watched.link.of("w-uid") == ()
    watched.pods = late
    assert await watched.next() == {"w-uid"}
    assert len(watched.link.of("w-uid")) == 1


async def test_it_asks_only_who_is_there_and_pushes_no_grants(theirs, watched):
    watched.link.start()
    assert await watched.next() is None
    assert theirs.asked == {"engine::workers::register", "engine::workers::list", "engine::functions::list"}


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ({"error": {"message": "no such function"}}, "the engine refuses to say who is there: no such function"),
        ({"workers": 7}, "the answer of engine::workers::list cannot be read"),
        ({"workers": [{"name": "no id"}]}, "an entry"),
    ],
)
async def test_an_engine_that_cannot_be_asked_is_told_and_asked_again(theirs, watched, says, told):
    for key, value in says.items():
        setattr(theirs, key, value)
    watched.link.start()
    await until(lambda: told in watched.link.last_error)
    assert not watched.link.up
    theirs.error, theirs.workers = None, []
    assert await watched.next() is None
    assert watched.link.up


def test_later_engines_name_the_worker_with_each_function():
    workers = [{"id": "c1", "name": "a:1", "namespace": "default"}, {"id": "c2", "name": "a:1", "namespace": "other"}]
    functions = [
        {"function_id": "x::one", "namespace": "default", "worker_name": "a:1"},
        {"function_id": "x::two", "namespace": "other", "worker_name": "a:1"},
        {"function_id": "engine::y", "namespace": "default", "worker_name": "engine"},
    ]
    assert [(each["worker_id"], each["functions"]) for each in entries(workers, functions)] == [
        ("c1", ["x::one"]),
        ("c2", ["x::two"]),
    ]


def test_a_hostname_is_the_pods_name_cut_to_what_a_hostname_may_be_or_what_the_pod_says():
    long = "w" * 62 + "-" + "x" * 10
    assert set(pods_by_host([pod(long), pod("p", hostname="own"), {"metadata": {"name": "q", "uid": "q"}}])) == {
        "w" * 62,
        "own",
    }
