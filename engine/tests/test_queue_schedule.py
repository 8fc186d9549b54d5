"""The pure schedule of one queue."""

from agentos_engine.queues.schedule import Schedule
from agentos_engine.storage.queues import Waiting
from hypothesis import given, settings
from hypothesis import strategies as st


def waiting(seq, group=None, priority=0):
    return Waiting(seq, "q", 0.0, 0.0, group, priority, 1)


def started(schedule, now=0.0):
    return [each.seq for each in schedule.take(now)]


def test_jobs_start_in_order_as_far_as_concurrency_allows():
    schedule = Schedule(2)
    jobs = [waiting(n) for n in range(4)]
    for job in jobs:
        schedule.add(job, 0.0, 0.0)
    assert started(schedule) == [0, 1]
    assert started(schedule) == []
    assert (len(schedule), schedule.running) == (4, 2)
    schedule.finish(jobs[1], 0.0)
    assert started(schedule) == [2]


def test_higher_priority_goes_first_then_age():
    schedule = Schedule(10)
    for seq, priority in ((1, 0), (2, 5), (3, 0), (4, 5)):
        schedule.add(waiting(seq, priority=priority), 0.0, 0.0)
    assert started(schedule) == [2, 4, 1, 3]


def test_a_job_starts_when_its_time_has_come_and_tells_when_that_is():
    schedule = Schedule(10)
    schedule.add(waiting(1), 7.0, 0.0)
    schedule.add(waiting(2), 5.0, 0.0)
    assert started(schedule, 4.9) == []
    assert schedule.next_due(4.9) == 5.0
    assert started(schedule, 5.0) == [2]
    assert schedule.next_due(5.0) == 7.0
    assert started(schedule, 8.0) == [1]
    assert schedule.next_due(8.0) is None


def test_a_full_queue_needs_no_waking():
    schedule = Schedule(1)
    schedule.add(waiting(1), 0.0, 0.0)
    schedule.add(waiting(2), 5.0, 0.0)
    assert started(schedule) == [1]
    assert schedule.next_due(0.0) is None


def test_a_paused_queue_starts_nothing_and_goes_on_where_it_was():
    schedule = Schedule(0)
    schedule.add(waiting(1), 0.0, 0.0)
    assert started(schedule) == []
    assert schedule.next_due(0.0) is None
    schedule.concurrency = 1
    assert started(schedule) == [1]


def test_a_known_job_is_not_added_twice():
    schedule = Schedule(10)
    job = waiting(1)
    schedule.add(job, 0.0, 0.0)
    schedule.add(job, 0.0, 0.0)
    assert started(schedule) == [1]
    schedule.add(job, 0.0, 0.0)
    assert started(schedule) == []
    assert len(schedule) == 1


def test_a_standard_queue_lets_others_overtake_a_job_that_waits_for_its_next_attempt():
    schedule = Schedule(1)
    first, second = waiting(1), waiting(2)
    schedule.add(first, 0.0, 0.0)
    schedule.add(second, 0.0, 0.0)
    assert started(schedule) == [1]
    schedule.retry(first, 5.0, 0.0)
    assert started(schedule) == [2]
    schedule.finish(second, 1.0)
    assert schedule.next_due(1.0) == 5.0
    assert started(schedule, 5.0) == [1]


def test_in_a_fifo_queue_a_failing_job_holds_up_its_group_and_no_other():
    schedule = Schedule(10, fifo=True)
    jobs = {seq: waiting(seq, group) for seq, group in ((1, "a"), (2, "a"), (3, "b"), (4, "b"))}
    for job in jobs.values():
        schedule.add(job, 0.0, 0.0)
    assert started(schedule) == [1, 3]
    schedule.retry(jobs[1], 5.0, 0.0)
    schedule.finish(jobs[3], 0.0)
    assert started(schedule) == [4]
    assert schedule.next_due(0.0) == 5.0
    assert started(schedule, 5.0) == [1]
    schedule.finish(jobs[1], 5.0)
    assert started(schedule, 5.0) == [2]


def test_an_older_job_that_comes_back_goes_first_in_its_group_and_waits_keep_their_length():
    schedule = Schedule(0, fifo=True)
    old, new = waiting(1, "a"), waiting(2, "a")
    schedule.add(new, 0.0, 0.0)
    schedule.add(old, 0.0, 0.0)
    schedule.concurrency = 1
    assert started(schedule) == [1]
    schedule.finish(old, 0.0)
    assert started(schedule) == [2]
    schedule.retry(new, 9.0, 0.0)
    assert started(schedule, 8.0) == []
    assert started(schedule, 9.0) == [2]


def test_jobs_without_a_group_are_one_group():
    schedule = Schedule(10, fifo=True)
    schedule.add(waiting(1), 0.0, 0.0)
    schedule.add(waiting(2), 0.0, 0.0)
    assert started(schedule) == [1]


def test_a_queue_that_becomes_fifo_keeps_order_once_what_runs_has_ended():
    schedule = Schedule(2)
    jobs = [waiting(n, "a") for n in range(4)]
    for job in jobs:
        schedule.add(job, 0.0, 0.0)
    assert started(schedule) == [0, 1]
    schedule.order(True, 0.0)
    schedule.finish(jobs[0], 0.0)
    assert started(schedule) == []
    schedule.finish(jobs[1], 0.0)
    assert started(schedule) == [2]
    schedule.order(False, 0.0)
    assert started(schedule) == [3]


@settings(max_examples=200, deadline=None)
@given(
    groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    concurrency=st.integers(1, 4),
    choices=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["done", "retry", "wait"])), max_size=300),
)
def test_whatever_fails_each_group_of_a_fifo_queue_ends_in_order_one_at_a_time_and_completely(
    groups, concurrency, choices
):
    schedule = Schedule(concurrency, fifo=True)
    now, running, ended = 0.0, [], []
    coming = [waiting(seq, group) for seq, group in enumerate(groups)]
    moves = iter(choices)
    while coming or len(schedule):
        if coming:
            schedule.add(coming.pop(0), now, now)
        running += schedule.take(now)
        assert len(running) <= concurrency
        assert len({each.group for each in running}) == len(running)
        number, move = next(moves, (0, "done"))
        if running and move != "wait":
            job = running.pop(number % len(running))
            if move == "done":
                schedule.finish(job, now)
                ended.append(job)
            else:
                schedule.retry(job, now + 2.0, now)
        elif not running and (due := schedule.next_due(now)) is not None:
            now = due
        else:
            now += 0.5
    for group in "abc":
        of_group = [each.seq for each in ended if each.group == group]
        assert of_group == [seq for seq, each in enumerate(groups) if each == group]
