"""Real processes: the engine, and workers on unmodified SDKs. The SDKs are installed once and cached."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import websockets
from agentos_contracts.tokens import Identity, SigningKey, issue

HERE = Path(__file__).parent
PYTHON_SDKS = {"py-0.11.6": "requirements-iii-sdk-0.11.6.txt", "py-0.25.0": "requirements-iii-sdk-0.25.0.txt"}
NODE_SDKS = {"node-0.11.6": "iii-sdk-0.11", "node-0.22.1": "iii-sdk-0.22"}
SDKS = {"py-0.11.6": "py11", "py-0.25.0": "py25", "node-0.11.6": "node11", "node-0.22.1": "node22"}
REALM = "compat"


def _installed(name: str, inputs: list[Path], install: Callable[[Path], None]) -> Path:
    """Return the cached folder for these inputs, installing it when it is not there; safe among several test runs."""
    root = Path(os.environ.get("AGENTOS_CACHE") or Path.home() / ".cache" / "agentos") / "sdks"
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in inputs) + sys.version.encode()).hexdigest()[:12]
    folder = root / f"{name}-{digest}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / "complete").touch()
    return folder


def _install(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command[:3]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def _python_sdk(sdk: str) -> Path:
    requirements = HERE / PYTHON_SDKS[sdk]

    def install(folder: Path) -> None:
        _install([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
        _install([*pip, "--only-binary=:all:", "-r", str(requirements)], folder)

    return _installed(sdk, [requirements], install) / "venv/bin/python"


def _node_sdks() -> Path:
    files = [HERE / "node/package.json", HERE / "node/package-lock.json"]

    def install(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        _install(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return _installed("node", files, install)


@pytest.fixture(scope="session")
def sdk_command() -> Callable[[str, str], list[str]]:
    """Command line of an agent: SDK and prefix in."""

    def command(sdk: str, prefix: str) -> list[str]:
        if sdk in PYTHON_SDKS:
            return [str(_python_sdk(sdk)), str(HERE / "workers/agent.py"), prefix]
        return ["node", str(HERE / "workers/agent.mjs"), prefix, str(_node_sdks()), NODE_SDKS[sdk]]

    return command


async def eventually(probe: Callable[[], Awaitable[object]], what: str, seconds: float = 20.0) -> object:
    """Return the first true value of a probe; a probe that raises CallError or OSError is tried again."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := await probe():
                return last
        except (CallError, OSError) as error:
            last = error
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}; last: {last!r}")


