"""As many pods as the calls in flight need: the decision, and how the operator comes by what it decides from."""

from typing import Any

import pytest
from agentos_operator.autoscaler import LOAD_ID, Autoscaler
from agentos_operator.bus import CallFailed
from agentos_operator.cache import Cache
from agentos_operator.kinds import Key
from agentos_operator.plan.worker.scaling import Recommendation, decided, recent, recommended

RECOMMENDED = [
    ("no calls", 0, 10, 3, 0),
    ("just enough", 30, 10, 3, 3),
    ("one call more is within the tolerance", 31, 10, 3, 3),
    ("ten percent more is, too", 33, 10, 3, 3),
    ("more than that is not", 33.1, 10, 3, 4),
    ("ten percent less changes nothing", 27, 10, 3, 3),
    ("less than that does", 20, 10, 3, 2),
    ("a part of a pod is a pod", 0.2, 10, 3, 1),
    ("no pods yet", 25, 10, 0, 3),
]


@pytest.mark.parametrize(
    ("in_flight", "target", "present", "pods"), [pytest.param(*row[1:], id=row[0]) for row in RECOMMENDED]
)
def test_the_pods_that_calls_in_flight_need(in_flight, target, present, pods):
    assert recommended(in_flight, target, present) == pods


def test_the_most_in_the_window_counts():
    history = [Recommendation(0.0, 5), Recommendation(30.0, 2), Recommendation(59.0, 3)]
    assert decided(recent(history, 60.0, 60.0)) == 5
    assert decided(recent(history, 61.0, 60.0)) == 3


class Engine:
    """A link whose engine tells this load."""

    def __init__(self) -> None:
        self.up, self.means, self.asked = True, {"u": 0.0}, []

    async def call(self, function_id: str, data: dict[str, Any], seconds: float) -> Any:
        self.asked.append((function_id, data["uids"]))
        if not self.means:
            raise CallFailed("the engine is away")
        return {"workers": {uid: {"in_flight": 0, "mean": mean} for uid, mean in self.means.items()}}


class Scaled:
    """An autoscaler with a realm that has one Worker, of 10 calls a pod and a window of a minute."""

    def __init__(self, **spec: Any) -> None:
        self.cache, self.engine, self.changed = Cache(), Engine(), []
        self.spec = {"autoscaling": {"max": 5, "targetInFlight": 10}} | spec
        self.put("Realm", "prod", "", spec={"namespace": "team"}, uid="r", creationTimestamp="2026-01-01T00:00:00Z")
        self.put("Worker", "wasm", spec=self.spec, uid="u")
        self.pods(2)
        self.autoscaler = Autoscaler(self.cache, self, 60.0, self.changed.append)  # type: ignore[arg-type]

    def get(self, realm: str) -> Engine | None:
        return self.engine if realm == "prod" else None

    def put(self, kind: str, name: str, namespace: str = "team", *, spec: dict, **metadata: Any) -> None:
        self.cache.put({"kind": kind, "metadata": {"name": name, "namespace": namespace} | metadata, "spec": spec})

    def pods(self, number: int) -> None:
        self.put("Deployment", "wasm", spec={"replicas": number}, uid="d")

    async def ask(self, mean: float | None = None) -> int | None:
        self.engine.means = {"u": mean} if mean is not None else {}
        await self.autoscaler.ask()
        return self.autoscaler.recommended("u")


@pytest.fixture
def scaled(clock) -> Scaled:
    return Scaled()


async def test_more_pods_are_recommended_at_once(scaled):
    assert await scaled.ask(20) == 2
    assert await scaled.ask(41) == 5
    assert scaled.changed == [Key("Worker", "team", "wasm")] * 2


async def test_fewer_pods_are_recommended_only_after_the_window(scaled, clock):
    assert await scaled.ask(5) == 2
    clock.now += 59
    assert await scaled.ask(5) == 2
    clock.now += 2
    assert await scaled.ask(5) == 1


async def test_one_busy_moment_in_the_window_keeps_the_pods(scaled, clock):
    await scaled.ask(5)
    clock.now += 40
    await scaled.ask(30)
    scaled.pods(3)
    clock.now += 40
    assert await scaled.ask(5) == 3


async def test_without_an_answer_nothing_is_known_and_the_past_does_not_count(scaled, clock):
    assert await scaled.ask(41) == 5
    assert await scaled.ask(None) is None
    assert await scaled.ask(5) == 2


async def test_without_a_link_the_engine_is_not_asked(scaled):
    scaled.engine.up = False
    assert await scaled.ask(41) is None
    assert scaled.engine.asked == []


async def test_an_answer_that_cannot_be_read_is_none(scaled):
    scaled.engine.means = {"other": 1.0}
    await scaled.autoscaler.ask()
    assert scaled.autoscaler.recommended("u") is None


async def test_a_realm_is_asked_once_for_all_its_workers(scaled):
    scaled.put("Worker", "second", spec=scaled.spec, uid="v")
    scaled.put("Worker", "fixed", spec={}, uid="w")
    scaled.engine.means = {"u": 1.0, "v": 2.0}
    await scaled.autoscaler.ask()
    assert scaled.engine.asked == [(LOAD_ID, ["u", "v"])]


@pytest.mark.parametrize("spec", [{"autoscaling": None}, {"suspend": True}])
async def test_nobody_is_asked_for_a_worker_that_is_not_scaled(clock, spec):
    scaled = Scaled(**spec)
    assert await scaled.ask(41) is None
    assert scaled.engine.asked == []


async def test_a_worker_without_pods_has_no_recommendation(scaled):
    scaled.pods(0)
    assert await scaled.ask(41) is None
