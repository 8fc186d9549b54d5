import asyncio
import json
import struct
import time
from dataclasses import replace

import pytest
import websockets
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_contracts.tokens import Identity, SigningKey, issue
from agentos_engine.permissions import table
from agentos_engine.server.websocket import Liveness

KEY = SigningKey.generate()
GRANT = Grant("uid-1", "default/w", tuple(map(Pattern.parse, ("a", "b", "w", "echo"))))


def token(realm="local", role="worker", key=KEY, subject="default/w"):
    return issue(key, Identity(realm, subject, "uid-1", role), issued_at=1_700_000_000)


async def workers(client):
    """The connected workers, without the parts of the engine."""
    listed = (await client.ask("engine::workers::list"))["result"]["workers"]
    return [each for each in listed if each["runtime"] != "engine"]


@pytest.fixture
async def running(run_engine):
    """An open engine."""
    return await run_engine()


@pytest.fixture
async def guarded(run_engine):
    """An engine that demands tokens."""
    keys = f"{SigningKey.generate().verify_key},{KEY.verify_key}"
    return await run_engine("--verify-keys", keys, grants=[GRANT])


async def test_check_1_the_first_frame_greets_with_a_uuid(running):
    client = await running.connect()
    first = json.loads(await client.socket.recv())
    assert first["type"] == "workerregistered"
    assert len(first["worker_id"]) == 36


async def test_check_2_compression_is_declined_and_large_messages_cross(running):
    client = await running.connect(compression="deflate")
    assert "Sec-WebSocket-Extensions" not in client.socket.response.headers
    await client.send(type="registerfunction", id="a::f")
    await client.send(type="invokefunction", function_id="a::f", data={"text": "x" * 3_000_000})
    assert len((await client.receive("invokefunction"))["data"]["text"]) == 3_000_000


async def test_check_4_garbage_is_survived_and_json_in_a_binary_frame_is_taken(running):
    client = await running.connect()
    for frame in ("garbage", '{"type":"unknown"}', "", "  \n", b"\xff\xfe", b"OTLP{}", b"MTRC", b"LOGS{}"):
        await client.socket.send(frame)
    await client.socket.send(b'{"type":"ping"}')
    assert await client.receive("pong") == {"type": "pong"}


async def test_check_5_pings_of_both_kinds_are_answered(running):
    client = await running.connect()
    await client.send(type="ping")
    await client.receive("pong")
    await asyncio.wait_for(await client.socket.ping(b"payload"), 5)


async def test_check_6_a_silent_tcp_client_is_closed_and_an_idle_worker_kept(run_engine):
    def impatient(engine):
        entry = engine.config.entries["worker-manager"]
        engine.config.entries["worker-manager"] = replace(
            entry, options=replace(entry.options, handshake_timeout_ms=300)
        )

    running = await run_engine(prepare=impatient)
    client = await running.connect()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await client.settled()


async def test_check_7_a_telemetry_connection_is_no_worker(running):
    telemetry = await running.connect("/otel")
    await telemetry.socket.send(b"OTLP{}")
    await telemetry.socket.send('{"type":"registerfunction","id":"a::f"}')
    client = await running.connect()
    assert len(await workers(client)) == 1
    assert (await client.ask("engine::functions::list", {"prefix": "a::"}))["result"]["functions"] == []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(telemetry.socket.recv(), 0.2)


async def test_check_9_a_fragmented_message_is_put_together_with_pings_in_between(running):
    client = await running.connect()
    await client.send(type="registerfunction", id="a::f")

    async def fragments():
        yield '{"type":"invokefunction",'
        await client.socket.ping()
        yield '"function_id":"a::f",'
        yield '"data":"whole"}'

    await client.socket.send(fragments())
    assert (await client.receive("invokefunction"))["data"] == "whole"


