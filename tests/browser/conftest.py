"""A real Chromium that looks at a real engine, on which real workers run."""

import asyncio
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.cluster import tools
from tests.cluster.progress import Steps
from tests.compat.engine import wait_for

CHROMIUM = {"chromium": ("chromium",)}
PORTS = ("port", "http-port", "stream-port", "admin-port", "console-port")
PATIENCE_MS = 10_000
WORKERS = Path(__file__).parent / "workers"

expect.set_options(timeout=PATIENCE_MS)


class Stack:
    """An engine process with a console, and worker processes; all end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict.fromkeys(PORTS, 0)
        self.fleet = folder / "fleet.json"
        self._engine: asyncio.subprocess.Process | None = None
        self._workers: dict[str, asyncio.subprocess.Process] = {}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.ports['console-port']}"

    def tell_fleet(self, workers: list[dict]) -> None:
        """Say what `agentos up` would tell of the workers that it supervises."""
        self.fleet.write_text(json.dumps(workers))

    async def start(self) -> None:
        """Start the engine, on the ports that it had before."""
        flags = [f"--{name}={port}" for name, port in self.ports.items()]
        self._engine = await self._process(
            "tests.browser.engine", str(self.fleet), *flags, stdout=asyncio.subprocess.PIPE
        )
        assert self._engine.stdout is not None
        line = await asyncio.wait_for(self._engine.stdout.readline(), 20)
        assert line, (self.folder / "log").read_text()
        self.ports |= json.loads(line)

    async def stop(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            await _end(self._engine)

    async def start_worker(self, name: str, function_id: str) -> None:
        """Start one of the workers here; returns when the engine has this function of it."""
        address = {"III_URL": f"ws://127.0.0.1:{self.ports['port']}"}
        self._workers[name] = await self._process("agentos_workers", "run", str(WORKERS / f"{name}.py"), **address)

        async def there() -> bool:
            return "result" in await self.call("engine::functions::info", {"function_id": function_id})

        await wait_for(there, f"{function_id} is registered")

    async def stop_worker(self, name: str) -> None:
        """Stop a worker."""
        await _end(self._workers.pop(name))

    async def call(self, function_id: str, payload: object = None) -> dict[str, Any]:
        """Call a function through the console's API; returns the answer."""
        body = json.dumps({"function_id": function_id, "payload": payload}).encode()
        request = urllib.request.Request(f"{self.url}/api/call", body, {"content-type": "application/json"})

        def send() -> dict[str, Any]:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)

        return await asyncio.to_thread(send)

    async def end(self) -> None:
        """Stop everything."""
        for name in list(self._workers):
            await self.stop_worker(name)
        await self.stop()

    async def _process(self, module: str, *arguments: str, stdout: int | None = None, **environment: str):
        environment |= {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments, stdout=stdout or log, stderr=log, env=environment
            )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 20)
    except TimeoutError:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium; Debian's package is installed where there is none."""
    tools.install_packages(Steps(), CHROMIUM)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        await browser.close()


@asynccontextmanager
async def running(folder: Path, fleet: bool = True) -> AsyncIterator[Stack]:
    """A stack without workers; without a ``fleet`` the engine runs as in a realm."""
    stack = Stack(folder)
    if fleet:
        stack.tell_fleet([])
    try:
        await stack.start()
        yield stack
    finally:
        await stack.end()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """An engine with the workers `orders` and `shop`, for all tests that leave both as they are."""
    async with running(tmp_path_factory.mktemp("shop")) as stack:
        workers = {"orders": "orders::fail", "shop": "mail::send"}
        await asyncio.gather(*(stack.start_worker(name, function_id) for name, function_id in workers.items()))
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def own(tmp_path: Path) -> AsyncIterator[Stack]:
    """An engine of the test's own, without workers."""
    async with running(tmp_path) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def realm(tmp_path: Path) -> AsyncIterator[Stack]:
    """An engine as it runs in a realm, without workers."""
    async with running(tmp_path, fleet=False) as stack:
        yield stack


Look = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="session")
async def look(browser: Browser) -> AsyncIterator[Look]:
    """``await look(stack, "calls/3")`` opens the page at an address; more arguments are those of the browser's context.

    In the end nothing may have been reported on the browser's console but what begins with one of ``tolerated``, and no
    request have gone elsewhere.
    """
    contexts, told, elsewhere = [], [], []

    async def look(stack: Stack, address: str = "workers", tolerated: tuple[str, ...] = (), **options: Any) -> Page:
        context = await browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.text.startswith(tolerated or ("\0",)) or told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(f"a dialog opened: {dialog.message}"))
        page.on("request", lambda request: request.url.startswith(stack.url) or elsewhere.append(request.url))
        await page.goto(f"{stack.url}/#/{address}")
        await expect(page.locator("#connection")).to_have_text("live")
        return page

    yield look
    for context in contexts:
        await context.close()
    assert told == []
    assert elsewhere == []
