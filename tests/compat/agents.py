"""Workers on unmodified SDKs in processes of their own, and the bench that holds them and their engine."""

import asyncio
import contextlib
import json
import os
import subprocess
from pathlib import Path

import websockets

from tests.compat import sdks
from tests.compat.engine import CallError, Engine, wait_for
from tests.compat.raw import Proxy, RawWorker

CA_FILES = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS")
"""Variables that tell Python and Node whom to trust."""


class Agent:
    """A worker process on some SDK. The operations are those of ``workers/agent.py``."""

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
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    CallError({"code": "ENDED", "message": f"{self.prefix} ended: {self.log.read_text()}"})
                )

    async def do(self, op: str, **request):
        self._count += 1
        number = self._count
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"n": number, "op": op, **request}).encode() + b"\n")
        reply = await asyncio.wait_for(future, 40)
        if "error" in reply:
            raise CallError(reply["error"])
        return reply["result"]

    async def call(self, function_id: str, *payload, **options):
        """Call a function; no payload at all is something else than None."""
        if payload:
            options["payload"] = payload[0]
        return await self.do("call", function_id=function_id, **options)

    async def function(self, function_id: str, behaviour: str = "record", **options) -> str:
        """Register a function that behaves so, and wait until the engine knows it."""
        await self.do("function", id=function_id, do=behaviour, **options)
        await self.settled()
        return function_id

    async def bind(self, trigger_type: str, function_id: str, config=None, **options) -> int:
        """Bind a trigger; returns its number for :meth:`unbind`."""
        if config is not None:
            options["config"] = config
        binding = await self.do("bind", type=trigger_type, function_id=function_id, **options)
        await self.settled()
        return binding

    async def unbind(self, binding: int) -> None:
        await self.do("unbind", binding=binding)
        await self.settled()

    async def settled(self) -> None:
        """Wait until the engine has read all that was sent before."""
        with contextlib.suppress(CallError):  # a listener may forbid it: that is an answer too
            await self.call("engine::functions::list", {"prefix": "none of these"})

    async def seen(self, function_id: str) -> list:
        """What a function that records was called with, oldest first."""
        return [each["data"] for each in await self.do("seen", id=function_id)]

    async def saw(self, function_id: str, count: int = 1, seconds: float = 20) -> list:
        """Wait until a function that records was called so often; returns all that it was called with."""

        async def enough() -> list | None:
            seen = await self.seen(function_id)
            return seen if len(seen) >= count else None

        return await wait_for(enough, f"{function_id} is called {count} times", seconds)

    async def logged(self, text: str) -> str:
        """Wait until the SDK has logged a line with this text."""

        async def found() -> str | None:
            return next((line for line in await self.do("logged") if text in line), None)

        return await wait_for(found, f"{self.prefix} logs {text!r}")

    async def end(self) -> None:
        """End as a worker that is told to."""
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
    """One engine, and the workers that tests start against it."""

    def __init__(self, engine: Engine, folder: Path, guarded_port: int) -> None:
        self.engine, self._folder = engine, folder
        self.guarded_port = guarded_port
        """Of the listener with rules, where the config has one."""
        self.agents: list[Agent] = []
        self._raw: list[RawWorker] = []
        self._proxies: list[Proxy] = []

    def agent(self, sdk: str) -> Agent:
        """The newest worker on this SDK."""
        return next(each for each in reversed(self.agents) if each.sdk == sdk)

    async def start(
        self,
        sdk: str,
        prefix: str | None = None,
        *,
        environment: dict[str, str] | None = None,
        port: int | None = None,
        flags: tuple[str, ...] = (),
    ) -> Agent:
        """Start a worker process; it registers by itself. ``port``: of a proxy or another listener."""
        prefix = prefix or sdks.PREFIXES[sdk]
        log = self._folder / f"{prefix}-{len(self.agents)}.log"
        command = await asyncio.to_thread(sdks.command, sdk, prefix, flags)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "III_URL": self.engine.url(f"default/{prefix}", pod=f"pod-{prefix}", port=port),
            "OTEL_ENABLED": "false",
            "OTEL_SERVICE_NAME": prefix,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PYTHONWARNINGS": "ignore",
            **({} if self.engine.ca is None else dict.fromkeys(CA_FILES, str(self.engine.ca))),
            **(environment or {}),
        }
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, limit=1 << 26
            )
        self.agents.append(Agent(sdk, prefix, process, log))
        return self.agents[-1]

    async def connect(self, port: int | None = None, query: str = "", headers=None, **identity) -> RawWorker:
        """Connect a bare client."""
        url = self.engine.url(port=port, **identity) + query
        socket = await websockets.connect(
            url, max_size=None, compression=None, additional_headers=headers, ssl=self.engine.context
        )
        self._raw.append(RawWorker(socket))
        return self._raw[-1]

    async def proxy(self, port: int | None = None) -> Proxy:
        """Start a proxy to the engine's port for workers, or another one."""
        made = Proxy(port or self.engine.ports["port"])
        await made.start()
        self._proxies.append(made)
        return made

    async def answering(self, *prefixes: str, seconds: float = 30) -> None:
        """Wait until these workers answer."""
        for prefix in prefixes:

            async def answers(prefix: str = prefix) -> bool:
                return (await self.engine.http("GET", f"/{prefix}/keyless")).status == 200

            await wait_for(answers, f"{prefix} answers", seconds)

    async def worker(self, name: str) -> dict:
        """Wait until a worker of this name is listed; returns what is told of it."""
        probe = await self.connect()

        async def listed() -> dict | None:
            workers = (await probe.call("engine::workers::list", {}))["workers"]
            return next((each for each in workers if each["name"] == name), None)

        found = await wait_for(listed, f"{name} is listed")
        await probe.close()
        return found

    async def end(self) -> None:
        """End everything and look through the engine's log."""
        for proxy in self._proxies:
            await proxy.close()
        for raw in self._raw:
            await raw.close()
        await asyncio.gather(*(agent.end() for agent in self.agents))
        process = self.engine.process
        if process is not None and process.poll() is None:
            assert await self.engine.stop() == 0
        log = self.engine.log.read_text()
        assert '"exception"' not in log, log[-20000:]
        assert "eyJ" not in log, "a token stands in the engine's log"
