import json
import logging

import msgspec
import pytest
from agentos_engine import limits
from agentos_engine.builtins import engine, sandbox
from agentos_engine.bus.registry import reserved
from agentos_engine.protocol.messages import Message


def call(peer, function_id, invocation_id="i-1", **more):
    peer.send(type="invokefunction", function_id=function_id, invocation_id=invocation_id, **more)


def test_a_connection_is_greeted_with_its_id_before_anything_else(bus):
    sent = []
    connection = bus.connect(sent.append)
    assert json.loads(sent[0]) == {"type": "workerregistered", "worker_id": connection.id}


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
    assert bus.invocations.in_flight == 0


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
    assert bus.invocations.in_flight == 0
    call(caller, "a::f")
    assert caller.take()[0]["error"]["code"] == "function_not_found"


def test_nothing_is_left_of_a_caller_that_goes_and_the_late_result_is_dropped(bus, join):
    worker, caller = join(), join()
    worker.send(type="registerfunction", id="a::f")
    call(caller, "a::f")
    caller.end()
    assert bus.invocations.in_flight == 0
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
    assert bus.invocations.in_flight == 0


def test_the_newest_owner_is_called_and_the_older_one_takes_over(join):
    older, newer, caller = join(), join(), join()
    older.send(type="registerfunction", id="a::f")
    newer.send(type="registerfunction", id="a::f")
    older.send(type="registerfunction", id="a::f")  # again: keeps its rank
    call(caller, "a::f")
    assert (len(older.take()), len(newer.take())) == (0, 1)
    newer.end()
    caller.take()
    call(caller, "a::f")
    assert len(older.take()) == 1
    older.send(type="unregisterfunction", id="a::f")
    call(caller, "a::f", "late")
    assert caller.take()[-1]["error"]["code"] == "function_not_found"


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
    assert "not served" in worker.take("error")[0]["error"]["message"]
    assert len(bus.registry) == 0


def test_a_connection_has_a_bounded_number_and_size_of_registrations(bus, join, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FUNCTIONS", 2)
    monkeypatch.setattr(limits, "MAX_REGISTERED", 1000)
    worker = join()
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


def test_unanswered_calls_are_bounded_for_caller_and_worker(join, monkeypatch):
    monkeypatch.setattr(limits, "MAX_IN_FLIGHT", 2)
    worker, caller, other = join(), join(), join()
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
    assert bus.invocations.in_flight == 0


def test_registering_in_any_order_gives_the_same_listing(bus, join):
    engine.install(bus)
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
    sandbox.install(bus)
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
    assert bus.invocations.in_flight == 0
