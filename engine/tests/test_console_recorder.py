"""The record of calls, on a bus without sockets and on a running engine."""

import json

import pytest
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Peer as Identity
from agentos_engine.bus.errors import BusError
from agentos_engine.console import recorder as recording
from agentos_engine.console.recorder import Recorder

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def recorder(bus):
    """Records all calls of the bare bus."""
    recorder = Recorder(bus, payloads=True)
    recorder.attach()
    return recorder


@pytest.fixture
def worker(join):
    """A worker with the function ``a::b``."""
    peer = join()
    peer.connection.about.name = "answers"
    peer.send(type="registerfunction", id="a::b")
    return peer


@pytest.fixture
def client(join):
    """A worker that calls."""
    peer = join()
    peer.connection.about.name = "asks"
    return peer


def ask(peer, function_id="a::b", **more):
    peer.send(**{"type": "invokefunction", "invocation_id": "1", "function_id": function_id, "data": {"n": 1}, **more})


def newest(recorder):
    return recorder.records(1)[0]


def test_a_call_is_recorded_when_it_begins_and_when_it_ends(recorder, worker, client, clock):
    heard = []
    recorder.subscribe(lambda record: heard.append((record.status, record.worker)))
    ask(client)
    begun = newest(recorder)
    assert (begun.caller, begun.worker, begun.status, begun.duration_ms) == ("asks", "answers", "running", None)
    assert begun.started_at == int(clock.time() * 1000)
    clock._elapsed += 0.25
    worker.send(type="invocationresult", invocation_id="1", function_id="a::b", result=[2])
    ended = newest(recorder)
    assert (ended.status, ended.duration_ms, ended.error) == ("ok", 250.0, None)
    assert heard == [("running", "answers"), ("ok", "answers")]
    kept = recorder.find(ended.id)
    assert (kept.payload, kept.result) == (b'{"n": 1}', b"[2]")
    (answer,) = client.take("invocationresult")
    assert answer["result"] == [2]


def test_an_error_is_recorded_as_the_caller_hears_it(recorder, worker, client):
    ask(client)
    error = {"code": "RUDE", "message": "no"}
    worker.send(type="invocationresult", invocation_id="1", function_id="a::b", error=error)
    record = newest(recorder)
    assert record.status == "error"
    assert (record.error.code, record.error.message) == ("RUDE", "no")
    assert client.take("invocationresult")[0]["error"] == error


def test_a_void_call_is_done_when_it_is_sent(recorder, worker, client):
    ask(client, action={"type": "void"})
    assert newest(recorder).status == "ok"
    assert "invocation_id" not in worker.take("invokefunction")[0]


def test_a_void_call_of_the_engine_is_done_when_it_is_sent(recorder, worker, bus):
    assert bus.notify("a::b", b"1", source="cron")
    assert (newest(recorder).caller, newest(recorder).status) == ("cron", "ok")
    assert not bus.notify("no::body", b"1")
    assert (newest(recorder).caller, newest(recorder).error.code) == ("engine", "function_not_found")


@pytest.mark.parametrize("action", [None, {"type": "void"}])
def test_a_call_of_what_nobody_has_is_recorded(recorder, client, action):
    ask(client, "no::body", action=action)
    record = newest(recorder)
    assert (record.status, record.worker, record.error.code) == ("error", None, "function_not_found")
    assert len(recorder.records(10)) == 1


def test_a_call_that_its_worker_cannot_take_is_recorded_with_the_worker(recorder, worker, client):
    worker.connection.silent = True
    ask(client)
    assert (newest(recorder).worker, newest(recorder).error.code) == ("answers", "worker_unresponsive")


def test_a_message_that_is_too_large_is_recorded_as_refused(recorder, worker, client, bus):
    worker.connection.max_frame = 10
    ask(client)
    assert newest(recorder).error.code == "payload_too_large"
    assert not bus.notify("a::b", b"1")
    assert newest(recorder).error.code == "payload_too_large"
    assert not worker.connection.calls


def test_a_call_whose_worker_goes_has_failed(recorder, worker, client):
    ask(client)
    worker.end()
    assert newest(recorder).error.code == "invocation_stopped"


