"""Log entries by call and by telemetry, the triggers that they fire, and baggage."""

import json
import logging

import msgspec
import pytest
from agentos_engine.bus.errors import BusError
from agentos_engine.observability import logs as logs_file
from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.module import Observability
from agentos_engine.triggers import log as triggers_file

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
SECOND = 1_000_000_000


@pytest.fixture
async def observe(bus):
    """Starts the module on the bare bus: ``await observe(logs_max_count=…)``."""
    started = []

    async def observe(**keys) -> Observability:
        module = Observability(bus=bus, config=ObservabilityConfig(**({"logs_console_output": False} | keys)))
        started.append(module)
        await module.start()
        return module

    yield observe
    for module in started:
        await module.stop()
    await bus.close()


@pytest.fixture
def ask(bus):
    """Calls a function of the engine and returns its decoded result."""

    async def ask(function_id, payload=None, **options):
        result = await bus.call(function_id, msgspec.json.encode(payload), **options)
        return None if result is None else msgspec.json.decode(result)

    return ask


def frame(*records, service="shop"):
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    scope = {"scope": {"name": "iii.logger", "version": "1"}, "logRecords": list(records)}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}).encode()


def record(message="m", severity=9, **fields):
    return {"timeUnixNano": "5000000000", "severityNumber": severity, "body": {"stringValue": message}} | fields


def bind(peer, function_id="w::on_log", trigger_id="t", trigger_type="log", **config):
    peer.send(type="registerfunction", id=function_id)
    peer.send(type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, config=config)
    peer.take()


def answer(peer, call, **fields):
    peer.send(type="invocationresult", invocation_id=call["invocation_id"], function_id=call["function_id"], **fields)


