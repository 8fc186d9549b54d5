"""Telemetry that workers send: taken in, kept within bounds, queried."""

import asyncio
import json

import msgspec
import pytest
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.observability import module as module_file
from agentos_engine.observability import spans as spans_file
from agentos_engine.observability.config import ObservabilityConfig, Sampling, TraceStorage
from agentos_engine.observability.module import MAX_FRAME, Observability
from agentos_engine.observability.sampling import sampled
from agentos_engine.observability.trace_context import parse_traceparent
from agentos_engine.token_bucket import TokenBucket
from hypothesis import given, settings
from hypothesis import strategies as st

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
KEYS = [
    *("key", "value", "attributes", "resource", "scope", "traceId", "spanId", "name", "body", "status", "code"),
    *("stringValue", "intValue", "doubleValue", "arrayValue", "values", "kvlistValue", "events", "links"),
    *("dataPoints", "gauge", "sum", "histogram", "asInt", "bucketCounts", "timeUnixNano"),
]


@pytest.fixture
async def observe(bus):
    """Starts the module on the bare bus: ``await observe(memory_max_spans=…)``."""
    started = []

    async def observe(**keys) -> Observability:
        module = Observability(bus=bus, config=ObservabilityConfig(logs_console_output=False, **keys))
        started.append(module)
        await module.start()
        return module

    yield observe
    for module in started:
        await module.stop()


@pytest.fixture
def ask(bus):
    """Calls a function of the engine and returns its decoded result."""

    async def ask(function_id, payload=None, **options):
        result = await bus.call(function_id, msgspec.json.encode(payload), **options)
        return None if result is None else msgspec.json.decode(result)

    return ask


def value(plain):
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return {kinds[type(plain)]: plain}


def pairs(attributes):
    return [{"key": key, "value": value(each)} for key, each in attributes.items()]


def span(number=1, parent=None, name="call x", start=0, duration=1000, trace=TRACE, code=1, **attributes):
    """A span as SDKs send it; times in ms, ``start`` after START."""
    begin = START + start * 1_000_000
    sent = {
        "traceId": trace,
        "spanId": f"{number:016x}",
        "name": name,
        "kind": 2,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(begin + duration * 1_000_000),
        "attributes": pairs(attributes),
        "events": [],
        "links": [],
        "status": {"code": code, "message": "" if code != 2 else "bad"},
    }
    return sent | ({"parentSpanId": f"{parent:016x}"} if parent is not None else {})


def frame(*spans, service="shop"):
    scope = {"scope": {"name": "sdk", "version": "1.2"}, "spans": list(spans)}
    resource = {"attributes": pairs({"service.name": service})}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}).encode()


def metric_frame(*metrics, service="shop"):
    scope = {"scope": {"name": "meter"}, "metrics": list(metrics)}
    resource = {"attributes": pairs({"service.name": service})}
    return json.dumps({"resourceMetrics": [{"resource": resource, "scopeMetrics": [scope]}]}).encode()


def gauge(name, reading, at=0, **attributes):
    point = {"attributes": pairs(attributes), "timeUnixNano": str(START + at * SECOND), "asDouble": reading}
    return {"name": name, "unit": "%", "description": "d", "gauge": {"dataPoints": [point]}}