async def test_a_fragmented_message_is_bounded(run_engine):
    running = await run_engine(limits={"message_bytes": 1 << 20})
    client = await running.connect()

    async def endless():
        while True:
            yield "x" * 100_000

    with pytest.raises(websockets.ConnectionClosed):
        await client.socket.send(endless())
    assert client.socket.close_code == 1009
    other = await running.connect()
    await other.socket.send("x" * (1 << 21))
    with pytest.raises(websockets.ConnectionClosed):
        await other.receive("pong")
    assert other.socket.close_code == 1009


async def raw_socket(running):
    """A WebSocket by hand, for frames that no library sends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x01\x81\0\0\0\0a\x81\x81\0\0\0\0b", 1002),  # a new message inside a fragmented one
        (b"\xc1\x81\0\0\0\0a", 1002),  # compressed, which was not agreed
        (b"\x81\x01a", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # an opcode that does not exist
        (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
    ],
)
async def test_frames_against_the_rules_close_that_connection_and_no_other(running, frame, code):
    other = await running.connect()
    reader, writer = await raw_socket(running)
    writer.write(frame)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer[answer.rindex(b"\x88") + 2 :][:2] == struct.pack(">H", code)
    await other.settled()
    assert len(await workers(other)) == 1


@pytest.mark.parametrize("code", [1000, 1001, 3000, None])
async def test_a_worker_that_says_goodbye_is_off_the_bus_at_once(running, code):
    client, other = await running.connect(), await running.connect()
    await client.send(type="registerfunction", id="a::f")
    await client.settled()
    if code is None:
        reader, writer = await raw_socket(running)
        writer.write(b"\x88\x80\0\0\0\0")
        async with asyncio.timeout(5):
            assert b"\x88" in await reader.read()
        writer.close()
        code = 1000
    await client.socket.close(code)
    assert client.socket.close_code == code
    assert (await other.ask("a::f"))["error"]["code"] == "function_not_found"
    assert len(await workers(other)) == 1


async def test_check_28_36_codes_and_trace_context_cross_the_wire(running):
    worker, caller = await running.connect(), await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "k=v"}
    await caller.send(type="invokefunction", function_id="a::f", invocation_id="i", data=[], **trace)
    invoked = await worker.receive("invokefunction")
    assert invoked["baggage"] == trace["baggage"]
    assert invoked["traceparent"].split("-")[1] == trace["traceparent"].split("-")[1]
    error = {"code": "W105", "message": "m"}
    await worker.send(type="invocationresult", invocation_id="i", function_id="a::f", error=error, **trace)
    answer = await caller.receive("invocationresult")
    assert answer["error"] == error
    assert {key: answer[key] for key in trace} == trace


async def test_a_peer_that_answers_no_pings_is_closed_so_that_it_reconnects(run_engine):
    def impatient(engine):
        engine.parts.liveness = Liveness(ping_interval=0.05, silent_after=0.1, silence_timeout=0.2)

    running = await run_engine(prepare=impatient)
    alive = await running.connect()
    reader, writer = await raw_socket(running)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert struct.pack(">H", 1012) in answer
    await alive.settled()
    assert len(await workers(alive)) == 1


async def test_a_worker_that_does_not_read_is_cut_before_it_fills_the_memory(run_engine):
    running = await run_engine(limits={"unsent_bytes_per_connection": 4 << 20})
    reader, writer = await raw_socket(running)
    caller = await running.connect()
    payload = json.dumps({"type": "registerfunction", "id": "slow::f"}).encode()
    writer.write(b"\x81" + bytes([0x80 | len(payload)]) + b"\0\0\0\0" + payload)

    async def registered():
        return (await caller.ask("engine::functions::list", {"prefix": "slow::"}))["result"]["functions"]

    async with asyncio.timeout(5):
        while not await registered():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while await registered():
            await caller.send(type="invokefunction", function_id="slow::f", data="x" * 1_000_000)
    writer.close()
    assert reader is not None


@pytest.mark.parametrize("path", ["/", "/any/path", "/w/whatever/pod", "/w/x", "/?q=1"])
async def test_an_open_engine_takes_every_path(running, path):
    client = await running.connect(path)
    (listed,) = await workers(client)
    assert "identity" not in listed


@pytest.mark.parametrize("path", ["/ws/channels/c?key=k&dir=read", "/w/t/p/ws/channels/c?key=k&dir=read"])
async def test_channels_are_not_found(running, guarded, path):
    for engine in (running, guarded):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await engine.connect(path)
        assert refused.value.response.status_code == 404


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_token_in_the_path_gives_the_connection_its_identity(guarded, end):
    client = await guarded.connect(f"/w/{token()}/pod-7{end}")
    (listed,) = await workers(client)
    assert listed["identity"] == {
        "realm": "local",
        "subject": "default/w",
        "uid": "uid-1",
        "role": "worker",
        "pod_uid": "pod-7",
    }


async def test_an_engine_for_a_laptop_knows_who_has_a_token_and_takes_who_has_none(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, anonymous=True, grants=[GRANT])
    await running.connect("/")
    known = await running.connect(f"/w/{token()}/pod-7")
    await known.ask("engine::workers::list")
    peers = [each.peer for each in running.engine.bus.connections.values()]
    assert [(peer.subject, peer.pod_uid) for peer in peers] == [("", ""), ("default/w", "pod-7")]
    stranger = await running.connect(f"/w/{token(key=SigningKey.generate())}/pod")
    assert json.loads(await stranger.socket.recv())["error"]["code"] == "AUTH_ERROR"


ELSEWHERE = ["https://evil.example", "http://localhost.evil.example:5173", "http://evil.example:49134", "null", ""]


async def test_a_web_page_from_elsewhere_cannot_use_an_open_engine(running):
    page = await running.connect("/", additional_headers={"Origin": "https://evil.example"})
    assert (await page.receive("error"))["error"]["code"] == "AUTH_ERROR"
    page = await running.connect("/", additional_headers={"Origin": "http://localhost:5173"})
    await page.settled()


@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_a_web_page_from_elsewhere_cannot_use_the_engine_of_a_laptop(run_engine, origin):
    running = await run_engine("--verify-keys", KEY.verify_key, anonymous=True, grants=[GRANT])
    page = await running.connect("/", additional_headers={"Origin": origin})
    assert json.loads(await page.socket.recv())["error"]["code"] == "AUTH_ERROR"
    assert not running.engine.bus.connections
    with pytest.raises(websockets.InvalidStatus):
        await running.connect("/ws/channels/c?key=k&dir=read", additional_headers={"Origin": origin})


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:8443"])
async def test_a_web_page_from_this_machine_may_use_the_engine_of_a_laptop(run_engine, origin):
    running = await run_engine("--verify-keys", KEY.verify_key, anonymous=True, grants=[GRANT])
    page = await running.connect("/", additional_headers={"Origin": origin})
    assert await workers(page)


async def test_a_token_counts_wherever_a_page_is_from(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, anonymous=True, grants=[GRANT])
    page = await running.connect(f"/w/{token()}/pod-7", additional_headers={"Origin": "https://app.example"})
    assert (await workers(page))[0]["identity"]["pod_uid"] == "pod-7"


async def test_telemetry_below_the_token_is_accepted_and_no_worker(guarded):
    telemetry = await guarded.connect(f"/w/{token()}/pod-7/otel")
    await asyncio.wait_for(await telemetry.socket.ping(), 5)
    client = await guarded.connect(f"/w/{token()}/pod-7")
    assert len(await workers(client)) == 1


async def test_operator_and_host_need_no_pod(guarded):
    for role in ("operator", "host"):
        client = await guarded.connect(f"/w/{token(role=role)}")
        await client.settled()


def refused_paths():
    good = token()
    return {
        "no token": "/",
        "no token for telemetry": "/otel",
        "garbage": "/w/garbage/pod",
        "empty": "/w//pod",
        "another key": f"/w/{token(key=SigningKey.generate())}/pod",
        "another realm": f"/w/{token(realm='other')}/pod",
        "cut": f"/w/{good[:-4]}/pod",
        "no pod": f"/w/{good}",
        "no pod for telemetry": f"/w/{good}/otel",
        "odd pod": f"/w/{good}/po%20d",
        "something below": f"/w/{good}/pod/else",
    }


@pytest.mark.parametrize("what", refused_paths())
async def test_check_13_who_is_refused_is_told_after_the_upgrade_and_closed_with_1008(guarded, caplog, what):
    path = refused_paths()[what]
    client = await guarded.connect(path)  # never an HTTP status: Python 0.11.6 would give up for ever
    error = json.loads(await client.socket.recv())
    assert (error["type"], error["error"]["code"]) == ("error", "AUTH_ERROR")
    with pytest.raises(websockets.ConnectionClosed):
        await client.socket.recv()
    assert client.socket.close_code == 1008
    assert guarded.engine.bus.connections == {}
    for secret in [part for part in path.split("/") if part.count(".") == 2]:
        assert secret not in caplog.text
        assert secret not in json.dumps(error)
    assert "connection refused" in caplog.text


async def test_the_operator_hears_of_connections_over_the_wire_within_20_ms_of_quiet(guarded):
    operator = await guarded.connect(f"/w/{token(role='operator', subject='operator')}/op")
    await operator.send(type="registerfunction", id="op::changed")
    trigger = {"type": "registertrigger", "id": "t", "trigger_type": "engine::connections"}
    await operator.send(function_id="op::changed", **trigger)
    snapshot = await operator.receive("invokefunction")
    assert "invocation_id" not in snapshot
    assert snapshot["data"]["snapshot"] is True
    worker = await guarded.connect(f"/w/{token()}/pod-7")
    await worker.send(type="registerfunction", id="a::f")
    seen = {}
    async with asyncio.timeout(5):
        while seen.get("functions") != ["a::f"]:
            (seen,) = (await operator.receive("invokefunction"))["data"]["connections"]
    assert (seen["pod_uid"], seen["subject"], seen["connected"]) == ("pod-7", "default/w", True)
    await worker.socket.close()
    (seen,) = (await operator.receive("invokefunction"))["data"]["connections"]
    assert (seen["pod_uid"], seen["connected"], seen["functions"]) == ("pod-7", False, [])
    await worker.socket.wait_closed()
    other = await guarded.connect(f"/w/{token()}/pod-8")
    await other.send(function_id="a::f", **trigger)
    assert (await other.receive("triggerregistrationresult"))["error"]["code"] == "FORBIDDEN"


async def test_check_12a_stopping_closes_every_worker_with_1012_and_tells_no_connection_event(run_engine):
    running = await run_engine()
    operator, worker = await running.connect(), await running.connect()
    await worker.settled()
    await operator.send(type="registerfunction", id="op::changed")
    await operator.send(type="registertrigger", id="t", trigger_type="engine::connections", function_id="op::changed")
    assert (await operator.receive("invokefunction"))["data"]["snapshot"] is True
    before = time.monotonic()
    await running.engine.stop()
    assert time.monotonic() - before < 5
    for client in (operator, worker):
        with pytest.raises(websockets.ConnectionClosed):  # with nothing before it
            await asyncio.wait_for(client.socket.recv(), 5)
        assert client.socket.close_code == 1012
    with pytest.raises(OSError):
        await running.connect()


async def test_a_request_in_progress_is_answered_before_the_workers_are_let_go(run_engine):
    running = await run_engine()
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.send(
        type="registertrigger", id="t", trigger_type="http", function_id="a::f", config={"api_path": "/x"}
    )
    await worker.settled()
    request = asyncio.create_task(running.http(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"))
    invoked = await worker.receive("invokefunction")
    stopping = asyncio.create_task(running.engine.stop())
    await asyncio.sleep(0)  # the engine has begun to stop
    with pytest.raises(OSError):  # refused by TCP
        await websockets.connect(f"ws://127.0.0.1:{running.ports.workers}")
    ready = await running.http(b"GET /readyz HTTP/1.0\r\n\r\n", running.ports.admin)
    assert b"503" in ready
    await worker.send(
        type="invocationresult", invocation_id=invoked["invocation_id"], function_id="a::f", result={"body": "done"}
    )
    assert b'"done"' in await request
    await stopping


async def test_the_admin_port_says_how_the_engine_is(running):
    for path, text in (("/healthz", b"ok"), ("/readyz", b"ready"), ("/metrics", b"agentos_engine_calls_total 0")):
        answer = await running.http(b"GET %s HTTP/1.0\r\n\r\n" % path.encode(), running.ports.admin)
        assert answer.startswith(b"HTTP/1.1 200")
        assert text in answer
    assert b"404" in await running.http(b"GET /health HTTP/1.0\r\n\r\n", running.ports.http)
    assert b"405" in await running.http(b"POST /healthz HTTP/1.0\r\n\r\n", running.ports.admin)
    assert b"404" in await running.http(b"GET /other HTTP/1.0\r\n\r\n", running.ports.admin)


async def test_a_body_for_no_route_is_not_waited_for(running):
    head = b"POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"
    answer = await running.http(head)
    assert answer.startswith(b"HTTP/1.1 404")
    assert running.engine.modules["http"].server.buffered == 0
    preflight = b"OPTIONS /none HTTP/1.0\r\nAccess-Control-Request-Method: PUT\r\nContent-Length: 2\r\n\r\n{}"
    assert (await running.http(preflight)).startswith(b"HTTP/1.1 204")


async def test_what_is_registered_and_queued_carries_the_version_that_the_pod_tells(guarded):
    worker = await guarded.connect(f"/w/{token()}/pod-7@1.2.3%2Bbuild")
    await worker.send(type="registerfunction", id="a::f")
    await worker.send(type="registerfunction", id="a::own", metadata={"version": "9.9"})
    await worker.settled()
    bus = guarded.engine.bus
    assert (bus.version_of("a::f"), bus.version_of("a::own")) == ("1.2.3+build", "9.9")
    assert bus.registry.choose("a::f").connection.peer.pod_uid == "pod-7"
    (job,) = await enqueued(worker, guarded, "a::f")
    assert job.worker_version == "1.2.3+build"


async def enqueued(worker, running, function_id):
    """Enqueue a call that nobody answers and return the jobs of the engine's store."""
    action = {"type": "enqueue", "queue": "default"}
    await worker.send(type="invokefunction", invocation_id="q", function_id=function_id, data=1, action=action)
    assert (await worker.receive("invocationresult"))["result"]["messageReceiptId"]
    store = running.engine.parts.memory_queues
    return [await store.get(each.seq) for each in await store.waiting()]


