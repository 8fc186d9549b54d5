"""What one Worker may do on the bus: pushed to the engine by the operator, or by ``agentos up``.

Standard library only: the engine imports this module on its way to a small process.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentos_contracts.findings import shown
from agentos_contracts.patterns import Pattern, PatternError, called_pattern

SENSITIVE = tuple(
    map(
        Pattern,
        (
            # secrets
            "vault::*",
            # decisions that are a person's
            "approval::resolve",
            *(
                f"approval::{name}"
                for each in ("set_mode", "add_always_allow", "remove_always_allow", "approve_always", "clear_settings")
                for name in (each, each.replace("_", "-"))
            ),
            # what changes or shows the work of other workers
            "configuration::set",
            "engine::logs::clear",
            "engine::queue::dlq_messages",
            "engine::traces::clear",
            "iii::queue::*",
            # another engine, under this one's identity there
            "bridge.invoke",
            "bridge.invoke_async",
        ),
    )
)
"""Functions that a Worker may call only when its ``spec.calls`` names them; this is the one list."""

MAX_SCOPE_LENGTH = 256
"""Longest entry of ``state_scopes``, in characters."""
MAX_ENTRIES = 4096
"""Most patterns in one list of a grant; what a Worker registers without declaring it is granted id by id."""
SCOPE_REGEX = r"^([^*\x00-\x1f]+[*]?|[*])$"
"""The form of an entry of ``state_scopes``: a scope, or the beginning of some and a ``*``."""

_SCOPE = re.compile(SCOPE_REGEX)


class GrantError(ValueError):
    """Something that is no grant; the message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the Worker with this ``uid`` may do.

    ``worker``: ``namespace/name``, for people. ``owns``: what it may register: functions, HTTP routes, trigger types.
    ``discover``: it declared no functions, so those that it registers beyond ``owns`` wait to be granted instead of being
    refused at once. ``calls``: what it may call; None: all but what is sensitive. ``state_scopes``: scopes of ``state::*``
    that it may use, exact or the beginning of some and a ``*``; None: all. ``leaving``: it is being deleted: no new
    connections, no new calls to it. ``sleeping``: it has no pods on purpose: what it registered is kept until it is back.
    """

    uid: str
    worker: str
    owns: tuple[Pattern, ...] = ()
    discover: bool = False
    calls: tuple[Pattern, ...] | None = None
    state_scopes: tuple[str, ...] | None = None
    leaving: bool = False
    sleeping: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form; equal grants have equal forms."""
        return {
            "uid": self.uid,
            "worker": self.worker,
            "owns": [each.text for each in self.owns],
            "discover": self.discover,
            "calls": None if self.calls is None else [each.text for each in self.calls],
            "state_scopes": None if self.state_scopes is None else list(self.state_scopes),
            "leaving": self.leaving,
            "sleeping": self.sleeping,
        }

    @classmethod
    def from_wire(cls, value: object) -> "Grant":
        """Read the JSON form. Raises GrantError; what is left out means the least that can be granted."""
        if not isinstance(value, Mapping):
            raise GrantError("a grant is a JSON object")
        if unknown := sorted(map(str, value.keys() - _FIELDS)):
            raise GrantError(f"{shown(unknown[0], 50)}: not a field of a grant")
        uid, worker = value.get("uid"), value.get("worker", "")
        if not isinstance(uid, str) or not 0 < len(uid) <= MAX_SCOPE_LENGTH:
            raise GrantError(f"uid: a text of 1 to {MAX_SCOPE_LENGTH} characters")
        if not isinstance(worker, str) or len(worker) > 2 * MAX_SCOPE_LENGTH:
            raise GrantError(f"worker: a text such as default/my-worker, of at most {2 * MAX_SCOPE_LENGTH} characters")
        grant = cls(
            uid,
            worker,
            _patterns(value.get("owns", ()), "owns", Pattern.recorded),
            _flag(value.get("discover", False), "discover"),
            leaving=_flag(value.get("leaving", False), "leaving"),
            sleeping=_flag(value.get("sleeping", False), "sleeping"),
        )
        calls, scopes = value.get("calls", ()), value.get("state_scopes", ())
        return replace(
            grant,
            calls=None if calls is None else _patterns(calls, "calls", called_pattern),
            state_scopes=None if scopes is None else _scopes(scopes),
        )


_FIELDS = frozenset(Grant.__dataclass_fields__)


def is_sensitive(function_id: str) -> bool:
    """True for a function that has to be named before it may be called."""
    return any(each.matches(function_id) for each in SENSITIVE)


def is_named(calls: Iterable[Pattern], function_id: str) -> bool:
    """True when one of these patterns covers a function, and names it if it is sensitive.

    A pattern that covers more than what is sensitive, such as ``engine::*``, names nothing of it.
    """
    matching = [each for each in calls if each.matches(function_id)]
    if not matching or not is_sensitive(function_id):
        return bool(matching)
    return any(each.is_exact or _is_within_sensitive(each) for each in matching)


def _is_within_sensitive(pattern: Pattern) -> bool:
    return any(
        not each.is_exact and pattern.text.removesuffix("*").startswith(each.text.removesuffix("*"))
        for each in SENSITIVE
    )


def scope_matches(entry: str, scope: str) -> bool:
    """True when an entry of ``state_scopes`` covers a scope of ``state::*``."""
    return scope.startswith(entry[:-1]) if entry.endswith("*") else scope == entry


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise GrantError(f"{name}: true or false")
    return value


def _texts(value: object, name: str) -> Iterable[tuple[int, str]]:
    if not isinstance(value, list | tuple) or len(value) > MAX_ENTRIES:
        raise GrantError(f"{name}: a list of at most {MAX_ENTRIES} texts")
    for index, each in enumerate(value):
        if not isinstance(each, str):
            raise GrantError(f"{name}[{index}]: a text")
        yield index, each


def _patterns(value: object, name: str, read: Any) -> tuple[Pattern, ...]:
    patterns = []
    for index, text in _texts(value, name):
        try:
            patterns.append(read(text))
        except PatternError as error:
            raise GrantError(f"{name}[{index}]: {error}") from error
    return tuple(patterns)


def _scopes(value: object) -> tuple[str, ...]:
    scopes = []
    for index, text in _texts(value, "state_scopes"):
        if len(text) > MAX_SCOPE_LENGTH or not _SCOPE.fullmatch(text):
            raise GrantError(f"state_scopes[{index}]: a scope such as memory, or the beginning of some and a *")
        scopes.append(text)
    return tuple(scopes)