class TestSpans:
    async def test_a_span_of_an_sdk_comes_back_in_the_stored_shape(self, observe, ask):
        module = await observe()
        sent = span(2, parent=1, code=2, text="a", whole=1, broken=1.5, yes=True)
        sent["events"] = [{"name": "e", "timeUnixNano": str(START), "attributes": pairs({"k": "v"})}]
        sent["links"] = [{"traceId": TRACE.upper(), "spanId": f"{9:016x}", "attributes": []}]
        module.ingest(None, b"OTLP", frame(sent))
        answer = await ask("engine::traces::list")
        assert answer == {
            "spans": [
                {
                    "trace_id": TRACE,
                    "span_id": f"{2:016x}",
                    "parent_span_id": f"{1:016x}",
                    "name": "call x",
                    "start_time_unix_nano": START,
                    "end_time_unix_nano": START + SECOND,
                    "status": "error",
                    "status_description": "bad",
                    "attributes": [["text", "a"], ["whole", "1"], ["broken", "1.5"], ["yes", "true"]],
                    "service_name": "shop",
                    "events": [{"name": "e", "timestamp_unix_nano": START, "attributes": [["k", "v"]]}],
                    "links": [{"trace_id": TRACE, "span_id": f"{9:016x}", "attributes": []}],
                    "instrumentation_scope_name": "sdk",
                    "instrumentation_scope_version": "1.2",
                }
            ],
            "total": 1,
            "offset": 0,
            "limit": 100,
        }

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, ["a", "b", "c"]),
            ({"trace_id": TRACE.upper()}, ["a", "b"]),
            ({"service_name": "SHO"}, ["a", "b", "c"]),
            ({"service_name": "other"}, []),
            ({"name": "B"}, ["b"]),
            ({"status": "ERROR"}, ["b"]),
            ({"min_duration_ms": 100, "max_duration_ms": 200}, ["b"]),
            ({"start_time": START // 1_000_000 + 1, "end_time": START // 1_000_000 + 2}, ["b", "c"]),
            ({"search": "gold"}, ["c"]),
            ({"attributes": [["tier", "gold"], ["seats", 3]]}, ["c"]),
            ({"attributes": [["tier", "gold"], ["seats", 4]]}, []),
            ({"attributes": [["a/b", "é"]]}, ["a"]),
            ({"include_internal": True}, ["a", "b", "c", "trigger engine::log::info", "d"]),
            ({"sort_by": "duration", "sort_order": "desc"}, ["c", "b", "a"]),
            ({"sort_by": "name", "sort_order": "desc"}, ["c", "b", "a"]),
            ({"offset": 1, "limit": 1}, ["b"]),
            ({"trace_id": None, "limit": None, "sort_by": None}, ["a", "b", "c"]),
        ],
    )
    async def test_spans_are_filtered_sorted_and_paged(self, observe, ask, filters, expected):
        module = await observe()
        module.ingest(
            None,
            b"OTLP",
            frame(
                span(1, name="a", duration=10, **{"a/b": "é"}),
                span(2, name="b", duration=150, start=1, code=2),
                span(3, name="c", duration=900, start=2, trace="f" * 32, tier="gold", seats=3),
                span(4, name="trigger engine::log::info", start=3, trace="e" * 32),
                span(5, name="d", start=4, trace="e" * 32, **{"iii.function.kind": "internal"}),
            ),
        )
        answer = await ask("engine::traces::list", filters)
        assert [each["name"] for each in answer["spans"]] == expected

    async def test_total_counts_all_pages_and_a_page_has_at_most_a_thousand_rows(self, observe, ask):
        module = await observe()
        module.ingest(None, b"OTLP", frame(*(span(number + 1) for number in range(1500))))
        answer = await ask("engine::traces::list", {"limit": 5000})
        assert (len(answer["spans"]), answer["total"], answer["limit"]) == (1000, 1500, 1000)

    async def test_a_bad_filter_is_refused_with_the_field(self, observe, ask):
        await observe()
        with pytest.raises(
            BusError, match=r"^Failed to deserialize input for engine::traces::list.*\$\.limit"
        ) as caught:
            await ask("engine::traces::list", {"limit": -1})
        assert caught.value.code == "deserialization_error"

    async def test_a_tree_nests_children_by_start_and_orphans_are_roots(self, observe, ask):
        module = await observe()
        spans = [span(1), span(3, parent=1, start=5), span(2, parent=1, start=1), span(4, parent=2), span(5, parent=77)]
        module.ingest(None, b"OTLP", frame(*reversed(spans)))
        roots = (await ask("engine::traces::tree", {"trace_id": TRACE}))["roots"]

        def shape(nodes):
            return [(int(node["span_id"], 16), shape(node["children"])) for node in nodes]

        assert shape(roots) == [(1, [(2, [(4, [])]), (3, [])]), (5, [])]

    async def test_a_tree_of_rings_and_endless_depth_holds_every_span_once(self, observe, ask):
        module = await observe()
        ring = [span(1, parent=2), span(2, parent=1), span(3, parent=3)]
        chain = [span(number, parent=number - 1) for number in range(11, 700)]
        module.ingest(None, b"OTLP", frame(*ring, *chain))
        roots = (await ask("engine::traces::tree", {"trace_id": TRACE}))["roots"]
        found, deepest, waiting = [], 0, [(root, 1) for root in roots]
        while waiting:
            node, depth = waiting.pop()
            found.append(int(node["span_id"], 16))
            deepest = max(deepest, depth)
            waiting += [(child, depth + 1) for child in node["children"]]
        assert sorted(found) == [1, 2, 3, *range(11, 700)]
        assert deepest == spans_file.MAX_TREE_DEPTH

    async def test_the_tree_of_a_trace_without_spans_has_no_roots_and_needs_an_id(self, observe, ask):
        await observe()
        assert await ask("engine::traces::tree", {"trace_id": "0" * 32}) == {"roots": []}
        with pytest.raises(BusError, match="missing field `trace_id`"):
            await ask("engine::traces::tree", {})

    async def test_groups_count_traces_spans_and_errors_by_an_attribute(self, observe, ask):
        module = await observe()
        key = "iii.session.id"
        module.ingest(None, b"OTLP", frame(span(1, **{key: "s1"}), span(2, code=2, **{key: "s1"}), span(9)))
        module.ingest(None, b"OTLP", frame(span(3, start=9000, trace="f" * 32, **{key: "s2"})))
        answer = await ask("engine::traces::group_by", {"attribute": key})
        assert answer["total"] == 2
        first, second = answer["groups"]
        assert (first["value"], first["trace_ids"]) == ("s2", ["f" * 32])
        assert (second["value"], second["trace_count"], second["span_count"], second["error_count"]) == ("s1", 1, 2, 1)

    async def test_clearing_forgets_spans(self, observe, ask):
        module = await observe()
        module.ingest(None, b"OTLP", frame(span(1), span(2)))
        assert await ask("engine::traces::clear") == {"success": True, "cleared": 2}
        assert (await ask("engine::traces::list"))["total"] == 0
        assert await ask("engine::traces::tree", {"trace_id": TRACE}) == {"roots": []}

    @pytest.mark.parametrize("traces", [1, 40], ids=["one trace", "many traces"])
    async def test_only_the_newest_spans_are_kept(self, observe, ask, traces):
        module = await observe(memory_max_spans=25)
        for number in range(1, 101):
            module.ingest(None, b"OTLP", frame(span(number, trace=f"{number % traces + 1:032x}", start=number)))
        kept = (await ask("engine::traces::list", {"limit": 100}))["spans"]
        assert [int(each["span_id"], 16) for each in kept] == list(range(76, 101))
        by_trace = [
            each
            for trace in range(1, traces + 1)
            for each in (await ask("engine::traces::list", {"trace_id": f"{trace:032x}"}))["spans"]
        ]
        assert len(by_trace) == 25

    async def test_spans_are_kept_up_to_a_number_of_bytes(self, observe):
        limit = 1 << 20
        module = await observe(trace_storage=TraceStorage(memory_max_bytes=limit))
        for number in range(1, 101):
            module.ingest(None, b"OTLP", frame(span(number, text="x" * 50_000)))
        assert 15 <= len(module.spans) <= 20
        assert module.spans.bytes <= limit
        module.ingest(None, b"OTLP", frame(span(999, text="x" * (spans_file.MAX_SPAN + 1))))
        assert module.ingested.dropped == 1

    async def test_without_the_memory_exporter_queries_say_so(self, observe, ask):
        module = await observe(exporter="otlp", logs_exporter="otlp")
        module.ingest(None, b"OTLP", frame(span()))
        for function_id, payload in (
            ("engine::traces::list", None),
            ("engine::traces::tree", {"trace_id": TRACE}),
            ("engine::traces::group_by", {"attribute": "name"}),
            ("engine::traces::clear", None),
            ("engine::logs::list", None),
            ("engine::logs::clear", None),
        ):
            with pytest.raises(BusError) as caught:
                await ask(function_id, payload)
            assert caught.value.code == "memory_exporter_not_enabled", function_id


