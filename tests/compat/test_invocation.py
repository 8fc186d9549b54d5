"""Calls among workers on all SDKs."""

import asyncio
import json
import random

import pytest

from tests.compat.engine import CallError, wait_for
from tests.compat.sdks import NEW, PREFIXES, RUST, SDKS, SDKS_AND_RUST, pairs

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
WITH_RUST = True
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@check("12c")
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
@pytest.mark.parametrize("form", ["binary", "fragments"])
async def test_a_result_in_a_binary_frame_or_in_fragments_reaches_its_caller(mesh, agents, unique, sdk, form):
    raw = await mesh.connect()
    function_id = unique("raw::odd")
    await raw.register(function_id)
    call = asyncio.create_task(agents[sdk].call(function_id, {}))
    asked = await raw.receive("invokefunction", function_id=function_id)
    ids = {"invocation_id": asked["invocation_id"], "function_id": function_id}
    text = json.dumps({"type": "invocationresult", **ids, "result": {"text": "\u00e4" * 1000}}, ensure_ascii=False)
    await raw.socket.send(text.encode() if form == "binary" else [text[:40], text[40:500], text[500:]])
    assert await call == {"text": "\u00e4" * 1000}


@check(25, 26)
@pytest.mark.parametrize(("caller", "callee"), pairs(rust=True))
async def test_values_cross_unchanged_and_objects_name_the_caller(agents, caller, callee):
    echo = f"{PREFIXES[callee]}::echo"
    for value in (["a", 1, None], "text with \u00e4 \u20ac \U0001f600", 42, 1.5, True):
        assert await agents[caller].call(echo, value) == value
    assert await agents[caller].call(echo, None) is None
    assert await agents[caller].call(echo) is None
    for value in ({"a": {"b": [1]}}, {}):
        echoed = await agents[caller].call(echo, value)
        assert len(echoed.pop("_caller_worker_id")) == 36
        assert echoed == value


@check(25)
@pytest.mark.parametrize("sdk", SDKS)
async def test_the_caller_named_is_the_real_one_even_when_another_is_claimed(agents, sdk):
    workers = (await agents[sdk].call("engine::workers::list", {}))["workers"]
    own = next(each["id"] for each in workers if each["name"] == PREFIXES[sdk])
    echoed = await agents[sdk].call("py25::echo", {"_caller_worker_id": "somebody else"})
    assert echoed == {"_caller_worker_id": own}


@check(26, 27, 28)
@pytest.mark.parametrize(("caller", "callee"), pairs(rust=True))
async def test_an_error_of_a_handler_reaches_the_caller_with_code_message_and_trace(agents, caller, callee):
    with pytest.raises(CallError) as failure:
        await agents[caller].call(f"{PREFIXES[callee]}::fail", {})
    assert failure.value.code == "invocation_failed"
    assert f"handler of {PREFIXES[callee]} failed" in failure.value.message
    assert failure.value.stacktrace


@check(28)
@pytest.mark.parametrize("caller", SDKS_AND_RUST)
async def test_a_code_of_a_raw_workers_own_reaches_the_caller_unchanged(mesh, agents, unique, caller):
    def refuse(data) -> None:
        raise CallError({"code": "W105", "message": "a bad request, in its own words"})

    raw = await mesh.connect()
    function_id = unique("raw::coded")
    await raw.register(function_id, refuse)
    with pytest.raises(CallError) as failure:
        await agents[caller].call(function_id, {})
    assert failure.value.code == "W105"
    assert "a bad request, in its own words" in failure.value.message


@check(28)
@pytest.mark.parametrize("callee", [SDKS_AND_RUST[-1]])
@pytest.mark.parametrize("caller", SDKS)
async def test_a_code_of_a_rust_workers_own_reaches_the_caller_unchanged(agents, unique, caller, callee):
    function_id = await agents[callee].function(unique("rust11::coded"), "fail", code="W105")
    with pytest.raises(CallError) as failure:
        await agents[caller].call(function_id, {})
    assert failure.value.code == "W105"
    assert "handler of rust11 failed" in failure.value.message


