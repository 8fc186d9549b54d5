"""A real engine process."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from agentos_contracts.tokens import Identity, SigningKey, issue

from tests.certificates import Authority

CONFIGS = Path(__file__).parent / "configs"
REALM = "compat"


class CallError(Exception):
    """A call failed; ``code``, ``message`` and ``stacktrace`` are those that the caller was given."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message, self.stacktrace = error["code"], error["message"], error.get("stacktrace")


async def wait_for(probe: Callable[[], Awaitable], what: str, seconds: float = 20.0):
    """Return the first true value of a probe; a probe that raises CallError or OSError is tried again."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := await probe():
                return last
        except (CallError, OSError) as error:
            last = error
        await asyncio.sleep(0.03)
    raise AssertionError(f"not within {seconds} s: {what}; last: {last!r}")


class Response:
    """An HTTP response."""

    def __init__(self, status: int, headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Engine:
    """A real engine process that can be stopped and started again on the same ports.

    ``config`` is a file in ``configs``; without one the engine runs as it does by default.
    """

    def __init__(
        self,
        folder: Path,
        key: SigningKey | None,
        config: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.key, self._config = folder, key, config
        self._environment = {"PATH": os.environ["PATH"], **(environment or {})}
        if key is not None:
            self._environment["AGENTOS_VERIFY_KEYS"] = key.verify_key
            self._environment["AGENTOS_HTTP_AUTH"] = '{"auth": "none"}'
        self.ports = {"port": 0, "http_port": 0, "stream_port": 0, "admin_port": 0}
        self.ca: Path | None = None
        """Who signed the engine's certificate; None: without TLS."""
        self.context: ssl.SSLContext | None = None
        self.log = folder / "engine.log"
        self.process: subprocess.Popen | None = None

    def secure(self, authority: Authority) -> None:
        """Run with TLS."""
        cert, key = authority.issue("engine")
        self._environment |= {"AGENTOS_TLS_CERT": str(cert), "AGENTOS_TLS_KEY": str(key)}
        self.ca, self.context = authority.ca, ssl.create_default_context(cafile=authority.ca)

    async def start(self) -> None:
        command = [sys.executable, "-m", "agentos_engine", "--realm", REALM, "--data-dir", str(self.folder / "data")]
        command += [f"--{name.replace('_', '-')}={port}" for name, port in self.ports.items()]
        command += ["--host", "127.0.0.1"]
        if self._config is not None:
            command += ["--config", str(CONFIGS / self._config)]
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=self._environment)  # noqa: ASYNC220 - fork and exec only

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

        await wait_for(listening, "the engine listens")

    async def stop(self) -> int:
        """Ask the engine to stop; returns its exit code."""
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 15)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await asyncio.to_thread(self.process.wait, 15)

    @property
    def memory(self) -> int:
        """Bytes of memory that the process holds."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def token(self, subject: str, role: str = "host") -> str:
        assert self.key is not None
        return issue(self.key, Identity(REALM, subject, f"uid-of-{subject}", role), issued_at=1_700_000_000)

    def path(self, subject: str = "default/test", role: str = "host", pod: str = "pod-1") -> str:
        """Where a worker's paths begin: the token and the pod, on an engine with identity."""
        return "" if self.key is None else f"/w/{self.token(subject, role)}/{pod}"

    def url(
        self, subject: str = "default/test", role: str = "host", pod: str = "pod-1", port: int | None = None
    ) -> str:
        return f"{'ws' if self.ca is None else 'wss'}://127.0.0.1:{port or self.ports['port']}{self.path(subject, role, pod)}"

    async def http(self, method: str, path: str, body: bytes | None = None, headers=None, port: str = "http_port"):
        context = self.context if port == "http_port" else None
        url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.ports[port]}{path}"
        request = urllib.request.Request(url, data=body, method=method, headers=headers or {})

        def send() -> Response:
            try:
                with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                    return Response(answer.status, answer.headers, answer.read())
            except urllib.error.HTTPError as error:
                return Response(error.code, error.headers, error.read())

        return await asyncio.to_thread(send)
