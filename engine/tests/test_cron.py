import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from agentos_engine.bus.bus import Bus
from agentos_engine.cron import ExpressionError, parse
from agentos_engine.storage.records import MemoryRecords
from agentos_engine.storage.values import StorageError
from agentos_engine.triggers.cron import GRACE, Cron
from hypothesis import given, settings
from hypothesis import strategies as st

START = datetime(2026, 11, 21, 7, 30, 15, tzinfo=UTC)  # a Saturday


def following(expression, after=START, count=1):
    schedule, time, found = parse(expression), after.timestamp(), []
    for _ in range(count):
        time = schedule.next_after(time)
        found.append(datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * * *", ["2026-11-21 07:30:16", "2026-11-21 07:30:17"]),
        ("15 30 7 * * *", ["2026-11-22 07:30:15", "2026-11-23 07:30:15"]),
        ("0 0 9,12,15 * * *", ["2026-11-21 09:00:00", "2026-11-21 12:00:00"]),
        ("*/20 * * * * *", ["2026-11-21 07:30:20", "2026-11-21 07:30:40", "2026-11-21 07:31:00"]),
        ("50/5 * * * * *", ["2026-11-21 07:30:50", "2026-11-21 07:30:55", "2026-11-21 07:31:50"]),
        ("0-10/5 31 * * * *", ["2026-11-21 07:31:00", "2026-11-21 07:31:05", "2026-11-21 07:31:10"]),
        ("0 0 0 * * 1", ["2026-11-22 00:00:00", "2026-11-29 00:00:00"]),
        ("0 0 0 ? * SUN", ["2026-11-22 00:00:00"]),
        ("0 0 0 * * 7", ["2026-11-28 00:00:00"]),
        ("0 0 0 * * Mon-Wed/2", ["2026-11-23 00:00:00", "2026-11-25 00:00:00", "2026-11-30 00:00:00"]),
        ("0 0 0 * * thurs,TUESDAY", ["2026-11-24 00:00:00", "2026-11-26 00:00:00"]),
        ("0 0 0 31 * ?", ["2026-12-31 00:00:00", "2027-01-31 00:00:00", "2027-03-31 00:00:00"]),
        ("0 0 0 1 feb-April *", ["2027-02-01 00:00:00", "2027-03-01 00:00:00", "2027-04-01 00:00:00"]),
        ("0 0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 0 13 * FRI", ["2027-08-13 00:00:00"]),
        ("0 0 0 1 1 * 2028/10", ["2028-01-01 00:00:00", "2038-01-01 00:00:00"]),
        ("@yearly", ["2027-01-01 00:00:00"]),
        ("@monthly", ["2026-12-01 00:00:00"]),
        ("@weekly", ["2026-11-22 00:00:00"]),
        ("@daily", ["2026-11-22 00:00:00"]),
        ("@hourly", ["2026-11-21 08:00:00"]),
        ("  0   0 8 * * *  ", ["2026-11-21 08:00:00"]),
    ],
)
def test_the_ticks_of_an_expression(expression, expected):
    assert following(expression, count=len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("* * * * *", "has 5 fields; 6 or 7 are needed"),
        ("0 3 * * 1-5", "For the same times write '0 0 3 * * MON-FRI'"),
        ("*/5 * * * *", "write '0 */5 * * * *'"),
        ("0 9 * * 0", "write '0 0 9 * * SUN'"),
        ("", "has 0 fields"),
        ("* * * * * * * *", "has 8 fields"),
        ("@midnight", "is not one of @yearly"),
        ("60 * * * * *", "second '60' of the cron expression: '60' is not a number from 0 to 59"),
        ("* * 24 * * *", "from 0 to 23"),
        ("* * * 0 * *", "from 1 to 31"),
        ("* * * * 13 *", "a name such as JAN"),
        ("* * * * * 0", "from 1 to 7, or a name such as SUN; 1 is Sunday"),
        ("* * * * * * 1969", "from 1970 to 2100"),
        ("? * * * * *", "'?' is not a number"),
        ("*/0 * * * * *", "a number from 1 on"),
        ("*/x * * * * *", "a number from 1 on"),
        ("1,,2 * * * * *", "'' is not a number"),
        ("10-5 * * * * *", "write two: 10-59,0-5"),
        ("* * * * * FRI-MON", "write two: FRI-SAT,SUN-MON"),
        ("* * * * * 2-FRI", "both numbers, or both names"),
        ("* * * * * MON/2", "a step needs a number or a range"),
        ("-1 * * * * *", "is not a number"),
        ("²  * * * * *", "is not a number"),
        ("0 0 0 30 2 *", "never comes true"),
        ("0 0 0 31 2,4,6,9,11 *", "never comes true"),
        ("0 0 0 29 2 * 2021-2023", "never comes true"),
        ("0 " * 2000, "4000 characters"),
    ],
)
def test_a_wrong_expression_is_refused_with_the_reason(expression, reason):
    with pytest.raises(ExpressionError) as caught:
        parse(expression)
    assert reason in str(caught.value)


