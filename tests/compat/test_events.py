"""Topics without memory, and the clock."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from tests.compat.engine import CallError
from tests.compat.sdks import SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "new-names.yaml"
IDENTITIES = ("tokens",)


@check(61)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscriber_hears_on_when_another_one_unsubscribes(agents, unique, sdk):
    agent, topic = agents[sdk], unique("topic")
    first = await agent.function(unique(f"{agent.prefix}::first"))
    second = await agent.function(unique(f"{agent.prefix}::second"))
    binding = await agent.bind("subscribe", first, {"topic": topic})
    await agent.bind("subscribe", second, {"topic": topic})
    assert await agent.call("publish", {"topic": topic, "data": {"n": 1}}) is None
    assert await agent.saw(first) == [{"n": 1}]
    assert await agent.saw(second) == [{"n": 1}]
    await agent.unbind(binding)
    await agent.call("publish", {"topic": topic, "data": {"n": 2}})
    assert await agent.saw(second, 2) == [{"n": 1}, {"n": 2}]
    assert await agent.seen(first) == [{"n": 1}]
    with pytest.raises(CallError) as failure:
        await agent.call("publish", {"topic": "", "data": 1})
    assert failure.value.code == "topic_not_set"


@check(61)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscriber_of_another_topic_hears_nothing(agents, unique, sdk):
    agent, topic = agents[sdk], unique("topic")
    heard = await agent.function(unique(f"{agent.prefix}::heard"))
    await agent.bind("subscribe", heard, {"topic": topic})
    await agent.call("publish", {"topic": unique("topic"), "data": "not for it"})
    await agent.call("publish", {"topic": topic, "data": "for it"})
    assert await agent.saw(heard) == ["for it"]


@check(62, sdks=SDKS)
async def test_a_clock_of_every_second_ticks_about_once_a_second_and_never_twice_at_a_time(agents, unique):
    ticking = {}
    for sdk, agent in agents.items():
        ticking[sdk] = await agent.function(unique(f"{agent.prefix}::tick"))
        await agent.bind("cron", ticking[sdk], {"expression": "* * * * * *"})
    slow = agents["py-0.25.0"]
    busy = await slow.function(unique("py25::busy"), delay_ms=1500)
    await slow.bind("cron", busy, {"expression": "* * * * * *"})
    for sdk, agent in agents.items():
        ticks = await agent.saw(ticking[sdk], 4)
        assert all(each["trigger"] == "cron" and each["job_id"] for each in ticks)
        assert len({each["job_id"] for each in ticks}) == 1
        scheduled = [datetime.fromisoformat(each["scheduled_time"]) for each in ticks]
        actual = [datetime.fromisoformat(each["actual_time"]) for each in ticks]
        assert all(each.utcoffset() == timedelta(0) and each.microsecond == 0 for each in scheduled)
        gaps = [later - earlier for earlier, later in itertools.pairwise(scheduled)]
        assert all(timedelta(seconds=1) <= gap <= timedelta(seconds=3) for gap in gaps)
        late = [done - due for due, done in zip(scheduled, actual, strict=True)]
        assert all(timedelta(0) <= each < timedelta(seconds=2) for each in late)
    assert 1 <= len(await slow.seen(busy)) <= 3  # in four seconds


@check(62)
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_expression_of_five_fields_is_refused(mesh, agents, unique, sdk):
    agent = agents[sdk]
    function_id = await agent.function(unique(f"{agent.prefix}::never"))
    await agent.bind("cron", function_id, {"expression": "* * * * *"})
    if sdk in ("node-0.22.1", "py-0.25.0"):  # the others are told, but do not show it
        await agent.logged("Trigger registration failed")
    raw = await mesh.connect()
    config = {"expression": "* * * * *"}
    await raw.send(type="registertrigger", id=unique("bad"), trigger_type="cron", function_id="raw::x", config=config)
    refused = await raw.receive("triggerregistrationresult")
    assert refused["error"]["code"] == "trigger_registration_failed"
    assert await agent.seen(function_id) == []


@check(62)
async def test_weekday_1_is_sunday(mesh, unique):
    """Today and tomorrow by iii's count tick; the five other days do not."""
    raw = await mesh.connect()
    heard: dict[str, list] = {"near": [], "far": []}
    today = datetime.now(UTC).isoweekday() % 7 + 1
    days = [(today - 1 + ahead) % 7 + 1 for ahead in range(7)]
    for name, chosen in (("near", days[:2]), ("far", days[2:])):
        function_id = unique(f"raw::{name}")
        await raw.register(function_id, heard[name].append)
        await raw.bind("cron", function_id, {"expression": f"* * * * * {','.join(map(str, sorted(chosen)))}"})
    for _ in range(2):
        await raw.receive("invokefunction")
    assert len(heard["near"]) >= 1
    assert heard["far"] == []
