"""Two engines and the link between them: what is exposed, what is forwarded, and what happens when it breaks."""

import asyncio
import json

import pytest
import websockets
from agentos_engine.bridge import Bridge
from agentos_engine.bus.errors import BusError
from agentos_engine.config import SettingsError
from agentos_engine.config_file import options

from tests.waiting import until


async def failure(work) -> BusError:
    with pytest.raises(BusError) as caught:
        await work
    return caught.value


@pytest.fixture
async def link():
    """Makes bridges from one running engine to another, or to a URL, and waits until they are up."""
    started: list[Bridge] = []

    async def link(here, there, *, wait: bool = True, **config) -> Bridge:
        url = there if isinstance(there, str) else f"ws://127.0.0.1:{there.ports.workers}"
        bridge = Bridge(bus=here.engine.bus, config=options.Bridge(url, **config), first_delay=0.02)
        started.append(bridge)
        await bridge.start()
        if wait:
            await until(lambda: bridge.connected)
        return bridge

    yield link
    for each in started:
        await each.stop()


async def serve(running, function_id: str, answer) -> list[dict]:
    """A worker of a running engine with one function; what it is called with is gathered.

    ``answer`` makes the fields of the result out of the message; None: it never answers.
    """
    worker = await running.connect()
    await worker.send(type="registerfunction", id=function_id)
    await worker.settled()
    calls: list[dict] = []

    async def work() -> None:
        async for text in worker.socket:
            message = json.loads(text)
            if message["type"] != "invokefunction":
                continue
            calls.append(message)
            fields = answer(message)
            if fields is not None and "invocation_id" in message:
                reply = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
                await worker.send(type="invocationresult", **reply, **fields)

    running.engine.bus.spawn(work())
    return calls


def echo(message: dict) -> dict:
    return {"result": {"echo": message.get("data")}}


def forward(local: str, remote: str, timeout_ms: int = 30_000) -> tuple[options.Forwarded, ...]:
    return (options.Forwarded(local, remote, timeout_ms),)


async def test_any_function_of_the_other_engine_can_be_invoked(run_engine, link):
    here, there = await run_engine(), await run_engine()
    calls = await serve(there, "svc::echo", echo)
    await link(here, there)
    caller = await here.connect()
    answer = await caller.ask("bridge.invoke", {"function_id": "svc::echo", "data": [1, "é"]})
    assert answer["result"] == {"echo": [1, "é"]}
    answer = await caller.ask("bridge.invoke", {"function_id": "svc::echo"})
    assert answer["result"] == {"echo": None}
    assert len(calls) == 2


async def test_invoke_async_does_not_wait_for_the_function(run_engine, link):
    here, there = await run_engine(), await run_engine()
    calls = await serve(there, "svc::never", lambda message: None)
    await link(here, there)
    caller = await here.connect()
    answer = await caller.ask("bridge.invoke_async", {"function_id": "svc::never", "data": {"n": 1}})
    assert "error" not in answer
    await until(lambda: calls)
    assert calls[0]["data"]["n"] == 1


async def test_a_forwarded_function_is_called_like_one_of_this_engine(run_engine, link):
    here, there = await run_engine(), await run_engine()
    calls = await serve(there, "svc::echo", echo)
    await link(here, there, forward=forward("remote::echo", "svc::echo"))
    caller = await here.connect()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await caller.send(
        type="invokefunction",
        invocation_id="1",
        function_id="remote::echo",
        data={"n": 1},
        traceparent=trace,
        metadata={"k": "v"},
    )
    answer = await caller.receive("invocationresult")
    assert answer["result"]["echo"]["n"] == 1
    spans = here.engine.parts.observability.spans
    (span,) = spans.trace("0af7651916cd43dd8448eb211c80319c")
    assert (span.name, span.parent_span_id) == ("call remote::echo", "b7ad6b7169203331")
    (further,) = there.engine.parts.observability.spans.trace(span.trace_id)
    assert (further.name, further.parent_span_id) == ("call svc::echo", span.span_id)
    assert calls[0]["traceparent"] == f"00-{span.trace_id}-{further.span_id}-01"
    assert calls[0]["metadata"] == {"k": "v"}


