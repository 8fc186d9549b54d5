"""No acknowledgement leaves before the sync that makes what it acknowledges last."""

import asyncio

import pytest

from tests.durability.disk import FOLDER_SYNC, LOG_SYNC, OTHER_SYNC
from tests.durability.engine import ENTRY, result
from tests.waiting import until

SECONDS = 30
WRITES = {
    "state::set": {"scope": "s", "key": "k", "value": 1},
    "state::update": {"scope": "s", "key": "old", "ops": [{"type": "increment", "path": "n", "by": 1}]},
    "state::delete": {"scope": "s", "key": "gone"},
    "stream::set": {"stream_name": "x", "group_id": "g", "item_id": "i", "data": 1},
    "stream::update": {
        "stream_name": "x",
        "group_id": "g",
        "item_id": "old",
        "ops": [{"type": "increment", "path": "n", "by": 1}],
    },
    "stream::delete": {"stream_name": "x", "group_id": "g", "item_id": "gone"},
    "iii::durable::publish": {"topic": "nobody-yet", "data": 1},
    "engine::queue::enqueue": {"queue": "work", "function_id": "jobs::run", "data": 1},
    "iii::queue::redrive_message": {"queue": "broken", "message_id": "redriven"},
    "iii::queue::discard_message": {"queue": "broken", "message_id": "discarded"},
    "configuration::set": {"id": "entry", "value": 2},
    "configuration::register": ENTRY | {"id": "another"},
}


async def prepare(client):
    """What the writes need to be there."""
    for key in ("old", "gone"):
        await client.call("state::set", {"scope": "s", "key": key, "value": {"n": 1}})
        await client.call("stream::set", {"stream_name": "x", "group_id": "g", "item_id": key, "data": {"n": 1}})
    await client.call("configuration::register", ENTRY)
    for receipt in ("redriven", "discarded"):
        job = {"queue": "broken", "function_id": "nobody::there", "data": 1, "messageReceiptId": receipt}
        await client.call("engine::queue::enqueue", job)
    await client.until("engine::queue::dlq_messages", {"topic": "broken"}, lambda letters: len(letters) == 2)


async def answers_wait(engine, client, kinds, asked):
    """The answers to some calls do not come while a sync is held, though all else goes on; they come afterwards."""
    engine.disk.hold = kinds
    answers = [await ask() for ask in asked]
    await until(lambda: engine.disk.held)
    for _ in range(3):
        await client.settled()
        assert await client.call("state::get", {"scope": "s", "key": "old"})
    assert not any(answer.done() for answer in answers)
    engine.disk.hold = 0
    async with asyncio.timeout(SECONDS):
        return [result(each) for each in await asyncio.gather(*answers)]


async def test_the_answer_to_each_kind_of_write_waits_for_its_sync(engine):
    client = await engine.connect()
    await prepare(client)
    for function_id, data in WRITES.items():
        kinds = OTHER_SYNC if function_id.startswith("configuration") else LOG_SYNC
        await answers_wait(engine, client, kinds, [lambda call=(function_id, data): client.ask(*call)])
    again = {"id": "entry", "value": 3}
    await answers_wait(engine, client, FOLDER_SYNC, [lambda: client.ask("configuration::set", again)])
    await client.close()


async def test_the_receipt_of_an_enqueued_call_and_the_call_itself_wait_for_the_sync(engine):
    client = await engine.connect()
    ran = asyncio.Event()
    await client.call("state::set", {"scope": "s", "key": "old", "value": 1})
    await client.serve("jobs::run", lambda data: ran.set())
    await client.settled()
    action = {"type": "enqueue", "queue": "work"}
    (receipt,) = await answers_wait(
        engine, client, LOG_SYNC, [lambda: client.ask("jobs::run", {"n": 1}, action=action)]
    )
    assert receipt["messageReceiptId"]
    async with asyncio.timeout(SECONDS):
        await ran.wait()
    await client.close()


async def test_a_whole_group_waits_for_its_one_sync(engine):
    client = await engine.connect()
    await client.call("state::set", {"scope": "s", "key": "old", "value": 1})
    before = engine.disk.log_syncs
    writes = [
        lambda number=number: client.ask("state::set", {"scope": "s", "key": str(number), "value": number})
        for number in range(200)
    ]
    await answers_wait(engine, client, LOG_SYNC, writes)
    assert engine.disk.log_syncs - before <= 10
    await client.close()


@pytest.mark.parametrize("level", ["NORMAL", "OFF"])
async def test_these_tests_notice_an_engine_that_does_not_wait(processes, level):
    engine = processes(level, synchronous=level)
    await engine.start()
    client = await engine.connect()
    await client.call(
        "state::set", {"scope": "s", "key": "k", "value": 1}
    )  # the head of a new log is synced in any case
    engine.disk.hold = LOG_SYNC
    await client.call("state::set", {"scope": "s", "key": "k", "value": 2})
    assert engine.disk.held == 0
    await client.close()
