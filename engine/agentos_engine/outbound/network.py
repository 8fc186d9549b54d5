"""Connections to addresses that were checked. Loaded with the first request."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore

from agentos_engine.outbound.rules import Address, UrlRefused, UrlRules

CONNECT_TIMEOUT = 10.0
"""Seconds for one address of a host to accept the connection."""
MAX_GATHERED = 64 << 10
"""Bytes of a request that are sent at one time."""
MAX_ADDRESSES = 8
"""Addresses of a host that are tried."""

logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines repeat whole response headers


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves names itself, so that the address that is connected to is one that the rules have seen."""

    def __init__(self, rules: UrlRules) -> None:
        self._rules = rules
        self._sockets = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is the library's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that accepts. Raises UrlRefused when none is allowed, else ConnectError."""
        refusal: UrlRefused | None = None
        failure: Exception | None = None
        for address in await _resolve(host, port):
            try:
                self._rules.check_address(host, address)
            except UrlRefused as error:
                refusal = error
                continue
            try:
                return _Gathering(
                    await self._sockets.connect_tcp(str(address), port, CONNECT_TIMEOUT, local_address, socket_options)
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
        if failure is None and refusal is not None:
            raise refusal
        raise httpcore.ConnectError(f"cannot connect: {failure}") from failure

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)


class _Gathering(httpcore.AsyncNetworkStream):
    """Sends head and body of a small request in one piece, as many a hand-written receiver expects it."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._waiting = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Keep bytes until the next read, or until there are many."""
        self._waiting += bytes(buffer)
        if len(self._waiting) > MAX_GATHERED:
            await self._flush(timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Send what was kept, then read."""
        await self._flush(timeout)
        return await self._stream.read(max_bytes, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """Go on with TLS."""
        return _Gathering(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """What is known of the connection."""
        return self._stream.get_extra_info(info)

    async def _flush(self, timeout: float | None) -> None:  # noqa: ASYNC109
        if self._waiting:
            waiting, self._waiting = self._waiting, b""
            await self._stream.write(waiting, timeout)


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise httpcore.ConnectError(f"the host is unknown: {reason}") from error
    addresses = dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found)
    return list(addresses)[:MAX_ADDRESSES]
