"""Passes telemetry on to a collector as OTLP over HTTP with JSON bodies."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
from agentos_contracts.redaction import redacted_bytes

from agentos_engine.bus.bus import Bus
from agentos_engine.clock import Clock, Handle

log = logging.getLogger(__name__)

PostJson = Callable[[str, bytes], Awaitable[object]]
"""Sends a JSON body to a URL; raises when that fails. An answer with a ``status`` that is not 2xx is a failure too."""

MAX_QUEUED = 16 << 20
"""Bytes that wait to be sent; when there are more the oldest are dropped."""
MAX_BATCH = 1 << 20
"""Bytes of one request, unless a single item is larger."""
FLUSH_INTERVAL = 1.0
"""Seconds for which items are gathered."""
POST_TIMEOUT = 10.0
MAX_ATTEMPTS = 5
"""Tries before a batch is dropped; the waits between them double from one second."""
STOP_TIMEOUT = 2.0
"""Seconds that the last batches may take when the engine stops."""

GRPC_PORT = 4317
NOT_HTTP = (
    "otlp_grpc_not_supported: port 4317 of {endpoint} is OTLP over gRPC, which this engine does not speak; nothing is "
    "exported. Give the collector's OTLP/HTTP port, 4318 by default."
)

_SIGNALS = {
    b"OTLP": ("/v1/traces", "resourceSpans"),
    b"MTRC": ("/v1/metrics", "resourceMetrics"),
    b"LOGS": ("/v1/logs", "resourceLogs"),
}


class Exporter:
    """Queue, batches and retries in front of one collector; ``endpoint`` is its base URL."""

    def __init__(self, bus: Bus, endpoint: str, post_json: PostJson | None) -> None:
        self.endpoint = endpoint
        self.problem: str | None = None
        """Why nothing can be exported, or why the last try failed."""
        self.exported = 0
        """Items (resources with their telemetry) that the collector took."""
        self.dropped = 0
        """Items that were given up."""
        self._bus = bus
        self._post = post_json
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._bytes = 0
        self._flush: Handle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._stopped = False
        self._pausing = False
        """A batch waits for its next try."""
        if urlsplit(endpoint).port == GRPC_PORT:
            self._post = None
            self.problem = NOT_HTTP.format(endpoint=endpoint)
        elif post_json is None:
            self.problem = "export_not_available: this engine has no HTTP client"

    @property
    def queued(self) -> int:
        """Return how many bytes wait."""
        return self._bytes

    def add(self, kind: bytes, body: bytes) -> None:
        """Queue a frame that has been found to be OTLP/JSON; ``kind`` is OTLP, MTRC or LOGS."""
        if self._post is None or self._stopped:
            return
        body = redacted_bytes(body)
        items = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get(_SIGNALS[kind][1])
        for item in msgspec.json.decode(items, type=list[msgspec.Raw]) if items is not None else ():
            self._queue.append((kind, bytes(item)))
            self._bytes += len(self._queue[-1][1])
        while self._bytes > MAX_QUEUED:
            self._bytes -= len(self._queue.popleft()[1])
            self.dropped += 1
        if self._flush is None and self._sending is None and self._queue:
            self._flush = self._bus.clock.machine.call_later(FLUSH_INTERVAL, self._start)

    async def stop(self) -> None:
        """Send what waits, if that is possible soon, and end."""
        self._stopped = True
        if self._flush is not None:
            self._flush.cancel()
            self._start()
        if self._sending is not None:
            sending = self._sending
            handle = self._bus.clock.machine.call_later(STOP_TIMEOUT, sending.cancel)
            if self._pausing:
                sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            handle.cancel()
        self.dropped += len(self._queue)
        self._queue.clear()
        self._bytes = 0

    def _start(self) -> None:
        self._flush = None
        self._sending = self._bus.spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._queue:
                await self._send_batch(*self._batch())
        finally:
            self._sending = None

    def _batch(self) -> tuple[bytes, list[bytes]]:
        """Take the next items of one kind from the queue."""
        kind = self._queue[0][0]
        items, size = [], 0
        while self._queue and self._queue[0][0] == kind and (not items or size + len(self._queue[0][1]) <= MAX_BATCH):
            items.append(self._queue.popleft()[1])
            size += len(items[-1])
        self._bytes -= size
        return kind, items

    async def _send_batch(self, kind: bytes, items: list[bytes]) -> None:
        path, key = _SIGNALS[kind]
        body = b'{"%s":[%s]}' % (key.encode(), b",".join(items))
        taken = False
        try:
            taken = await self._deliver(self.endpoint.rstrip("/") + path, body)
        finally:
            if taken:
                self.exported += len(items)
            else:
                self.dropped += len(items)

    async def _deliver(self, url: str, body: bytes) -> bool:
        assert self._post is not None
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                self._pausing = True
                await self._bus.clock.machine.sleep(2.0 ** (attempt - 1))
                self._pausing = False
            try:
                await post(self._bus.clock.machine, POST_TIMEOUT, self._post, url, body)
            except Exception as error:  # whatever a foreign server or the network does
                if self.problem is None:
                    log.warning("telemetry could not be exported to %s: %r", self.endpoint, error)
                self.problem = f"the last export failed: {error!r}"
            else:
                self.problem = None
                return True
            if self._stopped:
                break
        return False


async def post(clock: Clock, seconds: float, post_json: PostJson, url: str, body: bytes) -> None:
    """Send a JSON body; raises when it is not taken within so many seconds."""
    answer = await within(clock, seconds, post_json(url, body))
    status = getattr(answer, "status", 200)
    if not 200 <= status < 300:
        raise OSError(f"the answer has HTTP status {status}")


async def within(clock: Clock, seconds: float, work: Awaitable[object]) -> object:
    """Wait for something and return what it gives; raises TimeoutError, and cancels it, when it takes longer than so many seconds."""
    task = asyncio.ensure_future(work)
    late = False

    def cut() -> None:
        nonlocal late
        late = True
        task.cancel()

    handle = clock.call_later(seconds, cut)
    try:
        return await task
    except asyncio.CancelledError:
        if late:
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        task.cancel()
        raise
    finally:
        handle.cancel()
