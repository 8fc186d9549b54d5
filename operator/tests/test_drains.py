"""Going pods: engines are told, once, with the time that is left."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agentos_operator.bus import CallFailed
from agentos_operator.cache import Cache
from agentos_operator.drains import DRAIN_ID, Drains
from agentos_operator.kinds import Key
from agentos_operator.plan.pods import seconds_to_drain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def pod(
    *, sleep: int = 5, grace: int = 35, gone_for: float | None = 0.0, now: datetime = NOW, uid: str = "pod-1"
) -> dict:
    """A pod that is being deleted since ``gone_for`` seconds; None: it is not."""
    labels = {"agentos.dev/worker": "wasm", "agentos.dev/worker-uid": "u", "agentos.dev/realm": "prod"}
    metadata: dict[str, Any] = {"name": f"wasm-{uid}", "namespace": "team", "uid": uid, "labels": labels}
    if gone_for is not None:
        deadline = now - timedelta(seconds=gone_for) + timedelta(seconds=grace)
        metadata |= {"deletionTimestamp": deadline.isoformat(), "deletionGracePeriodSeconds": grace}
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}} if sleep else {}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "worker"} | hook]}, "status": {}}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (pod(), 5),
        (pod(gone_for=2), 3),
        (pod(gone_for=20), 0),
        (pod(sleep=0), 0),
        (pod(sleep=60, grace=10), 10),
    ],
)
def test_the_time_that_is_left_for_calls_in_progress(given, seconds):
    assert seconds_to_drain(given, NOW) == seconds


def test_what_other_containers_do_before_they_end_is_no_time_for_calls():
    given = pod()
    given["spec"]["containers"].append({"name": "proxy", "lifecycle": {"preStop": {"sleep": {"seconds": 30}}}})
    assert seconds_to_drain(given, NOW) == 5


class Engine:
    """A link that notes what the engine is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.up, self.asked = True, []
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def call(self, function_id: str, data: dict[str, Any], seconds: float) -> Any:
        assert function_id == DRAIN_ID
        self.asked.append(data)
        return await self.answer


class Draining:
    """Drains with the link of realm ``prod``; ``frees``: whether others may get what the Worker serves."""

    def __init__(self) -> None:
        self.cache, self.engine, self.frees, self.ended = Cache(), Engine(), False, []
        self.drains = Drains(self.cache, self, lambda namespace, uid: self.frees, self.ended.append)  # type: ignore[arg-type]

    def get(self, realm: str) -> Engine | None:
        return self.engine if realm == "prod" else None

    async def look(self, given: dict) -> list[tuple[str, bool]]:
        """What the engine was asked by then: pods, and whether they are to be closed."""
        self.cache.put(given)
        self.drains.look(given)
        await asyncio.sleep(0)
        return [(each["pod_uid"], each["close"]) for each in self.engine.asked]


@pytest.fixture
async def draining() -> Draining:
    return Draining()


def going(uid: str = "pod-1") -> dict:
    return pod(now=datetime.now(UTC), uid=uid)


async def test_a_pod_that_stays_is_left_alone(draining):
    assert await draining.look(pod(gone_for=None)) == []


async def test_a_going_pod_is_drained_once_with_the_time_that_it_has(draining):
    assert await draining.look(going()) == [("pod-1", False)]
    assert await draining.look(going()) == [("pod-1", False)]
    (asked,) = draining.engine.asked
    assert asked["uid"] == "u"
    assert 4000 < asked["timeout_ms"] <= 5000


async def test_a_pod_whose_containers_have_ended_is_not_drained(draining):
    assert await draining.look(going() | {"status": {"phase": "Succeeded"}}) == []


async def test_it_counts_as_in_progress_until_the_engine_has_answered(draining):
    await draining.look(going())
    assert draining.drains.in_progress("u") == 1
    draining.engine.answer.set_result({"drained": True, "workers": []})
    await asyncio.sleep(0.01)
    assert draining.drains.in_progress("u") == 0
    assert draining.ended == [Key("Worker", "team", "wasm")]


async def test_a_pod_of_a_deleted_worker_is_closed_when_its_calls_have_ended(draining):
    draining.frees = True
    assert await draining.look(going()) == [("pod-1", True)]


async def test_a_pod_that_was_going_when_its_worker_was_deleted_is_closed_then(draining):
    await draining.look(going())
    draining.frees = True
    assert await draining.look(going()) == [("pod-1", False), ("pod-1", True)]


async def test_a_new_link_is_told_again(draining):
    draining.engine.up = False
    assert await draining.look(going()) == []
    draining.engine.up = True
    draining.drains.engine_is_new("team")
    await asyncio.sleep(0)
    assert len(draining.engine.asked) == 1
    draining.drains.engine_is_new("team")
    await asyncio.sleep(0)
    assert len(draining.engine.asked) == 2


async def test_an_engine_that_cannot_be_asked_holds_up_nothing(draining):
    await draining.look(going())
    draining.engine.answer.set_exception(CallFailed("the link to the engine has ended"))
    await asyncio.sleep(0.01)
    assert draining.drains.in_progress("u") == 0
