"""The decisions about one worker. Pure: a grant in, verdicts out."""

from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from agentos_contracts.findings import shown
from agentos_contracts.grants import Grant, is_named, is_sensitive, scope_matches

from agentos_engine.access.policy import is_infrastructure
from agentos_engine.bus.errors import BusError

if TYPE_CHECKING:
    from agentos_engine.bus.connection import Connection

FORBIDDEN = "FORBIDDEN"
OPERATORS_OWN = "engine::operator::"
"""Functions by which the engine tells the operator something; nobody else has one, or calls one."""
MAX_REMEMBERED = 10_000
"""Function ids that are known to be allowed; with more, all are decided anew."""
LONGEST_REMEMBERED = 256
"""Characters of these ids: longer ones are decided anew each time, so that a worker fills no memory with them."""
FOR_CALLERS = frozenset(
    {
        "configuration::register",
        "engine::queue::enqueue",
        "engine::register_trigger",
        "engine::unregister_trigger",
    }
)
"""Functions that look at who calls: the engine, having them called for a worker, would lend it its own rights."""
_STATE = "state::"


class Socket(Protocol):
    """Something that ends when its worker may do nothing any more."""

    def abort(self) -> None:
        """Cut it."""


class Permissions:
    """What all connections of one worker may do; the grant changes while they are open."""

    __slots__ = ("_claims", "_ids", "_prefixes", "callable", "connections", "grant", "sockets")

    def __init__(self, grant: Grant) -> None:
        self.connections: set[Connection] = set()
        self.sockets: WeakSet[Socket] | None = None
        """Those of the worker that are no connections of the bus: telemetry, channels, streams."""
        self.callable: set[str] = set()
        """Ids that may be called, as far as they were asked for: looked at for every call before anything else."""
        self.replace(grant)

    def replace(self, grant: Grant) -> None:
        """Take another grant; what to do about the connections is the caller's business."""
        self.grant = grant
        self.callable.clear()
        # A whole segment covers the id without "::" of that name, too (see Pattern.matches).
        functions = [each for each in grant.owns if each.is_function]
        whole = {each.segment for each in functions if each.text == f"{each.segment}::*"}
        self._ids = frozenset(each.text for each in functions if each.is_exact) | whole
        self._prefixes = tuple(each.text[:-1] for each in functions if not each.is_exact)
        self._claims = frozenset(each.text for each in grant.owns if not each.is_function)

    def owns(self, function_id: str) -> bool:
        """True when the grant covers a function id."""
        return function_id in self._ids or function_id.startswith(self._prefixes)

    def may_register(self, function_id: str) -> bool:
        """True when the worker may serve the function now."""
        return not self.grant.leaving and self.owns(function_id)

    def may_serve(self, claim: str) -> bool:
        """True when the worker may serve a route, or a trigger type, now; of an empty text, always."""
        return not claim or (not self.grant.leaving and claim in self._claims)

    def check_call(self, function_id: str) -> None:
        """Raise BusError FORBIDDEN, with the line that is missing in the Worker, unless it may call the function."""
        if function_id in self.callable:
            return
        if function_id.startswith(OPERATORS_OWN):
            raise BusError(FORBIDDEN, f"{shown(function_id, 200)} is for the engine to call")
        if not (is_infrastructure(function_id) or self.owns(function_id)):
            self._check_named(function_id)
        if len(function_id) > LONGEST_REMEMBERED:
            return
        if len(self.callable) >= MAX_REMEMBERED:
            self.callable.clear()
        self.callable.add(function_id)

    def may_call(self, function_id: str) -> bool:
        """True when the worker may call the function."""
        try:
            self.check_call(function_id)
        except BusError:
            return False
        return True

    def check_indirect(self, function_id: str) -> None:
        """The same for a function that the engine is to call for the worker: by a queue, by a trigger.

        The engine's calls bring no identity along, so what hangs on it can only be called directly.
        """
        self.check_call(function_id)
        if function_id in FOR_CALLERS:
            raise BusError(FORBIDDEN, f"{self._who} can only call {function_id} itself: not by a queue or a trigger")
        if self.grant.state_scopes is not None and function_id.startswith(_STATE):
            raise BusError(
                FORBIDDEN,
                f"{self._who} has its state scopes limited (spec.stateScopes), so it can only call {function_id} itself: "
                "not by a queue or a trigger",
            )

    def check_scope(self, scope: str | None, function_id: str) -> None:
        """Raise BusError FORBIDDEN unless the worker may use a scope of ``state::*``; None stands for all scopes."""
        allowed = self.grant.state_scopes
        if allowed is None or (scope is not None and any(scope_matches(each, scope) for each in allowed)):
            return
        if scope is None:
            raise BusError(
                FORBIDDEN, f"{self._who} may not use all scopes with {function_id}: name one of its spec.stateScopes"
            )
        raise BusError(
            FORBIDDEN,
            f"{self._who} may not use scope '{shown(scope, 200)}' with {function_id}; "
            f'add this line to its spec.stateScopes:   - "{shown(scope, 200)}"',
        )

    def sees_scope(self, scope: str) -> bool:
        """True when a scope may be shown to the worker."""
        allowed = self.grant.state_scopes
        return allowed is None or any(scope_matches(each, scope) for each in allowed)

    def _check_named(self, function_id: str) -> None:
        calls = self.grant.calls
        if not function_id:
            return  # who calls is told that the call names no function
        name = shown(function_id, 200)
        if calls is not None:
            if is_named(calls, function_id):
                return
            raise BusError(FORBIDDEN, f'{self._who} may not call {name}; add this line to its spec.calls:   - "{name}"')
        if is_sensitive(function_id):
            raise BusError(
                FORBIDDEN,
                f"{self._who} may not call {name}, which is sensitive and must be named; "
                f'give it spec.calls with all that it calls, and in it this line:   - "{name}"',
            )

    @property
    def _who(self) -> str:
        return f"Worker {self.grant.worker or self.grant.uid}"
