"""Workers and engines that come and go: unmodified SDKs in real processes."""

import asyncio
import time

import pytest

SDKS = {"py-0.11.6": "py11", "py-0.25.0": "py25", "node-0.11.6": "node11", "node-0.22.1": "node22"}


async def test_check_12a_10_every_sdk_is_back_and_callable_after_a_graceful_restart(bench, wait_for):
    for sdk, prefix in SDKS.items():
        await bench.start(sdk, prefix)
    await bench.answering(*SDKS.values())
    before = time.monotonic()
    assert await bench.engine.stop() == 0
    assert time.monotonic() - before < 10
    await bench.engine.start()
    await bench.answering(*SDKS.values())
    for caller in bench.agents:
        for callee in SDKS.values():

            async def calls(caller=caller, callee=callee):
                return await caller.call(f"{callee}::echo", [callee]) == [callee]

            await wait_for(calls, f"{caller.prefix} calls {callee}")


@pytest.mark.parametrize("sdk", SDKS)
async def test_check_32_the_caller_hears_at_once_that_the_callee_was_killed(bench, call_error, wait_for, sdk):
    callee = await bench.start(sdk, "callee")
    caller = await bench.start("py-0.25.0", "caller")
    await bench.answering("callee", "caller")
    call = asyncio.create_task(caller.call("callee::slow", {"ms": 20000}, timeout_ms=25000))
    request = asyncio.create_task(bench.engine.http("GET", "/callee/slow"))
    probe = await bench.connect()

    async def started():
        await probe.send(
            type="invokefunction", invocation_id="list", function_id="engine::workers::list", data={"search": "callee"}
        )
        answer = await probe.receive("invocationresult")
        return answer["result"]["workers"][0]["active_invocations"] >= 1

    await wait_for(started, "the call is in flight")
    await request  # its handler failed for want of "ms": the route is alive
    before = time.monotonic()
    callee.process.kill()
    with pytest.raises(call_error) as failure:
        await call
    assert failure.value.code == "invocation_stopped"
    assert time.monotonic() - before < 3


async def test_check_34_52_calls_and_routes_go_on_when_the_newer_of_two_workers_dies(bench, wait_for):
    older = await bench.start("py-0.25.0", "twin")
    await bench.answering("twin")
    newer = await bench.start("node-0.22.1", "twin")
    caller = await bench.start("py-0.11.6", "caller")
    await bench.answering("caller")

    async def newest_serves():
        await caller.call("twin::note", {"mark": "who"}, void=True)
        return await newer.do("notes")

    await wait_for(newest_serves, "the newer worker serves")
    newer.process.kill()
    failures = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        answer = await bench.engine.http("GET", "/twin/keyless")
        assert answer.status != 404
        failures += answer.status != 200
    assert failures <= 1  # the request that was in flight
    assert await caller.call("twin::echo", 1) == 1
    assert older.process.returncode is None


async def test_check_33_a_caller_that_dies_in_a_call_does_not_disturb_the_callee(bench):
    callee = await bench.start("node-0.22.1", "callee")
    doomed = await bench.start("py-0.11.6", "doomed")
    other = await bench.start("py-0.25.0", "other")
    await bench.answering("callee", "doomed", "other")
    asyncio.create_task(doomed.call("callee::slow", {"ms": 500})).add_done_callback(lambda task: task.cancelled())
    assert await other.call("callee::slow", {"ms": 50, "tag": 1}) == {"slept": 50, "tag": 1}
    doomed.process.kill()
    assert await other.call("callee::slow", {"ms": 800, "tag": 2}) == {"slept": 800, "tag": 2}
    assert callee.process.returncode is None