class TestEntries:
    async def test_an_entry_by_call_is_stored_with_its_severity(self, observe, ask, clock):
        await observe()
        for level in ("trace", "debug", "info", "warn", "error"):
            assert await ask(f"engine::log::{level}", {"message": level, "data": {"a": 1}}) is None
        answer = await ask("engine::logs::list")
        assert [(each["body"], each["severity_number"], each["severity_text"]) for each in answer["logs"]] == [
            ("trace", 1, "TRACE"),
            ("debug", 5, "DEBUG"),
            ("info", 9, "INFO"),
            ("warn", 13, "WARN"),
            ("error", 17, "ERROR"),
        ]
        assert (answer["total"], answer["timestamp"]) == (5, int(clock.time() * 1000))
        now = int(clock.time() * 1e9)
        assert answer["logs"][0] == {
            "timestamp_unix_nano": now,
            "observed_timestamp_unix_nano": now,
            "severity_number": 1,
            "severity_text": "TRACE",
            "body": "trace",
            "attributes": {"a": 1},
            "trace_id": None,
            "span_id": None,
            "resource": {},
            "service_name": "engine",
            "instrumentation_scope_name": None,
            "instrumentation_scope_version": None,
        }

    async def test_a_call_gives_no_result_to_a_worker(self, observe, join):
        await observe()
        worker = join()
        worker.send(
            type="invokefunction", invocation_id="i", function_id="engine::log::info", data={"message": "hello"}
        )
        (result,) = worker.take("invocationresult")
        assert "result" not in result
        assert result.get("error") is None

    async def test_a_message_is_required(self, observe, ask):
        await observe()
        with pytest.raises(BusError) as caught:
            await ask("engine::log::info", {"data": 1})
        assert caught.value.code == "deserialization_error"
        assert caught.value.message == "Failed to deserialize input for engine::log::info: missing field `message`"

    async def test_ids_and_service_come_from_the_payload_or_else_from_the_caller(self, observe, ask, join, bus):
        await observe()
        await ask("engine::log::info", {"message": "a", "data": [1]}, traceparent=CALLER)
        ids = {"trace_id": "F" * 32, "span_id": "e" * 16, "service_name": "s"}
        await ask("engine::log::info", {"message": "b"} | ids, traceparent=CALLER)
        worker = join()
        worker.connection.about.name = "mailer"
        worker.send(type="invokefunction", function_id="engine::log::info", data={"message": "c", "trace_id": "odd"})
        rows = (await ask("engine::logs::list"))["logs"]
        assert [(row["trace_id"], row["span_id"], row["service_name"], row["attributes"]) for row in rows] == [
            (TRACE, "00f067aa0ba902b7", "engine", {"data": [1]}),
            ("f" * 32, "e" * 16, "s", {}),
            (None, None, "mailer", {}),
        ]

    async def test_an_entry_of_an_sdk_comes_back_in_the_stored_shape(self, observe, ask):
        module = await observe()
        data = {"kvlistValue": {"values": [{"key": "n", "value": {"intValue": "3"}}, {"key": "z", "value": {}}]}}
        sent = record(
            "hello",
            observedTimeUnixNano="6000000000",
            severityText="INFO",
            traceId=TRACE,
            spanId="00f067aa0ba902b7",
            attributes=[{"key": "service.name", "value": {"stringValue": ""}}, {"key": "log.data", "value": data}],
        )
        module.ingest(None, b"LOGS", frame(sent))
        (row,) = (await ask("engine::logs::list"))["logs"]
        assert row == {
            "timestamp_unix_nano": 5 * SECOND,
            "observed_timestamp_unix_nano": 6 * SECOND,
            "severity_number": 9,
            "severity_text": "INFO",
            "body": "hello",
            "attributes": {"service.name": "", "log.data": {"n": 3, "z": None}},
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "resource": {"service.name": "shop"},
            "service_name": "shop",
            "instrumentation_scope_name": "iii.logger",
            "instrumentation_scope_version": "1",
        }

    async def test_what_a_record_lacks_is_made_up_for(self, observe, ask, clock):
        module = await observe()
        body = {"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}}
        module.ingest(None, b"LOGS", frame({"severityText": "Warning", "body": body}, {"severityNumber": 21}, {}))
        first, second = (await ask("engine::logs::list"))["logs"]
        now = int(clock.time() * 1e9)
        assert (first["timestamp_unix_nano"], first["severity_number"], first["body"]) == (now, 13, '{"a":true}')
        assert (second["severity_text"], second["body"], second["attributes"]) == ("ERROR", "", {})
        assert module.ingested.dropped == 1

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, "abc"),
            ({"level": "ERROR"}, "c"),
            ({"level": "all"}, "abc"),
            ({"severity_min": 9}, "bc"),
            ({"severity_text": "debug"}, "a"),
            ({"service_name": "SHO"}, "abc"),
            ({"trace_id": TRACE.upper()}, "b"),
            ({"span_id": "0" * 15 + "1"}, "b"),
            ({"search": "GOLD"}, "c"),
            ({"search": "B"}, "b"),
            ({"start_time": 2000, "end_time": 2000}, "b"),
            ({"sort_order": "desc"}, "cba"),
            ({"offset": 1, "limit": 1}, "b"),
            ({"limit": 0}, ""),
        ],
    )
    async def test_entries_are_filtered_and_paged(self, observe, ask, filters, expected):
        module = await observe()
        gold = [{"key": "tier", "value": {"stringValue": "gold"}}]
        module.ingest(
            None,
            b"LOGS",
            frame(
                record("a", 5, timeUnixNano=1 * SECOND),
                record("b", 9, timeUnixNano=2 * SECOND, traceId=TRACE, spanId="0" * 15 + "1"),
                record("c", 17, timeUnixNano=3 * SECOND, attributes=gold),
            ),
        )
        answer = await ask("engine::logs::list", filters)
        assert "".join(row["body"] for row in answer["logs"]) == expected
        assert answer["query"] == filters

    async def test_entries_leave_by_number_age_and_size(self, observe, ask, clock, monkeypatch):
        module = await observe(logs_max_count=3, logs_retention_seconds=100)
        for message in "abcde":
            await ask("engine::log::info", {"message": message})
        assert [row["body"] for row in (await ask("engine::logs::list"))["logs"]] == ["c", "d", "e"]
        await clock.advance(60)
        await ask("engine::log::info", {"message": "f"})
        await clock.advance(60)
        assert [row["body"] for row in (await ask("engine::logs::list"))["logs"]] == ["f"]
        monkeypatch.setattr(logs_file, "MAX_BYTES", 10_000)
        for message in "gh":
            await ask("engine::log::info", {"message": message * 6000})
        assert [row["body"][0] for row in (await ask("engine::logs::list"))["logs"]] == ["h"]
        assert await ask("engine::logs::clear") == {"success": True, "cleared": 1}
        assert module.logs.bytes == 0

    async def test_a_share_of_entries_is_kept_and_all_fire(self, observe, ask, join, clock):
        await observe(logs_sampling_ratio=0.25)
        worker = join()
        bind(worker)
        for _ in range(40):
            await ask("engine::log::info", {"message": "m"})
        await clock.advance(0)
        assert (await ask("engine::logs::list"))["total"] == 10
        assert len(worker.take("invokefunction")) == 40

    async def test_entries_are_printed_when_wanted(self, observe, ask, caplog):
        await observe(logs_console_output=True)
        with caplog.at_level(logging.INFO, "agentos_engine.worker_log"):
            await ask("engine::log::warn", {"message": "100 %s of it", "data": {"a": 1}, "service_name": "s"})
            await ask("engine::log::debug", {"message": "quiet"})
        (line,) = [each for each in caplog.records if each.name == "agentos_engine.worker_log"]
        assert (line.levelname, line.getMessage(), line.service_name, line.data) == (
            "WARNING",
            "100 %s of it",
            "s",
            '{"a":1}',
        )

    async def test_without_logs_nothing_is_stored_or_fired(self, observe, ask, join, clock):
        module = await observe(logs_enabled=False)
        worker = join()
        bind(worker)
        assert await ask("engine::log::error", {"message": "m"}) is None
        module.ingest(None, b"LOGS", frame(record()))
        await clock.advance(1)
        assert worker.take("invokefunction") == []
        with pytest.raises(BusError, match="not kept in memory"):
            await ask("engine::logs::list")