@check(29)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_an_unknown_function_is_named_in_the_error(agents, sdk):
    with pytest.raises(CallError) as failure:
        await agents[sdk].call("no::such", {})
    assert failure.value.code == "function_not_found"
    assert "Function no::such not found in namespace default." in failure.value.message


@check(29)
@pytest.mark.parametrize("sdk", SDKS)
async def test_what_the_engine_does_not_serve_says_so_in_a_code(agents, sdk):
    with pytest.raises(CallError) as failure:
        await agents[sdk].call("sandbox::exec", {})
    assert failure.value.code == "NOT_SERVED"


@check(30)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_a_caller_that_gave_up_is_not_harmed_by_the_late_result(mesh, agents, unique, sdk):
    raw = await mesh.connect()
    function_id = unique("raw::late")
    await raw.register(function_id)
    with pytest.raises(CallError) as failure:
        await agents[sdk].call(function_id, {}, timeout_ms=50)
    assert failure.value.code == "TIMEOUT"
    asked = await raw.receive("invokefunction", function_id=function_id)
    ids = {"invocation_id": asked["invocation_id"], "function_id": function_id}
    await raw.send(type="invocationresult", **ids, result="late")
    await raw.settled()
    assert await agents[sdk].call("node22::slow", {"ms": 1}) == {"slept": 1, "tag": None}


@check(31)
@pytest.mark.parametrize(("caller", "callee"), pairs(rust=True))
async def test_a_void_call_runs_once_and_answers_nothing(agents, unique, caller, callee):
    function_id = await agents[callee].function(unique(f"{PREFIXES[callee]}::void"), fail=True)
    assert await agents[caller].call(function_id, {"mark": 1}, void=True) is None
    (seen,) = await agents[callee].saw(function_id)
    assert seen["_caller_worker_id"]
    assert await agents[caller].call(f"{PREFIXES[callee]}::echo", 1) == 1
    assert len(await agents[callee].seen(function_id)) == 1


@check(31)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_nothing_at_all_is_sent_to_the_caller_of_a_void_call(mesh, unique, sdk):
    proxy = await mesh.proxy()
    name = unique("void")
    agent = await mesh.start(sdk, name, port=proxy.port)
    await mesh.answering(name)
    (session,) = proxy.sessions
    for target in ("py25::fail", "no::such"):
        await agent.call(target, {}, void=True)
    await agent.call("py25::echo", 1)
    sent = [
        each for each in session.frames(session.sent, "invokefunction") if not each["function_id"].startswith("engine")
    ]
    answers = {each["invocation_id"] for each in session.frames(session.received, "invocationresult")}
    assert [each["function_id"] for each in sent][-3:] == ["py25::fail", "no::such", "py25::echo"]
    assert sent[-1]["invocation_id"] in answers
    assert len(answers) == sum("invocation_id" in each and each["invocation_id"] is not None for each in sent)
    await agent.end()


@check(35, sdks=[*SDKS, RUST])
async def test_every_result_of_200_concurrent_calls_reaches_its_own_caller(agents):
    order = random.Random(3)
    sdks = list(agents)
    wanted = [(order.choice(sdks), order.choice(sdks), tag) for tag in range(200)]
    results = await asyncio.gather(
        *(agents[a].call(f"{PREFIXES[b]}::slow", {"ms": order.randrange(200), "tag": tag}) for a, b, tag in wanted)
    )
    assert [result["tag"] for result in results] == list(range(200))


