"""What a Worker's connections to the engine say of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentos_contracts.patterns import Pattern

from ..bus import Connection

FUNCTIONS_NAMED = 5
"""In a message."""


def pod_connections(connections: Sequence[Connection], pod: Mapping[str, Any]) -> list[Connection]:
    """A pod's own connections."""
    return [connection for connection in connections if connection.pod_uid == pod["metadata"]["uid"]]


def unanswered(owned: Sequence[Pattern], connections: Sequence[Connection]) -> list[str]:
    """The patterns for which these connections have registered no function."""
    ids = {function_id for connection in connections for function_id in connection.functions}
    return [pattern.text for pattern in owned if not any(pattern.matches(function_id) for function_id in ids)]


def answers(owned: Sequence[Pattern], connections: Sequence[Connection]) -> bool:
    """Whether these connections (of one pod) serve what the Worker owns: each exact id, and something of each wildcard."""
    return bool(connections) and not unanswered(owned, connections)


def waiting(connections: Iterable[Connection]) -> set[str]:
    """What these connections have registered without a grant for it: functions, routes and trigger types."""
    return {function_id for connection in connections for function_id in connection.waiting}


def listed(function_ids: Sequence[str]) -> str:
    """Function ids for a message: some, and how many more."""
    more = len(function_ids) - FUNCTIONS_NAMED
    return ", ".join(function_ids[:FUNCTIONS_NAMED]) + (f" and {more} more" if more > 0 else "")
