"""Thousands of workers in one process: WebSockets without a library, and an engine in a process of its own.

A client may choose its mask; this one's is zero, so that masking costs nothing.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0
"""Seconds for anything that must come."""
AT_ONCE = 100
"""Connections that are made at one time: fewer than the engine lets wait."""

_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_TEXT, _PING, _PONG = 0x81, 0x89, 0x8A


def frame(payload: bytes, first: int = _TEXT) -> bytes:
    """Return a frame as a client sends it."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size, 0, 0, 0, 0)) + payload
    if size < 1 << 16:
        return bytes((first, 0xFE)) + size.to_bytes(2) + bytes(4) + payload
    return bytes((first, 0xFF)) + size.to_bytes(8) + bytes(4) + payload


class Worker(asyncio.Protocol):
    """A connection. It answers what it is called for with null, and pings; ``on_message`` gets all else."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.on_message: Callable[[bytes], object] = lambda message: None
        self.refused = 0
        """Messages by which the engine refused something."""
        self.calls = 0
        """Calls that it has answered."""
        self._settled: list[asyncio.Future[None]] = []
        self._unread = b""
        self._open = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(_UPGRADE)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.greeted, self.lost, *self._settled):
            if not waiting.done():
                waiting.set_result(None)

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        start, end = 0, len(unread)
        if not self._open:
            head = unread.find(b"\r\n\r\n")
            if head < 0:
                self._unread = unread
                return
            self._open, start = True, head + 4
        while end - start >= 2:
            size, begin = unread[start + 1], start + 2
            if size > 125:
                width = 2 if size == 126 else 8
                if end - begin < width:
                    break
                size, begin = int.from_bytes(unread[begin : begin + width]), begin + width
            if end - begin < size:
                break
            first, start = unread[start], begin + size
            if first == _TEXT:
                self._take(unread[begin:start])
            elif first == _PING:
                self.transport.write(frame(unread[begin:start], _PONG))
        self._unread = unread[start:]

    def _take(self, message: bytes) -> None:
        if message.startswith(b'{"type":"invokefunction"'):
            self.calls += 1
            fields = json.loads(message)
            if fields.get("invocation_id"):
                answer = b'{"type":"invocationresult","invocation_id":"%b","function_id":"%b","result":null}'
                self.send(answer % (fields["invocation_id"].encode(), fields["function_id"].encode()))
        elif message.startswith(b'{"type":"pong"'):
            self._settled.pop(0).set_result(None)
        elif message.startswith(b'{"type":"workerregistered"'):
            self.greeted.set_result(None)
        else:
            self.refused += b'"error":{' in message and b'"invocationresult"' not in message[:40]
            self.on_message(message)

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.transport.write(frame(message))

    async def settled(self) -> None:
        """Return when the engine has carried out all that was sent before. Raises ConnectionError."""
        waiting = asyncio.get_running_loop().create_future()
        self._settled.append(waiting)
        self.send(b'{"type":"ping"}')
        await asyncio.wait_for(waiting, DEADLINE)
        if self.lost.done():
            raise ConnectionError("the engine has ended the connection")

    async def ask(self, function_id: str, data: str = "null") -> bytes:
        """Call a function and return the answer as it came."""
        answer = asyncio.get_running_loop().create_future()

        def take(message: bytes) -> None:
            if message.startswith(b'{"type":"invocationresult"') and not answer.done():
                answer.set_result(message)

        self.on_message = take
        call = '{"type":"invokefunction","invocation_id":"ask","function_id":"%s","data":%s}'
        self.send((call % (function_id, data)).encode())
        return await asyncio.wait_for(answer, DEADLINE)


async def connect(port: int) -> Worker:
    """Connect one worker. Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    _, worker = await loop.create_connection(Worker, "127.0.0.1", port)
    await asyncio.wait_for(worker.greeted, DEADLINE)
    if worker.lost.done():
        raise ConnectionError("the engine has ended the connection")
    return worker


async def connect_all(port: int, count: int) -> list[Worker]:
    """Connect many workers, some at a time."""
    workers: list[Worker] = []
    while len(workers) < count:
        workers += await asyncio.gather(*(connect(port) for _ in range(min(AT_ONCE, count - len(workers)))))
    return workers


def register(worker: Worker, name: str, functions: int, routes: int) -> None:
    """Have a worker register functions ``NAME::f0``…, and as many HTTP routes ``/NAME/r0``… to the first ones."""
    out = [
        frame(b'{"type":"registerfunction","id":"%b::f%d","description":"Returns nothing"}' % (name.encode(), number))
        for number in range(functions)
    ]
    for number in range(routes):
        text = (
            '{"type":"registertrigger","id":"%s-r%d","trigger_type":"http","function_id":"%s::f%d",'
            '"config":{"api_path":"%s/r%d","http_method":"POST"}}'
        )
        out.append(frame((text % (name, number, name, number, name, number)).encode()))
    worker.transport.write(b"".join(out))


async def settle(workers: list[Worker]) -> None:
    """Return when the engine has carried out all that these workers have sent."""
    await asyncio.gather(*(each.settled() for each in workers))


async def leave(workers: list[Worker]) -> None:
    """Cut the connections of workers."""
    for each in workers:
        each.transport.abort()
    await asyncio.gather(*(each.lost for each in workers))


@contextlib.asynccontextmanager
async def bystander(port: int) -> AsyncIterator[dict[str, float]]:
    """Have one worker call another meanwhile; at the end the dict holds calls, errors, and the worst in milliseconds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.scale.probe", str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told: dict[str, float] = {}
    try:
        await asyncio.wait_for(process.stdout.readline(), DEADLINE)
        yield told
        process.stdin.close()
        told.update(json.loads(await asyncio.wait_for(process.stdout.read(), DEADLINE)))
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Engine:
    """An engine in a process of its own, open and on loopback."""

    def __init__(self, *flags: str) -> None:
        ports = [f"--{name}port=0" for name in ("", "http-", "stream-", "admin-")]
        command = [sys.executable, "-m", "agentos_engine", *ports, *flags]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        self.pid = self._process.pid
        assert self._process.stderr is not None
        for line in self._process.stderr:
            fields = json.loads(line)
            if fields["message"] == "listening":
                self.port, self.http_port, self.admin_port = (
                    fields[name] for name in ("port", "http_port", "admin_port")
                )
                break
        else:
            raise RuntimeError(f"the engine ended with {self._process.wait()}")
        # What it logs is read and dropped, as it would otherwise stand still.
        self._drain = subprocess.Popen(["cat"], stdin=self._process.stderr, stdout=subprocess.DEVNULL)

    @property
    def cpu(self) -> float:
        """CPU seconds used so far, by all threads."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((tasks / each / "schedstat").read_text().split()[0]) for each in os.listdir(tasks)) / 1e9

    @property
    def resident(self) -> float:
        """Megabytes (of 2**20 bytes) that the process holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def stop(self) -> None:
        """Stop it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain.wait()


@contextlib.contextmanager
def engine(*flags: str) -> Iterator[Engine]:
    """Run an engine; everything about it is stopped at the end."""
    running = Engine(*flags)
    try:
        yield running
    finally:
        running.stop()
