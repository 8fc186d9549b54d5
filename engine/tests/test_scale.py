"""Very many of one thing: nothing is searched one by one, and nothing long holds up the calls of others."""

import asyncio
import json
import sys
import time
from collections.abc import Callable

import pytest
from agentos_engine.builtins.listings import Listings
from agentos_engine.bus.registry import ENOUGH
from agentos_engine.server.turns import SLICE, Turns
from agentos_engine.slices import AT_ONCE
from agentos_engine.triggers.availability import Availability
from agentos_engine.triggers.connections import FULL, ConnectionsTrigger
from agentos_engine.triggers.http import Http
from agentos_engine.triggers.registry import Bindings

FEW, MANY = 250, 2000


def lines_run(work: Callable[[], object]) -> int:
    """Lines of Python that some work takes: unlike seconds, the same each time."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event == "line"
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(former)
    return count


def bind(peer, number, trigger_type, **config):
    peer.send(type="registertrigger", id=f"t{number}", trigger_type=trigger_type, function_id="a::f", config=config)


@pytest.fixture
def replicas(bus, join):
    """Makes workers that all serve a::f."""

    def make(count, *types) -> list:
        peers = []
        for _ in range(count):
            peers.append(join())
            peers[-1].send(type="registerfunction", id="a::f")
            for position, trigger_type in enumerate(types):
                bind(peers[-1], position, trigger_type, api_path="p/:id", http_method="POST")
        return peers

    return make


def test_replicas_come_and_go_at_a_cost_that_does_not_grow_with_their_number(bus, replicas):
    bus.triggers.serve("shared", Bindings())
    bus.triggers.serve("http", Http(bus=bus, channels=None), shared=False)
    cost = {}
    for count in (FEW, MANY):
        peers = []
        came = lines_run(lambda count=count, peers=peers: peers.extend(replicas(count, "shared", "http", "nobodys")))
        # In the order in which they came, against it, and from the middle.
        third = count // 3
        order = peers[:third] + peers[: 2 * third - 1 : -1] + peers[third : 2 * third]
        went = lines_run(lambda order=order: [each.end() for each in order])
        assert bus.registry.owners("a::f") is None
        cost[count] = came / count, went / count
    for few, many in zip(cost[FEW], cost[MANY], strict=True):
        assert many < 1.2 * few


def test_a_call_looks_at_a_few_of_very_many_busy_replicas_and_takes_the_best_of_them(bus, join, replicas):
    peers = replicas(ENOUGH * 20)
    caller = join()
    for number in range(len(peers) * 2):
        caller.send(type="invokefunction", invocation_id=f"i{number}", function_id="a::f", data=None)
    loads = [len(each.connection.calls) for each in peers]
    assert max(loads) <= 3
    assert sum(loads) == len(peers) * 2
    owners = bus.registry.owners("a::f")
    assert lines_run(owners.pick) < ENOUGH * 20


def test_of_very_many_replicas_those_that_do_not_answer_get_no_calls(bus, replicas):
    peers = replicas(ENOUGH * 4)
    for each in peers[:-1]:
        each.connection.silent = True
    assert bus.registry.owners("a::f").pick().connection is peers[-1].connection


def test_owners_stay_in_the_order_in_which_they_came_when_one_registers_anew(bus, replicas):
    peers = replicas(10)
    for each in (peers[7], peers[0], peers[9]):
        each.send(type="registerfunction", id="a::f", description="anew")
    owners = bus.registry.owners("a::f").registrations
    assert [each.connection for each in owners] == [each.connection for each in peers]
    assert [each.connection for each in owners if each.description] == [peers[n].connection for n in (0, 7, 9)]
    for each in (peers[3], peers[9], peers[0]):
        each.end()
    expected = [each.connection for number, each in enumerate(peers) if number not in (0, 3, 9)]
    assert [each.connection for each in bus.registry.owners("a::f").registrations] == expected


async def listed(peer, function_id, data=None) -> dict:
    peer.take()
    peer.send(type="invokefunction", invocation_id="l", function_id=function_id, data=data)
    async with asyncio.timeout(20):
        while not (answers := peer.take("invocationresult")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    return answers[0]["result"]


async def longest_turn(work) -> int:
    """Return how many turns the loop had while something was awaited."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    result = await work
    counting.cancel()
    return turns, result


