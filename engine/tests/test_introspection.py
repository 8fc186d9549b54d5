"""``engine::*``: listings in both vocabularies, triggers made by a call, and what tells of comings and goings."""

import asyncio
import json

import pytest
from agentos_contracts.grants import Grant
from agentos_contracts.patterns import Pattern
from agentos_engine.builtins import engine
from agentos_engine.builtins.listings import Listings
from agentos_engine.bus.connection import Peer as Who
from agentos_engine.bus.errors import BusError
from agentos_engine.triggers.availability import Availability
from agentos_engine.triggers.connections import ConnectionsTrigger


@pytest.fixture
def described(bus):
    """The bare bus with its introspection."""
    engine.install(bus)
    Listings(bus)
    Availability(bus)
    return bus


def introduce(peer, name, version="0.25.0", **more):
    data = {"name": name, "version": version, "runtime": "python", "pid": 7, **more}
    peer.send(type="invokefunction", function_id="engine::workers::register", data=data)
    peer.take("invocationresult")


def ask(peer, function_id, data=None):
    peer.send(type="invokefunction", function_id=function_id, invocation_id="ask", data=data)
    (answer,) = [each for each in peer.take("invocationresult") if each["invocation_id"] == "ask"]
    if "error" in answer:
        return answer["error"]["code"]
    return answer["result"]


def bind(peer, trigger_type, trigger_id="t-1", function_id="a::f", **more):
    peer.send(type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, **more)


async def call(bus, function_id, data):
    return json.loads(await bus.call(function_id, json.dumps(data).encode()))


def test_check_15_a_function_is_listed_with_what_it_was_registered_with(described, join):
    worker, caller = join(), join()
    introduce(worker, "w")
    schema = {"type": "object"}
    worker.send(
        type="registerfunction",
        id="a::f",
        description="does f",
        request_format=schema,
        response_format=schema,
        metadata={"team": "x"},
    )
    (entry,) = ask(caller, "engine::functions::list", {"search": "DOES"})["functions"]
    assert entry == {
        "function_id": "a::f",
        "namespace": "default",
        "worker_name": "w",
        "description": "does f",
        "request_format": schema,
        "response_format": schema,
        "metadata": {"team": "x"},
    }
    bind(worker, "http", config={"api_path": "f"})
    info = ask(caller, "engine::functions::info", {"function_id": "a::f"})
    assert (info["request_schema"], info["response_schema"], info["owner"]) == (schema, schema, "w")
    assert [each["trigger_type"] for each in info["registered_triggers"]] == ["http"]
    batch = ask(caller, "engine::functions::info", {"function_ids": ["a::f", "no::such"]})["functions"]
    assert [each["found"] for each in batch] == [True, False]
    assert batch[1]["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "INVALID_ARGUMENTS"),
        ({"function_id": "a", "function_ids": ["b"]}, "INVALID_ARGUMENTS"),
        ({"function_ids": ["x"] * 33}, "INVALID_ARGUMENTS"),
        ({"function_id": "no::such"}, "NOT_FOUND"),
        ({"function_id": 5}, "deserialization_error"),
        ([], "deserialization_error"),
    ],
)
def test_a_wrong_question_about_a_function_has_a_code(described, join, data, code):
    assert ask(join(), "engine::functions::info", data) == code


def test_check_19_internal_and_engine_functions_are_listed_only_on_request(described, join):
    worker = join()
    worker.send(type="registerfunction", id="a::shown")
    worker.send(type="registerfunction", id="a::hidden", metadata={"internal": True})
    assert [each["function_id"] for each in ask(worker, "engine::functions::list")["functions"]] == ["a::shown"]
    listed = ask(worker, "engine::functions::list", {"include_internal": True})["functions"]
    ids = [each["function_id"] for each in listed]
    assert {"a::shown", "a::hidden", "engine::functions::list"} <= set(ids)
    assert ids == sorted(ids)
    assert ask(worker, "engine::functions::info", {"function_id": "engine::workers::list"})["owner"] == "engine"