# Grants


def grant(uid="uid-1", owns=("a",), calls=None, **more):
    return Grant(uid, "default/w", tuple(map(Pattern.parse, owns)), calls=calls, **more)


async def operator_of(running):
    return await running.connect(f"/w/{token(role='operator', subject='op')}/x")


async def test_a_connection_waits_for_the_grant_of_its_worker_and_loses_nothing(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key)
    worker = await running.connect(f"/w/{token()}/pod")
    await worker.send(type="registerfunction", id="a::f")
    operator = await operator_of(running)
    assert len(running.engine.bus.connections) == 1
    answer = await operator.ask("engine::grants::apply", {"grants": [grant().to_wire()]})
    assert answer["result"] == {"applied": 1}
    await worker.receive("workerregistered")
    await worker.settled()
    assert running.engine.bus.registry.owners("a::f") is not None
    assert (await operator.ask("engine::grants::list"))["result"]["grants"] == [grant().to_wire()]


async def test_who_never_gets_a_grant_is_refused_after_a_while(run_engine, monkeypatch):
    monkeypatch.setattr(table.Grants.wait_for, "__defaults__", (0.1,))
    running = await run_engine("--verify-keys", KEY.verify_key)
    worker = await running.connect(f"/w/{token()}/pod")
    error = (await worker.receive("error"))["error"]
    assert error["code"] == "AUTH_ERROR"
    assert "grant" in error["message"]
    assert KEY.to_text() not in error["message"]


