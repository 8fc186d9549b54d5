"""What the bus needs of queues."""

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from agentos_engine.bus.connection import DEFAULT_NAMESPACE


class Enqueue(Protocol):
    """Puts a call into a named queue and returns its receipt once the queue has it. Raises BusError."""

    def __call__(
        self,
        queue: str,
        function_id: str,
        data: bytes,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        traceparent: str | None = None,
        baggage: str | None = None,
        idempotency_key: str | None = None,
    ) -> Awaitable[str]: ...


def idempotency_key(metadata: bytes | None) -> str | None:
    """Return the key in the metadata of a call, None without one: SDKs pass no other field on."""
    if metadata is None or b"idempotency_key" not in metadata:
        return None
    try:
        value = msgspec.json.decode(metadata)
    except (msgspec.DecodeError, RecursionError):
        return None
    key = value.get("idempotency_key") if isinstance(value, dict) else None
    return key if isinstance(key, str) and key else None
