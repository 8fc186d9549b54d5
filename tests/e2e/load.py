"""A worker whose calls take half a second, and calls to it at a steady rate."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from tests import demo
from tests.cluster import Cluster
from tests.e2e.support import NAMESPACE, worker

SLOW = """
import asyncio, os, signal, threading
ended = threading.Event()
# Before all else: a first process that has not said what a signal does is not ended by it.
signal.signal(signal.SIGTERM, lambda *_: ended.set())
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
async def slow(data):
    await asyncio.sleep(0.5)
    return {"status_code": 200, "body": {"from": os.environ["POD_UID"]}}
name = os.environ["FUNCTIONS"]
worker.register_function(name, slow)
worker.register_trigger({"type": "http", "function_id": name, "config": {"api_path": name.replace("::", "/"), "http_method": "POST"}})
ended.wait()
worker.shutdown()
"""
"""A worker on the unmodified SDK that takes half a second for each call, many at a time; its answer names the pod."""


def slow_worker(name: str, **spec: Any) -> dict[str, Any]:
    """A Worker with the one function ``NAME::run``."""
    return worker(name, f"{name}::run", **{"command": ["python3", "-c", SLOW]} | spec)


class Load:
    """What has become of the calls so far: ``answers`` by pod, ``failures`` as they were told."""

    def __init__(self, url: str, key: str, rate: float) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.sent = 0
        self._url, self._key, self._rate = url, key, rate
        self._stop = threading.Event()

    async def _call(self, session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(self._url, json={}) as answer:
                if answer.status == 200:
                    self.answers[(await answer.json())["from"]] += 1
                else:
                    self.failures.append(f"{answer.status} {await answer.text()}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failures.append(repr(error))

    async def _run(self) -> None:
        timeout, headers = aiohttp.ClientTimeout(total=30), {"Authorization": f"Bearer {self._key}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
            calls: set[asyncio.Task[None]] = set()
            started = time.monotonic()
            while not self._stop.is_set():
                while self.sent < (time.monotonic() - started) * self._rate:
                    self.sent += 1
                    task = asyncio.create_task(self._call(session))
                    calls.add(task)
                    task.add_done_callback(calls.discard)
                await asyncio.sleep(0.005)
            await asyncio.gather(*calls)


@contextmanager
def load(cluster: Cluster, name: str, rate: float = 100.0) -> Iterator[Load]:
    """Calls the function of a slow Worker so many times a second; on leaving every call has its answer."""
    base = f"http://{cluster.service_address(NAMESPACE, 'agentos-engine', demo.HTTP_PORT)}"
    made = Load(f"{base}/{name}/run", demo.api_key(cluster), rate)
    thread = threading.Thread(target=lambda: asyncio.run(made._run()), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        thread.join(60)
