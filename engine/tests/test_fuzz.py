"""Properties that hold for any input: nothing that a peer sends raises, hangs, leaks, or reaches the wrong one."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from agentos_engine import limits
from agentos_engine.app import Engine
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import ManualClock
from agentos_engine.config import read_settings
from agentos_engine.protocol import frames, http, stream
from agentos_engine.protocol.messages import Malformed, Message, decode, decode_error, listable, text_of
from agentos_engine.server.http_framing import HeadWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
"""All that JSON can say: quotes, control characters, characters beyond 16 bits."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SPACE = st.text(" \t\r\n", max_size=3)
BROKEN = st.sampled_from(
    [
        b"NaN",
        b"-Infinity",
        b"1e",
        b"01",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\udfff":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\x00"',
        b'"\\x"',
        b"[1,]",
        b"{",
        b"]",
        b"'a'",
        b"\xef\xbb\xbf1",
        b"/**/1",
        b"[" * 5000,
        b"[" * 5000 + b"]" * 5000,
    ]
)
"""Values that are no JSON, or that some parser of a worker would not take."""
RAW = BROKEN | JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20)
FIELDS = sorted(Message.__struct_fields__)
TYPES = [
    "invokefunction",
    "invocationresult",
    "registerfunction",
    "unregisterfunction",
    "registertrigger",
    "unregistertrigger",
    "registertriggertype",
    "unregistertriggertype",
    "triggerregistrationresult",
    "registerservice",
    "reattach",
    "ping",
    "pong",
]
SENT = {
    "workerregistered",
    "invokefunction",
    "invocationresult",
    "registertrigger",
    "unregistertrigger",
    "triggerregistrationresult",
    "registrationrejected",
    "pong",
    "error",
}
"""Types of the frames that the engine sends."""


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def strict(frame):
    """A frame as a receiver reads it that takes nothing but JSON in UTF-8."""
    value = json.loads(frame.decode(), parse_constant=refuse_constant)
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    return value


NO_TEXTS = st.nothing()


@st.composite
def near_messages(draw, pool=NO_TEXTS):
    """Frames that look like messages: known fields, some of them with values of another type, or no JSON at all."""
    fields = draw(st.lists(st.sampled_from(FIELDS) | TEXT, max_size=6))
    parts = [b'"type":' + json.dumps(draw(st.sampled_from(TYPES) | TEXT)).encode()]
    for name in fields:
        value = draw(pool.map(lambda text: json.dumps(text).encode()) | RAW)
        parts.append(json.dumps(name).encode() + b":" + value)
    return b"{" + b",".join(draw(st.permutations(parts))) + draw(st.sampled_from([b"}", b"}", b"}", b"", b"}x"]))


# The protocol: bytes in, values out


PURE = {"agentos_contracts.redaction", "collections", "dataclasses", "json", "msgspec", "re", "typing", "urllib.parse"}
"""All that the protocol may import beside itself: nothing of it reads, writes, waits or looks at a clock."""


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def test_the_protocol_has_no_socket_no_loop_and_no_clock_in_it():
    files = sorted(Path(http.__file__).parent.rglob("*.py"))
    assert len(files) >= 4
    for file in files:
        for name in imports(file.read_text()):
            is_pure = name in PURE or name.split(".")[0] in PURE or name.startswith("agentos_engine.protocol.")
            assert is_pure, f"{file.name} imports {name}"
    modules = [f"agentos_engine.protocol.{file.stem}" for file in files if file.stem != "__init__"]
    program = f"import sys, {', '.join(modules)}; print(sorted({{'socket', 'asyncio', 'ssl'}} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


@QUICK
@given(near_messages() | st.binary(max_size=100))
def test_what_decodes_can_be_forwarded_and_what_does_not_is_no_message(frame):
    message = decode(frame)
    if isinstance(message, Malformed):
        for text in (message.reason, message.type, message.invocation_id, message.function_id):
            strict(frames.text(text))
        return
    strict(frame)
    for name in FIELDS:
        value = getattr(message, name)
        if isinstance(value, str):
            value.encode()  # no lone surrogate came out of an escape
        elif isinstance(value, msgspec.Raw):
            text_of(value)
            decode_error(value)
            try:
                kept = listable(value, "value")
            except ValueError:
                continue
            assert kept is None or strict(kept) is not ...


