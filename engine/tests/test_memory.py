"""Memory is given back: read buffers that grew, connections that ended."""

import asyncio
import gc
import json
import subprocess
import sys
from email.utils import formatdate
from importlib.metadata import version

import pytest
from agentos_engine import __version__, limits, memory
from agentos_engine.bus.connection import Connection
from agentos_engine.server import read_buffers
from agentos_engine.server.http_framing import date_text
from agentos_engine.server.websocket import _Socket

LARGE = 1 << 20


def buffer_of(running) -> int:
    """Bytes that the read buffer of the only connection has room for."""
    (connection,) = running.engine.bus.connections.values()
    return len(connection.link._transport.underlying_transport.get_protocol().get_buffer(-1))


async def worker_of(running):
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    await worker.settled()
    return worker


async def nobody_left(running) -> None:
    async with asyncio.timeout(10):
        while running.engine.bus.connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def call_itself(worker, data, invocation_id="i") -> dict:
    await worker.send(type="invokefunction", invocation_id=invocation_id, function_id="a::f", data=data)
    return await worker.receive("invokefunction")


async def test_the_read_buffer_of_a_large_message_is_given_back_and_the_connection_goes_on(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    small = buffer_of(running)
    for number in range(5):
        data = str(number) * LARGE
        assert (await call_itself(worker, data, f"i{number}"))["data"] == data
        assert buffer_of(running) == small
    await worker.settled()
    assert len(running.engine.bus.connections) == 1


async def test_what_comes_right_behind_a_large_message_is_not_lost(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    large = json.dumps({"type": "registerfunction", "id": "a::large", "description": "x" * 200_000})
    for number in range(20):  # the frames behind it are cut wherever a read ends
        await asyncio.gather(
            worker.socket.send(large),
            *(worker.send(type="registerfunction", id=f"a::f{number}-{n}") for n in range(50)),
        )
    await worker.settled()
    (connection,) = running.engine.bus.connections.values()
    assert len(connection.registrations) == 2 + 20 * 50


async def test_a_large_message_in_fragments_leaves_a_small_buffer(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    small = buffer_of(running)
    call = json.dumps({"type": "invokefunction", "invocation_id": "i", "function_id": "a::f", "data": "y" * LARGE})
    half = len(call) // 2
    await worker.socket.send([call[:half], call[half:]])
    assert (await worker.receive("invokefunction"))["data"] == "y" * LARGE
    assert buffer_of(running) == small


async def test_a_buffer_that_is_larger_than_an_idle_connection_needs_is_given_back(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    small = buffer_of(running)
    await call_itself(worker, "z" * (read_buffers.LARGE // 2))
    assert buffer_of(running) > read_buffers.SWOLLEN
    (connection,) = running.engine.bus.connections.values()
    for _ in range(2):  # nothing came between the two
        connection.link.ping(1000)
    async with asyncio.timeout(10):
        while buffer_of(running) > small:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    await worker.settled()
    assert len(running.engine.bus.connections) == 1


async def test_a_connection_whose_buffer_was_given_back_ends_as_any_other(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    await call_itself(worker, "x" * LARGE)
    (connection,) = running.engine.bus.connections.values()
    former = connection.link._transport
    await call_itself(worker, "x" * LARGE, "j")
    assert former.is_disconnected  # nothing can be sent over it, to whoever has its socket's number by then
    assert not connection.link._transport.is_disconnected
    await worker.socket.close()
    await nobody_left(running)
    assert worker.socket.close_code == 1000


async def test_a_connection_that_ended_is_freed_without_the_garbage_collector(run_engine, monkeypatch):
    """The collector does not look at what was there when thousands registered: see agentos_engine.memory."""
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT", 0.1)
    running = await run_engine()

    async def come_and_go() -> None:
        worker = await worker_of(running)
        await worker.send(
            type="registertrigger", id="t", trigger_type="http", function_id="a::f", config={"api_path": "p"}
        )
        await call_itself(worker, "x" * LARGE)
        await worker.send(type="invocationresult", invocation_id="i", function_id="a::f", result=1)
        await worker.receive("invocationresult")
        await worker.socket.close()
        running.sockets.clear()
        await nobody_left(running)

    def still_there() -> int:
        return sum(type(each) in (Connection, _Socket) for each in gc.get_objects())

    gc.collect()
    before = still_there()  # of other tests
    gc.disable()
    try:
        await come_and_go()
        async with asyncio.timeout(10):
            while still_there() > before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
    finally:
        gc.enable()


def test_the_collector_leaves_registrations_alone_once_there_are_many(bus, join, monkeypatch):
    settled, trimmed = [], []
    monkeypatch.setattr(memory, "settle", lambda: settled.append(bus.bounds.functions))
    monkeypatch.setattr(memory, "SETTLED", 100)
    bus.watchers.append(memory.Watch(bus))
    peer = join()
    for number in range(350):
        peer.send(type="registerfunction", id=f"a::{number}")
    assert len(settled) == 3
    for _ in range(5):  # what comes and goes all the time is none of its business
        peer.send(type="unregisterfunction", id="a::1")
        peer.send(type="registerfunction", id="a::1")
    assert len(settled) == 3
    assert not trimmed


def test_an_engine_imports_nothing_large_that_it_can_do_without():
    code = "import sys, agentos_engine.__main__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    large = {"cryptography", "email", "httpcore", "importlib.metadata", "nacl", "opentelemetry", "prometheus_client"}
    large |= {"pydantic", "sqlite3", "urllib.request", "websockets", "yaml"}
    assert large.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("second", [0, 951_782_400, 1_709_209_845, 4_102_444_799])
def test_a_date_is_as_the_standard_library_writes_it(second):
    assert date_text(second) == formatdate(second, usegmt=True)


def test_the_version_is_the_packages():
    assert __version__ == version("agentos-engine")


async def test_a_pong_right_behind_a_large_message_does_not_keep_its_buffer(run_engine):
    running = await run_engine()
    worker = await worker_of(running)
    small = buffer_of(running)
    call = json.dumps({"type": "invokefunction", "invocation_id": "i", "function_id": "a::f", "data": "x" * LARGE})
    for _ in range(10):
        await asyncio.gather(worker.socket.send(call), worker.socket.pong())
        await worker.receive("invokefunction")
        assert buffer_of(running) == small
