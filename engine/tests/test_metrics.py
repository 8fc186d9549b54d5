"""Metrics: what is counted, how it is told to Prometheus, and that neither grows without bound."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from agentos_engine.observability import call_metrics, engine_metrics
from agentos_engine.observability.call_metrics import CallMetrics
from agentos_engine.observability.exposition import Metric, render
from agentos_engine.observability.histogram import Histogram
from agentos_engine.observability.loop_lag import INTERVAL, WINDOW, LoopLag
from agentos_engine.observability.scrape import MAX_LABELS
from agentos_engine.queues.schedule import MAX_LOOKED_AT, Schedule
from agentos_engine.storage.queues import Waiting
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from tests.waiting import until

CONFIG = """
workers:
  - {name: iii-worker-manager, config: {port: 0, host: 127.0.0.1}}
  - {name: iii-http, config: {port: 0, host: 127.0.0.1}}
  - {name: iii-state}
  - {name: iii-stream, config: {port: 0, host: 127.0.0.1}}
  - {name: iii-observability}
  - {name: iii-queue, config: {queue_configs: {default: {max_retries: 3, backoff_ms: 10}}}}
"""
UGLY = 'back\\slash "quotes"\nnew line, ü 😀, {braces}, a=b'


def samples(text: str, read=read_prometheus) -> dict[tuple[str, tuple], float]:
    """What a Prometheus client reads: values by name and sorted labels. No sample may be there twice."""
    found = {}
    for family in read(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


class TestExposition:
    @pytest.mark.parametrize(("openmetrics", "read"), [(False, read_prometheus), (True, read_openmetrics)])
    def test_any_text_comes_through_in_help_and_labels(self, openmetrics, read):
        counter = Metric("a_things_total", "counter", UGLY, ("one", "two"))
        gauge = Metric("a_level", "gauge", "A level.")
        text = render([(counter, [((UGLY, "x"), 3), (("", UGLY), 4)]), (gauge, [((), 0.25)])], openmetrics)
        first, second = read(text)
        assert (first.type, first.documentation) == ("counter", UGLY)
        assert [(each.name, each.labels, each.value) for each in first.samples] == [
            ("a_things_total", {"one": UGLY, "two": "x"}, 3),
            ("a_things_total", {"one": "", "two": UGLY}, 4),
        ]
        assert (second.type, second.samples[0].value) == ("gauge", 0.25)

    @pytest.mark.parametrize(("openmetrics", "read"), [(False, read_prometheus), (True, read_openmetrics)])
    def test_a_histogram_counts_what_is_not_above_each_bound(self, openmetrics, read):
        histogram = Histogram((0.5, 1.0))
        for value in (0.5, 0.50001, 1.0, 7.0):
            histogram.observe(value)
        metric = Metric("a_seconds", "histogram", "Time.", ("f",))
        found = samples(render([(metric, [(("x",), histogram)])], openmetrics), read)
        assert found == {
            ("a_seconds_bucket", (("f", "x"), ("le", "0.5"))): 1,
            ("a_seconds_bucket", (("f", "x"), ("le", "1.0"))): 3,
            ("a_seconds_bucket", (("f", "x"), ("le", "+Inf"))): 4,
            ("a_seconds_sum", (("f", "x"),)): 9.00001,
            ("a_seconds_count", (("f", "x"),)): 4,
        }

    def test_labels_that_are_not_declared_are_refused(self):
        metric = Metric("a", "gauge", "A.", ("one",))
        with pytest.raises(ValueError, match="zip"):
            render([(metric, [((), 1)])])

    def test_what_utf8_cannot_say_does_not_spoil_the_rest(self):
        assert render([(Metric("a", "gauge", "A.", ("one",)), [(("\ud800",), 1)])]).encode().endswith(b'a{one="?"} 1\n')


class TestDeclarations:
    def test_names_say_kind_and_unit(self):
        names = [metric.name for metric in engine_metrics.METRICS]
        assert len(names) == len(set(names))
        for metric in engine_metrics.METRICS:
            assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
            assert not any(unit in metric.name for unit in ("_ms", "millis", "_kb", "_mb")), metric.name
            assert metric.help.endswith("."), metric.name


class TestCalls:
    def test_each_function_has_the_durations_of_its_own_calls(self):
        metrics, exact = CallMetrics(), Histogram()
        for number in range(2000):
            seconds = 0.00003 * 1.008**number
            metrics.called("a::f", seconds, number % 4 != 0)
            exact.observe(seconds)
        metrics.called("a::g", 0.02, True)
        first, second = metrics.functions()
        assert (first.function_id, first.ok, first.error) == ("a::f", 1500, 500)
        assert (first.answered.counts, first.answered.sum) == (exact.counts, pytest.approx(exact.sum))
        assert (second.function_id, sum(second.answered.counts), second.answered.sum) == ("a::g", 1, 0.02)

    def test_beyond_the_bound_functions_are_told_together_and_none_is_lost(self):
        metrics = CallMetrics()
        for number in range(call_metrics.MAX_FUNCTIONS * 3):
            metrics.called(f"f{number}", 0.001, number % 2 == 0)
        told = list(metrics.functions(10))
        assert [each.function_id for each in told] == [*(f"f{number}" for number in range(10)), call_metrics.OTHER]
        assert sum(sum(each.answered.counts) for each in told) == call_metrics.MAX_FUNCTIONS * 3
        assert told[-1].error == call_metrics.MAX_FUNCTIONS * 3 // 2 - 5
        assert next(iter(metrics.functions(0))).function_id == call_metrics.OTHER

    def test_an_endless_id_takes_no_room(self):
        metrics = CallMetrics()
        metrics.called("f" * 1000, 0.001, True)
        assert [each.function_id for each in metrics.functions()] == [call_metrics.OTHER]

    async def test_errors_are_told_by_code_and_by_who_reported_them(self, bus, join):
        worker, caller = join(), join()
        worker.send(type="registerfunction", id="a::f")
        for code in ("E_ONE", "E_ONE", "x" * 999, "", 'a"b'):
            caller.send(type="invokefunction", invocation_id="1", function_id="a::f", data=1)
            (call,) = worker.take("invokefunction")
            error = {"code": code, "message": "m"}
            worker.send(type="invocationresult", invocation_id=call["invocation_id"], function_id="a::f", error=error)
        caller.send(type="invokefunction", invocation_id="2", function_id="a::none", data=1)
        caller.send(type="invokefunction", function_id="a::none", data=1, action={"type": "void"})
        caller.send(type="invokefunction", invocation_id="3", function_id="a::f", data=1)
        worker.end()
        assert sorted(bus.calls.errors.by_code()) == [
            ("engine", "function_not_found", 2),
            ("engine", "invocation_stopped", 1),
            ("worker", "E_ONE", 2),
            ("worker", "other", 3),
        ]
        assert bus.calls.errors.total == 8

    def test_made_up_codes_are_bounded(self, bus):
        for number in range(1000):
            bus.calls.errors.count_foreign(json.dumps({"code": f"E{number}", "message": "m"}).encode())
        bus.calls.errors.count("TIMEOUT")
        told = bus.calls.errors.by_code()
        assert len(told) == 102
        assert ("engine", "TIMEOUT", 1) in told
        assert ("worker", "other", 900) in told


class Timer:
    """A clock of which the test says when it comes to what is due."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list = []
        self.machine = self

    def monotonic(self) -> float:
        return self.now

    def call_later(self, seconds, callback):
        self.due.append(callback)
        return SimpleNamespace(cancel=self.due.clear)

    def run(self, seconds: float) -> None:
        """Come to it so many seconds after it was asked for."""
        self.now += seconds
        self.due.pop()()


