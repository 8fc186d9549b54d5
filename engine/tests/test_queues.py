"""Queues and durable topics on a bus without sockets, with workers that answer."""

import asyncio
import inspect
import itertools
import json
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from agentos_engine.builtins.queue import Queues
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.config import SettingsError
from agentos_engine.limits import Limits
from agentos_engine.queues import consumer, topics
from agentos_engine.storage.queues import Keep, MemoryQueueStore
from agentos_engine.storage.sqlite import SqliteStorage

HOUR = 3600.0


class Fault(Exception):
    """What a handler raises to answer with an error."""


class Worker(Link):
    """A worker that carries out the calls it gets. ``calls`` has the data of each, ``frames`` all that was sent."""

    def __init__(self, bus):
        self.bus = bus
        self.handlers = {}
        self.calls = []
        self.frames = []
        self.connection = bus.connect(self)

    def send(self, frame):
        """Take a message of the engine; calls are answered in a later turn of the loop."""
        message = json.loads(frame)
        self.frames.append(message)
        if message["type"] == "invokefunction":
            asyncio.get_running_loop().create_task(self._carry_out(message))

    async def _carry_out(self, message):
        self.calls.append(message["data"])
        answer = {"invocation_id": message.get("invocation_id"), "function_id": message["function_id"]}
        try:
            result = self.handlers[message["function_id"]](message["data"])
            answer["result"] = await result if inspect.isawaitable(result) else result
        except Fault as fault:
            answer["error"] = {"code": "broken", "message": str(fault)}
        if answer["invocation_id"] and not self.connection.closed:
            self.tell(type="invocationresult", **answer)

    def tell(self, **message):
        self.bus.receive(self.connection, json.dumps(message).encode())

    def serve(self, function_id, handler=lambda data: None):
        self.handlers[function_id] = handler
        self.tell(type="registerfunction", id=function_id)

    def subscribe(self, topic, function_id, trigger_id=None, metadata=None, **config):
        self.tell(
            type="registertrigger",
            id=trigger_id or f"{topic}-{function_id}",
            trigger_type="durable:subscriber",
            function_id=function_id,
            config={"topic": topic, **config},
            metadata=metadata,
        )

    def named(self, kind):
        """Messages of one type that the engine sent."""
        return [each for each in self.frames if each["type"] == kind]

    def end(self):
        self.bus.disconnect(self.connection)


@pytest.fixture
def worker(bus):
    """A connected worker."""
    return Worker(bus)


class LateStore:
    """A store that takes a few turns of the loop for everything, in the order in which it was asked."""

    def __init__(self):
        self._store = MemoryQueueStore()

    def __getattr__(self, name):
        async def late(*positional, **named):
            result = await getattr(self._store, name)(*positional, **named)
            for _ in range(4):
                await asyncio.sleep(0)
            return result

        return late


class WithoutThread:
    """Takes the place of a storage thread: the clock of these tests stands still while a thread would work."""

    def __init__(self, lane):
        self._lane, self._thread = lane, lane._batches
        lane._batches = self

    def put(self, batch):
        if batch is None:
            self._thread.put(None)
        else:
            self._lane._carry_out(batch)
            asyncio.get_running_loop().call_soon(self._lane._answer, batch)

    def get(self):
        return self._thread.get()


@asynccontextmanager
async def sqlite():
    """A store on the disk."""
    with TemporaryDirectory() as folder:
        storage = await SqliteStorage.open(Path(folder))
        for lane in (storage._writer, storage._reader):
            WithoutThread(lane)
        yield storage.queues
        await storage.close()


@pytest.fixture(params=[MemoryQueueStore, LateStore, sqlite])
async def store(request):
    """The store, which outlives the module."""
    made = request.param()
    if request.param is not sqlite:
        yield made
        return
    async with made as store:
        yield store


@pytest.fixture
async def start(bus, store):
    """Starts the module with queue_configs; each one is stopped at the end."""
    started = []

    async def start(drain_timeout=0.0, **queue_configs):
        started.append(Queues(bus=bus, store=store, queue_configs=queue_configs, drain_timeout=drain_timeout))
        await started[-1].start()
        return started[-1]

    yield start
    for each in started:
        await each.stop()


@pytest.fixture
def ask(bus):
    """Calls one of the engine's functions."""

    async def ask(function_id, /, **data):
        result = await bus.call(function_id, json.dumps(data).encode())
        return None if result is None else json.loads(result)

    return ask


@pytest.fixture
def enqueue(bus):
    """Puts a call into a queue as the enqueue action does."""

    def enqueue(queue, function_id, data=None, **more):
        return bus.calls.enqueue(queue, function_id, json.dumps(data).encode(), **more)

    return enqueue


def always_failing(data):
    raise Fault("no")


async def refused(awaitable):
    with pytest.raises(BusError) as caught:
        await awaitable
    return caught.value


