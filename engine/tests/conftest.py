"""An engine in this process, on loopback and free ports, and bare clients for it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
import websockets
from agentos_engine.app import Engine
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Link
from agentos_engine.clock import ManualClock
from agentos_engine.config import read_settings
from agentos_engine.config_file import default_config, read_config_file


def pytest_asyncio_loop_factories():
    """The loop that the engine runs on."""
    return {"uvloop": uvloop.new_event_loop}


class Wire(Link):
    """The end of a connection: what the engine sends is gathered."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended = ""
        """Why the engine closed the connection; empty while it has not."""

    def send(self, frame: bytes) -> None:
        """Gather a frame."""
        self.frames.append(frame)

    def end(self, reason: str) -> None:
        """Note that the engine has closed the connection."""
        self.ended = reason


class Peer:
    """A connection on a bus without sockets."""

    def __init__(self, bus: Bus, **options) -> None:
        self.wire = Wire()
        self.frames = self.wire.frames
        self.bus = bus
        self.connection = bus.connect(self.wire, **options)
        self.id = self.connection.id

    def send(self, **message) -> None:
        """Send a message."""
        self.bus.receive(self.connection, json.dumps(message).encode())

    def take(self, message_type: str | None = None) -> list[dict]:
        """Return, and forget, what the engine has sent; only messages of one type when given."""
        messages = [json.loads(frame) for frame in self.frames]
        self.frames.clear()
        return [each for each in messages if message_type in (None, each["type"])]

    def end(self) -> None:
        """Disconnect."""
        self.bus.disconnect(self.connection)


@pytest.fixture(autouse=True)
def short_log(monkeypatch):
    """Storages begin with a short write-ahead log: to lengthen it for each test would take longer than the test."""
    monkeypatch.setattr("agentos_engine.storage.sqlite.LOG_ROOM", 1 << 60)


@pytest.fixture
def clock():
    """The bare bus's time, which stands still."""
    return ManualClock()


@pytest.fixture
def bus(clock):
    """A bare bus."""
    return Bus(clock=clock)


@pytest.fixture
def join(bus):
    """Connects peers to the bare bus; what it greets them with is dropped."""

    def join(greeting=False, bus=bus, **options) -> Peer:
        peer = Peer(bus, **options)
        if not greeting:
            peer.take()
        return peer

    return join


class Client:
    """A bare WebSocket client."""

    def __init__(self, socket) -> None:
        self.socket = socket

    async def send(self, **message) -> None:
        """Send a message."""
        await self.socket.send(json.dumps(message))

    async def receive(self, message_type: str) -> dict:
        """Return the next message of this type."""
        async with asyncio.timeout(10):
            while True:
                message = json.loads(await self.socket.recv())
                if message["type"] == message_type:
                    return message

    async def ask(self, function_id: str, data=None) -> dict:
        """Call a function and return the whole answer."""
        await self.send(type="invokefunction", invocation_id="ask", function_id=function_id, data=data)
        return await self.receive("invocationresult")

    async def settled(self) -> None:
        """Return when the engine has carried out all that was sent before."""
        await self.send(type="ping")
        await self.receive("pong")


class Running:
    """A started engine."""

    def __init__(self, engine: Engine, ports) -> None:
        self.engine, self.ports = engine, ports
        self.sockets: list = []

    async def connect(self, path: str = "/", **options) -> Client:
        """Connect a worker."""
        url = f"ws://127.0.0.1:{self.ports.workers}{path}"
        self.sockets.append(await websockets.connect(url, max_size=None, **options))
        return Client(self.sockets[-1])

    async def http(self, request: bytes, port: int | None = None) -> bytes:
        """Send bytes to the REST port and return all that comes back until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.ports.http)
        writer.write(request)
        async with asyncio.timeout(15):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def run_engine():
    """Starts engines: ``await run_engine(*flags)``, with ``prepare=`` to change the engine before it listens.

    ``console=`` is what the engine is told of its console, ``grants=`` what workers with a token may do,
    ``limits=`` those that its config file sets; other keywords are settings that have no flag.
    """
    started: list[Running] = []

    async def run(*flags: str, prepare=None, console=None, grants=(), limits=None, **others) -> Running:
        ports = ("--port", "0", "--http-port", "0", "--stream-port", "0", "--admin-port", "0")
        settings = replace(read_settings([*ports, *flags], {}), **others)
        config = read_config_file(settings.config, {}) if settings.config else None
        if limits:
            config = config or default_config()
            config = replace(config, agentos=replace(config.agentos, limits=tuple(limits.items())))
        engine = Engine(settings, config, console=console)
        if prepare is not None:
            prepare(engine)
        engine.permissions.take(grants)
        started.append(Running(engine, await engine.start()))
        return started[-1]

    yield run
    for running in started:
        for socket in running.sockets:
            await socket.close()
        await running.engine.stop()


@pytest.fixture
def root() -> Path:
    """The engine's folder."""
    return Path(__file__).parent.parent