@pytest.mark.parametrize("what", ["functions", "workers", "registered-triggers"])
async def test_a_long_listing_is_made_in_slices_and_complete(bus, join, what):
    Listings(bus)
    count = AT_ONCE * 5
    peers = [join() for _ in range(count if what == "workers" else 1)]
    for number in range(count):
        peer = peers[number % len(peers)]
        peer.send(type="registerfunction", id=f"a::{number:05}", description="d")
        peer.send(type="registertrigger", id=f"t{number}", trigger_type="x", function_id=f"a::{number:05}", config={})
    asker = join()
    turns, answer = await longest_turn(listed(asker, f"engine::{what}::list", {"search": ""}))
    assert turns >= 5
    entries = answer[what.replace("-", "_")]
    if what == "functions":
        ids = [each["function_id"] for each in entries]
        assert ids == sorted(ids)
        assert sum(each.startswith("a::") for each in ids) == count
    elif what == "workers":
        assert {each["id"] for each in entries} == {each.id for each in [*peers, asker]}
    else:
        assert len(entries) == count


async def test_those_who_ask_for_the_same_long_listing_share_it_and_none_gets_an_old_one(bus, join):
    Listings(bus)
    peer = join()
    for number in range(AT_ONCE * 3):
        peer.send(type="registerfunction", id=f"a::{number}")
    askers = [join() for _ in range(20)]
    waiting = [asyncio.create_task(listed(each, "engine::functions::list")) for each in askers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    peer.send(type="registerfunction", id="a::late")
    late = await listed(join(), "engine::functions::list")
    assert "a::late" in {each["function_id"] for each in late["functions"]}
    answers = await asyncio.gather(*waiting)
    assert all(len(each["functions"]) >= AT_ONCE * 3 for each in answers)


async def test_the_operator_is_told_of_very_many_connections_a_message_at_a_time(bus, join, clock):
    ConnectionsTrigger(bus)
    workers = [join() for _ in range(80)]
    for each in workers:
        for number in range(100):
            each.send(type="registerfunction", id=f"a::{number:0250}")
    operator = join()
    operator.send(type="registerfunction", id="op::changed")
    bind_to = {
        "type": "registertrigger",
        "id": "t",
        "trigger_type": "engine::connections",
        "function_id": "op::changed",
    }
    operator.send(**bind_to)
    told, messages = {}, []
    for _ in range(200):
        await clock.advance(0.01)
        messages += [each["data"] for each in operator.take("invokefunction")]
        if len(messages) == 1 and not told:
            workers[-1].end()  # before it was its turn
        told |= {each["worker_id"]: each for message in messages for each in message["connections"]}
    assert len(messages) >= 80 * 100 * 250 // FULL
    assert [each["snapshot"] for each in messages] == [True] + [False] * (len(messages) - 1)
    assert all(len(json.dumps(each)) < 2 * FULL for each in messages)
    assert set(told) == {each.id for each in [*workers, operator]}
    assert [each["connected"] for each in told.values()].count(False) == 1


async def test_many_functions_are_announced_whole_and_once(bus, join, clock):
    Availability(bus)
    listener = join()
    listener.send(type="registerfunction", id="a::heard")
    listener.send(
        type="registertrigger", id="t", trigger_type="engine::functions-available", function_id="a::heard", config={}
    )
    peer = join()
    for number in range(AT_ONCE * 3):
        peer.send(type="registerfunction", id=f"a::{number}")
    heard = []
    for _ in range(50):
        await clock.advance(0.1)
        await asyncio.sleep(0)
        heard += listener.take("invokefunction")
    assert len(heard) == 1
    assert len(heard[0]["data"]["functions"]) == AT_ONCE * 3 + 1


async def test_work_that_is_put_off_is_done_in_order_a_slice_in_each_turn():
    turns, done = Turns(), []
    assert not turns.are_full()
    for number in range(4):
        turns.put(lambda number=number: (done.append(number), time.sleep(SLICE)))
    assert turns.are_full()
    between = []
    while len(done) < 4:
        between.append(len(done))
        await asyncio.sleep(0)
    assert done == [0, 1, 2, 3]
    assert {1, 2, 3} <= set(between)
    assert not turns.are_full()


async def test_work_that_fails_does_not_keep_the_rest_from_being_done(caplog):
    turns, done = Turns(), []
    turns.put(lambda: 1 / 0)
    turns.put(lambda: done.append(1))
    turns.finish()
    assert done == [1]
    assert "put off" in caplog.text


async def test_messages_that_are_put_off_are_carried_out_in_their_order(run_engine, monkeypatch):
    monkeypatch.setattr("agentos_engine.server.turns.SLICE", -1.0)  # every turn is full
    running = await run_engine()
    worker = await running.connect()
    for number in range(300):
        await worker.send(type="registerfunction", id=f"a::{number}", description=str(number))
    await worker.send(type="invokefunction", invocation_id="i", function_id="a::299", data=1)
    assert (await worker.receive("invokefunction"))["function_id"] == "a::299"
    await worker.send(type="unregisterfunction", id="a::0")
    await worker.send(type="registerfunction", id="a::last")
    await worker.socket.close()
    async with asyncio.timeout(10):
        while running.engine.bus.connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert len(running.engine.bus.registry) == 0