@check(36)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_the_trace_of_a_call_is_that_of_its_result(mesh, agents, sdk):
    raw = await mesh.connect()
    answer = await raw.answer(f"{PREFIXES[sdk]}::echo", 1, traceparent=TRACEPARENT, baggage="tenant=blue")
    assert answer["result"] == 1
    assert answer["traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]


@check(36)
async def test_trace_and_baggage_reach_the_callee(mesh, unique):
    raw, caller = await mesh.connect(), await mesh.connect()
    function_id = unique("raw::traced")
    await raw.register(function_id, lambda data: data)
    await caller.call(function_id, 1, traceparent=TRACEPARENT, baggage="tenant=blue,user=7")
    asked = await raw.receive("invokefunction", function_id=function_id)
    assert asked["traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]
    assert {"tenant=blue", "user=7"} <= set(asked["baggage"].split(","))


@check(37)
@pytest.mark.parametrize(("caller", "callee"), pairs(rust=True))
async def test_metadata_reaches_a_handler_that_can_take_it_and_does_not_disturb_others(agents, caller, callee):
    if callee == RUST:
        result = await agents[caller].call("rust11::echo", {"a": 1}, metadata={"trace": [1, 2]})
        assert result["a"] == 1
        return
    result = await agents[caller].call(f"{PREFIXES[callee]}::metadata", {"a": 1}, metadata={"trace": [1, 2]})
    both_can = caller in NEW and callee in NEW
    assert (result["metadata"] == {"trace": [1, 2]}) is both_can


@check(38)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_a_call_of_the_engine_without_a_namespace_succeeds(agents, sdk):
    functions = (await agents[sdk].call("engine::functions::list", {"prefix": "py11::"}))["functions"]
    assert {each["namespace"] for each in functions} == {"default"}


@check(38)
@pytest.mark.parametrize("sdk", ["py-0.25.0"])
async def test_a_call_of_the_engine_with_the_namespace_default_succeeds(mesh, unique, sdk):
    proxy = await mesh.proxy()
    name = unique("plain")
    agent = await mesh.start(sdk, name, port=proxy.port)
    await mesh.answering(name)
    assert (await agent.call("engine::functions::list", {"prefix": name}))["functions"]
    (session,) = proxy.sessions
    asked = session.frames(session.sent, "invokefunction")[-1]
    assert (asked["function_id"], asked["namespace"]) == ("engine::functions::list", "default")
    await agent.end()


@check(39)
@pytest.mark.parametrize("sdk", ["py-0.25.0"])
async def test_functions_of_a_worker_in_a_namespace_are_reached_with_it_only(mesh, agents, unique, sdk):
    name = unique("spaced")
    agent = await mesh.start(sdk, name, environment={"III_NAMESPACE": "orders"})
    raw = await mesh.connect()

    async def reached() -> bool:
        return await raw.call(f"{name}::echo", 7, namespace="orders") == 7

    await wait_for(reached, "the function is reached with its namespace")
    assert await agents[sdk].call(f"{name}::echo", 8, namespace="orders") == 8
    assert await agent.call(f"{name}::echo", 9) == 9  # its own namespace is the default for its calls
    for caller in agents.values():
        with pytest.raises(CallError) as failure:
            await caller.call(f"{name}::echo", 1)
        assert failure.value.code == "function_not_found"
        assert "orders" in failure.value.message
    await agent.end()


@check(40)
async def test_two_namespaces_with_the_same_function_are_kept_apart(mesh, unique):
    function_id = unique("shop::price")
    for namespace in ("north", "south"):
        raw = await mesh.connect()
        await raw.register(function_id, lambda data, namespace=namespace: namespace)
        await raw.name(unique("shop"), namespace=namespace)
        await raw.settled()
    caller = await mesh.connect()
    for namespace in ("north", "south"):
        assert await caller.call(function_id, {}, namespace=namespace) == namespace
    for missing in ({}, {"namespace": "east"}):
        with pytest.raises(CallError) as failure:
            await caller.call(function_id, {}, **missing)
        assert failure.value.code == "function_not_found"
        assert "north" in failure.value.message
        assert "south" in failure.value.message


@check(40)
@pytest.mark.parametrize("sdk", ["py-0.25.0"])
async def test_an_sdk_reaches_its_own_of_two_namespaces(mesh, unique, sdk):
    name = unique("branch")
    made = {space: await mesh.start(sdk, name, environment={"III_NAMESPACE": space}) for space in ("north", "south")}
    for agent in made.values():

        async def there(agent=agent) -> bool:
            return await agent.call(f"{name}::echo", 1) == 1

        await wait_for(there, "the worker calls itself")
        await agent.call(f"{name}::record", {"mark": "own"})
    for agent in made.values():
        assert [each["mark"] for each in await agent.seen(f"{name}::record")] == ["own"]
        await agent.end()
