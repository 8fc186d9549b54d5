"""A clock that stands still until it is told, with workers in real processes: ``engine::clock::*``."""

import asyncio
import json
import re
import sys
from datetime import datetime

import pytest
import websockets
from agentos_engine import limits
from agentos_engine.app import Engine
from agentos_engine.builtins import clock as stepped_time
from agentos_engine.clock import SteppedClock
from agentos_engine.config import read_settings
from agentos_engine.server.websocket import Liveness

from tests.waiting import until

START = 1_800_000_000.0  # a whole minute
HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0

WORKER = """
import os, threading, time
from iii import InitOptions, register_worker

worker = register_worker(os.environ["III_URL"], InitOptions(worker_name="timed"))
seen = {}
release = threading.Event()

def note(name, value):
    seen.setdefault(name, []).append(value)

def tick(data):
    time.sleep(0.002)  # as work does
    note("tick", data["scheduled_time"])

def now(data=None):
    return worker.trigger({"function_id": "engine::clock::now", "payload": {}, "timeout_ms": 5000})["now"]

def fail(data):
    note("fail", now())
    raise ValueError("not yet" if len(seen["fail"]) < data["times"] else "never")

def flaky(data):
    note("flaky", now())
    if len(seen["flaky"]) < 3:
        raise ValueError("not yet")

def hang(data):
    release.wait(30)

def relays(data):
    try:
        worker.trigger({"function_id": "timed::hangs_with_deadline", "payload": {}, "timeout_ms": 60000})
    except Exception as error:
        note("relayed", [now(), str(error)])

def told(data):
    time.sleep(0.05)
    note("told", data)

def moves(data):
    return worker.trigger({"function_id": "engine::clock::advance", "payload": data, "timeout_ms": 60000})

for name, function in {"tick": tick, "flaky": flaky, "fail": fail, "hang": hang, "relays": relays, "told": told,
                       "moves": moves, "noon": lambda data: note("noon", data["scheduled_time"])}.items():
    worker.register_function("timed::" + name, function)
worker.register_function("timed::hangs_with_deadline", hang, metadata={"timeout_ms": 30000})
worker.register_function("timed::seen", lambda data: seen.get(data["name"], []))
worker.register_function("timed::release", lambda data: release.set())

def bind(kind, function, config):
    worker.register_trigger({"type": kind, "function_id": "timed::" + function, "config": config})

bind("cron", "tick", {"expression": "0 * * * * *"})
bind("cron", "noon", {"expression": "0 0 12 * * *"})
bind("subscribe", "told", {"topic": "news"})
worker.register_function("timed::ready", lambda data: True)
threading.Event().wait()
"""


class Timed:
    """An engine whose clock stands still, a worker in a process of its own, and a client of the test's."""

    def __init__(self, engine, ports) -> None:
        self.engine, self.ports = engine, ports
        self.clock = engine.bus.clock
        self.url = f"ws://127.0.0.1:{ports.workers}"
        self.process: asyncio.subprocess.Process

    async def begin(self, script) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), env={"III_URL": self.url, "OTEL_ENABLED": "false", "PATH": ""}
        )
        await until(lambda: self.engine.bus.registry.owners("timed::ready", "default"))

    async def call(self, function_id, data=None):
        """Call as a worker of its own does; return the result, or the error."""
        async with asyncio.timeout(90), websockets.connect(self.url) as socket:
            message = {"type": "invokefunction", "invocation_id": "i", "function_id": function_id, "data": data}
            await socket.send(json.dumps(message))
            while True:
                answer = json.loads(await socket.recv())
                if answer["type"] == "invocationresult":
                    return answer["error"] if answer.get("error") else answer.get("result")

    async def advance(self, seconds):
        return await self.call("engine::clock::advance", {"seconds": seconds})

    async def seen(self, name):
        return await self.call("timed::seen", {"name": name})


@pytest.fixture
async def timed(tmp_path, request):
    """Such an engine, started; a parameter is its liveness."""
    ports = ("--port", "0", "--http-port", "0", "--stream-port", "0", "--admin-port", "0")
    engine = Engine(read_settings([*ports], {}), clock=SteppedClock(START))
    engine.parts.liveness = getattr(request, "param", Liveness())
    running = Timed(engine, await engine.start())
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    try:
        await running.begin(script)
        yield running
    finally:
        if running.process.returncode is None:
            running.process.kill()
        await running.process.wait()
        await engine.stop()


def seconds(text):
    """An ISO time as seconds after the start."""
    return datetime.fromisoformat(text).timestamp() - START


async def test_an_hour_holds_sixty_cron_ticks_handled_in_their_order(timed):
    assert await timed.advance(HOUR) == {"now": "2027-01-15T09:00:00.000Z"}
    assert [seconds(text) for text in await timed.seen("tick")] == [60.0 * n for n in range(1, 61)]
    assert await timed.call("engine::clock::now") == {"now": "2027-01-15T09:00:00.000Z"}


async def test_the_clock_stands_still_until_it_is_told(timed):
    before = await timed.call("engine::clock::now")
    await asyncio.sleep(1.1)  # a second of real time, in which nothing may happen
    assert await timed.call("engine::clock::now") == before
    await timed.advance(59.999)
    assert await timed.seen("tick") == []
    await timed.advance(0.001)
    assert await timed.seen("tick") == ["2027-01-15T08:01:00+00:00"]


