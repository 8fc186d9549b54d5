"""Where the keys of a token's issuer come from: a file, or the issuer's own address (JWKS)."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from agentos_engine.clock import Clock
from agentos_engine.file_changes import Followed
from agentos_engine.outbound.client import OutboundClient, RequestFailed, ResponseFailed
from agentos_engine.outbound.rules import UrlRefused, UrlRules

log = logging.getLogger(__name__)

MAX_SIZE = 256 << 10
"""Bytes of a key set."""
FETCH_TIMEOUT = 5.0
MIN_INTERVAL = 10.0
"""Seconds between two fetches, however many tokens name keys that are not known."""
REFRESH_INTERVAL = 600.0
"""Seconds after which keys are fetched anew in any case, so that one that was taken back does not stay."""
RETRY_INTERVAL = 30.0
"""The same after a fetch that failed; the keys from before stay."""

Load = Callable[[bytes], None]
"""Takes the text of a key set. Raises ValueError, with what is wrong, and changes nothing then."""


class KeyFile:
    """Keys from a file."""

    def __init__(self, path: Path, load: Load) -> None:
        self._path = path
        self._load = load
        self._changes = Followed([path])

    def start(self) -> None:
        """Read the file; one that is wrong is logged, and the keys from before stay."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_SIZE + 1)
            _take(data, self._load)
        except OSError as error:
            log.error("jwksFile %s: cannot be read: %s", self._path, error.strerror)
        except ValueError as error:
            log.error("jwksFile %s: %s", self._path, error)

    def wanted(self) -> bool:
        """Ask for newer keys; False: there are none to wait for."""
        return False

    async def settled(self) -> None:
        """Return when the keys that were asked for are there, or cannot be had."""

    async def run(self, clock: Clock) -> None:
        """Read the file again whenever it changes; runs until it is cancelled."""
        await self._changes.follow(clock, self.start)


class KeyUrl:
    """Keys from an address. They are fetched at once, now and then, and when a token names one that is not known."""

    def __init__(self, url: str, load: Load, now: Callable[[], float]) -> None:
        self._url = url
        self._load = load
        self._now = now
        # The address stands in the engine's own configuration, and may be a service of the cluster.
        rules = UrlRules(block_private_ips=False, require_https=False)
        self._client = OutboundClient(rules, max_response=MAX_SIZE)
        self._done = asyncio.Event()
        self._wanted = asyncio.Event()
        self._next = 0.0

    def start(self) -> None:
        """Warn of an address that cannot be trusted; the first fetch is that of :meth:`run`."""
        if self._url.startswith("http://"):
            log.warning("jwksUrl: over plain http whoever sits in between may put keys of their own in; use https")

    def wanted(self) -> bool:
        """Ask for newer keys; False: they were fetched a moment ago."""
        if self._done.is_set() and self._now() < self._next:
            return False
        self._done.clear()
        self._wanted.set()
        return True

    async def settled(self) -> None:
        """Return when the keys that were asked for are there, or cannot be had."""
        await self._done.wait()

    async def run(self, clock: Clock) -> None:
        """Fetch the keys, over and over; runs until it is cancelled."""
        try:
            while True:
                self._wanted.clear()
                fetched = await self._fetch()
                self._next = self._now() + MIN_INTERVAL
                self._done.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_INTERVAL if fetched else RETRY_INTERVAL):
                        await self._wanted.wait()
        finally:
            self._done.set()
            await self._client.close()

    async def _fetch(self) -> bool:
        try:
            reply = await self._client.request("GET", self._url, seconds=FETCH_TIMEOUT)
            if reply.status != 200:
                raise ValueError(f"the answer has status {reply.status}, not 200")
            _take(reply.body, self._load)
        except (UrlRefused, RequestFailed, ResponseFailed, ValueError) as error:
            log.error("jwksUrl: the keys cannot be fetched, those from before stay: %s", error)
            return False
        return True


def _take(data: bytes, load: Load) -> None:
    if len(data) > MAX_SIZE:
        raise ValueError(f"the key set has more than {MAX_SIZE >> 10} KiB")
    load(data)