class CallError(Exception):
    """An agent's call failed."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message, self.stacktrace = error["code"], error["message"], error["stacktrace"]


class Response:
    """An HTTP response."""

    def __init__(self, status: int, headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Engine:
    """A real engine process that can be stopped and started again on the same ports."""

    def __init__(self, folder: Path, key: SigningKey | None) -> None:
        self.folder, self.key = folder, key
        self.ports = {"port": 0, "http_port": 0, "admin_port": 0}
        self.log = folder / "engine.log"
        self.process: subprocess.Popen | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "agentos_engine", "--realm", REALM, "--data-dir", str(self.folder / "data")]
        for flag, name in (("--port", "port"), ("--http-port", "http_port"), ("--admin-port", "admin_port")):
            command += [flag, str(self.ports[name])]
        environment = {"PATH": os.environ["PATH"]}
        if self.key is not None:
            environment["AGENTOS_VERIFY_KEYS"] = self.key.verify_key
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)  # noqa: ASYNC220 - fork and exec only

        async def listening() -> bool:
            assert self.process is not None
            text = self.log.read_bytes()[start:].decode()
            assert self.process.poll() is None, text
            for line in text.splitlines():
                if '"listening"' in line:
                    fields = json.loads(line)
                    self.ports = {name: fields[name] for name in self.ports}
                    return True
            return False

        await eventually(listening, "the engine listens")

    async def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 15)

    def token(self, subject: str, role: str = "worker") -> str:
        assert self.key is not None
        return issue(self.key, Identity(REALM, subject, f"uid-of-{subject}", role), issued_at=1_700_000_000)

    def url(self, subject: str = "default/test", role: str = "worker", pod: str = "pod-1") -> str:
        base = f"ws://127.0.0.1:{self.ports['port']}"
        return base if self.key is None else f"{base}/w/{self.token(subject, role)}/{pod}"

    async def http(self, method: str, path: str, body: bytes | None = None, headers=None, port: str = "http_port"):
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        request = urllib.request.Request(url, data=body, method=method, headers=headers or {})

        def send() -> Response:
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return Response(answer.status, answer.headers, answer.read())
            except urllib.error.HTTPError as error:
                return Response(error.code, error.headers, error.read())

        return await asyncio.to_thread(send)


class Agent:
    """A worker process on some SDK."""

    def __init__(self, sdk: str, prefix: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.sdk, self.prefix, self.process, self.log = sdk, prefix, process, log
        self._waiting: dict[int, asyncio.Future] = {}
        self._count = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.startswith(b'{"n"'):
                reply = json.loads(line)
                self._waiting.pop(reply["n"]).set_result(reply)

    async def do(self, op: str, **request):
        self._count += 1
        number = self._count
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"n": number, "op": op, **request}).encode() + b"\n")
        reply = await asyncio.wait_for(future, 30)
        if "error" in reply:
            raise CallError(reply["error"])
        return reply["result"]

    async def call(self, function_id: str, *payload, **options):
        """Call a function; no payload at all is something else than None."""
        if payload:
            options["payload"] = payload[0]
        return await self.do("call", function_id=function_id, **options)

    async def end(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self._reader


class Bench:
    """One engine and the workers that a test starts against it."""

    def __init__(self, engine: Engine, folder: Path, sdk_command: Callable[[str, str], list[str]]) -> None:
        self.engine, self._folder, self._sdk_command = engine, folder, sdk_command
        self.agents: list[Agent] = []
        self._sockets: list = []

    async def start(self, sdk: str, prefix: str) -> Agent:
        """Start a worker process; it registers by itself."""
        log = self._folder / f"{prefix}-{len(self.agents)}.log"
        command = await asyncio.to_thread(self._sdk_command, sdk, prefix)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "III_URL": self.engine.url(f"default/{prefix}", pod=f"pod-{prefix}"),
            "OTEL_ENABLED": "false",
            "PYTHONWARNINGS": "ignore",
        }
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, limit=1 << 26
            )
        self.agents.append(Agent(sdk, prefix, process, log))
        return self.agents[-1]

    async def connect(self, **identity) -> "RawWorker":
        """Connect a bare client."""
        self._sockets.append(await websockets.connect(self.engine.url(**identity), max_size=None))
        return RawWorker(self._sockets[-1])

    async def answering(self, *prefixes: str) -> None:
        """Wait until the functions and routes of these workers answer."""
        for prefix in prefixes:

            async def answers(prefix: str = prefix) -> bool:
                return (await self.engine.http("GET", f"/{prefix}/keyless")).status == 200

            await eventually(answers, f"{prefix} answers")

    async def end(self) -> None:
        """End everything and look through the engine's log."""
        for socket in self._sockets:
            await socket.close()
        await asyncio.gather(*(agent.end() for agent in self.agents))
        process = self.engine.process
        if process is not None and process.poll() is None:
            assert await self.engine.stop() == 0
        log = self.engine.log.read_text()
        assert '"exception"' not in log, log
        assert "eyJ" not in log, "a token stands in the engine's log"


class RawWorker:
    """A bare WebSocket client, for what no SDK does."""

    def __init__(self, socket) -> None:
        self.socket = socket

    async def send(self, **message) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self, message_type: str, seconds: float = 10) -> dict:
        """The next message of this type."""
        async with asyncio.timeout(seconds):
            while True:
                message = json.loads(await self.socket.recv())
                if message["type"] == message_type:
                    return message


async def _bench(identity: str, folder: Path, sdk_command) -> Bench:
    engine = Engine(folder, SigningKey.generate() if identity == "tokens" else None)
    await engine.start()
    return Bench(engine, folder, sdk_command)


@pytest.fixture(params=["open", "tokens"])
async def bench(request, tmp_path, sdk_command):
    """A fresh engine, once without and once with identity."""
    made = await _bench(request.param, tmp_path, sdk_command)
    yield made
    await made.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["open", "tokens"])
async def mesh(request, tmp_path_factory, sdk_command):
    """An engine with one worker of each SDK, their prefixes those of ``SDKS``, shared by the tests of a module."""
    made = await _bench(request.param, tmp_path_factory.mktemp("mesh"), sdk_command)
    for sdk, prefix in SDKS.items():
        await made.start(sdk, prefix)
    await made.answering(*SDKS.values())
    yield made
    await made.end()


@pytest.fixture
def wait_for() -> Callable:
    """``await wait_for(probe, "what")``: the first true value of an async probe."""
    return eventually


@pytest.fixture
def call_error() -> type[CallError]:
    """What a failed call of an agent raises."""
    return CallError