def test_no_other_times_are_suggested_for_a_crontab_line_that_wants_either_of_two_days():
    with pytest.raises(ExpressionError) as caught:
        parse("0 3 1 * 1")
    assert "write" not in str(caught.value)


def test_an_expression_whose_years_are_over_has_no_next_tick():
    assert parse("0 0 0 1 1 * 2020").next_after(START.timestamp()) is None


def fields(low, high, names=()):
    """Texts of a field, each with the values that it stands for."""
    value = st.integers(low, high)
    whole = range(low, high + 1)
    pairs = st.tuples(value, value).map(sorted)
    parts = st.one_of(
        st.just(("*", set(whole))),
        value.map(lambda each: (str(each), {each})),
        pairs.map(lambda ends: (f"{ends[0]}-{ends[1]}", set(range(ends[0], ends[1] + 1)))),
        st.tuples(pairs, st.integers(1, 40)).map(
            lambda each: (f"{each[0][0]}-{each[0][1]}/{each[1]}", set(range(each[0][0], each[0][1] + 1, each[1])))
        ),
        st.tuples(value, st.integers(1, 40)).map(
            lambda each: (f"{each[0]}/{each[1]}", set(range(each[0], high + 1, each[1])))
        ),
    )
    return st.lists(parts, min_size=1, max_size=3).map(
        lambda each: (",".join(text for text, _ in each), set().union(*(values for _, values in each)))
    )


def by_trying(wanted, time, limit):
    """The first tick after a time, found by looking at each second that is not ruled out by the day, hour or minute."""
    seconds, minutes, hours, days, months, weekdays = wanted
    time += timedelta(seconds=1)
    while time < limit:
        midnight = time.replace(hour=0, minute=0, second=0)
        if time.day not in days or time.month not in months or time.isoweekday() % 7 + 1 not in weekdays:
            time = midnight + timedelta(days=1)
        elif time.hour not in hours:
            time = time.replace(minute=0, second=0) + timedelta(hours=1)
        elif time.minute not in minutes:
            time = time.replace(second=0) + timedelta(minutes=1)
        elif time.second not in seconds:
            time += timedelta(seconds=1)
        else:
            return time
    return None


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(fields(0, 59), fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(1, 7)),
    st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)),
)
def test_the_next_tick_is_the_one_that_trying_finds(field_values, moment):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    limit = moment + timedelta(days=3000)
    expected = by_trying([values for _, values in field_values], moment, limit)
    try:
        found = parse(" ".join(text for text, _ in field_values)).next_after(moment.timestamp())
    except ExpressionError:
        assert expected is None
        return
    if expected is not None:
        assert found == expected.timestamp()
    else:
        assert found is None or found >= limit.timestamp()


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text(alphabet="0123456789*/-,? MONFRIjan@", max_size=60))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ExpressionError):
        parse(text).next_after(START.timestamp())


# The trigger type


@pytest.fixture
async def cron(bus):
    module = Cron(bus=bus)
    await module.start()
    yield module
    await module.stop()
    await bus.close()


