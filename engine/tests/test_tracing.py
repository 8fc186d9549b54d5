"""Trace context goes through everything that the engine does, and the engine adds spans of its own."""

import asyncio
import json

import pytest
from agentos_engine.builtins.queue import Queues
from agentos_engine.builtins.state import State
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import ManualClock
from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.module import Observability
from agentos_engine.observability.trace_context import MAX_BAGGAGE, NO_TRACE, carried, parse_traceparent, trace_of
from agentos_engine.server.stream import Handshake
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.storage.queues import MemoryQueueStore
from agentos_engine.triggers.cron import Cron

from tests.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
ITEM = {"stream_name": "chat", "group_id": "room", "item_id": "m1", "data": 1}


class Worker(Link):
    """A worker that answers each call in a later turn of the loop; ``calls`` are the messages that came."""

    def __init__(self, bus) -> None:
        self.bus, self.calls, self.results = bus, [], {}
        self.connection = bus.connect(self)

    def send(self, frame):
        message = json.loads(frame)
        if message["type"] == "invokefunction":
            self.calls.append(message)
            asyncio.get_running_loop().call_soon(self._answer, message)

    def _answer(self, message):
        if message.get("invocation_id"):
            ids = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
            self.tell(type="invocationresult", **ids, **self.results.get(message["function_id"], {"result": None}))

    def tell(self, **message):
        self.bus.receive(self.connection, json.dumps(message).encode())

    def bind(self, trigger_type, function_id, **config):
        """Serve a function and bind it."""
        self.tell(type="registerfunction", id=function_id)
        binding = {"id": function_id, "trigger_type": trigger_type, "function_id": function_id}
        self.tell(type="registertrigger", config=config, **binding)

    async def call_of(self, function_id):
        """Wait for a call of a function and return it."""
        await until(lambda: any(each["function_id"] == function_id for each in self.calls))
        return next(each for each in self.calls if each["function_id"] == function_id)


class World:
    """A bus with all that fires triggers, and a worker; ``spans`` sets the engine's own spans going."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = Bus(clock=self.clock)
        values = MemoryValues()
        self.streams = Streams(bus=self.bus, values=values, port=0)
        self.modules = [
            State(bus=self.bus, values=values),
            self.streams,
            Queues(bus=self.bus, store=MemoryQueueStore()),
            Cron(bus=self.bus),
        ]
        self.telemetry: Observability | None = None

    def record(self, **keys) -> None:
        """Record spans."""
        keys = {"sampling_ratio": 1.0, "logs_console_output": False} | keys
        self.telemetry = Observability(bus=self.bus, config=ObservabilityConfig(**keys))
        self.modules.append(self.telemetry)
        self.bus.spans = self.telemetry

    async def ask(self, function_id, payload, **options):
        """Call a function in the caller's trace."""
        trace = {"traceparent": CALLER, "baggage": "k=v"} | options
        await self.bus.call(function_id, json.dumps(payload).encode(), **trace)

    def spans(self):
        """What was recorded: the spans by their names."""
        assert self.telemetry is not None
        assert self.telemetry.spans is not None
        return {span.name: span for span in self.telemetry.spans}


@pytest.fixture
async def world():
    """All of it, started; nothing records spans yet."""
    world = World()
    for module in world.modules:
        await module.start()
    yield world
    for module in world.modules:
        await module.stop()
    await world.bus.close()


@pytest.fixture
def worker(world):
    """A connected worker."""
    return Worker(world.bus)


def parent_of(call):
    """The span id in a call's traceparent, which must be part of the caller's trace."""
    span = parse_traceparent(call["traceparent"])
    assert span is not None
    assert span.trace_id == TRACE
    return span.span_id


CAUSES = {
    "state": ("state", {"scope": "s"}, "state::set", {"scope": "s", "key": "k", "value": 1}),
    "state::delete": ("state", {"scope": "s"}, "state::delete", {"scope": "s", "key": "k"}),
    "stream": ("stream", {"stream_name": "chat"}, "stream::set", ITEM),
    "stream::send": ("stream", {"stream_name": "chat"}, "stream::send", ITEM | {"type": "typing"}),
    "durable": ("durable:subscriber", {"topic": "t"}, "iii::durable::publish", {"topic": "t", "data": 1}),
}


