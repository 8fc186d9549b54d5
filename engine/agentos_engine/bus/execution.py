"""Calls that the engine carries out itself: of its own functions, and of those that it calls over HTTP."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import msgspec

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import ENGINE_STOPPING, BusError, function_not_found
from agentos_engine.bus.functions import MISSING, Context, Function
from agentos_engine.bus.invocations import NOBODY, Call, Caller
from agentos_engine.bus.registry import Registration
from agentos_engine.bus.spans import call_in_span
from agentos_engine.protocol import frames

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus
    from agentos_engine.bus.calls import Calls

log = logging.getLogger(__name__)


class Execution:
    """The part of the calls of one bus that needs no worker's connection to answer."""

    def __init__(self, bus: "Bus", calls: "Calls") -> None:
        self._bus = bus
        self._calls = calls

    def _function(self, function_id: str, namespace: str, size: int) -> Function:
        function = self._bus.functions.get(function_id)
        if function is None:
            if not function_id:
                raise BusError("function_not_found", "the call names no function: function_id is missing")
            raise function_not_found(function_id, namespace, self._bus.registry.elsewhere(function_id))
        if size > function.max_payload:
            problem = f"{function_id} takes at most {function.max_payload} bytes"
            raise self._bus.bounds.exceeded("built_in_payload", problem, "send less at a time")
        return function

    def carry_out(
        self,
        registration: Registration | None,
        context: Context,
        data: bytes,
        caller: Caller,
        caller_id: str,
        timeout: float | None = None,
        origin: Connection | None = None,
        *,
        has_span: bool = False,
    ) -> Call:
        """Carry out the engine's own function without a registration, else one that the engine calls over HTTP.

        ``has_span`` says that somebody has made a span around the call already. Raises BusError for a function that
        there is not or that fails at once.
        """
        if registration is None:
            return self._run(context, data, caller, caller_id, timeout, origin, has_span)
        return self._run_remote(registration, context, data, caller, caller_id, timeout, origin)

    def _run(
        self,
        context: Context,
        data: bytes,
        caller: Caller,
        caller_id: str,
        timeout: float | None,
        origin: Connection | None,
        has_span: bool,
    ) -> Call:
        function = self._function(context.function_id, context.namespace, len(data))
        self._check_room(context, caller, len(data))
        self._calls.accepted += 1
        try:
            if context.traceparent is not None and self._bus.spans is not None and not has_span:
                value = call_in_span(self._bus, function.handler, context, data)
            else:
                value = function.handler(context, data)
        except BusError:
            raise
        except Exception as error:
            raise internal_error(context.function_id) from error
        now = self._bus.clock.monotonic()
        origin = origin or (context.connection if caller is not NOBODY else None)
        limit = shorter(timeout, self._calls.timeout)
        call = self._calls.invocations.open(context.function_id, caller, caller_id, None, origin, limit, now)
        if caller is NOBODY:
            call.count_void(context.connection)
        if inspect.isawaitable(value):
            call.task = self._bus.spawn(self._finish(call, value))
            self._bus.bounds.hold(call.task, context.connection, len(data))
        else:
            self._return(call, value)
        return call

    def _run_remote(
        self,
        registration: Registration,
        context: Context,
        data: bytes,
        caller: Caller,
        caller_id: str,
        timeout: float | None,
        origin: Connection | None,
    ) -> Call:
        assert registration.remote is not None
        self._check_room(context, caller, len(data))
        self._calls.accepted += 1
        now = self._bus.clock.monotonic()
        limit = shorter(timeout, registration.timeout or self._calls.timeout)
        origin = origin or (context.connection if caller is not NOBODY else None)
        call = self._calls.invocations.open(registration.function_id, caller, caller_id, None, origin, limit, now)
        if caller is NOBODY:
            call.count_void(context.connection)
        answer = registration.remote(data, call.id, traceparent=context.traceparent, baggage=context.baggage)
        call.task = self._bus.spawn(self._finish(call, answer, raw=True))
        self._bus.bounds.hold(call.task, context.connection, len(data))
        return call

    def _check_room(self, context: Context, caller: Caller, size: int) -> None:
        """Raise BusError ``limit_exceeded`` unless there is room for one more call with a payload of this size."""
        connection = context.connection
        if connection is None:
            self._calls.check_room(0, "the engine")
        elif caller is NOBODY:
            self._calls.check_room(connection.voids, "this worker, without waiting,")
        self._bus.bounds.check_held(connection, size)

    async def _finish(self, call: Call, value: Awaitable[object], raw: bool = False) -> None:
        try:
            result = await value
        except asyncio.CancelledError:
            call.task = None
            self._calls.invocations.fail(call, ENGINE_STOPPING)  # unless it has ended, which is why this was cancelled
            raise
        except BusError as error:
            call.task = None
            self._calls.errors.count(error.code)
            self._calls.invocations.fail(call, error)
        except Exception:
            call.task = None
            self._calls.errors.count("internal_error")
            self._calls.invocations.fail(call, internal_error(call.function_id))
        else:
            if raw:
                result = MISSING if result is None else msgspec.Raw(result)  # type: ignore[arg-type]
            self._return(call, result)

    def _return(self, call: Call, value: object) -> None:
        try:
            result = None if value is MISSING else frames.text(value)
        except Exception:
            call.task = None
            self._calls.errors.count("internal_error")
            self._calls.invocations.fail(call, internal_error(call.function_id))
            return
        if not self._calls.invocations.close(call):
            return
        observe = self._calls.invocations.observe
        if observe is not None:
            observe(call.function_id, self._bus.clock.monotonic() - call.started, True)
        call.caller.returned(call, result)


def shorter(first: float | None, second: float | None) -> float | None:
    """Return the shorter of two times; None stands for no limit."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def internal_error(function_id: str) -> BusError:
    """Log the exception that is being handled, and return what the caller is told of it."""
    log.exception("the engine's function %s failed", function_id)
    return BusError("internal_error", f"{function_id} failed inside the engine; its log says why")