class TestNamedQueues:
    async def test_a_job_is_acknowledged_with_a_receipt_and_delivered_once_as_it_was(
        self, start, worker, enqueue, clock
    ):
        await start()
        worker.serve("a::f")
        receipt = await enqueue("default", "a::f", {"n": 1}, metadata=b'{"m": 2}', traceparent="00-t", baggage="k=v")
        await clock.advance(HOUR)
        (call,) = worker.named("invokefunction")
        assert len(receipt) == 36
        assert (call["data"], call["metadata"], call["traceparent"]) == ({"n": 1}, {"m": 2}, "00-t")
        assert "k=v" in call["baggage"]

    async def test_the_enqueue_action_of_a_worker_is_answered_with_the_receipt(self, start, worker, clock):
        await start()
        worker.serve("a::f")
        action = {"type": "enqueue", "queue": "default"}
        worker.tell(type="invokefunction", invocation_id="i", function_id="a::f", data={"n": 1}, action=action)
        await clock.advance(0)
        (answer,) = worker.named("invocationresult")
        assert list(answer["result"]) == ["messageReceiptId"]
        assert worker.calls == [{"n": 1}]

    async def test_an_unknown_queue_is_an_enqueue_error(self, start, enqueue):
        await start(orders={})
        error = await refused(enqueue("nope", "a::f"))
        assert (error.code, error.message[:22]) == ("enqueue_error", "Queue 'nope' not found")

    @pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 1), (4, 4), (None, 3)])
    async def test_max_retries_is_the_total_number_of_attempts(
        self, start, worker, enqueue, ask, clock, max_retries, attempts
    ):
        await start(orders={"max_retries": max_retries, "backoff_ms": 50})
        worker.serve("a::f", always_failing)
        await enqueue("orders", "a::f", {"exact": ["payload", 1.5]})
        await clock.advance(HOUR)
        assert worker.calls == [{"exact": ["payload", 1.5]}] * attempts
        (letter,) = await ask("engine::queue::dlq_messages", topic="orders")
        assert letter["payload"] == {"exact": ["payload", 1.5]}
        assert (letter["error"], letter["retries"], letter["size_bytes"]) == ("broken: no", attempts, 27)
        assert isinstance(letter["failed_at"], int)

    async def test_gaps_between_attempts_double(self, start, worker, enqueue, clock):
        await start(orders={"max_retries": 4, "backoff_ms": 50})
        times = []

        def fail(data):
            times.append(clock.monotonic())
            raise Fault("no")

        worker.serve("a::f", fail)
        await enqueue("orders", "a::f")
        await clock.advance(HOUR)
        gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(times)]
        assert gaps == [0.05, 0.1, 0.2]

    async def test_a_job_that_succeeds_at_last_is_done(self, start, worker, enqueue, ask, clock):
        await start(orders={"max_retries": 3})
        worker.serve("a::f", lambda data: always_failing(data) if len(worker.calls) < 3 else "fine")
        await enqueue("orders", "a::f")
        await clock.advance(HOUR)
        assert len(worker.calls) == 3
        stats = await ask("engine::queue::topic_stats", topic="orders")
        assert (stats["depth"], stats["dlq_depth"]) == (0, 0)

    async def test_a_missing_function_is_a_failed_attempt_and_holds_up_no_other(
        self, start, worker, enqueue, ask, clock
    ):
        await start(orders={"max_retries": 2, "concurrency": 1})
        worker.serve("a::f")
        await enqueue("orders", "a::missing", 1)
        await enqueue("orders", "a::f", 2)
        await clock.advance(0.5)
        assert worker.calls == [2]
        await clock.advance(HOUR)
        (letter,) = await ask("engine::queue::dlq_messages", topic="orders")
        assert letter["error"].startswith("function_not_found: Function a::missing not found in namespace default.")

    async def test_a_job_whose_worker_goes_is_tried_again_on_another(self, start, bus, worker, enqueue, clock):
        await start()
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        await enqueue("default", "a::f", 1)
        await clock.advance(0)
        worker.end()
        other = Worker(bus)
        other.serve("a::f")
        await clock.advance(2)
        assert (worker.calls, other.calls) == ([1], [1])

    async def test_no_more_jobs_run_at_a_time_than_concurrency_says(self, start, worker, enqueue, clock):
        await start(orders={"concurrency": 3})
        gates = [asyncio.Event() for _ in range(5)]
        worker.serve("a::f", lambda number: gates[number].wait())
        for number in range(5):
            await enqueue("orders", "a::f", number)
        await clock.advance(0)
        assert worker.calls == [0, 1, 2]
        gates[1].set()
        await clock.advance(0)
        assert worker.calls == [0, 1, 2, 3]
        for gate in gates:
            gate.set()

    async def test_two_thousand_jobs_are_carried_out_each_once(self, start, worker, enqueue):
        await start(orders={"concurrency": 50})
        ended, over = [], asyncio.Event()

        async def carry_out(number):
            await asyncio.sleep(0)
            ended.append(number)
            if len(ended) == 2000:
                over.set()

        worker.serve("a::f", carry_out)
        receipts = await asyncio.gather(*(enqueue("orders", "a::f", number) for number in range(2000)))
        async with asyncio.timeout(30):
            await over.wait()
        await asyncio.sleep(0)
        assert len(set(receipts)) == 2000
        assert sorted(worker.calls) == sorted(ended) == list(range(2000))

    @pytest.mark.parametrize(
        ("bound", "order"),
        [({"max_priority": 9}, [0, 9, 99, 5, 1, "high", None]), ({}, [0, 99, 9, 5, 1, "high", None])],
    )
    async def test_jobs_of_higher_priority_run_first(self, start, worker, enqueue, clock, bound, order):
        await start(orders={"concurrency": 1, "priority_field": "p", **bound})
        gate = asyncio.Event()
        worker.serve("a::f", lambda data: gate.wait())
        for priority in (0, 1, "high", 5, 9, 99, None):
            await enqueue("orders", "a::f", {"p": priority})
        gate.set()
        await clock.advance(0)
        assert [each["p"] for each in worker.calls] == order

    async def test_a_full_queue_refuses_with_a_code_and_takes_jobs_again_later(
        self, bus, start, worker, enqueue, clock, monkeypatch
    ):
        monkeypatch.setattr(bus.bounds, "limits", Limits(queue_jobs=2))
        await start()
        gate = asyncio.Event()
        worker.serve("a::f", lambda data: gate.wait())
        await enqueue("default", "a::f")
        await enqueue("default", "a::f")
        assert (await refused(enqueue("default", "a::f"))).code == "queue_full"
        gate.set()
        await clock.advance(0)
        await enqueue("default", "a::f")

    async def test_the_bytes_of_all_queues_are_bounded_together(self, bus, start, worker, enqueue, clock, monkeypatch):
        monkeypatch.setattr(bus.bounds, "limits", Limits(job_bytes=1300))
        await start(one={}, two={}, three={})
        gate = asyncio.Event()
        worker.serve("a::f", lambda data: gate.wait())
        await enqueue("one", "a::f", "x" * 600)
        assert (await refused(enqueue("one", "a::f", "x" * 200))).code == "queue_full", (
            "it may hold what is free, no more"
        )
        await enqueue("two", "a::f", "x" * 400)
        assert (await refused(enqueue("three", "a::f", "x" * 400))).code == "queue_full"
        assert bus.bounds.hit == {"job_bytes": 2}
        gate.set()
        await clock.advance(0)
        await enqueue("two", "a::f", "x" * 600)

    async def test_dead_letters_are_bounded_and_the_oldest_go_first(
        self, start, worker, enqueue, ask, clock, monkeypatch
    ):
        monkeypatch.setattr(consumer, "KEEP_DEAD", Keep(count=2, size=1 << 20))
        await start(orders={"max_retries": 1})
        worker.serve("a::f", always_failing)
        for number in range(3):
            await enqueue("orders", "a::f", number)
            await clock.advance(1)
        assert [each["payload"] for each in await ask("engine::queue::dlq_messages", topic="orders")] == [1, 2]

    async def test_the_version_of_the_worker_is_recorded_with_the_job(self, start, worker, enqueue, bus, store, clock):
        await start()
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        await enqueue("default", "a::f")
        await enqueue("default", "a::missing")
        jobs = [await store.get(each.seq) for each in await store.waiting()]
        assert [each.worker_version for each in jobs] == [bus.version_of("a::f"), ""]

    @pytest.mark.parametrize(
        ("config", "key"),
        [
            ({"type": "lifo"}, "type"),
            ({"type": "fifo"}, "message_group_field"),
            ({"max_retries": -1}, "max_retries"),
            ({"max_retries": "many"}, "max_retries"),
            ({"concurrency": 0}, "concurrency"),
            ({"backoff_ms": 10**12}, "backoff_ms"),
            ([], "queue_configs.orders"),
            ({"priority_field": "p", "max_priority": 1000}, "max_priority"),
        ],
    )
    def test_a_wrong_config_is_refused_with_the_place_where_it_is(self, bus, store, config, key):
        with pytest.raises(SettingsError, match=r"queue_configs\.orders") as caught:
            Queues(bus=bus, store=store, queue_configs={"orders": config})
        assert key in str(caught.value)

    @pytest.mark.parametrize("name", ["", 5])
    def test_a_queue_without_a_proper_name_is_refused(self, bus, store, name):
        with pytest.raises(SettingsError, match="queue_configs"):
            Queues(bus=bus, store=store, queue_configs={name: {}})


