"""Which functions there are and which connections serve them."""

from collections.abc import Iterator
from dataclasses import dataclass

from agentos_contracts.patterns import BUILT_IN_IDS, RESERVED_SEGMENTS

from agentos_engine.bus.connection import Connection


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A function of one connection. The optional fields are raw JSON; ``size`` is that of the message in bytes."""

    function_id: str
    connection: Connection
    size: int = 0
    description: bytes | None = None
    request_format: bytes | None = None
    response_format: bytes | None = None
    metadata: bytes | None = None
    internal: bool = False
    """Hidden from listings unless these ask for internal functions."""


def reserved(function_id: str) -> bool:
    """True for ids that only the engine may serve: three whole function namespaces, and the exact built-in ids.

    Not every id of the protocol is a valid claim pattern ("echo" and "a b" are legal), so the tables are asked, not the
    pattern parser.
    """
    segment, separator, _ = function_id.partition("::")
    return (separator != "" and segment in RESERVED_SEGMENTS) or function_id in BUILT_IN_IDS


class Registry:
    """Functions by id, each with its live owners, oldest first."""

    def __init__(self) -> None:
        self._owners: dict[str, list[Registration]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[Registration]:
        """The registration that :meth:`choose` would give, for each function."""
        return (owners[-1] for owners in self._owners.values())

    def add(self, registration: Registration) -> None:
        """Add a function; one that the same connection registered before is replaced and keeps its rank."""
        connection, function_id = registration.connection, registration.function_id
        owners = self._owners.setdefault(function_id, [])
        former = connection.registrations.get(function_id)
        connection.registrations[function_id] = registration
        connection.registered_bytes += registration.size
        if former is None:
            owners.append(registration)
        else:
            connection.registered_bytes -= former.size
            owners[owners.index(former)] = registration

    def remove(self, connection: Connection, function_id: str) -> bool:
        """Remove a function of a connection; False when it has none of this id."""
        registration = connection.registrations.pop(function_id, None)
        if registration is None:
            return False
        connection.registered_bytes -= registration.size
        owners = self._owners[function_id]
        owners.remove(registration)
        if not owners:
            del self._owners[function_id]
        return True

    def choose(self, function_id: str) -> Connection | None:
        """Return the connection that gets the next call of a function: the newest live one; None when there is none."""
        owners = self._owners.get(function_id)
        return owners[-1].connection if owners else None
