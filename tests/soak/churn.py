"""What workers, callers and clients do to an engine in a round of a soak test; afterwards all of them have gone."""

import asyncio
import contextlib
import json
import random
from typing import Any

import websockets

QUEUE = "soak"
SIZES = (10, 10, 10, 1000, 1000, 20_000, 300_000)
"""Of payloads, in characters."""


class Worker:
    """A worker that answers: with its data, an error, or never, as the function's name says."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.number = 0
        self.served = 0
        self.refs: dict[str, Any] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, port: int) -> "Worker":
        return cls(await websockets.connect(f"ws://127.0.0.1:{port}/", max_size=None, ping_interval=None))

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def call(self, function_id: str, data: Any = None, seconds: float = 20, **more: Any) -> dict[str, Any]:
        """Call a function and return the whole answer."""
        self.number += 1
        name = f"i-{self.number}"
        answer = self.answers[name] = asyncio.get_running_loop().create_future()
        await self.send(type="invokefunction", invocation_id=name, function_id=function_id, data=data, **more)
        async with asyncio.timeout(seconds):
            return await answer

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for frame in self.socket:
                message = json.loads(frame)
                if message["type"] == "invocationresult":
                    waiting = self.answers.pop(message["invocation_id"], None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message)
                elif message["type"] == "invokefunction":
                    await self._answer(message)

    async def _answer(self, asked: dict[str, Any]) -> None:
        self.served += 1
        function_id, invocation_id = asked["function_id"], asked.get("invocation_id")
        if invocation_id is None or function_id.endswith("::never"):
            return
        answer: dict[str, Any] = {"result": asked.get("data")}
        if function_id.endswith("::fails"):
            answer = {"error": {"code": "FAILED", "message": "as it should"}}
        elif function_id.endswith("::route"):
            answer = {"result": {"status_code": 200, "body": {"size": len(json.dumps(asked["data"]))}}}
        await self.send(type="invocationresult", invocation_id=invocation_id, function_id=function_id, **answer)

    async def close(self, rudely: bool) -> None:
        if rudely:
            self.socket.transport.abort()
        await self.socket.close()
        await asyncio.gather(self._reading, return_exceptions=True)
        for waiting in self.answers.values():
            waiting.cancel()


TRIGGERS = (
    ("http", "route", {"api_path": "soak/:name", "http_method": "POST"}),
    ("subscribe", "echo", {"topic": "soak"}),
    ("durable:subscriber", "echo", {"topic": "soak"}),
    ("state", "echo", {"scope": "soak"}),
    ("stream", "echo", {"stream_name": "soak"}),
    ("soak::own", "echo", {"of": "a worker"}),
)


async def register(worker: Worker, name: str) -> None:
    """Register functions and triggers, some more than once, and take some back."""
    for kind in ("echo", "fails", "never", "route", *(f"more-{number}" for number in range(10))):
        schema = {"type": "object", "properties": {kind: {"type": "string"}}}
        await worker.send(
            type="registerfunction",
            id=f"{name}::{kind}",
            request_format=schema,
            metadata={"timeout_ms": 100 if kind == "never" else 20_000},
        )
    await worker.send(type="registertriggertype", id="soak::own", description="of a worker")
    for number, (trigger_type, function, config) in enumerate(TRIGGERS):
        binding = {"trigger_type": trigger_type, "function_id": f"{name}::{function}", "config": config}
        for _ in range(2):
            await worker.send(type="registertrigger", id=f"{name}-{number}", **binding)
    for number in range(5):
        await worker.send(type="unregisterfunction", id=f"{name}::more-{number}")
    await worker.call("engine::workers::register", {"name": name, "runtime": "python", "version": "0.25.0"})


async def calls(worker: Worker, names: list[str], chance: random.Random) -> None:
    """Calls of all kinds, several at a time."""

    async def one(number: int) -> None:
        name, data = chance.choice(names), "x" * chance.choice(SIZES)
        match number % 12:
            case 0 | 1 | 2:
                answer = await worker.call(f"{name}::echo", data)
                assert answer.get("result") == data or answer["error"]["code"] == "invocation_stopped", answer
            case 3:
                await worker.call(f"{name}::fails")
            case 4:
                await worker.call(f"{name}::never")
            case 5:
                await worker.call("no::such")
            case 6:
                await worker.send(
                    type="invokefunction", function_id=f"{name}::echo", data=data, action={"type": "void"}
                )
            case 7:
                await worker.call(f"{name}::echo", data[:1000], action={"type": "enqueue", "queue": QUEUE})
            case 8:
                await worker.call("state::set", {"scope": "soak", "key": str(number), "value": data})
                await worker.call("state::get", {"scope": "soak", "key": str(number)})
            case 9:
                await worker.call("stream::set", {"stream_name": "soak", "group_id": "g", "item_id": "i", "data": data})
            case 10:
                await worker.call("publish", {"topic": "soak", "data": data[:1000]})
                await worker.call("iii::durable::publish", {"topic": "soak", "data": data[:1000]})
            case 11:
                await worker.call("engine::functions::list", {})

    for at in range(0, 48, 8):
        await asyncio.gather(*(one(number) for number in range(at, at + 8)))
    await worker.socket.send("garbage")
    await worker.socket.send(b'{"type":"invokefunction","invocation_id":"bad","function_id":"x::y","data":NaN}')


async def requests(port: int, chance: random.Random) -> None:
    """Requests on a connection that is kept, to a route and to none, and one that is given up half way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for path in ("soak/a", "nowhere", "soak/b"):
        body = b"" if path == "nowhere" else json.dumps({"x": "x" * chance.choice(SIZES)}).encode()
        head = (
            f"POST /{path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
    writer.write(b"POST /soak/c HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()


async def channel(ports: dict[str, int], worker: Worker) -> None:
    """A data channel that is used, and one of which only an end is taken."""
    for used in (True, False):
        made = (await worker.call("engine::channels::create", {}))["result"]
        urls = [
            f"ws://127.0.0.1:{ports['workers']}/ws/channels/{ref['channel_id']}?key={ref['access_key']}&dir={ref['direction']}"
            for ref in (made["writer"], made["reader"])
        ]
        async with websockets.connect(urls[0]) as writer:
            if used:
                async with websockets.connect(urls[1], max_size=None) as reader:
                    for _ in range(20):
                        await writer.send(b"x" * 60_000)
                    await writer.close()
                    received = [len(each) async for each in reader]
                    assert sum(received) == 1_200_000
            else:
                await writer.send(b"x")
        if not used:
            async with websockets.connect(urls[1]) as reader:
                assert await reader.recv() == b"x"


async def stream(port: int) -> None:
    """A client of the stream port that joins, leaves in part, and goes."""
    async with websockets.connect(f"ws://127.0.0.1:{port}/", max_size=None) as client:
        for number in range(3):
            data = {"subscriptionId": str(number), "streamName": "soak", "groupId": "g"}
            await client.send(json.dumps({"type": "join", "data": data}))
        async with asyncio.timeout(20):
            await client.recv()
        await client.send(json.dumps({"type": "leave", "data": {"subscriptionId": "0"}}))


async def round_of(ports: dict[str, int], chance: random.Random) -> int:
    """Three workers come, everything happens, all go: some in order, some not. Returns how many calls they served."""
    names = ["soak-a", "soak-b", "soak-c"]
    workers = [await Worker.connect(ports["workers"]) for _ in names]
    try:
        for worker, name in zip(workers, names, strict=True):
            await register(worker, name)
        await asyncio.gather(
            *(calls(worker, names, chance) for worker in workers),
            requests(ports["http"], chance),
            requests(ports["http"], chance),
            channel(ports, workers[0]),
            stream(ports["stream"]),
        )
        deaf = await Worker.connect(ports["workers"])
        deaf.socket.transport.pause_reading()
        for number in range(4):
            await deaf.send(
                type="invokefunction", invocation_id=f"d-{number}", function_id="soak-a::echo", data="x" * 400_000
            )
        await deaf.close(rudely=True)
    finally:
        for worker in workers:
            await worker.close(rudely=chance.random() < 0.5)
    return sum(worker.served for worker in workers)


async def cleared(ports: dict[str, int]) -> None:
    """Let the jobs run that wait for workers which have gone: those stay on purpose."""
    names = ["soak-a", "soak-b", "soak-c"]
    workers = [await Worker.connect(ports["workers"]) for _ in names]
    for each, name in zip(workers, names, strict=True):
        await register(each, name)
    worker = workers[0]
    async with asyncio.timeout(60):
        while True:
            topics = (await worker.call("engine::queue::list_topics", {}))["result"]
            stats = [await worker.call("engine::queue::topic_stats", {"topic": each["name"]}) for each in topics]
            if not any(each["result"]["depth"] for each in stats):
                break
            await asyncio.sleep(0.05)
    for each in workers:
        await each.close(rudely=False)