class TestContext:
    @pytest.mark.parametrize("cause", CAUSES)
    async def test_a_trigger_carries_that_of_the_call_that_caused_it(self, world, worker, cause):
        trigger_type, config, function_id, payload = CAUSES[cause]
        worker.bind(trigger_type, "a::seen", **config, condition_function_id="a::allowed")
        worker.tell(type="registerfunction", id="a::allowed")
        await world.ask(function_id, payload)
        for each in ("a::allowed", "a::seen"):
            call = await worker.call_of(each)
            assert (call["traceparent"], call["baggage"]) == (CALLER, "k=v")

    async def test_a_queued_call_carries_that_of_whoever_put_it_in(self, world, worker):
        worker.tell(type="registerfunction", id="a::job")
        await world.ask("engine::queue::enqueue", {"queue": "default", "function_id": "a::job"})
        call = await worker.call_of("a::job")
        assert (call["traceparent"], call["baggage"]) == (CALLER, "k=v")

    async def test_a_worker_that_keeps_a_stream_gets_that_of_the_caller(self, world, worker):
        worker.tell(type="registerfunction", id="stream::get(chat)")
        await world.ask("stream::get", ITEM)
        call = await worker.call_of("stream::get(chat)")
        assert (call["traceparent"], call["baggage"]) == (CALLER, "k=v")

    async def test_join_and_leave_carry_that_of_the_clients_handshake(self, world, worker):
        worker.bind("stream:join", "a::join")
        worker.bind("stream:leave", "a::leave")
        handshake = Handshake({"traceparent": CALLER, "baggage": "k=v"}, "/", {}, "")
        assert await world.streams.triggers.join(b"{}", handshake.trace)
        world.streams.triggers.leave(b"{}", handshake.trace)
        for each in ("a::join", "a::leave"):
            call = await worker.call_of(each)
            assert (call["traceparent"], call["baggage"]) == (CALLER, "k=v")

    @pytest.mark.parametrize("cause", ["state", "stream"])
    async def test_what_is_malformed_is_not_carried_on(self, world, worker, cause):
        trigger_type, config, function_id, payload = CAUSES[cause]
        worker.bind(trigger_type, "a::seen", **config)
        await world.ask(function_id, payload, traceparent="00-x", baggage="k=" + "v" * MAX_BAGGAGE)
        call = await worker.call_of("a::seen")
        assert "traceparent" not in call
        assert "baggage" not in call


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], NO_TRACE),
        ([("traceparent", CALLER), ("x", "y")], (CALLER, None)),
        ([("baggage", "a=1"), ("baggage", "b=2")], (None, "a=1,b=2")),
        ([("traceparent", "junk"), ("baggage", "a=1")], (None, "a=1")),
        ([("traceparent", CALLER), ("traceparent", CALLER)], NO_TRACE),
        ([("traceparent", CALLER.upper())], NO_TRACE),
        ([("traceparent", CALLER + "-more")], NO_TRACE),
        ([("traceparent", "01" + CALLER[2:] + "-more")], ("01" + CALLER[2:] + "-more", None)),
        ([("traceparent", "01" + CALLER[2:] + "-" + "x" * 10_000)], NO_TRACE),
        ([("traceparent", "ff" + CALLER[2:])], NO_TRACE),
        ([("traceparent", f"00-{'0' * 32}-{PARENT}-01")], NO_TRACE),
        ([("traceparent", f"00-{TRACE}-{'0' * 16}-01")], NO_TRACE),
        ([("baggage", "k=" + "v" * MAX_BAGGAGE)], NO_TRACE),
        ([("baggage", "k=é")], NO_TRACE),
        ([("baggage", "")], NO_TRACE),
    ],
)
def test_headers_that_are_no_good_are_ignored(headers, expected):
    assert trace_of(headers) == expected


def test_a_context_is_carried_on_as_it_came():
    assert carried(UNSAMPLED, "k=v") == (UNSAMPLED, "k=v")