class TestFifo:
    @pytest.fixture
    async def started(self, start):
        """A fifo queue with groups."""
        await start(orders={"type": "fifo", "message_group_field": "g", "max_retries": 3, "backoff_ms": 1000})

    @pytest.mark.parametrize("data", [{}, {"g": None}, None, [1], "text"])
    async def test_a_payload_without_a_group_is_an_enqueue_error(self, started, enqueue, data):
        error = await refused(enqueue("orders", "a::f", data))
        assert error.code == "enqueue_error"
        assert "'g'" in error.message

    async def test_each_group_is_in_order_under_load_and_failures(self, started, worker, enqueue, clock):
        done, failed = [], set()

        async def sometimes(data):
            await asyncio.sleep(0)
            if data["n"] % 7 == 3 and data["n"] not in failed:
                failed.add(data["n"])
                raise Fault("the first time")
            done.append((data["g"], data["n"]))

        worker.serve("a::f", sometimes)
        await asyncio.gather(*(enqueue("orders", "a::f", {"g": n % 5, "n": n}) for n in range(200)))
        await clock.advance(HOUR)
        assert len(failed) == 29
        for group in range(5):
            assert [n for g, n in done if g == group] == list(range(group, 200, 5))

    async def test_a_failing_job_holds_up_its_own_group_only_until_it_is_dead(self, started, worker, enqueue, clock):
        worker.serve("a::f", lambda data: always_failing(data) if data["n"] == 1 else None)
        for group, number in (("a", 1), ("a", 2), ("b", 3)):
            await enqueue("orders", "a::f", {"g": group, "n": number})
        await clock.advance(0.5)
        assert [each["n"] for each in worker.calls] == [1, 3]
        await clock.advance(HOUR)
        assert [each["n"] for each in worker.calls] == [1, 3, 1, 1, 2]

    async def test_groups_of_different_types_are_different(self, started, worker, enqueue, clock):
        gate = asyncio.Event()
        worker.serve("a::f", lambda data: gate.wait())
        for group in (1, "1", 1, True, {"x": 1, "y": 2}, {"y": 2, "x": 1}):
            await enqueue("orders", "a::f", {"g": group})
        await clock.advance(0)
        assert len(worker.calls) == 4
        gate.set()


