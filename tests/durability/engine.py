"""A real engine process on a disk that the test controls, and bare clients for it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import websockets

from tests.durability.disk import Disk

FREE = ("--http-port", "0", "--stream-port", "0", "--admin-port", "0")
CONFIG = """
workers:
  - {name: iii-worker-manager, config: {port: 0}}
  - {name: iii-http, config: {port: 0}}
  - name: iii-stream
    config: {port: 0, adapter: {name: kv, config: {store_method: file_based}}}
  - name: iii-state
    config: {adapter: {name: kv, config: {store_method: file_based}}}
  - name: iii-queue
    config:
      adapter: {name: builtin, config: {store_method: file_based}}
      queue_configs:
        work: {max_retries: 3, backoff_ms: 100, concurrency: 5}
        broken: {max_retries: 1, backoff_ms: 100}
  - {name: iii-cron}
  - {name: configuration}
agentos: {}
"""

LAUNCH = """
import runpy, sqlite3, sys
connect, level = sqlite3.connect, sys.argv.pop(1)
class Weak(sqlite3.Connection):
    def execute(self, statement, *values):
        return super().execute(statement.replace("synchronous = FULL", f"synchronous = {level}"), *values)
sqlite3.connect = lambda *given, **named: connect(*given, factory=Weak, **named)
runpy.run_module("agentos_engine", run_name="__main__", alter_sys=True)
"""
"""Runs the engine with another level of ``synchronous``: what the tests have to notice."""


ENTRY = {"id": "entry", "name": "n", "description": "d", "schema": {}, "initial_value": 1}
"""A configuration entry."""


class EngineError(Exception):
    """The engine has answered with an error."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message = error["code"], error["message"]


class Gone(Exception):
    """The connection, and the engine perhaps, has gone."""