class TestSpans:
    @pytest.mark.parametrize(
        ("cause", "name"),
        [("state", "state_triggers"), ("stream", "stream_triggers"), ("durable", "queue t")],
    )
    async def test_a_firing_is_a_span_between_the_function_that_caused_it_and_the_one_that_is_called(
        self, world, worker, cause, name
    ):
        world.record()
        trigger_type, config, function_id, payload = CAUSES[cause]
        worker.bind(trigger_type, "a::seen", **config)
        await world.ask(function_id, payload)
        call = await worker.call_of("a::seen")
        await until(lambda: name in world.spans())
        spans = world.spans()
        cause_span = spans[f"call {function_id}"]
        assert cause_span.parent_span_id == PARENT
        assert spans[name].parent_span_id == cause_span.span_id
        assert parent_of(call) == spans[name].span_id
        assert call["baggage"] == "k=v"

    async def test_a_job_of_a_named_queue_is_a_span(self, world, worker):
        world.record()
        worker.tell(type="registerfunction", id="a::job")
        await world.bus.calls.enqueue("default", "a::job", b"1", traceparent=CALLER)
        call = await worker.call_of("a::job")
        await until(world.spans)
        span = world.spans()["fn_queue default"]
        assert (parent_of(call), span.parent_span_id, span.status) == (span.span_id, PARENT, "ok")

    async def test_a_failed_job_is_a_failed_span(self, world, worker):
        world.record()
        worker.results["a::job"] = {"error": {"code": "broken", "message": "no"}}
        worker.tell(type="registerfunction", id="a::job")
        await world.bus.calls.enqueue("default", "a::job", b"1", traceparent=CALLER)
        await until(world.spans)
        span = world.spans()["fn_queue default"]
        assert span.status == "error"
        assert json.loads(span.raw)["status"]["message"] == "broken: no"

    async def test_a_cron_job_begins_a_trace(self, world, worker):
        world.record()
        worker.bind("cron", "a::tick", expression="* * * * * *")
        await asyncio.sleep(0)
        await world.clock.advance(1)
        call = await worker.call_of("a::tick")
        await until(world.spans)
        span = world.spans()["cron_trigger"]
        assert span.parent_span_id is None
        assert call["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"

    async def test_a_cron_job_without_spans_has_no_trace(self, world, worker):
        worker.bind("cron", "a::tick", expression="* * * * * *")
        await asyncio.sleep(0)
        await world.clock.advance(1)
        assert "traceparent" not in await worker.call_of("a::tick")

    async def test_a_failed_function_of_the_engine_is_a_failed_span(self, world):
        world.record()
        for payload in ({"scope": "s"}, {"scope": "s", "key": "k", "value": "v" * 10}):
            if "value" in payload:
                world.bus.functions.add("state::set", _fail)
            with pytest.raises(BusError):
                await world.ask("state::set", payload)
            span = world.spans()["call state::set"]
            assert (span.status, span.parent_span_id) == ("error", PARENT)
            world.telemetry.spans.clear()

    @pytest.mark.parametrize("function_id", ["engine::log::info", "engine::baggage::get_all"])
    async def test_logging_and_baggage_make_no_spans(self, world, function_id):
        world.record()
        await world.telemetry.start()
        await world.ask(function_id, {"message": "m"})
        assert not world.spans()

    async def test_a_call_of_the_engines_functions_without_a_trace_makes_no_span(self, world, worker):
        world.record()
        worker.bind("state", "a::seen", scope="s")
        for traceparent in (None, "00-x"):
            await world.ask("state::set", {"scope": "s", "key": "k", "value": 1}, traceparent=traceparent)
        await until(lambda: len(worker.calls) == 2)
        await world.bus.call("state::get", b'{"scope": "s", "key": "k"}')
        assert not world.spans()

    @pytest.mark.parametrize("cause", CAUSES)
    async def test_nothing_is_recorded_of_a_trace_that_is_not_sampled(self, world, worker, cause):
        world.record()
        trigger_type, config, function_id, payload = CAUSES[cause]
        worker.bind(trigger_type, "a::seen", **config)
        await world.ask(function_id, payload, traceparent=UNSAMPLED)
        assert (await worker.call_of("a::seen"))["traceparent"] == UNSAMPLED
        await world.bus.call("state::list_groups")
        assert not world.spans()

    async def test_a_recorder_that_fails_harms_no_call(self, world, monkeypatch):
        world.record()
        monkeypatch.setattr(world.telemetry, "record_span", _fail)
        await world.ask("state::set", {"scope": "s", "key": "k", "value": 1})


def _fail(*arguments, **options):
    raise BusError("BROKEN", "no")


def settings(timeout: int, **observability) -> str:
    """A config file with a REST port and telemetry."""
    http = {"name": "iii-http", "config": {"default_timeout": timeout}}
    telemetry = {
        "name": "iii-observability",
        "config": {"logs_console_output": False, "sampling_ratio": 1, **observability},
    }
    return json.dumps({"workers": [http, {"name": "iii-state"}, telemetry]})


@pytest.fixture
def serve(run_engine, tmp_path):
    """Starts an engine with a worker that serves ``GET /orders/:id``."""

    async def serve(route=None, timeout=30_000, **observability):  # noqa: ASYNC109
        path = tmp_path / "config.yaml"
        path.write_text(settings(timeout, **observability))
        running = await run_engine("--host", "127.0.0.1", "--config", str(path))
        client = await running.connect()
        for each in ("a::order", "a::first", "a::allowed"):
            await client.send(type="registerfunction", id=each)
        config = {"api_path": "/orders/:id", "http_method": "GET", **(route or {})}
        binding = {"id": "t", "trigger_type": "http", "function_id": "a::order", "config": config}
        await client.send(type="registertrigger", **binding)
        await client.settled()
        return running, client

    return serve


async def get(running, client, *headers, calls=1, **answer):
    """Send a request; return the calls that it made, each answered, and its response."""
    lines = "".join(f"{each}\r\n" for each in headers)
    request = f"GET /orders/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n"
    sending = asyncio.get_running_loop().create_task(running.http(request.encode()))
    came = []
    for _ in range(calls):
        call = await client.receive("invokefunction")
        came.append(call)
        ids = {"invocation_id": call["invocation_id"], "function_id": call["function_id"]}
        wanted = answer if call["function_id"] == "a::order" else {"result": None}
        await client.send(type="invocationresult", **ids, **(wanted or {"result": {"status_code": 201}}))
    return came, await sending


async def recorded(client, name="GET /orders/:id"):
    """The spans of a name that the engine has."""
    return (await client.ask("engine::traces::list", {"name": name}))["result"]["spans"]


class TestHttp:
    async def test_context_goes_to_the_function_and_to_all_that_is_asked_before(self, serve):
        route = {"condition_function_id": "a::allowed", "middleware_function_ids": ["a::first"]}
        running, client = await serve(route=route, enabled=False)
        calls, response = await get(running, client, f"traceparent: {CALLER}", "baggage: k=v", calls=3)
        assert [each["function_id"] for each in calls] == ["a::allowed", "a::first", "a::order"]
        assert {(each["traceparent"], each["baggage"]) for each in calls} == {(CALLER, "k=v")}
        assert response.startswith(b"HTTP/1.1 201")

    async def test_a_request_is_a_span_and_the_parent_of_the_sdks_own(self, serve):
        running, client = await serve()
        (call,), _ = await get(running, client, f"traceparent: {CALLER}", "baggage: k=v")
        assert call["baggage"] == "k=v"
        sdk = {
            "traceId": TRACE,
            "spanId": "00000000000000aa",
            "parentSpanId": parent_of(call),
            "name": "execute a::order",
        }
        group = {"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": [sdk]}]}
        await client.socket.send(b"OTLP" + json.dumps({"resourceSpans": [group]}).encode())
        await client.send(
            type="invokefunction",
            invocation_id="set",
            function_id="state::set",
            data={"scope": "s", "key": "k", "value": 1},
            traceparent=f"00-{TRACE}-00000000000000aa-01",
        )
        await client.receive("invocationresult")
        (root,) = (await client.ask("engine::traces::tree", {"trace_id": TRACE}))["result"]["roots"]
        assert (root["name"], root["parent_span_id"], root["status"]) == ("GET /orders/:id", PARENT, "ok")
        assert dict(root["attributes"]) == {
            "http.method": "GET",
            "http.route": "/orders/:id",
            "http.status_code": "201",
            "function_id": "a::order",
        }
        (executed,) = root["children"]
        assert executed["name"] == "execute a::order"
        assert [each["name"] for each in executed["children"]] == ["call state::set"]

    async def test_a_request_without_context_begins_a_trace(self, serve):
        running, client = await serve()
        (call,), _ = await get(running, client, "traceparent: junk")
        (span,) = await recorded(client)
        assert span["parent_span_id"] is None
        assert call["traceparent"] == f"00-{span['trace_id']}-{span['span_id']}-01"

    @pytest.mark.parametrize(
        ("observability", "headers", "expected"),
        [
            ({"sampling_ratio": 0}, [], None),
            ({"sampling_ratio": 0}, [f"traceparent: {CALLER}"], CALLER),
            ({}, [f"traceparent: {UNSAMPLED}"], UNSAMPLED),
            ({"sampling": {"rules": [{"operation": "GET *", "rate": 0}]}}, [], None),
        ],
    )
    async def test_nothing_is_recorded_when_not_sampled(self, serve, observability, headers, expected):
        running, client = await serve(**observability)
        (call,), _ = await get(running, client, *headers)
        assert call.get("traceparent") == expected
        assert await recorded(client) == []

    async def test_a_module_that_may_record_nothing_is_not_asked(self, serve):
        running, _ = await serve(sampling_ratio=0)
        assert running.engine.bus.spans is None

    async def test_the_spans_end_with_the_module(self, serve):
        running, _ = await serve()
        assert running.engine.bus.spans is not None
        await running.engine.modules["observability"].stop()
        assert running.engine.bus.spans is None

    @pytest.mark.parametrize(
        ("answer", "status", "reason"),
        [
            ({"error": {"code": "broken", "message": "no"}}, "500", "broken: no"),
            ({"result": {"status_code": 503}}, "503", "the function answered with status 503"),
        ],
    )
    async def test_a_failed_request_is_a_failed_span(self, serve, answer, status, reason):
        running, client = await serve()
        await get(running, client, **answer)
        (span,) = await recorded(client)
        assert (span["status"], span["status_description"]) == ("error", reason)
        assert dict(span["attributes"])["http.status_code"] == status

    async def test_a_request_whose_time_is_over_is_a_failed_span(self, serve):
        running, client = await serve(timeout=1)
        response = await running.http(b"GET /orders/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 504")
        (span,) = await recorded(client)
        assert (span["status"], span["status_description"]) == ("error", "TIMEOUT: no answer from the function")
        assert dict(span["attributes"])["http.status_code"] == "504"

    async def test_a_streamed_response_is_one_span(self, serve):
        running, client = await serve()
        request = b"GET /orders/7 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        sending = asyncio.get_running_loop().create_task(running.http(request))
        call = await client.receive("invokefunction")
        ref = call["data"]["response"]
        path = f"/ws/channels/{ref['channel_id']}?key={ref['access_key']}&dir=write"
        writer = await running.connect(path)
        await writer.send(type="set_status", status_code=202)
        await writer.socket.send(b"piece")
        await writer.socket.close()
        assert (await sending).startswith(b"HTTP/1.1 202")
        (span,) = await recorded(client)
        assert span["status"] == "ok"
        assert dict(span["attributes"])["http.status_code"] == "202"

    async def test_a_request_whose_client_goes_is_a_failed_span_without_a_status(self, serve):
        running, client = await serve()
        _, writer = await asyncio.open_connection("127.0.0.1", running.ports.http)
        writer.write(b"GET /orders/7 HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.receive("invokefunction")
        writer.close()
        async with asyncio.timeout(10):
            while not (spans := await recorded(client)):
                pass
        assert spans[0]["status"] == "error"
        assert "http.status_code" not in dict(spans[0]["attributes"])