@pytest.mark.parametrize(
    "broken", [b"NaN", b"[" * 100_000 + b"]" * 100_000, b'"' + b"x" * (2 << 20) + b'\xff"', b"1.2.3"]
)
@pytest.mark.parametrize(
    "form",
    [
        b'{"type":"invokefunction","invocation_id":"i-1","function_id":"a::b","data":%s}',
        b'{"function_id":"a::b","data":%s,"invocation_id":"i-1","action":null,"type":"invokefunction"}',
        b'{"function_id": "a::b", "data": {"type": "x", "deep": {"function_id": "y", "v": [%s]}}, '
        b'"invocation_id": "i-1", "action": {"type": "enqueue", "queue": "q"}, "type": "invokefunction"}',
    ],
)
def test_the_call_of_a_broken_frame_is_made_out_however_deep_or_large_it_is(form, broken):
    found = decode(form % broken)
    assert isinstance(found, Malformed)
    assert (found.type, found.invocation_id, found.function_id) == ("invokefunction", "i-1", "a::b")
    void = form.replace(b"enqueue", b"void") if b"enqueue" in form else form[:-1] + b',"action":{"type":"void"}}'
    assert decode(void % broken).invocation_id == ""


OWN_KEYS = st.sampled_from(["_caller_worker_id", "_c\\u0061ller_worker_id", "_caller_worker_\\u0069d"])


@QUICK
@given(st.dictionaries(TEXT | st.just("_caller_worker_id"), JSON, max_size=4), SPACE, SPACE, SPACE, OWN_KEYS)
def test_the_callers_own_word_for_who_it_is_never_wins(value, before, between, behind, key):
    items = [f"{json.dumps(name)}{between}:{between}{json.dumps(each)}" for name, each in value.items()]
    items.append(f'"{key}":{between}"forged"')
    for text in ("{" + before + f"{between},{behind}".join(items) + behind + "}", "{" + before + behind + "}"):
        for data in (text.encode(), f"{before}{text}{behind}".encode()):
            assert strict(frames.with_caller(data, 'wo"rker'))["_caller_worker_id"] == 'wo"rker'
            sent = strict(frames.invoke("a::b", data, invocation_id="i", caller_worker_id="worker"))
            assert sent["data"]["_caller_worker_id"] == "worker"


@QUICK
@given(TEXT, TEXT, TEXT, JSON)
def test_every_frame_is_json_whatever_the_texts_in_it_are(first, second, third, value):
    data = json.dumps(value).encode()
    trace = {"traceparent": msgspec.Raw(frames.text(first)), "baggage": msgspec.Raw(data)}
    built = [
        frames.worker_registered(first, second),
        frames.invoke(first, data, invocation_id=second, caller_worker_id=third, metadata=data, **trace),
        frames.invoke(first, b""),
        frames.result(first, second, value=data, **trace),
        frames.result(first, second, value=b""),
        frames.failed(first, second, frames.error_body(first, second, third), **trace),
        frames.register_trigger(first, second, third, data, None, first),
        frames.register_trigger(first, second, third, None, data),
        frames.unregister_trigger(first, second),
        frames.trigger_refused(first, second, third, frames.error_body(first, second)),
        frames.function_refused(first, second, third),
        frames.connection_error(first, second),
    ]
    assert all(strict(frame)["type"] in SENT for frame in built)
    assert strict(built[1])["invocation_id"] == second
    event = stream.event(5, first, second, third, "event", stream.custom(first, data))
    assert strict(event)["event"]["data"] == {"type": first, "data": value}
    assert strict(stream.event(5, first, second, None, "create", data))["id"] is None


# HTTP: what functions are given, what their results mean


@QUICK
@given(
    near_messages(st.sampled_from(["x", "1"])) | RAW, st.sampled_from([http.handler_response, http.middleware_response])
)
def test_any_result_of_a_handler_is_a_response_or_a_result_error(result, read):
    for raw in (result, b'{"action":"respond","response":%s}' % result, b'{"status_code":%s}' % result):
        try:
            response = read(raw)
        except http.ResultError as error:
            str(error).encode()
            continue
        assert response is None or 200 <= response.status <= 599


