"""A bus for tests: it speaks just enough of the iii protocol for unmodified SDK workers in threads or processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

WAIT_SECS = 20


class BusError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass
class Bus:
    """Knows what one worker registered, calls it, and answers its calls from `provided`."""

    url: str = ""
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    triggers: dict[str, dict[str, Any]] = field(default_factory=dict)
    provided: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    refuses: bool = False
    closed: bool = False
    _connection: ServerConnection | None = None
    _results: dict[str, dict[str, Any]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    @contextmanager
    def serving(cls, token: str) -> Iterator[Bus]:
        bus = cls()
        with serve(bus.serve, "127.0.0.1", 0, max_size=2**26, compression=None) as server:
            bus.url = f"ws://127.0.0.1:{_port(server)}/w/{token}/pod-uid"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield bus
            server.shutdown()
            thread.join(WAIT_SECS)

    def serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        with self._changed:
            self.paths.append(connection.request.path)
            self._connection = connection
        connection.send(json.dumps({"type": "workerregistered", "worker_id": str(uuid.uuid4())}))
        try:
            for message in connection:
                self._handle(connection, json.loads(message))
        except ConnectionClosed:
            pass
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _handle(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        with self._changed:
            match message["type"]:
                case "registerfunction":
                    self.functions[message["id"]] = message
                case "unregisterfunction":
                    self.functions.pop(message["id"], None)
                case "registertrigger":
                    self.triggers[message["id"]] = message
                case "unregistertrigger":
                    self.triggers.pop(message["id"], None)
                case "invocationresult":
                    self._results[message["invocation_id"]] = message
                case "invokefunction" if message["function_id"] == "engine::workers::register":
                    self.names.append(message["data"]["name"])
                    if self.refuses:
                        refusal = {"type": "registrationrejected", "code": "WORKER_NAMESPACE_CONFLICT"}
                        connection.send(json.dumps({**refusal, "worker_name": self.names[-1]}))
                case "invokefunction" if message["function_id"] == "engine::baggage::get_all":
                    self._answer(connection, message, result={"baggage": {}})
                case "invokefunction":
                    threading.Thread(target=self._provide, args=(connection, message), daemon=True).start()
            self._changed.notify_all()

    def _provide(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        function_id, payload = message["function_id"], message.get("data")
        with self._changed:
            self.calls.append((function_id, payload))
            self._changed.notify_all()
        provider = self.provided.get(function_id)
        if provider is None:
            error = {"code": "function_not_found", "message": f"Function {function_id} not found"}
            return self._answer(connection, message, error=error)
        try:
            self._answer(connection, message, result=provider(payload))
        except BusError as error:
            self._answer(connection, message, error={"code": error.code, "message": error.message})

    def _answer(self, connection: ServerConnection, message: dict[str, Any], **outcome: Any) -> None:
        reply = {key: message[key] for key in ("invocation_id", "function_id")}
        connection.send(json.dumps({"type": "invocationresult", **reply, **outcome}))

    def wait_for(self, condition: Callable[[], Any], seconds: float = WAIT_SECS) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"not within {seconds} s: {self}"

    def send(self, function_id: str, data: Any) -> str:
        invocation_id = str(uuid.uuid4())
        if isinstance(data, dict):
            data = {**data, "_caller_worker_id": "caller-1"}
        message = {"type": "invokefunction", "invocation_id": invocation_id, "function_id": function_id, "data": data}
        assert self._connection is not None
        self._connection.send(json.dumps(message))
        return invocation_id

    def has_result(self, invocation_id: str) -> bool:
        with self._changed:
            return invocation_id in self._results

    def result(self, invocation_id: str) -> Any:
        self.wait_for(lambda: invocation_id in self._results)
        message = self._results.pop(invocation_id)
        if message.get("error"):
            raise BusError(message["error"]["code"], message["error"]["message"])
        return message["result"]

    def call(self, function_id: str, data: Any) -> Any:
        """A direct call; raises BusError."""
        return self.result(self.send(function_id, data))

    def request(
        self,
        function_id: str,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """A call as the http trigger makes it; the status and the body of the answer."""
        envelope = {
            "path": path,
            "method": method,
            "path_params": params or {},
            "query_params": query or {},
            "headers": headers or {"content-type": "application/json"},
            "body": body,
            "trigger": {"type": "http", "path": path, "method": method},
            "request_body": {"channel_id": "c", "access_key": "k", "direction": "read"},
            "response": {"channel_id": "d", "access_key": "k", "direction": "write"},
        }
        answer = self.call(function_id, envelope)
        assert set(answer) == {"status_code", "headers", "body"}
        return answer["status_code"], answer["body"]


@pytest.fixture
def new_bus() -> Iterator[Callable[[str], Bus]]:
    """Makes a bus that is reached with the given token."""
    with ExitStack() as stack:
        yield lambda token: stack.enter_context(Bus.serving(token))


@pytest.fixture
def bus(new_bus: Callable[[str], Bus]) -> Bus:
    return new_bus("secret-token.abc_DEF")


def _port(server: Server) -> int:
    return server.socket.getsockname()[1]


@dataclass
class WorkerProcess:
    """`agentos-worker` as a child process, its output collected."""

    process: subprocess.Popen[str]

    def stop(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=WAIT_SECS)
        return self.process.returncode, output


@pytest.fixture
def start_process(tmp_path: Any) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts ``python -m agentos_workers …`` (or a script) with a bare environment plus the given one."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environ: str) -> WorkerProcess:
        process = subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "agentos_workers", "run", "wasm-sandbox"))],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return WorkerProcess(process)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
