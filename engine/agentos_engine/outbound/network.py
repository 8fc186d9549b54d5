"""Connections to addresses that were checked. Loaded with the first request."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import Any, cast

import httpcore

from agentos_engine.outbound.rules import Address, UrlRefused, UrlRules

CONNECT_TIMEOUT = 10.0
"""Seconds for one address of a host to accept the connection."""
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
                return await self._sockets.connect_tcp(
                    str(address), port, CONNECT_TIMEOUT, local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
        if failure is None and refusal is not None:
            raise refusal
        raise httpcore.ConnectError(f"cannot connect: {failure}") from failure

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise httpcore.ConnectError(f"the host is unknown: {reason}") from error
    addresses = dict.fromkeys(ipaddress.ip_address(entry[4][0]) for entry in found)
    return list(addresses)[:MAX_ADDRESSES]