HEADER_VALUES = JSON | st.text(max_size=5) | st.just(float("inf")) | st.just("a\r\nInjected: 1")


@QUICK
@given(
    st.dictionaries(st.text(max_size=8), HEADER_VALUES, max_size=4) | st.lists(HEADER_VALUES, max_size=3), JSON, JSON
)
def test_no_header_of_a_handler_can_end_its_line(headers, status, body):
    result = json.dumps({"headers": headers, "status_code": status, "body": body}).encode()
    for form in (result, result.replace(json.dumps(status).encode(), b"200")):
        try:
            response = http.handler_response(form)
        except http.ResultError:
            continue
        head = HeadWriter().write(response, length=5, chunked=False, connection="", common=b"")
        assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r")
        assert head.endswith(b"\r\n\r\n")
        assert head.count(b"\r\n\r\n") == 1


LATIN = st.text(st.characters(max_codepoint=255), max_size=30)


@QUICK
@given(
    LATIN,
    st.lists(st.tuples(LATIN, LATIN), max_size=4),
    RAW,
    st.sampled_from(["application/json", "text/plain", LATIN]),
)
def test_any_request_makes_json_for_the_function(query, headers, body, content_type):
    headers = [*headers, ("content-type", content_type if isinstance(content_type, str) else "x")]
    request = http.Request("POST", "/a", query, headers, body)
    payload = strict(http.request_payload(request, "/a", "POST", {"p": query}))
    assert payload["method"] == "POST"
    assert strict(http.middleware_payload(request, {"p": query}))["phase"] == "preHandler"
    for fields in ("a=1&" * 1001, "a=%41&" * 1001):
        with pytest.raises(ValueError, match="field"):
            http.request_payload(http.Request("GET", "/a", fields), "/a", "GET", {})


@QUICK
@given(st.binary(max_size=60) | near_messages())
def test_any_message_on_the_stream_port_is_a_request_or_malformed(message):
    with suppress(stream.Malformed):
        stream.decode(message)


# The bus: any sequence of messages of several peers, against what must be true after each


class Wire(Link):
    """The end of a connection: what the engine sends is gathered."""

    def __init__(self):
        self.frames = []

    def send(self, frame):
        self.frames.append(frame)

    def unsent(self):
        return limits.MAX_UNSENT + 1


class Fussy:
    """A trigger type of the engine that refuses some configs, and some workers although they ask for the same."""

    def __init__(self):
        self.bound = set()
        self.refused = None

    def bind(self, binding):
        if binding.config == b'"bad"' or binding.connection is self.refused:
            raise BusError("trigger_registration_failed", "no")
        self.bound.add(binding)

    def unbind(self, binding):
        self.bound.discard(binding)


class Peer:
    """One worker, and what it has to expect."""

    def __init__(self, bus):
        self.wire = Wire()
        self.connection = bus.connect(self.wire)
        self.open = defaultdict(list)
        """Calls that it made and that are not answered, by invocation id: of each what its answer may hold."""
        self.asked = {}
        """Calls that it is to answer, by invocation id: what to answer with."""


FUNCTIONS = ["a::f", "a::g", "b::f", "no::such"]
BUILT_IN = ["engine::echo", "engine::refuses", "engine::crashes", "engine::slow", "engine::odd", "engine::gives_up"]
CALLED = st.sampled_from([*FUNCTIONS, *BUILT_IN])
INVOCATIONS = st.sampled_from(["1", "2", "3", ""])
NAMESPACES = st.sampled_from(["default", "default", "orders"])
TRIGGER_TYPES = st.sampled_from(["t::own", "t::engine"])
ANYTHING = object()
"""The answer to a call that came out of a random frame: it may be answered by another random frame."""
RANDOM_TEXTS = st.sampled_from(["r-1", "r-2", *FUNCTIONS, *BUILT_IN, "t::own", "t::engine", "orders", "t-1", "void"])