class TestBadFrames:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"resourceSpans": 1}',
            b'{"resourceSpans": [1]}',
            b'{"resourceLogs": {}}',
            b'{"x": "NaN"}',
            b"[" * 100_000,
            b'{"resourceSpans": [NaN, ',
        ],
    )
    @pytest.mark.parametrize("kind", [b"OTLP", b"LOGS", b"MTRC", b"what"])
    async def test_a_frame_that_is_not_otlp_is_counted_and_nothing_else(self, observe, kind, body):
        module = await observe()
        module.ingest(None, kind, body)
        assert (module.ingested.frames, module.ingested.malformed) == (1, 1)

    async def test_one_bad_span_does_not_spoil_the_others(self, observe, ask):
        module = await observe()
        bad = [
            None,
            1,
            {},
            span() | {"traceId": "nope"},
            span() | {"spanId": "0" * 16},
            span() | {"name": 5},
            span() | {"traceId": "g" * 32},
        ]
        module.ingest(None, b"OTLP", frame(*bad, span(7)))
        assert [each["span_id"] for each in (await ask("engine::traces::list"))["spans"]] == [f"{7:016x}"]
        assert module.ingested.dropped == len(bad)

    async def test_odd_fields_of_a_span_become_empty(self, observe, ask):
        module = await observe()
        deep = {"stringValue": "x"}
        for _ in range(200):
            deep = {"arrayValue": {"values": [deep]}}
        odd = span(1) | {
            "startTimeUnixNano": "soon",
            "endTimeUnixNano": -1,
            "parentSpanId": "",
            "status": None,
            "events": 1,
            "links": [1],
            "attributes": [
                1,
                {"key": 2},
                {"key": "deep", "value": deep},
                {"key": "big", "value": {"intValue": 10**30}},
            ],
        }
        module.ingest(None, b"OTLP", frame(odd))
        (stored,) = (await ask("engine::traces::list"))["spans"]
        assert (stored["start_time_unix_nano"], stored["end_time_unix_nano"], stored["status"]) == (0, 0, "unset")
        assert (stored["parent_span_id"], stored["events"], stored["links"]) == (None, [], [])
        assert dict(stored["attributes"])["deep"] == "[" * 17 + "null" + "]" * 17

    async def test_nan_which_python_writes_does_not_lose_the_frame(self, observe, ask):
        module = await observe()
        body = frame(span(1, text="keep")).replace(b'"stringValue": "keep"', b'"doubleValue": NaN')
        module.ingest(None, b"OTLP", body)
        (stored,) = (await ask("engine::traces::list"))["spans"]
        assert stored["attributes"] == [["text", "null"]]

    async def test_a_frame_that_is_too_large_is_counted_and_dropped(self, observe):
        module = await observe()
        module.ingest(None, b"OTLP", frame(span(text="x" * MAX_FRAME)))
        assert (module.ingested.too_large, len(module.spans)) == (1, 0)

    async def test_of_a_frame_with_very_many_entries_the_first_ones_are_read(self, observe, monkeypatch):
        monkeypatch.setattr(module_file, "MAX_ENTRIES", 10)
        module = await observe()
        module.ingest(None, b"OTLP", frame(*(span(number + 1) for number in range(25))))
        assert (len(module.spans), module.ingested.dropped) == (10, 15)

    async def test_a_disabled_module_takes_nothing(self, observe, ask):
        module = await observe(enabled=False)
        module.ingest(None, b"OTLP", frame(span()))
        assert module.spans is None
        assert (await ask("engine::metrics::list"))["sdk_metrics"] == []

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from([b"OTLP", b"LOGS", b"MTRC"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(KEYS),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=20,
        ),
    )
    def test_no_entry_whatever_it_is_raises_on_the_way_in_or_out(self, kind, entry):
        async def run():
            bus = Bus()
            module = Observability(bus=bus, config=ObservabilityConfig(logs_console_output=False))
            await module.start()
            names = {b"OTLP": ("Spans", "spans"), b"LOGS": ("Logs", "logRecords"), b"MTRC": ("Metrics", "metrics")}
            group, entries = names[kind]
            ids = {"traceId": TRACE, "spanId": "1" * 16, "name": "n"}
            both = [entry, ids | entry] if isinstance(entry, dict) else [entry]
            body = {f"resource{group}": [{"resource": entry, f"scope{group}": [{"scope": entry, entries: both}]}]}
            module.ingest(None, kind, json.dumps(body).encode())
            for function_id in ("traces::list", "logs::list", "metrics::list", "rollups::list"):
                assert await bus.call(f"engine::{function_id}") is not None
            await module.stop()
            await bus.close()

        asyncio.run(run())


