"""The link to an engine, and the grants that go over it, against a real WebSocket server on loopback."""

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from agentos_contracts.grants import Grant
from agentos_operator import bus
from agentos_operator.bus import APPLY_ID, FUNCTION_ID, CallFailed, Connection, Link
from agentos_operator.grants import GrantTable
from websockets.asyncio.server import ServerConnection, serve

from tests.waiting import until

WITHIN = 5.0


class Engine:
    """What an engine is to a Link: it takes grants and registrations, and sends events over the newest connection.

    ``pushes`` are the grants that came; ``refuses`` what it answers them with; ``silent``: it answers none.
    """

    def __init__(self) -> None:
        self.port = 0
        self.pushes: asyncio.Queue[dict] = asyncio.Queue()
        self.refuses = ""
        self.silent = False
        self.registered: list[dict] = []
        self.paths: list[str] = []
        self.sockets: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(self, socket: ServerConnection) -> None:
        self.paths.append(socket.request.path)
        await self.take_push(socket)
        self.registered = [json.loads(await socket.recv()) for _ in range(3)]
        await self.sockets.put(socket)
        with contextlib.suppress(Exception):
            while True:
                await self.take_push(socket)

    async def take_push(self, socket: ServerConnection) -> None:
        """Wait for a call by which grants are pushed, and answer it."""
        call = json.loads(await socket.recv())
        assert (call["type"], call["function_id"]) == ("invokefunction", APPLY_ID)
        await self.pushes.put(call["data"])
        if self.silent:
            return
        said = {"error": {"code": "X", "message": self.refuses}} if self.refuses else {"result": {"applied": 1}}
        await socket.send(json.dumps({"type": "invocationresult", "invocation_id": call["invocation_id"]} | said))

    async def pushed(self) -> dict:
        """The next push."""
        return await asyncio.wait_for(self.pushes.get(), WITHIN)

    async def linked(self) -> ServerConnection:
        """The next connection, once it has registered."""
        return await asyncio.wait_for(self.sockets.get(), WITHIN)


