"""Leadership: one leader at a time, and none that writes on after its lease."""

import asyncio
import contextlib
from typing import Any

import pytest
from agentos_operator.api import Conflict
from agentos_operator.kinds import LEASE
from agentos_operator.lease import DURATION, MARGIN, RENEW, Leader, LeaseLost


def lease(api: Any) -> dict:
    return api.find(LEASE, "agentos-system", "agentos-operator")


def held_by(holder: str, renewed: str = "2026-01-01T00:00:00.000000Z", duration: int = DURATION) -> dict:
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": duration, "leaseTransitions": 4}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "agentos-operator", "namespace": "agentos-system"},
        "spec": spec,
    }


@pytest.fixture
async def candidate(api, clock):
    """Starts candidates; ends them with the test."""
    tasks: list[asyncio.Task] = []

    def start(identity: str) -> tuple[Leader, asyncio.Task]:
        leader = Leader(api, "agentos-system", identity)
        tasks.append(asyncio.create_task(leader.run()))
        return leader, tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_candidate_makes_the_lease_and_leads(api, candidate):
    leader, _ = candidate("a")
    assert not leader.is_leading
    await leader.elected.wait()
    assert leader.is_leading
    spec = lease(api)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", DURATION, 0)
    assert spec["acquireTime"] == spec["renewTime"]


async def test_the_leader_renews_for_as_long_as_it_runs(api, candidate, clock):
    leader, _ = candidate("a")
    await leader.elected.wait()
    acquired = lease(api)["spec"]["acquireTime"]
    started = clock.now
    while clock.now < started + 10 * DURATION:
        await asyncio.sleep(1.0)
        assert leader.is_leading
    assert api.writes.count(("replace", "Lease", "agentos-operator")) == pytest.approx(10 * DURATION / RENEW, abs=2)
    assert lease(api)["spec"]["acquireTime"] == acquired
    assert lease(api)["spec"]["leaseTransitions"] == 0


async def test_a_second_candidate_waits_while_the_first_renews(candidate):
    first, _ = candidate("a")
    await first.elected.wait()
    second, _ = candidate("b")
    await asyncio.sleep(10 * DURATION)
    assert first.is_leading
    assert not second.is_leading
    assert not second.elected.is_set()


async def test_a_lease_is_taken_over_only_after_it_was_seen_unchanged_for_its_duration(api, candidate, clock):
    api.seed(held_by("dead", duration=30))
    started = clock.now
    leader, _ = candidate("b")
    await leader.elected.wait()
    assert 30 <= clock.now - started <= 30 + RENEW + 0.1
    spec = lease(api)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 5)


async def test_an_old_renew_time_alone_is_no_reason_to_take_over(api, candidate):
    api.seed(held_by("alive with a slow clock", "2001-01-01T00:00:00.000000Z"))
    leader, _ = candidate("b")
    await asyncio.sleep(DURATION - 1)
    assert not leader.elected.is_set()


async def test_every_renewal_seen_starts_the_wait_anew(api, candidate, clock):
    leader, _ = candidate("b")
    api.seed(held_by("a"))
    for second in range(1, 6):
        await asyncio.sleep(DURATION - 3)
        api.seed(held_by("a", f"2026-01-01T00:00:0{second}.000000Z"))
    assert not leader.elected.is_set()
    started = clock.now
    await leader.elected.wait()
    assert clock.now - started >= DURATION - RENEW


async def test_a_lease_that_was_given_up_is_taken_at_once(api, candidate, clock):
    api.seed(held_by(""))
    started = clock.now
    leader, _ = candidate("b")
    await leader.elected.wait()
    assert clock.now == started


async def test_its_own_lease_of_an_earlier_life_is_taken_at_once(api, candidate, clock):
    api.seed(held_by("b"))
    started = clock.now
    leader, _ = candidate("b")
    await leader.elected.wait()
    assert clock.now == started
    assert lease(api)["spec"]["leaseTransitions"] == 4


async def test_of_two_that_write_at_once_only_one_leads(api, candidate):
    api.fail["create", "Lease", "agentos-operator"] = Conflict(409, "AlreadyExists", "b was first")
    leader, _ = candidate("a")
    await asyncio.sleep(RENEW / 2)
    assert not leader.is_leading


async def test_the_fence_falls_before_the_lease_ends_and_the_process_has_to_go(api, candidate, clock, monkeypatch):
    leader, task = candidate("a")
    await leader.elected.wait()
    last_renewal = clock.now
    monkeypatch.setattr(api, "get", lambda *_: _fail())
    await asyncio.sleep(DURATION - MARGIN - 0.1)
    assert leader.is_leading
    await asyncio.sleep(0.2)
    assert not leader.is_leading
    assert clock.now < last_renewal + DURATION
    with pytest.raises(LeaseLost):
        await task


async def _fail() -> None:
    raise ConnectionResetError("the API server is away")


async def test_the_fence_falls_by_itself_while_a_request_hangs(api, candidate, clock, monkeypatch):
    leader, task = candidate("a")
    await leader.elected.wait()
    monkeypatch.setattr(api, "get", lambda *_: asyncio.sleep(3600))
    await asyncio.sleep(DURATION - MARGIN + 0.1)
    assert not leader.is_leading
    with pytest.raises(LeaseLost):
        await task
    assert clock.now < 1000 + 3 * DURATION


async def test_a_short_outage_of_the_api_server_is_survived(api, candidate, refused):
    leader, task = candidate("a")
    await leader.elected.wait()
    for _ in range(3):
        api.fail["get", "Lease", "agentos-operator"] = refused
        await asyncio.sleep(RENEW)
    await asyncio.sleep(DURATION)
    assert leader.is_leading
    assert not task.done()


async def test_a_leader_whose_lease_another_took_stops(api, candidate):
    leader, task = candidate("a")
    await leader.elected.wait()
    api.seed(held_by("b"))
    with pytest.raises(LeaseLost):
        await task
    assert not leader.is_leading
    assert lease(api)["spec"]["holderIdentity"] == "b"


async def test_a_clean_end_gives_the_lease_up(api, candidate):
    leader, task = candidate("a")
    await leader.elected.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await leader.release()
    assert lease(api)["spec"]["holderIdentity"] == ""
    assert not leader.is_leading


async def test_a_lease_that_is_another_ones_by_now_is_not_given_up(api, candidate):
    leader, _ = candidate("a")
    await leader.elected.wait()
    api.seed(held_by("b"))
    await leader.release()
    assert lease(api)["spec"]["holderIdentity"] == "b"


async def test_one_that_never_led_gives_nothing_up(api, clock):
    api.seed(held_by("b"))
    await Leader(api, "agentos-system", "a").release()
    assert api.writes == api.reads == []


@pytest.mark.parametrize("error", [ConnectionResetError("away"), TimeoutError()], ids=["reset", "timeout"])
async def test_an_api_server_that_is_away_at_the_end_spoils_nothing(api, candidate, error):
    leader, task = candidate("a")
    await leader.elected.wait()
    task.cancel()
    api.fail["get", "Lease", "agentos-operator"] = error
    await leader.release()
    assert not leader.is_leading
