"""Bare WebSocket clients, for what no SDK does and for what SDKs do behind their users' backs."""

import asyncio
import contextlib
import inspect
import json
import uuid
from collections.abc import Callable

import websockets

from tests.compat.engine import CallError


class RawWorker:
    """A worker without an SDK. All frames that came are in ``frames``, oldest first."""

    def __init__(self, socket) -> None:
        self.socket = socket
        self.frames: list[dict] = []
        self._returned: set[int] = set()
        self._arrived = asyncio.Event()
        self._handlers: dict[str, Callable] = {}
        self._reader = asyncio.create_task(self._receive())
        self._serving: set[asyncio.Task] = set()

    async def _receive(self) -> None:
        try:
            async for text in self.socket:
                message = json.loads(text)
                self.frames.append(message)
                if message["type"] == "invokefunction" and message["function_id"] in self._handlers:
                    task = asyncio.create_task(self._serve(message))
                    self._serving.add(task)
                    task.add_done_callback(self._serving.discard)
                self._arrived.set()
        except websockets.ConnectionClosed:
            pass
        finally:
            self._arrived.set()

    async def _serve(self, message: dict) -> None:
        answer: dict = {}
        try:
            result = self._handlers[message["function_id"]](message.get("data"))
            answer["result"] = await result if inspect.isawaitable(result) else result
        except CallError as error:
            answer["error"] = {"code": error.code, "message": error.message}
        if "invocation_id" in message:
            ids = {key: message[key] for key in ("invocation_id", "function_id")}
            with contextlib.suppress(websockets.ConnectionClosed):
                await self.send(type="invocationresult", **ids, **answer)

    async def send(self, **message) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self, message_type: str, seconds: float = 10, **fields) -> dict:
        """Return the first frame of this type and with these fields that was not returned before."""

        def wanted(frame: dict) -> bool:
            return frame["type"] == message_type and all(frame.get(key) == value for key, value in fields.items())

        async with asyncio.timeout(seconds):
            while True:
                self._arrived.clear()
                for position, frame in enumerate(self.frames):
                    if wanted(frame) and position not in self._returned:
                        self._returned.add(position)
                        return frame
                assert not self._reader.done(), f"the connection closed before {message_type} came: {self.frames}"
                await self._arrived.wait()

    async def answer(self, function_id: str, *data, **fields) -> dict:
        """Call a function; returns the whole frame of the answer."""
        if data:
            fields["data"] = data[0]
        invocation = fields.pop("invocation_id", None) or str(uuid.uuid4())
        await self.send(type="invokefunction", invocation_id=invocation, function_id=function_id, **fields)
        return await self.receive("invocationresult", seconds=20, invocation_id=invocation)

    async def call(self, function_id: str, *data, **fields):
        """Call a function; returns its result, None when there is none. Raises CallError."""
        answer = await self.answer(function_id, *data, **fields)
        if "error" in answer:
            raise CallError(answer["error"])
        return answer.get("result")

    async def name(self, name: str, **fields) -> None:
        """Tell the engine who this is, as SDKs do."""
        data = {"runtime": "python", "version": "0.11.6", "name": name, "os": "Linux", "pid": 4711, **fields}
        await self.send(
            type="invokefunction", function_id="engine::workers::register", data=data, action={"type": "void"}
        )

    async def register(self, function_id: str, handler: Callable | None = None, **fields) -> None:
        """Register a function; a handler takes the data and returns the result, or raises CallError."""
        if handler is not None:
            self._handlers[function_id] = handler
        await self.send(type="registerfunction", id=function_id, **fields)
        await self.settled()

    async def bind(self, trigger_type: str, function_id: str, config=None, **fields) -> str:
        """Bind a trigger; returns its id."""
        binding = str(uuid.uuid4())
        fields = {"id": binding, **fields}
        await self.send(
            type="registertrigger", trigger_type=trigger_type, function_id=function_id, config=config, **fields
        )
        await self.settled()
        return binding

    async def settled(self) -> None:
        """Wait until the engine has read all that was sent before."""
        await self.send(type="ping")
        await self.receive("pong")

    async def closed(self, seconds: float = 10) -> int:
        """Wait for the end of the connection; returns the close code that came, 1005 for none, 1006 for no close frame."""
        async with asyncio.timeout(seconds):
            await self._reader
        return self.socket.close_code

    async def close(self) -> None:
        await self.socket.close()
        await self._reader


class Session:
    """One connection through a proxy: its path, its headers, and the messages in both directions."""

    def __init__(self, path: str, headers, upstream, downstream) -> None:
        self.path, self.headers = path, headers
        self.sent: list = []
        """By the worker."""
        self.received: list = []
        self.upstream, self.downstream = upstream, downstream
        self.ended = asyncio.Event()
        """Set when the engine has closed its side."""

    def frames(self, direction: list, message_type: str) -> list[dict]:
        return [each for each in map(json.loads, direction) if each["type"] == message_type]


class Proxy:
    """Stands between workers and the engine, hears everything, and can cut workers off."""

    def __init__(self, port: int) -> None:
        self._engine = port
        self.sessions: list[Session] = []
        self._server = None
        self.port = 0

    async def start(self) -> None:
        self._server = await websockets.serve(
            self._serve, "127.0.0.1", 0, max_size=None, compression=None, ping_interval=None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, downstream) -> None:
        path, headers = downstream.request.path, downstream.request.headers
        passed = {key: value for key, value in headers.raw_items() if key.lower() in ("authorization", "x-token")}
        upstream = await websockets.connect(
            f"ws://127.0.0.1:{self._engine}{path}", max_size=None, compression=None, additional_headers=passed
        )
        session = Session(path, headers, upstream, downstream)
        self.sessions.append(session)

        async def pump(source, target, heard: list) -> None:
            try:
                async for message in source:
                    heard.append(message)
                    await target.send(message)
            except websockets.ConnectionClosed:
                pass
            if source is upstream:
                session.ended.set()
                await downstream.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pump(upstream, downstream, session.received))
            group.create_task(pump(downstream, upstream, session.sent))

    def cut(self, engine_too: bool = True) -> None:
        """Abort the connections of all workers; without ``engine_too`` the engine's ends stay open, silent."""
        for session in self.sessions:
            session.downstream.transport.abort()
            if engine_too:
                session.upstream.transport.abort()

    async def close(self) -> None:
        for session in self.sessions:
            await session.upstream.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