class TestMetrics:
    async def test_points_are_kept_by_series(self, observe, ask):
        module = await observe()
        for at, reading in ((0, 1.5), (60, 2.5)):
            module.ingest(None, b"MTRC", metric_frame(gauge("iii.worker.cpu.percent", reading, at, worker="a")))
        module.ingest(None, b"MTRC", metric_frame(gauge("iii.worker.cpu.percent", 9.0, worker="b")))
        first, second = (await ask("engine::metrics::list"))["sdk_metrics"]
        assert first == {
            "name": "iii.worker.cpu.percent",
            "description": "d",
            "unit": "%",
            "metric_type": "gauge",
            "attributes": {"worker": "a"},
            "service_name": "shop",
            "instrumentation_scope_name": "meter",
            "data_points": [
                {"timestamp_unix_nano": START, "value": 1.5},
                {"timestamp_unix_nano": START + 60 * SECOND, "value": 2.5},
            ],
        }
        assert second["attributes"] == {"worker": "b"}

    async def test_counts_and_histograms_as_python_and_node_send_them(self, observe, ask):
        module = await observe()
        histogram = {"count": "3", "sum": 6, "min": 1, "max": 3, "bucketCounts": ["1", 2], "explicitBounds": [2.0]}
        module.ingest(
            None,
            b"MTRC",
            metric_frame(
                {"name": "n", "sum": {"isMonotonic": True, "dataPoints": [{"asInt": "41"}, {"asInt": None}]}},
                {"name": "h", "histogram": {"dataPoints": [histogram | {"timeUnixNano": str(START)}]}},
            ),
        )
        answer = await ask("engine::metrics::list", {"metric_name": "h"})
        assert answer["query"] == {"metric_name": "h"}
        assert answer["sdk_metrics"][0]["data_points"] == [
            {
                "timestamp_unix_nano": START,
                "count": 3,
                "sum": 6,
                "min": 1,
                "max": 3,
                "bucket_counts": [1, 2],
                "explicit_bounds": [2.0],
            }
        ]
        (count,) = (await ask("engine::metrics::list", {"metric_name": "n"}))["sdk_metrics"]
        assert [point["value"] for point in count["data_points"]] == [41]
        assert module.ingested.dropped == 1
        (rolled,) = (await ask("engine::rollups::list"))["histogram_rollups"]
        assert (rolled["name"], rolled["count"]) == ("h", 3)

    async def test_points_leave_by_age_and_by_number(self, observe, ask, clock):
        module = await observe(metrics_retention_seconds=100, metrics_max_count=5)
        for number in range(8):
            module.ingest(None, b"MTRC", metric_frame(gauge(f"m{number % 2}", float(number), number)))
        readings = {
            series["name"]: [point["value"] for point in series["data_points"]]
            for series in (await ask("engine::metrics::list"))["sdk_metrics"]
        }
        assert readings == {"m1": [3, 5, 7], "m0": [4, 6]}
        await clock.advance(60)
        module.ingest(None, b"MTRC", metric_frame(gauge("m2", 1.0)))
        await clock.advance(60)
        assert [each["name"] for each in (await ask("engine::metrics::list"))["sdk_metrics"]] == ["m2"]
        assert module.points.series == 1

    async def test_points_are_summed_up_over_time(self, observe, ask):
        module = await observe()
        minute = 20  # the next full minute after START
        for at, reading in ((minute, 1.0), (minute + 30, 3.0), (minute + 60, 10.0)):
            module.ingest(None, b"MTRC", metric_frame(gauge("m", reading, at)))
        start = START // 1_000_000 + minute * 1000
        by_minute = (await ask("engine::rollups::list", {"level": 0}))["rollups"]
        keys = ("start_time", "count", "sum", "min", "max", "last")
        assert [tuple(each[key] for key in keys) for each in by_minute] == [
            (start, 2, 4.0, 1.0, 3.0, 3.0),
            (start + 60_000, 1, 10.0, 10.0, 10.0, 10.0),
        ]
        answer = await ask("engine::rollups::list", {"level": 2})
        (by_hour,) = answer["rollups"]
        assert (by_hour["count"], by_hour["avg"], answer["level"]) == (3, pytest.approx(14 / 3), 2)
        query = {"start_time": start, "end_time": start + 40_000, "aggregate_interval": 3600}
        answer = await ask("engine::metrics::list", query)
        assert [each["sum"] for each in answer["aggregated_metrics"]] == [4.0]
        assert answer["query"] == query


