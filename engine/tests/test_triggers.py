import pytest
from agentos_engine import limits
from agentos_engine.bus.connection import Peer as Who
from agentos_engine.triggers.connections import ConnectionsTrigger


def bind(peer, trigger_type="my::type", trigger_id="t-1", function_id="b::f", **more):
    peer.send(type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, **more)


def test_a_binding_goes_to_the_provider_of_its_type_with_config_and_metadata(join):
    provider, consumer = join(), join()
    provider.send(type="registertriggertype", id="my::type", description="d")
    bind(consumer, config={"a": 1}, metadata={"m": 2}, message_type="registertrigger")
    assert provider.take() == [
        {
            "type": "registertrigger",
            "id": "t-1",
            "trigger_type": "my::type",
            "function_id": "b::f",
            "config": {"a": 1},
            "metadata": {"m": 2},
        }
    ]
    assert consumer.take() == []


def test_a_binding_to_an_unknown_type_is_parked_and_delivered_once_when_a_provider_comes(join):
    consumer, provider = join(), join()
    bind(consumer)
    provider.send(type="registertriggertype", id="my::type", description="d")
    (delivered,) = provider.take()
    assert (delivered["id"], delivered["config"]) == ("t-1", None)
    assert consumer.take() == []


def test_a_provider_that_returns_gets_every_binding_again(join):
    consumer, provider = join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(consumer)
    provider.end()
    again = join()
    again.send(type="registertriggertype", id="my::type")
    assert [each["id"] for each in again.take()] == ["t-1"]


def test_the_provider_hears_once_that_a_consumer_unbound_or_went(join):
    provider, consumer = join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(consumer, trigger_id="t-1")
    bind(consumer, trigger_id="t-2")
    provider.take()
    consumer.send(type="unregistertrigger", id="t-1")
    consumer.end()
    gone = provider.take()
    assert gone == [{"type": "unregistertrigger", "id": each, "trigger_type": "my::type"} for each in ("t-1", "t-2")]


def test_a_reconnected_consumer_keeps_its_binding_when_its_old_connection_ends(join):
    provider, old, new = join(), join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(old)
    bind(new)
    provider.take()
    old.end()
    assert provider.take() == []
    new.end()
    assert [each["type"] for each in provider.take()] == ["unregistertrigger"]


def test_a_providers_refusal_reaches_the_consumer_and_nobody_else_can_refuse(join):
    provider, consumer, other = join(), join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(consumer)
    refusal = {"type": "triggerregistrationresult", "id": "t-1", "trigger_type": "my::type", "function_id": "b::f"}
    error = {"code": "bad_config", "message": "no"}
    other.send(**refusal, error=error)
    provider.send(**refusal)
    assert consumer.take() == []
    provider.send(**refusal, error=error)
    assert consumer.take() == [{**refusal, "error": error}]


def test_the_next_provider_takes_over_when_one_withdraws(join):
    first, second, consumer = join(), join(), join()
    first.send(type="registertriggertype", id="my::type")
    bind(consumer)
    second.send(type="registertriggertype", id="my::type")
    first.take()
    second.take()
    second.send(type="unregistertriggertype", id="my::type")
    assert [each["id"] for each in first.take()] == ["t-1"]


@pytest.mark.parametrize("trigger_type", ["engine::connections", "engine::anything"])
def test_the_engines_own_trigger_types_cannot_be_provided_by_a_worker(bus, join, trigger_type):
    ConnectionsTrigger(bus, lambda delay, callback: None)
    worker = join()
    worker.send(type="registertriggertype", id=trigger_type)
    assert "belongs to the engine" in worker.take("error")[0]["error"]["message"]


@pytest.mark.parametrize("missing", ["id", "trigger_type", "function_id"])
def test_a_binding_without_one_of_its_names_is_refused(join, missing):
    worker = join()
    names = {"id": "t", "trigger_type": "x", "function_id": "a::b", missing: None}
    worker.send(type="registertrigger", **names)
    assert worker.take()[0]["error"]["code"] == "trigger_registration_failed"


