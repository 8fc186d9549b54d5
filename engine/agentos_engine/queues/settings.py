"""How a queue works: order, retries, concurrency. Read from ``queue_configs`` and from a subscriber's ``queue_config``."""

from collections.abc import Mapping

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.config import SettingsError

MAX_ATTEMPTS = 1000
"""Largest number of retries that can be asked for."""
MAX_CONCURRENCY = 1000
MAX_PRIORITY = 255
MAX_BACKOFF = 86_400.0
"""Seconds: the longest wait between two attempts, whatever the formula gives."""
MAX_DELAY = 7 * 86_400.0
"""Seconds: the longest that a message can be held back before its first attempt."""
RUN_TIMEOUT = 3600.0
"""Seconds that an attempt may take when nothing else is said; then it has failed."""
MAX_RUN_TIMEOUT = 12 * 3600.0
MAX_GROUP_LENGTH = 1024
"""Characters of the JSON of a group's value."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one queue; times are in seconds. ``attempts`` is the total number of times that a job may run."""

    attempts: int = 3
    concurrency: int = 10
    fifo: bool = False
    group_field: str | None = None
    priority_field: str | None = None
    max_priority: int = 0
    backoff: float = 1.0
    backoff_grows: bool = True
    delay: float = 0.0
    timeout: float = RUN_TIMEOUT

    def wait_after(self, attempt: int) -> float:
        """Seconds from the failure of an attempt (the first is 1) to the next one: doubled each time, and bounded."""
        # 2.0**1000 is still a float; the bound on attempts keeps this from overflowing.
        return min(self.backoff * (2.0 ** (attempt - 1) if self.backoff_grows else 1.0), MAX_BACKOFF)

    def place(self, data: bytes) -> tuple[str | None, int]:
        """Return group and priority of a payload, which is raw JSON.

        Raises BusError ``enqueue_error`` when the queue needs a group and the payload has none. A priority that is
        missing or no number counts as 0, one beyond the bounds as the nearest bound.
        """
        if self.group_field is None and self.priority_field is None:
            return None, 0
        try:
            fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            fields = {}
        group = None
        if self.group_field is not None:
            value = _value(fields, self.group_field)
            if value is None:
                raise BusError(
                    "enqueue_error",
                    f"this queue is fifo: the data must be an object whose field '{self.group_field}' "
                    "(its message_group_field) is there and not null",
                )
            group = msgspec.json.encode(value, order="deterministic").decode()
            if len(group) > MAX_GROUP_LENGTH:
                raise BusError(
                    "enqueue_error", f"the value of '{self.group_field}' is longer than {MAX_GROUP_LENGTH} characters"
                )
        priority = _value(fields, self.priority_field) if self.priority_field is not None else None
        if not isinstance(priority, int | float) or isinstance(priority, bool):
            return group, 0
        return group, int(min(max(priority, 0), self.max_priority))


def _value(fields: dict[str, msgspec.Raw], name: str) -> object:
    try:
        return msgspec.json.decode(fields[name]) if name in fields else None
    except (msgspec.DecodeError, RecursionError):
        return None


class _Named(msgspec.Struct):
    """A queue as config.yaml writes it. ``poll_interval_ms`` is taken and not needed: queues wake up by themselves."""

    type: str | None = None
    max_retries: int | None = None
    concurrency: int | None = None
    message_group_field: str | None = None
    backoff_ms: int | None = None
    poll_interval_ms: int | None = None
    max_priority: int | None = None
    priority_field: str | None = None


class _Subscriber(msgspec.Struct, rename="camel"):
    """A subscriber's ``queue_config``. ``max_priority`` is taken; messages of topics carry no priority."""

    type: str | None = None
    max_retries: int | None = None
    concurrency: int | None = None
    backoff_type: str | None = None
    backoff_delay_ms: int | None = None
    visibility_timeout: float | None = None
    delay_seconds: float | None = None
    max_priority: int | None = None


def read_named(name: str, values: object) -> QueueSettings:
    """Read the settings of a queue in the config. Raises SettingsError that names the key."""
    if not isinstance(name, str) or not name.strip():
        raise SettingsError(f"queue_configs: {name!r} is no name of a queue; write it as a text in quotes")
    try:
        given = msgspec.convert(values if values is not None else {}, _Named)
        fifo = _is_fifo(given.type)
        if fifo and not given.message_group_field:
            raise ValueError(
                "message_group_field is missing: a fifo queue needs the name of the field that groups jobs"
            )
        retries = _within("max_retries", given.max_retries, 3, 0, MAX_ATTEMPTS)
        return QueueSettings(
            attempts=max(1, int(retries)),
            concurrency=int(_within("concurrency", given.concurrency, 10, 1, MAX_CONCURRENCY)),
            fifo=fifo,
            group_field=given.message_group_field if fifo else None,
            priority_field=given.priority_field or None,
            max_priority=int(_within("max_priority", given.max_priority, MAX_PRIORITY, 0, MAX_PRIORITY)),
            backoff=_within("backoff_ms", given.backoff_ms, 1000, 0, MAX_BACKOFF * 1000) / 1000,
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"queue_configs.{name}: {error}") from error


def read_subscriber(queue_config: bytes | None) -> QueueSettings:
    """Read a subscriber's ``queue_config``, raw JSON. Raises BusError ``trigger_registration_failed``."""
    try:
        given = msgspec.json.decode(queue_config or b"null", type=_Subscriber | None) or _Subscriber()
        retries = _within("maxRetries", given.max_retries, 2, 0, MAX_ATTEMPTS)
        if given.backoff_type not in (None, "exponential", "fixed"):
            raise ValueError(f"backoffType is {given.backoff_type[:100]!r}; it is exponential or fixed")
        return QueueSettings(
            attempts=int(retries) + 1,
            concurrency=int(_within("concurrency", given.concurrency, 10, 1, MAX_CONCURRENCY)),
            fifo=_is_fifo(given.type),
            backoff=_within("backoffDelayMs", given.backoff_delay_ms, 1000, 0, MAX_BACKOFF * 1000) / 1000,
            backoff_grows=given.backoff_type != "fixed",
            delay=_within("delaySeconds", given.delay_seconds, 0, 0, MAX_DELAY),
            timeout=_within("visibilityTimeout", given.visibility_timeout, 0, 0, MAX_RUN_TIMEOUT) or RUN_TIMEOUT,
        )
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BusError("trigger_registration_failed", f"queue_config: {error}") from error


def effective(settings: QueueSettings) -> Mapping[str, object]:
    """What is told about the settings of a queue, in the words of the config."""
    told: dict[str, object] = {
        "type": "fifo" if settings.fifo else "standard",
        "max_attempts": settings.attempts,
        "concurrency": settings.concurrency,
        "backoff_ms": round(settings.backoff * 1000),
    }
    if settings.group_field is not None:
        told["message_group_field"] = settings.group_field
    if settings.priority_field is not None:
        told |= {"priority_field": settings.priority_field, "max_priority": settings.max_priority}
    return told


def _is_fifo(kind: str | None) -> bool:
    if kind not in (None, "standard", "concurrent", "fifo"):
        raise ValueError(f"type is {kind[:100]!r}; it is standard or fifo")
    return kind == "fifo"


def _within(name: str, value: float | None, default: float, least: float, most: float) -> float:
    if value is None:
        return default
    if not least <= value <= most:
        raise ValueError(f"{name} is {value:g}; it goes from {least:g} to {most:g}")
    return value
