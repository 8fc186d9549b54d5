"""Workers and engines that come and go."""

import asyncio
import socket
import time

import pytest
import websockets

from tests.compat.engine import CallError, wait_for
from tests.compat.sdks import NEW, PREFIXES, SDKS, SDKS_AND_RUST

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def registered(bench) -> dict:
    """What of workers, functions and triggers must be the same after they reconnected."""
    raw = await bench.connect()
    functions = (await raw.call("engine::functions::list", {"include_internal": True}))["functions"]
    triggers = (await raw.call("engine::registered-triggers::list", {}))["registered_triggers"]
    await raw.close()
    return {
        "functions": sorted((each["function_id"], each["worker_name"], str(each["metadata"])) for each in functions),
        "triggers": sorted((each["id"], each["trigger_type"], each["function_id"]) for each in triggers),
    }


@check(10, sdks=SDKS)
async def test_every_sdk_is_soon_back_with_the_same_triggers_after_its_connection_was_aborted(bench):
    proxy = await bench.proxy()
    for sdk in SDKS:
        await bench.start(sdk, port=proxy.port)
    await bench.answering(*(PREFIXES[sdk] for sdk in SDKS))
    first = list(proxy.sessions)
    before = time.monotonic()
    proxy.cut()

    async def all_back() -> bool:
        return len(proxy.sessions) == 2 * len(SDKS)

    await wait_for(all_back, "every SDK connects again")
    assert time.monotonic() - before < 3  # the SDKs wait for up to 1.3 s
    await bench.answering(*(PREFIXES[sdk] for sdk in SDKS))

    def triggers(sessions) -> set[str]:
        return {frame["id"] for session in sessions for frame in session.frames(session.sent, "registertrigger")}

    assert triggers(first) == triggers(proxy.sessions[len(SDKS) :])
    for caller in bench.agents:
        for callee in bench.agents:
            assert await caller.call(f"{callee.prefix}::echo", [1]) == [1]


@check(11)
@pytest.mark.parametrize("sdk", NEW)
async def test_a_worker_that_reconnects_takes_over_from_its_connection_that_still_looks_alive(bench, sdk):
    proxy = await bench.proxy()
    agent = await bench.start(sdk, port=proxy.port)
    caller = await bench.connect()
    await bench.answering(agent.prefix)
    proxy.cut(engine_too=False)
    await asyncio.wait_for(proxy.sessions[0].ended.wait(), 10)
    again = proxy.sessions[1]
    assert again.frames(again.sent, "reattach")
    assert '"reattach"' in again.sent[0]
    await bench.answering(agent.prefix)
    workers = (await caller.call("engine::workers::list", {}))["workers"]
    assert [each["name"] for each in workers].count(agent.prefix) == 1
    for number in range(20):
        assert await caller.call(f"{agent.prefix}::echo", number) == number


@check("12a", 10, 3, sdks=SDKS)
async def test_every_sdk_is_back_and_registered_as_before_after_a_graceful_restart(bench):
    for sdk in SDKS:
        await bench.start(sdk)
    await bench.answering(*(PREFIXES[sdk] for sdk in SDKS))
    listed = await registered(bench)
    before = time.monotonic()
    assert await bench.engine.stop() == 0
    assert time.monotonic() - before < 10
    await bench.engine.start()
    await bench.answering(*(PREFIXES[sdk] for sdk in SDKS))

    async def same() -> bool:
        return await registered(bench) == listed

    await wait_for(same, "all is registered as before")
    for caller in bench.agents:
        for callee in bench.agents:

            async def calls(caller=caller, callee=callee) -> bool:
                return await caller.call(f"{callee.prefix}::echo", [1], timeout_ms=2000) == [1]

            await wait_for(calls, f"{caller.prefix} calls {callee.prefix}")