class TestEngineMetrics:
    async def test_the_counts_of_the_bus_have_the_documented_shape(self, observe, ask, clock):
        module = await observe()
        metrics = module.metrics
        for milliseconds in (1, 2, 3, 100):
            metrics.called("a::b", milliseconds / 1000, True)
        metrics.called("c::d", 0.010, False)
        metrics.deferred("a::b")
        metrics.spawned()
        metrics.spawned()
        metrics.died()
        answer = await ask("engine::metrics::list", {})
        assert answer["timestamp"] == int(clock.time() * 1000)
        assert "query" not in answer
        counts = answer["engine_metrics"]
        assert counts["invocations"] == {
            "total": 6,
            "success": 4,
            "error": 1,
            "deferred": 1,
            "by_function": {"a::b": 5, "c::d": 1},
        }
        assert counts["workers"] == {"spawns": 2, "deaths": 1, "active": 1}
        performance = counts["performance"]
        assert performance["min_duration_ms"] == pytest.approx(1)
        assert performance["max_duration_ms"] == pytest.approx(100)
        assert performance["avg_duration_ms"] == pytest.approx(23.2)
        assert 2 <= performance["p50_duration_ms"] <= 4.1
        assert 65 <= performance["p99_duration_ms"] <= 100

    async def test_before_the_first_call_all_is_zero(self, observe, ask):
        await observe()
        counts = (await ask("engine::metrics::list"))["engine_metrics"]
        assert set(counts["performance"].values()) == {0}

    async def test_health_tells_of_each_part(self, observe, ask):
        module = await observe(metrics_enabled=False)
        module.ingest(None, b"OTLP", frame(span()))
        health = await ask("engine::health::check")
        assert health["status"] == "healthy"
        assert {name: each["status"] for name, each in health["components"].items()} == {
            "otel": "healthy",
            "metrics": "disabled",
            "logs": "healthy",
            "spans": "healthy",
        }
        assert health["components"]["spans"]["details"]["stored"] == 1
        assert health["version"]