class Worker:
    """A worker with the function ``job::run`` that answers when it is told to."""

    def __init__(self, peer, **more):
        self.peer = peer
        peer.send(type="registerfunction", id="job::run")
        self.bind(**more)

    def bind(self, expression="* * * * * *", trigger_id="t-1", config=None, **more):
        config = config or {"expression": expression}
        self.peer.send(
            type="registertrigger", id=trigger_id, trigger_type="cron", function_id="job::run", config=config, **more
        )

    def calls(self):
        return self.peer.take("invokefunction")

    def answer(self, call, **outcome):
        self.peer.send(type="invocationresult", invocation_id=call["invocation_id"], function_id="job::run", **outcome)


def time_of(text):
    return datetime.fromisoformat(text).timestamp()


async def test_a_function_is_called_at_each_tick_with_the_job_and_its_times(cron, clock, join):
    worker = Worker(join(), metadata={"who": "me"})
    now = clock.time()
    await clock.advance(0.5)
    assert worker.calls() == []
    await clock.advance(0.5)
    (call,) = worker.calls()
    data = call["data"]
    assert (data["trigger"], data["job_id"], call["metadata"]) == ("cron", "t-1", {"who": "me"})
    assert time_of(data["scheduled_time"]) == time_of(data["actual_time"]) == now + 1
    worker.answer(call, result=None)
    await clock.advance(1)
    (call,) = worker.calls()
    assert time_of(call["data"]["scheduled_time"]) == now + 2


async def test_ticks_during_a_run_are_left_out_and_not_made_up_for(cron, clock, join):
    worker = Worker(join())
    now = clock.time()
    await clock.advance(1)
    (call,) = worker.calls()
    await clock.advance(4.5)
    assert worker.calls() == []
    worker.answer(call, result="late")
    await clock.advance(0)
    assert worker.calls() == []
    await clock.advance(0.5)
    (call,) = worker.calls()
    assert time_of(call["data"]["scheduled_time"]) == now + 6


async def test_a_job_goes_on_after_a_run_that_failed(cron, clock, join):
    worker = Worker(join())
    await clock.advance(1)
    worker.answer(worker.calls()[0], error={"code": "oops", "message": "m"})
    await clock.advance(1)
    assert len(worker.calls()) == 1


async def test_failures_are_logged_once_until_the_job_works_again(cron, clock, join, caplog):
    peer = join()
    worker = Worker(peer)
    peer.send(type="unregisterfunction", id="job::run")
    await clock.advance(5)
    assert len([each for each in caplog.records if "cron job failed" in each.message]) == 1
    peer.send(type="registerfunction", id="job::run")
    await clock.advance(1)
    worker.answer(worker.calls()[0], result=1)
    peer.send(type="unregisterfunction", id="job::run")
    await clock.advance(5)
    assert len([each for each in caplog.records if "cron job failed" in each.message]) == 2


async def test_replicas_get_one_call_a_tick_together_and_one_goes_on_for_the_other(cron, clock, join):
    first, second = Worker(join()), Worker(join(), trigger_id="t-2")
    for _ in range(4):
        await clock.advance(1)
        calls = [(worker, call) for worker in (first, second) for call in worker.calls()]
        assert len(calls) == 1
        calls[0][0].answer(calls[0][1], result=None)
    first.peer.end()
    await clock.advance(1)
    (call,) = second.calls()
    assert call["data"]["job_id"] == "t-2"


async def test_a_job_that_passes_to_another_replica_while_it_runs_does_not_overlap(cron, clock, join):
    first, second = Worker(join()), Worker(join(), trigger_id="t-2")
    await clock.advance(1)
    worker, call = next((worker, call) for worker in (first, second) for call in worker.calls())
    first.peer.send(type="unregistertrigger", id="t-1", trigger_type="cron")
    await clock.advance(3)
    assert [*first.calls(), *second.calls()] == []
    worker.answer(call, result=None)
    await clock.advance(1)
    assert len([*first.calls(), *second.calls()]) == 1


async def test_two_triggers_of_one_worker_are_two_jobs(cron, clock, join):
    worker = Worker(join())
    worker.bind(trigger_id="t-2")
    await clock.advance(1)
    assert {each["data"]["job_id"] for each in worker.calls()} == {"t-1", "t-2"}


