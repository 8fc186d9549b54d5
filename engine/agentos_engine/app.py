"""The engine put together: bus, triggers, built-in functions and the three ports."""

import asyncio
import logging
from dataclasses import dataclass

from agentos_engine import limits
from agentos_engine.builtins import engine, sandbox
from agentos_engine.bus.bus import Bus
from agentos_engine.config import Settings, SettingsError
from agentos_engine.server.admin import Admin
from agentos_engine.server.http import HttpServer
from agentos_engine.server.paths import Gate
from agentos_engine.server.websocket import WorkerServer
from agentos_engine.triggers.connections import ConnectionsTrigger
from agentos_engine.triggers.http import CORS_HEADERS, HttpTrigger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that are listened on."""

    workers: int
    http: int
    admin: int


class Engine:
    """One engine; made inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = False
        self.bus = Bus()
        engine.install(self.bus)
        sandbox.install(self.bus)
        ConnectionsTrigger(self.bus, asyncio.get_running_loop().call_later)
        routes = HttpTrigger(self.bus)
        self.rest = HttpServer(routes.handle, refusal=routes.refusal, headers=CORS_HEADERS)
        self.workers = WorkerServer(self.bus, Gate(settings.realm, settings.verifier))
        admin = Admin(self.bus, self.rest, lambda: self._ready)
        self.admin = HttpServer(admin.handle, max_buffered=limits.MAX_ADMIN_BUFFERED)

    async def start(self) -> Ports:
        """Listen on all ports. Raises SettingsError when one cannot be had."""
        settings = self._settings
        admin = await _listen(self.admin, settings.host, settings.admin_port, "--admin-port")
        http = await _listen(self.rest, settings.host, settings.http_port, "--http-port")
        workers = await _listen(self.workers, settings.host, settings.port, "--port")
        self._ready = True
        if settings.verifier is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
            log.warning(
                "this engine is open: whoever reaches %s port %d may register and call functions; give --verify-keys",
                settings.host,
                workers,
            )
        return Ports(workers, http, admin)

    async def stop(self) -> None:
        """Answer the requests in progress, then let the workers go so that they reconnect to the next engine."""
        self._ready = False
        self.workers.stop_listening()
        await self.rest.drain(limits.HTTP_DRAIN_TIMEOUT)
        await self.workers.close()
        await self.rest.close()
        await self.admin.close()


async def _listen(server: HttpServer | WorkerServer, host: str, port: int, flag: str) -> int:
    try:
        return await server.listen(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"cannot listen on {host} port {port}: {reason}; choose another with {flag}") from error
