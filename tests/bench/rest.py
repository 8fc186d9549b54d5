"""HTTP requests to a route of a worker on the unmodified Python SDK: CPU of the engine, and how long they wait.

usage: python -m tests.bench.rest [POINTS…]   points: cpu, latency (all, when none is named)

CPU is a ratio to the sketch's bus call with one in flight. The wait is held against Little's law: with so many
connections that each have one request open, a server that is fair and never idle answers after connections / throughput.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from agentos_contracts import claimables

from tests.bench import routers
from tests.bench.bus import cost
from tests.bench.measuring import ROUNDS, WINDOW, Figure, figure, in_turns, keep, ratios
from tests.bench.peers import TIMEOUT, Window, ordinary, route
from tests.bench.routers import Router
from tests.compat import sdks

SDK = "py-0.25.0"
PATH = "/bench"
CPU = ((1, 3.2, 4.0, 3.3), (8, 2.4, 2.8, 2.5), (64, 1.8, 1.9, 3.7))  # connections, aim, gate, the native engine
LATENCY = (8, 16, 32, 64, 128)


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until told otherwise."""

    def __init__(self, request: bytes, load: "Load") -> None:
        self._request, self._load = request, load
        self._got = b""
        self._length = 0
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self) -> None:
        """Send a request."""
        self._sent = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._length:
            head = self._got.find(b"\r\n\r\n")
            if head < 0:
                return
            at = self._got.lower().index(b"content-length:") + 15
            self._length = head + 4 + int(self._got[at : self._got.index(b"\r\n", at)])
        if len(self._got) < self._length:
            return
        answer, self._got, self._length = self._got, b"", 0
        self._load.answered(self, answer, time.perf_counter() - self._sent)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost()


class Load:
    """Connections to one port."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._clients: list[Client] = []
        self._window = Window(0, 0.0)
        self._open = 0
        self._stop = 0.0
        self._done = asyncio.Event()
        self._failure: str | None = None

    async def run(self, connections: int, seconds: float) -> Window:
        """Keep one request in progress on each of so many connections."""
        loop = asyncio.get_running_loop()
        head = "".join(f"{name}: {value}\r\n" for name, value in self._router.headers.items())
        request = f"GET {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n".encode()
        while len(self._clients) < connections:
            _, client = await loop.create_connection(lambda: Client(request, self), "127.0.0.1", self._router.http_port)
            self._clients.append(client)
        self._window, self._open, self._failure = Window(0, 0.0), connections, None
        self._done.clear()
        began = time.perf_counter()
        self._stop = began + seconds
        for client in self._clients[:connections]:
            client.ask()
        await asyncio.wait_for(self._done.wait(), seconds + TIMEOUT)
        if self._failure is not None:
            raise SystemExit(f"a request failed: {self._failure}")
        self._window.calls, self._window.seconds = len(self._window.latencies), time.perf_counter() - began
        return self._window

    def answered(self, client: Client, answer: bytes, seconds: float) -> None:
        """A client has its answer."""
        self._window.latencies.append(seconds)
        if not answer.startswith(b"HTTP/1.1 200"):
            self._failure = answer[:500].decode(errors="replace")
            self._done.set()
        elif time.perf_counter() < self._stop:
            client.ask()
        else:
            self._open -= 1
            if not self._open:
                self._done.set()

    def lost(self) -> None:
        """A connection has ended."""
        if self._open:
            self._failure = "the connection was closed"
            self._done.set()

    def close(self) -> None:
        """End all connections."""
        for client in self._clients:
            client.close()


@contextmanager
def sdk_worker(url: str) -> Iterator[None]:
    """Run the worker on the core of the load."""
    command = [sdks.command(SDK, "bench")[0], str(Path(__file__).parent / "sdk_worker.py")]
    process = subprocess.Popen(command, env={"PATH": os.environ["PATH"], "III_URL": url}, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ready(load: Load) -> None:
    """Wait until the route is there."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            await load.run(1, 0)
            return
        except SystemExit:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def cpu(engine: Router, sketch: Router, load: Load) -> list[Figure]:
    """CPU of the engine per request."""
    yardstick = [await route(sketch.url, "bench::echo")]

    def request(connections: int):
        async def window() -> float:
            before = engine.cpu
            made = await load.run(connections, WINDOW)
            return (engine.cpu - before) / made.calls * 1e6

        return window

    figures = []
    for connections, aim, gate, native in CPU:
        values = await in_turns({"rest": request(connections), "sketch": cost(sketch, ordinary, yardstick, 1, 64)})
        found = ratios(values, "rest", "sketch")
        note = f"{statistics.median(values['rest']):.0f} µs per request"
        name = f"REST, {connections} connection{'s' if connections > 1 else ''}"
        figures.append(figure(name, "× sketch", found, aim=aim, gate=gate, native=native, note=note))
    return figures


async def latency(load: Load) -> list[Figure]:
    """The median wait of a request, as a ratio to connections / throughput."""
    figures = []
    for connections in LATENCY:
        found, waits = [], []
        await load.run(connections, WINDOW)
        for _ in range(ROUNDS):
            made = await load.run(connections, WINDOW)
            p50 = statistics.median(made.latencies)
            waits.append(p50 * 1e3)
            found.append(p50 / (connections / made.rate))
        note = f"{statistics.median(waits):.1f} ms"
        figures.append(figure(f"REST p50, {connections} connections", "× Little", found, gate=1.5, note=note))
    return figures


async def main(chosen: list[str]) -> None:
    """Measure what was chosen."""
    routers.take_load_core()
    wanted = chosen or ["cpu", "latency"]
    with (
        tempfile.TemporaryDirectory() as name,
        routers.sketch() as sketch,
        routers.engine(Path(name)) as engine,
    ):
        (url,) = await routers.admit(engine, "bench", routes=[claimables.route("GET", ["bench"])])
        with sdk_worker(url):
            load = Load(engine)
            await ready(load)
            if "cpu" in wanted:
                keep("rest", await cpu(engine, sketch, load))
            if "latency" in wanted:
                keep("rest_latency", await latency(load))
            load.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