class TestLag:
    def test_it_is_how_much_later_the_loop_comes_to_what_is_due(self):
        timer = Timer()
        lag = LoopLag(timer)  # type: ignore[arg-type]
        lag.start()
        for late in (0.0, 0.02, 0.7):
            timer.run(INTERVAL + late)
        assert sum(lag.lags.counts) == 3
        assert lag.lags.sum == pytest.approx(0.72)
        assert lag.longest == pytest.approx(0.7)

    def test_the_longest_is_remembered_for_a_while_and_then_forgotten(self):
        timer = Timer()
        lag = LoopLag(timer)  # type: ignore[arg-type]
        lag.start()
        timer.run(INTERVAL + 0.5)
        for _ in range(int(WINDOW / INTERVAL) + 1):
            timer.run(INTERVAL)
        assert lag.longest == pytest.approx(0.5)
        for _ in range(int(WINDOW / INTERVAL) + 1):
            timer.run(INTERVAL)
        assert lag.longest == pytest.approx(0.0)

    def test_a_stall_that_lasts_counts_before_it_has_ended(self):
        timer = Timer()
        lag = LoopLag(timer)  # type: ignore[arg-type]
        lag.start()
        timer.now += INTERVAL + 3
        assert lag.longest == pytest.approx(3)
        lag.stop()
        assert timer.due == []


