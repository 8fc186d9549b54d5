"""Running ``agentos up`` as a process, for tests."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

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

    def __init__(self, folder: Path, *arguments: str) -> None:
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
        answer = httpx.post(f"{self.url}/{name}/hello", json={"name": "Ada"})
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text)["text"]

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
def up(folder: Path, *arguments: str) -> Iterator[Up]:
    """Run ``agentos up`` in a folder; it is ended in the end."""
    running = Up(folder, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
