"""Trigger types ``log`` (an entry was logged) and ``trace`` (spans of a trace came).

``log``: config ``{"level"?}``, one of all (the default), trace, debug, info, warn, error; an entry fires the bindings of
its own level, fatal ones those of ``error``. Payload: the stored entry.

``trace``: config ``{"service_name"?, "status"?}``; payload ``{"trace_ids": [...]}``, gathered for half a second.

A function that logs, or leaves spans, must not call itself for ever. So every firing begins a trace of its own, and what
then comes in that trace does not fire the same binding again, nor one that led to it: a chain of firings passes each
binding once. A worker without tracing is known by its connection: what it logs while it runs a firing belongs to that
firing. What escapes both (a worker without tracing that logs after it has answered) is held to
:data:`MAX_RATE` firings a second for each binding.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from agentos_engine.bus.connection import Connection
from agentos_engine.bus.errors import BusError
from agentos_engine.observability.logs import LogEntry
from agentos_engine.observability.spans import Span
from agentos_engine.observability.trace_context import SpanContext, new_id
from agentos_engine.token_bucket import TokenBucket
from agentos_engine.triggers.firing import Firing
from agentos_engine.triggers.registry import Binding

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

log = logging.getLogger(__name__)

MAX_RATE = 500.0
"""Firings a second of one binding; as many may come at once after a pause."""
MAX_UNANSWERED = 1000
"""Firings of one binding that its function has not answered yet."""
MAX_CHAINS = 10_000
"""Traces of firings that are remembered, the newest ones."""
TIMEOUT = 30.0
"""Seconds for the function to answer."""
GATHER = 0.5
"""Seconds for which the trace ids of one firing are gathered."""
MAX_TRACE_IDS = 1000
"""Trace ids of one firing; the other ids follow in the next one."""

Chain = frozenset[Binding]
"""The bindings whose firings led to an event."""

_NOTHING: Chain = frozenset()

_Config = TypeVar("_Config")


_LEVELS = ("all", "trace", "debug", "info", "warn", "error")


class _LogConfig(msgspec.Struct):
    level: str | None = None

    def __post_init__(self) -> None:
        self.level = (self.level or "all").lower()
        if self.level not in _LEVELS:
            raise ValueError(f"level {self.level[:50]!r} is not one of {', '.join(_LEVELS)}")


class _TraceConfig(msgspec.Struct):
    service_name: str | None = None
    status: Literal["ok", "error", "unset"] | None = None


class _Served:
    """What is known of one binding."""

    __slots__ = ("bucket", "chains", "dropped", "failing")

    def __init__(self) -> None:
        self.bucket = TokenBucket(MAX_RATE, MAX_RATE)
        self.chains: deque[Chain] = deque()
        """One for each firing that its function has not answered yet."""
        self.dropped = 0
        self.failing = False
        """The last firing failed: only the first failure in a row is logged."""


class Firings:
    """Fires bindings so that no chain of firings passes one twice."""

    def __init__(self, bus: "Bus") -> None:
        self._bus = bus
        self._firing = Firing(bus)
        self._served: dict[Binding, _Served] = {}
        self._traces: OrderedDict[str, Chain] = OrderedDict()
        self.dropped = 0
        """Firings that were left out because a function is called too often, or does not answer."""

    def add(self, binding: Binding) -> None:
        """Begin to fire a binding."""
        self._served[binding] = _Served()

    def remove(self, binding: Binding) -> None:
        """Fire a binding no longer."""
        self._served.pop(binding, None)

    def chain_of(self, trace_ids: Iterable[str | None], connection: Connection | None = None) -> Chain:
        """Return what led to an event in these traces; ``connection``: the worker it came from, when it has no trace."""
        chain = _NOTHING
        for trace_id in trace_ids:
            if trace_id is not None:
                chain |= self._traces.get(trace_id, _NOTHING)
        if connection is not None:
            for binding, served in self._served.items():
                if served.chains and (
                    binding.connection is connection or binding.function_id in connection.registrations
                ):
                    chain = chain.union(*served.chains)
        return chain

    def fire(self, binding: Binding, payload: bytes, chain: Chain) -> None:
        """Call the function of a binding, unless it is part of the chain, or fires too often."""
        served = self._served.get(binding)
        if served is None or binding in chain:
            return
        if len(served.chains) >= MAX_UNANSWERED or not served.bucket.allow(self._bus.clock.machine.monotonic()):
            served.dropped += 1
            self.dropped += 1
            if served.dropped == 1:
                log.warning(
                    "trigger firings are dropped: the function is called too often, or does not answer",
                    extra={"trigger_type": binding.trigger_type, "function_id": binding.function_id},
                )
            return
        chain |= {binding}
        served.chains.append(chain)
        span = SpanContext(new_id(16), new_id(8), sampled=False)
        self._traces[span.trace_id] = chain
        while len(self._traces) > MAX_CHAINS:
            self._traces.popitem(last=False)
        self._bus.spawn(self._run(binding, payload, served, chain, span.traceparent))

    async def _run(self, binding: Binding, payload: bytes, served: _Served, chain: Chain, traceparent: str) -> None:
        try:
            if await self._firing.allows(binding, payload, traceparent):
                await self._bus.call(
                    binding.function_id,
                    payload,
                    namespace=binding.namespace,
                    metadata=binding.metadata,
                    traceparent=traceparent,
                    timeout=TIMEOUT,
                    source=binding.trigger_type,
                )
            served.failing = False
        except BusError as error:
            if not served.failing:
                log.warning(
                    "trigger not fired, or its function failed: %s",
                    error.message[:500],
                    extra={"trigger_type": binding.trigger_type, "function_id": binding.function_id},
                )
            served.failing = True
        finally:
            served.chains.remove(chain)


class LogTrigger:
    """Serves the type ``log``."""

    def __init__(self, firings: Firings) -> None:
        self._firings = firings
        self._levels: dict[Binding, str] = {}

    def bind(self, binding: Binding) -> None:
        """Serve a binding. Raises BusError when its config is refused."""
        self._levels[binding] = _config(binding, _LogConfig).level or "all"
        self._firings.add(binding)

    def unbind(self, binding: Binding) -> None:
        """Serve a binding no longer; one that was refused is ignored."""
        if self._levels.pop(binding, None) is not None:
            self._firings.remove(binding)

    def logged(self, entry: LogEntry, trace_id: str | None = None, connection: Connection | None = None) -> None:
        """Fire for an entry.

        ``trace_id`` is that of the call that logged it, when there was one; ``connection`` the worker that made the
        call, when that said nothing about a trace.
        """
        if not self._levels:
            return
        chain = self._firings.chain_of((entry.trace_id, trace_id), connection)
        for binding, level in list(self._levels.items()):
            if level in ("all", entry.level):
                self._firings.fire(binding, entry.stored, chain)


class TraceTrigger:
    """Serves the type ``trace``."""

    def __init__(self, bus: "Bus", firings: Firings) -> None:
        self._bus = bus
        self._firings = firings
        self._configs: dict[Binding, _TraceConfig] = {}
        self._gathered: dict[Binding, dict[str, None]] = {}
        self._scheduled = False

    def bind(self, binding: Binding) -> None:
        """Serve a binding. Raises BusError when its config is refused."""
        self._configs[binding] = _config(binding, _TraceConfig)
        self._firings.add(binding)

    def unbind(self, binding: Binding) -> None:
        """Serve a binding no longer; one that was refused is ignored."""
        self._gathered.pop(binding, None)
        if self._configs.pop(binding, None) is not None:
            self._firings.remove(binding)

    def came(self, spans: Iterable[Span]) -> None:
        """Fire, soon, for spans that came."""
        if not self._configs:
            return
        for span in spans:
            for binding, config in self._configs.items():
                if config.service_name not in (None, span.service_name) or config.status not in (None, span.status):
                    continue
                if binding not in self._firings.chain_of((span.trace_id,)):
                    self._gathered.setdefault(binding, {})[span.trace_id] = None
        if self._gathered and not self._scheduled:
            self._scheduled = True
            self._bus.clock.machine.call_later(GATHER, self._fire)

    def _fire(self) -> None:
        self._scheduled = False
        gathered, self._gathered = self._gathered, {}
        for binding, trace_ids in gathered.items():
            ids = list(trace_ids)
            for begin in range(0, len(ids), MAX_TRACE_IDS):
                part = ids[begin : begin + MAX_TRACE_IDS]
                payload = msgspec.json.encode({"trace_ids": part})
                self._firings.fire(binding, payload, self._firings.chain_of(part))


def _config(binding: Binding, form: type[_Config]) -> _Config:
    if binding.config is None or binding.config == b"null":
        return form()
    try:
        return msgspec.json.decode(binding.config, type=form)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BusError(
            "trigger_registration_failed", f"the config of trigger {binding.trigger_type}: {error}"
        ) from error
