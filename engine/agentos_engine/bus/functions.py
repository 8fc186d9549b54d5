"""The engine's own functions."""

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agentos_engine import limits
from agentos_engine.bus.errors import BusError

if TYPE_CHECKING:
    from agentos_engine.bus.connection import Connection

Payload = TypeVar("Payload")

MISSING: Any = object()
"""The result of a function that is left out of the answer; None is an explicit null."""


@dataclass(frozen=True, slots=True)
class Context:
    """Who calls one of the engine's own functions, and with what beside the payload.

    ``connection`` is None for calls that the engine itself makes (a trigger, a queue). ``metadata`` is raw JSON.
    ``namespace`` is the iii namespace that the caller asked for.
    """

    function_id: str
    connection: "Connection | None" = None
    traceparent: str | None = None
    baggage: str | None = None
    metadata: bytes | None = None
    namespace: str = "default"


Handler = Callable[[Context, bytes], object | Awaitable[object]]
"""Context and raw JSON payload (``null`` when absent) in; a value that msgspec can encode, or MISSING, out.

Raises BusError.
"""


@dataclass(frozen=True, slots=True)
class Function:
    """One of the engine's own functions."""

    function_id: str
    handler: Handler
    description: str
    internal: bool = False
    """Hidden from listings unless these ask for internal functions."""
    max_payload: int = limits.MAX_BUILT_IN_PAYLOAD
    """Bytes."""


class Functions:
    """All of them, by id. ``families`` serve every id of a function namespace that has no function of its own."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._families: dict[str, Function] = {}
        self.revision = 0
        """Grows with every change."""

    def __iter__(self) -> Iterator[Function]:
        return iter(self._functions.values())

    def add(
        self,
        function_id: str,
        handler: Handler,
        description: str = "",
        *,
        internal: bool = False,
        max_payload: int = limits.MAX_BUILT_IN_PAYLOAD,
    ) -> None:
        """Serve a function; one of the same id is replaced. ``engine::*`` is internal in any case, but for queues."""
        self.revision += 1
        internal = internal or (function_id.startswith("engine::") and not function_id.startswith("engine::queue::"))
        self._functions[function_id] = Function(function_id, handler, description, internal, max_payload)

    def add_family(self, segment: str, handler: Handler, description: str = "") -> None:
        """Serve every other id of a function namespace, such as ``sandbox``."""
        self._families[segment] = Function(f"{segment}::*", handler, description)

    def remove(self, function_id: str) -> None:
        """Serve a function no longer; an unknown one is ignored."""
        self.revision += 1
        self._functions.pop(function_id, None)

    def get(self, function_id: str) -> Function | None:
        """Return the function that serves an id."""
        return self._functions.get(function_id) or self._families.get(function_id.partition("::")[0])


def decode(function_id: str, data: bytes, form: type[Payload]) -> Payload:
    """Return a payload as a msgspec type. Raises BusError ``deserialization_error`` with the text that clients match."""
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        missing = _MISSING_FIELD.fullmatch(str(error))
        reason = f"missing field `{missing[1]}`" if missing else str(error)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error)
    raise BusError("deserialization_error", f"Failed to deserialize input for {function_id}: {reason}")


def decode_optional(function_id: str, data: bytes, form: type[Payload]) -> Payload:
    """The same for a payload that may be left out: null and absent are an empty object."""
    return decode(function_id, b"{}" if data == b"null" else data, form)


_MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")