async def test_a_worker_that_loses_its_grant_is_disconnected_everywhere(run_engine, monkeypatch):
    monkeypatch.setattr(table.Grants.wait_for, "__defaults__", (0.1,))
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[grant()])
    worker = await running.connect(f"/w/{token()}/pod")
    await worker.settled()
    telemetry = await running.connect(f"/w/{token()}/pod/otel")
    channel = (await worker.ask("engine::channels::create", {}))["result"]["writer"]
    path = f"/ws/channels/{channel['channel_id']}?key={channel['access_key']}&dir=write"
    writer = await running.connect(f"/w/{token()}/pod{path}")
    stream = await websockets.connect(f"ws://127.0.0.1:{running.ports.stream}/w/{token()}/pod")
    await stream.send(json.dumps({"type": "join", "data": {"subscriptionId": "s", "streamName": "n", "groupId": "g"}}))
    await asyncio.wait_for(stream.recv(), 10)
    operator = await operator_of(running)
    assert (await operator.ask("engine::grants::apply", {"complete": True}))["result"] == {"applied": 0}
    for gone in (worker.socket, telemetry.socket, writer.socket, stream):
        await asyncio.wait_for(gone.wait_closed(), 10)
    again = await running.connect(f"/w/{token()}/pod")
    assert (await again.receive("error"))["error"]["code"] == "AUTH_ERROR"