async def test_triggers_of_replicas_that_differ_in_metadata_are_jobs_of_their_own(cron, clock, join):
    first = Worker(join(), metadata={"agent": "a"})
    second = Worker(join(), metadata={"agent": "b"}, trigger_id="t-2")
    await clock.advance(1)
    assert {each["metadata"]["agent"] for each in [*first.calls(), *second.calls()]} == {"a", "b"}


async def test_the_condition_is_asked_with_the_payload_and_false_leaves_the_tick_out(cron, clock, join):
    asked = []

    def condition(context, data):
        asked.append(json.loads(data))
        return len(asked) > 1

    cron._bus.functions.add("job::if", condition)
    worker = Worker(join(), config={"expression": "* * * * * *", "condition_function_id": "job::if"})
    await clock.advance(1)
    assert worker.calls() == []
    assert (asked[0]["trigger"], asked[0]["job_id"]) == ("cron", "t-1")
    await clock.advance(1)
    assert len(worker.calls()) == 1


async def test_an_unbound_or_gone_worker_is_not_called(cron, clock, join):
    worker, other = Worker(join()), Worker(join(), trigger_id="t-2", expression="*/2 * * * * *")
    worker.peer.send(type="unregistertrigger", id="t-1", trigger_type="cron")
    other.peer.end()
    await clock.advance(5)
    assert worker.calls() == []
    assert other.peer.take("invokefunction") == []


async def test_a_trigger_that_is_registered_again_follows_its_new_expression(cron, clock, join):
    worker = Worker(join())
    worker.bind("0 0 0 1 1 *")
    await clock.advance(3)
    assert worker.calls() == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"expression": "*/5 * * * *"}, "write '0 */5 * * * *'"),
        ({"expression": "0 0 0 30 2 *"}, "never comes true"),
        ({"schedule": "* * * * * *"}, "expression"),
        ({"expression": 5}, "expression"),
        ([1], "wrong"),
    ],
)
async def test_a_config_that_is_refused_is_told_to_the_worker(cron, clock, join, config, reason):
    worker = Worker(join(), config=config)
    (answer,) = worker.peer.take("triggerregistrationresult")
    assert answer["error"]["code"] == "trigger_registration_failed"
    assert reason in answer["error"]["message"]
    await clock.advance(2)
    assert worker.calls() == []


