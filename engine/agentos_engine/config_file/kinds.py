"""The built-in workers: their names through the versions of iii, and how the options of each are read."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from agentos_engine import limits
from agentos_engine.config_file import options
from agentos_engine.config_file.document import Node
from agentos_engine.config_file.section import Section

MAX_PORT = 65_535
MAX_MILLISECONDS = 7 * 24 * 3600 * 1000
MAX_COUNT = 1_000_000

_MATCH = re.compile(r"""match\(\s*(["'])(.*)\1\s*\)""")


@dataclass(frozen=True, slots=True)
class Kind:
    """A built-in worker. ``default`` makes its options when a file says nothing of it, or there is no file."""

    name: str
    read: Callable[[Section], options.Options]
    default: Callable[[], options.Options] | None
    always: bool = False
    """Started also when a file does not list it."""
    without_file: bool = False
    """Started when there is no file."""
    repeatable: bool = False


def read_listener(section: Section) -> options.WorkerListener:
    """Read ``iii-worker-manager``."""
    rbac = None
    if section.take("rbac") is not None:
        below = section.section("rbac")
        rbac = options.Rbac(
            auth_function_id=below.optional_text("auth_function_id"),
            expose_functions=tuple(_expose(below, path, node) for path, node in below.nodes("expose_functions")),
            on_function_registration_function_id=below.optional_text("on_function_registration_function_id"),
            on_trigger_registration_function_id=below.optional_text("on_trigger_registration_function_id"),
            on_trigger_type_registration_function_id=below.optional_text("on_trigger_type_registration_function_id"),
        )
        below.end()
    default = options.WorkerListener()
    return options.WorkerListener(
        host=section.text("host", default.host),
        port=section.number("port", default.port, 0, MAX_PORT),
        middleware_function_id=section.optional_text("middleware_function_id"),
        rbac=rbac,
        handshake_timeout_ms=section.number("handshake_timeout_ms", default.handshake_timeout_ms, 1, MAX_MILLISECONDS),
    )


def _expose(rbac: Section, path: str, node: Node) -> options.Expose:
    if isinstance(node.value, str):
        if (found := _MATCH.fullmatch(node.value.strip())) is None:
            remedy = """write match("my-service::*"), where * stands for anything"""
            rbac.findings.error("wrong_type", path, node.line, "not of the form match(...)", remedy)
            return options.Expose(match=options.Glob(""))
        return options.Expose(match=options.Glob(found[2]))
    section = Section(node, path, rbac.findings)
    match, metadata = section.optional_text("match"), section.section("metadata")
    if match is not None and (found := _MATCH.fullmatch(match.strip())) is not None:
        match = found[2]
    wanted = []
    for key in metadata:
        each = metadata.take(key)
        value = None if each is None else each.value
        if isinstance(value, list | dict):
            metadata.error("wrong_type", "not a plain value", "write a text, number, true or false", key)
        elif isinstance(value, str) and (found := _MATCH.fullmatch(value.strip())) is not None:
            value = options.Glob(found[2])
        wanted.append((key, value))
    if match is None and not wanted and isinstance(node.value, dict):
        section.error("missing_key", "neither match nor metadata says which functions", "add one of them")
    namespace = section.optional_text("namespace")
    section.end()
    return options.Expose(options.Glob(match) if match is not None else None, namespace, tuple(wanted))


def read_limits(section: Section) -> tuple[tuple[str, int], ...]:
    """Read the limits that are set, of those in :class:`agentos_engine.limits.Limits`."""
    found = []
    for each in fields(limits.Limits):
        low, high = limits.range_of(each.name)
        value = section.optional_number(each.name, low, high)
        if value is not None:
            found.append((each.name, value))
    section.end()
    return tuple(found)


def read_http(section: Section) -> options.Http:
    """Read ``iii-http``."""
    cors = None
    if section.take("cors") is not None:
        below = section.section("cors")
        cors = options.Cors(below.texts("allowed_origins"), below.texts("allowed_methods"))
        below.end()

    def middleware(each: Section) -> options.Middleware:
        return options.Middleware(
            function_id=each.required_text("function_id"),
            phase=each.choice("phase", "preHandler", ("preHandler",)),
            priority=each.number("priority", 0, -MAX_COUNT, MAX_COUNT),
        )

    default = options.Http()
    return options.Http(
        host=section.text("host", default.host),
        port=section.number("port", default.port, 0, MAX_PORT),
        default_timeout=section.number("default_timeout", default.default_timeout, 1, MAX_MILLISECONDS),
        concurrency_request_limit=section.number(
            "concurrency_request_limit", default.concurrency_request_limit, 1, MAX_COUNT
        ),
        cors=cors,
        middleware=section.sections("middleware", middleware),
    )


def read_stream(section: Section) -> options.Stream:
    """Read ``iii-stream``."""
    default = options.Stream()
    bridge_url = _bridge_url(section)
    return options.Stream(
        host=section.text("host", default.host),
        port=section.number("port", default.port, 0, MAX_PORT),
        auth_function=section.optional_text("auth_function"),
        durable=None if bridge_url else _store(section, "kv"),
        bridge_url=bridge_url,
    )


def read_state(section: Section) -> options.State:
    """Read ``iii-state``."""
    bridge_url = _bridge_url(section)
    durable = None if bridge_url else _store(section, "kv")
    return options.State(durable, section.optional_number("max_value_bytes", 1, 1 << 30), bridge_url)


def read_queue(section: Section) -> options.Queue:
    """Read ``iii-queue``."""
    return options.Queue(_store(section, "builtin"), section.named("queue_configs", _queue))


def _queue(section: Section) -> options.QueueSettings:
    default = options.QueueSettings()
    found = options.QueueSettings(
        max_retries=section.number("max_retries", default.max_retries, 0, MAX_COUNT),
        concurrency=section.number("concurrency", default.concurrency, 1, MAX_COUNT),
        type=section.choice("type", default.type, ("standard", "fifo")),
        message_group_field=section.optional_text("message_group_field"),
        backoff_ms=section.number("backoff_ms", default.backoff_ms, 0, MAX_MILLISECONDS),
        poll_interval_ms=section.number("poll_interval_ms", default.poll_interval_ms, 1, MAX_MILLISECONDS),
        max_priority=section.optional_number("max_priority", 0, 255),
        priority_field=section.optional_text("priority_field"),
    )
    if found.type == "fifo" and found.message_group_field is None:
        remedy = "add the name of the payload's field that says what belongs together"
        section.error("missing_key", "a fifo queue needs message_group_field", remedy)
    return found


def read_pubsub(section: Section) -> options.PubSub:
    """Read ``iii-pubsub``."""
    _store(section, "local")
    return options.PubSub()


def read_cron(section: Section) -> options.Cron:
    """Read ``iii-cron``."""
    _store(section, "kv")
    return options.Cron()


def read_configuration(section: Section) -> options.Configuration:
    """Read ``configuration``."""
    adapter = _adapter(section, "fs")
    directory = section.optional_text("directory") or adapter.optional_text("directory")
    adapter.end(unknown="warning")
    if section.number("ttl_seconds", 0, 0, MAX_COUNT):
        section.warning("ignored", "entries are kept for ever", "remove the key", "ttl_seconds")
    return options.Configuration(directory)


def read_observability(section: Section) -> options.Observability:
    """Take the settings as they are."""
    return options.Observability(section.plain(), section.line)


def read_telemetry(section: Section) -> options.Telemetry:
    """Accept iii's keys."""
    section.flag("enabled", True)
    for key in ("sdk_api_key", "posthog_api_key", "posthog_host", "heartbeat_interval_secs"):
        section.take(key)
    return options.Telemetry()


def read_http_functions(section: Section) -> options.HttpFunctions:
    """Read ``iii-http-functions``."""
    below, default = section.section("security"), options.HttpFunctions()
    found = options.HttpFunctions(
        url_allowlist=below.texts("url_allowlist", default.url_allowlist),
        block_private_ips=below.flag("block_private_ips", default.block_private_ips),
        require_https=below.flag("require_https", default.require_https),
    )
    below.end()
    return found


def read_exec(section: Section) -> options.Exec:
    """Read ``iii-exec``."""
    return options.Exec(section.texts("exec"), section.texts("watch"))


def read_bridge(section: Section) -> options.Bridge:
    """Read ``iii-bridge``."""

    def exposed(each: Section) -> options.Exposed:
        local = each.required_text("local_function")
        return options.Exposed(local, each.text("remote_function", local))

    def forwarded(each: Section) -> options.Forwarded:
        local = each.required_text("local_function")
        timeout = each.number("timeout_ms", 30_000, 1, MAX_MILLISECONDS)
        return options.Forwarded(local, each.text("remote_function", local), timeout)

    url = _engine_url(section, "url")
    return options.Bridge(url, section.sections("expose", exposed), section.sections("forward", forwarded))


def _engine_url(section: Section, key: str) -> str:
    url = section.required_text(key)
    if url and not url.startswith(("ws://", "wss://")):
        section.error("wrong_type", "not the address of an engine", "write ws://HOST:49134", key)
    return url


def read_nothing(section: Section) -> options.EngineFunctions:
    """Read ``iii-engine-functions``, which has no options."""
    return options.EngineFunctions()


_ADAPTER_CLASSES = {
    "KvStore": "kv",
    "KvCronAdapter": "kv",
    "BuiltinQueueAdapter": "builtin",
    "LocalAdapter": "local",
    "RedisAdapter": "redis",
    "RedisCronAdapter": "redis",
    "RabbitMQAdapter": "rabbitmq",
    "Bridge": "bridge",
}


def _bridge_url(section: Section) -> str | None:
    """Return the address in the config of an adapter that is a bridge; None, with nothing read, for all others."""
    adapter = section.take("adapter")
    if adapter is None or not isinstance(adapter.value, dict):
        return None
    names = [adapter.value[key].value for key in ("name", "class") if key in adapter.value]
    if not any(isinstance(name, str) and name.rpartition("::")[2] in ("bridge", "Bridge") for name in names):
        return None
    below = section.section("adapter")
    below.take("name")
    below.take("class")
    config = below.section("config")
    below.end()
    url = _engine_url(config, "bridge_url")
    config.end(unknown="warning")
    return url


_IGNORED = ("file_path", "save_interval_ms", "channel_size", "lock_ttl_ms", "index")


def _adapter(section: Section, served: str) -> Section:
    """Read which adapter is wanted and return its config; an empty one when it is not the one that is served."""
    below = section.section("adapter")
    name, old = below.optional_text("name"), below.optional_text("class")
    config = below.section("config")
    below.end()
    key = "name" if name else "class"
    if old is not None and name is None:
        name = _ADAPTER_CLASSES.get(old.rpartition("::")[2], old)
    if name is None or name == served:
        return config
    remedy = f"use `name: {served}`, or leave the adapter out; what is kept lasts when the engine has --data-dir"
    below.error("adapter_not_supported", f"the adapter {name[:50]!r} is not served", remedy, key)
    return Section(None, config.path, section.findings)


def _store(section: Section, served: str) -> bool | None:
    """Return whether the adapter's config asks for what lasts; None when it does not say."""
    config = _adapter(section, served)
    for key in _IGNORED:
        config.take(key)
    durable = None
    if "store_method" in config:
        durable = config.choice("store_method", "in_memory", ("in_memory", "file_based")) == "file_based"
    if durable and "file_path" in config:
        message = "the path is not used: the engine keeps everything in one store of its own"
        config.warning("ignored", message, "give the folder with --data-dir, and remove the key", "file_path")
    config.end(unknown="warning")
    return durable


KINDS: Sequence[Kind] = (
    Kind("worker-manager", read_listener, options.WorkerListener, always=True, repeatable=True),
    Kind("engine-functions", read_nothing, options.EngineFunctions, always=True),
    Kind("observability", read_observability, options.Observability, always=True),
    Kind("telemetry", read_telemetry, options.Telemetry, always=True),
    Kind("configuration", read_configuration, options.Configuration, always=True),
    Kind("http-functions", read_http_functions, options.HttpFunctions),
    Kind("http", read_http, options.Http, without_file=True),
    Kind("stream", read_stream, options.Stream, without_file=True),
    Kind("state", read_state, options.State, without_file=True),
    Kind("queue", read_queue, options.Queue, without_file=True),
    Kind("pubsub", read_pubsub, options.PubSub, without_file=True),
    Kind("cron", read_cron, options.Cron, without_file=True),
    Kind("exec", read_exec, options.Exec, repeatable=True),
    Kind("bridge", read_bridge, None, repeatable=True),
)

BY_NAME = {each.name: each for each in KINDS} | {f"iii-{each.name}": each for each in KINDS}
"""By the names of iii 0.23, and those with the prefix that it had before."""

BY_CLASS = {
    "modules::worker::WorkerModule": BY_NAME["worker-manager"],
    "modules::api::RestApiModule": BY_NAME["http"],
    "modules::stream::StreamModule": BY_NAME["stream"],
    "modules::state::StateModule": BY_NAME["state"],
    "modules::queue::QueueModule": BY_NAME["queue"],
    "modules::cron::CronModule": BY_NAME["cron"],
    "modules::pubsub::PubSubModule": BY_NAME["pubsub"],
    "modules::observability::OtelModule": BY_NAME["observability"],
    "modules::shell::ExecModule": BY_NAME["exec"],
    "modules::bridge_client::BridgeClientModule": BY_NAME["bridge"],
    "modules::telemetry::TelemetryModule": BY_NAME["telemetry"],
    "modules::http_functions::HttpFunctionsModule": BY_NAME["http-functions"],
}
"""By the class names of iii 0.10."""