@pytest.fixture
async def engine(monkeypatch):
    monkeypatch.setattr(bus, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(bus, "LONGEST_RETRY", 0.04)
    made = Engine()
    async with serve(made.handle, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


class Watched:
    """A Link, with what it told. It is to grant nothing, unless the test says otherwise."""

    def __init__(self, url: str) -> None:
        self.told: asyncio.Queue[frozenset[str] | None] = asyncio.Queue()
        self.grants = GrantTable()
        self.grants.want({})
        self.leads = True
        self.link = Link(url, self.told.put_nowait, self.grants, lambda: self.leads)

    async def next(self) -> frozenset[str] | None:
        return await asyncio.wait_for(self.told.get(), WITHIN)


@pytest.fixture
async def watched(engine):
    made = Watched(f"ws://127.0.0.1:{engine.port}/w/token/pod")
    made.link.start()
    yield made
    await made.link.stop()


def entry(worker_id: str, uid: str, *functions: str, pod: str = "pod", connected: bool = True) -> dict:
    told = {"worker_id": worker_id, "uid": uid, "pod_uid": pod, "functions": list(functions)}
    return told | {"connected": connected}


async def tell(socket: ServerConnection, *entries: dict, snapshot: bool = False) -> None:
    data = {"snapshot": snapshot, "connections": list(entries)}
    await socket.send(json.dumps({"type": "invokefunction", "function_id": FUNCTION_ID, "data": data}))


async def up(engine: Engine, watched: Watched, *entries: dict) -> ServerConnection:
    """A link that is up with these connections."""
    socket = await engine.linked()
    await tell(socket, *entries, snapshot=True)
    assert await watched.next() is None
    return socket


async def test_it_introduces_itself_as_an_ordinary_worker(engine, watched):
    await engine.linked()
    function, trigger, introduction = engine.registered
    assert engine.paths == ["/w/token/pod"]
    assert (function["type"], function["id"]) == ("registerfunction", "engine::operator::connections")
    assert trigger | {"id": ""} == {
        "type": "registertrigger",
        "id": "",
        "trigger_type": "engine::connections",
        "function_id": "engine::operator::connections",
        "config": {},
    }
    assert introduction["function_id"] == "engine::workers::register"


async def test_it_is_up_only_once_the_snapshot_is_there(engine, watched):
    socket = await engine.linked()
    assert not watched.link.up
    await tell(socket, entry("c1", "w1", "a::x", "a::y", pod="p1"), entry("c2", "w2"), snapshot=True)
    assert await watched.next() is None
    assert watched.link.up
    assert watched.link.of("w1") == (Connection("c1", "w1", "p1", frozenset({"a::x", "a::y"}), frozenset()),)
    assert watched.link.connected == 2
    assert watched.link.of("nobody") == ()


async def test_an_empty_snapshot_is_a_snapshot(engine, watched):
    await up(engine, watched)
    assert watched.link.up
    assert watched.link.connected == 0


async def test_changes_name_the_workers_that_they_touch(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1"))
    await tell(socket, entry("c2", "w2", "b::x"), entry("c3", "w3"))
    assert await watched.next() == {"w2", "w3"}
    await tell(socket, entry("c1", "w1", "a::new"))
    assert await watched.next() == {"w1"}
    assert [c.functions for c in watched.link.of("w1")] == [{"a::new"}]
    await tell(socket, entry("c1", "w1", connected=False))
    assert await watched.next() == {"w1"}
    assert watched.link.of("w1") == ()
    assert watched.link.connected == 2


async def test_a_worker_has_all_its_connections(engine, watched):
    socket = await up(engine, watched, entry("c2", "w", pod="p2"), entry("c1", "w", pod="p1"))
    assert [c.pod_uid for c in watched.link.of("w")] == ["p1", "p2"]
    await tell(socket, entry("c1", "w", pod="p1", connected=False))
    await watched.next()
    assert [c.pod_uid for c in watched.link.of("w")] == ["p2"]


async def test_connections_of_no_worker_touch_nobody(engine, watched):
    socket = await up(engine, watched)
    await tell(socket, entry("host", "", "host::x"))
    assert await watched.next() == frozenset()
    assert watched.link.connected == 1


async def test_the_end_of_an_unknown_connection_is_told_and_harmless(engine, watched):
    socket = await up(engine, watched)
    await tell(socket, entry("never", "w9", connected=False))
    assert await watched.next() == {"w9"}
    assert watched.link.connected == 0


async def test_a_second_snapshot_replaces_the_table_and_touches_who_left(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1"))
    await tell(socket, entry("c2", "w2"), snapshot=True)
    assert await watched.next() == {"w1", "w2"}
    assert watched.link.of("w1") == ()


@pytest.mark.parametrize("how", ["closed by the engine", "lost"])
async def test_a_lost_link_is_told_keeps_the_table_and_comes_back_with_a_new_one(engine, watched, how):
    first = await up(engine, watched, entry("c1", "w1"))
    if how == "lost":
        first.transport.abort()
    else:
        await first.close()
    assert await watched.next() is None
    assert not watched.link.up
    # What ran before the break most likely still does.
    assert len(watched.link.of("w1")) == 1
    await up(engine, watched, entry("c2", "w2"))
    assert watched.link.up
    assert watched.link.of("w1") == ()
    assert len(watched.link.of("w2")) == 1


async def test_the_moment_of_going_up_and_down_is_kept(engine, watched):
    before = time.monotonic()
    socket = await up(engine, watched)
    went_up = watched.link.since
    assert before <= went_up <= time.monotonic()
    await socket.close()
    await watched.next()
    assert watched.link.since > went_up


async def test_touched_is_when_a_pods_connections_last_changed(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1", pod="p1"), entry("c2", "w1", pod="p2"))
    first = watched.link.touched("w1", "p1")
    assert watched.link.touched("w1", "quiet") == watched.link.since
    await tell(socket, entry("c1", "w1", pod="p1", connected=False))
    await watched.next()
    assert watched.link.touched("w1", "p1") > first
    assert watched.link.touched("w1", "p2") == first


async def test_a_pod_that_a_new_snapshot_lacks_counts_as_quiet_since_the_link_went_up(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1"))
    await socket.close()
    await watched.next()
    await up(engine, watched)
    assert watched.link.touched("w1", "pod") == watched.link.since


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param({"type": "error", "error": {"message": "unknown key"}}, id="error"),
        pytest.param(
            {"type": "triggerregistrationresult", "id": "t", "error": {"message": "unknown key"}}, id="trigger refused"
        ),
    ],
)
async def test_a_refusal_is_told_in_the_engines_words_and_tried_again(engine, watched, frame):
    socket = await engine.linked()
    await socket.send(json.dumps(frame))
    await until(lambda: watched.link.last_error)
    assert watched.link.last_error == "the engine refused the operator: unknown key"
    assert not watched.link.up
    assert watched.told.empty()
    await up(engine, watched)
    assert (watched.link.up, watched.link.last_error) == (True, "")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no json", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param("[]", id="a list"),
        pytest.param('{"type": "invokefunction"}', id="half a call"),
        pytest.param(
            json.dumps(
                {
                    "type": "invokefunction",
                    "function_id": FUNCTION_ID,
                    "data": {"snapshot": False, "connections": [{"worker_id": "x"}]},
                }
            ),
            id="half an entry",
        ),
        pytest.param(
            json.dumps(
                {"type": "invokefunction", "function_id": FUNCTION_ID, "data": {"snapshot": 1, "connections": [7]}}
            ),
            id="entries that are numbers",
        ),
        pytest.param('{"type": "ping"}', id="an unknown type"),
    ],
)
async def test_what_cannot_be_read_never_ends_the_link_for_good(engine, watched, text):
    socket = await up(engine, watched, entry("c1", "w1"))
    await socket.send(text)
    await socket.close()
    assert await watched.next() is None
    await up(engine, watched, entry("c2", "w2"))
    assert len(watched.link.of("w2")) == 1


async def test_it_keeps_trying_while_nobody_listens_and_says_why(engine, unused_tcp_port, monkeypatch):
    watched = Watched(f"ws://127.0.0.1:{unused_tcp_port}/w/secret-token/pod")
    watched.link.start()
    try:
        await until(lambda: watched.link.last_error)
        assert not watched.link.up
        async with serve(engine.handle, "127.0.0.1", unused_tcp_port):
            await up(engine, watched)
    finally:
        await watched.link.stop()


async def test_a_handshake_that_is_refused_is_told_without_the_token(watched, unused_tcp_port):
    async def refuse(connection: ServerConnection, _: Any) -> Any:
        return connection.respond(401, "no\n")

    async with serve(lambda _: None, "127.0.0.1", unused_tcp_port, process_request=refuse):
        refused = Watched(f"ws://127.0.0.1:{unused_tcp_port}/w/secret-token/pod")
        refused.link.start()
        try:
            await until(lambda: refused.link.last_error)
        finally:
            await refused.link.stop()
    assert "401" in refused.link.last_error
    assert "secret-token" not in refused.link.last_error


async def test_an_impossible_address_is_told_without_the_token():
    watched = Watched("http://engine/w/secret-token/pod")
    watched.link.start()
    try:
        await until(lambda: watched.link.last_error)
        assert "secret-token" not in watched.link.last_error
    finally:
        await watched.link.stop()


async def test_after_a_long_link_the_first_retry_comes_soon(engine, watched, monkeypatch):
    waits: list[float] = []

    class Noting:
        """asyncio, but for the Link's own waits."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)

    socket = await up(engine, watched)
    monkeypatch.setattr(bus, "asyncio", Noting())
    for _ in range(3):
        socket.transport.abort()
        assert await watched.next() is None
        socket = await up(engine, watched)
    assert set(waits) == {bus.FIRST_RETRY}


async def test_a_stopped_link_stays_away(engine, watched):
    socket = await up(engine, watched)
    await watched.link.stop()
    await asyncio.wait_for(socket.wait_closed(), WITHIN)
    assert engine.sockets.empty()


async def test_a_link_that_never_started_stops(engine):
    await Watched(f"ws://127.0.0.1:{engine.port}/").link.stop()


# --- Grants ---


def grant(uid: str, **changes: Any) -> Grant:
    return Grant(uid, f"team/{uid}", **{"calls": ()} | changes)


def table(*grants: Grant) -> dict[str, Grant]:
    return {each.uid: each for each in grants}


async def test_all_grants_go_before_anything_else(engine, watched):
    watched.grants.want(table(grant("w1"), grant("w2")))
    await engine.linked()
    assert (await engine.pushed()) == {
        "complete": True,
        "grants": [grant("w1").to_wire(), grant("w2").to_wire()],
        "removed": [],
    }
    assert engine.registered[0]["type"] == "registerfunction"
    assert await watched.grants.settled(WITHIN)
    assert watched.grants.is_acknowledged("w1")
    assert not watched.grants.is_acknowledged("nobody")


async def test_nothing_is_pushed_before_it_is_known_who_is_there(engine):
    made = Watched(f"ws://127.0.0.1:{engine.port}/w/token/pod")
    made.link._grants = made.grants = GrantTable()
    made.link.start()
    try:
        await until(lambda: engine.paths)
        assert not await made.grants.settled(0.05)
        assert engine.pushes.empty()
        made.grants.want(table(grant("w1")))
        assert [each["uid"] for each in (await engine.pushed())["grants"]] == ["w1"]
        await engine.linked()
    finally:
        await made.link.stop()


async def test_changes_are_pushed_and_nothing_else(engine, watched):
    watched.grants.want(table(grant("stays"), grant("goes"), grant("changes")))
    await up(engine, watched)
    await engine.pushed()
    changed = grant("changes", leaving=True)
    watched.grants.want(table(grant("stays"), changed, grant("comes")))
    assert (await engine.pushed()) == {
        "complete": False,
        "grants": [changed.to_wire(), grant("comes").to_wire()],
        "removed": ["goes"],
    }
    assert await watched.grants.settled(WITHIN)
    watched.grants.want(table(grant("stays"), changed, grant("comes")))
    assert await watched.grants.settled(0)
    assert engine.pushes.empty()


async def test_a_new_link_pushes_all_grants_once_more(engine, watched):
    watched.grants.want(table(grant("w1")))
    socket = await up(engine, watched)
    await engine.pushed()
    socket.transport.abort()
    assert await watched.next() is None
    await up(engine, watched)
    assert await engine.pushed() == {"complete": True, "grants": [grant("w1").to_wire()], "removed": []}


async def test_grants_that_are_refused_are_told_in_the_engines_words_and_tried_again_over_the_same_link(
    engine, watched, monkeypatch
):
    monkeypatch.setattr(bus, "REFUSED_RETRY", 0.01)
    engine.refuses = "disk full"
    watched.grants.want(table(grant("w1")))
    socket = await engine.linked()
    assert await watched.next() == frozenset()
    assert watched.link.grants_error == "the engine refuses grants: disk full"
    await tell(socket, snapshot=True)
    assert await watched.next() is None
    assert watched.link.up
    assert not watched.grants.is_acknowledged("w1")
    engine.refuses = ""
    assert await watched.grants.settled(WITHIN)
    assert await watched.next() == frozenset()
    assert (watched.link.grants_error, watched.grants.is_acknowledged("w1")) == ("", True)
    assert len(engine.paths) == 1


async def test_grants_that_are_not_acknowledged_in_time_are_pushed_over_a_new_link(engine, watched, monkeypatch):
    await up(engine, watched)
    monkeypatch.setattr(bus, "ANSWER_TIMEOUT", 0.05)
    engine.silent = True
    watched.grants.want(table(grant("w1")))
    assert await watched.next() is None
    assert watched.link.last_error.startswith("the engine has not acknowledged grants within")
    assert not watched.grants.is_acknowledged("w1")
    engine.silent = False
    monkeypatch.setattr(bus, "ANSWER_TIMEOUT", WITHIN)
    await up(engine, watched)
    assert watched.grants.is_acknowledged("w1")


async def test_who_leads_no_more_pushes_nothing(engine, watched):
    await up(engine, watched)
    await engine.pushed()
    watched.leads = False
    watched.grants.want(table(grant("w1")))
    assert await watched.next() is None
    assert engine.pushes.empty()
    assert not watched.grants.is_acknowledged("w1")


async def test_what_waits_for_a_grant_is_kept_with_its_connection(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1", "a::x") | {"waiting": ["a::y"]})
    (connection,) = watched.link.of("w1")
    assert (connection.functions, connection.waiting) == ({"a::x"}, {"a::y"})
    await tell(socket, entry("c1", "w1", "a::x", "a::y") | {"waiting": []})
    await watched.next()
    (connection,) = watched.link.of("w1")
    assert (connection.functions, connection.waiting) == ({"a::x", "a::y"}, frozenset())


async def test_an_event_that_a_worker_sends_changes_nothing(engine, watched):
    socket = await up(engine, watched, entry("c1", "w1", "a::x"))
    forged = {"snapshot": True, "connections": [entry("c9", "w9", "a::x")], "_caller_worker_id": "c1"}
    await socket.send(json.dumps({"type": "invokefunction", "function_id": FUNCTION_ID, "data": forged}))
    await tell(socket, entry("c2", "w2"))
    assert await watched.next() == {"w2"}
    assert [c.worker_id for c in watched.link.of("w1")] == ["c1"]
    assert watched.link.of("w9") == ()


# --- Calls to the engine ---


class Asked:
    """An engine that gives one answer to every call after the link's introduction; None: it never answers."""

    def __init__(self, engine: Engine) -> None:
        self.answer: dict | None = {"result": {"workers": {}}}
        self.calls: list[dict] = []
        engine.take_push = self._take_first(engine.take_push)  # type: ignore[method-assign]

    def _take_first(self, take_push):
        async def take(socket: ServerConnection) -> None:
            if not self.calls and socket not in self.seen:
                self.seen.append(socket)
                await take_push(socket)
                return
            call = json.loads(await socket.recv())
            self.calls.append(call)
            if self.answer is not None:
                about = {"type": "invocationresult", "invocation_id": call["invocation_id"]}
                await socket.send(json.dumps(about | self.answer))

        self.seen: list[ServerConnection] = []
        return take


@pytest.fixture
async def asked(engine) -> Asked:
    return Asked(engine)


async def test_the_engine_is_asked_and_answers(engine, asked, watched):
    await up(engine, watched)
    assert await watched.link.call("engine::operator::load", {"uids": []}, WITHIN) == {"workers": {}}
    (call,) = asked.calls
    assert (call["function_id"], call["data"]) == ("engine::operator::load", {"uids": []})


async def test_what_the_engine_refuses_is_told(engine, asked, watched):
    await up(engine, watched)
    asked.answer = {"error": {"code": "FORBIDDEN", "message": "is for the operator"}}
    with pytest.raises(CallFailed, match="is for the operator"):
        await watched.link.call("engine::operator::load", {}, WITHIN)


async def test_an_engine_that_does_not_answer_is_waited_for_no_longer_than_told(engine, asked, watched):
    await up(engine, watched)
    asked.answer = None
    with pytest.raises(CallFailed, match="no answer within"):
        await watched.link.call("engine::operator::load", {}, 0.02)


async def test_who_waits_for_an_answer_hears_of_the_links_end(engine, asked, watched):
    socket = await up(engine, watched)
    asked.answer = None
    waiting = asyncio.create_task(watched.link.call("engine::operator::load", {}, 60.0))
    await until(lambda: asked.calls)
    await socket.close()
    with pytest.raises(CallFailed, match="has ended"):
        await asyncio.wait_for(waiting, WITHIN)


async def test_without_a_link_nothing_can_be_asked(watched):
    with pytest.raises(CallFailed, match="no link"):
        await watched.link.call("engine::operator::load", {}, WITHIN)


# --- Keys ---


class Keyed:
    """An engine that lets in who connects by a path it accepts, takes keys, and then accepts the paths of these keys."""

    def __init__(self, *accepted: str) -> None:
        self.accepted, self.told, self.paths = list(accepted), list[list[str]](), list[str]()

    async def handle(self, socket: ServerConnection) -> None:
        key = socket.request.path.strip("/")
        self.paths.append(key)
        if key not in self.accepted:
            await socket.send(json.dumps({"type": "error", "error": {"code": "AUTH_ERROR", "message": "unknown key"}}))
            return
        async for text in socket:
            message = json.loads(text)
            if message.get("function_id") == bus.KEYS_ID:
                self.told.append(message["data"]["keys"])
                self.accepted = message["data"]["keys"]
            if "invocation_id" in message:
                answer = {"type": "invocationresult", "invocation_id": message["invocation_id"], "result": {}}
                await socket.send(json.dumps(answer))
            elif message.get("type") == "registertrigger":
                await tell(socket, snapshot=True)


def address(port: int, *keys: str) -> bus.Address:
    return bus.Address(tuple(f"ws://127.0.0.1:{port}/{key}" for key in keys), keys, keys)


@pytest.fixture
async def keyed(monkeypatch):
    monkeypatch.setattr(bus, "FIRST_RETRY", 0.01)
    made = Keyed("old")
    async with serve(made.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        grants = GrantTable()
        grants.want({})
        link = Link(address(port, "old"), lambda _: None, grants)
        link.start()
        await until(lambda: link.up and link.key_ids)
        yield made, link, port
        await link.stop()


async def test_a_new_key_is_told_over_the_link_that_stands_and_then_used(keyed):
    engine, link, port = keyed
    link.use(address(port, "new", "old"))
    await until(lambda: engine.paths == ["old", "new"] and link.up)
    assert (engine.told[1], link.key_ids) == (["new", "old"], ("new", "old"))
    link.use(address(port, "new"))
    await until(lambda: link.key_ids == ("new",))
    assert (engine.accepted, engine.paths) == (["new"], ["old", "new"])


async def test_an_engine_that_does_not_know_the_new_key_yet_is_reached_by_the_one_before(keyed):
    engine, link, port = keyed
    await link.stop()
    again = Link(address(port, "new", "old"), lambda _: None, link._grants)
    again.start()
    try:
        await until(
            lambda: again.up and again.key_ids and engine.paths[-1] == "new" and engine.accepted == ["new", "old"]
        )
        assert engine.paths[1:3] == ["new", "old"]
    finally:
        await again.stop()
