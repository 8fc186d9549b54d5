"""Named queues, topics, dead letters."""

import asyncio
import itertools
import time

import pytest

from tests.compat.engine import CallError, wait_for
from tests.compat.sdks import PREFIXES, SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"
IDENTITIES = ("tokens",)


async def dead(agent, queue: str, size: int = 1, **only) -> list[dict]:
    """Wait until a queue has so many dead letters, of those whose payload has these fields."""

    async def there() -> list[dict] | None:
        found = await agent.call("engine::queue::dlq_messages", {"topic": queue, "limit": 1000})
        ours = [each for each in found if only.items() <= each["payload"].items()]
        return ours if len(ours) >= size else None

    return await wait_for(there, f"{size} dead letters in {queue}")


@check(54)
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_enqueued_call_gets_a_receipt_and_is_delivered_once_as_it_is(agents, unique, sdk):
    agent = agents[sdk]
    function_id = await agent.function(unique(f"{agent.prefix}::job"))
    payloads = [{"n": 1, "deep": [None, {"\u00e4": 1.5}]}, [1, "two"], "text", 7]
    for payload in payloads:
        receipt = await agent.call(function_id, payload, queue="jobs")
        assert len(receipt["messageReceiptId"]) == 36
    seen = await agent.saw(function_id, len(payloads))
    assert sorted(map(str, seen)) == sorted(map(str, payloads))  # nothing is added


@check(54)
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_unknown_queue_is_refused(agents, sdk):
    with pytest.raises(CallError, match="no-such-queue") as failure:
        await agents[sdk].call(f"{PREFIXES[sdk]}::echo", {}, queue="no-such-queue")
    assert failure.value.code == "enqueue_error"


@check(55)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_fifo_queue_keeps_the_order_of_each_group(agents, unique, sdk):
    agent = agents[sdk]
    function_id = await agent.function(unique(f"{agent.prefix}::ordered"), delay_ms=2)
    groups = [unique("account") for _ in range(4)]
    for number in range(15):
        await asyncio.gather(
            *(agent.call(function_id, {"account": group, "number": number}, queue="ordered") for group in groups)
        )
    seen = await agent.saw(function_id, 60)
    for group in groups:
        assert [each["number"] for each in seen if each["account"] == group] == list(range(15))


@check(55)
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("payload", [{"other": 1}, {"account": None}], ids=["missing", "null"])
async def test_a_fifo_queue_refuses_what_belongs_to_no_group(agents, sdk, payload):
    with pytest.raises(CallError, match="account") as failure:
        await agents[sdk].call(f"{PREFIXES[sdk]}::echo", payload, queue="ordered")
    assert failure.value.code == "enqueue_error"


@check(56)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_failing_job_is_tried_four_times_ever_later_and_then_kept_as_it_was(mesh, agents, unique, sdk):
    agent, mark = agents[sdk], unique("mark")
    function_id = unique("raw::failing")
    times: list[float] = []

    def fail(data) -> None:
        times.append(time.monotonic())
        raise CallError({"code": "broken", "message": "on purpose"})

    raw = await mesh.connect()
    await raw.register(function_id, fail)
    payload = {"mark": mark, "deep": [1, None]}
    await agent.call(function_id, payload, queue="stubborn")
    (letter,) = await dead(agent, "stubborn", mark=mark)
    assert len(times) == 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= 0.045
    assert gaps[1] >= 0.09
    assert gaps[2] >= 0.18
    assert letter["payload"] == payload
    assert letter["id"]
    assert letter["error"]
    assert letter["retries"] == 4
    assert letter["size_bytes"] > 0
    assert abs(letter["failed_at"] - time.time()) < 60
    await raw.close()


@check(56)
@pytest.mark.parametrize("sdk", SDKS)
async def test_without_retries_there_is_one_attempt(agents, unique, sdk):
    agent, mark = agents[sdk], unique("mark")
    function_id = await agent.function(unique(f"{agent.prefix}::failing"), fail=True)
    await agent.call(function_id, {"mark": mark}, queue="once")
    await dead(agent, "once", mark=mark)
    assert len(await agent.seen(function_id)) == 1


