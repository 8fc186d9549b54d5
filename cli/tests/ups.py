"""Running ``agentos up`` as a process, for tests."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

WORKER = """
from agentos_workers.kit import Context, Http, Reply, Request, Worker

worker = Worker("{name}")


class Hello(Request):
    name: str = "you"


class Greeting(Reply):
    text: str


@worker.function("{name}::hello", http=Http("POST", "{name}/hello"))
async def hello(request: Hello, context: Context) -> Greeting:
    return Greeting(text=f"{text} {{request.name}}")
"""


PLAIN_WORKER = """
import os, signal, sys, threading
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions(otel={"enabled": False}))
name = os.environ["III_WORKER_NAME"]
worker.register_function(f"{name}::hello", lambda data: {"status_code": 200, "body": {"text": f"plain {os.environ.get('WORD', '')}"}})
worker.register_trigger({"type": "http", "function_id": f"{name}::hello", "config": {"api_path": f"{name}/hello", "http_method": "POST"}})
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
"""
"""A worker on the unmodified SDK alone, as any other language would be."""


def until(what: str, holds: Callable[[], Any], seconds: float = 30) -> Any:
    """Ask again and again until the answer is true, and return it; fail with what was waited for."""
    deadline, answer = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}; last: {answer!r}")


def kit_worker(folder: Path, name: str, text: str = "hello", extra: str = "", code: str | None = None) -> Path:
    """Write a worker folder on our kit: ``NAME::hello`` answers with a text. ``extra`` goes into its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = f"iii: v1\nname: {name}\nscripts:\n  start: agentos-worker run worker.py\n{extra}"
    (folder / "iii.worker.yaml").write_text(manifest)
    (folder / "worker.py").write_text(code or WORKER.format(name=name, text=text))
    return folder


class Up:
    """One ``agentos up`` on free ports, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "up.log"
        ports = [f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-")]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agentos", "up", *ports, *arguments],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    def line(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """Return the match of a pattern in the output, once it is there."""

        def look() -> re.Match[str] | None:
            if self.process.poll() is not None and not re.search(pattern, self.output):
                raise AssertionError(f"it ended: {self.output}")
            return re.search(pattern, self.output)

        return until(f"{pattern!r} in the output", look, seconds)

    @property
    def url(self) -> str:
        """Where the workers' HTTP routes are."""
        return self.line(r"HTTP (http://\S+)")[1]

    @property
    def bus(self) -> str:
        """Where anybody may connect."""
        return self.line(r"engine (ws://\S+)")[1]

    @property
    def console(self) -> str:
        """Where the console is."""
        return self.line(r"page (http://\S+)")[1]

    def ready(self, count: int) -> None:
        """Wait until so many workers have become ready after the start."""
        self.line(rf"\b{count} workers? ready")

    def hello(self, name: str) -> str:
        """Call a worker's route and return its text."""
        answer = httpx.post(f"{self.url}/{name}/hello", json={"name": "Ada"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text)["text"]

    def serves(self, name: str) -> bool:
        """Whether a worker's route is there."""
        return httpx.post(f"{self.url}/{name}/hello", json={"name": "Ada"}, timeout=30).status_code != 404

    def in_flight(self) -> bool:
        """Whether a call is in progress."""
        calls = httpx.get(f"{self.console}/api/calls").json()["calls"]
        return any(call["status"] == "running" for call in calls)

    def call(self, function_id: str, payload: object = None) -> Any:
        """Call a function as the page does; return its result, or fail with its error."""
        body = {"function_id": function_id, "payload": payload or {}}
        answer = httpx.post(f"{self.console}/api/call", json=body, timeout=30).json()
        assert "result" in answer, answer
        return answer["result"]

    def fleet(self) -> dict[str, dict[str, Any]]:
        """Return the state of each worker, by name."""
        rows = httpx.get(f"{self.console}/api/fleet").json()["workers"]
        return {row["name"]: row for row in rows}

    def stop(self) -> int:
        """End it as Ctrl-C does, and return its exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it does not end: {self.output}") from None


@contextlib.contextmanager
def up(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """Run ``agentos up`` in a folder; it is ended in the end."""
    running = Up(folder, *arguments, environment=environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def plain_worker(
    folder: Path, name: str, start: str = "python worker.py", extra: str = "", code: str = PLAIN_WORKER
) -> Path:
    """Write a worker folder without our kit: ``NAME::hello`` answers ``plain`` and the variable WORD."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "iii.worker.yaml").write_text(f"iii: v1\nname: {name}\nscripts:\n  start: {start}\n{extra}")
    (folder / "worker.py").write_text(code)
    return folder


def worker_yaml(name: str, source: str, owns: str, extra: str = "") -> str:
    """Return a Worker whose code is in the folder ``source``; ``extra`` goes into its spec."""
    return f"""apiVersion: agentos.dev/v1alpha1
kind: Worker
metadata:
  name: {name}
  annotations: {{agentos.dev/source: {source}}}
spec:
  image: localhost/{name}:dev
  owns: [{owns}]
  manifest:
    iii: v1
    name: {name}
    scripts: {{start: agentos-worker run worker.py}}
{extra}"""


def processes(up: Up) -> list[psutil.Process]:
    """Return all processes that it has started."""
    return psutil.Process(up.process.pid).children(recursive=True)


def alive(given: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    return [each for each in given if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