async def test_ticks_far_ahead_come_at_their_time(cron, clock, join):
    worker = Worker(join(), expression="@daily")
    start = clock.time()
    await clock.advance(86_400)
    (call,) = worker.calls()
    assert time_of(call["data"]["scheduled_time"]) == (start // 86_400 + 1) * 86_400
    assert call["data"]["scheduled_time"].endswith("T00:00:00+00:00")


async def test_a_clock_that_is_set_back_a_little_repeats_no_tick(cron, clock, join):
    worker = Worker(join())
    await clock.advance(3)
    worker.answer(worker.calls()[0], result=None)
    await clock.advance(1)
    (call,) = worker.calls()
    last = time_of(call["data"]["scheduled_time"])
    clock._start -= 5
    worker.answer(call, result=None)
    await clock.advance(5.5)
    assert worker.calls() == []
    await clock.advance(1)
    (call,) = worker.calls()
    assert time_of(call["data"]["scheduled_time"]) == last + 1


async def test_a_clock_that_is_set_back_far_is_believed(cron, clock, join):
    worker = Worker(join())
    await clock.advance(1)
    (call,) = worker.calls()
    clock._start -= 100_000
    worker.answer(call, result=None)
    await clock.advance(1)
    assert len(worker.calls()) == 1


async def test_the_module_can_be_stopped_and_another_started(bus, clock, join):
    module = Cron(bus=bus)
    await module.start()
    worker = Worker(join())
    await clock.advance(1)
    assert len(worker.calls()) == 1  # still running
    await module.stop()
    await module.stop()
    await clock.advance(3)
    assert worker.calls() == []
    again = Cron(bus=bus)
    await again.start()
    await clock.advance(1)
    assert len(worker.calls()) == 1
    await again.stop()
    await bus.close()


# Across an end of the engine


class Engines:
    """One engine after the other, with one store; each end is a crash."""

    def __init__(self, clock, join):
        self.clock, self.join, self.records = clock, join, MemoryRecords()

    async def start(self):
        """Return a peer on a new engine."""
        bus = Bus(clock=self.clock)
        self.module = Cron(bus=bus, records=self.records)
        await self.module.start()
        return self.join(bus=bus)

    async def crash(self):
        """Leave everything as it is: no binding is taken back in a crash."""
        self.module._stopping = True
        await self.module.stop()


@pytest.fixture
def engines(clock, join):
    return Engines(clock, join)


async def test_a_tick_is_recorded_before_its_call(engines, clock):
    worker = Worker(await engines.start())
    now = int(clock.time())
    await clock.advance(0)
    assert list((await engines.records.load()).values()) == [b"%d" % now]
    await clock.advance(1)
    assert len(worker.calls()) == 1
    assert list((await engines.records.load()).values()) == [b"%d" % (now + 1)]


async def test_a_tick_is_not_called_again_after_a_crash_though_the_clock_went_back(engines, clock):
    worker = Worker(await engines.start())
    await clock.advance(1)
    assert len(worker.calls()) == 1
    await engines.crash()
    clock._start -= 5
    again = Worker(await engines.start())
    await clock.advance(5.5)
    assert again.calls() == []
    await clock.advance(0.5)
    assert len(again.calls()) == 1


async def test_a_tick_that_came_due_while_the_engine_was_away_is_made_up_for_once(engines, clock):
    Worker(await engines.start(), expression="0 */5 * * * *")
    now = clock.time()
    due = (now // 300 + 1) * 300
    await clock.advance(due - 10 - now)
    await engines.crash()
    await clock.advance(10 + 200)  # due, and late by 200 s
    again = Worker(await engines.start(), expression="0 */5 * * * *")
    await clock.advance(0)
    (call,) = again.calls()
    assert time_of(call["data"]["scheduled_time"]) == due
    again.answer(call, result=None)
    await clock.advance(99)
    assert again.calls() == []
    await clock.advance(1)
    assert len(again.calls()) == 1


async def test_many_missed_ticks_are_made_up_for_by_one_call(engines, clock):
    Worker(await engines.start())
    await clock.advance(0.5)
    await engines.crash()
    await clock.advance(30)
    again = Worker(await engines.start())
    await clock.advance(0)
    (call,) = again.calls()
    again.answer(call, result=None)
    await clock.advance(0.4)
    assert again.calls() == []


async def test_a_tick_that_is_too_late_is_left_out_and_that_is_told(engines, clock, caplog):
    Worker(await engines.start(), expression="@daily")
    now = clock.time()
    due = (now // 86_400 + 1) * 86_400
    await clock.advance(due - 10 - now)
    await engines.crash()
    await clock.advance(10 + GRACE + 1)
    again = Worker(await engines.start(), expression="@daily")
    await clock.advance(100)
    assert again.calls() == []
    (record,) = [each for each in caplog.records if "was not called while the engine was away" in each.message]
    assert time_of(record.scheduled_time) == due


async def test_a_job_whose_worker_went_while_the_engine_ran_is_not_made_up_for(engines, clock):
    worker = Worker(await engines.start())
    await clock.advance(0.5)
    worker.peer.end()
    await clock.advance(0)
    assert await engines.records.load() == {}
    await engines.crash()
    await clock.advance(10)
    again = Worker(await engines.start())
    await clock.advance(0)
    assert again.calls() == []


async def test_records_of_jobs_that_do_not_come_back_are_removed(engines, clock):
    Worker(await engines.start())
    await clock.advance(0.5)
    await engines.crash()
    await engines.start()
    assert len(await engines.records.load()) == 1
    await clock.advance(GRACE)
    assert await engines.records.load() == {}


async def test_ticks_go_on_when_they_cannot_be_recorded_and_that_is_told_once(engines, clock, caplog):
    async def change(*given, **named):
        raise StorageError("storage_full", "no room")

    engines.records.change = change
    worker = Worker(await engines.start())
    for _ in range(3):
        await clock.advance(1)
        (call,) = worker.calls()
        worker.answer(call, result=None)
    assert len([each for each in caplog.records if "not recorded" in each.message]) == 1