class TestOldestJob:
    def job(self, seq: int) -> Waiting:
        return Waiting(seq, "q", float(seq), float(seq), None, 0, 1)

    def test_it_is_the_one_put_in_first_whether_it_waits_runs_or_waits_again(self):
        schedule = Schedule(1)
        assert schedule.oldest is None
        for seq in (3, 4, 5):
            schedule.add(self.job(seq), 0.0, 0.0)
        assert schedule.oldest == self.job(3)
        (running,) = schedule.take(0.0)
        assert schedule.oldest == running == self.job(3)
        schedule.retry(running, 9.0, 0.0)
        assert schedule.oldest == self.job(3)
        (other,) = schedule.take(0.0)
        schedule.finish(other, 0.0)
        assert schedule.oldest == self.job(3)

    def test_a_long_queue_is_not_searched(self):
        schedule = Schedule(0)
        for seq in range(1, MAX_LOOKED_AT + 3):
            schedule.add(self.job(seq), 0.0, 0.0)
        assert schedule.oldest == self.job(1)


async def scrape(running, accept: str = "*/*") -> tuple[bytes, str]:
    """Head and body of what Prometheus gets."""
    request = f"GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n".encode()
    head, _, body = (await running.http(request, running.ports.admin)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return head, body.decode()


async def value(running, name: str, **labels: str) -> float | None:
    """One sample of a scrape; None when it is not there."""
    return samples((await scrape(running))[1]).get((name, tuple(sorted(labels.items()))))


class TestScrape:
    @pytest.fixture
    async def running(self, run_engine, tmp_path):
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG)
        return await run_engine("--config", str(config), "--data-dir", str(tmp_path))

    async def test_what_an_engine_tells_is_what_is_declared(self, running):
        told = [family.name for family in read_prometheus((await scrape(running))[1])]
        assert sorted(told) == sorted(metric.name.removesuffix("_total") for metric in engine_metrics.METRICS)
        assert len(told) == len(set(told))

    async def test_prometheus_gets_the_format_that_it_asks_for(self, running):
        head, text = await scrape(running)
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head.lower()
        wanted = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4"
        head, openmetrics = await scrape(running, wanted)
        assert b"content-type: application/openmetrics-text; version=1.0.0" in head.lower()
        assert samples(text).keys() == samples(openmetrics, read_openmetrics).keys()

    async def test_calls_are_counted_by_function(self, running):
        worker, caller = await running.connect(), await running.connect()
        await worker.send(type="registerfunction", id="a::f")
        await worker.settled()
        for failed in (False, True):
            await caller.send(type="invokefunction", invocation_id="1", function_id="a::f", data=1)
            call = await worker.receive("invokefunction")
            assert await value(running, "agentos_engine_calls_in_flight") == 1
            answer = {"error": {"code": "E", "message": "m"}} if failed else {"result": 1}
            ids = {"invocation_id": call["invocation_id"], "function_id": "a::f"}
            await worker.send(type="invocationresult", **ids, **answer)
            await caller.receive("invocationresult")
        text = samples((await scrape(running))[1])
        seconds = "agentos_engine_call_duration_seconds"
        assert text[f"{seconds}_count", (("function", "a::f"),)] == 2
        assert text[f"{seconds}_bucket", (("function", "a::f"), ("le", "+Inf"))] == 2
        assert 0 < text[f"{seconds}_sum", (("function", "a::f"),)] < 60
        assert text["agentos_engine_function_errors_total", (("function", "a::f"),)] == 1
        assert text["agentos_engine_call_errors_total", (("code", "E"), ("source", "worker"))] == 1
        assert text["agentos_engine_calls_total", ()] == 2
        assert text["agentos_engine_calls_in_flight", ()] == 0
        assert text["agentos_engine_connections", (("role", "anonymous"),)] == 2
        assert text["agentos_engine_connections", (("role", "operator"),)] == 0
        assert text["agentos_engine_functions", ()] == 1
        assert text["agentos_engine_received_bytes_total", ()] > 200
        assert text["agentos_engine_sent_bytes_total", ()] > 200

    async def test_requests_are_counted_by_their_status(self, running):
        worker = await running.connect()
        await worker.send(type="registerfunction", id="a::f")
        config = {"api_path": "/f", "http_method": "GET"}
        await worker.send(type="registertrigger", id="t", trigger_type="http", function_id="a::f", config=config)
        await worker.settled()
        for status in (200, 401, 429, 418):
            request = asyncio.ensure_future(running.http(b"GET /f HTTP/1.0\r\n\r\n"))
            call = await worker.receive("invokefunction")
            assert await value(running, "agentos_engine_http_requests_in_flight") == 1
            ids = {"invocation_id": call["invocation_id"], "function_id": "a::f"}
            await worker.send(type="invocationresult", **ids, result={"status_code": status, "body": "x"})
            await request
        await running.http(b"GET /none HTTP/1.0\r\n\r\n")
        await running.http(b"nonsense\r\n\r\n")
        _, writer = await asyncio.open_connection("127.0.0.1", running.ports.http)
        writer.write(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
        await worker.receive("invokefunction")
        writer.transport.abort()

        async def noticed() -> bool:
            return bool(await value(running, "agentos_engine_http_requests_total", status="499"))

        await until(noticed)
        text = samples((await scrape(running))[1])
        wanted = {"200": 1, "401": 1, "429": 1, "4xx": 1, "404": 1, "400": 1, "499": 1}
        counted = {
            labels[0][1]: count
            for (name, labels), count in text.items()
            if name == "agentos_engine_http_requests_total"
        }
        assert counted == wanted
        assert text["agentos_engine_http_request_duration_seconds_count", ()] == 5
        assert text["agentos_engine_http_routes", ()] == 1
        assert text["agentos_engine_triggers", (("type", "http"),)] == 1

    async def test_jobs_are_counted_by_queue(self, running):
        worker = await running.connect()
        await worker.send(type="registerfunction", id="a::job")
        action = {"type": "enqueue", "queue": "default"}
        await worker.send(type="invokefunction", invocation_id="q", function_id="a::job", data=1, action=action)
        call = await worker.receive("invokefunction")
        text = samples((await scrape(running))[1])
        queue = (("queue", "default"),)
        assert text["agentos_engine_queue_depth", queue] == text["agentos_engine_queue_running", queue] == 1
        assert text["agentos_engine_queue_oldest_job_age_seconds", queue] > 0
        assert text["agentos_engine_storage_commit_writes_count", ()] >= 1
        ids = {"invocation_id": call["invocation_id"], "function_id": "a::job"}
        await worker.send(type="invocationresult", **ids, error={"code": "E", "message": "m"})

        async def retried() -> bool:
            return await value(running, "agentos_engine_queue_retries_total", queue="default") == 1

        await until(retried)
        call = await worker.receive("invokefunction")
        ids = {"invocation_id": call["invocation_id"], "function_id": "a::job"}
        await worker.send(type="invocationresult", **ids, result=1)

        async def done() -> bool:
            return await value(running, "agentos_engine_queue_done_total", queue="default") == 1

        await until(done)
        assert await value(running, "agentos_engine_queue_depth", queue="default") == 0
        assert await value(running, "agentos_engine_queue_oldest_job_age_seconds", queue="default") == 0

    async def test_dead_letters_are_counted(self, running):
        worker = await running.connect()
        action = {"type": "enqueue", "queue": "default"}
        await worker.send(type="registerfunction", id="a::job")
        await worker.send(type="invokefunction", invocation_id="q", function_id="a::job", data=1, action=action)
        for _ in range(3):
            call = await worker.receive("invokefunction")
            ids = {"invocation_id": call["invocation_id"], "function_id": "a::job"}
            await worker.send(type="invocationresult", **ids, error={"code": "E", "message": "m"})

        async def dead() -> bool:
            return await value(running, "agentos_engine_queue_dead_letters", queue="default") == 1

        await until(dead)
        assert await value(running, "agentos_engine_queue_failed_total", queue="default") == 1
        message = (await running.engine.bus.call("engine::queue::dlq_messages", b'{"topic": "default"}')) or b""
        job = json.loads(message)[0]["id"]
        await running.engine.bus.call(
            "iii::queue::discard_message", json.dumps({"queue": "default", "message_id": job}).encode()
        )

        async def none() -> bool:
            return await value(running, "agentos_engine_queue_dead_letters", queue="default") == 0

        await until(none)

    async def test_a_disk_that_fails_is_counted(self, running):
        writer = running.engine._storage.writer
        writer._connection.execute("PRAGMA max_page_count = 1")
        before = await value(running, "agentos_engine_storage_write_errors_total")
        payload = json.dumps({"scope": "s", "key": "k", "value": "x" * 1_000_000}).encode()
        with pytest.raises(Exception, match="full"):
            await running.engine.bus.call("state::set", payload)
        assert await value(running, "agentos_engine_storage_write_errors_total") == before + 1

    async def test_ten_times_the_functions_and_trigger_types_are_no_longer_text(self, running):
        worker = await running.connect()
        sizes = []
        for count in (300, 3000):
            for number in range(count):
                running.engine.parts.metrics.called(f"a::f{number}", 0.001, True)
            for number in range(count // 2):
                binding = {"id": f"t{number}", "trigger_type": f"type{number}", "function_id": "a::f"}
                await worker.send(type="registertrigger", config={}, **binding)
            await worker.settled()
            found = samples((await scrape(running))[1])
            sizes.append(len(found))
        assert sizes[0] == sizes[1]
        by_type = {labels[0][1]: count for (name, labels), count in found.items() if name == "agentos_engine_triggers"}
        assert len(by_type) == MAX_LABELS + 1
        assert sum(by_type.values()) == 1500
        counts = [count for (name, _), count in found.items() if name == "agentos_engine_call_duration_seconds_count"]
        assert (len(counts), sum(counts)) == (201, 3300)

    async def test_a_flag_says_how_many_functions_are_told_apart(self, run_engine):
        running = await run_engine("--metrics-functions", "1")
        for number in range(3):
            running.engine.parts.metrics.called(f"a::f{number}", 0.001, True)
        found = samples((await scrape(running))[1])
        seconds = "agentos_engine_call_duration_seconds_count"
        assert {labels: count for (name, labels), count in found.items() if name == seconds} == {
            (("function", "a::f0"),): 1,
            (("function", "other"),): 2,
        }

    async def test_it_says_what_runs(self, running):
        assert await value(running, "agentos_engine_build_info", version="0.1.0", realm="local") == 1
        assert await value(running, "agentos_engine_ready") == 1
        assert await value(running, "process_resident_memory_bytes") > 1 << 20
