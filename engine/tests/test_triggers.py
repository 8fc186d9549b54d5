import asyncio

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_engine.builtins import engine
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Peer as Who
from agentos_engine.bus.errors import BusError
from agentos_engine.limits import Limits
from agentos_engine.triggers.connections import ConnectionsTrigger
from agentos_engine.triggers.firing import Firing


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
    ConnectionsTrigger(bus)
    worker = join()
    worker.send(type="registertriggertype", id=trigger_type)
    assert "belongs to the engine" in worker.take("error")[0]["error"]["message"]


@pytest.mark.parametrize("missing", ["id", "trigger_type", "function_id"])
def test_a_binding_without_one_of_its_names_is_refused(join, missing):
    worker = join()
    names = {"id": "t", "trigger_type": "x", "function_id": "a::b", missing: None}
    worker.send(type="registertrigger", **names)
    assert worker.take()[0]["error"]["code"] == "trigger_registration_failed"


def test_bindings_are_bounded_and_replacing_one_takes_no_room(join):
    worker = join(bus=Bus(bounds=Limits(triggers_per_connection=2)))
    for trigger_id in ("a", "b", "b", "a"):
        bind(worker, trigger_id=trigger_id)
    assert worker.take() == []
    bind(worker, trigger_id="c")
    assert worker.take()[0]["error"]["code"] == "limit_exceeded"


@pytest.fixture
def told_by(bus):
    """Serves the type engine::connections on the bare bus."""
    bus.grants.take([Grant("u-1", "default/w", (Pattern("a::*"), Pattern("op::*")))])
    return ConnectionsTrigger(bus)


OPERATOR = Who("r", "operator", "u-0", "operator", "pod-0")
WORKER = Who("r", "default/w", "u-1", "worker", "pod-1")


def watch(operator):
    operator.send(type="registerfunction", id="op::changed")
    bind(operator, "engine::connections", function_id="op::changed")


async def told(operator, clock):
    await clock.advance(0.02)
    messages = operator.take()
    assert all(each["type"] == "invokefunction" and "invocation_id" not in each for each in messages)
    return [each["data"] for each in messages]


async def test_the_operator_gets_a_snapshot_and_then_complete_entries_of_what_changed(join, clock, told_by):
    worker, operator = join(peer=WORKER), join(peer=OPERATOR)
    worker.send(type="registerfunction", id="a::z")
    watch(operator)
    (snapshot,) = await told(operator, clock)
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
        "key_id": "",
        "functions": ["a::z"],
        "claims": [],
        "waiting": [],
    }
    worker.send(type="registerfunction", id="a::a")
    worker.send(type="registerfunction", id="a::b")
    (change,) = await told(operator, clock)
    assert change["snapshot"] is False
    (entry,) = change["connections"]
    assert entry["functions"] == ["a::a", "a::b", "a::z"]
    worker.end()
    (change,) = await told(operator, clock)
    (entry,) = change["connections"]
    assert (entry["connected"], entry["worker_id"], entry["functions"]) == (False, worker.id, [])
    assert (entry["pod_uid"], entry["since"]) == ("pod-1", "2025-06-15T15:06:40.040+00:00")
    assert await told(operator, clock) == []


async def test_changes_close_together_are_told_once(join, clock, told_by):
    operator = join(peer=OPERATOR)
    watch(operator)
    await told(operator, clock)
    worker = join(peer=WORKER)
    for number in range(50):
        worker.send(type="registerfunction", id=f"a::{number}")
    (change,) = await told(operator, clock)
    (entry,) = change["connections"]
    assert len(entry["functions"]) == 50


async def test_a_binding_made_before_its_function_gets_its_snapshot_when_that_comes(join, clock, told_by):
    operator = join(peer=OPERATOR)
    bind(operator, "engine::connections", function_id="op::changed")
    assert await told(operator, clock) == []
    operator.send(type="registerfunction", id="op::changed")
    (snapshot,) = await told(operator, clock)
    assert snapshot["snapshot"] is True


async def test_each_of_two_operators_is_told_on_its_own_connection(join, clock, told_by):
    first, second = join(peer=OPERATOR), join(peer=OPERATOR)
    watch(first)
    watch(second)
    await clock.advance(0.02)
    assert [each["data"]["snapshot"] for each in first.take()] == [True]
    assert [each["data"]["snapshot"] for each in second.take()] == [True]


async def test_a_worker_may_not_watch_connections_when_identities_are_known(join, clock, told_by):
    worker = join(peer=WORKER)
    watch(worker)
    (refused,) = worker.take()
    assert (refused["type"], refused["error"]["code"]) == ("triggerregistrationresult", "FORBIDDEN")
    assert await told(worker, clock) == []