async def test_an_exposed_function_can_be_called_from_the_other_engine(run_engine, link):
    here, there = await run_engine(), await run_engine()
    await serve(here, "svc::echo", echo)
    await link(here, there, expose=(options.Exposed("svc::echo", "edge::echo"),))
    await until(lambda: there.engine.bus.registry.choose("edge::echo"))
    caller = await there.connect()
    answer = await caller.ask("edge::echo", {"n": 1})
    assert answer["result"]["echo"]["n"] == 1
    assert (await caller.ask("svc::echo"))["error"]["code"] == "function_not_found"


async def test_functions_of_the_engine_itself_can_be_exposed_and_called_in_void(run_engine, link):
    here, there = await run_engine(), await run_engine()
    asked = []
    here.engine.bus.functions.add("own::note", lambda context, data: asked.append(json.loads(data)))
    await link(here, there, expose=(options.Exposed("own::note", "edge::note"),))
    await until(lambda: there.engine.bus.registry.choose("edge::note"))
    caller = await there.connect()
    await caller.send(type="invokefunction", function_id="edge::note", data=[5], action={"type": "void"})
    await until(lambda: asked == [[5]])


async def test_errors_of_either_side_come_through_as_they_are(run_engine, link):
    here, there = await run_engine(), await run_engine()
    error = {"code": "W105", "message": "broken", "stacktrace": "at x"}
    await serve(here, "svc::bad", lambda message: {"error": error})
    await serve(there, "svc::bad", lambda message: {"error": error})
    await link(
        here,
        there,
        expose=(options.Exposed("svc::bad", "edge::bad"), options.Exposed("svc::none", "edge::none")),
        forward=forward("remote::bad", "svc::bad"),
    )
    await until(lambda: there.engine.bus.registry.choose("edge::none"))
    over_here, over_there = await here.connect(), await there.connect()
    assert (await over_here.ask("remote::bad"))["error"] == error
    assert (await over_there.ask("edge::bad"))["error"] == error
    assert (await over_there.ask("edge::none"))["error"]["code"] == "function_not_found"
    missing = await over_here.ask("bridge.invoke", {"function_id": "no::such"})
    assert missing["error"]["code"] == "function_not_found"
    assert "no::such" in missing["error"]["message"]


async def test_a_result_that_is_not_there_stays_away(run_engine, link):
    here, there = await run_engine(), await run_engine()
    await serve(there, "svc::none", lambda message: {})
    await link(here, there, forward=forward("remote::none", "svc::none"))
    caller = await here.connect()
    answer = await caller.ask("remote::none")
    assert "result" not in answer
    assert "error" not in answer


async def test_calls_that_take_too_long_time_out_on_this_side(run_engine, link):
    here, there = await run_engine(), await run_engine()
    await serve(there, "svc::never", lambda message: None)
    await link(here, there, forward=forward("remote::never", "svc::never", 50))
    caller = await here.connect()
    answer = await caller.ask("remote::never")
    assert answer["error"]["code"] == "TIMEOUT"
    assert "svc::never" in answer["error"]["message"]
    answer = await caller.ask("bridge.invoke", {"function_id": "svc::never", "timeout_ms": 50})
    assert answer["error"]["code"] == "TIMEOUT"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "missing field `function_id`"),
        ({"function_id": 5}, "function_id"),
        ({"function_id": "f", "timeout_ms": 0}, "timeout_ms"),
        ([], "array"),
    ],
)
async def test_a_payload_that_is_not_understood_is_refused(run_engine, link, payload, text):
    here = await run_engine()
    await link(here, "ws://127.0.0.1:9", wait=False)
    caller = await here.connect()
    error = (await caller.ask("bridge.invoke", payload))["error"]
    assert error["code"] == "deserialization_error"
    assert text in error["message"]


async def test_without_a_link_a_call_fails_and_says_where_to_without_showing_a_token(run_engine, link):
    here = await run_engine()
    bridge = await link(here, "ws://127.0.0.1:9/w/secret-token/pod", wait=False)
    error = await failure(bridge.call("f", b"null", seconds=0.2))
    assert error.code == "bridge_disconnected"
    assert "ws://127.0.0.1:9" in error.message
    assert "secret-token" not in error.message


