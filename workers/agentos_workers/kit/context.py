"""What a handler is given beside its request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .http import HttpRequest


class BusClient(Protocol):
    """The part of the SDK's client that handlers use."""

    def trigger(self, request: dict[str, Any]) -> Any: ...

    async def trigger_async(self, request: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Context:
    """One invocation: who called which function, how, and the way to call others.

    `caller_worker_id` is what the engine says, never the caller; `http` is None for a direct call; `metadata` is the
    sidecar of the call or trigger; `settings` and `resource` are the worker's own (see `Worker`).
    """

    function_id: str
    caller_worker_id: str | None
    http: HttpRequest | None
    metadata: Any
    settings: Any
    resource: Any
    _client: BusClient = field(repr=False)

    async def call(self, function_id: str, payload: Any, timeout: float) -> Any:  # noqa: ASYNC109 (travels to the engine)
        """Calls another function and returns its result; `timeout` in seconds.

        Raises iii.InvocationError, whose `code` says why: ``function_not_found``, ``TIMEOUT``, ``FORBIDDEN``, …
        """
        return await self._client.trigger_async(_request(function_id, payload, timeout))

    def call_blocking(self, function_id: str, payload: Any, timeout: float) -> Any:
        """As `call`, for code that runs in a thread: a handler written as plain `def`, or a pool of the worker."""
        return self._client.trigger(_request(function_id, payload, timeout))


def _request(function_id: str, payload: Any, timeout: float) -> dict[str, Any]:
    # The SDK takes 0 for "use the default of 30 s".
    return {"function_id": function_id, "payload": payload, "timeout_ms": max(1, round(timeout * 1000))}
