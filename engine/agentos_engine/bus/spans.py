"""Spans of the engine itself: what of its own work becomes part of a trace."""

import inspect
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

from agentos_engine.bus.errors import BusError
from agentos_engine.observability.trace_context import SpanContext, parse_traceparent

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus
    from agentos_engine.bus.functions import Context, Handler

log = logging.getLogger(__name__)

MAX_ERROR = 500
"""Characters of an error that a span keeps."""

UNTRACED = ("engine::log::", "engine::baggage::", "engine::workers::register")
"""Functions, by the beginning of their ids, of which spans would say nothing."""


class Spans(Protocol):
    """Decides which spans are recorded, and records them."""

    @property
    def root_ratio(self) -> float | None:
        """The share of new traces that is recorded; None: that depends on the span's name, so :meth:`sample` decides."""
        ...

    @property
    def parent_based(self) -> bool:
        """Whether a caller's decision about its trace is followed."""
        ...

    def new_trace(self) -> SpanContext | None:
        """Return the beginning of a trace that is to be recorded; None when there are too many of them."""
        ...

    def sample(self, name: str, traceparent: str | None = None) -> SpanContext | None:
        """Return a place in the caller's trace, or in a new one; None: do not record the span."""
        ...

    def record_span(
        self,
        span: SpanContext,
        name: str,
        *,
        start: float,
        end: float,
        kind: str = "internal",
        attributes: Mapping[str, str | int | float | bool] | None = None,
        error: str | None = None,
    ) -> None:
        """Record a span that has ended: times in seconds since 1970."""
        ...


class Span:
    """A span around a piece of work, as a context manager or until :meth:`end`; an exception makes it a failed one.

    It hangs below the caller's ``traceparent``. Without a good one it begins a trace when ``root`` is set, and else is
    not recorded. A ``root`` that is a place in a trace has been decided about: it is recorded there. What is called
    within gets its :attr:`traceparent`, which is the caller's when nothing is recorded.
    """

    __slots__ = ("_attributes", "_bus", "_context", "_kind", "_name", "_spans", "_start", "traceparent")

    def __init__(
        self,
        bus: "Bus",
        name: str,
        traceparent: str | None,
        kind: str = "internal",
        *,
        root: bool | SpanContext = False,
        **attributes: str,
    ) -> None:
        self.traceparent = traceparent
        self._context: SpanContext | None = None
        spans = bus.spans
        if spans is None:
            return
        if isinstance(root, SpanContext):
            context = root
        elif root or parse_traceparent(traceparent):
            context = spans.sample(name, traceparent)
        else:
            return
        if context is None:
            return
        self.traceparent = context.traceparent
        self._context = context
        self._bus = bus
        self._spans = spans
        self._name = name
        self._kind = kind
        self._attributes: dict[str, str | int] = {**attributes}
        self._start = bus.clock.time()

    def end(self, error: str | None = None, attributes: Mapping[str, str | int] = {}) -> None:
        """Record it; once only. ``error`` says why the work failed. Never raises."""
        context, self._context = self._context, None
        if context is None or self._bus.spans is not self._spans:
            return
        try:
            self._spans.record_span(
                context,
                self._name,
                start=self._start,
                end=self._bus.clock.time(),
                kind=self._kind,
                attributes={**self._attributes, **attributes},
                error=error[:MAX_ERROR] if error is not None else None,
            )
        except Exception:  # the work that it is about has been done
            log.exception("a span could not be recorded")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._context is not None:
            self.end(None if error is None else _reason(error))


def call_in_span(bus: "Bus", handler: "Handler", context: "Context", data: bytes) -> object | Awaitable[object]:
    """Call one of the engine's own functions, in a span when the caller has one. Raises what the function raises."""
    function_id = context.function_id
    if function_id.startswith(UNTRACED):
        return handler(context, data)
    span = Span(bus, f"call {function_id}", context.traceparent, "server", function_id=function_id)
    try:
        value = handler(replace(context, traceparent=span.traceparent), data)
    except Exception as error:
        span.end(_reason(error))
        raise
    if inspect.isawaitable(value):
        return _awaited(span, value)
    span.end()
    return value


async def _awaited(span: Span, value: Awaitable[object]) -> object:
    with span:
        return await value


def _reason(error: BaseException) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, BusError) else type(error).__name__
