"""``publish`` and the trigger type ``subscribe``."""

import json

import pytest
from agentos_engine.builtins.pubsub import PubSub
from agentos_engine.bus.errors import BusError


@pytest.fixture
async def pubsub(bus):
    """The module, started."""
    pubsub = PubSub(bus=bus)
    await pubsub.start()
    yield pubsub
    await pubsub.stop()


def subscribe(peer, topic, function_id, trigger_id=None, metadata=None, **config):
    peer.send(type="registerfunction", id=function_id)
    peer.send(
        type="registertrigger",
        id=trigger_id or function_id,
        trigger_type="subscribe",
        function_id=function_id,
        config={"topic": topic, **config},
        metadata=metadata,
    )


def publish(peer, topic, data, **more):
    payload = {"topic": topic, "data": data}
    peer.send(type="invokefunction", invocation_id="p", function_id="publish", data=payload, **more)


def calls(peer):
    return [(each["function_id"], each["data"]) for each in peer.take("invokefunction")]


async def test_every_subscriber_of_the_topic_gets_the_message_itself_and_is_not_waited_for(pubsub, join):
    one, other, publisher = join(), join(), join()
    subscribe(one, "t", "a::f")
    subscribe(one, "t", "a::g", metadata={"m": 1})
    subscribe(other, "t", "b::f")
    subscribe(other, "elsewhere", "b::g")
    publish(publisher, "t", {"n": 1})
    messages = one.take("invokefunction")
    assert [(each["function_id"], each["data"]) for each in messages] == [("a::f", {"n": 1}), ("a::g", {"n": 1})]
    assert all("invocation_id" not in each for each in messages)
    assert [each.get("metadata") for each in messages] == [None, {"m": 1}]
    assert calls(other) == [("b::f", {"n": 1})]
    (answer,) = publisher.take("invocationresult")
    assert "result" not in answer
    assert "error" not in answer


async def test_each_of_many_subscribers_gets_a_large_message_whole_and_messages_stay_in_order(pubsub, join):
    workers, publisher = [join() for _ in range(8)], join()
    for number, worker in enumerate(workers):
        subscribe(worker, "t", f'w{number}::"f"', metadata={"m": number % 2})
    large = "a" * 100_000  # more than is sent together
    for data in (large, "b", "c"):
        publish(publisher, "t", data)
    for number, worker in enumerate(workers):
        messages = worker.take("invokefunction")
        assert [each["data"] for each in messages] == [large, "b", "c"]
        assert {each["function_id"] for each in messages} == {f'w{number}::"f"'}
        assert [each["metadata"] for each in messages] == [{"m": number % 2}] * 3


async def test_the_trace_of_the_publisher_goes_along(pubsub, join):
    worker = join()
    subscribe(worker, "t", "a::f")
    publish(worker, "t", 1, traceparent="00-t", baggage="k=v")
    (call,) = worker.take("invokefunction")
    assert call["traceparent"] == "00-t"
    assert "k=v" in call["baggage"]


async def test_replicas_of_a_subscriber_get_a_message_once_between_them(pubsub, join):
    one, other = join(), join()
    for each in (one, other):
        subscribe(each, "t", "a::f")
    publish(one, "t", 1)
    assert len(calls(one) + calls(other)) == 1
    one.end()
    publish(other, "t", 2)
    assert calls(other) == [("a::f", 2)]


@pytest.mark.parametrize("leave", ["unregister", "disconnect"])
async def test_others_keep_receiving_when_one_leaves(pubsub, join, leave):
    one, other = join(), join()
    subscribe(one, "t", "a::f", "same-id")
    subscribe(other, "t", "b::f", "same-id")
    if leave == "unregister":
        one.send(type="unregistertrigger", id="same-id")
    else:
        one.end()
    publish(other, "t", 1)
    assert calls(one) == []
    assert calls(other) == [("b::f", 1)]


async def test_several_bindings_of_one_function_get_a_message_each(pubsub, join):
    worker = join()
    subscribe(worker, "t", "a::f", "one")
    subscribe(worker, "t", "a::f", "two")
    publish(worker, "t", 1)
    assert calls(worker) == [("a::f", 1)] * 2


async def test_registering_again_under_the_same_id_replaces(pubsub, join):
    worker = join()
    subscribe(worker, "t", "a::f", "one")
    subscribe(worker, "u", "a::f", "one")
    publish(worker, "t", 1)
    publish(worker, "u", 2)
    assert calls(worker) == [("a::f", 2)]


async def test_a_condition_decides_for_its_own_binding_only(pubsub, join, clock):
    worker = join()
    subscribe(worker, "t", "a::f", condition_function_id="a::condition")
    subscribe(worker, "t", "a::g")
    worker.send(type="registerfunction", id="a::condition")
    for answer, expected in ((False, []), (True, [("a::f", 1)])):
        publish(worker, "t", 1)
        await clock.advance(0)
        asked = {each["function_id"]: each for each in worker.take("invokefunction")}
        assert set(asked) == {"a::g", "a::condition"}
        question = asked["a::condition"]
        assert question["data"] == 1
        worker.send(
            type="invocationresult",
            invocation_id=question["invocation_id"],
            function_id="a::condition",
            result=answer,
        )
        await clock.advance(0)
        assert calls(worker) == expected


async def test_a_message_to_nobody_or_to_a_missing_function_is_no_error(pubsub, join):
    worker, publisher = join(), join()
    subscribe(worker, "t", "a::f")
    worker.send(type="unregisterfunction", id="a::f")
    publish(publisher, "t", 1)
    publish(publisher, "nobody", 1)
    assert all("error" not in each for each in publisher.take("invocationresult"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"topic": "", "data": 1}', "topic_not_set"),
        (b'{"topic": " ", "data": 1}', "topic_not_set"),
        (b'{"data": 1}', "deserialization_error"),
        (b"null", "deserialization_error"),
    ],
)
async def test_a_missing_topic_has_its_code(pubsub, bus, data, code):
    with pytest.raises(BusError) as caught:
        await bus.call("publish", data)
    assert caught.value.code == code


@pytest.mark.parametrize("config", [{}, {"topic": ""}, {"topic": 1}, [], None])
async def test_a_bad_config_is_refused(pubsub, join, config):
    worker = join()
    worker.send(type="registertrigger", id="i", trigger_type="subscribe", function_id="a::f", config=config)
    (answer,) = worker.take("triggerregistrationresult")
    assert answer["error"]["code"] == "trigger_registration_failed"


async def test_bindings_survive_a_restart_of_the_module(pubsub, bus, join):
    worker = join()
    subscribe(worker, "t", "a::f")
    await pubsub.stop()
    await pubsub.stop()
    with pytest.raises(BusError):
        await bus.call("publish", json.dumps({"topic": "t", "data": 1}).encode())
    again = PubSub(bus=bus)
    await again.start()
    publish(worker, "t", 2)
    assert calls(worker) == [("a::f", 2)]
    await again.stop()