async def test_anybody_may_watch_connections_of_an_open_engine_and_none_is_told_after_unbinding(join, clock, told_by):
    anybody = join()
    watch(anybody)
    (snapshot,) = await told(anybody, clock)
    assert snapshot["connections"][0]["subject"] == ""
    anybody.send(type="unregistertrigger", id="t-1")
    join()
    assert await told(anybody, clock) == []


class Kept:
    """A trigger type of the engine that keeps what is bound to it."""

    def __init__(self):
        self.bound = []

    def bind(self, binding):
        if binding.config == b'"bad"':
            raise BusError("trigger_registration_failed", "bad config")
        self.bound.append(binding)

    def unbind(self, binding):
        if binding in self.bound:
            self.bound.remove(binding)


def test_replicas_that_bind_the_same_count_as_one_and_take_over_from_each_other(bus, join):
    kept = Kept()
    bus.triggers.serve("k", kept)
    first, second, third = join(), join(), join()
    for number, worker in enumerate((first, second, third)):
        config = {"a": 1, "b": 2} if number else {"b": 2, "a": 1}
        bind(worker, "k", f"t-{number}", config=config)
        bind(worker, "k", f"u-{number}", config={"other": True})
    assert [each.connection.id for each in kept.bound] == [first.id, first.id]
    first.send(type="unregistertrigger", id="t-0")
    assert sorted(each.id for each in kept.bound) == ["t-1", "u-0"]
    first.end()
    second.end()
    assert sorted(each.id for each in kept.bound) == ["t-2", "u-2"]
    third.end()
    assert kept.bound == []
    assert bus.triggers.served["k"].groups == {}


def test_one_connection_may_bind_the_same_twice(bus, join):
    kept = Kept()
    bus.triggers.serve("k", kept)
    worker = join()
    bind(worker, "k", "t-1", config=1)
    bind(worker, "k", "t-2", config=1)
    assert len(kept.bound) == 2


def test_bindings_wait_for_a_type_of_the_engine_that_comes_goes_and_comes_back(bus, join):
    kept, worker = Kept(), join()
    bind(worker, "k", "t-1", config={"x": 1})
    bind(worker, "k", "t-2", config="bad")
    assert worker.take() == []
    bus.triggers.serve("k", kept)
    assert [each.id for each in kept.bound] == ["t-1"]
    (refused,) = worker.take()
    assert (refused["id"], refused["error"]["message"]) == ("t-2", "bad config")
    bus.triggers.unserve("k")
    assert kept.bound == []
    again = Kept()
    bus.triggers.serve("k", again)
    assert [each.id for each in again.bound] == ["t-1"]


def test_a_refused_binding_can_be_made_right_under_its_id(bus, join):
    kept, worker = Kept(), join()
    bus.triggers.serve("k", kept)
    bind(worker, "k", "t-1", config="bad")
    assert worker.take()[0]["error"]["code"] == "trigger_registration_failed"
    bind(worker, "k", "t-1", config="good")
    assert (worker.take(), len(kept.bound)) == ([], 1)


@pytest.mark.parametrize(
    ("answer", "fires"),
    [({"result": False}, False), ({"result": None}, True), ({}, True), ({"result": 0}, True), ({"error": True}, False)],
)
async def test_only_a_literal_false_or_an_error_of_the_condition_keeps_a_trigger_from_firing(bus, join, answer, fires):
    kept, worker = Kept(), join()
    bus.triggers.serve("k", kept)
    for function_id in ("a::f", "a::condition"):
        worker.send(type="registerfunction", id=function_id)
    bind(worker, "k", function_id="a::f", config={"condition_function_id": "a::condition"}, metadata={"m": 1})
    Firing(bus).start(kept.bound[0], b'{"x":1}')
    await asyncio.sleep(0)
    (asked,) = worker.take()
    assert (asked["function_id"], asked["data"]) == ("a::condition", {"x": 1})
    if "error" in answer:
        answer = {"error": {"code": "E", "message": "m"}}
    worker.send(type="invocationresult", invocation_id=asked["invocation_id"], function_id="a::condition", **answer)
    for _ in range(10):
        await asyncio.sleep(0)
    fired = [(each["function_id"], each["data"], each["metadata"]) for each in worker.take()]
    assert fired == ([("a::f", {"x": 1}, {"m": 1})] if fires else [])