def test_functions_can_be_filtered_by_prefix_worker_and_namespace(described, join):
    one, two = join(), join()
    introduce(one, "one")
    introduce(two, "two", namespace="orders")
    for worker in (one, two):
        worker.send(type="registerfunction", id="a::f")
    one.send(type="registerfunction", id="b::g")

    def listed(**data):
        found = ask(one, "engine::functions::list", data)["functions"]
        return [(each["namespace"], each["function_id"]) for each in found]

    assert listed() == [("default", "a::f"), ("orders", "a::f"), ("default", "b::g")]
    assert listed(prefix="b") == [("default", "b::g")]
    assert listed(worker="two") == listed(namespace="orders") == [("orders", "a::f")]
    assert listed(workers=["one", "two"]) == listed()


def test_an_id_in_several_namespaces_is_that_of_the_default_else_has_to_be_told_apart(described, join):
    plain, orders, billing = join(), join(), join()
    introduce(plain, "plain")
    introduce(orders, "w", namespace="orders")
    introduce(billing, "w", namespace="billing")
    for worker in (plain, orders, billing):
        worker.send(type="registerfunction", id="a::f")
    assert ask(plain, "engine::functions::info", {"function_id": "a::f"})["namespace"] == "default"
    asked = {"function_id": "a::f", "namespace": "orders"}
    assert ask(plain, "engine::functions::info", asked)["namespace"] == "orders"
    plain.send(type="unregisterfunction", id="a::f")
    plain.send(
        type="invokefunction", function_id="engine::functions::info", invocation_id="i", data={"function_id": "a::f"}
    )
    assert "billing, orders" in plain.take()[-1]["error"]["message"]
    assert ask(plain, "engine::workers::info", {"name": "plain"})["worker"]["name"] == "plain"
    assert ask(plain, "engine::workers::info", {"name": "w"}) == "INVALID_ARGUMENTS"


def test_check_16_triggers_list_means_bindings_for_old_sdks_and_types_for_new_ones(described, join):
    old, new = join(), join()
    introduce(old, "old", "0.11.6")
    introduce(new, "new", "0.22.1")
    new.send(type="registertriggertype", id="my::type", description="mine")
    bind(new, "my::type", config={"a": 1}, metadata={"m": 2})
    (binding,) = ask(old, "engine::triggers::list")["triggers"]
    wanted = {"id": "t-1", "trigger_type": "my::type", "function_id": "a::f", "config": {"a": 1}, "metadata": {"m": 2}}
    assert wanted.items() <= binding.items()
    types = {each["id"]: each for each in ask(new, "engine::triggers::list")["triggers"]}
    mine = {"id": "my::type", "namespace": "default", "worker_name": "new", "description": "mine"}
    assert types["my::type"] == mine
    assert types["engine::workers-available"]["worker_name"] == "engine"
    (row,) = ask(new, "engine::registered-triggers::list")["registered_triggers"]
    assert (row["worker_name"], row["config_summary"]) == ("new", '{"a": 1}')
    assert ask(new, "engine::registered-triggers::info", {"id": "t-1"}) == row
    assert ask(new, "engine::registered-triggers::info", {"id": "t-2"}) == "NOT_FOUND"
    assert ask(new, "engine::registered-triggers::list", {"trigger_type": "x"})["registered_triggers"] == []


def test_check_17_trigger_types_with_their_formats(described, join):
    worker = join()
    form = {"type": "object"}
    worker.send(
        type="registertriggertype",
        id="my::type",
        description="mine",
        trigger_request_format=form,
        call_request_format=form,
    )
    bind(worker, "my::type")
    types = {each["id"]: each for each in ask(worker, "engine::trigger-types::list")["trigger_types"]}
    assert types["my::type"] == {
        "id": "my::type",
        "description": "mine",
        "trigger_request_format": form,
        "call_request_format": form,
    }
    info = ask(worker, "engine::triggers::info", {"id": "my::type"})
    assert (info["configuration_schema"], info["request_schema"], info["instance_count"]) == (form, form, 1)
    assert ask(worker, "engine::triggers::info", {"id": "engine::workers-available"})["owner"] == "engine"
    assert ask(worker, "engine::triggers::info", {"id": "no::such"}) == "NOT_FOUND"