async def test_a_link_that_breaks_fails_the_calls_on_it_and_comes_back_by_itself(run_engine, link):
    here, there = await run_engine(), await run_engine()
    calls = await serve(there, "svc::never", lambda message: None)
    await serve(here, "svc::echo", echo)
    bridge = await link(here, there, expose=(options.Exposed("svc::echo", "edge::echo"),))
    waiting = asyncio.ensure_future(failure(bridge.call("svc::never", b"null")))
    await until(lambda: calls)
    port = there.ports.workers
    for connection in list(there.engine.bus.connections.values()):
        there.engine.bus.disconnect(connection)
        connection.link.end("for a test")
    assert (await waiting).code == "invocation_stopped"

    await there.engine.stop()
    await until(lambda: not bridge.connected)
    again = await run_engine("--port", str(port))
    await until(lambda: bridge.connected)
    await until(lambda: again.engine.bus.registry.choose("edge::echo"))
    answer = await (await again.connect()).ask("edge::echo", 5)
    assert answer["result"] == {"echo": 5}


async def test_a_call_waits_for_a_link_that_is_just_coming_up(run_engine, link):
    here, there = await run_engine(), await run_engine()
    await serve(there, "svc::echo", echo)
    bridge = await link(here, there, wait=False)
    assert await bridge.call("svc::echo", b"1") == b'{"echo": 1}'


async def test_an_engine_that_refuses_the_link_is_named_in_the_errors(run_engine, link):
    async def refuse(socket) -> None:
        await socket.send('{"type":"error","error":{"code":"AUTH_ERROR","message":"no such token"}}')
        await socket.wait_closed()

    here = await run_engine()
    async with websockets.serve(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        bridge = await link(here, f"ws://127.0.0.1:{port}", wait=False)
        await until(lambda: "no such token" in str(bridge._disconnected()))


async def test_messages_that_are_not_understood_do_not_end_the_link(run_engine, link):
    answers = []

    async def speak(socket) -> None:
        for text in ("garbage", "[]", "{", '{"type":"news"}', '{"type":"invocationresult","invocation_id":"x"}'):
            await socket.send(text)
        await socket.send('{"type":"error","error":"odd"}')
        await socket.send('{"type":"invokefunction","invocation_id":"7","function_id":"not::exposed"}')
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "invocationresult":
                answers.append(message)
            elif "invocation_id" in message:
                odd = {"type": "invocationresult", "invocation_id": message["invocation_id"], "error": "odd"}
                await socket.send(json.dumps(odd))

    here = await run_engine()
    async with websockets.serve(speak, "127.0.0.1", 0) as server:
        bridge = await link(here, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await until(lambda: answers)
        assert (answers[0]["invocation_id"], answers[0]["error"]["code"]) == ("7", "function_not_found")
        assert (await failure(bridge.call("f", b"null"))).code == "invocation_failed"
        assert bridge.connected


async def test_after_stop_the_functions_are_gone_and_a_new_bridge_may_be_started(run_engine, link):
    here, there = await run_engine(), await run_engine()
    bridge = await link(here, there, forward=forward("remote::echo", "svc::echo"))
    await bridge.stop()
    await bridge.stop()
    caller = await here.connect()
    for function_id in ("bridge.invoke", "bridge.invoke_async", "remote::echo"):
        assert (await caller.ask(function_id))["error"]["code"] == "function_not_found"
    await until(lambda: not there.engine.bus.connections)
    await link(here, there, forward=forward("remote::echo", "svc::echo"))


async def test_a_url_that_is_none_and_an_id_that_is_taken_are_refused(run_engine, link):
    here = await run_engine()
    with pytest.raises(SettingsError, match="ws://HOST"):
        await link(here, "http://127.0.0.1:1", wait=False)
    with pytest.raises(SettingsError, match="engine::workers::list"):
        await link(here, "ws://127.0.0.1:9", wait=False, forward=forward("engine::workers::list", "f"))
    await link(here, "ws://127.0.0.1:9", wait=False)