class TestIdempotency:
    async def test_the_same_key_within_a_day_is_one_job_and_one_receipt(self, start, worker, enqueue, clock):
        await start(other={})
        worker.serve("a::f")
        first = await enqueue("default", "a::f", 1, idempotency_key="k")
        await clock.advance(23 * HOUR)
        assert await enqueue("default", "a::f", 2, idempotency_key="k") == first
        assert await enqueue("default", "a::f", 3) != first
        assert await enqueue("other", "a::f", 4, idempotency_key="k") != first
        await clock.advance(2 * HOUR)
        assert await enqueue("default", "a::f", 5, idempotency_key="k") != first
        await clock.advance(0)
        assert worker.calls == [1, 3, 4, 5]

    async def test_a_refused_duplicate_takes_no_room(self, bus, start, worker, enqueue, clock, monkeypatch):
        monkeypatch.setattr(bus.bounds, "limits", Limits(queue_jobs=2))
        await start()
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        for _ in range(5):
            await enqueue("default", "a::f", idempotency_key="k")
        await enqueue("default", "a::f")

    async def test_a_receipt_of_ones_own_is_a_key_too(self, start, worker, ask, clock):
        await start()
        worker.serve("a::f")
        call = {"queue": "default", "function_id": "a::f", "data": 1, "messageReceiptId": "mine"}
        for _ in range(2):
            assert await ask("engine::queue::enqueue", **call) == {"messageReceiptId": "mine"}
        await clock.advance(0)
        assert worker.calls == [1]

    async def test_the_function_passes_metadata_and_trace_on(self, start, worker, ask, clock):
        await start()
        worker.serve("a::f")
        more = {"metadata": {"m": 1}, "traceparent": "00-t", "baggage": "k=v"}
        await ask("engine::queue::enqueue", queue="default", function_id="a::f", data=1, **more)
        await clock.advance(0)
        (call,) = worker.named("invokefunction")
        assert (call["metadata"], call["traceparent"]) == ({"m": 1}, "00-t")
        assert "k=v" in call["baggage"]

    @pytest.mark.parametrize("key", ["", "x" * 1025])
    async def test_a_key_of_no_or_too_great_length_is_refused(self, start, enqueue, key):
        await start()
        assert (await refused(enqueue("default", "a::f", idempotency_key=key))).code == "enqueue_error"


class TestDeadLetters:
    @pytest.fixture
    async def dead(self, start, worker, enqueue, clock):
        """Three dead letters, 0 to 2, in a queue whose function works from now on."""
        await start(orders={"max_retries": 1})
        worker.serve("a::f", always_failing)
        for number in range(3):
            await enqueue("orders", "a::f", number)
            await clock.advance(1)
        worker.serve("a::f")
        worker.calls.clear()

    async def test_they_are_counted_and_listed_by_pages(self, dead, ask):
        assert await ask("engine::queue::dlq_topics") == [
            {"topic": "orders", "broker_type": "builtin", "message_count": 3}
        ]
        page = await ask("engine::queue::dlq_messages", topic="orders", offset=1, limit=1)
        assert [each["payload"] for each in page] == [1]
        assert set(page[0]) == {"id", "payload", "error", "failed_at", "retries", "size_bytes"}
        assert await ask("engine::queue::dlq_messages", topic="other") == []

    @pytest.mark.parametrize("key", ["queue", "topic"])
    async def test_redriving_returns_the_count_and_delivers_again_with_all_attempts(
        self, dead, ask, worker, clock, key
    ):
        assert await ask("iii::queue::redrive", **{key: "orders"}) == {"queue": "orders", "redriven": 3}
        await clock.advance(0)
        assert worker.calls == [0, 1, 2]
        assert await ask("iii::queue::redrive", queue="orders") == {"queue": "orders", "redriven": 0}
        assert await ask("engine::queue::dlq_topics") == []

    async def test_a_job_that_fails_again_after_a_redrive_is_dead_again(self, dead, ask, worker, clock):
        worker.serve("a::f", always_failing)
        await ask("iii::queue::redrive", queue="orders")
        await clock.advance(HOUR)
        letters = await ask("engine::queue::dlq_messages", topic="orders")
        assert [(each["payload"], each["retries"]) for each in letters] == [(0, 1), (1, 1), (2, 1)]

    async def test_one_message_can_be_redriven_or_discarded(self, dead, ask, worker, clock):
        ids = [each["id"] for each in await ask("engine::queue::dlq_messages", topic="orders")]
        told = {"queue": "orders", "message_id": ids[1]}
        assert await ask("iii::queue::redrive_message", **told) == {**told, "redriven": 1}
        assert await ask("iii::queue::redrive_message", **told) == {**told, "redriven": 0}
        told = {"queue": "orders", "message_id": ids[0]}
        assert (await ask("iii::queue::discard_message", **told))["redriven"] == 1
        await clock.advance(0)
        assert worker.calls == [1]
        assert [each["payload"] for each in await ask("engine::queue::dlq_messages", topic="orders")] == [2]

    @pytest.mark.parametrize(
        ("function_id", "data", "code"),
        [
            ("iii::queue::redrive", {"queue": ""}, "queue_not_set"),
            ("iii::queue::redrive", {}, "queue_not_set"),
            ("iii::queue::redrive_message", {"queue": "", "message_id": "m"}, "queue_not_set"),
            ("iii::queue::redrive_message", {"queue": "q", "message_id": ""}, "message_id_not_set"),
            ("iii::queue::discard_message", {"queue": "q"}, "message_id_not_set"),
            ("engine::queue::topic_stats", {"topic": ""}, "topic_required"),
            ("engine::queue::dlq_messages", {}, "topic_required"),
            ("engine::queue::dlq_messages", {"topic": "q", "offset": -1}, "deserialization_error"),
            ("engine::queue::enqueue", {"queue": "default"}, "deserialization_error"),
            ("engine::queue::enqueue", {"queue": "default", "function_id": ""}, "enqueue_error"),
            ("iii::durable::publish", {"topic": ""}, "topic_not_set"),
            ("iii::durable::publish", {"data": 1}, "deserialization_error"),
        ],
    )
    async def test_bad_input_has_its_code(self, start, ask, function_id, data, code):
        await start()
        assert (await refused(ask(function_id, **data))).code == code