@check("12b", sdks=["py-0.11.6"])
async def test_connection_attempts_during_a_restart_are_refused_and_never_answered_with_a_status(bench):
    agent = await bench.start("py-0.11.6")
    await bench.answering(agent.prefix)
    outcomes: set[str] = set()

    async def knock() -> None:
        try:
            async with websockets.connect(bench.engine.url(), open_timeout=5):
                outcomes.add("accepted")
        except websockets.InvalidStatus as error:
            outcomes.add(f"status {error.response.status_code}")
        except ConnectionRefusedError:
            outcomes.add("refused")
        except (OSError, EOFError, websockets.WebSocketException):
            outcomes.add("dropped")

    async def keep_knocking() -> None:
        while "refused" not in outcomes:
            await knock()

    knocking = asyncio.create_task(keep_knocking())
    assert await bench.engine.stop() == 0
    await asyncio.wait_for(knocking, 10)
    assert outcomes <= {"accepted", "refused", "dropped"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", bench.engine.ports["port"]), 1)
    await bench.engine.start()
    await bench.answering(agent.prefix)


@check(32)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_the_caller_hears_at_once_that_the_callee_was_killed(bench, sdk):
    callee = await bench.start(sdk, "callee")
    caller = await bench.connect()
    await bench.answering("callee")
    call = asyncio.create_task(caller.call("callee::slow", {"ms": 20000}))
    probe = await bench.connect()

    async def started() -> bool:
        answer = await probe.call("engine::workers::list", {"search": "callee"})
        return answer["workers"][0]["active_invocations"] >= 1

    await wait_for(started, "the call is in flight")
    before = time.monotonic()
    callee.process.kill()
    with pytest.raises(CallError) as failure:
        await call
    assert failure.value.code == "invocation_stopped"
    assert time.monotonic() - before < 3


@check(32, sdks=SDKS)
async def test_every_sdk_hears_of_a_killed_callee(mesh, agents):
    callee = await mesh.start("py-0.25.0", "victim")
    await mesh.answering("victim")
    calls = [
        asyncio.create_task(each.call("victim::slow", {"ms": 20000}, timeout_ms=25000)) for each in agents.values()
    ]
    raw = await mesh.connect()

    async def started() -> bool:
        answer = await raw.call("engine::workers::list", {"search": "victim"})
        return answer["workers"][0]["active_invocations"] == len(calls)

    await wait_for(started, "the calls are in flight")
    callee.process.kill()
    for call in calls:
        with pytest.raises(CallError, match="invocation_stopped"):
            await asyncio.wait_for(call, 3)


@check(33)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_caller_that_dies_in_a_call_does_not_disturb_the_callee(mesh, agents, unique, sdk):
    name = unique("doomed")
    doomed = await mesh.start(sdk, name)
    await mesh.answering(name)
    callee, other = agents[sdk], agents["py-0.25.0"]
    slow = await callee.function(unique(f"{callee.prefix}::slow"), "record", delay_ms=400, result={"done": True})
    call = asyncio.create_task(doomed.call(slow, {"who": "doomed"}))
    await callee.saw(slow)
    doomed.process.kill()
    assert await other.call(slow, {"who": "other"}) == {"done": True}
    assert [each["who"] for each in await callee.seen(slow)] == ["doomed", "other"]
    with pytest.raises(CallError):
        await call


@check(34)
@pytest.mark.parametrize("sdk", SDKS_AND_RUST)
async def test_calls_go_on_when_the_newer_of_two_workers_with_the_same_functions_dies(mesh, agents, unique, sdk):
    name, caller = unique("twin"), agents.get(sdk, agents["node-0.22.1"])
    older = await mesh.start("py-0.25.0", name)
    await mesh.answering(name)
    newer = await mesh.start(sdk, name)

    async def both() -> bool:
        workers = (await caller.call("engine::workers::list", {}))["workers"]
        return [each["name"] for each in workers].count(name) == 2

    await wait_for(both, "both are there")
    await newer.settled()
    for number in range(20):  # nothing runs twice
        await caller.call(f"{name}::record", {"number": number})
    seen = [each["number"] for agent in (older, newer) for each in await agent.seen(f"{name}::record")]
    assert sorted(seen) == list(range(20))
    newer.process.kill()
    outcomes: list = []
    for number in range(50):
        try:
            outcomes.append(await caller.call(f"{name}::echo", number) == number)
        except CallError as error:
            outcomes.append(error.code)
    assert outcomes.count(True) >= 49
    assert set(outcomes) <= {True, "invocation_stopped"}  # the one that was in flight
    assert older.process.returncode is None


@check(52)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_route_is_never_gone_while_a_new_worker_takes_over_from_an_old_one(mesh, unique, sdk):
    name = unique("rolling")
    old = await mesh.start(sdk, name)
    await mesh.answering(name)
    statuses: list[int] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            statuses.append((await mesh.engine.http("GET", f"/{name}/keyless")).status)

    asking = asyncio.create_task(ask())
    new = await mesh.start(sdk, name)
    await asyncio.wait_for(_answered(new, f"{name}::keyless"), 20)
    await old.end()
    count = len(statuses)

    async def more() -> bool:
        return len(statuses) > count + 10

    await wait_for(more, "requests go on")
    done.set()
    await asking
    assert 404 not in statuses
    assert sum(status != 200 for status in statuses) <= 1  # the old worker left with that request in its hands


async def _answered(agent, function_id: str) -> None:
    """Wait until this worker has answered a request itself."""
    await agent.saw(function_id)