async def test_grants_outlive_the_engine(run_engine, tmp_path):
    flags = ("--verify-keys", KEY.verify_key, "--data-dir", str(tmp_path))
    first = await run_engine(*flags)
    operator = await operator_of(first)
    await operator.ask("engine::grants::apply", {"grants": [grant().to_wire(), grant("uid-2").to_wire()]})
    await operator.ask("engine::grants::apply", {"removed": ["uid-2"]})
    await first.engine.stop()
    second = await run_engine(*flags)
    assert second.engine.permissions.all() == [grant()]
    worker = await second.connect(f"/w/{token()}/pod")
    await worker.receive("workerregistered")


@pytest.mark.parametrize("function_id", ["engine::grants::apply", "engine::grants::list"])
async def test_only_the_operator_handles_grants(guarded, run_engine, function_id):
    worker = await guarded.connect(f"/w/{token()}/pod")
    assert (await worker.ask(function_id, {}))["error"]["code"] == "FORBIDDEN"
    host = await guarded.connect(f"/w/{token(role='host')}")
    assert (await host.ask(function_id, {}))["error"]["code"] == "FORBIDDEN"
    laptop = await run_engine("--verify-keys", KEY.verify_key, anonymous=True)
    anybody = await laptop.connect()
    assert (await anybody.ask(function_id, {}))["error"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"grants": [{"uid": ""}]}, "grants[0]"),
        ({"grants": [grant().to_wire(), {"uid": "u", "owns": ["*"]}]}, "grants[1].owns[0]"),
        ({"grant": []}, "grant"),
        ({"grants": {}}, "grants"),
        (None, ""),
    ],
)
async def test_what_is_no_grant_changes_nothing(run_engine, data, named):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[grant("uid-2")])
    operator = await operator_of(running)
    answer = await operator.ask("engine::grants::apply", data)
    assert named in answer["error"]["message"]
    assert running.engine.permissions.all() == [grant("uid-2")]