async def test_a_day_disconnects_nobody(timed):
    (worker,) = (each for each in timed.engine.bus.connections.values() if each.about.name == "timed")
    async with websockets.connect(timed.url) as idle:
        await idle.recv()
        assert "now" in await timed.advance(DAY)
        connections = timed.engine.bus.connections.values()
        assert worker in connections
        assert not worker.silent
        assert len([each for each in connections if each.about.name != "timed"]) == 1
        assert (await idle.ping()) is not None
    assert await timed.seen("noon") == ["2027-01-15T12:00:00+00:00"]
    assert len(await timed.seen("tick")) == 24 * 60


@pytest.mark.parametrize("timed", [Liveness(ping_interval=0.1, silent_after=0.3, silence_timeout=1.0)], indirect=True)
async def test_liveness_goes_by_real_time(timed):
    reader, writer = await asyncio.open_connection("127.0.0.1", timed.ports.workers)
    key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key)
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(10):
        await reader.read()  # it answers no ping, so the engine ends it although its clock stands still
    writer.close()


async def test_a_call_is_timed_out_when_the_clock_passes_its_deadline(timed):
    hanging = asyncio.create_task(timed.call("timed::hangs_with_deadline"))
    await until(lambda: timed.engine.bus.calls.invocations.in_flight)
    await timed.advance(29)
    assert not hanging.done()
    await timed.advance(1)
    error = await hanging
    assert (error["code"], error["message"]) == (
        "TIMEOUT",
        "Function timed::hangs_with_deadline did not answer within 30000 ms.",
    )


async def test_a_deadline_of_what_began_meanwhile_is_met_at_its_time(timed, monkeypatch):
    monkeypatch.setattr(stepped_time, "STEP_TIMEOUT", 0.5)
    await timed.call("engine::queue::enqueue", {"queue": "default", "function_id": "timed::relays", "data": {}})
    assert "now" in await timed.advance(45)
    ((when, error),) = await timed.seen("relayed")
    assert seconds(when) == 30.0
    assert "did not answer within 30000 ms" in error


async def test_a_job_is_tried_again_after_each_back_off(timed):
    job = {"queue": "default", "function_id": "timed::flaky", "data": {}}
    assert "messageReceiptId" in await timed.call("engine::queue::enqueue", job)
    await timed.advance(0.5)
    assert [seconds(when) for when in await timed.seen("flaky")] == [0.0]
    await timed.advance(HOUR)
    assert [seconds(when) for when in await timed.seen("flaky")] == [0.0, 1.0, 3.0]


async def test_a_job_that_always_fails_is_dead_after_its_attempts(timed):
    job = {"queue": "default", "function_id": "timed::fail", "data": {"times": 9}}
    await timed.call("engine::queue::enqueue", job)
    await timed.advance(HOUR)
    dead = await timed.call("engine::queue::dlq_messages", {"topic": "default"})
    assert [(each["retries"], each["failed_at"] - START) for each in dead] == [(3, 3.0)]


async def test_what_nobody_waits_for_is_done_too(timed):
    """A published message has no answer; the clock goes on only when its function has ended."""
    for number in range(3):
        await timed.call("publish", {"topic": "news", "data": {"n": number}})
    await timed.advance(1)
    assert sorted(each["n"] for each in await timed.seen("told")) == [0, 1, 2]


async def test_a_function_that_never_ends_is_named(timed, monkeypatch):
    monkeypatch.setattr(stepped_time, "STEP_TIMEOUT", 0.5)
    trigger = {"trigger_type": "cron", "function_id": "timed::hang", "config": {"expression": "30 0 8 * * *"}}
    await timed.call("engine::register_trigger", trigger)
    error = await timed.advance(1800)
    assert error["code"] == "clock_stuck"
    assert re.fullmatch(
        r"timed::hang: still running after \d s; the clock stands at 2027-01-15T08:00:30.000Z, 1770 s short",
        error["message"],
    )
    await timed.call("timed::release")
    assert await timed.advance(1770) == {"now": "2027-01-15T08:30:00.000Z"}


async def test_more_than_can_be_done_in_time_is_told(timed, monkeypatch):
    monkeypatch.setattr(stepped_time, "TIMEOUT", 0.3)
    error = await timed.advance(DAY)
    assert error["code"] == "clock_stuck"
    assert error["message"].startswith("too much came due to be done in 0.3 s; the clock stands at 2027-01-15T")
    assert error["message"].endswith(" s short: move it on in parts")


async def test_two_who_move_the_clock_take_turns(timed):
    own = timed.call("timed::moves", {"seconds": 60})
    answers = await asyncio.gather(timed.advance(limits.CALL_TIMEOUT + 60), own, timed.advance(60))
    assert len(await timed.seen("tick")) == 63
    assert max(each["now"] for each in answers) == "2027-01-15T09:03:00.000Z"


async def test_a_function_of_a_worker_may_move_the_clock(timed):
    """Its own call, and the clock's, have deadlines that the clock passes: they hold up and end neither."""
    assert await timed.call("timed::moves", {"seconds": 2 * limits.CALL_TIMEOUT}) == {"now": "2027-01-15T10:00:00.000Z"}


async def test_ten_years_without_anything_due_pass_at_once(timed):
    for job in list(timed.engine.modules["cron"]._jobs):
        timed.engine.modules["cron"].unbind(job)
    assert "now" in await timed.advance(10 * YEAR)


@pytest.mark.parametrize("data", [None, {}, {"seconds": 0}, {"seconds": -1}, {"seconds": 1e10}, {"seconds": "60"}])
async def test_a_bad_number_of_seconds_is_refused(timed, data):
    error = await timed.call("engine::clock::advance", data)
    assert error["code"] == "deserialization_error"


async def test_an_engine_with_the_machine_s_clock_has_no_such_functions(run_engine):
    running = await run_engine()
    client = await running.connect()
    assert (await client.ask("engine::clock::now"))["error"]["code"] == "function_not_found"
