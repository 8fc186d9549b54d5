"""Telemetry passed on to a collector."""

import asyncio
import json
import logging
from types import SimpleNamespace

import pytest
from agentos_engine.observability import exporter as exporter_file
from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.module import Observability

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """Stands for the HTTP client: gathers what is posted, and fails while told to."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, dict]] = []
        self.failing = False
        self.tries = 0
        self.status = 200

    async def post(self, url: str, body: bytes) -> SimpleNamespace:
        self.tries += 1
        if self.failing:
            raise OSError("refused")
        if self.status == 200:
            self.posted.append((url, json.loads(body)))
        return SimpleNamespace(status=self.status)


@pytest.fixture
def collector():
    return Collector()


@pytest.fixture
async def export(bus, collector):
    """Starts the module with a collector: ``await export(exporter="both")``."""
    started = []

    async def export(**keys) -> Observability:
        config = ObservabilityConfig(
            **({"exporter": "both", "logs_console_output": False, "sampling_ratio": 1.0} | keys)
        )
        module = Observability(bus=bus, config=config, post_json=collector.post)
        started.append(module)
        await module.start()
        return module

    yield export
    for module in started:
        await module.stop()
    await bus.close()


def spans(*numbers, size=1):
    sent = [{"traceId": TRACE, "spanId": f"{number:016x}", "name": "n" * size} for number in numbers]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": sent}]}], "extra": 1}).encode()


def logs(message):
    records = [{"body": {"stringValue": message}}]
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).encode()


def sent_spans(collector):
    return [
        int(span["spanId"], 16)
        for url, body in collector.posted
        if url.endswith("/v1/traces")
        for group in body["resourceSpans"]
        for part in group["scopeSpans"]
        for span in part["spans"]
    ]


async def test_frames_are_gathered_into_one_request_for_each_signal(export, collector, clock):
    module = await export(logs_exporter="both", metrics_exporter="otlp", endpoint="http://collector:4318/")
    module.ingest(None, b"OTLP", spans(1, 2))
    module.ingest(None, b"OTLP", spans(3))
    module.ingest(None, b"LOGS", logs("hello"))
    module.ingest(None, b"MTRC", b'{"resourceMetrics": [{"scopeMetrics": []}]}')
    assert collector.posted == []
    await clock.advance(1)
    urls = [url for url, _ in collector.posted]
    assert urls == [f"http://collector:4318/v1/{each}" for each in ("traces", "logs", "metrics")]
    assert len(collector.posted[0][1]["resourceSpans"]) == 2
    assert sent_spans(collector) == [1, 2, 3]
    assert (module.exporter.exported, module.exporter.dropped, len(module.spans)) == (4, 0, 3)
    assert module.exporter.queued == 0


async def test_only_what_is_to_be_exported_is(export, collector, clock):
    module = await export(exporter="memory", logs_exporter="otlp")
    module.ingest(None, b"OTLP", spans(1))
    module.ingest(None, b"LOGS", logs("hello"))
    module.ingest(None, b"MTRC", b'{"resourceMetrics": []}')
    await clock.advance(5)
    assert [url for url, _ in collector.posted] == ["http://localhost:4318/v1/logs"]


async def test_what_is_no_telemetry_is_not_passed_on(export, collector, clock):
    module = await export()
    module.ingest(None, b"OTLP", b'{"resourceSpans": 1}')
    module.ingest(None, b"OTLP", b"nonsense")
    await clock.advance(5)
    assert collector.posted == []


async def test_entries_by_call_and_the_engines_own_spans_are_exported(export, collector, clock, bus):
    module = await export(logs_exporter="both", service_name="eng")
    await bus.call("engine::log::warn", b'{"message":"m","data":{"a":[1,{"b":null}]},"service_name":"s"}')
    module.record_span(module.sample("cron_trigger"), "cron_trigger", start=1, end=2)
    await clock.advance(1)
    bodies = {url.rpartition("/")[2]: body for url, body in collector.posted}
    (group,) = bodies["logs"]["resourceLogs"]
    assert group["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "s"}}]
    (record,) = group["scopeLogs"][0]["logRecords"]
    assert (record["severityNumber"], record["body"]) == (13, {"stringValue": "m"})
    assert record["attributes"] == [
        {
            "key": "a",
            "value": {
                "arrayValue": {"values": [{"intValue": "1"}, {"kvlistValue": {"values": [{"key": "b", "value": {}}]}}]}
            },
        }
    ]
    (group,) = bodies["traces"]["resourceSpans"]
    assert group["scopeSpans"][0]["spans"][0]["endTimeUnixNano"] == "2000000000"


async def test_a_collector_that_comes_back_gets_what_waited(export, collector, clock, bus):
    module = await export()
    collector.failing = True
    module.ingest(None, b"OTLP", spans(1))
    await clock.advance(2)
    assert "refused" in module.exporter.problem
    health = json.loads(await bus.call("engine::health::check"))
    assert (health["status"], health["components"]["otel"]["status"]) == ("degraded", "degraded")
    module.ingest(None, b"OTLP", spans(2))
    collector.failing = False
    await clock.advance(10)
    assert sent_spans(collector) == [1, 2]
    assert module.exporter.problem is None
    module.ingest(None, b"OTLP", spans(3))
    await clock.advance(1)
    assert sent_spans(collector) == [1, 2, 3]


async def test_a_batch_that_the_collector_does_not_accept_is_sent_again(export, collector, clock):
    module = await export()
    collector.status = 503
    module.ingest(None, b"OTLP", spans(1))
    await clock.advance(1)
    assert "HTTP status 503" in module.exporter.problem
    collector.status = 200
    await clock.advance(5)
    assert (sent_spans(collector), module.exporter.dropped) == ([1], 0)


async def test_a_batch_that_is_refused_again_and_again_is_given_up(export, collector, clock):
    module = await export()
    collector.failing = True
    module.ingest(None, b"OTLP", spans(1))
    await clock.advance(120)
    assert (collector.tries, module.exporter.dropped) == (exporter_file.MAX_ATTEMPTS, 1)
    collector.failing = False
    module.ingest(None, b"OTLP", spans(2))
    await clock.advance(1)
    assert sent_spans(collector) == [2]


async def test_what_waits_is_bounded_and_the_oldest_is_dropped(export, collector, clock, monkeypatch):
    monkeypatch.setattr(exporter_file, "MAX_QUEUED", 5000)
    module = await export()
    for number in range(1, 11):
        module.ingest(None, b"OTLP", spans(number, size=900))
    assert module.exporter.queued <= 5000
    await clock.advance(1)
    assert sent_spans(collector) == list(range(10 - len(sent_spans(collector)) + 1, 11))
    assert module.exporter.dropped == 10 - len(sent_spans(collector)) > 0


async def test_a_request_has_a_bounded_size(export, collector, clock, monkeypatch):
    monkeypatch.setattr(exporter_file, "MAX_BATCH", 3000)
    module = await export()
    for number in range(1, 8):
        module.ingest(None, b"OTLP", spans(number, size=900))
    module.ingest(None, b"OTLP", spans(8, size=9000))
    await clock.advance(1)
    assert [len(body["resourceSpans"]) for _, body in collector.posted] == [2, 2, 2, 1, 1]
    assert sent_spans(collector) == list(range(1, 9))


async def test_stopping_sends_what_waits(export, collector):
    module = await export()
    module.ingest(None, b"OTLP", spans(1))
    await module.stop()
    assert sent_spans(collector) == [1]
    module.ingest(None, b"OTLP", spans(2))
    assert module.exporter.queued == 0


async def test_stopping_does_not_wait_for_a_collector_that_fails(export, collector):
    module = await export()
    collector.failing = True
    module.ingest(None, b"OTLP", spans(1))
    await module.stop()
    assert (collector.tries, module.exporter.dropped) == (1, 1)


async def test_stopping_does_not_wait_for_the_next_try(export, collector, clock):
    module = await export()
    collector.failing = True
    module.ingest(None, b"OTLP", spans(1))
    await clock.advance(1)
    module.ingest(None, b"OTLP", spans(2))
    async with asyncio.timeout(5):
        await module.stop()
    assert (collector.tries, module.exporter.dropped) == (1, 2)


async def test_the_port_of_grpc_is_told_apart_and_exports_nothing(export, collector, clock, caplog, bus):
    with caplog.at_level(logging.WARNING):
        module = await export(endpoint="http://collector:4317")
    (line,) = [each.getMessage() for each in caplog.records if "4317" in each.getMessage()]
    assert line.startswith("otlp_grpc_not_supported: ")
    assert "4318" in line
    module.ingest(None, b"OTLP", spans(1))
    await clock.advance(5)
    assert collector.tries == 0
    health = json.loads(await bus.call("engine::health::check"))
    assert health["components"]["otel"]["details"]["problem"] == line
