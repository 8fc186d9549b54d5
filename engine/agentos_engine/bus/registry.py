"""Which functions there are and which connections serve them."""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from agentos_contracts.patterns import BUILT_IN_IDS, RESERVED_SEGMENTS

from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.connection import DEFAULT_NAMESPACE, Connection

BALANCED = "balanced"
FIRST_WINS = "first-wins"

Remote = Callable[..., Awaitable[bytes | None]]
"""A function that is not at the worker itself: ``(data, invocation_id, *, traceparent, baggage)`` in, raw JSON or
None out; raises BusError."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A function of one connection. The optional fields are raw JSON; ``size`` is that of the message in bytes."""

    function_id: str
    connection: Connection
    local_id: str = ""
    """The id as the worker knows it, when its listener puts a prefix before it; else the same."""
    size: int = 0
    description: bytes | None = None
    request_format: bytes | None = None
    response_format: bytes | None = None
    metadata: bytes | None = None
    internal: bool = False
    """Hidden from listings unless these ask for internal functions."""
    timeout: float | None = None
    """Seconds in which a call is to be answered, from the metadata; None: the engine's own limit."""
    version: str = ""
    """The worker's version: what the metadata say, else its pod."""
    remote: Remote | None = None
    """Set for a function that the engine calls over HTTP instead of asking the worker."""


ENOUGH = 16
"""Owners of one function that are looked at for each call, once one was found that answers."""


class Owners:
    """The live owners of one function, in the order in which their connections first registered anything."""

    __slots__ = ("registrations", "turn")

    def __init__(self) -> None:
        self.registrations: list[Registration] = []
        self.turn = 0
        """Where the search for the next one begins, so that equals take turns."""

    def put(self, registration: Registration) -> None:
        """Add an owner, or give it a new registration in the place of its former one."""
        registrations, serial = self.registrations, registration.connection.serial
        if not registrations or registrations[-1].connection.serial < serial:
            registrations.append(registration)
            return
        at = self._place(serial)
        if registrations[at].connection is registration.connection:
            registrations[at] = registration
        else:
            registrations.insert(at, registration)

    def remove(self, registration: Registration) -> None:
        """Take away an owner, which must be there."""
        del self.registrations[self._place(registration.connection.serial)]

    def _place(self, serial: int) -> int:
        # Thousands of replicas come and go at one time: none of them is searched for one by one.
        return bisect_left(self.registrations, serial, key=lambda each: each.connection.serial)

    def pick(self) -> Registration:
        """Return the owner with the fewest calls in flight; those that answer no calls at present come last.

        Of very many, so that a call costs the same, the best of the next few is good enough.
        """
        registrations = self.registrations
        count = len(registrations)
        best, best_rank, best_at = registrations[0], (3, 0), 0
        for step in range(count):
            at = (self.turn + step) % count
            connection = registrations[at].connection
            away = 1 if connection.draining or connection.congested else 0
            if connection.silent or (away and connection.link.is_full()):
                away = 2
            rank = (away, len(connection.calls))
            if rank < best_rank:
                best, best_rank, best_at = registrations[at], rank, at
                if rank == (0, 0):
                    break
            if step >= ENOUGH and best_rank[0] == 0:
                break
        self.turn = best_at + 1
        return best


def reserved(function_id: str) -> bool:
    """True for ids that only the engine may serve: three whole function namespaces, and the exact built-in ids.

    Not every id of the protocol is a valid claim pattern ("echo" and "a b" are legal), so the tables are asked, not the
    pattern parser.
    """
    segment, separator, _ = function_id.partition("::")
    return (separator != "" and segment in RESERVED_SEGMENTS) or function_id in BUILT_IN_IDS