def test_a_call_whose_caller_goes_is_abandoned(recorder, worker, client):
    ask(client)
    client.end()
    assert (newest(recorder).status, newest(recorder).error.code) == ("error", "abandoned")


async def test_a_call_that_takes_too_long_has_timed_out(recorder, worker, bus, clock):
    caller = recording.Asking()
    bus.invoke("a::b", b"1", caller, timeout=1.0)
    clock._elapsed += 2
    bus.calls.expire()
    assert caller.record.error.code == "TIMEOUT"
    assert caller.future.exception().code == "TIMEOUT"


def test_an_engine_function_is_answered_by_the_engine(recorder, client, bus):
    bus.functions.add("state::get", lambda context, data: {"traceparent": context.traceparent})
    ask(client, "state::get", traceparent=TRACE)
    record = newest(recorder)
    assert (record.worker, record.status) == ("engine", "ok")
    assert json.loads(recorder.find(record.id).result) == {"traceparent": TRACE}


@pytest.mark.parametrize("function_id", ["engine::log::info", "engine::baggage::get", "engine::workers::register"])
def test_what_every_worker_does_all_the_time_is_not_recorded(recorder, client, bus, function_id):
    bus.functions.add(function_id, lambda context, data: None)
    ask(client, function_id)
    assert recorder.records(10) == []
    assert len(client.take("invocationresult")) == 1


def test_a_worker_without_a_name_is_called_as_its_token_says(recorder, worker, join):
    named = join(peer=Identity(subject="team/asks"))
    ask(named)
    assert newest(recorder).caller == "team/asks"
    nameless = join()
    ask(nameless)
    assert newest(recorder).caller == nameless.id


def test_without_spans_the_callers_trace_goes_on(recorder, worker, client):
    ask(client, traceparent=TRACE)
    assert worker.take("invokefunction")[0]["traceparent"] == TRACE
    record = newest(recorder)
    assert (record.trace_id, record.span_id) == (TRACE.split("-")[1], None)
    ask(client, invocation_id="2")
    assert "traceparent" not in worker.take("invokefunction")[0]
    assert newest(recorder).trace_id is None


def test_only_the_newest_records_are_kept(bus, worker, client):
    recorder = Recorder(bus, keep=3)
    recorder.attach()
    for number in range(5):
        ask(client, invocation_id=str(number))
    assert [record.id for record in recorder.records(10)] == ["5", "4", "3"]
    assert recorder.find("1") is None