class TestLogTrigger:
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({}, ["trace", "debug", "info", "warn", "error", "fatal"]),
            ({"level": "all"}, ["trace", "debug", "info", "warn", "error", "fatal"]),
            ({"level": None}, ["trace", "debug", "info", "warn", "error", "fatal"]),
            ({"level": "error"}, ["error", "fatal"]),
            ({"level": "Info"}, ["info"]),
        ],
    )
    async def test_it_fires_for_its_level(self, observe, ask, join, clock, config, expected):
        module = await observe()
        worker = join()
        bind(worker, **config)
        for level in ("trace", "debug", "info", "warn", "error"):
            await ask(f"engine::log::{level}", {"message": level})
        module.ingest(None, b"LOGS", frame(record("fatal", 21)))
        await clock.advance(0)
        assert [call["data"]["body"] for call in worker.take("invokefunction")] == expected

    async def test_the_payload_is_the_stored_entry(self, observe, ask, join, clock):
        await observe()
        worker = join()
        bind(worker)
        await ask("engine::log::error", {"message": "m", "data": {"a": "é"}}, traceparent=CALLER)
        await clock.advance(0)
        (call,) = worker.take("invokefunction")
        assert call["data"] == (await ask("engine::logs::list"))["logs"][0]

    async def test_a_level_that_there_is_not_is_refused(self, observe, join):
        await observe()
        worker = join()
        worker.send(type="registerfunction", id="w::f")
        worker.send(type="registertrigger", id="t", trigger_type="log", function_id="w::f", config={"level": "loud"})
        (refusal,) = worker.take("triggerregistrationresult")
        assert refusal["error"]["code"] == "trigger_registration_failed"
        assert "level 'loud' is not one of all, trace" in refusal["error"]["message"]

    async def test_an_unbound_trigger_fires_no_more(self, observe, ask, join, clock):
        await observe()
        worker = join()
        bind(worker)
        worker.send(type="unregistertrigger", id="t", trigger_type="log")
        await ask("engine::log::info", {"message": "m"})
        await clock.advance(0)
        assert worker.take("invokefunction") == []

    async def test_a_condition_that_says_false_keeps_it_from_firing(self, observe, ask, join, clock):
        await observe()
        worker = join()
        worker.send(type="registerfunction", id="w::check")
        bind(worker, condition_function_id="w::check")
        await ask("engine::log::info", {"message": "m"})
        await clock.advance(0)
        (check,) = worker.take("invokefunction")
        assert (check["function_id"], check["data"]["body"]) == ("w::check", "m")
        answer(worker, check, result=False)
        await clock.advance(0)
        assert worker.take("invokefunction") == []


