"""Watching calls: somebody who is told of each call, and stands in for its caller until it has ended."""

from typing import TYPE_CHECKING, Protocol

from agentos_engine.protocol import frames

if TYPE_CHECKING:
    from agentos_engine.bus.connection import Connection
    from agentos_engine.bus.errors import BusError
    from agentos_engine.bus.invocations import Call, Caller
    from agentos_engine.protocol.messages import Message


class Watched:
    """One call that is watched. It is the caller in the place of the one who made the call, and hands on the answer.

    ``traceparent`` is what the function gets instead of the caller's.
    """

    __slots__ = ("traceparent",)

    traceparent: str | None

    def chosen(self, connection: "Connection | None") -> None:
        """Somebody has the function: a worker, or None for the engine."""
        raise NotImplementedError

    def refused(self, error: "BusError") -> None:
        """The call was not made; the caller hears it in another way."""
        raise NotImplementedError

    def sent(self) -> None:
        """The call was made, and nobody waits for an answer."""
        raise NotImplementedError

    def abandoned(self) -> None:
        """Nobody waits for the answer any more."""
        raise NotImplementedError

    def answered(self, call: "Call", message: "Message", frame: bytes) -> None:
        """As of a caller."""
        raise NotImplementedError

    def returned(self, call: "Call", result: bytes | None) -> None:
        """As of a caller."""
        raise NotImplementedError

    def failed(self, call: "Call", error: "BusError") -> None:
        """As of a caller."""
        raise NotImplementedError


class Tap(Protocol):
    """Whoever watches the calls of a bus."""

    def began(
        self,
        function_id: str,
        data: frames.Json,
        caller: "Caller",
        origin: "Connection | None",
        traceparent: str | None,
        source: str,
    ) -> Watched | None:
        """A call is to be made; return who watches it, None for nobody. Never raises.

        ``data`` is raw JSON in memory that is good for this moment only. ``origin`` is the worker that calls; None: the
        engine, of which ``source`` names the part, such as ``cron``.
        """
        ...
