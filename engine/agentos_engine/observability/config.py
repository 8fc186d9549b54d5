"""The settings of the module, with the keys that iii's ``config.yaml`` has for ``iii-observability``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from agentos_engine.config import SettingsError

Exporter = Literal["memory", "otlp", "both"]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=365 * 86400)]

Operator = Literal[">", "gt", ">=", "gte", "<", "lt", "<=", "lte", "==", "eq", "!=", "ne"]
OPERATORS: dict[str, str] = {
    ">": ">",
    "gt": ">",
    ">=": ">=",
    "gte": ">=",
    "<": "<",
    "lt": "<",
    "<=": "<=",
    "lte": "<=",
    "==": "==",
    "eq": "==",
    "!=": "!=",
    "ne": "!=",
}
"""The names of a comparison, each with its sign."""

AlertMetric = Literal[
    "iii.invocations.total",
    "iii.invocations.success",
    "iii.invocations.error",
    "iii.invocations.deferred",
    "iii.workers.spawns",
    "iii.workers.deaths",
    "iii.workers.active",
]
"""What an alert can watch: the last one as it is, the others by how much they grew in the window."""


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """Spans whose name and service match these shell patterns (None matches all) are recorded at this rate."""

    rate: Ratio
    operation: str | None = None
    service: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most so many new traces a second."""

    max_traces_per_second: Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The first rule that matches counts, else ``default``, else the module's ``sampling_ratio``."""

    default: Ratio | None = None
    rules: Annotated[tuple[SamplingRule, ...], Meta(max_length=1000)] = ()
    parent_based: bool = True
    """A span in a trace that its caller has decided about follows that decision."""
    rate_limit: RateLimit | None = None


@dataclass(frozen=True, slots=True)
class AlertAction:
    """``log``; ``webhook``: POST to ``url``; ``function``: a void call of the function ``path``."""

    type: Literal["log", "webhook", "function"] = "log"
    url: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.type == "webhook" and not _is_http_url(self.url or ""):
            raise ValueError("a webhook needs a `url` that begins with http:// or https://")
        if self.type == "function" and not self.path:
            raise ValueError("a function action needs a `path`: the id of the function to call")


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alert fires while ``metric operator threshold`` holds, at most once in ``cooldown_seconds``."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    metric: AlertMetric
    threshold: float
    operator: Operator = ">"
    window_seconds: Annotated[float, Meta(gt=0, le=86400)] = 60
    cooldown_seconds: Annotated[float, Meta(ge=0)] = 60
    action: AlertAction = AlertAction()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class TraceStorage:
    """``memory_max_bytes`` bounds the spans in memory; the other keys are for spans on disk, which are not kept."""

    enabled: bool = False
    directory: str | None = None
    max_disk_bytes: int | None = None
    retention_days: float | None = None
    retention: float | str | None = None
    memory_max_bytes: Annotated[int, Meta(ge=1 << 16)] = 64 << 20


@dataclass(frozen=True, slots=True)
class ObservabilityConfig:
    """All settings. Times are in seconds, sizes in bytes; ``endpoint`` takes OTLP over HTTP."""

    enabled: bool = True
    service_name: str = "iii"
    service_version: str | None = None
    service_namespace: str | None = None
    exporter: Exporter = "memory"
    endpoint: str = "http://localhost:4318"
    sampling_ratio: Ratio = 0.01
    """iii's default is 1. Here every call of a worker would then have a span, which costs half as much as the call."""
    sampling: Sampling = Sampling()
    memory_max_spans: Count = 10_000
    metrics_enabled: bool = True
    metrics_exporter: Exporter = "memory"
    metrics_retention_seconds: Seconds = 3600
    metrics_max_count: Count = 10_000
    logs_enabled: bool = True
    logs_exporter: Exporter = "memory"
    logs_max_count: Count = 1000
    logs_retention_seconds: Seconds = 3600
    logs_sampling_ratio: Ratio = 1.0
    logs_console_output: bool = True
    level: Literal["trace", "debug", "info", "warn", "error"] = "info"
    format: Literal["default", "json"] = "default"
    alerts: Annotated[tuple[AlertRule, ...], Meta(max_length=1000)] = ()
    trace_storage: TraceStorage = TraceStorage()
    live_spans: bool | None = None
    collapse_spans: bool | None = None

    def __post_init__(self) -> None:
        if not _is_http_url(self.endpoint):
            raise ValueError(f"endpoint {self.endpoint!r} is not a URL that begins with http:// or https://")
        names = [rule.name for rule in self.alerts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"alerts must have different names: {', '.join(twice)} is there more than once")


_NESTED: dict[type, dict[str, type]] = {
    ObservabilityConfig: {"sampling": Sampling, "alerts": AlertRule, "trace_storage": TraceStorage},
    Sampling: {"rules": SamplingRule, "rate_limit": RateLimit},
    AlertRule: {"action": AlertAction},
}
_LISTS = ("alerts", "rules")


def read_config(values: Mapping[str, Any] | None, path: str = "config") -> ObservabilityConfig:
    """Read the settings from what stands under ``config:``; keys without a value keep their default.

    Raises SettingsError with the dotted path of the key, beginning with ``path``.
    """
    if values is None:
        return ObservabilityConfig()
    cleaned = _cleaned(values, ObservabilityConfig, path)
    try:
        return msgspec.convert(cleaned, ObservabilityConfig)
    except msgspec.ValidationError as error:
        match = _WITH_PATH.fullmatch(str(error))
        reason, where = (match[1], match[2] or "") if match else (str(error), "")
        raise SettingsError(f"{path}{where}: {reason}") from None


_WITH_PATH = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)


def _cleaned(value: Any, form: type, path: str) -> dict[str, Any]:
    """Return a mapping without the keys that have no value; refuses keys that ``form`` does not have."""
    if form is AlertAction and isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise SettingsError(f"{path}: expected keys and values, got {type(value).__name__}")
    known = [field.name for field in fields(form)]
    nested, types = _NESTED.get(form, {}), get_type_hints(form)
    cleaned: dict[str, Any] = {}
    for key, each in value.items():
        where = f"{path}.{key}"
        if key not in known:
            raise SettingsError(f"{where}: unknown key; known here are {', '.join(known)}")
        if each is None:
            continue
        choices = get_args(types[key]) if get_origin(types[key]) is Literal else ()
        if choices and each not in choices:
            raise SettingsError(f"{where}: {each!r} is not one of {', '.join(choices)}")
        inner = nested.get(key)
        if inner is not None and key in _LISTS:
            if not isinstance(each, list | tuple):
                raise SettingsError(f"{where}: expected a list, got {type(each).__name__}")
            each = [_cleaned(item, inner, f"{where}[{index}]") for index, item in enumerate(each)]
        elif inner is not None:
            each = _cleaned(each, inner, where)
        cleaned[key] = each
    return cleaned