class WatchedBus(Bus):
    """Keeps what the real one only logs."""

    fault = None

    def carry_out(self, connection, message, frame):
        try:
            super().carry_out(connection, message, frame)
        except Exception as error:
            self.fault = error
            raise


class BusMachine(RuleBasedStateMachine):
    """Peers come, go, register, call, answer rightly, wrongly, twice or never, and send garbage."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.bus = WatchedBus(clock=self.clock, call_timeout=50.0)
        self.peers = []
        self.number = 0
        self.engine_calls = []
        self.fussy = None
        for name in ("echo", "refuses", "crashes", "slow", "odd", "gives_up"):
            self.bus.functions.add(f"engine::{name}", getattr(self, f"_{name}"))

    def teardown(self):
        try:
            self._end()
        finally:
            self.run(self.bus.close)
            self.loop.close()

    # Functions of the engine

    def _echo(self, context, data):
        return msgspec.Raw(data)

    def _refuses(self, context, data):
        raise BusError("REFUSED", "no")

    def _crashes(self, context, data):
        raise RuntimeError("a bug")

    async def _slow(self, context, data):
        await self.clock.sleep(10)
        return msgspec.Raw(data)

    def _odd(self, context, data):
        return object()

    async def _gives_up(self, context, data):
        raise asyncio.CancelledError

    # Helpers

    def run(self, work, *args):
        async def go():
            result = work(*args)
            if asyncio.iscoroutine(result):
                result = await result
            for _ in range(4):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(go())

    def send(self, peer, **message):
        self.run(self.bus.receive, peer.connection, json.dumps(message).encode())
        self.read_all()

    def pick(self, index):
        return self.peers[index % len(self.peers)]

    def read_all(self):
        for peer in self.peers:
            sent, peer.wire.frames = peer.wire.frames, []
            for frame in sent:
                message = strict(frame)
                assert message["type"] in SENT
                if message["type"] == "invokefunction":
                    self._invoked(peer, message)
                elif message["type"] == "invocationresult":
                    self._answered(peer, message)

    def _invoked(self, peer, message):
        assert message["function_id"] in peer.connection.registrations, "a call for another worker"
        data = message["data"]
        if isinstance(data, dict):
            callers = {each.connection.id for each in self.everybody()} | {None}
            assert data.get("_caller_worker_id") in callers, "a forged caller"
        invocation_id = message.get("invocation_id")
        if invocation_id is not None:
            assert invocation_id not in peer.asked, "one id for two calls"
            peer.asked[invocation_id] = (message["function_id"], data.get("mark") if isinstance(data, dict) else None)

    def _answered(self, peer, message):
        expected = peer.open[message["invocation_id"]]
        assert expected, f"an answer that {message['invocation_id']!r} does not wait for"
        result = message.get("result")
        mark = result.get("mark") if isinstance(result, dict) else None
        if mark in expected:
            expected.remove(mark)
        elif "error" in message or "result" not in message or ANYTHING in expected:
            # It does not say for which of several calls under one id it is: it may have been any of them.
            expected[:] = [ANYTHING] * (len(expected) - 1) if len(expected) > 1 else []
        else:
            raise AssertionError(f"the answer {message} is for another call than {expected}")

    def everybody(self):
        return self.peers + self.gone

    # Rules

    @initialize(routing=st.sampled_from(["balanced", "balanced", "first-wins"]), count=st.integers(2, 4))
    def begin(self, routing, count):
        self.bus.registry.routing = routing
        self.gone = []
        for _ in range(count):
            self.connect()

    @precondition(lambda self: len(self.peers) < 6)
    @rule()
    def connect(self):
        peer = Peer(self.bus)
        (greeting,) = peer.wire.frames
        assert strict(greeting)["worker_id"] == peer.connection.id
        peer.wire.frames = []
        self.peers.append(peer)

    @precondition(lambda self: len(self.peers) > 1)
    @rule(who=st.integers(0, 5))
    def disconnect(self, who):
        peer = self.pick(who)
        self.peers.remove(peer)
        self.gone.append(peer)
        self.run(self.bus.disconnect, peer.connection)
        self.run(self.bus.disconnect, peer.connection)
        self.read_all()

    @rule(
        who=st.integers(0, 5),
        function_id=CALLED,
        timeout=st.sampled_from([None, 5, 20_000, -1, "x"]),
        odd=st.booleans(),
    )
    def register(self, who, function_id, timeout, odd):
        extra = {"description": {"a": [1]}, "request_format": None} if odd else {}
        self.send(self.pick(who), type="registerfunction", id=function_id, metadata={"timeout_ms": timeout}, **extra)

    @rule(who=st.integers(0, 5), function_id=CALLED)
    def unregister(self, who, function_id):
        self.send(self.pick(who), type="unregisterfunction", id=function_id)

    @rule(
        who=st.integers(0, 5),
        function_id=CALLED,
        invocation_id=INVOCATIONS,
        namespace=NAMESPACES,
        action=st.sampled_from([None, None, None, "void", "enqueue", "nonsense"]),
    )
    def call(self, who, function_id, invocation_id, namespace, action):
        peer = self.pick(who)
        self.number += 1
        if action != "void":
            peer.open[invocation_id].append(self.number)
        self.send(
            peer,
            type="invokefunction",
            function_id=function_id,
            invocation_id=invocation_id,
            namespace=namespace,
            action=None if action is None else {"type": action, "queue": "q"},
            data={"mark": self.number, "_caller_worker_id": "forged"},
        )

    @rule(
        who=st.integers(0, 5), which=st.integers(0, 9), how=st.sampled_from(["result", "null", "error", "odd", "nan"])
    )
    def answer(self, who, which, how):
        peer = self.pick(who)
        if not peer.asked:
            return
        invocation_id = sorted(peer.asked)[which % len(peer.asked)]
        function_id, mark = peer.asked.pop(invocation_id)
        message = {"type": "invocationresult", "invocation_id": invocation_id, "function_id": function_id}
        if how == "result":
            message["result"] = {"mark": mark}
        elif how == "nan":
            message["result"] = {"mark": float("nan")}
        elif how != "null":
            message["error"] = {"code": "E", "message": "m"} if how == "error" else "odd"
        self.send(peer, **message)
        self.send(peer, **message)  # twice: the second one is for nobody

    @rule(who=st.integers(0, 5), other=st.integers(0, 5))
    def forge(self, who, other):
        forger, victim = self.pick(who), self.pick(other)
        for invocation_id in set(victim.asked) - set(forger.asked):
            self.send(forger, type="invocationresult", invocation_id=invocation_id, result={"mark": "forged"})

    @rule(who=st.integers(0, 5), trigger_type=TRIGGER_TYPES, withdraw=st.booleans())
    def provide(self, who, trigger_type, withdraw):
        kind = "unregistertriggertype" if withdraw else "registertriggertype"
        self.send(self.pick(who), type=kind, id=trigger_type, description="d")

    @rule(
        who=st.integers(0, 5),
        trigger_id=st.sampled_from(["t-1", "t-2", "t-3"]),
        trigger_type=TRIGGER_TYPES,
        config=st.sampled_from([None, {"a": 1}, "bad"]),
        namespaces=st.tuples(NAMESPACES | st.none(), NAMESPACES | st.none()),
    )
    def bind(self, who, trigger_id, trigger_type, config, namespaces):
        self.send(
            self.pick(who),
            type="registertrigger",
            id=trigger_id,
            trigger_type=trigger_type,
            function_id="a::f",
            config=config,
            namespace=namespaces[0],
            trigger_namespace=namespaces[1],
        )

    @rule(who=st.integers(0, 5), trigger_id=st.sampled_from(["t-1", "t-2", "t-3"]))
    def unbind(self, who, trigger_id):
        self.send(self.pick(who), type="unregistertrigger", id=trigger_id)

    @rule(who=st.integers(0, 5), error=JSON)
    def trigger_result(self, who, error):
        self.send(
            self.pick(who),
            type="triggerregistrationresult",
            id="t-1",
            trigger_type="t::own",
            function_id="x",
            error=error,
        )

    @rule(refuse=st.integers(0, 5))
    def serve_or_not(self, refuse):
        if self.fussy is None:
            self.fussy = Fussy()
            self.fussy.refused = self.pick(refuse).connection
            self.bus.triggers.serve("t::engine", self.fussy)
        else:
            self.bus.triggers.unserve("t::engine")
            assert not self.fussy.bound
            self.fussy = None
        self.read_all()

    @rule(who=st.integers(0, 5), other=st.integers(0, 5), right=st.booleans())
    def reattach(self, who, other, right):
        old, new = self.pick(who), self.pick(other)
        token = old.connection.reattach_token if right else "wrong"
        self.send(new, type="reattach", previous_worker_id=old.connection.id, reattach_token=token)
        if old.connection.closed:
            assert right
            assert old is not new
            self.peers.remove(old)
            self.gone.append(old)

    @rule(who=st.integers(0, 5), namespace=st.sampled_from(["default", "orders", "a b", ""]))
    def settle(self, who, namespace):
        def settle():
            try:
                self.bus.settle(self.pick(who).connection, namespace)
            except BusError as error:
                if error.code != "INVALID_NAMESPACE":
                    raise

        self.run(settle)
        self.read_all()

    @rule(who=st.integers(0, 5), flag=st.sampled_from(["silent", "draining", "congested"]))
    def change(self, who, flag):
        connection = self.pick(who).connection
        setattr(connection, flag, not getattr(connection, flag))

    @rule(seconds=st.sampled_from([0.001, 1, 5, 15, 60]))
    def time_passes(self, seconds):
        self.run(self.clock.advance, seconds)
        self.run(self.bus.calls.expire)
        self.read_all()

    @rule(function_id=CALLED, notify=st.booleans(), timeout=st.sampled_from([None, 1.0]))
    def engine_calls_out(self, function_id, notify, timeout):
        if notify:
            self.run(self.bus.notify, function_id, b'{"n":1}')
        else:
            call = self.bus.call(function_id, b'{"n":1}', timeout=timeout)
            self.engine_calls.append(self.loop.create_task(call))
            self.run(lambda: None)
        self.read_all()

    @precondition(lambda self: self.engine_calls)
    @rule()
    def the_engine_gives_a_call_up(self):
        self.engine_calls.pop().cancel()
        self.run(lambda: None)

    @rule(who=st.integers(0, 5), frame=near_messages(RANDOM_TEXTS) | st.binary(max_size=30))
    def garbage(self, who, frame):
        peer = self.pick(who)
        message = decode(frame)
        wants_answer = message.type == "invokefunction" and message.invocation_id is not None
        if isinstance(message, Malformed):
            wants_answer = wants_answer and message.invocation_id != ""
        elif message.action is not None and message.action.type == "void":
            wants_answer = False
        if wants_answer:
            peer.open[message.invocation_id].append(ANYTHING)
        if message.type == "invocationresult":
            peer.asked.pop(message.invocation_id, None)
            for each in self.peers:  # a random answer to a right call: any result will do
                for calls in each.open.values():
                    calls[:] = [ANYTHING] * len(calls)
        self.run(self.bus.receive, peer.connection, frame)
        self.read_all()

    # What holds after each

    @invariant()
    def no_message_has_failed_inside_the_engine(self):
        if self.bus.fault is not None:
            raise self.bus.fault

    @invariant()
    def what_is_open_is_known_and_counted(self):
        invocations = self.bus.calls.invocations
        at_workers = [call for each in self.peers for call in each.connection.calls.values()]
        calls = {*at_workers, *invocations._local}
        assert len(calls) == invocations.in_flight
        assert all(call.open for call in calls)
        assert sum(map(len, invocations._deadlines.values())) == len(calls)
        for peer in self.peers:
            mine = {call for call in calls if call.origin is peer.connection}
            assert peer.connection.outgoing == mine
            waiting = Counter(call.caller_id for call in mine)
            assert waiting == {name: len(each) for name, each in peer.open.items() if each}
        for peer in self.gone:
            connection = peer.connection
            assert connection.closed
            left = (connection.calls, connection.outgoing, connection.registrations, connection.bindings)
            assert not any(left)
            assert not connection.trigger_types
            assert connection.registered_bytes == 0
            assert not peer.wire.frames

    @invariant()
    def the_registries_hold_what_the_connections_have(self):
        assert set(self.bus.connections) == {peer.connection.id for peer in self.peers}
        connections = [peer.connection for peer in self.peers]
        registrations = {
            registration
            for functions in self.bus.registry._namespaces.values()
            for owners in functions.values()
            for registration in owners.registrations
        }
        assert registrations == {one for each in connections for one in each.registrations.values()}
        triggers = self.bus.triggers
        bindings = [one for of_type in triggers._bindings.values() for same in of_type.values() for one in same]
        held = [one for each in connections for one in each.bindings.values()]
        assert len(bindings) == len(held)
        assert set(bindings) == set(held)
        provided = {(one.connection.id, one.trigger_type) for each in triggers._providers.values() for one in each}
        assert provided == {(each.id, name) for each in connections for name in each.trigger_types}
        for (trigger_type, trigger_id), (provider, binding) in triggers._delivered.items():
            assert binding is next(reversed(triggers._bindings[trigger_type][trigger_id]))
            assert provider in connections
            assert trigger_type in provider.trigger_types
        for each in connections:
            parts = (each.registrations, each.bindings, each.trigger_types)
            sizes = [one.size for part in parts for one in part.values()]
            assert each.registered_bytes == sum(sizes)
        bounds = self.bus.bounds
        assert bounds.registered == sum(each.registered_bytes for each in connections) + triggers._ownerless_bytes
        assert bounds.functions == len(registrations)
        own = sum(len(each.bindings) + len(each.trigger_types) for each in connections)
        assert bounds.triggers == own + len(triggers._ownerless)
        if self.fussy is not None:
            assert self.fussy.bound <= set(bindings)
            groups = triggers.served["t::engine"].groups.values()
            assert all(groups)
            assert {one for group in groups for of_one in group.values() for one in of_one} <= set(bindings)

    def _end(self):
        """All go but one, whose calls are answered then; time ends the rest; it goes too, and nothing is left."""
        while len(self.peers) > 1:
            self.disconnect(1)
            self.what_is_open_is_known_and_counted()
            self.the_registries_hold_what_the_connections_have()
        for _ in range(2):
            self.time_passes(60)
        assert self.bus.calls.invocations.in_flight == 0
        assert self.bus.bounds.held == 0
        (last,) = self.peers
        assert not any(last.open.values())
        assert all(call.done() for call in self.engine_calls)
        for call in self.engine_calls:
            assert isinstance(call.exception(), BusError | None)
        self.peers.remove(last)
        self.gone.append(last)
        self.run(self.bus.disconnect, last.connection)
        assert not self.bus.connections
        assert len(self.bus.registry) == 0
        assert list(self.bus.registry._namespaces) == ["default"]
        triggers = self.bus.triggers
        assert not any((triggers._bindings, triggers._providers, triggers._ownerless, triggers._delivered))
        assert self.fussy is None or not (self.fussy.bound or triggers.served["t::engine"].groups)
        self.bus.calls.expire()
        assert not self.bus.calls.invocations._deadlines
        assert not self.bus._tasks


BusMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBus = BusMachine.TestCase


def test_a_fault_in_one_part_of_the_engine_keeps_nobody_from_hearing_that_a_worker_has_gone():
    def fails(*arguments):
        raise RuntimeError("a bug")

    class Failing:
        failed = answered = returned = fails

    class FailingType:
        unbind = fails

        def bind(self, binding):
            pass

    bus = Bus(clock=ManualClock(), call_timeout=5.0)
    bus.watchers.append(fails)
    bus.triggers.serve("t::engine", FailingType())
    worker, caller = Peer(bus), Peer(bus)
    for message in (
        {"type": "registerfunction", "id": "a::f"},
        {"type": "registertrigger", "id": "t", "trigger_type": "t::engine", "function_id": "a::f"},
    ):
        bus.receive(worker.connection, json.dumps(message).encode())
    bus.invoke("a::f", b"1", Failing())
    bus.receive(caller.connection, b'{"type":"invokefunction","function_id":"a::f","invocation_id":"i"}')
    bus.disconnect(worker.connection)
    assert strict(caller.wire.frames[-1])["error"]["code"] == "invocation_stopped"
    assert bus.calls.invocations.in_flight == 0
    assert worker.connection.id not in bus.connections


@QUICK
@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_all_owners_of_a_function_get_its_calls_fairly(owners, steps):
    bus = Bus(clock=ManualClock())
    workers, caller = [Peer(bus) for _ in range(owners)], Peer(bus)
    for worker in workers:
        bus.receive(worker.connection, b'{"type":"registerfunction","id":"a::f"}')
    got = Counter()
    for number, (is_answer, which) in enumerate(steps):
        busy = [worker for worker in workers if worker.connection.calls]
        if is_answer and busy:
            worker = busy[which % len(busy)]
            invocation_id = next(iter(worker.connection.calls))
            bus.receive(worker.connection, frames.result(invocation_id, "a::f", value=b"1"))
            continue
        before = {id(worker): len(worker.connection.calls) for worker in workers}
        bus.receive(caller.connection, b'{"type":"invokefunction","function_id":"a::f","invocation_id":"%d"}' % number)
        (called,) = [each for each in workers if len(each.connection.calls) > before[id(each)]]
        assert before[id(called)] == min(before.values())
    for worker in workers:  # idle ones take turns
        for invocation_id in list(worker.connection.calls):
            bus.receive(worker.connection, frames.result(invocation_id, "a::f"))
    for number in range(owners * 3):
        bus.receive(caller.connection, b'{"type":"invokefunction","function_id":"a::f","invocation_id":"x%d"}' % number)
        (called,) = [each for each in workers if each.connection.calls]
        got[id(called)] += 1
        bus.receive(called.connection, frames.result(f"x{number}", "a::f"))
    assert set(got.values()) == {3}


# The engine's own functions: any payload gives one answer, and none of them fails inside


NAMES = st.sampled_from(
    "action condition_function_id config group_id include_internal item_id key level limit metadata name namespace "  # noqa: SIM905
    "offset ops path search sort timeout_ms trace_id type value values workers".split()
)
VALUES = JSON | st.sampled_from(
    ["a::f", "default", "x", "", "engine::functions::list", "set", "cron", "state", 1, [], {}]
)
PAYLOADS = JSON | st.dictionaries(NAMES, VALUES | st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=2))


MISSING_FIELD = re.compile(r"missing field `(\w+)`")


def test_any_payload_to_any_function_of_the_engine_gives_one_answer():
    with asyncio.Runner() as runner:
        settings_of_engine = read_settings([f"--{name}port=0" for name in ("", "http-", "stream-", "admin-")], {})
        clock = ManualClock()
        engine = runner.run(made(settings_of_engine, clock))
        runner.run(engine.start())
        bus = engine.bus
        function_ids = sorted(each.function_id for each in bus.functions)
        assert len(function_ids) > 20
        peer = Peer(bus)
        peer.wire.frames.clear()

        async def answer(function_id, payload):
            call = {"type": "invokefunction", "invocation_id": "i", "function_id": function_id, "data": payload}
            bus.receive(peer.connection, json.dumps(call).encode())
            for _ in range(3):
                for _ in range(100):
                    sent, peer.wire.frames = peer.wire.frames, []
                    for frame in sent:
                        message = strict(frame)
                        assert message["type"] in SENT
                        if message["type"] == "invocationresult":
                            return message
                    await asyncio.sleep(0)
                await clock.advance(11)  # it waits for a worker
            raise AssertionError(f"{function_id} does not answer")

        @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(function_ids), PAYLOADS, st.data())
        def probe(function_id, payload, data):
            for _ in range(6):
                message = runner.run(answer(function_id, payload))
                assert message["function_id"] == function_id
                assert message.get("error", {}).get("code") != "internal_error"
                assert not peer.connection.outgoing
                assert peer.connection.id in bus.connections
                missing = MISSING_FIELD.search(message.get("error", {}).get("message", ""))
                if missing is None or not isinstance(payload, dict):
                    break
                payload[missing[1]] = data.draw(VALUES)

        try:
            probe()
        finally:
            runner.run(engine.stop())


async def made(settings_of_engine, clock):
    return Engine(settings_of_engine, None, clock)
