"""The console's port: on loopback only, for people and their tools."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agentos_engine.console import access, assets
from agentos_engine.console.api import Api, Refusal
from agentos_engine.console.options import ConsoleOptions
from agentos_engine.console.recorder import Recorder
from agentos_engine.console.streams import Current
from agentos_engine.protocol.http import Request, error_response
from agentos_engine.server.http import Exchange, HttpServer

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

LOOPBACK = "127.0.0.1"
MAX_BUFFERED = 64 << 20
"""Bytes of the bodies of all requests that are in memory at one time."""

_SECURITY = (
    b"content-security-policy: default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    b"cross-origin-resource-policy: same-origin\r\n"
    b"referrer-policy: no-referrer\r\n"
    b"x-content-type-options: nosniff\r\n"
)


class Console:
    """The page, its files and the API behind it. For ``about`` and ``current_streams`` see :class:`Api`."""

    def __init__(
        self,
        bus: "Bus",
        options: ConsoleOptions | None,
        about: Callable[[], Mapping[str, object]],
        current_streams: Current,
    ) -> None:
        options = options or ConsoleOptions()
        self.recorder = Recorder(bus, payloads=options.payloads)
        self._options = options
        self._api = Api(bus, self.recorder, options, about, current_streams)
        self._assets = assets.load()
        self._routes: dict[str, tuple[str, Callable[[Exchange], None]]] = {
            "/": ("GET", lambda exchange: self._asset(exchange, assets.PAGE)),
            "/api/info": ("GET", self._api.info),
            "/api/fleet": ("GET", self._api.fleet),
            "/api/call": ("POST", self._api.call),
            "/api/calls": ("GET", self._api.calls),
            "/api/events": ("GET", self._api.events),
        }
        self._folders: dict[str, Callable[[Exchange, str], None]] = {
            "/assets/": self._asset,
            "/api/calls/": self._api.call_record,
            "/api/streams/": self._api.stream,
        }
        self._server = HttpServer(
            self._handle,
            refusal=lambda exchange: access.refusal(exchange.request),
            headers=_headers,
            max_buffered=MAX_BUFFERED,
            bounds=bus.bounds,
        )

    async def listen(self, port: int) -> int:
        """Start to listen on loopback and return the port. Raises OSError when that is not possible."""
        port = await self._server.listen(LOOPBACK, port)
        if self._options.always:
            self.recorder.attach()
        return port

    async def close(self) -> None:
        """End all connections."""
        await self._server.close()
        self._api.close()

    def _handle(self, exchange: Exchange) -> None:
        response = access.refusal(exchange.request)
        if response is not None:
            exchange.respond(response)
            return
        try:
            self._serve(exchange)
        except Refusal as error:
            exchange.respond(error_response(error.status, error.code, error.message))

    def _serve(self, exchange: Exchange) -> None:
        method, path = exchange.request.method, exchange.request.path
        if (route := self._routes.get(path)) is not None:
            _check_method(method, route[0])
            route[1](exchange)
            return
        for folder, serve in self._folders.items():
            if path.startswith(folder):
                _check_method(method, "GET")
                serve(exchange, path.removeprefix(folder))
                return
        raise Refusal(404, "NOT_FOUND", "there are /, /assets/ and /api/")

    def _asset(self, exchange: Exchange, name: str) -> None:
        asset = self._assets.get(name)
        if asset is None:
            raise Refusal(404, "NOT_FOUND", "the console has no such file")
        exchange.respond(asset)


def _check_method(method: str, allowed: str) -> None:
    if method != allowed:
        raise Refusal(405, "METHOD_NOT_ALLOWED", f"only {allowed}")


def _headers(request: Request | None) -> bytes:
    return _SECURITY