class TestRestart:
    async def test_stopping_and_starting_in_the_middle_loses_nothing(self, start, bus, worker, enqueue, ask, clock):
        queues = await start(orders={"concurrency": 5})
        gate = asyncio.Event()
        done = []

        async def carry_out(number):
            await gate.wait()
            done.append(number)

        worker.serve("a::f", carry_out)
        for number in range(20):
            await enqueue("orders", "a::f", number)
        await clock.advance(0)
        await queues.stop()
        await queues.stop()
        gate.set()
        await start(orders={"concurrency": 5})
        await clock.advance(HOUR)
        assert set(done) == set(range(20))
        stats = await ask("engine::queue::topic_stats", topic="orders")
        assert (stats["depth"], stats["dlq_depth"]) == (0, 0)

    async def test_a_running_job_may_end_while_the_queues_stop_and_is_not_run_again(
        self, start, worker, enqueue, clock
    ):
        queues = await start(drain_timeout=10.0)
        gate = asyncio.Event()
        worker.serve("a::f", lambda data: gate.wait())
        await enqueue("default", "a::f", 1)
        await enqueue("default", "a::g", 2)
        await clock.advance(0)
        stopping = asyncio.ensure_future(queues.stop())
        await clock.advance(0)
        gate.set()
        await stopping
        await start()
        await clock.advance(HOUR)
        assert worker.calls == [1]

    async def test_what_the_shutdown_cuts_off_is_no_attempt(self, start, bus, worker, enqueue, ask, clock):
        queues = await start(drain_timeout=10.0, orders={"max_retries": 1})
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        await enqueue("orders", "a::f", 1)
        await clock.advance(0)
        stopping = asyncio.ensure_future(queues.stop())
        await clock.advance(0)
        bus.stop_calls()
        await stopping
        worker.serve("a::f")
        await start(orders={"max_retries": 1})
        await clock.advance(0)
        assert worker.calls == [1, 1]
        assert await ask("engine::queue::dlq_topics") == []

    async def test_a_job_from_before_waits_for_its_worker_to_come_back_and_that_is_no_attempt(
        self, start, worker, enqueue, ask, clock
    ):
        queues = await start(orders={"max_retries": 1, "concurrency": 1})
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        await enqueue("orders", "a::f", 1)
        await enqueue("orders", "a::g", 2)
        await clock.advance(0)
        await queues.stop()
        worker.tell(type="unregisterfunction", id="a::f")
        await start(orders={"max_retries": 1, "concurrency": 1})
        await enqueue("orders", "a::late", 3)  # nobody was there for it when it was put in either
        await clock.advance(50)
        assert [each["payload"] for each in await ask("engine::queue::dlq_messages", topic="orders")] == [3]
        worker.serve("a::f")
        await clock.advance(2)
        assert worker.calls == [1, 1]
        await clock.advance(20)
        assert [each["payload"] for each in await ask("engine::queue::dlq_messages", topic="orders")] == [3, 2]

    async def test_no_job_is_started_once_the_queues_stop(self, start, worker, enqueue, clock):
        worker.serve("a::f", lambda number: asyncio.get_running_loop().create_future())
        for turns in range(12):
            queues = await start(drain_timeout=0.02)
            await enqueue("default", "a::f", turns)
            for _ in range(turns):
                await asyncio.sleep(0)
            started = len(worker.named("invokefunction"))
            await queues.stop()
            assert len(worker.named("invokefunction")) == started

    async def test_attempts_and_the_time_of_the_next_one_survive(self, start, worker, enqueue, ask, clock):
        queues = await start(orders={"max_retries": 2, "backoff_ms": 60_000})
        worker.serve("a::f", always_failing)
        await enqueue("orders", "a::f", 1)
        await clock.advance(10)
        await queues.stop()
        await start(orders={"max_retries": 2, "backoff_ms": 60_000})
        await clock.advance(49)
        assert len(worker.calls) == 1
        await clock.advance(2)
        assert len(worker.calls) == 2
        assert len(await ask("engine::queue::dlq_messages", topic="orders")) == 1

    async def test_jobs_of_a_queue_that_is_not_configured_any_more_stay(self, start, worker, enqueue, ask, clock):
        queues = await start(orders={})
        await enqueue("orders", "a::f", 1)
        await queues.stop()
        queues = await start()
        worker.serve("a::f")
        await clock.advance(HOUR)
        assert worker.calls == []
        assert (await ask("engine::queue::topic_stats", topic="orders"))["depth"] == 1
        assert (await refused(enqueue("orders", "a::f"))).code == "enqueue_error"
        await queues.stop()
        await start(orders={})
        await clock.advance(HOUR)
        assert worker.calls == [1]

    async def test_a_stopped_module_takes_everything_back(self, start, bus, worker, ask):
        queues = await start()
        await queues.stop()
        assert bus.calls.enqueue is None
        assert (await refused(ask("iii::durable::publish", topic="t"))).code == "function_not_found"

    async def test_an_answer_that_nobody_waits_for_any_more_does_not_undo_an_enqueue(
        self, start, bus, worker, enqueue, clock
    ):
        await start()
        worker.serve("a::f")
        other = Worker(bus)
        call = {"queue": "default", "function_id": "a::f", "data": 1}
        other.tell(type="invokefunction", invocation_id="i", function_id="engine::queue::enqueue", data=call)
        await asyncio.sleep(0)  # one turn of the loop: the handler has begun
        other.end()
        await clock.advance(1)
        assert worker.calls == [1]


class TestStore:
    async def test_a_failing_store_is_told_and_the_job_runs_again(self, bus, worker, clock, monkeypatch, caplog):
        store = MemoryQueueStore()
        queues = Queues(bus=bus, store=store)
        await queues.start()
        worker.serve("a::f")
        done = store.done
        failures = [OSError("disk gone")]

        async def failing(seq):
            if failures:
                raise failures.pop()
            await done(seq)

        monkeypatch.setattr(store, "done", failing)
        await bus.calls.enqueue("default", "a::f", b"1")
        await clock.advance(HOUR)
        assert worker.calls == [1, 1]
        assert await store.waiting() == []
        assert "could not be recorded" in caplog.text
        await queues.stop()


