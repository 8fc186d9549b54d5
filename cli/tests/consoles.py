"""An engine with a console as a process, and workers on bare WebSockets, for tests."""

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

WAIT = 30.0
"""Seconds for an answer."""


class Failing(Exception):
    """What a handler raises to answer with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Worker:
    """A worker that says what the wire says: nothing of an SDK stands between."""

    def __init__(self, url: str, name: str) -> None:
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(url, max_size=None))
        self._handlers: dict[str, Callable[[Any], Any]] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self.traceparents: dict[str, str | None] = {}
        """Of the last call of each function."""
        self.seen: list[Any] = []
        """Payloads that came, without what the engine adds."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.ask("engine::workers::register", {"name": name, "runtime": "test", "version": "1.0.0"})

    def function(self, function_id: str, handler: Callable[[Any], Any], **about: Any) -> None:
        """Register a function; returns when the engine has it."""
        self._handlers[function_id] = handler
        self._send(type="registerfunction", id=function_id, **about)
        self.ask("engine::workers::list", {})

    def trigger(self, trigger_type: str, function_id: str, config: Any) -> None:
        """Bind a function."""
        trigger_id = str(uuid.uuid4())
        self._send(
            type="registertrigger", id=trigger_id, trigger_type=trigger_type, function_id=function_id, config=config
        )
        self.ask("engine::workers::list", {})

    def ask(self, function_id: str, data: Any = None, **more: Any) -> Any:
        """Call a function and return its result."""
        invocation = str(uuid.uuid4())
        self._send(type="invokefunction", invocation_id=invocation, function_id=function_id, data=data, **more)
        with self._changed:
            assert self._changed.wait_for(lambda: invocation in self._answers, WAIT), f"{function_id} did not answer"
        answer = self._answers.pop(invocation)
        assert answer.get("error") is None, answer
        return answer.get("result")

    def close(self) -> None:
        """Disconnect."""
        self._stack.close()
        self._reader.join(5)

    def _send(self, **message: Any) -> None:
        self._socket.send(json.dumps(message))

    def _read(self) -> None:
        try:
            for frame in self._socket:
                message = json.loads(frame)
                if message["type"] == "invocationresult":
                    with self._changed:
                        self._answers[message["invocation_id"]] = message
                        self._changed.notify_all()
                elif message["type"] == "invokefunction":
                    threading.Thread(target=self._answer, args=(message,), daemon=True).start()
        except ConnectionClosed:
            pass

    def _answer(self, message: dict[str, Any]) -> None:
        data = message.get("data")
        if isinstance(data, dict):
            data.pop("_caller_worker_id", None)
        self.seen.append(data)
        self.traceparents[message["function_id"]] = message.get("traceparent")
        reply = {
            "type": "invocationresult",
            "invocation_id": message["invocation_id"],
            "function_id": message["function_id"],
        }
        try:
            reply["result"] = self._handlers[message["function_id"]](data)
        except Failing as error:
            reply["error"] = {"code": error.code, "message": error.message}
        with suppress(ConnectionClosed):  # nobody waits for it any more
            self._send(**reply)


class Engine:
    """A running engine; ``ports`` is its line about what it listens on."""

    def __init__(self, *flags: str, folder: Path | None = None) -> None:
        free = [f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-")]
        command = [sys.executable, "-m", "agentos_engine", *free, *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
        assert self.process.stderr is not None
        self.ports = next(found for found in map(json.loads, self.process.stderr) if found["message"] == "listening")
        # Read to its end: a full pipe would stop the engine.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self._workers: list[Worker] = []

    @property
    def console(self) -> str:
        """The console's URL."""
        return f"http://127.0.0.1:{self.ports['console_port']}"

    def worker(self, name: str) -> Worker:
        """Connect a worker."""
        self._workers.append(Worker(f"ws://127.0.0.1:{self.ports['port']}", name))
        return self._workers[-1]

    def stop(self) -> None:
        """Stop it, and its workers' connections."""
        self.process.terminate()
        self.process.wait(15)
        for worker in self._workers:
            worker.close()