class TestNoLoop:
    async def test_a_handler_that_logs_in_its_trace_is_not_called_again(self, observe, ask, join, clock):
        module = await observe()
        worker, logger = join(), join()
        bind(worker)
        await ask("engine::log::info", {"message": "first"})
        await clock.advance(0)
        (call,) = worker.take("invokefunction")
        inner = {"message": "by the handler"}
        # As an SDK does: the trace of the firing goes along with calls, and with entries in its telemetry.
        logger.send(type="invokefunction", function_id="engine::log::info", data=inner, traceparent=call["traceparent"])
        module.ingest(None, b"LOGS", frame(record("telemetry", traceId=call["traceparent"].split("-")[1])))
        answer(worker, call, result=None)
        await clock.advance(0)
        assert worker.take("invokefunction") == []
        assert [row["body"] for row in (await ask("engine::logs::list"))["logs"]] == [
            "first",
            "by the handler",
            "telemetry",
        ]

    async def test_a_handler_without_tracing_that_logs_before_it_answers_is_not_called_again(
        self, observe, ask, join, clock
    ):
        await observe()
        worker = join()
        bind(worker)
        await ask("engine::log::info", {"message": "first"})
        await clock.advance(0)
        (call,) = worker.take("invokefunction")
        worker.send(type="invokefunction", function_id="engine::log::info", data={"message": "inner"})
        await clock.advance(0)
        assert worker.take("invokefunction") == []
        answer(worker, call, result=None)
        await clock.advance(0)
        worker.send(type="invokefunction", function_id="engine::log::info", data={"message": "later"})
        await clock.advance(0)
        assert [each["data"]["body"] for each in worker.take("invokefunction")] == ["later"]

    async def test_others_hear_what_a_handler_logs_and_a_ring_of_handlers_ends(self, observe, ask, join, clock):
        await observe()
        workers = [join(), join(), join()]
        for number, worker in enumerate(workers):
            bind(worker, f"w{number}::on_log")
        await ask("engine::log::info", {"message": "0"})
        calls = 0
        for _ in range(20):
            await clock.advance(0)
            for worker in workers:
                for call in worker.take("invokefunction"):
                    calls += 1
                    worker.send(
                        type="invokefunction",
                        function_id="engine::log::info",
                        data={"message": "again"},
                        traceparent=call["traceparent"],
                    )
                    answer(worker, call, result=None)
        assert calls == 3 + 3 * 2 + 3 * 2  # every order in which each is passed once
        assert (await ask("engine::logs::list"))["total"] == 1 + calls

    async def test_a_worker_that_logs_after_its_answer_is_held_to_the_rate(self, observe, ask, join, clock):
        await observe(logs_max_count=10_000)
        worker = join()
        bind(worker)
        await ask("engine::log::info", {"message": "first"})
        calls = 0
        for _ in range(3000):
            await clock.advance(0)
            found = worker.take("invokefunction")
            if not found:
                break
            for call in found:
                calls += 1
                answer(worker, call, result=None)
                await clock.advance(0)
                worker.send(type="invokefunction", function_id="engine::log::info", data={"message": "again"})
        assert calls == triggers_file.MAX_RATE

    async def test_a_function_that_does_not_answer_gets_a_bounded_number_of_firings(
        self, observe, ask, join, clock, monkeypatch
    ):
        monkeypatch.setattr(triggers_file, "MAX_UNANSWERED", 5)
        await observe()
        worker = join()
        bind(worker)
        for _ in range(20):
            await ask("engine::log::info", {"message": "m"})
        await clock.advance(0)
        calls = worker.take("invokefunction")
        assert len(calls) == 5
        answer(worker, calls[0], error={"code": "x", "message": "no"})
        await clock.advance(0)
        await ask("engine::log::info", {"message": "m"})
        await clock.advance(0)
        assert len(worker.take("invokefunction")) == 1


