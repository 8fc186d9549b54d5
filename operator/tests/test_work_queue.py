"""The queue of keys."""

import asyncio

import pytest
from agentos_operator.work_queue import FIRST_RETRY, LONGEST_RETRY, WorkQueue


@pytest.fixture
def queue(clock) -> WorkQueue[str]:
    return WorkQueue()


async def take(queue: WorkQueue[str], within: float = 0.0) -> str | None:
    """The next key, if one comes within so many seconds."""
    try:
        return await asyncio.wait_for(queue.get(), within or 0.001)
    except TimeoutError:
        return None


async def test_a_key_added_twice_is_worked_on_once(queue):
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1
    assert await take(queue) == "a"
    queue.done("a")
    assert await take(queue) is None
    assert len(queue) == 0


async def test_keys_come_in_the_order_in_which_they_were_added(queue):
    for key in "cab":
        queue.add(key)
    queue.add("c")
    assert [await take(queue) for _ in range(3)] == ["c", "a", "b"]


async def test_urgent_keys_come_before_all_others(clock):
    urgent = {"claims"}
    queue: WorkQueue[str] = WorkQueue(lambda key: key in urgent)
    for key in ("a", "b", "claims", "c", "claims"):
        queue.add(key)
    urgent.add("c")
    queue.add("c")
    assert len(queue) == 4
    assert [await take(queue) for _ in range(5)] == ["claims", "c", "a", "b", None]


async def test_a_key_is_never_worked_on_twice_at_a_time(queue):
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    assert await take(queue, 60) is None


async def test_a_key_added_while_it_is_worked_on_comes_once_more_afterwards(queue):
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.add("a")
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await take(queue) is None


async def test_a_delayed_key_comes_when_it_is_due(queue, clock):
    start = clock.now
    queue.add("a", 5.0)
    assert len(queue) == 1
    assert await queue.get() == "a"
    assert clock.now - start == pytest.approx(5.0)


async def test_a_waiting_consumer_learns_of_an_earlier_key(queue, clock):
    start = clock.now
    queue.add("late", 60.0)
    consumer = asyncio.create_task(queue.get())
    await asyncio.sleep(1.0)
    queue.add("early", 2.0)
    assert await consumer == "early"
    assert clock.now - start == pytest.approx(3.0)


async def test_the_earliest_of_several_delays_wins_and_the_key_comes_once(queue, clock):
    start = clock.now
    for delay in (30.0, 5.0, 10.0):
        queue.add("a", delay)
    assert await queue.get() == "a"
    assert clock.now - start == pytest.approx(5.0)
    queue.done("a")
    assert await take(queue, 60) is None


async def test_adding_at_once_takes_the_place_of_a_delay(queue):
    queue.add("a", 5.0)
    queue.add("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await take(queue, 60) is None


async def test_a_delay_that_ends_while_the_key_is_worked_on_waits_until_it_is_done(queue):
    queue.add("a")
    await take(queue)
    queue.add("a", 1.0)
    assert await take(queue, 5) is None
    queue.done("a")
    assert await take(queue) == "a"


async def test_a_failing_key_comes_again_after_delays_that_double_up_to_a_bound(queue, clock):
    queue.add("a")
    delays = []
    for _ in range(12):
        started = clock.now
        assert await queue.get() == "a"
        waited = clock.now - started
        if delays:
            assert waited == pytest.approx(delays[-1])
        delays.append(queue.retry("a"))
    assert delays[:4] == [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4, FIRST_RETRY * 8]
    assert delays[-1] == LONGEST_RETRY


async def test_a_key_that_fails_for_ever_does_not_overflow(queue):
    for _ in range(2000):
        assert queue.retry("a") <= LONGEST_RETRY


async def test_success_starts_the_delays_anew(queue):
    queue.retry("a")
    queue.retry("a")
    queue.done("a")
    assert queue.retry("a") == FIRST_RETRY


async def test_a_failing_key_with_news_is_worked_on_at_once(queue):
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.retry("a")
    assert await take(queue) == "a"


async def test_a_failing_key_does_not_hold_up_others(queue):
    queue.add("bad")
    await take(queue)
    queue.retry("bad")
    queue.add("good")
    assert await take(queue) == "good"


async def test_every_key_reaches_exactly_one_of_several_consumers(queue):
    worked: list[str] = []

    async def consume() -> None:
        while True:
            key = await queue.get()
            await asyncio.sleep(0.5)
            worked.append(key)
            queue.done(key)

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    await asyncio.sleep(0)
    keys = [f"key-{number}" for number in range(20)]
    for key in keys:
        queue.add(key)
    await asyncio.sleep(10)
    for consumer in consumers:
        consumer.cancel()
    assert sorted(worked) == sorted(keys)
