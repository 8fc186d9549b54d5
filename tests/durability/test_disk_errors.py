"""A disk that is full, or fails: refusals that say so, nothing acknowledged lost, and on it goes by itself."""

import asyncio
import errno

import pytest

from tests.durability.disk import DATABASE_SYNC, DATABASE_WRITE, LOG_SYNC, LOG_WRITE, OTHER_SYNC, OTHER_WRITE
from tests.durability.engine import ENTRY, EngineError
from tests.waiting import until

TEXT = "x" * 1000


async def put(client, key, value=TEXT):
    return await client.call("state::set", {"scope": "s", "key": str(key), "value": value})


async def get(client, key):
    return await client.call("state::get", {"scope": "s", "key": str(key)})


async def refused(call):
    with pytest.raises(EngineError) as caught:
        await call
    return caught.value


FAILURES = [
    (LOG_SYNC, errno.EIO, "storage_failed"),
    (LOG_SYNC, errno.ENOSPC, "storage_failed"),
    (LOG_WRITE, errno.EIO, "storage_failed"),
    (LOG_WRITE, errno.ENOSPC, "storage_full"),
    (LOG_WRITE, errno.EDQUOT, "storage_failed"),
]
WRITES = {
    "state::set": {"scope": "s", "key": "refused", "value": 1},
    "state::update": {"scope": "s", "key": "before", "ops": [{"type": "set", "path": "", "value": 2}]},
    "state::delete": {"scope": "s", "key": "before"},
    "stream::set": {"stream_name": "x", "group_id": "g", "item_id": "refused", "data": 1},
    "engine::queue::enqueue": {"queue": "work", "function_id": "a::f", "data": 1},
    "iii::durable::publish": {"topic": "t", "data": 1},
}


async def test_a_write_that_the_disk_refuses_is_refused_and_later_ones_go_on(engine):
    client = await engine.connect()
    await put(client, "before")
    for number, (kinds, errno_, code) in enumerate(FAILURES):
        engine.disk.fail_in(kinds, errno_)
        for function_id, data in WRITES.items():
            error = await refused(client.call(function_id, data))
            assert (error.code, "disk" in error.message) == (code, True), function_id
            assert str(engine.data) in error.message
        assert await get(client, "before") == TEXT
        assert await get(client, "refused") is None
        engine.disk.fail = 0
        await put(client, f"after-{number}")
    told = [each["message"] for each in engine.lines() if each.get("level") == "error"]
    assert len([each for each in told if each.startswith("writes fail: ")]) == len(FAILURES)
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert await get(client, "before") == TEXT
    assert [await get(client, f"after-{number}") for number in range(len(FAILURES))] == [TEXT] * len(FAILURES)
    assert await get(client, "refused") is None
    assert (await client.call("engine::queue::topic_stats", {"topic": "work"}))["depth"] == 0
    await client.close()


async def test_what_a_failed_sync_has_lost_is_not_built_upon_after_a_restart(engine):
    """The pages of a failed sync look written and are not: a log that goes on behind them would be cut off there."""
    client = await engine.connect()
    await put(client, "before")
    engine.disk.fail_in(LOG_SYNC, errno.EIO)
    for number in range(20):
        await refused(put(client, f"refused-{number}"))
    await client.close()
    await engine.kill()
    await engine.start(settle=False)
    client = await engine.connect()
    for number in range(20):
        await put(client, f"after-{number}")
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert await get(client, "before") == TEXT
    assert [await get(client, f"after-{number}") for number in range(20)] == [TEXT] * 20
    await client.close()


async def test_a_checkpoint_that_fails_loses_nothing_and_comes_about_later(engine):
    client = await engine.connect()
    engine.disk.fail_in(DATABASE_SYNC | DATABASE_WRITE, errno.EIO)
    big = "x" * 500_000
    for number in range(45):  # more than 16 MB
        await put(client, number, big)
    assert engine.disk.failed
    engine.disk.fail = 0
    before = engine.disk.database_syncs
    await put(client, "last", big)
    await until(lambda: engine.disk.database_syncs > before)
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert {await get(client, number) for number in [*range(45), "last"]} == {big}
    await client.close()


async def test_on_a_full_disk_values_can_be_deleted_and_jobs_end(engine):
    ran = []
    client = await engine.connect()
    await client.serve("jobs::work", lambda data: ran.append(data))
    for number in range(50):
        await put(client, number)
    job = {"queue": "work", "function_id": "jobs::later", "data": 1}
    await client.call("engine::queue::enqueue", job)
    engine.disk.room = 300_000
    engine.disk.limited = 1
    writes = [put(client, f"refused-{number}", TEXT * 20) for number in range(5)]
    deletes = [client.call("state::delete", {"scope": "s", "key": str(number)}) for number in range(20)]
    outcomes = await asyncio.gather(*writes, *deletes, return_exceptions=True)
    assert {getattr(each, "code", None) for each in outcomes[:5]} == {"storage_full"}
    assert "free space" in outcomes[0].message
    assert outcomes[5:] == [TEXT] * 20
    await client.serve("jobs::later", lambda data: ran.append("later"))
    await client.until("engine::queue::topic_stats", {"topic": "work"}, lambda found: found["depth"] == 0)
    assert ran == ["later"]
    engine.disk.limited = 0
    await put(client, "again")
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert [await get(client, key) for key in (0, 19, 20, "again")] == [None, None, TEXT, TEXT]
    assert (await client.call("engine::queue::topic_stats", {"topic": "work"}))["depth"] == 0
    await client.close()


async def test_a_configuration_entry_that_cannot_be_written_stays_as_it_was(engine):
    client = await engine.connect()
    await client.call("configuration::register", ENTRY)
    for kinds in (OTHER_SYNC, OTHER_WRITE):
        engine.disk.fail_in(kinds, errno.ENOSPC)
        error = await refused(client.call("configuration::set", {"id": "entry", "value": 2}))
        assert error.code == "ADAPTER_ERROR"
        assert "No space left" in error.message
    engine.disk.fail = 0
    assert (await client.call("configuration::get", {"id": "entry"}))["value"] == 1
    await client.close()
    await engine.kill()
    engine.disk.lose_power()
    await engine.start()
    client = await engine.connect()
    assert (await client.call("configuration::get", {"id": "entry"}))["value"] == 1
    await client.close()


@pytest.mark.parametrize("kinds", [LOG_SYNC, DATABASE_SYNC])
async def test_an_engine_that_cannot_make_its_database_says_so_and_can_later(processes, kinds):
    engine = processes()
    await engine.begin()
    engine.disk.fail_in(kinds, errno.EIO)
    if not await engine.listening():
        line = engine.lines()[-1]["message"]
        assert line.startswith("agentos-engine: ")
        assert "the disk failed" in line
    await engine.kill()
    await engine.start()
    client = await engine.connect()
    await put(client, "k")
    assert await get(client, "k") == TEXT
    await client.close()