def test_check_18_a_worker_is_listed_with_what_it_told_and_what_it_does(described, join):
    worker, caller = join(ip_address="10.0.0.1"), join()
    introduce(worker, "w", os="linux", isolation="pod", description="does it")
    worker.send(type="registerfunction", id="a::f")
    caller.send(type="invokefunction", function_id="a::f", invocation_id="i")
    (entry,) = ask(caller, "engine::workers::list", {"search": "DOES"})["workers"]
    wanted = {
        "id": worker.id,
        "name": "w",
        "runtime": "python",
        "version": "0.25.0",
        "os": "linux",
        "pid": 7,
        "isolation": "pod",
        "status": "available",
        "function_count": 1,
        "functions": ["a::f"],
        "active_invocations": 1,
        "ip_address": "10.0.0.1",
    }
    assert wanted.items() <= entry.items()
    assert [each["id"] for each in ask(caller, "engine::workers::list", {"worker_id": caller.id})["workers"]] == [
        caller.id
    ]
    assert ask(caller, "engine::workers::list", {"status": "nope"})["workers"] == []
    worker.connection.silent = True
    assert ask(caller, "engine::workers::list", {"runtime": "python"})["workers"][0]["status"] == "unresponsive"
    info = ask(caller, "engine::workers::info", {"name": "w"})
    assert [each["function_id"] for each in info["functions"]] == ["a::f"]


async def test_check_22_comings_and_goings_of_workers_and_functions_are_told(described, join, clock):
    watcher = join()
    for function_id, trigger_type in (
        ("w::workers", "engine::workers-available"),
        ("w::functions", "engine::functions-available"),
    ):
        watcher.send(type="registerfunction", id=function_id)
        bind(watcher, trigger_type, function_id, function_id)
    await clock.advance(1)
    watcher.take()
    worker = join()
    introduce(worker, "w")
    introduce(worker, "w")
    worker.send(type="registerfunction", id="a::f")
    worker.send(type="registerfunction", id="a::g")
    await clock.advance(1)
    told = [each["data"] for each in watcher.take("invokefunction")]
    assert told[:2] == [
        {"event": "worker_connected", "worker_id": worker.id},
        {"event": "worker_metadata_updated", "worker_id": worker.id},
    ]
    (changed,) = told[2:]
    assert changed["event"] == "functions_changed"
    assert {"a::f", "a::g"} <= {each["function_id"] for each in changed["functions"]}
    worker.end()
    await clock.advance(1)
    told = [each["data"] for each in watcher.take("invokefunction")]
    assert [each["event"] for each in told] == ["worker_disconnected", "functions_changed"]


async def test_a_trigger_made_by_a_call_outlives_its_maker_and_waits_for_the_provider(described, join):
    provider, maker = join(), join()
    provider.send(type="registertriggertype", id="my::type")
    data = {"trigger_type": "my::type", "function_id": "a::f", "config": {"x": 1}}
    asked = described.spawn(call(described, "engine::register_trigger", data))
    (delivered,) = await told(provider, "registertrigger")
    assert delivered["config"] == {"x": 1}
    answer = {key: delivered[key] for key in ("id", "trigger_type", "function_id")}
    provider.send(type="triggerregistrationresult", **answer)
    made = await asked
    maker.end()
    assert ask(provider, "engine::registered-triggers::info", made)["function_id"] == "a::f"
    assert await call(described, "engine::unregister_trigger", made) == {"removed": True}
    assert await call(described, "engine::unregister_trigger", made) == {"removed": False}
    assert provider.take("unregistertrigger")[0]["id"] == made["id"]


