"""What each built-in worker of a config file is told, with iii's defaults. Times are in the unit that the name says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - iii's default; a file that wants less says so


@dataclass(frozen=True, slots=True)
class Glob:
    """A text in which ``*`` stands for anything."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Expose:
    """Functions that everybody may call: those whose id, iii namespace and metadata are all as given here.

    None and an empty ``metadata`` leave that part open. The values of ``metadata`` are JSON scalars or globs.
    """

    match: Glob | None = None
    namespace: str | None = None
    metadata: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Rbac:
    """Who may do what on a listener; the functions named here are called to decide."""

    auth_function_id: str | None = None
    expose_functions: tuple[Expose, ...] = ()
    on_function_registration_function_id: str | None = None
    on_trigger_registration_function_id: str | None = None
    on_trigger_type_registration_function_id: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerListener:
    """A port for workers."""

    host: str = ANY_ADDRESS
    port: int = 49134
    middleware_function_id: str | None = None
    rbac: Rbac | None = None
    handshake_timeout_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class EngineFunctions:
    """``engine::*``."""


@dataclass(frozen=True, slots=True)
class Observability:
    """Logs, metrics and traces; what ``settings`` may hold is checked where it is used."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)
    """Where the settings stand in the file, for messages about them."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Accepted for the sake of iii's files; this engine never sends anything."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """``configuration::*``. ``directory`` None: the engine's own choice."""

    directory: str | None = None


@dataclass(frozen=True, slots=True)
class HttpFunctions:
    """What functions that are invoked over HTTP may reach."""

    url_allowlist: tuple[str, ...] = ("*",)
    block_private_ips: bool = True
    require_https: bool = True


@dataclass(frozen=True, slots=True)
class Cors:
    """Which other web sites' pages may call the routes; empty: any."""

    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Middleware:
    """A function that is called before the handler of every route; a lower ``priority`` comes first."""

    function_id: str
    phase: str = "preHandler"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Http:
    """The port for HTTP routes. ``default_timeout`` is in milliseconds."""

    host: str = ANY_ADDRESS
    port: int = 3111
    default_timeout: int = 30_000
    concurrency_request_limit: int = 1024
    cors: Cors | None = None
    middleware: tuple[Middleware, ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """The port for streams. ``durable``: keep the items over a restart; None: the engine's own choice.

    With a ``bridge_url``, ``stream::*`` are the functions of the engine there, and no port is listened on.
    """

    host: str = ANY_ADDRESS
    port: int = 3112
    auth_function: str | None = None
    durable: bool | None = None
    bridge_url: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """``state::*``. ``durable``: keep the values over a restart; None: the engine's own choice.

    With a ``bridge_url`` they are the functions of the engine there.
    """

    durable: bool | None = None
    max_value_bytes: int | None = None
    bridge_url: str | None = None


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """A named queue. ``max_retries`` counts all attempts, the first one too."""

    max_retries: int = 3
    concurrency: int = 10
    type: str = "standard"
    message_group_field: str | None = None
    backoff_ms: int = 1000
    poll_interval_ms: int = 100
    max_priority: int | None = None
    priority_field: str | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """Queues. ``durable``: keep the jobs over a restart; None: the engine's own choice."""

    durable: bool | None = None
    queue_configs: tuple[tuple[str, QueueSettings], ...] = ()


@dataclass(frozen=True, slots=True)
class PubSub:
    """Topics."""


@dataclass(frozen=True, slots=True)
class Cron:
    """The trigger type ``cron``."""


@dataclass(frozen=True, slots=True)
class Exec:
    """Shell commands, run one after the other; the last one stays. A change of a file in ``watch`` restarts them."""

    exec: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exposed:
    """A function of this engine that the other one may call, under ``remote_function``."""

    local_function: str
    remote_function: str


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A function of the other engine that is called here as ``local_function``."""

    local_function: str
    remote_function: str
    timeout_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class Bridge:
    """A link to another engine."""

    url: str
    expose: tuple[Exposed, ...] = ()
    forward: tuple[Forwarded, ...] = ()


Options = (
    WorkerListener
    | EngineFunctions
    | Observability
    | Telemetry
    | Configuration
    | HttpFunctions
    | Http
    | Stream
    | State
    | Queue
    | PubSub
    | Cron
    | Exec
    | Bridge
)
