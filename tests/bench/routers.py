"""The routers that are measured: the sketch, and engines as they run in a cluster. Each is a process on the first core.

The load runs on the last core, see :func:`take_load_core`. On a machine with one core they share it, and the figures
mean little.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentos_contracts.tokens import Identity, SigningKey, issue

from tests.bench.peers import connect

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
REALM = "bench"
API_KEY = "bench-key-of-no-value"
START_TIMEOUT = 15.0

CONFIG = """
workers:
  - name: iii-worker-manager
    config: {{host: 127.0.0.1, port: 49134}}
  - name: iii-http
    config: {{host: 127.0.0.1, port: 3111}}
  - name: iii-state
  - name: iii-queue
  - name: iii-pubsub
  - name: iii-observability
    config: {{sampling_ratio: {tracing}, logs_console_output: false}}
"""


@dataclass
class Router:
    """A running router."""

    process: subprocess.Popen[bytes]
    url: str
    http_port: int = 0
    tokens: "Tokens | None" = None
    headers: dict[str, str] = field(default_factory=dict)
    """What an HTTP request needs."""

    @property
    def cpu(self) -> float:
        """CPU seconds used so far by all threads, from the scheduler's nanosecond counters."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((tasks / task / "schedstat").read_text().split()[0]) for task in os.listdir(tasks)) / 1e9

    @property
    def resident(self) -> float:
        """Megabytes that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Tokens:
    """Names of a realm: ``path(name)`` is where the URL of this worker begins."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()

    def path(self, name: str, role: str = "worker") -> str:
        """Return the path with a token for a worker of this name, or for the operator."""
        identity = Identity(REALM, f"bench/{name}", f"uid-of-{name}", role)
        return f"/w/{issue(self.key, identity, issued_at=1_700_000_000)}/pod-1"


def take_load_core() -> None:
    """Keep this process, and those that it starts as load, off the core of the routers."""
    os.sched_setaffinity(0, {CORES[-1]})


def _start(command: list[str], environment: dict[str, str] | None = None, stderr: int | None = None):
    return subprocess.Popen(
        command, env=environment, stderr=stderr, preexec_fn=lambda: os.sched_setaffinity(0, {CORES[0]})
    )


@contextmanager
def sketch() -> Iterator[Router]:
    """Run the yardstick."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = _start([sys.executable, str(HERE / "sketch_router.py"), str(port)])
    try:
        _wait_for(port)
        yield Router(process, f"ws://127.0.0.1:{port}")
    finally:
        _end(process)


@contextmanager
def engine(folder: Path, *, tracing: float = 0.01, durable: bool = True) -> Iterator[Router]:
    """Run an engine with identity, permissions, metrics, heartbeats and limits on. ``tracing``: share of calls traced.

    It keeps its data in ``folder``, or with ``durable`` off in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens, keys, config = Tokens(), folder / "keys", folder / "config.yaml"
    keys.write_text(API_KEY + "\n")
    config.write_text(CONFIG.format(tracing=tracing))
    command = [sys.executable, "-m", "agentos_engine", "--realm", REALM, "--config", str(config), "--host", "127.0.0.1"]
    command += [f"--{name}-port=0" for name in ("http", "stream", "admin")] + ["--port=0", "--log-level=info"]
    if durable:
        command += ["--data-dir", str(folder / "data")]
    environment = {
        # With PYTHONPATH another version of the engine can be measured.
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        "AGENTOS_VERIFY_KEYS": tokens.key.verify_key,
        "AGENTOS_HTTP_AUTH": json.dumps({"auth": "apiKey", "apiKeysFile": str(keys)}),
    }
    log = folder / "engine.log"
    with log.open("wb") as file:
        process = _start(command, environment, file.fileno())
    try:
        listening = _listening(process, log)
        yield Router(
            process,
            f"ws://127.0.0.1:{listening['port']}",
            listening["http_port"],
            tokens,
            {"authorization": f"Bearer {API_KEY}"},
        )
    finally:
        _end(process)


def _listening(process: subprocess.Popen[bytes], log: Path) -> dict:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return json.loads(line)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise SystemExit(f"the engine did not start:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing of what it has is of use
    process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


async def admit(router: Router, *names: str, routes: Sequence[str] = ()) -> list[str]:
    """Let workers of these names in, each with the functions below ``name::``; returns the URLs for them.

    ``routes``: texts of HTTP routes (:mod:`agentos_contracts.claimables`), which are the first one's.
    """
    if router.tokens is None:
        return [router.url for _ in names]
    operator = await connect(router.url + router.tokens.path("operator", "operator"))
    grants = [
        {
            "uid": f"uid-of-{name}",
            "worker": f"bench/{name}",
            "owns": [f"{name}::*", *(routes if name == names[0] else ())],
            "discover": False,
            "calls": None,
            "state_scopes": None,
            "leaving": False,
        }
        for name in names
    ]
    answer = await operator.call("engine::grants::apply", {"complete": True, "grants": grants, "removed": []})
    if "error" in answer:
        raise SystemExit(f"the grants were refused: {answer['error']}")
    operator.close()
    return [router.url + router.tokens.path(name) for name in names]
