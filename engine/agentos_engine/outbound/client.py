"""The HTTP client. The library behind it is loaded with the first request, not when the engine starts."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentos_engine.outbound.rules import Target, UrlRules, check_headers

if TYPE_CHECKING:
    import httpcore

DEFAULT_TIMEOUT = 30.0
MAX_TIMEOUT = 60.0
"""Seconds for a whole request, from the look-up of its host to the last byte of the answer."""
MAX_RESPONSE = 16 << 20
"""Bytes of a response's body."""
MAX_BUFFERED = 128 << 20
"""Bytes of all bodies that are being received at one time."""
MAX_IN_FLIGHT = 512
"""Requests of one client in progress."""
MAX_IN_FLIGHT_PER_ORIGIN = 128
"""Requests in progress to one host and port, so that a slow one does not take the place of all others."""
MAX_IDLE = 32
"""Connections that are kept for the next request."""
IDLE_TIMEOUT = 15.0
"""Seconds that they are kept."""


class RequestFailed(Exception):
    """No response came, or none in HTTP: the host is unknown, is not reached, refuses TLS, or takes too long."""


class ResponseFailed(Exception):
    """A response began to come but is of no use: too large, compressed, broken off."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. Header names are in lower case; redirects are not followed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OutboundClient:
    """Sends requests within rules. Connections are reused; close it when it is not needed any more.

    ``tls`` overrides how servers are verified: by the system's certificates when None. ``max_response``: bytes of the
    body of a response, MAX_RESPONSE when None.
    """

    def __init__(self, rules: UrlRules, *, tls: ssl.SSLContext | None = None, max_response: int | None = None) -> None:
        self.rules = rules
        self._tls = tls
        self._max_response = max_response or MAX_RESPONSE
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._buffered = 0
        self._in_flight: dict[str, int] = {}

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        seconds: float = DEFAULT_TIMEOUT,
    ) -> Reply:
        """Send one request and return the response, whatever its status; at most MAX_TIMEOUT seconds are allowed.

        Raises UrlRefused, RequestFailed, ResponseFailed; no message holds more of the URL than its origin.
        """
        target = self.rules.check_url(url)
        headers = headers or {}
        check_headers(headers)
        origin = target.origin
        count = self._in_flight.get(origin, 0)
        if count >= MAX_IN_FLIGHT_PER_ORIGIN or sum(self._in_flight.values()) >= MAX_IN_FLIGHT:
            raise RequestFailed(f"{origin}: too many requests are in progress; try again later")
        self._in_flight[origin] = count + 1
        seconds = min(seconds, MAX_TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                return await self._send(method, target, headers, body)
        except TimeoutError as error:
            raise RequestFailed(f"{origin}: no complete answer within {seconds:g} s") from error
        finally:
            self._in_flight[origin] -= 1
            if not self._in_flight[origin]:
                del self._in_flight[origin]

    async def post_json(
        self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, seconds: float = DEFAULT_TIMEOUT
    ) -> Reply:
        """Post raw JSON, as webhooks want it. Raises as :meth:`request`."""
        given = {"content-type": "application/json", **(headers or {})}
        return await self.request("POST", url, headers=given, body=body, seconds=seconds)

    async def close(self) -> None:
        """Close all connections; requests in progress fail. The client may be used again."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.aclose()

    async def _send(self, method: str, target: Target, headers: Mapping[str, str], body: bytes) -> Reply:
        import httpcore

        host = f"[{target.host}]" if ":" in target.host else target.host
        url = httpcore.URL(
            scheme=target.scheme.encode(), host=host.encode(), port=target.port, target=target.path.encode()
        )
        sent = {
            "host": target.origin.partition("://")[2],
            "user-agent": "agentos-engine",
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-length": str(len(body)),
        }
        sent.update((name.lower(), value) for name, value in headers.items())
        raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        received = False
        try:
            async with self._connections().stream(method, url, headers=raw, content=body) as response:
                received = True
                return Reply(response.status, _headers(response.headers), await self._read(response, target.origin))
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            reason = str(error) or type(error).__name__
            if received:
                raise ResponseFailed(f"{target.origin}: the answer broke off: {reason}") from error
            raise RequestFailed(f"{target.origin}: {reason}") from error

    async def _read(self, response: "httpcore.Response", origin: str) -> bytes:
        headers = _headers(response.headers)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ResponseFailed(f"{origin}: the answer is compressed, although that was not asked for")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_response:
            raise ResponseFailed(f"{origin}: the answer has more than {self._max_response} bytes")
        body = bytearray()
        try:
            async for chunk in response.aiter_stream():
                body += chunk
                self._buffered += len(chunk)
                if len(body) > self._max_response:
                    raise ResponseFailed(f"{origin}: the answer has more than {self._max_response} bytes")
                if self._buffered > MAX_BUFFERED:
                    raise ResponseFailed(f"{origin}: all answers together are too large at the moment; try again later")
            return bytes(body)
        finally:
            self._buffered -= len(body)

    def _connections(self) -> "httpcore.AsyncConnectionPool":
        if self._pool is None:
            import httpcore

            from agentos_engine.outbound.network import CheckedNetwork

            self._pool = httpcore.AsyncConnectionPool(
                ssl_context=self._tls or ssl.create_default_context(),
                max_connections=MAX_IN_FLIGHT,
                max_keepalive_connections=MAX_IDLE,
                keepalive_expiry=IDLE_TIMEOUT,
                network_backend=CheckedNetwork(self.rules),
            )
        return self._pool


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in raw:
        text, key = value.decode("latin-1"), name.decode("latin-1").lower()
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    return joined