def test_bindings_are_bounded_and_replacing_one_takes_no_room(join, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FUNCTIONS", 2)
    worker = join()
    for trigger_id in ("a", "b", "b", "a"):
        bind(worker, trigger_id=trigger_id)
    assert worker.take() == []
    bind(worker, trigger_id="c")
    assert worker.take()[0]["error"]["code"] == "limit_exceeded"


class Clock:
    """Gathers what is to run later."""

    def __init__(self) -> None:
        self.due = []

    def call_later(self, delay, callback):
        assert delay <= 0.02
        self.due.append(callback)

    def run(self):
        due, self.due = self.due, []
        for callback in due:
            callback()


@pytest.fixture
def clock(bus):
    """Serves the type engine::connections on the bare bus."""
    clock = Clock()
    ConnectionsTrigger(bus, clock.call_later)
    return clock


OPERATOR = Who("r", "operator", "u-0", "operator", "pod-0")
WORKER = Who("r", "default/w", "u-1", "worker", "pod-1")


def watch(operator):
    operator.send(type="registerfunction", id="op::changed")
    bind(operator, "engine::connections", function_id="op::changed")


def told(operator, clock):
    clock.run()
    messages = operator.take()
    assert all(each["type"] == "invokefunction" and "invocation_id" not in each for each in messages)
    return [each["data"] for each in messages]


def test_the_operator_gets_a_snapshot_and_then_complete_entries_of_what_changed(join, clock):
    worker, operator = join(peer=WORKER), join(peer=OPERATOR)
    worker.send(type="registerfunction", id="a::z")
    watch(operator)
    (snapshot,) = told(operator, clock)
    assert snapshot["snapshot"] is True
    entries = {each["worker_id"]: each for each in snapshot["connections"]}
    assert set(entries) == {worker.id, operator.id}
    since = entries[worker.id].pop("since")
    assert since.endswith("+00:00")
    assert entries[worker.id] == {
        "worker_id": worker.id,
        "connected": True,
        "name": "",
        "subject": "default/w",
        "uid": "u-1",
        "pod_uid": "pod-1",
        "role": "worker",
        "functions": ["a::z"],
    }
    worker.send(type="registerfunction", id="a::a")
    worker.send(type="registerfunction", id="a::b")
    (change,) = told(operator, clock)
    assert change["snapshot"] is False
    (entry,) = change["connections"]
    assert entry["functions"] == ["a::a", "a::b", "a::z"]
    worker.end(now=1_000_000_000.0)
    (change,) = told(operator, clock)
    (entry,) = change["connections"]
    assert (entry["connected"], entry["worker_id"], entry["functions"]) == (False, worker.id, [])
    assert (entry["pod_uid"], entry["since"]) == ("pod-1", "2001-09-09T01:46:40.000+00:00")
    assert told(operator, clock) == []


def test_changes_close_together_are_told_once(join, clock):
    operator = join(peer=OPERATOR)
    watch(operator)
    told(operator, clock)
    worker = join(peer=WORKER)
    for number in range(50):
        worker.send(type="registerfunction", id=f"a::{number}")
    (change,) = told(operator, clock)
    (entry,) = change["connections"]
    assert len(entry["functions"]) == 50


def test_a_binding_made_before_its_function_gets_its_snapshot_when_that_comes(join, clock):
    operator = join(peer=OPERATOR)
    bind(operator, "engine::connections", function_id="op::changed")
    assert told(operator, clock) == []
    operator.send(type="registerfunction", id="op::changed")
    (snapshot,) = told(operator, clock)
    assert snapshot["snapshot"] is True


def test_each_of_two_operators_is_told_on_its_own_connection(join, clock):
    first, second = join(peer=OPERATOR), join(peer=OPERATOR)
    watch(first)
    watch(second)
    clock.run()
    assert [each["data"]["snapshot"] for each in first.take()] == [True]
    assert [each["data"]["snapshot"] for each in second.take()] == [True]


def test_a_worker_may_not_watch_connections_when_identities_are_known(join, clock):
    worker = join(peer=WORKER)
    watch(worker)
    (refused,) = worker.take()
    assert (refused["type"], refused["error"]["code"]) == ("triggerregistrationresult", "FORBIDDEN")
    assert told(worker, clock) == []


def test_anybody_may_watch_connections_of_an_open_engine_and_none_is_told_after_unbinding(join, clock):
    anybody = join()
    watch(anybody)
    (snapshot,) = told(anybody, clock)
    assert snapshot["connections"][0]["subject"] == ""
    anybody.send(type="unregistertrigger", id="t-1")
    join()
    assert told(anybody, clock) == []
