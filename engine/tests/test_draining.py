"""What the operator has the engine do when pods go, and what it is told to scale by."""

import asyncio

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_engine.builtins import engine, load
from agentos_engine.bus.connection import Peer as Who
from agentos_engine.bus.draining import MAX_REMEMBERED, Draining

DRAIN, LOAD = "engine::workers::drain", "engine::operator::load"
OLD, NEW = Who("r", "default/w", "u", "worker", "pod-1"), Who("r", "default/w", "u", "worker", "pod-2")


@pytest.fixture
def operator(bus, join):
    engine.install(bus)
    load.install(bus)
    bus.grants.take([Grant("u", "default/w", (Pattern("a::*"),)), Grant("v", "default/v", (Pattern("a::*"),))])
    return join(peer=Who("r", "operator", "o", "operator", "p"))


def serve(join, who, function_id="a::f"):
    worker = join(peer=who)
    worker.send(type="registerfunction", id=function_id)
    worker.take()
    return worker


def ask(operator, function_id, **data):
    operator.send(type="invokefunction", function_id=function_id, invocation_id="ask", data=data)


async def answered(operator):
    """The answers that the operator has by now."""
    for _ in range(20):
        await asyncio.sleep(0)
    return [each.get("result") or each["error"]["code"] for each in operator.take("invocationresult")]


def call(caller, function_id="a::f", invocation_id="i"):
    caller.send(type="invokefunction", function_id=function_id, invocation_id=invocation_id)


async def test_a_going_pod_gets_no_new_calls_while_another_can_take_them(operator, join):
    old, new, caller = serve(join, OLD), serve(join, NEW), join()
    ask(operator, DRAIN, uid="u", pod_uid="pod-1")
    assert await answered(operator) == [{"drained": True, "workers": [{"worker_id": old.id, "in_flight": 0}]}]
    for number in range(4):
        call(caller, invocation_id=str(number))
    assert len(new.take("invokefunction")) == 4
    assert old.take("invokefunction") == []


async def test_a_going_pod_that_is_the_only_one_goes_on(operator, join):
    old, caller = serve(join, OLD), join()
    ask(operator, DRAIN, uid="u", pod_uid="pod-1")
    await answered(operator)
    call(caller)
    assert len(old.take("invokefunction")) == 1


async def test_a_going_pod_that_connects_anew_is_still_going(operator, join):
    new = serve(join, NEW)
    ask(operator, DRAIN, uid="u", pod_uid="pod-1")
    assert await answered(operator) == [{"drained": True, "workers": []}]
    old, caller = serve(join, OLD), join()
    for number in range(4):
        call(caller, invocation_id=str(number))
    assert (len(old.take("invokefunction")), len(new.take("invokefunction"))) == (0, 4)


async def test_when_its_calls_have_ended_it_is_closed_and_not_let_in_again(operator, join, bus):
    old, caller = serve(join, OLD), join()
    call(caller)
    ask(operator, DRAIN, uid="u", pod_uid="pod-1", close=True)
    assert await answered(operator) == []
    assert not old.wire.ended
    old.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
    (answer,) = await answered(operator)
    assert answer["drained"] is True
    assert old.wire.ended
    assert caller.take("invocationresult")[0]["result"] == 1
    assert not bus.grants.admits(OLD)
    assert bus.grants.admits(NEW)


async def test_what_a_closed_pod_served_is_at_once_the_next_workers(operator, join):
    serve(join, OLD)
    heir, caller = join(peer=Who("r", "default/v", "v", "worker", "pod-9")), join()
    heir.send(type="registerfunction", id="a::f")
    ask(operator, DRAIN, uid="u", pod_uid="pod-1", close=True)
    await answered(operator)
    call(caller)
    assert len(heir.take("invokefunction")) == 1


async def test_when_the_time_is_over_it_is_closed_with_its_calls(operator, join, clock):
    old, caller = serve(join, OLD), join()
    call(caller)
    ask(operator, DRAIN, uid="u", pod_uid="pod-1", timeout_ms=2000, close=True)
    assert await answered(operator) == []
    await clock.advance(2.0)
    (answer,) = await answered(operator)
    assert answer == {"drained": False, "workers": [{"worker_id": old.id, "in_flight": 1}]}
    assert old.wire.ended
    assert caller.take("invocationresult")[0]["error"]["code"] == "invocation_stopped"


async def test_a_worker_that_names_anothers_pod_is_not_drained_with_it(operator, join, bus):
    ask(operator, DRAIN, uid="u", pod_uid="pod-1", close=True)
    await answered(operator)
    assert bus.grants.admits(Who("r", "default/v", "v", "worker", "pod-1"))


def test_of_very_many_going_pods_the_oldest_are_forgotten():
    draining = Draining()
    for number in range(MAX_REMEMBERED + 1):
        draining.go(Who(uid="u", pod_uid=str(number)))
    assert not draining.is_going(Who(uid="u", pod_uid="0"))
    assert draining.is_going(Who(uid="u", pod_uid=str(MAX_REMEMBERED)))


# --- Load ---


async def test_the_load_is_what_all_pods_of_a_worker_have_in_flight(operator, join):
    serve(join, OLD), serve(join, NEW)
    caller = join()
    for number in range(3):
        call(caller, invocation_id=str(number))
    ask(operator, LOAD, uids=["u", "v", "unknown"])
    assert await answered(operator) == [
        {
            "workers": {
                "u": {"in_flight": 3, "mean": 3.0},
                "v": {"in_flight": 0, "mean": 0.0},
                "unknown": {"in_flight": 0, "mean": 0.0},
            }
        }
    ]


async def test_the_mean_is_over_the_time_since_the_first_question(operator, join, clock):
    old, caller = serve(join, OLD), join()
    ask(operator, LOAD, uids=["u"])
    await answered(operator)
    await clock.advance(1.0)
    call(caller)
    await clock.advance(1.0)
    ask(operator, LOAD, uids=["u"])
    ((told),) = await answered(operator)
    assert told["workers"]["u"]["in_flight"] == 1
    assert 0.3 < told["workers"]["u"]["mean"] < 0.7
    old.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
    await clock.advance(8.0)
    ask(operator, LOAD, uids=["u"])
    assert (await answered(operator))[0]["workers"]["u"] == {"in_flight": 0, "mean": 0.0}


async def test_it_is_counted_only_while_somebody_asks(operator, join, clock):
    serve(join, OLD)
    ask(operator, LOAD, uids=["u"])
    await answered(operator)
    await clock.advance(30.0)
    call(join())
    ask(operator, LOAD, uids=["u"])
    assert (await answered(operator))[0]["workers"]["u"] == {"in_flight": 1, "mean": 1.0}


async def test_the_load_is_for_the_operator(operator, join):
    worker = join(peer=OLD)
    ask(worker, LOAD, uids=["u"])
    assert await answered(worker) == ["FORBIDDEN"]
    anonymous = join()
    ask(anonymous, LOAD, uids=["u"])
    assert await answered(anonymous) == ["FORBIDDEN"]
