"""Spans of the calls of workers: which are made, what they say, and that they hang where they belong."""

import json
from collections import Counter

import pytest
from agentos_engine.bus.tracer import Tracer
from agentos_engine.config import SettingsError, read_settings
from agentos_engine.console.recorder import Recorder
from agentos_engine.observability.config import ObservabilityConfig, RateLimit, Sampling, SamplingRule
from agentos_engine.observability.module import Observability
from agentos_engine.observability.spans import attributes_of
from agentos_engine.observability.trace_context import parse_traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture
def trace(bus):
    """Makes the bus trace its calls: ``trace(sampling_ratio=…)``."""

    def trace(**keys) -> Observability:
        made = Observability(bus=bus, config=ObservabilityConfig(logs_console_output=False, **keys))
        bus.spans, bus.calls.tracer = made, Tracer(bus, made)
        return made

    return trace


class Pair:
    """A worker with the function ``a::f``, and one that calls it."""

    def __init__(self, join) -> None:
        self.worker, self.caller = join(), join()
        self.worker.send(type="registerfunction", id="a::f")

    def call(self, traceparent: str | None = None, **fields) -> dict:
        """Call it; returns what the worker gets."""
        trace = {} if traceparent is None else {"traceparent": traceparent}
        self.caller.send(type="invokefunction", **({"invocation_id": "i", "function_id": "a::f"} | trace | fields))
        (got,) = self.worker.take("invokefunction") or [{}]
        return got

    def answer(self, call: dict, **outcome) -> None:
        """Answer what the worker got."""
        ids = {"invocation_id": call["invocation_id"], "function_id": "a::f"}
        self.worker.send(type="invocationresult", **ids, **(outcome or {"result": 1}))


@pytest.fixture
def pair(join):
    return Pair(join)


def test_it_stands_between_the_callers_span_and_the_handlers(trace, pair):
    spans = trace(sampling_ratio=0.0).spans  # whatever the ratio: the caller has decided
    call = pair.call(SAMPLED)
    given = parse_traceparent(call["traceparent"])
    pair.answer(call)
    assert pair.caller.take("invocationresult")[0]["result"] == 1
    (span,) = spans
    assert (span.trace_id, span.parent_span_id, span.span_id) == (TRACE, "b7ad6b7169203331", given.span_id)
    assert (given.trace_id, given.sampled) == (TRACE, True)
    assert (span.name, span.status, json.loads(span.raw)["kind"]) == ("call a::f", "ok", 2)
    about = {"function_id": "a::f", "caller": pair.caller.id, "worker": pair.worker.id}
    assert attributes_of(span) == about


def test_what_its_caller_does_not_record_is_passed_on_as_it_came(trace, pair):
    spans = trace(sampling_ratio=1.0).spans
    call = pair.call(UNSAMPLED)
    pair.answer(call)
    assert call["traceparent"] == UNSAMPLED
    assert len(spans) == 0


def test_without_parents_the_ratio_decides_about_the_calls_of_a_trace_together(trace, pair):
    spans = trace(sampling_ratio=1.0, sampling=Sampling(parent_based=False)).spans
    pair.answer(pair.call(UNSAMPLED))
    assert [span.trace_id for span in spans] == [TRACE]


@pytest.mark.parametrize("field", [{}, {"traceparent": None}])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_of_calls_without_a_trace_the_ratio_is_recorded(trace, pair, ratio, field):
    spans = trace(sampling_ratio=ratio).spans
    traced = 0
    for _ in range(1000):
        call = pair.call(**field)
        traced += "01" in (call.get("traceparent") or "").rsplit("-", 1)[-1:]
        pair.answer(call)
    assert len(spans) == traced
    assert abs(traced - 1000 * ratio) <= (80 if 0 < ratio < 1 else 0)
    assert len({span.trace_id for span in spans}) == traced


def test_a_bad_traceparent_is_no_way_around_the_ratio(trace, pair):
    spans = trace(sampling_ratio=0.0, sampling=Sampling(rules=(SamplingRule(rate=1.0, operation="call b::*"),))).spans
    for bad in ("1", "x" * 1000 + "1", f"ff-{TRACE}-b7ad6b7169203331-01", "00-0-0-01"):
        pair.answer(pair.call(bad))
    assert len(spans) == 0