@check(57)
@pytest.mark.parametrize("sdk", SDKS)
async def test_dead_letters_are_delivered_again_on_demand(bench, unique, sdk):
    agent = await bench.start(sdk)
    await bench.answering(agent.prefix)
    function_id = await agent.function(unique(f"{agent.prefix}::recovering"), fail_first=3)
    assert await agent.call("iii::queue::redrive", {"queue": "once"}) == {"queue": "once", "redriven": 0}
    with pytest.raises(CallError) as failure:
        await agent.call("iii::queue::redrive", {"queue": ""})
    assert failure.value.code == "queue_not_set"
    for number in range(3):
        await agent.call(function_id, {"number": number}, queue="once")
    letters = {each["payload"]["number"]: each for each in await dead(agent, "once", 3)}
    topics = await agent.call("engine::queue::dlq_topics", {})
    assert [(each["topic"], each["message_count"]) for each in topics] == [("once", 3)]
    one = {"queue": "once", "message_id": letters[1]["id"]}
    assert await agent.call("iii::queue::redrive_message", one) == {**one, "redriven": 1}
    assert (await agent.saw(function_id, 4))[-1]["number"] == 1
    one = {"queue": "once", "message_id": letters[2]["id"]}
    discarded = await agent.call("iii::queue::discard_message", one)
    assert discarded["message_id"] == one["message_id"]
    assert await agent.call("iii::queue::redrive", {"queue": "once"}) == {"queue": "once", "redriven": 1}
    assert [each["number"] for each in await agent.saw(function_id, 5)][3:] == [1, 0]

    async def empty() -> bool:
        stats = await agent.call("engine::queue::topic_stats", {"topic": "once"})
        return (stats["depth"], stats["dlq_depth"]) == (0, 0)

    await wait_for(empty, "nothing is left in the queue")


@check(58)
@pytest.mark.parametrize("sdk", SDKS)
async def test_every_function_on_a_topic_gets_each_message_and_one_of_its_replicas(mesh, agents, unique, sdk):
    topic, name = unique("topic"), unique("replica")
    replicas = [await mesh.start(sdk, name), await mesh.start("py-0.25.0", name)]
    await mesh.answering(name)
    for agent in replicas:
        await agent.function(f"{name}::shared")
        await agent.bind("durable:subscriber", f"{name}::shared", {"topic": topic})
    other = await agents[sdk].function(unique(f"{PREFIXES[sdk]}::other"))
    await agents[sdk].bind("durable:subscriber", other, {"topic": topic})
    for number in range(12):
        await agents[sdk].call("iii::durable::publish", {"topic": topic, "data": {"number": number}})
    assert sorted(each["number"] for each in await agents[sdk].saw(other, 12)) == list(range(12))

    async def shared() -> list | None:
        seen = [each["number"] for agent in replicas for each in await agent.seen(f"{name}::shared")]
        return sorted(seen) if len(seen) >= 12 else None

    assert await wait_for(shared, "the replicas share the messages") == list(range(12))
    assert len(await agents[sdk].seen(other)) == 12
    for agent in replicas:
        await agent.end()


@check(58)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_message_that_fails_is_retried_as_its_subscriber_asks(agents, unique, sdk):
    agent, topic = agents[sdk], unique("topic")
    function_id = await agent.function(unique(f"{agent.prefix}::flaky"), fail_first=2)
    settings = {"maxRetries": 2, "backoffDelayMs": 20, "backoffType": "exponential"}
    await agent.bind("durable:subscriber", function_id, {"topic": topic, "queue_config": settings})
    with pytest.raises(CallError) as failure:
        await agent.call("iii::durable::publish", {"topic": "", "data": 1})
    assert failure.value.code == "topic_not_set"
    await agent.call("iii::durable::publish", {"topic": topic, "data": [1]})
    assert await agent.saw(function_id, 3) == [[1]] * 3


@check(59)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_message_that_the_condition_declines_is_neither_delivered_nor_retried(agents, unique, sdk):
    agent, topic = agents[sdk], unique("topic")
    declined = await agent.function(unique(f"{agent.prefix}::declined"))
    wanted = await agent.function(unique(f"{agent.prefix}::wanted"))
    no = await agent.function(unique(f"{agent.prefix}::no"), result=False)
    settings = {"maxRetries": 3, "backoffDelayMs": 10}
    config = {"topic": topic, "condition_function_id": no, "queue_config": settings}
    await agent.bind("durable:subscriber", declined, config)
    await agent.bind("durable:subscriber", wanted, {"topic": topic})
    for number in range(2):
        await agent.call("iii::durable::publish", {"topic": topic, "data": number})
    await agent.saw(wanted, 2)
    assert sorted(await agent.saw(no, 2)) == [0, 1]
    stats = await agent.call("engine::queue::topic_stats", {"topic": topic})
    assert stats["dlq_depth"] == 0
    assert await agent.seen(declined) == []
    assert len(await agent.seen(no)) == 2


@check(60)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_job_for_a_function_that_is_not_there_is_retried_and_does_not_hold_up_others(agents, unique, sdk):
    agent, mark = agents[sdk], unique("mark")
    function_id = await agent.function(unique(f"{agent.prefix}::present"))
    await agent.call(unique("no::such"), {"mark": mark}, queue="stubborn")
    await agent.call(function_id, {"n": 1}, queue="stubborn")
    assert await agent.saw(function_id) == [{"n": 1}]
    (letter,) = await dead(agent, "stubborn", mark=mark)
    assert letter["retries"] == 4


@check(60)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_job_waits_for_a_function_that_comes_in_time(agents, unique, sdk):
    agent = agents[sdk]
    function_id = unique(f"{agent.prefix}::later")
    await agent.call(function_id, {"n": 2}, queue="kept")
    await agent.function(function_id)
    assert await agent.saw(function_id) == [{"n": 2}]
