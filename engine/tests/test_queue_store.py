"""What every QueueStore does."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from agentos_engine.storage import queues
from agentos_engine.storage.queues import Job, Keep, Key, MemoryQueueStore, Subscription
from agentos_engine.storage.sqlite import SqliteStorage

PLENTY = Keep(count=1000, size=1 << 30)


@asynccontextmanager
async def memory():
    """A store in memory."""
    yield MemoryQueueStore()


@asynccontextmanager
async def sqlite():
    """A store on the disk."""
    with TemporaryDirectory() as folder:
        storage = await SqliteStorage.open(Path(folder))
        yield storage.queues
        await storage.close()


STORES = [memory, sqlite]
"""Each makes an empty store, and removes what it leaves behind."""


@pytest.fixture(params=STORES)
async def store(request):
    """An empty store."""
    async with request.param() as store:
        yield store
        await store.close()


def job(queue="q", **values):
    defaults = {"id": "j", "function_id": "a::f", "data": b'{"n":1}', "created_at": 10.0, "due_at": 10.0}
    return Job(queue=queue, max_attempts=3, **(defaults | values))


async def put(store, *jobs, **more):
    return await store.add(jobs, **({"receipt": "r", "now": 10.0} | more))


async def dead(store, *queues, offset=0, limit=100, max_bytes=1 << 30):
    return await store.dead(queues or ("q",), offset=offset, limit=limit, max_bytes=max_bytes)


async def bury(store, seq, failed_at=20.0, keep=PLENTY):
    return await store.bury(seq, attempts_made=3, failed_at=failed_at, error="c: m", keep=keep)


async def test_a_job_comes_back_with_all_that_was_put_in(store):
    whole = job(
        namespace="ns",
        data='{"text": "ä\\u0000😀", "long": "%s"}'.encode() % (b"x" * (1 << 20)),
        metadata=b'{"m": 1}',
        traceparent="00-a",
        baggage="k=v",
        due_at=12.5,
        group='"g"',
        priority=7,
        idempotency_key="key",
        worker_version="1.2",
    )
    added = await put(store, whole)
    (waiting,) = added.waiting
    assert added.receipt == "r"
    stored = await store.get(waiting.seq)
    assert {name: getattr(stored, name) for name in Job.__struct_fields__ if name != "seq"} == {
        name: getattr(whole, name) for name in Job.__struct_fields__ if name != "seq"
    }
    assert stored.seq == waiting.seq
    assert (waiting.queue, waiting.created_at, waiting.due_at) == ("q", 10.0, 12.5)
    assert (waiting.group, waiting.priority, waiting.size) == ('"g"', 7, len(whole.data) + 8)
    assert await store.waiting() == [waiting]


async def test_numbers_grow_in_the_order_of_putting_in_and_are_never_used_twice(store):
    first, second = (await put(store, job(), job(queue="p"))).waiting
    await store.done(second.seq)
    (third,) = (await put(store, job())).waiting
    assert first.seq < second.seq < third.seq
    assert [each.seq for each in await store.waiting()] == [first.seq, third.seq]


async def test_writes_that_are_under_way_together_keep_their_order(store):
    added = await asyncio.gather(*(put(store, job(id=str(number))) for number in range(50)))
    numbers = [each.waiting[0].seq for each in added]
    assert numbers == sorted(numbers)


async def test_a_job_that_is_done_is_gone_and_what_is_unknown_is_ignored(store):
    (waiting,) = (await put(store, job())).waiting
    await store.done(waiting.seq)
    await store.done(waiting.seq)
    await store.retry(waiting.seq, attempts_made=1, due_at=1.0, error="e")
    assert await bury(store, waiting.seq) == 0
    assert await store.get(waiting.seq) is None
    assert await store.waiting() == []
    assert await dead(store) == []


async def test_a_failed_attempt_is_recorded(store):
    (waiting,) = (await put(store, job())).waiting
    await store.retry(waiting.seq, attempts_made=1, due_at=99.0, error="c: m")
    stored = await store.get(waiting.seq)
    assert (stored.attempts_made, stored.due_at, stored.last_error) == (1, 99.0, "c: m")
    assert [each.due_at for each in await store.waiting()] == [99.0]


async def test_putting_in_can_take_others_out_in_the_same_step(store):
    (old,) = (await put(store, job(id="old"))).waiting
    (new,) = (await put(store, job(id="new"), remove=[old.seq, 12345])).waiting
    assert [each.seq for each in await store.waiting()] == [new.seq]


class TestKeys:
    async def test_a_known_key_gives_the_first_receipt_and_changes_nothing(self, store):
        keys = [Key("scope", "k", 100.0)]
        (old,) = (await put(store, job(), receipt="first", keys=keys)).waiting
        again = await put(store, job(), receipt="second", keys=keys, remove=[old.seq])
        assert (again.receipt, list(again.waiting)) == ("first", [])
        assert [each.seq for each in await store.waiting()] == [old.seq]

    async def test_it_outlives_its_job(self, store):
        keys = [Key("scope", "k", 100.0)]
        (waiting,) = (await put(store, job(), receipt="first", keys=keys)).waiting
        await store.done(waiting.seq)
        assert (await put(store, job(), keys=keys)).receipt == "first"

    async def test_one_known_key_of_several_is_enough_and_the_others_are_not_remembered_then(self, store):
        await put(store, job(), receipt="first", keys=[Key("scope", "a", 100.0)])
        both = [Key("scope", "b", 100.0), Key("scope", "a", 100.0)]
        assert (await put(store, job(), receipt="second", keys=both)).receipt == "first"
        assert (await put(store, job(), receipt="third", keys=[Key("scope", "b", 100.0)])).receipt == "third"

    async def test_it_counts_within_its_scope_only(self, store):
        await put(store, job(), receipt="first", keys=[Key("one", "k", 100.0)])
        assert (await put(store, job(), receipt="second", keys=[Key("two", "k", 100.0)])).receipt == "second"

    async def test_one_that_has_expired_is_as_good_as_new(self, store):
        await put(store, job(), receipt="first", keys=[Key("s", "k", 100.0)])
        later = await put(store, job(), receipt="second", keys=[Key("s", "k", 200.0)], now=100.0)
        assert later.receipt == "second"
        await store.expire_keys(150.0)
        assert (await put(store, job(), receipt="third", keys=[Key("s", "k", 200.0)], now=150.0)).receipt == "second"
        await store.expire_keys(200.0)
        assert (await put(store, job(), receipt="fourth", keys=[Key("s", "k", 200.0)], now=150.0)).receipt == "fourth"

    async def test_of_too_many_the_oldest_are_forgotten(self, store, monkeypatch):
        monkeypatch.setattr(queues, "MAX_KEYS", 2)
        for name in "abc":
            await put(store, job(), receipt=name, keys=[Key("s", name, 100.0)])
        assert (await put(store, job(), receipt="new", keys=[Key("s", "c", 100.0)])).receipt == "c"
        assert (await put(store, job(), receipt="new", keys=[Key("s", "a", 100.0)])).receipt == "new"

    async def test_of_two_at_the_same_time_one_is_put_in(self, store):
        keys = [Key("s", "k", 100.0)]
        added = await asyncio.gather(*(put(store, job(), receipt=str(n), keys=keys) for n in range(5)))
        assert {each.receipt for each in added} == {"0"}
        assert len(await store.waiting()) == 1


class TestDead:
    async def test_a_dead_job_waits_no_longer_and_keeps_payload_and_error(self, store):
        (waiting,) = (await put(store, job(metadata=b"{}"))).waiting
        await bury(store, waiting.seq)
        assert await store.get(waiting.seq) is None
        assert await store.waiting() == []
        (buried,) = await dead(store)
        assert (buried.data, buried.metadata, buried.attempts_made) == (b'{"n":1}', b"{}", 3)
        assert (buried.failed_at, buried.last_error) == (20.0, "c: m")
        assert await store.dead_counts() == {"q": 1}

    async def test_they_are_listed_over_queues_by_the_time_of_their_death(self, store):
        added = (await put(store, job(id="a"), job(id="b", queue="p"), job(id="c"), job(queue="other"))).waiting
        for waiting, failed_at in zip(added, (23.0, 21.0, 22.0, 20.0), strict=True):
            await bury(store, waiting.seq, failed_at)
        assert [each.id for each in await dead(store, "q", "p")] == ["b", "c", "a"]
        assert [each.id for each in await dead(store, "q", "p", offset=1, limit=1)] == ["c"]
        assert await dead(store, "q", "p", offset=3) == []
        assert await dead(store, "q", limit=0) == []
        assert await store.dead_counts() == {"q": 2, "p": 1, "other": 1}

    async def test_a_page_ends_before_it_is_too_large_but_is_never_empty_for_that(self, store):
        for waiting in (await put(store, *(job(id=str(n)) for n in range(3)))).waiting:
            await bury(store, waiting.seq)
        assert [each.id for each in await dead(store, max_bytes=14)] == ["0", "1"]
        assert [each.id for each in await dead(store, max_bytes=1)] == ["0"]

    async def test_beyond_the_bounds_the_oldest_are_dropped(self, store):
        added = (await put(store, *(job(id=str(n)) for n in range(4)))).waiting
        keep = Keep(count=2, size=1 << 20)
        assert [await bury(store, each.seq, keep=keep) for each in added[:3]] == [0, 0, 1]
        assert [each.id for each in await dead(store)] == ["1", "2"]
        assert await bury(store, added[3].seq, keep=Keep(count=10, size=1)) == 2
        assert [each.id for each in await dead(store)] == ["3"]

    async def test_the_one_that_died_last_is_kept_even_when_the_clock_was_set_back(self, store):
        first, second = (await put(store, job(id="a"), job(id="b"))).waiting
        await bury(store, first.seq, failed_at=20.0)
        assert await bury(store, second.seq, failed_at=10.0, keep=Keep(count=1, size=1)) == 1
        assert [each.id for each in await dead(store)] == ["b"]

    async def test_redriving_makes_them_wait_again_in_their_old_order(self, store):
        added = (await put(store, job(id="a"), job(id="b"), job(id="c"), job(queue="p"))).waiting
        for waiting in (added[1], added[0], added[3]):
            await bury(store, waiting.seq)
        redriven = await store.redrive("q", due_at=30.0, max_attempts=5)
        assert [each.seq for each in redriven] == [added[0].seq, added[1].seq]
        assert [each.seq for each in await store.waiting()] == [each.seq for each in added[:3]]
        again = await store.get(added[0].seq)
        assert (again.attempts_made, again.due_at, again.failed_at, again.max_attempts) == (0, 30.0, None, 5)
        assert await store.dead_counts() == {"p": 1}
        assert await store.redrive("q", due_at=30.0) == []

    async def test_one_can_be_redriven_or_discarded_by_its_id(self, store):
        for waiting in (await put(store, job(id="a"), job(id="b"), job(id="c"))).waiting:
            await bury(store, waiting.seq)
        (redriven,) = await store.redrive("q", due_at=30.0, id="b")
        assert (await store.get(redriven.seq)).max_attempts == 3
        assert await store.discard("q", "c") == 1
        assert await store.discard("q", "c") == 0
        assert await store.discard("other", "a") == 0
        assert [each.id for each in await dead(store)] == ["a"]


class TestSubscriptions:
    async def test_one_per_queue_is_kept_and_the_newest_counts(self, store):
        first = Subscription("q", "topic", "a::f", "ns", b"{}")
        other = Subscription("p", "topic", "a::g", "default", b"null", 12.5)
        later = Subscription("q", "topic", "a::f", "ns", b'{"maxRetries":1}', 99.0)
        for each in (first, other, later):
            await store.subscribe(each)
        assert sorted(await store.subscriptions(), key=lambda each: each.queue) == [other, later]

    async def test_forgetting_one_deletes_what_waits_for_it_and_not_what_is_dead(self, store):
        await store.subscribe(Subscription("q", "topic", "a::f", "ns", b"{}"))
        added = (await put(store, job(), job(), job(), job(queue="p"))).waiting
        await bury(store, added[0].seq)
        assert await store.forget("q") == 2
        assert await store.subscriptions() == []
        assert [each.queue for each in await store.waiting()] == ["p"]
        assert len(await dead(store)) == 1
        assert await store.forget("unknown") == 0