def test_rules_decide_by_the_function(trace, pair):
    rules = (SamplingRule(rate=1.0, operation="call a::*"),)
    spans = trace(sampling_ratio=0.0, sampling=Sampling(rules=rules)).spans
    pair.answer(pair.call())
    pair.call(function_id="b::f")
    assert [span.name for span in spans] == ["call a::f"]


def test_no_more_new_traces_begin_than_the_limit_allows(trace, pair):
    spans = trace(sampling_ratio=1.0, sampling=Sampling(rate_limit=RateLimit(5))).spans
    for _ in range(50):
        pair.answer(pair.call())
    assert len(spans) == 5


def test_how_a_call_ended_is_told(trace, pair, bus, clock):
    spans = trace(sampling_ratio=1.0).spans
    pair.answer(pair.call(), error={"code": "E", "message": "at ws://h/w/eyJhbGciOiJFZERTQSJ9.eyJhIjoxfQ.c2ln/p"})
    pair.call(function_id="a::none")
    pair.call(action={"type": "void"})
    pair.call()
    pair.caller.end()
    told = [(span.status, json.loads(span.raw)["status"].get("message", "")) for span in spans]
    assert [status for status, _ in told] == ["error", "error", "ok", "error"]
    assert told[0][1].startswith("E: at ws://h/w/")
    assert "eyJ" not in told[0][1]
    assert told[1][1].startswith("function_not_found: ")
    assert told[3][1].startswith("abandoned: ")


def test_a_callee_that_goes_ends_the_span_and_the_caller_hears_it(trace, pair):
    spans = trace(sampling_ratio=1.0).spans
    pair.call()
    pair.worker.end()
    assert pair.caller.take("invocationresult")[0]["error"]["code"] == "invocation_stopped"
    assert [span.status for span in spans] == ["error"]


def test_nothing_is_left_over_when_traced_calls_have_ended(trace, pair, bus):
    trace(sampling_ratio=1.0)
    for _ in range(3):
        pair.answer(pair.call())
    assert bus.calls.invocations.in_flight == 0
    assert not pair.caller.connection.outgoing
    assert not pair.worker.connection.calls


async def test_a_function_of_the_engine_gets_one_span_and_not_two(trace, pair, bus):
    spans = trace(sampling_ratio=1.0).spans
    bus.functions.add("state::probe", lambda context, data: context.traceparent)
    pair.call(SAMPLED, function_id="state::probe")
    (answer,) = pair.caller.take("invocationresult")
    assert [span.name for span in spans] == ["call state::probe"]
    assert parse_traceparent(answer["result"]).span_id == next(iter(spans)).span_id


def test_while_somebody_looks_at_the_console_every_call_is_traced_once(trace, pair, bus):
    spans = trace(sampling_ratio=0.01).spans
    recorder = Recorder(bus)
    recorder.attach()
    for _ in range(20):
        pair.answer(pair.call())
    assert Counter(span.name for span in spans) == {"call a::f": 20}


async def test_flags_say_how_much_is_traced_and_where_it_goes(run_engine, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"workers": [{"name": "iii-observability", "config": {"sampling_ratio": 0.7}}]}))
    flags = ("--config", str(path), "--trace-ratio", "0.3", "--otlp-endpoint", "http://127.0.0.1:9/x")
    told = (await run_engine(*flags)).engine.parts.observability.config
    assert (told.sampling_ratio, told.exporter, told.endpoint) == (0.3, "both", "http://127.0.0.1:9/x")
    told = (await run_engine("--config", str(path))).engine.parts.observability.config
    assert (told.sampling_ratio, told.exporter) == (0.7, "memory")
    assert (await run_engine()).engine.parts.observability.config.sampling_ratio == 0.01


@pytest.mark.parametrize("flags", [("--trace-ratio", "2"), ("--trace-ratio", "nan"), ("--trace-ratio", "x")])
def test_a_share_that_is_none_is_refused(flags, capsys):
    with pytest.raises(SystemExit):
        read_settings(flags, {})
    assert "is not a number from 0 to 1" in capsys.readouterr().err


async def test_an_endpoint_that_is_no_url_is_refused_by_the_name_of_its_flag(run_engine):
    with pytest.raises(SettingsError, match="--otlp-endpoint: endpoint 'collector:4318' is not a URL"):
        await run_engine("--otlp-endpoint", "collector:4318")