async def test_state_scopes_limit_every_function_of_state(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[grant(state_scopes=("mine", "chat-*"))])
    worker = await running.connect(f"/w/{token()}/pod")
    operator = await operator_of(running)
    await operator.ask("state::set", {"scope": "secret", "key": "k", "value": 1})
    for function_id, more in (
        ("set", {"value": 2}),
        ("get", {}),
        ("delete", {}),
        ("list", {}),
        ("update", {"ops": [{"type": "set", "path": "", "value": 3}]}),
    ):
        answer = await worker.ask(f"state::{function_id}", {"scope": "secret", "key": "k", **more})
        assert answer["error"]["code"] == "FORBIDDEN"
        assert '- "secret"' in answer["error"]["message"]
    assert "error" not in await worker.ask("state::set", {"scope": "chat-1", "key": "k", "value": 1})
    assert (await worker.ask("state::list_groups"))["result"] == {"groups": ["chat-1"]}
    assert (await operator.ask("state::get", {"scope": "secret", "key": "k"}))["result"] == 1


async def test_a_job_cannot_be_put_into_a_queue_for_what_may_not_be_called(run_engine):
    running = await run_engine(
        "--verify-keys", KEY.verify_key, grants=[grant(calls=(Pattern("engine::queue::enqueue"),))]
    )
    worker = await running.connect(f"/w/{token()}/pod")
    for function_id in ("vault::get", "b::f"):
        job = {"queue": "default", "function_id": function_id, "data": {}}
        assert (await worker.ask("engine::queue::enqueue", job))["error"]["code"] == "FORBIDDEN"


