"""Alerts on what the engine counts, and their actions."""

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest
from agentos_engine.observability.alerts import INTERVAL
from agentos_engine.observability.call_metrics import MAX_FUNCTIONS, OTHER, CallMetrics
from agentos_engine.observability.config import AlertRule, ObservabilityConfig
from agentos_engine.observability.module import Observability


class Receiver:
    """Stands for the HTTP client: gathers what is posted, and fails or hangs when told to."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, dict]] = []
        self.error: Exception | None = None
        self.hangs = False
        self.cancelled = 0
        self.status = 200

    async def post(self, url: str, body: bytes) -> SimpleNamespace:
        self.posted.append((url, json.loads(body)))
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        if self.error is not None:
            raise self.error
        return SimpleNamespace(status=self.status)


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
async def watch(bus, receiver):
    """Starts the module with one alert: ``await watch(threshold=…)``."""
    started = []

    async def watch(**rule) -> Observability:
        defaults = {"name": "errors", "metric": "iii.invocations.error", "threshold": 2}
        alert = msgspec.convert(defaults | rule, AlertRule)
        module = Observability(
            bus=bus,
            config=ObservabilityConfig(alerts=(alert,)),
            metrics=CallMetrics(),
            post_json=receiver.post,
        )
        started.append(module)
        await module.start()
        return module

    yield watch
    for module in started:
        await module.stop()
    await bus.close()


@pytest.fixture
def ask(bus):
    """Calls a function of the engine and returns its decoded result."""

    async def ask(function_id, payload=None):
        return msgspec.json.decode(await bus.call(function_id, msgspec.json.encode(payload)))

    return ask


def fail(module, times):
    for _ in range(times):
        module.metrics.called("a::b", 0.001, False)


async def test_an_alert_fires_once_above_its_threshold_and_calls_its_function(watch, join, clock, ask):
    module = await watch(action={"type": "function", "path": "w::on_alert"})
    worker = join()
    worker.send(type="registerfunction", id="w::on_alert")
    fail(module, 2)
    await clock.advance(INTERVAL)
    assert worker.take("invokefunction") == []
    fail(module, 1)
    await clock.advance(INTERVAL)
    (call,) = worker.take("invokefunction")
    assert call["data"] == {
        "name": "errors",
        "metric": "iii.invocations.error",
        "value": 3,
        "threshold": 2,
        "operator": ">",
        "window_seconds": 60,
        "timestamp": int(clock.time() * 1000),
    }
    listed = await ask("engine::alerts::list")
    assert listed["firing_count"] == 1
    assert listed["alerts"] == [
        {
            "name": "errors",
            "metric": "iii.invocations.error",
            "value": 3,
            "threshold": 2,
            "operator": ">",
            "enabled": True,
            "firing": True,
            "last_evaluated": int(clock.time() * 1000),
            "last_triggered": int(clock.time() * 1000),
            "last_error": None,
        }
    ]
    assert listed["rules"][0]["action"] == {"type": "function", "url": None, "path": "w::on_alert"}


async def test_it_fires_again_only_after_the_cooldown(watch, clock, receiver):
    module = await watch(action={"type": "webhook", "url": "http://hook/x"}, cooldown_seconds=60, window_seconds=600)
    fail(module, 5)
    await clock.advance(59)
    assert len(receiver.posted) == 1
    await clock.advance(INTERVAL * 2)
    assert len(receiver.posted) == 2
    assert receiver.posted[0][0] == "http://hook/x"


async def test_counts_are_those_of_the_window(watch, clock, ask):
    module = await watch(window_seconds=30)
    fail(module, 5)
    await clock.advance(20)
    assert (await ask("engine::alerts::list"))["alerts"][0]["firing"]
    await clock.advance(20)
    (state,) = (await ask("engine::alerts::list"))["alerts"]
    assert (state["firing"], state["value"]) == (False, 0)
    fail(module, 3)
    await clock.advance(INTERVAL)
    assert (await ask("engine::alerts::list"))["alerts"][0]["value"] == 3


@pytest.mark.parametrize(
    ("operator", "fires"),
    [
        *((">", [3]), ("gt", [3]), (">=", [2, 3]), ("gte", [2, 3])),
        *(("<", [1]), ("lt", [1]), ("<=", [1, 2]), ("lte", [1, 2])),
        *(("==", [2]), ("eq", [2]), ("!=", [1, 3]), ("ne", [1, 3])),
    ],
)
async def test_all_comparisons(watch, ask, operator, fires):
    module = await watch(operator=operator, cooldown_seconds=0)
    fired = []
    for count in (1, 2, 3):
        fail(module, 1)
        answer = await ask("engine::alerts::evaluate")
        assert answer["evaluated"] is True
        fired += [count for alert in answer["triggered_alerts"] if alert["value"] == count]
    assert fired == fires


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("iii.invocations.total", 6),
        ("iii.invocations.success", 1),
        ("iii.invocations.error", 2),
        ("iii.invocations.deferred", 3),
        ("iii.workers.spawns", 2),
        ("iii.workers.deaths", 1),
        ("iii.workers.active", 1),
    ],
)
async def test_all_metrics(watch, ask, metric, expected):
    module = await watch(metric=metric, threshold=0)
    metrics = module.metrics
    metrics.called("a", 0.1, True)
    fail(module, 2)
    for function_id in "abc":
        metrics.deferred(function_id)
    metrics.spawned()
    metrics.spawned()
    metrics.died()
    (alert,) = (await ask("engine::alerts::evaluate"))["triggered_alerts"]
    assert alert["value"] == expected


async def test_what_was_counted_before_the_start_does_not_count(bus, clock, ask):
    metrics = CallMetrics()
    metrics.called("a", 0.1, False)
    rule = AlertRule(name="e", metric="iii.invocations.error", threshold=0)
    module = Observability(bus=bus, config=ObservabilityConfig(alerts=(rule,)), metrics=metrics)
    await module.start()
    await clock.advance(INTERVAL)
    assert (await ask("engine::alerts::list"))["firing_count"] == 0
    await module.stop()


async def test_a_disabled_rule_is_listed_and_never_fires(watch, clock, ask, receiver):
    module = await watch(enabled=False, action={"type": "webhook", "url": "http://hook"})
    fail(module, 9)
    await clock.advance(INTERVAL)
    assert receiver.posted == []
    (state,) = (await ask("engine::alerts::list"))["alerts"]
    assert (state["enabled"], state["firing"], state["last_evaluated"]) == (False, False, None)


async def test_a_webhook_that_fails_or_hangs_is_told_and_harms_nothing(watch, clock, ask, receiver):
    module = await watch(action={"type": "webhook", "url": "http://hook"}, cooldown_seconds=0, window_seconds=3600)
    receiver.error = OSError("refused")
    fail(module, 3)
    await clock.advance(INTERVAL)
    assert "refused" in (await ask("engine::alerts::list"))["alerts"][0]["last_error"]
    receiver.hangs = True
    await clock.advance(INTERVAL)
    assert receiver.cancelled == 0
    await clock.advance(5)
    assert receiver.cancelled == 1
    assert "no answer within 5 s" in (await ask("engine::alerts::list"))["alerts"][0]["last_error"]
    receiver.hangs, receiver.error, receiver.status = False, None, 500
    await clock.advance(INTERVAL * 2)
    assert "HTTP status 500" in (await ask("engine::alerts::list"))["alerts"][0]["last_error"]
    receiver.status = 204
    await clock.advance(INTERVAL)
    assert (await ask("engine::alerts::list"))["alerts"][0]["last_error"] is None


async def test_an_engine_without_rules_has_no_alerts(bus, ask):
    module = Observability(bus=bus)
    await module.start()
    assert await ask("engine::alerts::list") == {"alerts": [], "rules": [], "firing_count": 0}
    assert (await ask("engine::alerts::evaluate"))["triggered_alerts"] == []
    await module.stop()


async def test_a_stopped_module_evaluates_no_more(watch, clock, receiver):
    module = await watch(action={"type": "webhook", "url": "http://hook"})
    await module.stop()
    fail(module, 9)
    await clock.advance(60)
    assert receiver.posted == []


class TestCallMetrics:
    def test_functions_beyond_the_bound_are_counted_together(self):
        metrics = CallMetrics()
        for number in range(MAX_FUNCTIONS + 50):
            metrics.called(f"f{number}", 0.001, True)
            metrics.deferred(f"f{number}")
        counts = metrics.by_function()
        assert len(counts) == MAX_FUNCTIONS + 1
        assert counts[OTHER] == {"ok": 50, "error": 0, "deferred": 50}
        assert metrics.counters().total == 2 * (MAX_FUNCTIONS + 50)

    def test_percentiles_are_within_their_bounds(self):
        metrics = CallMetrics()
        durations = [(number + 1) / 1000 for number in range(1000)]
        for duration in durations:
            metrics.called("f", duration, True)
        for fraction in (0.01, 0.5, 0.95, 0.99, 1.0):
            exact = durations[round(fraction * 1000) - 1]
            assert exact / 2.5 <= metrics.percentile(fraction) <= exact * 2.5
        assert metrics.percentile(1.0) == 1.0
        assert sum(metrics.durations().counts) == 1000

    def test_odd_durations_are_counted(self):
        metrics = CallMetrics()
        for duration in (0.0, -0.001, 1e-9, 10**7):
            metrics.called("f", duration, True)
        assert metrics.counters().success == 4
        assert metrics.durations().counts[-1] == 1
        assert metrics.percentile(1.0) == 10**7