class TestSampling:
    @pytest.mark.parametrize(
        ("keys", "name", "parent", "expected"),
        [
            ({}, "GET /x", "01", True),
            ({"sampling_ratio": 1}, "GET /x", None, True),
            ({"sampling_ratio": 0}, "GET /x", None, False),
            ({"sampling_ratio": 0, "sampling": {"default": 1}}, "GET /x", None, True),
            ({"sampling": {"rules": [{"operation": "GET /h*", "rate": 0}]}}, "GET /health", None, False),
            ({"sampling_ratio": 1, "sampling": {"rules": [{"operation": "GET /h*", "rate": 0}]}}, "GET /x", None, True),
            ({"sampling_ratio": 1, "sampling": {"rules": [{"service": "other*", "rate": 0}]}}, "GET /x", None, True),
            ({"sampling": {"rules": [{"service": "ii?", "rate": 0}, {"rate": 1}]}}, "GET /x", None, False),
            ({"sampling_ratio": 0}, "GET /x", "01", True),
            ({"sampling_ratio": 1}, "GET /x", "00", False),
            ({"sampling_ratio": 1, "sampling": {"parent_based": False}}, "GET /x", "00", True),
        ],
    )
    def test_a_span_is_recorded_by_rule_parent_and_ratio(self, keys, name, parent, expected):
        config = msgspec.convert(keys, ObservabilityConfig)
        caller = parse_traceparent(f"00-{TRACE}-{1:016x}-{parent}") if parent else None
        assert sampled(config, name, TRACE, caller) is expected

    def test_a_hundredth_is_recorded_when_nothing_is_said(self):
        trace_ids = (f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}" for number in range(10_000))
        assert 80 <= sum(sampled(ObservabilityConfig(), "x", each) for each in trace_ids) <= 120

    def test_a_ratio_takes_its_share_of_trace_ids(self):
        config = ObservabilityConfig(sampling_ratio=0.25)
        taken = sum(sampled(config, "x", f"{number * 0x9E3779B97F4A7C15 % (1 << 64):032x}") for number in range(4000))
        assert 900 <= taken <= 1100

    def test_a_token_bucket_allows_its_rate(self):
        bucket = TokenBucket(2, 2)
        assert [bucket.allow(0), bucket.allow(0), bucket.allow(0), bucket.allow(0.5), bucket.allow(0.5)] == [
            True,
            True,
            False,
            True,
            False,
        ]

    async def test_the_engines_own_span_joins_its_callers_trace(self, observe, ask, clock):
        module = await observe(service_name="eng")
        context = module.sample("trigger a::b", f"00-{TRACE}-{7:016x}-01")
        assert context.traceparent == f"00-{TRACE}-{context.span_id}-01"
        module.record_span(
            context,
            "trigger a::b",
            start=clock.time(),
            end=clock.time() + 2,
            kind="server",
            attributes={"faas.invoked_name": "a::b"},
            error="boom",
        )
        (stored,) = (await ask("engine::traces::list"))["spans"]
        assert (stored["parent_span_id"], stored["service_name"], stored["status"]) == (f"{7:016x}", "eng", "error")
        assert stored["attributes"] == [["faas.invoked_name", "a::b"]]
        assert stored["end_time_unix_nano"] - stored["start_time_unix_nano"] == 2 * SECOND

    async def test_new_traces_are_held_to_the_rate_limit(self, observe, clock):
        limit = msgspec.convert({"rate_limit": {"max_traces_per_second": 2}}, Sampling)
        module = await observe(sampling_ratio=1.0, sampling=limit)
        assert [module.sample("x") is not None for _ in range(4)] == [True, True, False, False]
        assert module.sample("x", f"00-{TRACE}-{7:016x}-01") is not None
        await clock.advance(1)
        assert module.sample("x") is not None

    async def test_the_rules_are_told(self, observe, ask):
        await observe(
            sampling_ratio=0.5, sampling=msgspec.convert({"rules": [{"rate": 0.1, "service": "a"}]}, Sampling)
        )
        assert await ask("engine::sampling::rules") == {
            "sampling_ratio": 0.5,
            "default": 0.5,
            "rules": [{"rate": 0.1, "operation": None, "service": "a"}],
            "parent_based": True,
            "rate_limit": None,
        }


async def test_stopping_takes_functions_and_triggers_back_and_a_new_one_starts(bus, observe, join):
    first = await observe()
    await first.stop()
    await first.stop()
    with pytest.raises(BusError, match="not found"):
        await bus.call("engine::traces::list")
    worker = join()
    worker.send(type="registertrigger", id="t", trigger_type="log", function_id="a::b", config={})
    second = await observe()
    second.ingest(None, b"OTLP", frame(span()))
    assert await bus.call("engine::traces::list") is not None
