"""How a trigger fires: the condition first, then the function."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agentos_engine.bus.errors import BusError
from agentos_engine.triggers.registry import Binding

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

SKIPPED: Any = object()
"""What :meth:`Firing.run` returns when the condition said no."""

CONDITION_TIMEOUT = 30.0
"""Seconds for a condition function to answer."""


class Firing:
    """Runs the functions of bindings on one bus. A function gets the metadata of its binding with each call."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus

    def start(
        self, binding: Binding, payload: bytes, traceparent: str | None = None, baggage: str | None = None
    ) -> None:
        """Fire and forget; what goes wrong is logged. ``payload`` is raw JSON; the trace is that of the cause."""
        if binding.condition is None:
            self._notify(binding, payload, traceparent, baggage)
        else:
            self._bus.spawn(self._start(binding, payload, traceparent, baggage))

    def start_all(
        self, bindings: Iterable[Binding], payload: bytes, traceparent: str | None = None, baggage: str | None = None
    ) -> None:
        """As :meth:`start`, for many bindings of one type."""
        ready: list[Binding] = []
        for binding in bindings:
            if binding.condition is None:
                ready.append(binding)
            else:
                self.start(binding, payload, traceparent, baggage)
        if ready:
            self._bus.notify_all(ready, payload, traceparent=traceparent, baggage=baggage, source=ready[0].trigger_type)

    async def _start(self, binding: Binding, payload: bytes, traceparent: str | None, baggage: str | None) -> None:
        try:
            allowed = await self.allows(binding, payload, traceparent, baggage)
        except BusError as error:
            log.warning(
                "trigger not fired: its condition failed: %s",
                error.message[:500],
                extra={"trigger_type": binding.trigger_type, "function_id": binding.function_id},
            )
        else:
            if allowed:
                self._notify(binding, payload, traceparent, baggage)

    def _notify(self, binding: Binding, payload: bytes, traceparent: str | None, baggage: str | None) -> None:
        self._bus.notify(
            binding.function_id,
            payload,
            namespace=binding.namespace,
            metadata=binding.metadata,
            traceparent=traceparent,
            baggage=baggage,
            source=binding.trigger_type,
        )

    async def allows(
        self, binding: Binding, payload: bytes, traceparent: str | None = None, baggage: str | None = None
    ) -> bool:
        """Ask the condition function, if there is one: only a literal ``false`` says no. Raises BusError."""
        if binding.condition is None:
            return True
        result = await self._bus.call(
            binding.condition,
            payload,
            namespace=binding.namespace,
            traceparent=traceparent,
            baggage=baggage,
            timeout=CONDITION_TIMEOUT,
            source=binding.trigger_type,
        )
        return result != b"false"

    async def run(
        self,
        binding: Binding,
        payload: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - the bus ends the call
        traceparent: str | None = None,
        baggage: str | None = None,
    ) -> bytes | None:
        """Ask the condition, call the function and return its raw result, or SKIPPED. Raises BusError."""
        if not await self.allows(binding, payload, traceparent, baggage):
            return SKIPPED
        return await self._bus.call(
            binding.function_id,
            payload,
            namespace=binding.namespace,
            metadata=binding.metadata,
            traceparent=traceparent,
            baggage=baggage,
            timeout=timeout,
            source=binding.trigger_type,
        )