async def test_a_trigger_that_nobody_owns_is_bound_by_the_same_rules_and_removed_by_its_maker_only(run_engine):
    grants = [grant("uid-1", owns=("a",)), grant("uid-2", owns=("b",))]
    running = await run_engine("--verify-keys", KEY.verify_key, grants=grants)
    one = await running.connect(f"/w/{token()}/pod")
    two = await running.connect(
        f"/w/{issue(KEY, Identity('local', 'default/two', 'uid-2', 'worker'), issued_at=1)}/pod"
    )
    wanted = {"trigger_type": "cron", "function_id": "vault::get", "config": {"expression": "0 0 0 1 1 *"}}
    assert (await one.ask("engine::register_trigger", wanted))["error"]["code"] == "FORBIDDEN"
    made = (await one.ask("engine::register_trigger", {**wanted, "function_id": "a::f"}))["result"]["id"]
    assert (await two.ask("engine::unregister_trigger", {"id": made}))["error"]["code"] == "FORBIDDEN"
    assert (await one.ask("engine::unregister_trigger", {"id": made}))["result"] == {"removed": True}


async def test_a_worker_without_a_grant_follows_no_streams(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key)
    async with websockets.connect(f"ws://127.0.0.1:{running.ports.stream}/w/{token()}/pod") as socket:
        message = json.loads(await asyncio.wait_for(socket.recv(), 10))
    assert message["error"]["code"] == "AUTH_ERROR"


async def test_neither_queue_nor_topic_does_for_a_worker_what_it_may_not(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[grant(owns=("a",))])
    worker = await running.connect(f"/w/{token()}/pod")
    await worker.send(type="registerfunction", id="a::f")
    aims = {
        "engine::queue::enqueue": {"queue": "default", "function_id": "vault::get", "data": {}},
        "engine::register_trigger": {"trigger_type": "cron", "function_id": "vault::get", "config": {}},
        "engine::unregister_trigger": {"id": "of-another"},
        "configuration::register": {"id": "mail", "schema": {}, "initial_value": "mine"},
    }
    for deputy, payload in aims.items():
        queued = {"invocation_id": "i", "function_id": deputy, "data": payload}
        await worker.send(type="invokefunction", action={"type": "enqueue", "queue": "default"}, **queued)
        assert (await worker.receive("invocationresult"))["error"]["code"] == "FORBIDDEN"
        for kind in ("subscribe", "durable:subscriber", "http"):
            config = {"topic": "t", "queue": "t", "api_path": "x", "http_method": "POST"}
            binding = {"id": f"{kind}-{deputy}", "trigger_type": kind, "function_id": deputy, "config": config}
            await worker.send(type="registertrigger", **binding)
            assert (await worker.receive("triggerregistrationresult"))["error"]["code"] == "FORBIDDEN"
        job = {"queue": "default", "function_id": deputy, "data": payload}
        assert (await worker.ask("engine::queue::enqueue", job))["error"]["code"] == "FORBIDDEN"