class Process:
    """An engine that can be started again and again on one data folder; ``synchronous`` weakens it."""

    def __init__(self, folder: Path, library: Path, synchronous: str = "FULL") -> None:
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.disk = Disk(library, self.data, folder)
        self.log = folder / "engine.log"
        self.port = 0
        self._synchronous = synchronous
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self, *, settle: bool = True, kill_in: int = 0, after: int = 0) -> None:
        """Start the process without waiting for it; see ``Disk.kill_in`` for when it is to die.

        Without ``settle`` only that counts as safe which has been synced before, as if it had been the same process.
        """
        if settle:
            self.disk.settle()
        self.disk.control_nothing()
        self.disk.kill_in(kill_in, after)
        module = ("-m", "agentos_engine") if self._synchronous == "FULL" else ("-c", LAUNCH, self._synchronous)
        environment = {"PATH": os.environ["PATH"], **self.disk.environment}
        self._start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *module, *FREE, "--config", str(self.config), "--data-dir", str(self.data)),
                *("--port", str(self.port)),
                stderr=log,
                env=environment,
            )

    async def listening(self, seconds: float = 30.0) -> bool:
        """Return whether it listens now; False when it has ended instead."""
        assert self._process is not None
        async with asyncio.timeout(seconds):
            while True:
                for line in self.lines():
                    if line.get("message") == "listening":
                        self.port = line["port"]
                        return True
                if self._process.returncode is not None:
                    return False
                await asyncio.sleep(0.01)

    async def start(self, *, settle: bool = True) -> None:
        """Start it and wait until it listens."""
        await self.begin(settle=settle)
        assert await self.listening(), self.log.read_text()[self._start :]

    def lines(self) -> list[dict]:
        """What it has logged since it was started last; a line that is no log entry is ``{"message": line}``."""
        found = []
        with self.log.open("rb") as file:
            file.seek(self._start)
            for line in file.read().decode().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    found.append({"message": line})
        return found

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process is None or self._process.returncode is not None

    def signal(self, number: int) -> None:
        """Send a signal, if it is still there to take it."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self, seconds: float = 20.0) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """``kill -9``."""
        if not self.ended:
            self.signal(signal.SIGKILL)
            await self.wait()
        self.disk.control_nothing()

    async def stop(self) -> None:
        """End it as an operator does."""
        self.disk.control_nothing()
        self.signal(signal.SIGTERM)
        assert await self.wait() == 0

    async def connect(self) -> "Client":
        """Connect a client."""
        return Client(await websockets.connect(f"ws://127.0.0.1:{self.port}/", max_size=None, open_timeout=30))


class Client:
    """A bare WebSocket client; its handlers are called with the data of a call, and their result is the answer."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.handlers: dict[str, Callable[[Any], Any]] = {}
        self.answered: list[str] = []
        """The ids of answered calls, in the order in which the answers came."""
        self._waiting: dict[str, asyncio.Future] = {}
        self._count = 0
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                message = json.loads(text)
                kind = message["type"]
                if kind == "invocationresult":
                    self.answered.append(message["invocation_id"])
                if kind in ("invocationresult", "pong"):
                    future = self._waiting.pop(message.get("invocation_id", "pong"), None)
                    if future is not None and not future.done():
                        future.set_result(message)
                elif kind == "invokefunction" and message["function_id"] in self.handlers:
                    await self._serve(message)
        except (websockets.ConnectionClosed, OSError):
            pass
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Gone())
                    future.exception()

    async def _serve(self, message: dict) -> None:
        answer: dict[str, object]
        try:
            answer = {"result": self.handlers[message["function_id"]](message.get("data"))}
        except EngineError as error:
            answer = {"error": {"code": error.code, "message": error.message}}
        if "invocation_id" in message:
            await self.send(
                type="invocationresult",
                invocation_id=message["invocation_id"],
                function_id=message["function_id"],
                **answer,
            )

    async def send(self, **message: object) -> None:
        """Send a message. Raises Gone."""
        try:
            await self.socket.send(json.dumps(message))
        except (websockets.ConnectionClosed, OSError) as error:
            raise Gone from error

    async def ask(self, function_id: str, data: object, **more: object) -> asyncio.Future:
        """Send a call; return the future of its answer, a whole frame."""
        self._count += 1
        invocation = f"{function_id} {self._count}"
        future = self._waiting[invocation] = asyncio.get_running_loop().create_future()
        if self._reading.done():
            raise Gone
        await self.send(type="invokefunction", invocation_id=invocation, function_id=function_id, data=data, **more)
        return future

    async def call(self, function_id: str, data: object, seconds: float = 30.0, **more: object) -> Any:
        """Call a function and return its result. Raises EngineError and Gone."""
        async with asyncio.timeout(seconds):
            return result(await (await self.ask(function_id, data, **more)))

    async def until(self, function_id: str, data: object, wanted: Callable[[Any], bool], seconds: float = 30) -> None:
        """Call a function until it answers what is wanted."""
        async with asyncio.timeout(seconds):
            while not wanted(await self.call(function_id, data)):  # noqa: ASYNC110 - the engine tells nobody
                await asyncio.sleep(0.02)

    async def settled(self) -> None:
        """Return when the engine has read all that was sent before, and all its answers so far have come."""
        future = self._waiting["pong"] = asyncio.get_running_loop().create_future()
        await self.send(type="ping")
        async with asyncio.timeout(20):
            await future

    async def serve(self, function_id: str, handler: Callable[[Any], Any]) -> None:
        """Register a function."""
        self.handlers[function_id] = handler
        await self.send(type="registerfunction", id=function_id)

    async def bind(self, trigger_id: str, trigger_type: str, function_id: str, config: dict) -> None:
        """Register a trigger."""
        await self.send(
            type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, config=config
        )

    async def close(self) -> None:
        """Disconnect."""
        self._reading.cancel()
        with contextlib.suppress(websockets.ConnectionClosed, OSError):
            await self.socket.close()


def result(answer: dict) -> Any:
    """The result in the frame of an answer. Raises EngineError."""
    if answer.get("error"):
        raise EngineError(answer["error"])
    return answer.get("result")


async def gather_answers(futures: Sequence[asyncio.Future]) -> list[dict]:
    """Wait for the answers to several calls."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*futures)
