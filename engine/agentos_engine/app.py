"""The engine put together: the bus, and the modules that its configuration lists."""

import asyncio
import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from agentos_engine import __version__, limits
from agentos_engine.builtins import channels, engine, grants, keys, load, unserved
from agentos_engine.builtins import clock as stepped_time
from agentos_engine.builtins.listings import Listings
from agentos_engine.builtins.queue import Queues
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Connection
from agentos_engine.clock import Clock, Handle, SteppedClock
from agentos_engine.config import Settings, SettingsError, port_taken
from agentos_engine.config_file import EngineConfig, Entry, default_config, diff, options
from agentos_engine.http_auth.gate import http_auth
from agentos_engine.modules import Module, Parts, WorkerPort, make
from agentos_engine.observability.call_metrics import CallMetrics
from agentos_engine.observability.loop_lag import LoopLag
from agentos_engine.observability.scrape import Scrape
from agentos_engine.server.admin import Admin
from agentos_engine.server.http import HttpServer
from agentos_engine.server.paths import Gate
from agentos_engine.server.tls import Tls
from agentos_engine.triggers.availability import Availability
from agentos_engine.triggers.connections import ConnectionsTrigger
from agentos_engine.triggers.http import Http

if TYPE_CHECKING:
    from agentos_engine.console.options import ConsoleOptions
    from agentos_engine.console.server import Console
    from agentos_engine.storage.sqlite import SqliteStorage

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that are listened on; 0 for what settings or configuration leave out."""

    workers: int
    http: int
    stream: int
    admin: int
    console: int = 0


class Engine:
    """One engine; made inside a running event loop. ``console`` says more of the console, if the settings have one."""

    def __init__(
        self,
        settings: Settings,
        config: EngineConfig | None = None,
        clock: Clock | None = None,
        console: "ConsoleOptions | None" = None,
    ) -> None:
        self._settings = settings
        self.config = effective(config, settings)
        ours = self.config.agentos
        timeout = limits.CALL_TIMEOUT if ours.call_timeout_ms is None else ours.call_timeout_ms / 1000
        self.bus = Bus(clock=clock, call_timeout=timeout, routing=ours.routing, bounds=limits.of_config(ours.limits))
        self.channels = Channels(self.bus.clock, self.bus.bounds)
        engine.install(self.bus)
        Listings(self.bus, lambda: [f"iii-{key}" for key in self.modules])
        unserved.install(self.bus)
        channels.install(self.bus, self.channels)
        if isinstance(self.bus.clock, SteppedClock):
            stepped_time.install(self.bus, self.bus.clock, self._jobs_moving)
        ConnectionsTrigger(self.bus)
        Availability(self.bus)
        self.permissions = self.bus.grants
        """What each worker with a token may do."""
        metrics = CallMetrics()
        self.bus.calls.invocations.observe = metrics.called
        self.bus.calls.deferred = metrics.deferred
        self.bus.watchers.append(_WorkerCount(metrics))
        gate = Gate(settings.realm, settings.verifier, settings.anonymous, self.permissions)
        if settings.verifier is not None:
            grants.install(self.bus)
            keys.install(self.bus, gate)
            load.install(self.bus)
        self.parts = Parts(
            self.bus,
            self.channels,
            gate,
            settings,
            metrics,
        )
        self.modules: dict[str, Module] = {}
        """What runs, by the key of its entry in the configuration."""
        self._ready = False
        self._sweep: Handle | None = None
        self._changing = asyncio.Lock()
        self._stopping = False
        self._storage: SqliteStorage | None = None
        self._lag = LoopLag(self.bus.clock)
        self._scrape = Scrape(
            self.parts,
            self.modules.values,
            lambda: self._storage.writer if self._storage is not None else None,
            lambda: self._ready,
            self._lag,
            __version__,
        )
        admin = Admin(self._scrape.text, lambda: self._ready)
        self._admin = HttpServer(admin.handle, max_buffered=limits.MAX_ADMIN_BUFFERED, bounds=self.bus.bounds)
        self._console = None if settings.console_port is None else self._make_console(console)
        self._guarding: asyncio.Task[None] | None = None
        """Keeps keys for the REST port fresh."""
        self._own_ports = 0, 0
        """Admin and console."""
        self._started_at = self.bus.clock.time()

    @property
    def ports(self) -> Ports:
        """The ports at present."""
        return Ports(self._port("worker-manager"), self._port("http"), self._port("stream"), *self._own_ports)

    async def start(self) -> Ports:
        """Start all modules. Raises SettingsError when one cannot be started, or what is stored cannot be used."""
        settings = self._settings
        host = settings.host or LOOPBACK
        try:
            if settings.data_dir is not None:
                # Not imported without need: an engine that keeps nothing does not pay for the database's library.
                from agentos_engine.storage.sqlite import SqliteStorage

                self._storage = storage = await SqliteStorage.open(settings.data_dir)
                self.parts.durable_values, self.parts.durable_queues = storage.values, storage.queues
                self.parts.grants, self.parts.sleeping = storage.grants, storage.sleeping
                self.parts.cron = storage.cron
            await self.permissions.load(self.parts.grants)
            await self.bus.sleepers.load(self.parts.sleeping)
            if settings.tls is not None:
                self.parts.tls = Tls(settings.tls)
                self.bus.spawn(self.parts.tls.follow(self.bus.clock))
            self._guard_rest()
            try:
                admin = await self._admin.listen(host, settings.admin_port)
            except OSError as error:
                raise port_taken("admin", host, settings.admin_port, error) from error
            console = 0 if self._console is None else await self._listen(self._console)
            self._own_ports = admin, console
            for entry in sorted(self.config.entries.values(), key=_rank):
                await self._start(entry)
        except BaseException:
            await self._end()
            raise
        self._look_at_deadlines()
        self._lag.start()
        self._ready = True
        self._warn()
        return self.ports

    async def reload(self, config: EngineConfig) -> None:
        """Start, stop and restart what differs in a new configuration; all else goes on undisturbed.

        An entry that cannot be started is logged and stays out.
        """
        async with self._changing:
            config = effective(config, self._settings)
            if self._stopping:
                return
            changes = diff(self.config, config)
            if changes.settings:
                log.warning("the keys under agentos take effect when the engine is started anew")
            for key in (*changes.removed, *changes.changed):
                await self._stop(key)
            self.config = config
            if changes.http_auth:
                self._guard_rest()
            missing = [key for key in config.entries if key not in self.modules]  # those that failed before, too
            for key in sorted(missing, key=lambda each: _rank(config.entries[each])):
                if self._stopping:
                    return
                try:
                    await self._start(config.entries[key])
                except SettingsError as error:
                    log.error("not started: %s", error)
                except Exception:
                    log.exception("not started: %s", key)
            log.info(
                "configuration changed",
                extra={"added": changes.added, "removed": changes.removed, "restarted": changes.changed},
            )

    async def stop(self) -> None:
        """Let calls and requests in progress end, then let the workers go so that they reconnect to the next engine."""
        self._ready = False
        self._stopping = True
        for module in self.modules.values():
            if isinstance(module, WorkerPort):
                module.stop_listening()
        others = [key for key, module in self.modules.items() if not isinstance(module, WorkerPort)]
        await asyncio.gather(
            self.bus.drain(list(self.bus.connections.values()), limits.DRAIN_TIMEOUT),
            *(self._stop(key) for key in others),
        )
        self.bus.stop_calls()
        await self._end()

    async def _end(self) -> None:
        self._lag.stop()
        if self._sweep is not None:
            self._sweep.cancel()
        for key in list(self.modules):
            await self._stop(key)
        await self._admin.close()
        if self._console is not None:
            console, self._console = self._console, None
            await console.close()
        await self.bus.close()
        if self._storage is not None:
            await self._storage.close()

    async def _start(self, entry: Entry) -> None:
        module = make(self.parts, entry)
        await module.start()
        self.modules[entry.key] = module

    async def _stop(self, key: str) -> None:
        module = self.modules.pop(key, None)
        if module is not None:
            try:
                await module.stop()
            except Exception:  # the others, and the workers that have to be let go, do not wait for it
                log.exception("a part of the engine could not be stopped: %s", key)

    def _guard_rest(self) -> None:
        """Put into effect who may use the REST port."""
        settings = self._settings
        if self._guarding is not None:
            self._guarding.cancel()
            self._guarding = None
        configured = self.config.agentos.http
        if settings.http_auth is not None and configured is not None and configured != settings.http_auth:
            log.warning("agentos.http of the config file is not used: --http-auth says something else")
        auth = http_auth(settings.http_auth or configured, settings.is_open, self.bus.clock)
        self.parts.http_auth = auth
        for module in self.modules.values():
            if isinstance(module, Http):
                module.auth = auth
        if auth is not None:
            self._guarding = self.bus.spawn(auth.follow())

    def _jobs_moving(self) -> int:
        return sum(each.moving for each in self.modules.values() if isinstance(each, Queues))

    def _make_console(self, given: "ConsoleOptions | None") -> "Console":
        # Not imported without need: an engine without a console does not pay for it.
        from agentos_engine.console.server import Console

        return Console(self.bus, given, self._about, self._streams)

    async def _listen(self, console: "Console") -> int:
        port = self._settings.console_port or 0
        try:
            return await console.listen(port)
        except OSError as error:
            raise port_taken("console", LOOPBACK, port, error) from error

    def _about(self) -> dict[str, object]:
        return {
            "realm": self._settings.realm,
            "version": __version__,
            "started_at": int(self._started_at * 1000),
            "ports": asdict(self.ports),
        }

    def _streams(self) -> Streams | None:
        return next((each for each in self.modules.values() if isinstance(each, Streams)), None)

    def _look_at_deadlines(self) -> None:
        self._sweep = self.bus.clock.machine.call_later(limits.SWEEP_INTERVAL, self._look_at_deadlines)
        self.bus.calls.expire()

    def _port(self, kind: str) -> int:
        return next((getattr(self.modules[each.key], "port", 0) for each in self.config.of_kind(kind)), 0)

    def _warn(self) -> None:
        lasting = [each.key for each in self.config.entries.values() if getattr(each.options, "durable", None)]
        if lasting and self._settings.data_dir is None:
            log.warning("%s: kept in memory only; give --data-dir so that it survives the engine", ", ".join(lasting))
        if not self._settings.is_open:
            return
        for entry in self.config.of_kind("worker-manager"):
            listener = entry.options
            assert isinstance(listener, options.WorkerListener)
            if listener.host not in (LOOPBACK, "::1", "localhost") and listener.rbac is None:
                log.warning(
                    "this engine is open: whoever reaches %s port %d may register and call functions; give --verify-keys",
                    listener.host,
                    listener.port,
                )


def _rank(entry: Entry) -> int:
    """Workers connect when all that they may ask for is there, and are started when they can connect."""
    return {"worker-manager": 1, "exec": 2}.get(entry.kind, 0)


class _WorkerCount:
    """Counts workers that came and went."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics
        self._known: set[str] = set()

    def __call__(self, connection: Connection) -> None:
        if connection.closed:
            self._known.discard(connection.id)
            self._metrics.died()
        elif connection.id not in self._known:
            self._known.add(connection.id)
            self._metrics.spawned()


def effective(config: EngineConfig | None, settings: Settings) -> EngineConfig:
    """Return what runs: the file's configuration, or the default one, with the addresses that flags give instead.

    A flag for a port is for the first entry of its kind.
    """
    given = config or default_config()
    host = settings.host if config is not None else settings.host or LOOPBACK
    ports = {"worker-manager": settings.port, "http": settings.http_port, "stream": settings.stream_port}
    entries = dict(given.entries)
    for kind, port in ports.items():
        for position, entry in enumerate(given.of_kind(kind)):
            values: dict[str, object] = {} if host is None else {"host": host}
            if port is not None and position == 0:
                values["port"] = port
            entries[entry.key] = replace(entry, options=replace(entry.options, **values))
    return replace(given, entries=entries)
