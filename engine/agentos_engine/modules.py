"""The modules of an engine: what each entry of the configuration runs."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agentos_contracts.patterns import BUILT_IN_IDS

from agentos_engine.access.gatekeeper import Gatekeeper
from agentos_engine.access.rules import Rbac
from agentos_engine.bridge import Bridge
from agentos_engine.builtins.pubsub import PubSub
from agentos_engine.builtins.queue import Queues
from agentos_engine.builtins.state import State
from agentos_engine.builtins.stream import Streams
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Connection
from agentos_engine.bus.tracer import Tracer
from agentos_engine.config import Settings, SettingsError, port_taken
from agentos_engine.config_file import Entry, options
from agentos_engine.configuration import Configuration
from agentos_engine.exec import Exec
from agentos_engine.http_auth.gate import HttpAuth
from agentos_engine.http_functions import HttpFunctions
from agentos_engine.observability.call_metrics import CallMetrics
from agentos_engine.observability.config import ObservabilityConfig, read_config
from agentos_engine.observability.module import Observability
from agentos_engine.outbound.client import OutboundClient
from agentos_engine.outbound.rules import UrlRules
from agentos_engine.server.paths import Gate
from agentos_engine.server.tls import Tls
from agentos_engine.server.websocket import Liveness, WorkerServer
from agentos_engine.storage.memory import MemoryValues
from agentos_engine.storage.queues import MemoryQueueStore, QueueStore
from agentos_engine.storage.records import MemoryRecords, RecordStore
from agentos_engine.storage.values import ValueStore
from agentos_engine.triggers.cron import Cron
from agentos_engine.triggers.http import Http


class Module(Protocol):
    """A part of the engine that can be started and stopped while the engine runs."""

    async def start(self) -> None:
        """Add functions and trigger types, listen on ports. Raises SettingsError when that is not possible."""
        ...

    async def stop(self) -> None:
        """Take all that back; harmless when it was done."""
        ...


@dataclass(slots=True)
class Parts:
    """What modules share, and what outlives them when the configuration changes."""

    bus: Bus
    channels: Channels
    gate: Gate
    settings: Settings
    metrics: CallMetrics
    memory_values: ValueStore = field(default_factory=MemoryValues)
    memory_queues: QueueStore = field(default_factory=MemoryQueueStore)
    durable_values: ValueStore | None = None
    durable_queues: QueueStore | None = None
    """None when the engine has no folder for what must last."""
    grants: RecordStore = field(default_factory=MemoryRecords)
    sleeping: RecordStore = field(default_factory=MemoryRecords)
    cron: RecordStore = field(default_factory=MemoryRecords)
    """These three are durable when the engine has such a folder: replaced before the first module starts."""
    liveness: Liveness = field(default_factory=Liveness)
    observability: Observability | None = None
    http_auth: HttpAuth | None = None
    """Who may use the REST port; None: everybody."""
    tls: Tls | None = None
    """For the ports of workers, REST and streams; None: they are plain."""
    worker_url: str | None = None
    """Where workers of this machine find the engine; None when they need a token."""

    def values(self, durable: bool | None) -> ValueStore:
        """Return where values are kept: in memory when the configuration wants that, or nothing else is there."""
        return self.memory_values if durable is False else self.durable_values or self.memory_values

    def queues(self, durable: bool | None) -> QueueStore:
        """The same for jobs."""
        return self.memory_queues if durable is False else self.durable_queues or self.memory_queues

    def ingest(self, connection: Connection | None, kind: bytes, body: bytes) -> None:
        """Give telemetry to the module that is there for it at present."""
        if self.observability is not None:
            self.observability.ingest(connection, kind, body)


class WorkerPort:
    """The module ``worker-manager``: one port for workers, with rules of its own when it has some."""

    def __init__(self, parts: Parts, entry: Entry, listener: options.WorkerListener) -> None:
        self._parts = parts
        self._entry = entry
        self._listener = listener
        self._server: WorkerServer | None = None
        self._url: str | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises SettingsError."""
        listener, parts = self._listener, self._parts
        rbac = Rbac.of(listener)
        gatekeeper = Gatekeeper(parts.bus, rbac) if rbac is not None else None
        self._server = WorkerServer(
            parts.bus,
            parts.gate,
            parts.channels,
            parts.ingest,
            gatekeeper,
            tls=parts.tls,
            liveness=parts.liveness,
            handshake_timeout=listener.handshake_timeout_ms / 1000,
        )
        try:
            self.port = await self._server.listen(listener.host, listener.port)
        except OSError as error:
            self._server = None
            raise port_taken(self._entry.key, listener.host, listener.port, error) from error
        if parts.settings.is_open and gatekeeper is None and parts.worker_url is None:
            parts.worker_url = self._url = f"{'ws' if parts.tls is None else 'wss'}://127.0.0.1:{self.port}"

    @property
    def server(self) -> WorkerServer | None:
        """What listens; None when nothing does."""
        return self._server

    def stop_listening(self) -> None:
        """Take no new connections."""
        if self._server is not None:
            self._server.stop_listening()

    async def stop(self) -> None:
        """Close all connections."""
        if self._url is not None and self._parts.worker_url == self._url:
            self._parts.worker_url = None
        if self._server is not None:
            server, self._server = self._server, None
            await server.close()