async def test_registering_an_entry_anew_does_not_set_it_for_a_worker_that_may_not(run_engine):
    named = tuple(map(Pattern, ("configuration::register", "configuration::set")))
    grants = [grant("uid-1"), grant("uid-2", calls=named)]
    running = await run_engine("--verify-keys", KEY.verify_key, grants=grants)
    one = await running.connect(f"/w/{token()}/pod")
    two = await running.connect(
        f"/w/{issue(KEY, Identity('local', 'default/two', 'uid-2', 'worker'), issued_at=1)}/pod"
    )

    def entry(value):
        return {"id": "mail", "name": "Mail", "description": "d", "schema": {}, "initial_value": value}

    assert (await one.ask("configuration::register", entry("first")))["result"]["value"] == "first"
    assert (await one.ask("configuration::register", entry("mine")))["result"]["value"] == "first"
    assert (await two.ask("configuration::register", entry("other")))["result"]["value"] == "other"


async def test_the_operator_is_told_the_load_of_workers_over_the_wire(guarded):
    await guarded.connect(f"/w/{token()}/pod")
    operator = await operator_of(guarded)
    assert (await operator.ask("engine::operator::load", {"uids": ["uid-1"]}))["result"] == {
        "workers": {"uid-1": {"in_flight": 0, "mean": 0.0}}
    }


async def test_the_operator_says_whose_tokens_are_accepted_and_who_has_another_is_cut_off(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[GRANT])
    operator, new = await operator_of(running), SigningKey.generate()
    worker = await running.connect(f"/w/{token()}/pod")
    await worker.settled()
    told = await operator.ask("engine::keys::apply", {"keys": [new.verify_key, KEY.verify_key]})
    assert told["result"] == {"key_ids": [new.key_id, KEY.key_id], "cut": 0}
    renewed = await running.connect(f"/w/{token(key=new)}/pod")
    await renewed.settled()
    refused = await operator.ask("engine::keys::apply", {"keys": [new.verify_key]})
    assert refused["error"]["message"] == "the key of the caller's own token is not among them"
    successor = await running.connect(f"/w/{token(key=new, role='operator', subject='op')}/x")
    assert (await successor.ask("engine::keys::apply", {"keys": [new.verify_key]}))["result"]["cut"] == 2
    await asyncio.wait_for(worker.socket.wait_closed(), 10)
    await renewed.settled()
    again = await running.connect(f"/w/{token()}/pod")
    assert (await again.receive("error"))["error"]["code"] == "AUTH_ERROR"


@pytest.mark.parametrize("keys", [[], ["no key"], ["x"] * 17, "text", None])
async def test_keys_that_are_none_change_nothing(run_engine, keys):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[GRANT])
    operator = await operator_of(running)
    assert "error" in await operator.ask("engine::keys::apply", {"keys": keys})
    await (await running.connect(f"/w/{token()}/pod")).settled()


async def test_a_worker_says_nothing_of_keys(run_engine):
    running = await run_engine("--verify-keys", KEY.verify_key, grants=[GRANT])
    worker = await running.connect(f"/w/{token()}/pod")
    assert (await worker.ask("engine::keys::apply", {"keys": [KEY.verify_key]}))["error"]["code"] == "FORBIDDEN"