def test_a_connection_with_several_bindings_of_a_group_serves_until_its_last_one_goes(bus, join):
    kept = Kept()
    bus.triggers.serve("k", kept)
    first, second = join(), join()
    bind(first, "k", "a-1")
    bind(second, "k", "b-1")
    bind(first, "k", "a-2")
    first.send(type="unregistertrigger", id="a-1")
    assert [each.id for each in kept.bound] == ["a-2"]
    first.send(type="unregistertrigger", id="a-2")
    assert [each.id for each in kept.bound] == ["b-1"]
    second.end()
    assert kept.bound == []


def test_a_former_provider_is_told_that_its_bindings_are_anothers_now(join):
    former, newer, consumer = join(), join(), join()
    former.send(type="registertriggertype", id="my::type")
    bind(consumer)
    former.take()
    newer.send(type="registertriggertype", id="my::type")
    assert [(each["type"], each["id"]) for each in former.take()] == [("unregistertrigger", "t-1")]
    assert [each["type"] for each in newer.take()] == ["registertrigger"]
    former.send(
        type="triggerregistrationresult", id="t-1", trigger_type="my::type", error={"code": "X", "message": "m"}
    )
    assert consumer.take() == [], "it is not asked any more"
    newer.end()
    assert [each["type"] for each in former.take()] == ["registertrigger"]


def test_bindings_fall_back_to_the_default_namespaces_provider_when_their_own_goes(bus, join):
    engine.install(bus)
    plain, own, consumer = join(), join(), join()
    for worker, namespace in ((own, "team"), (consumer, "team")):
        worker.send(type="invokefunction", function_id="engine::workers::register", data={"namespace": namespace})
    plain.send(type="registertriggertype", id="my::type")
    own.send(type="registertriggertype", id="my::type")
    bind(consumer)
    assert (plain.take(), [each["type"] for each in own.take()]) == ([], ["registertrigger"])
    own.end()
    assert [each["type"] for each in plain.take()] == ["registertrigger"]


def test_of_two_bindings_with_one_id_the_older_serves_again_when_the_newer_goes(join):
    provider, older, newer = join(), join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(older, function_id="a::older")
    bind(newer, function_id="a::newer")
    newer.end()
    assert [each["function_id"] for each in provider.take()] == ["a::older", "a::newer", "a::older"]


def test_a_type_that_the_engine_serves_for_a_while_comes_back_to_its_worker(bus, join):
    provider, consumer, kept = join(), join(), Kept()
    provider.send(type="registertriggertype", id="k")
    bind(consumer, "k")
    provider.take()
    bus.triggers.serve("k", kept)
    assert [each["type"] for each in provider.take()] == ["unregistertrigger"]
    assert len(kept.bound) == 1
    bus.triggers.unserve("k")
    assert [each["type"] for each in provider.take()] == ["registertrigger"]


def test_neither_a_binding_nor_an_error_can_end_the_link_of_an_old_sdk(bus, join):
    engine.install(bus)
    provider, consumer = join(), join()
    for worker in (provider, consumer):
        about = {"runtime": "python", "version": "0.11.6"}
        worker.send(type="invokefunction", function_id="engine::workers::register", data=about)
    provider.send(type="registertriggertype", id="my::type")
    bind(consumer, config="x" * 600_000, metadata="y" * 600_000)
    assert provider.take() == []
    assert consumer.take()[0]["error"]["code"] == "payload_too_large"
    bind(consumer)
    provider.take()
    for error in ({"code": "c" * 5000, "message": "m" * (1 << 20)}, 5, "text"):
        provider.send(type="triggerregistrationresult", id="t-1", trigger_type="my::type", error=error)
        (frame,) = consumer.frames
        assert len(frame) < 10_000
        consumer.take()


async def test_who_may_not_watch_connections_cannot_by_a_call_either(bus, join, told_by):
    engine.install(bus)
    worker, operator = join(peer=WORKER), join(peer=OPERATOR)
    data = {"trigger_type": "engine::connections", "function_id": "a::f"}
    for peer in (worker, operator):
        peer.send(type="invokefunction", function_id="engine::register_trigger", invocation_id="i", data=data)
        await asyncio.sleep(0.01)
    assert worker.take("invocationresult")[0]["error"]["code"] == "FORBIDDEN"
    assert "result" in operator.take("invocationresult")[0]


def test_ids_with_a_wrong_size_and_types_without_bound_are_refused(join):
    worker = join(bus=Bus(bounds=Limits(registered_bytes_per_connection=3000)))
    for number in range(20):
        worker.send(type="registertriggertype", id=f"t-{number}", description="d" * 1000)
    assert worker.connection.registered_bytes <= 3000
    for number in range(20):
        worker.send(type="unregistertriggertype", id=f"t-{number}")
    assert worker.connection.registered_bytes == 0