class Telemetry:
    """The module ``observability``, with the client that it sends telemetry and alerts with."""

    def __init__(self, parts: Parts, config: ObservabilityConfig) -> None:
        self._parts = parts
        # Collectors and webhooks stand in the engine's own configuration, often on the same machine.
        self._client = OutboundClient(UrlRules(block_private_ips=False, require_https=False))
        self._made = Observability(
            bus=parts.bus, config=config, metrics=parts.metrics, post_json=self._client.post_json
        )

    async def start(self) -> None:
        """Take telemetry."""
        await self._made.start()
        self._parts.observability = self._made
        if self._made.makes_spans:
            self._parts.bus.spans = self._made
            self._parts.bus.calls.tracer = Tracer(self._parts.bus, self._made)

    async def stop(self) -> None:
        """Take no more; what waits is sent if that is possible soon."""
        if self._parts.observability is self._made:
            self._parts.observability = None
            self._parts.bus.spans = self._parts.bus.calls.tracer = None
        await self._made.stop()
        await self._client.close()


class Always:
    """A module that is part of every engine, or asks for nothing: nothing to start."""

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""


def make(parts: Parts, entry: Entry) -> Module:
    """Return the module that an entry of the configuration asks for, not started. Raises SettingsError."""
    bus = parts.bus
    match entry.options:
        case options.WorkerListener() as listener:
            return WorkerPort(parts, entry, listener)
        case options.Http() as http:
            return Http(
                bus=bus,
                channels=parts.channels,
                host=http.host,
                port=http.port,
                default_timeout=http.default_timeout,
                concurrency_request_limit=http.concurrency_request_limit,
                cors=http.cors,
                middleware=http.middleware,
                auth=parts.http_auth,
                tls=parts.tls,
            )
        case options.Stream(bridge_url=str(url)) | options.State(bridge_url=str(url)):
            return Bridge(bus=bus, config=_forwarding(entry.kind, url), invoke=False)
        case options.Stream() as stream:
            return Streams(
                bus=bus,
                values=parts.values(stream.durable),
                host=stream.host,
                port=stream.port,
                auth_function=stream.auth_function,
                gate=parts.gate,
                tls=parts.tls,
            )
        case options.State() as state:
            return State(bus=bus, values=parts.values(state.durable), max_value_bytes=state.max_value_bytes)
        case options.Queue() as queue:
            configs = {name: asdict(settings) for name, settings in queue.queue_configs}
            return Queues(bus=bus, store=parts.queues(queue.durable), queue_configs=configs)
        case options.PubSub():
            return PubSub(bus=bus)
        case options.Cron():
            return Cron(bus=bus, records=parts.cron)
        case options.Configuration() as configuration:
            return Configuration(bus=bus, directory=_directory(parts.settings, configuration))
        case options.HttpFunctions() as security:
            return HttpFunctions(bus=bus, security=security)
        case options.Observability() as observability:
            config = _observed(read_config(observability.settings, f"{entry.key}.config"), parts.settings)
            return Telemetry(parts, config)
        case options.Bridge() as bridge:
            return Bridge(bus=bus, config=bridge)
        case options.Exec() as commands:
            return Exec(bus=bus, config=commands, url=lambda: parts.worker_url)
        case _:
            return Always()


def _forwarding(segment: str, url: str) -> options.Bridge:
    """All built-in functions of a function namespace, served by another engine."""
    function_ids = sorted(each for each in BUILT_IN_IDS if each.startswith(f"{segment}::"))
    return options.Bridge(url, forward=tuple(options.Forwarded(each, each) for each in function_ids))


def _directory(settings: Settings, configuration: options.Configuration) -> Path | None:
    if configuration.directory is not None:
        return Path(configuration.directory)
    return settings.data_dir / "configuration" if settings.data_dir is not None else None


def _observed(config: ObservabilityConfig, settings: Settings) -> ObservabilityConfig:
    """Return the settings of the config file, with what flags say instead. Raises SettingsError."""
    if settings.trace_ratio is not None:
        sampling = replace(config.sampling, default=None)
        config = replace(config, sampling_ratio=settings.trace_ratio, sampling=sampling)
    if settings.otlp_endpoint is not None:
        exporter = "both" if config.exporter == "memory" else config.exporter
        try:
            config = replace(config, endpoint=settings.otlp_endpoint, exporter=exporter)
        except ValueError as error:
            raise SettingsError(f"--otlp-endpoint: {error}") from error
    return config
