import asyncio
import logging

import msgspec
import pytest
from agentos_engine import limits
from agentos_engine.builtins import engine, unserved
from agentos_engine.builtins.listings import Listings
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Peer as Who
from agentos_engine.bus.registry import reserved
from agentos_engine.limits import Limits
from agentos_engine.protocol.messages import Message


def call(peer, function_id, invocation_id="i-1", **more):
    peer.send(type="invokefunction", function_id=function_id, invocation_id=invocation_id, **more)


def test_a_connection_is_greeted_with_its_id_before_anything_else(join):
    worker = join(greeting=True)
    (greeting,) = worker.take()
    assert greeting == {
        "type": "workerregistered",
        "worker_id": worker.id,
        "reattach_token": worker.connection.reattach_token,
    }


def test_a_call_goes_to_the_worker_and_its_result_comes_back_with_the_callers_id(join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f", "UPPER-Id", data={"x": 1}, traceparent="00-t", baggage="k=v", metadata={"m": 1})
    (invoked,) = worker.take()
    assert invoked == {
        "type": "invokefunction",
        "invocation_id": "UPPER-Id",
        "function_id": "a::f",
        "data": {"x": 1, "_caller_worker_id": caller.id},
        "traceparent": "00-t",
        "baggage": "k=v",
        "metadata": {"m": 1},
    }
    worker.send(
        type="invocationresult", invocation_id="UPPER-Id", function_id="a::f", result={"y": 2}, traceparent="00-u"
    )
    (answer,) = caller.take()
    assert answer["invocation_id"] == "UPPER-Id"
    assert (answer["result"], answer["traceparent"]) == ({"y": 2}, "00-u")


def test_a_workers_own_error_code_reaches_the_caller_unchanged(join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    error = {"code": "W105", "message": "bad request", "detail": [1]}
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", error=error)
    assert caller.take()[0]["error"] == error


@pytest.mark.parametrize("error", ["text", 5, {"code": 1}, []])
def test_an_error_that_would_break_an_sdk_is_replaced(join, error):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", error=error)
    assert caller.take()[0]["error"]["code"] == "invocation_failed"


@pytest.mark.parametrize("answer", [{}, {"result": None}, {"result": None, "error": None}])
def test_a_null_result_reaches_the_caller_without_the_key(join, answer):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", **answer)
    assert caller.take() == [{"type": "invocationresult", "invocation_id": "i-1", "function_id": "a::f"}]


def test_two_callers_that_use_the_same_id_each_get_their_own_result(join):
    worker, first, second = join(), join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(first, "a::f", "same", data=1)
    call(second, "a::f", "same", data=2)
    invoked = worker.take()
    assert len({each["invocation_id"] for each in invoked}) == 2
    for each in reversed(invoked):
        worker.send(
            type="invocationresult", invocation_id=each["invocation_id"], function_id="a::f", result=each["data"] * 10
        )
    (of_first,), (of_second,) = first.take(), second.take()
    assert (of_first["invocation_id"], of_first["result"]) == ("same", 10)
    assert (of_second["invocation_id"], of_second["result"]) == ("same", 20)


def test_only_the_worker_that_was_called_can_answer(join):
    worker, caller, other = join(), join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    other.send(type="invocationresult", invocation_id="i-1", function_id="a::f", result="forged")
    assert caller.take() == []
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", result="real")
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", result="twice")
    assert [each["result"] for each in caller.take()] == ["real"]


@pytest.mark.parametrize("form", [{"action": {"type": "void"}}, {"action": {"type": "void"}, "invocation_id": "v"}, {}])
def test_a_call_that_wants_no_answer_is_delivered_without_an_id_and_never_answered(bus, join, form):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    caller.send(type="invokefunction", function_id="a::f", data={}, **form)
    caller.send(type="invokefunction", function_id="no::such", data={}, **form)
    (invoked,) = worker.take()
    assert "invocation_id" not in invoked
    assert caller.take() == []
    assert bus.calls.invocations.in_flight == 0


def test_an_unknown_function_is_named(join):
    caller = join()
    call(caller, "no::such")
    error = caller.take()[0]["error"]
    assert error == {"code": "function_not_found", "message": "Function no::such not found in namespace default."}


def test_enqueue_and_unknown_actions_get_a_coded_error(join):
    caller = join()
    call(caller, "a::f", action={"type": "enqueue", "queue": "q"})
    call(caller, "a::f", action={"type": "later"})
    assert [each["error"]["code"] for each in caller.take()] == ["enqueue_error", "invocation_error"]


def test_callers_hear_at_once_when_the_callee_goes(bus, join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f", "one")
    call(caller, "a::f", "two")
    worker.end()
    answers = caller.take()
    assert {each["invocation_id"] for each in answers} == {"one", "two"}
    assert {each["error"]["code"] for each in answers} == {"invocation_stopped"}
    assert bus.calls.invocations.in_flight == 0
    call(caller, "a::f")
    assert caller.take()[0]["error"]["code"] == "function_not_found"


def test_nothing_is_left_of_a_caller_that_goes_and_the_late_result_is_dropped(bus, join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    caller.end()
    assert bus.calls.invocations.in_flight == 0
    assert worker.connection.calls == {}
    caller.take()
    worker.take()
    worker.send(type="invocationresult", invocation_id="i-1", function_id="a::f", result=1)
    assert caller.frames == worker.frames == []


def test_a_worker_may_call_itself_and_go_in_the_middle_of_it(bus, join):
    worker = join()
    worker.send(type="registerfunction", id="a::f")
    call(worker, "a::f")
    worker.end()
    assert bus.calls.invocations.in_flight == 0


def test_several_owners_take_turns_and_take_over_from_each_other(join):
    first, second, caller = join(), join(), join()
    first.send(type="registerfunction", id="a::f")
    second.send(type="registerfunction", id="a::f")
    first.send(type="registerfunction", id="a::f")  # again: counts once
    for number in range(4):
        call(caller, "a::f", f"i-{number}")
    assert (len(first.take()), len(second.take())) == (2, 2)
    second.end()
    caller.take()
    call(caller, "a::f", "i-5")
    assert len(first.take()) == 1
    first.send(type="unregisterfunction", id="a::f")
    call(caller, "a::f", "late")
    assert caller.take()[-1]["error"]["code"] == "function_not_found"


def test_the_owner_with_the_fewest_calls_in_flight_is_called(join):
    busy, idle, caller = join(), join(), join()
    busy.send(type="registerfunction", id="a::f")
    busy.send(type="registerfunction", id="a::only")
    idle.send(type="registerfunction", id="a::f")
    for number in range(3):
        call(caller, "a::only", f"i-{number}")
    busy.take()
    for number in range(3):
        call(caller, "a::f", f"j-{number}")
    assert (len(busy.take()), len(idle.take())) == (0, 3)


def test_an_owner_that_is_silent_draining_or_slow_to_read_gets_calls_only_when_no_other_can(join):
    owners, caller = [join(), join()], join()
    for owner in owners:
        owner.send(type="registerfunction", id="a::f")
    for state in ("silent", "draining", "congested"):
        setattr(owners[0].connection, state, True)
        for number in range(4):
            call(caller, "a::f", f"{state}-{number}")
        assert (len(owners[0].take()), len(owners[1].take())) == (0, 4), state
        setattr(owners[0].connection, state, False)
    owners[1].end()
    owners[0].connection.draining = True
    caller.take()
    call(caller, "a::f", "last")
    assert len(owners[0].take()) == 1
    owners[0].connection.silent = True
    call(caller, "a::f", "refused")
    assert caller.take()[-1]["error"]["code"] == "worker_unresponsive"


def test_with_first_wins_the_newcomer_is_refused_as_in_iii(join):
    bus = Bus(routing="first-wins")
    first, second = join(bus=bus), join(bus=bus)
    for worker in (first, second):
        worker.send(type="registerfunction", id="a::f")
    assert first.take() == []
    (rejected,) = second.take()
    assert rejected == {
        "type": "registrationrejected",
        "code": "FUNCTION_NAMESPACE_CONFLICT",
        "namespace": "default",
        "function_id": "a::f",
        "owner_worker_id": first.id,
    }
    first.send(type="registerfunction", id="a::f")
    assert first.take() == []
    first.end()
    second.send(type="registerfunction", id="a::f")
    assert second.take() == []


def test_past_its_deadline_a_call_is_answered_its_slot_freed_and_the_late_result_dropped(bus, join, clock):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f", metadata={"timeout_ms": 1500})
    worker.send(type="registerfunction", id="a::g")
    call(caller, "a::f", "i")
    call(caller, "a::g", "j")
    clock._elapsed = 1.4
    bus.calls.expire()
    assert caller.take() == []
    clock._elapsed = 1.5
    bus.calls.expire()
    (answer,) = caller.take()
    assert (answer["invocation_id"], answer["error"]["code"]) == ("i", "TIMEOUT")
    assert "1500 ms" in answer["error"]["message"]
    assert bus.calls.invocations.in_flight == 1
    worker.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
    assert caller.take() == []
    worker.send(type="invocationresult", invocation_id="j", function_id="a::g", result=2)
    assert caller.take()[0]["result"] == 2


@pytest.mark.parametrize("timeout_ms", [0, -1, "5", True, None, float("1e300"), 10**19])
def test_a_time_limit_that_is_none_is_ignored(bus, join, clock, timeout_ms):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f", metadata={"timeout_ms": timeout_ms})
    call(caller, "a::f")
    clock._elapsed = 6 * 24 * 3600.0
    bus.calls.expire()
    assert caller.take() == []


async def test_draining_reports_when_nothing_is_in_flight(bus, join, clock):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f", "i")
    drained = bus.spawn(bus.drain([worker.connection], 30))
    await clock.advance(10)
    assert not drained.done()
    worker.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
    assert await drained is True
    call(caller, "a::f", "j")
    drained = bus.spawn(bus.drain([worker.connection], 30))
    await clock.advance(31)
    assert await drained is False
    assert worker.connection.when_idle == []


def test_functions_live_in_the_iii_namespace_that_their_worker_names_early_or_late(bus, join):
    engine.install(bus)
    Listings(bus)
    orders, plain, caller = join(), join(), join()
    orders.send(type="registerfunction", id="a::f")
    orders.send(type="invokefunction", function_id="engine::workers::register", data={"namespace": "orders"})
    orders.send(type="registerfunction", id="a::g")
    plain.send(type="registerfunction", id="a::f")
    for function_id, namespace in (("a::f", "orders"), ("a::g", "orders"), ("a::f", "default")):
        call(caller, function_id, namespace=namespace)
    assert [each["function_id"] for each in orders.take()] == ["a::f", "a::g"]
    assert [each["function_id"] for each in plain.take()] == ["a::f"]
    call(caller, "a::g")
    (answer,) = caller.take()
    assert answer["error"]["message"] == ("Function a::g not found in namespace default. It is registered in: orders.")
    call(caller, "engine::functions::list", namespace="orders")
    assert len(caller.take()[0]["result"]["functions"]) == 3


@pytest.mark.parametrize("namespace", ["", "  ", 5, {}])
def test_a_blank_or_odd_namespace_is_refused_with_a_code(join, namespace):
    caller = join()
    call(caller, "a::f", namespace=namespace)
    assert caller.take()[0]["error"]["code"] == "INVALID_NAMESPACE"
    call(caller, "a::f", namespace=None)
    assert caller.take()[0]["error"]["code"] == "function_not_found"


def test_check_11_reattaching_ends_the_old_connection_and_leaves_one_owner(bus, join):
    old, new, caller = join(), join(), join()
    old.send(type="registerfunction", id="a::f")
    token = old.connection.reattach_token
    new.send(type="reattach", previous_worker_id=old.id, reattach_token=token)
    new.send(type="registerfunction", id="a::f")
    assert old.wire.ended
    assert old.id not in bus.connections
    call(caller, "a::f")
    assert (len(old.take()), len(new.take())) == (0, 1)


@pytest.mark.parametrize("token", ["wrong", "", None, 5])
def test_check_12_a_wrong_reattach_token_is_ignored(bus, join, token):
    old, new = join(), join()
    new.send(type="reattach", previous_worker_id=old.id, reattach_token=token)
    new.send(type="registerfunction", id="a::f")
    assert not old.wire.ended
    assert len(bus.connections) == 2


def test_another_identity_cannot_reattach_even_with_the_token(join):
    old = join(peer=Who("r", "default/a", "u-1", "worker", "pod-1"))
    new = join(peer=Who("r", "default/b", "u-2", "worker", "pod-2"))
    new.send(type="reattach", previous_worker_id=old.id, reattach_token=old.connection.reattach_token)
    assert not old.wire.ended


def test_an_old_python_sdk_is_never_sent_more_than_it_takes(bus, join):
    engine.install(bus)
    Listings(bus)
    old, caller = join(), join()
    about = {"runtime": "python", "version": "0.11.6"}
    old.send(type="invokefunction", function_id="engine::workers::register", data=about)
    old.send(type="registerfunction", id="a::f")
    call(caller, "a::f", data="x" * (1 << 20))
    assert caller.take()[0]["error"]["code"] == "payload_too_large"
    assert old.take() == []
    assert bus.calls.invocations.in_flight == 0
    caller.send(type="registerfunction", id="b::big")
    call(old, "b::big", "i")
    caller.send(type="invocationresult", invocation_id="i", function_id="b::big", result="x" * (1 << 20))
    assert old.take()[0]["error"]["code"] == "payload_too_large"


@pytest.mark.parametrize(
    "metadata", ["[" * 200 + "]" * 200, '{"n": ' + "1" * 5000 + "}", '{"x": "' + "y" * (1 << 20) + '"}']
)
def test_what_other_workers_could_not_read_in_a_listing_is_not_registered(bus, join, metadata):
    worker = join()
    worker.bus.receive(worker.connection, b'{"type":"registerfunction","id":"a::f","metadata":%s}' % metadata.encode())
    assert "metadata" in worker.take("error")[0]["error"]["message"]
    assert len(bus.registry) == 0


def test_an_invocation_id_without_bound_is_refused(join):
    caller = join()
    call(caller, "a::f", "i" * 2000)
    assert caller.take() == []


@pytest.mark.parametrize(
    "function_id",
    ["engine::x", "sandbox::exec", "iii::any::thing", "state::get", "publish", "engine::" + "x" * 200, "iii::a b"],
)
def test_ids_of_the_engine_are_refused_and_the_connection_stays(bus, join, function_id):
    worker = join()
    worker.send(type="registerfunction", id=function_id)
    (rejected,) = worker.take()
    assert rejected["type"] == "registrationrejected"
    assert rejected["code"] == "FUNCTION_NAMESPACE_CONFLICT"
    assert (rejected["function_id"], rejected["owner_worker_id"]) == (function_id, "engine")
    assert len(bus.registry) == 0
    worker.send(type="ping")
    assert worker.take() == [{"type": "pong"}]


@pytest.mark.parametrize(
    "function_id", ["echo", "a.b", "engine", "state::mine", "stream::chat", "a b::c", "sandboxed::x"]
)
def test_other_ids_are_accepted_whether_or_not_they_are_claim_patterns(bus, join, function_id):
    worker, caller = join(), join()
    assert not reserved(function_id)
    worker.send(type="registerfunction", id=function_id)
    assert worker.take() == []
    call(caller, function_id)
    assert worker.take()[0]["function_id"] == function_id


def test_functions_invoked_over_http_are_refused_aloud(bus, join):
    worker = join()
    worker.send(type="registerfunction", id="a::f", invocation={"url": "https://a.example"})
    assert "iii-http-functions" in worker.take("error")[0]["error"]["message"]
    assert len(bus.registry) == 0


def test_a_connection_has_a_bounded_number_and_size_of_registrations(join):
    bus = Bus(bounds=Limits(functions_per_connection=2, registered_bytes_per_connection=1000))
    worker = join(bus=bus)
    for name in "abb":
        worker.send(type="registerfunction", id=f"x::{name}")
    assert worker.take() == []
    worker.send(type="registerfunction", id="x::c")
    assert "at most 2 functions" in worker.take("error")[0]["error"]["message"]
    worker.send(type="unregisterfunction", id="x::a")
    worker.send(type="registerfunction", id="x::c", description="d" * 1000)
    assert "at most 1000 bytes" in worker.take("error")[0]["error"]["message"]
    worker.send(type="registerfunction", id="x::c")
    assert worker.take() == []
    worker.send(type="unregisterfunction", id="x::b")
    worker.send(type="unregisterfunction", id="x::c")
    assert worker.connection.registered_bytes == 0


def test_unanswered_calls_are_bounded_for_caller_and_worker(join):
    bus = Bus(bounds=Limits(calls_per_connection=2))
    worker, caller, other = join(bus=bus), join(bus=bus), join(bus=bus)
    worker.send(type="registerfunction", id="a::f")
    for number in range(3):
        call(caller, "a::f", f"i-{number}")
    assert [each["error"]["code"] for each in caller.take()] == ["limit_exceeded"]
    call(other, "a::f")
    assert other.take()[0]["error"]["code"] == "limit_exceeded"
    worker.send(type="invocationresult", invocation_id="i-0", function_id="a::f", result=1)
    call(caller, "a::f", "again")
    assert [each["result"] for each in caller.take()] == [1]


def test_garbage_is_logged_once_and_harms_nothing(bus, join, caplog):
    worker = join()
    with caplog.at_level(logging.WARNING):
        for frame in (b"garbage", b"\xff", b"[]", b'{"type":"nonsense"}', b"{" * 5000):
            bus.receive(worker.connection, frame)
    assert len(caplog.records) == 1
    worker.send(type="ping")
    assert worker.take() == [{"type": "pong"}]


def test_a_call_or_answer_with_a_broken_payload_fails_at_once_instead_of_hanging(bus, join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    broken = b'{"type":"invokefunction","invocation_id":"b","function_id":"a::f","data":NaN}'
    bus.receive(caller.connection, broken)
    (answer,) = caller.take()
    assert (answer["invocation_id"], answer["error"]["code"]) == ("b", "invalid_message")
    call(caller, "a::f", "c")
    bus.receive(worker.connection, b'{"type":"invocationresult","invocation_id":"c","result":Infinity}')
    (answer,) = caller.take()
    assert (answer["invocation_id"], answer["error"]["code"]) == ("c", "invalid_message")
    assert bus.calls.invocations.in_flight == 0


def test_registering_in_any_order_gives_the_same_listing(bus, join):
    engine.install(bus)
    Listings(bus)
    register = {"type": "invokefunction", "function_id": "engine::workers::register", "data": {"name": "w", "pid": 1}}
    function = {"type": "registerfunction", "id": "a::f", "metadata": {"k": 1}}
    asker, listings = join(), []
    for messages in ([register, function], [function, register]):
        worker = join()
        for message in messages:
            worker.send(**message)
        call(asker, "engine::functions::list", data={"include_internal": False})
        listings.append(asker.take()[0]["result"])
        worker.end()
    assert listings[0] == listings[1]
    assert listings[0]["functions"][0]["worker_name"] == "w"


def test_the_engines_own_functions_refuse_what_they_cannot_read(bus, join):
    engine.install(bus)
    Listings(bus)
    unserved.install(bus)
    caller = join()
    call(caller, "engine::functions::list", data=[1])
    call(caller, "engine::workers::list", data={"x": "y" * (limits.MAX_BUILT_IN_PAYLOAD + 1)})
    call(caller, "sandbox::anything", data={})
    call(caller, "engine::no::such")
    codes = [each["error"]["code"] for each in caller.take()]
    assert codes == ["deserialization_error", "limit_exceeded", "NOT_SERVED", "function_not_found"]


@pytest.mark.parametrize("data", [{"name": 5, "pid": "x", "os": None}, {"name": "n" * 1000, "pid": True}, None])
def test_a_worker_that_tells_odd_things_about_itself_is_listed_all_the_same(bus, join, data):
    engine.install(bus)
    Listings(bus)
    worker = join()
    worker.send(type="invokefunction", function_id="engine::workers::register", data=data)
    call(worker, "engine::workers::list")
    (listed,) = worker.take()[0]["result"]["workers"]
    assert len(listed["name"]) <= 256
    assert listed["pid"] is None
    assert listed["id"] == worker.id


def test_the_engines_own_callers_get_answers_too(bus, join):
    class Caller:
        def __init__(self):
            self.results = []

        def answered(self, call, message: Message, frame):
            self.results.append(msgspec.json.decode(message.result))

        def failed(self, call, error):
            self.results.append(error.code)

        def returned(self, call, result):
            self.results.append(result)

    worker, caller = join(), Caller()
    worker.send(type="registerfunction", id="a::f")
    bus.invoke("a::f", b'{"n":1}', caller)
    (invoked,) = worker.take()
    assert invoked["data"] == {"n": 1}
    worker.send(type="invocationresult", invocation_id=invoked["invocation_id"], function_id="a::f", result=2)
    abandoned = bus.invoke("a::f", b"{}", caller)
    bus.abandon(abandoned)
    bus.invoke("a::f", b"{}", caller)
    worker.end()
    assert caller.results == [2, "invocation_stopped"]
    assert bus.calls.invocations.in_flight == 0


async def test_calls_that_nobody_waits_for_are_bounded_while_the_engine_carries_them_out(join):
    bus = Bus(bounds=Limits(calls_per_connection=3))
    gate = asyncio.Event()
    started = []

    async def slow(context, data):
        started.append(data)
        await gate.wait()

    bus.functions.add("engine::slow", slow)
    worker = join(bus=bus)
    for number in range(10):
        worker.send(type="invokefunction", function_id="engine::slow", data=number)
    await asyncio.sleep(0)
    assert len(started) == 3
    worker.end()
    gate.set()
    await asyncio.sleep(0.01)
    assert worker.connection.voids == 0
    assert bus.calls.invocations.in_flight == 0