class TestTopics:
    @pytest.fixture(autouse=True)
    async def started(self, start):
        """The module."""
        self.queues = await start()

    async def test_every_function_gets_each_message_itself_and_one_of_its_replicas_does(self, bus, worker, ask, clock):
        replica = Worker(bus)
        for each in (worker, replica):
            each.serve("a::f")
            each.subscribe("t", "a::f")
        worker.serve("a::g")
        worker.subscribe("t", "a::g", metadata={"m": 1})
        for number in range(10):
            assert await ask("iii::durable::publish", topic="t", data={"n": number}) is None
        await ask("iii::durable::publish", topic="other", data=0)
        await clock.advance(1)
        calls = [each for each in (*worker.frames, *replica.frames) if each["type"] == "invokefunction"]
        for function_id in ("a::f", "a::g"):
            got = [each["data"]["n"] for each in calls if each["function_id"] == function_id]
            assert sorted(got) == list(range(10))
        assert {each["function_id"] for each in calls if each.get("metadata") == {"m": 1}} == {"a::g"}

    @pytest.mark.parametrize(
        ("queue_config", "attempts"), [({}, 3), ({"maxRetries": 0}, 1), ({"maxRetries": 4}, 5), (None, 3)]
    )
    async def test_maxRetries_counts_attempts_after_the_first(self, worker, ask, clock, queue_config, attempts):
        worker.serve("a::f", always_failing)
        worker.subscribe("t", "a::f", queue_config=queue_config)
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(HOUR)
        assert len(worker.calls) == attempts

    @pytest.mark.parametrize(("kind", "gaps"), [("exponential", [0.5, 1.0, 2.0]), ("fixed", [0.5, 0.5, 0.5])])
    async def test_backoff_follows_the_subscriber(self, worker, ask, clock, kind, gaps):
        times = []

        def fail(data):
            times.append(clock.monotonic())
            raise Fault("no")

        worker.serve("a::f", fail)
        worker.subscribe("t", "a::f", queue_config={"maxRetries": 3, "backoffType": kind, "backoffDelayMs": 500})
        await ask("iii::durable::publish", topic="t")
        await clock.advance(HOUR)
        assert [later - earlier for earlier, later in itertools.pairwise(times)] == gaps

    async def test_a_fifo_subscriber_gets_messages_one_by_one_in_order_through_retries(self, worker, ask, clock):
        worker.serve("a::f", lambda data: always_failing(data) if len(worker.calls) == 2 else None)
        worker.subscribe("t", "a::f", queue_config={"type": "fifo"})
        for number in range(4):
            await ask("iii::durable::publish", topic="t", data=number)
        await clock.advance(HOUR)
        assert worker.calls == [0, 1, 1, 2, 3]

    async def test_delaySeconds_holds_messages_back(self, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f", queue_config={"delaySeconds": 30})
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(29)
        assert worker.calls == []
        await clock.advance(2)
        assert worker.calls == [1]

    async def test_an_attempt_that_exceeds_visibilityTimeout_has_failed(self, bus, worker, ask, clock):
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        worker.subscribe("t", "a::f", queue_config={"visibilityTimeout": 20, "maxRetries": 0})
        await ask("iii::durable::publish", topic="t")
        await clock.advance(21)
        bus.calls.expire()
        await clock.advance(0)
        (letter,) = await ask("engine::queue::dlq_messages", topic="t")
        assert letter["error"].startswith("TIMEOUT: ")

    async def test_a_message_that_the_condition_refuses_is_done_without_delivery_or_retry(self, worker, ask, clock):
        worker.serve("a::f")
        worker.serve("a::condition", lambda data: data["n"] > 1)
        worker.subscribe("t", "a::f", condition_function_id="a::condition")
        for number in (1, 2):
            await ask("iii::durable::publish", topic="t", data={"n": number})
        await clock.advance(HOUR)
        got = [(each["function_id"], each["data"]["n"]) for each in worker.named("invokefunction")]
        assert sorted(got) == [("a::condition", 1), ("a::condition", 2), ("a::f", 2)]
        assert (await ask("engine::queue::topic_stats", topic="t"))["depth"] == 0

    async def test_a_condition_that_fails_is_a_failed_attempt(self, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f", condition_function_id="a::missing")
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(1)
        worker.serve("a::missing", lambda data: True)
        await clock.advance(HOUR)
        assert worker.calls == [1, 1]

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"topic": ""},
            {"topic": 5},
            {"topic": "t", "queue_config": {"maxRetries": -1}},
            {"topic": "t", "queue_config": {"type": "lifo"}},
            {"topic": "t", "queue_config": []},
            {"topic": "x" * 2000},
        ],
    )
    async def test_a_bad_config_is_refused(self, worker, config):
        worker.tell(
            type="registertrigger", id="i", trigger_type="durable:subscriber", function_id="a::f", config=config
        )
        (answer,) = worker.named("triggerregistrationresult")
        assert answer["error"]["code"] == "trigger_registration_failed"

    async def test_queue_instead_of_topic_is_pointed_out(self, worker):
        config = {"queue": "orders"}
        worker.tell(
            type="registertrigger", id="i", trigger_type="durable:subscriber", function_id="a::f", config=config
        )
        (answer,) = worker.named("triggerregistrationresult")
        assert "it has queue" in answer["error"]["message"]

    async def test_messages_before_the_first_subscribers_go_to_all_of_them_in_order(self, worker, ask, clock):
        for number in range(3):
            await ask("iii::durable::publish", topic="t", data=number)
        assert (await ask("engine::queue::topic_stats", topic="t"))["depth"] == 3
        for function_id in ("a::f", "a::g"):
            worker.serve(function_id)
            worker.subscribe("t", function_id, queue_config={"type": "fifo"})
        await ask("iii::durable::publish", topic="t", data=3)
        await clock.advance(5)
        await ask("iii::durable::publish", topic="t", data=4)
        await clock.advance(5)
        for function_id in ("a::f", "a::g"):
            got = [each["data"] for each in worker.named("invokefunction") if each["function_id"] == function_id]
            assert got == [0, 1, 2, 3, 4]

    async def test_messages_that_come_while_kept_ones_are_handed_out_do_not_overtake_them(self, worker, bus, clock):
        def publish(number):
            data = {"topic": "t", "data": number}
            worker.tell(type="invokefunction", function_id="iii::durable::publish", data=data)

        for number in range(50):
            publish(number)
        await clock.advance(0)
        over = asyncio.Event()
        worker.serve("a::f", lambda number: over.set() if number == 999 else None)
        worker.subscribe("t", "a::f", queue_config={"type": "fifo"})
        handing_out = asyncio.ensure_future(clock.advance(5))
        for number in range(50, 1000):
            publish(number)
            await asyncio.sleep(0)
        await handing_out
        async with asyncio.timeout(30):
            await over.wait()
        assert worker.calls == list(range(1000))

    async def test_a_message_that_is_being_kept_just_as_somebody_subscribes_is_delivered(self, worker, clock):
        worker.serve("a::f")
        for turns in range(12):
            data = {"topic": f"t{turns}", "data": turns}
            worker.tell(type="invokefunction", function_id="iii::durable::publish", data=data)
            for _ in range(turns):
                await asyncio.sleep(0)
            worker.subscribe(f"t{turns}", "a::f")
        await clock.advance(5)
        assert sorted(worker.calls) == list(range(12))

    async def test_a_job_that_did_not_reach_its_worker_before_that_went_was_no_attempt(self, bus, worker, ask, clock):
        keeper = Worker(bus)
        not_reached = 0
        for turns in range(24):
            name = f"t{turns}"
            going = Worker(bus)
            going.serve(name, lambda data: asyncio.get_running_loop().create_future())
            going.subscribe(name, name, queue_config={"maxRetries": 0})
            data = {"topic": name, "data": turns}
            keeper.tell(type="invokefunction", function_id="iii::durable::publish", data=data)
            for _ in range(turns):
                await asyncio.sleep(0)
            going.end()
            reached = bool(going.named("invokefunction"))
            not_reached += not reached
            await clock.advance(1)
            keeper.serve(name)
            keeper.subscribe(name, name, queue_config={"maxRetries": 0})
            await clock.advance(1)
            assert (turns in keeper.calls) is not reached
        assert 0 < not_reached < 24

    async def test_messages_kept_for_nobody_are_bounded_in_number_and_time(self, worker, ask, clock, monkeypatch):
        monkeypatch.setattr(topics, "MAX_RETAINED", 3)
        for number in range(5):
            await ask("iii::durable::publish", topic="t", data=number)
        await ask("iii::durable::publish", topic="old", data=0)
        await clock.advance(topics.RETAINED_FOR - HOUR)
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await clock.advance(2 * HOUR)
        worker.subscribe("old", "a::f")
        await clock.advance(HOUR)
        assert worker.calls == [2, 3, 4]
        assert self.queues._runner.room.used == 0

    async def test_a_subscriber_that_comes_back_finds_what_was_published_meanwhile(self, bus, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(60)
        worker.end()
        await ask("iii::durable::publish", topic="t", data=2)
        await clock.advance(HOUR)
        again = Worker(bus)
        again.serve("a::f")
        again.subscribe("t", "a::f")
        await clock.advance(1)
        assert (worker.calls, again.calls) == ([1], [2])

    async def test_so_does_one_that_comes_back_after_the_engine_was_restarted(self, start, bus, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await clock.advance(0)
        await self.queues.stop()
        worker.end()
        await start()
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(HOUR)
        again = Worker(bus)
        again.serve("a::f")
        again.subscribe("t", "a::f")
        await clock.advance(0)
        assert again.calls == [1]

    async def test_a_restart_of_the_queues_alone_keeps_subscribers_and_kept_messages(self, start, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await ask("iii::durable::publish", topic="kept", data=1)
        await self.queues.stop()
        await start()
        await ask("iii::durable::publish", topic="t", data=2)
        worker.subscribe("kept", "a::f")
        await clock.advance(5)
        assert sorted(worker.calls) == [1, 2]

    async def test_what_is_kept_for_an_absent_subscriber_is_bounded_and_holds_up_no_publisher(
        self, worker, ask, clock, monkeypatch, caplog
    ):
        monkeypatch.setattr(topics, "MAX_ABSENT", 2)
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await clock.advance(60)
        worker.tell(type="unregistertrigger", id="t-a::f")
        for number in range(4):
            await ask("iii::durable::publish", topic="t", data=number)
        assert caplog.text.count("absent subscriber") == 1
        worker.subscribe("t", "a::f")
        await clock.advance(0)
        assert worker.calls == [0, 1]
        await ask("iii::durable::publish", topic="t", data=4)
        await clock.advance(0)
        assert worker.calls == [0, 1, 4]

    async def test_a_subscriber_that_stays_away_is_forgotten_with_what_waits(self, bus, worker, ask, clock, store):
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        await clock.advance(60)
        worker.end()
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(topics.ABSENT_FOR + HOUR)
        assert await store.subscriptions() == []
        assert await store.waiting() == []
        assert self.queues._runner.room.used == 0
        again = Worker(bus)
        again.serve("a::f")
        again.subscribe("t", "a::f")
        await ask("iii::durable::publish", topic="t", data=2)
        await clock.advance(1)
        assert again.calls == [2]

    async def test_one_that_leaves_as_soon_as_it_came_is_forgotten_soon(self, bus, worker, clock, store):
        worker.serve("a::f")
        worker.subscribe("t", "a::f")
        bus.settle(worker.connection, "team")  # a worker tells its iii namespace after it has registered
        await clock.advance(HOUR)
        assert [each.namespace for each in await store.subscriptions()] == ["team"]

    async def test_a_function_of_an_iii_namespace_is_called_there(self, bus, worker, ask, clock):
        worker.serve("a::f")
        worker.subscribe("t", "a::f", queue_config={"maxRetries": 0})
        bus.settle(worker.connection, "team")
        await clock.advance(HOUR)
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(1)
        assert worker.calls == [1]

    async def test_the_same_key_publishes_once(self, worker, ask, clock):
        worker.serve("a::f")
        await ask("iii::durable::publish", topic="t", data=1, idempotency_key="k")
        worker.subscribe("t", "a::f")
        await clock.advance(5)
        await ask("iii::durable::publish", topic="t", data=2, idempotency_key="k")
        await ask("iii::durable::publish", topic="u", data=3, idempotency_key="k")
        await clock.advance(5)
        assert worker.calls == [1]

    async def test_a_full_queue_of_a_present_subscriber_refuses_the_message_for_all(
        self, bus, worker, ask, clock, monkeypatch
    ):
        monkeypatch.setattr(bus.bounds, "limits", Limits(queue_jobs=1))
        worker.serve("a::ok")
        worker.serve("a::stuck", lambda data: asyncio.get_running_loop().create_future())
        for function_id in ("a::ok", "a::stuck"):
            worker.subscribe("t", function_id)
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(0)
        assert (await refused(ask("iii::durable::publish", topic="t", data=2))).code == "queue_full"
        await clock.advance(HOUR)
        assert worker.calls == [1, 1]

    async def test_subscriptions_are_bounded_and_forgotten_ones_count_no_more(self, worker, clock, monkeypatch):
        monkeypatch.setattr(topics, "MAX_TOPICS", 1)
        for name in "ab":
            worker.serve(name)
            worker.subscribe("t", name)
        (answer,) = worker.named("triggerregistrationresult")
        assert answer["error"]["code"] == "limit_exceeded"
        worker.tell(type="unregistertrigger", id="t-a")
        await clock.advance(HOUR)
        worker.subscribe("t", "b")
        assert len(worker.named("triggerregistrationresult")) == 1

    async def test_topics_are_bounded(self, ask, monkeypatch):
        monkeypatch.setattr(topics, "MAX_TOPICS", 2)
        for name in ("a", "b", "a"):
            await ask("iii::durable::publish", topic=name)
        assert (await refused(ask("iii::durable::publish", topic="c"))).code == "limit_exceeded"

    async def test_dead_letters_of_a_topic_are_listed_and_redriven_by_topic_or_subscriber(self, worker, ask, clock):
        for function_id in ("a::f", "a::g"):
            worker.serve(function_id, always_failing)
            worker.subscribe("t", function_id, queue_config={"maxRetries": 0})
        await ask("iii::durable::publish", topic="t", data={"n": 1})
        await clock.advance(1)
        assert await ask("engine::queue::dlq_topics") == [{"topic": "t", "broker_type": "builtin", "message_count": 2}]
        letters = await ask("engine::queue::dlq_messages", topic="t")
        assert [each["payload"] for each in letters] == [{"n": 1}, {"n": 1}]
        assert len({each["id"] for each in letters}) == 2
        for function_id in ("a::f", "a::g"):
            worker.serve(function_id)
        worker.calls.clear()
        assert await ask("iii::queue::redrive", queue="t::a::f") == {"queue": "t::a::f", "redriven": 1}
        assert await ask("iii::queue::redrive", topic="t") == {"queue": "t", "redriven": 1}
        await clock.advance(1)
        assert len(worker.calls) == 2

    async def test_a_topic_and_a_queue_of_the_same_name_share_listings_and_nothing_else(
        self, worker, ask, enqueue, clock
    ):
        worker.serve("a::f", always_failing)
        worker.subscribe("default", "a::f", queue_config={"maxRetries": 0})
        await ask("iii::durable::publish", topic="default", data="topic")
        await enqueue("default", "a::f", "queue")
        await clock.advance(HOUR)
        letters = await ask("engine::queue::dlq_messages", topic="default")
        assert sorted(each["payload"] for each in letters) == ["queue", "topic"]
        assert (await ask("iii::queue::redrive", queue="default"))["redriven"] == 2

    async def test_topics_and_queues_are_listed_with_their_numbers(self, bus, worker, ask, clock):
        worker.serve("a::f", lambda data: asyncio.get_running_loop().create_future())
        worker.subscribe("t", "a::f", "one")
        worker.subscribe("t", "a::f", "two")
        await ask("iii::durable::publish", topic="t", data=1)
        await clock.advance(0)
        assert await ask("engine::queue::list_topics") == [
            {"name": "default", "broker_type": "builtin", "subscriber_count": 1},
            {"name": "t", "broker_type": "builtin", "subscriber_count": 2},
        ]
        assert await ask("engine::queue::topic_stats", topic="t") == {
            "depth": 1,
            "consumer_count": 2,
            "dlq_depth": 0,
            "config": None,
        }
        assert (await ask("engine::queue::topic_stats", topic="default"))["config"]["max_attempts"] == 3

    async def test_names_that_hold_separators_are_never_mistaken_for_one_another(self, worker, ask, clock):
        worker.serve("b::c")
        worker.serve("c")
        worker.subscribe("a", "b::c")
        worker.subscribe("a::b", "c")
        await ask("iii::durable::publish", topic="a::b", data="for c")
        await clock.advance(1)
        assert [(each["function_id"], each["data"]) for each in worker.named("invokefunction")] == [("c", "for c")]