def test_payloads_all_together_are_bounded(recorder, worker, client, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    for number in range(10):
        ask(client, invocation_id=str(number), data="x" * 298)
    assert len(recorder.records(10)) == 3
    for number in range(10):
        worker.send(type="invocationresult", invocation_id=str(number), function_id="a::b", result="y" * 398)
    assert [record.id for record in recorder.records(10)] == ["10"]
    assert recorder._bytes == 700


def test_a_payload_beyond_its_bound_is_not_kept(recorder, worker, client):
    ask(client, data="x" * recording.MAX_PAYLOAD)
    kept = recorder.find(newest(recorder).id)
    assert (kept.payload, kept.payload_truncated) == (None, True)


def test_without_payloads_nothing_of_them_is_kept(bus, worker, client):
    recorder = Recorder(bus)
    recorder.attach()
    ask(client)
    worker.send(type="invocationresult", invocation_id="1", function_id="a::b", result="secret")
    kept = recorder.find(newest(recorder).id)
    assert (kept.payload, kept.result) == (None, None)


def test_calls_are_watched_only_while_somebody_wants_records(bus, worker, client):
    recorder = Recorder(bus)
    recorder.attach()
    recorder.attach()
    recorder.detach()
    ask(client)
    recorder.detach()
    assert bus.calls.tap is None
    ask(client, invocation_id="2")
    worker.send(type="invocationresult", invocation_id="1", function_id="a::b", result=1)
    (record,) = recorder.records(10)
    assert record.status == "ok"


def test_a_listener_that_fails_harms_nobody(recorder, worker, client, caplog):
    heard = []
    recorder.subscribe(lambda record: 1 / 0)
    end = recorder.subscribe(heard.append)
    ask(client)
    end()
    worker.send(type="invocationresult", invocation_id="1", function_id="a::b", result=1)
    assert len(heard) == 1
    assert client.take("invocationresult")[0]["result"] == 1
    assert "whoever wanted to hear of calls failed" in caplog.text


@pytest.mark.parametrize("function_id", ["a::b", "no::body", "state::get", "state::refuses"])
@pytest.mark.parametrize("action", [None, {"type": "void"}])
def test_nobody_notices_that_calls_are_recorded(join, function_id, action):
    def refuse(context, data):
        raise BusError("REFUSED", "no")

    told = []
    for recorded in (False, True):
        bus = Bus()
        bus.functions.add("state::get", lambda context, data: [context.traceparent, json.loads(data)])
        bus.functions.add("state::refuses", refuse)
        if recorded:
            Recorder(bus, payloads=True).attach()
        worker, client = join(bus=bus), join(bus=bus)
        worker.send(type="registerfunction", id="a::b")
        ask(client, function_id, action=action, traceparent=TRACE, baggage="a=b", metadata={"m": 1})
        worker.send(type="invocationresult", invocation_id="1", function_id="a::b", result=1)
        frames = [frame.replace(client.id.encode(), b"") for frame in (*worker.frames, *client.frames)]
        told.append((frames, bus.calls.accepted, bus.calls.errors.total, bus.calls.invocations.in_flight))
    assert told[0] == told[1]


# On a running engine


async def test_records_name_what_made_the_call(run_engine):
    running = await run_engine()
    recorder = Recorder(running.engine.bus)
    recorder.attach()
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::b")
    for kind, config in (
        ("http", {"api_path": "/greet/:name", "http_method": "POST"}),
        ("state", {"scope": "s"}),
        ("subscribe", {"topic": "t"}),
    ):
        await worker.send(type="registertrigger", id=kind, trigger_type=kind, function_id="a::b", config=config)
    await worker.settled()
    bus = running.engine.bus

    async def caller_of_the_call():
        call = await worker.receive("invokefunction")
        if "invocation_id" in call:
            await worker.send(
                type="invocationresult", invocation_id=call["invocation_id"], function_id="a::b", result={"body": 1}
            )
        return next(each for each in recorder.records(10) if each.function_id == "a::b").caller

    request = b"POST /greet/ada HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    asking = bus.spawn(running.http(request))
    assert await caller_of_the_call() == "http POST /greet/:name"
    assert b"200 OK" in await asking
    await bus.call("state::set", b'{"scope":"s","key":"k","value":1}')
    assert await caller_of_the_call() == "state"
    await bus.call("publish", b'{"topic":"t","data":1}')
    assert await caller_of_the_call() == "subscribe"
    await worker.send(
        type="invokefunction",
        invocation_id="q",
        function_id="a::b",
        data=1,
        action={"type": "enqueue", "queue": "default"},
    )
    assert await caller_of_the_call() == "queue default"


async def test_two_workers_calls_are_spans_of_one_trace_though_neither_knows_of_traces(run_engine):
    running = await run_engine()
    bus = running.engine.bus
    recorder = Recorder(bus)
    recorder.attach()
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::b")
    await worker.settled()
    answer = bus.spawn(bus.call("a::b", b"1"))
    outer = await worker.receive("invokefunction")
    # What any SDK does: it passes the trace of the call on that it carries out.
    await worker.send(
        type="invokefunction",
        invocation_id="in",
        function_id="state::set",
        data={"scope": "s", "key": "k", "value": 1},
        traceparent=outer["traceparent"],
    )
    await worker.receive("invocationresult")
    await worker.send(type="invocationresult", invocation_id=outer["invocation_id"], function_id="a::b", result=1)
    await answer
    inner, first = recorder.records(2)
    assert inner.trace_id == first.trace_id
    tree = json.loads(await bus.call("engine::traces::tree", json.dumps({"trace_id": first.trace_id}).encode()))
    (root,) = tree["roots"]
    assert (root["name"], root["span_id"]) == ("call a::b", first.span_id)
    (child,) = root["children"]
    assert (child["name"], child["span_id"]) == ("call state::set", inner.span_id)
    assert child["children"] == []