class Registry:
    """Functions by iii namespace and id. ``routing`` is BALANCED, or FIRST_WINS as in iii 0.23."""

    def __init__(self, routing: str = BALANCED, bounds: Bounds | None = None) -> None:
        self.routing = routing
        self._bounds = bounds or Bounds()
        self.revision = 0
        """Grows with every change."""
        self._serial = 0
        self._namespaces: dict[str, dict[str, Owners]] = {DEFAULT_NAMESPACE: {}}
        self._default = self._namespaces[DEFAULT_NAMESPACE]

    def __len__(self) -> int:
        return sum(len(functions) for functions in self._namespaces.values())

    def __iter__(self) -> Iterator[Registration]:
        """The newest registration of each function."""
        return (owners.registrations[-1] for functions in self._namespaces.values() for owners in functions.values())

    def add(self, registration: Registration) -> Connection | None:
        """Add a function; one that the same connection registered before is replaced and keeps its rank.

        Returns None, or the owner because of which it was not added: only with first-wins.
        """
        connection, function_id = registration.connection, registration.function_id
        functions = self._namespaces.setdefault(connection.namespace, {})
        owners = functions.get(function_id)
        former = connection.registrations.get(function_id)
        if owners is None:
            owners = functions[function_id] = Owners()
        elif former is None and self.routing == FIRST_WINS:
            return owners.registrations[0].connection
        self.revision += 1
        if not connection.serial:
            self._serial += 1
            connection.serial = self._serial
        connection.registrations[function_id] = registration
        connection.registered_bytes += registration.size
        self._bounds.registered += registration.size
        if former is None:
            self._bounds.functions += 1
        else:
            connection.registered_bytes -= former.size
            self._bounds.registered -= former.size
        owners.put(registration)
        return None

    def remove(self, connection: Connection, function_id: str) -> bool:
        """Remove a function of a connection; False when it has none of this id."""
        registration = connection.registrations.pop(function_id, None)
        if registration is None:
            return False
        self.revision += 1
        connection.registered_bytes -= registration.size
        self._bounds.functions -= 1
        self._bounds.registered -= registration.size
        functions = self._namespaces[connection.namespace]
        owners = functions[function_id]
        owners.remove(registration)
        if not owners.registrations:
            del functions[function_id]
            if not functions and connection.namespace != DEFAULT_NAMESPACE:
                del self._namespaces[connection.namespace]
        return True

    def move(self, connection: Connection, namespace: str) -> list[tuple[Registration, Connection]]:
        """Take all functions of a connection into another iii namespace; returns those that it lost to an owner there."""
        registrations = list(connection.registrations.values())
        for registration in registrations:
            self.remove(connection, registration.function_id)
        connection.namespace = namespace
        lost = []
        for registration in registrations:
            owner = self.add(registration)
            if owner is not None:
                lost.append((registration, owner))
        return lost

    @property
    def namespaces(self) -> int:
        """How many iii namespaces hold functions, the default one among them."""
        return len(self._namespaces)

    def has_namespace(self, namespace: str) -> bool:
        """Whether an iii namespace holds functions."""
        return namespace in self._namespaces

    def owners(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> Owners | None:
        """Return the owners of a function."""
        functions = self._default if namespace == DEFAULT_NAMESPACE else self._namespaces.get(namespace)
        return functions.get(function_id) if functions is not None else None

    def choose(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> Registration | None:
        """Return the registration that gets the next call of a function; None when there is none."""
        functions = self._default if namespace == DEFAULT_NAMESPACE else self._namespaces.get(namespace)
        owners = functions.get(function_id) if functions is not None else None
        if owners is None:
            return None
        registrations = owners.registrations
        return registrations[0] if len(registrations) == 1 else owners.pick()

    def find(self, function_id: str) -> list[Registration]:
        """Return the newest registration of a function in each iii namespace that has it."""
        found = (functions.get(function_id) for functions in self._namespaces.values())
        return [owners.registrations[-1] for owners in found if owners is not None]

    def elsewhere(self, function_id: str) -> list[str]:
        """Return the iii namespaces in which a function is registered."""
        return [namespace for namespace, functions in self._namespaces.items() if function_id in functions]