async def told(peer, message_type):
    """What a peer is sent once work in the background has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)
    return peer.take(message_type)


async def test_a_trigger_made_by_a_call_fails_with_the_providers_reason_and_leaves_nothing(described, join):
    provider, caller = join(), join()
    provider.send(type="registertriggertype", id="my::type")
    data = {"trigger_type": "my::type", "function_id": "a::f"}
    caller.send(type="invokefunction", function_id="engine::register_trigger", invocation_id="i", data=data)
    (delivered,) = await told(provider, "registertrigger")
    answer = {key: delivered[key] for key in ("id", "trigger_type", "function_id")}
    provider.send(type="triggerregistrationresult", **answer, error={"code": "BAD", "message": "no such tag"})
    (failed,) = await told(caller, "invocationresult")
    assert failed["error"] == {"code": "BAD", "message": "no such tag"}
    assert ask(caller, "engine::registered-triggers::list")["registered_triggers"] == []


async def test_draining_is_for_the_operator_and_reports(described, join, bus):
    bus.grants.take([Grant("u", "default/w", (Pattern("a::*"),))])
    operator = join(peer=Who("r", "operator", "u", "operator", "p"))
    worker = join(peer=Who("r", "default/w", "u", "worker", "pod-1"))
    caller = join(peer=Who("r", "default/c", "u", "worker", "pod-2"))
    worker.send(type="registerfunction", id="a::f")
    caller.send(type="invokefunction", function_id="a::f", invocation_id="i")
    operator.send(
        type="invokefunction", function_id="engine::workers::drain", invocation_id="d", data={"pod_uid": "pod-1"}
    )
    assert await told(operator, "invocationresult") == []
    assert ask(caller, "engine::workers::list", {"worker_id": worker.id})["workers"][0]["status"] == "draining"
    worker.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
    (report,) = await told(operator, "invocationresult")
    assert report["result"] == {"drained": True, "workers": [{"worker_id": worker.id, "in_flight": 0}]}
    caller.send(type="invokefunction", function_id="engine::workers::drain", invocation_id="d", data={"name": "w"})
    assert [each["error"]["code"] for each in await told(caller, "invocationresult") if "error" in each] == [
        "FORBIDDEN"
    ]
    operator.send(type="invokefunction", function_id="engine::workers::drain", invocation_id="e", data={})
    assert (await told(operator, "invocationresult"))[0]["error"]["code"] == "INVALID_ARGUMENTS"


async def test_a_worker_cannot_have_others_drained_by_a_queue(described, join, bus):
    bus.grants.take([Grant("u", "default/w")])
    worker = join(peer=Who("r", "default/w", "u", "worker", "pod-1"))
    with pytest.raises(BusError, match="for the operator") as refused:
        await bus.call("engine::workers::drain", b'{"pod_uid": "pod-1"}', source="queue default")
    assert refused.value.code == "FORBIDDEN"
    assert ask(worker, "engine::workers::list", {"worker_id": worker.id})["workers"][0]["status"] != "draining"


async def test_a_worker_cannot_hear_who_connects_by_having_a_queue_bind_for_it(described, join, bus):
    ConnectionsTrigger(bus)
    spy = {"trigger_type": "engine::connections", "function_id": "spy::hear", "config": {}}
    with pytest.raises(BusError, match="for the operator") as refused:
        await bus.call("engine::register_trigger", json.dumps(spy).encode(), source="queue default")
    assert refused.value.code == "FORBIDDEN"


class Picky:
    """A trigger type of the engine that takes one config only."""

    def bind(self, binding):
        if binding.config != b'"good"':
            raise BusError("trigger_registration_failed", "bad config")

    def unbind(self, binding):
        pass


def test_a_trigger_that_was_refused_is_not_listed_as_if_it_worked(described, join):
    described.triggers.serve("picky", Picky())
    worker, provider = join(), join()
    provider.send(type="registertriggertype", id="my::type")
    bind(worker, "picky", "good", config="good")
    bind(worker, "picky", "bad", config="bad")
    bind(worker, "my::type", "asked")
    bind(worker, "nobody::has", "waits")

    def listed():
        rows = ask(worker, "engine::registered-triggers::list")["registered_triggers"]
        return {each["id"] for each in rows}

    assert listed() == {"good", "asked", "waits"}
    error = {"code": "E", "message": "no"}
    provider.send(type="triggerregistrationresult", id="asked", trigger_type="my::type", error=error)
    assert listed() == {"good", "waits"}
    assert ask(worker, "engine::triggers::info", {"id": "picky"})["instance_count"] == 1
    provider.send(type="registertriggertype", id="my::type")
    assert listed() == {"good", "asked", "waits"}, "it is asked again"
    bind(worker, "picky", "bad", config="good")
    assert "bad" in listed()