class TestTraceTrigger:
    @staticmethod
    def spans(*ids, service="shop", code=1):
        spans = [{"traceId": trace, "spanId": "1" * 16, "name": "n", "status": {"code": code}} for trace in ids]
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode()

    async def test_it_tells_gathered_trace_ids_once(self, observe, join, clock):
        module = await observe()
        worker = join()
        bind(worker, trigger_type="trace")
        module.ingest(None, b"OTLP", self.spans("a" * 32, "a" * 32, "b" * 32))
        module.ingest(None, b"OTLP", self.spans("b" * 32, "c" * 32))
        await clock.advance(0.1)
        assert worker.take("invokefunction") == []
        await clock.advance(1)
        (call,) = worker.take("invokefunction")
        assert call["data"] == {"trace_ids": ["a" * 32, "b" * 32, "c" * 32]}

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({"service_name": "shop"}, ["a", "b"]),
            ({"status": "error"}, ["b", "c"]),
            ({"service_name": "shop", "status": "error"}, ["b"]),
            ({"service_name": "none"}, []),
        ],
    )
    async def test_it_fires_for_its_service_and_status(self, observe, join, clock, config, expected):
        module = await observe()
        worker = join()
        bind(worker, trigger_type="trace", **config)
        module.ingest(None, b"OTLP", self.spans("a" * 32))
        module.ingest(None, b"OTLP", self.spans("b" * 32, code=2))
        module.ingest(None, b"OTLP", self.spans("c" * 32, code=2, service="other"))
        await clock.advance(1)
        told = [each[0] for call in worker.take("invokefunction") for each in call["data"]["trace_ids"]]
        assert told == expected

    async def test_the_spans_of_its_own_function_do_not_fire_it(self, observe, join, clock):
        module = await observe()
        worker = join()
        bind(worker, trigger_type="trace")
        module.ingest(None, b"OTLP", self.spans("a" * 32))
        await clock.advance(1)
        (call,) = worker.take("invokefunction")
        own = call["traceparent"].split("-")[1]
        module.ingest(None, b"OTLP", self.spans(own))
        await clock.advance(1)
        assert worker.take("invokefunction") == []
        module.ingest(None, b"OTLP", self.spans(own, "b" * 32))
        await clock.advance(1)
        (call,) = worker.take("invokefunction")
        assert call["data"] == {"trace_ids": ["b" * 32]}

    async def test_a_status_that_there_is_not_is_refused(self, observe, join):
        await observe()
        worker = join()
        worker.send(type="registerfunction", id="w::f")
        worker.send(type="registertrigger", id="t", trigger_type="trace", function_id="w::f", config={"status": "odd"})
        (refusal,) = worker.take("triggerregistrationresult")
        assert refusal["error"]["code"] == "trigger_registration_failed"


class TestBaggage:
    HEADER = "user=ann%20b;secret=1, iii.session.id = s1 ,bad,=x,user2=%C3%A9"

    async def test_entries_of_the_caller_are_read(self, observe, ask):
        await observe()

        async def get(key):
            return await ask("engine::baggage::get", {"key": key}, baggage=self.HEADER)

        assert await get("user") == {"value": "ann b"}
        assert await get("iii.session.id") == {"value": "s1"}
        assert await get("nobody") == {"value": None}
        assert await ask("engine::baggage::get", {"key": "a"}) == {"value": None}
        assert await ask("engine::baggage::get_all", {}, baggage=self.HEADER) == {
            "baggage": {"user": "ann b", "iii.session.id": "s1", "user2": "é"}
        }
        assert await ask("engine::baggage::get_all") == {"baggage": {}}

    async def test_setting_answers_with_the_changed_baggage(self, observe, ask):
        await observe()
        changed = await ask("engine::baggage::set", {"key": "b", "value": "x,y;z é%"}, baggage="a=1;p=2,b=old")
        assert changed == {
            "success": True,
            "baggage": {"a": "1", "b": "x,y;z é%"},
            "header": "a=1;p=2,b=x%2Cy%3Bz%20%C3%A9%25",
        }
        assert await ask("engine::baggage::get", {"key": "b"}, baggage=changed["header"]) == {"value": "x,y;z é%"}

    @pytest.mark.parametrize(
        "entry", [{"key": "a b", "value": ""}, {"key": "", "value": ""}, {"key": "a", "value": "x" * 9000}]
    )
    async def test_what_no_header_can_hold_is_refused(self, observe, ask, entry):
        await observe()
        with pytest.raises(BusError) as caught:
            await ask("engine::baggage::set", entry)
        assert caught.value.code == "invalid_baggage"

    async def test_a_header_beyond_all_bounds_is_read_as_empty(self, observe, ask):
        await observe()
        assert await ask("engine::baggage::get_all", {}, baggage="a=1," * 5000) == {"baggage": {}}
