"""Update operations of ``state::update`` and ``stream::update``: small changes of one stored JSON value.

Everything here is pure. An operation that cannot be applied is skipped and reported, the others still count; what the
whole list makes is written at once by :meth:`ValueStore.update`. All operations and codes: docs/updates.md.
"""

from collections.abc import Callable
from typing import Annotated

import msgspec

from agentos_engine.bus.errors import BusError
from agentos_engine.storage.values import MAX_VALUE_BYTES, check_size, deeper

MAX_OPERATIONS = 1024
"""Operations of one update."""
MAX_PATH_SEGMENTS = 32
MAX_SEGMENT_BYTES = 256
MAX_VALUE_DEPTH = 64
"""Objects and arrays inside one another in the value of an operation, that value included.

With the segments of a path above it, what is stored never gets deeper than a stored value may be.
"""
MAX_MERGE_DEPTH = 16
"""The same for a merge."""
MAX_MERGE_KEYS = 1024
"""Keys of the value of a merge; nested objects have no bound of their own."""
FORBIDDEN_SEGMENTS = frozenset({"__proto__", "constructor", "prototype"})
"""Names with which a reader in JavaScript would change the prototype of its objects."""

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

Int64 = Annotated[int, msgspec.Meta(ge=INT64_MIN, le=INT64_MAX)]
Path = str | list[str] | None
"""A first-level key, or the keys from the root down; all literal. None, "" and [] are the root."""


class Set(msgspec.Struct, tag_field="type", tag="set"):
    """Replace a first-level key, or the root when ``path`` is empty."""

    path: str
    value: object = None


class Merge(msgspec.Struct, tag_field="type", tag="merge"):
    """Copy the keys of an object into the object at ``path``."""

    value: object
    path: Path = None


class Increment(msgspec.Struct, tag_field="type", tag="increment"):
    """Add to the number under a first-level key."""

    path: str
    by: Int64


class Decrement(msgspec.Struct, tag_field="type", tag="decrement"):
    """Subtract from the number under a first-level key."""

    path: str
    by: Int64


class Append(msgspec.Struct, tag_field="type", tag="append"):
    """Add an element to the array, or a text to the text, at ``path``."""

    value: object
    path: Path = None


class Remove(msgspec.Struct, tag_field="type", tag="remove"):
    """Delete a first-level key, or make the root null when ``path`` is empty."""

    path: str


Operation = Set | Merge | Increment | Decrement | Append | Remove
Operations = Annotated[list[Operation], msgspec.Meta(max_length=MAX_OPERATIONS)]
"""The ``ops`` of an update, to be a field of a payload's type: what is not a list of operations fails to decode."""


class OperationError(msgspec.Struct, frozen=True):
    """One operation that was skipped; ``doc_url`` is a path in the documentation of AgentOS."""

    op_index: int
    code: str
    message: str
    doc_url: str


def apply(value: object, operations: list[Operation]) -> tuple[object, list[OperationError]]:
    """Return what the operations make of a decoded JSON value, and the errors of those that were skipped.

    Neither argument is changed; the new value may share parts with both. A missing value is to be given as ``{}``.
    """
    draft = _Draft(value)
    errors: list[OperationError] = []
    for index, operation in enumerate(operations):
        try:
            _APPLY[type(operation)](draft, operation)
        except _Skipped as skipped:
            errors.append(OperationError(index, skipped.code, skipped.message, f"docs/updates.md#{skipped.code}"))
    return draft.root, errors


class Update:
    """The change that one list of operations makes to raw JSON, for :meth:`ValueStore.update`.

    Raises BusError, so that nothing is written: ``VALUE_TOO_LARGE`` when the new value is longer than ``max_bytes``,
    ``VALUE_UNREADABLE`` when the stored one holds what cannot be calculated with, such as the number 1e999.
    """

    def __init__(self, operations: list[Operation], max_bytes: int = MAX_VALUE_BYTES) -> None:
        self._operations = operations
        self._max_bytes = max_bytes
        self.errors: list[OperationError] = []
        """Of the operations that were skipped; there once the update has returned."""

    def __call__(self, old: bytes | None) -> bytes:
        try:
            value = {} if old is None else msgspec.json.decode(old)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BusError("VALUE_UNREADABLE", f"The stored value cannot be updated, only replaced: {error}") from error
        changed, self.errors = apply(value, self._operations)
        new = msgspec.json.encode(changed)
        check_size(new, self._max_bytes)
        return new


class _Skipped(Exception):
    """An operation cannot be applied."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Draft:
    """A value under change: what belongs to the caller is copied once, before its first change."""

    def __init__(self, root: object) -> None:
        self.root = root
        self._own: dict[int, object] = {}
        """The containers that are ours to change; kept alive here, so that no id is used again."""

    def writable_root(self) -> object:
        self.root = self._writable(self.root)
        return self.root

    def child(self, parent: dict[str, object], key: str) -> object:
        """Return what is under a key that exists, ready to be changed."""
        parent[key] = child = self._writable(parent[key])
        return child

    def object_at(self, segments: list[str]) -> dict[str, object]:
        """Return the object at a path, ready to be changed; what is on the way and no object is replaced by one."""
        if not isinstance(self.root, dict):
            self.root = {}
        node = self._writable(self.root)
        self.root = node
        for segment in segments:
            assert isinstance(node, dict)
            child = node.get(segment)
            node[segment] = child = self._writable(child if isinstance(child, dict) else {})
            node = child
        assert isinstance(node, dict)
        return node

    def _writable(self, value: object) -> object:
        if isinstance(value, (dict, list)) and id(value) not in self._own:
            value = value.copy()
            self._own[id(value)] = value
        return value


def _set(draft: _Draft, operation: Set) -> None:
    _check_depth("set", operation.value)
    if operation.path == "":
        draft.root = operation.value
        return
    _check_segment("set", operation.path)
    _root_object(draft, "set", operation.path)[operation.path] = operation.value


def _merge(draft: _Draft, operation: Merge) -> None:
    segments = _segments("merge", operation.path)
    value = operation.value
    if not isinstance(value, dict):
        raise _Skipped("merge.value.not_an_object", f"The value of a merge must be an object; this is {_kind(value)}.")
    if len(value) > MAX_MERGE_KEYS:
        raise _Skipped(
            "merge.value.too_many_keys",
            f"The value of a merge has {len(value)} keys; at most {MAX_MERGE_KEYS} are allowed.",
        )
    if forbidden := FORBIDDEN_SEGMENTS.intersection(value):
        raise _Skipped("merge.value.proto_polluted", f"The value of a merge has the forbidden key {min(forbidden)!r}.")
    _check_depth("merge", value, MAX_MERGE_DEPTH)
    if segments or isinstance(draft.root, dict):
        draft.object_at(segments).update(value)


def _increment(draft: _Draft, operation: Increment) -> None:
    _add(draft, "increment", operation.path, operation.by)


def _decrement(draft: _Draft, operation: Decrement) -> None:
    _add(draft, "decrement", operation.path, -operation.by)


def _add(draft: _Draft, name: str, path: str, by: int) -> None:
    _check_segment(name, path)
    root = _root_object(draft, name, path)
    old = root.get(path, 0)
    if isinstance(old, bool) or not isinstance(old, (int, float)):
        raise _Skipped(f"{name}.not_number", f"{path!r} is {_kind(old)}; only a number can be changed by {name}.")
    new = old + by
    if isinstance(new, int) and not INT64_MIN <= new <= INT64_MAX:
        raise _Skipped(f"{name}.overflow", f"{path!r} would leave the range of 64-bit integers.")
    root[path] = new


def _append(draft: _Draft, operation: Append) -> None:
    segments = _segments("append", operation.path)
    value = operation.value
    _check_depth("append", value)
    if not segments:
        draft.root = _appended(draft.writable_root(), value, "The root")
        return
    _root_object(draft, "append", segments[0])
    *parents, leaf = segments
    holder: object = draft.root
    for segment in parents:
        holder = holder.get(segment) if isinstance(holder, dict) else None
    old = holder.get(leaf) if isinstance(holder, dict) else None
    if parents and old is None:
        draft.object_at(parents)[leaf] = [value]
        return
    node = draft.object_at(parents)
    target = draft.child(node, leaf) if leaf in node else None
    node[leaf] = _appended(target, value, repr("/".join(segments)))


def _appended(target: object, value: object, where: str) -> object:
    """Return what becomes of a target that is ready to be changed."""
    if isinstance(target, list):
        target.append(value)
        return target
    if target is None:
        return value if isinstance(value, str) else [value]
    if isinstance(target, str) and isinstance(value, str):
        return target + value
    raise _Skipped("append.type_mismatch", f"{where} is {_kind(target)}; {_kind(value)} cannot be appended to it.")


def _remove(draft: _Draft, operation: Remove) -> None:
    if operation.path == "":
        draft.root = None
        return
    _check_segment("remove", operation.path)
    _root_object(draft, "remove", operation.path).pop(operation.path, None)


_APPLY: dict[type, Callable[[_Draft, object], None]] = {
    Set: _set,
    Merge: _merge,
    Increment: _increment,
    Decrement: _decrement,
    Append: _append,
    Remove: _remove,
}  # type: ignore[assignment]


def _root_object(draft: _Draft, name: str, key: str) -> dict[str, object]:
    """Return the root, ready to be changed; it must be an object."""
    if not isinstance(draft.root, dict):
        raise _Skipped(
            f"{name}.target_not_object", f"The root is {_kind(draft.root)}, not an object: it has no key {key!r}."
        )
    root = draft.writable_root()
    assert isinstance(root, dict)
    return root


def _segments(name: str, path: Path) -> list[str]:
    segments = [path] if isinstance(path, str) and path else path or []
    if len(segments) > MAX_PATH_SEGMENTS:
        raise _Skipped(
            f"{name}.path.too_deep", f"The path has {len(segments)} segments; at most {MAX_PATH_SEGMENTS} are allowed."
        )
    for segment in segments:
        _check_segment(name, segment)
    return list(segments)


def _check_segment(name: str, segment: str) -> None:
    if not segment:
        raise _Skipped(f"{name}.path.empty_segment", "A segment of the path is empty.")
    size = len(segment.encode())
    if size > MAX_SEGMENT_BYTES:
        raise _Skipped(
            f"{name}.path.segment_too_long",
            f"A segment of the path has {size} bytes; at most {MAX_SEGMENT_BYTES} are allowed.",
        )
    if segment in FORBIDDEN_SEGMENTS:
        raise _Skipped(f"{name}.path.proto_polluted", f"{segment!r} is forbidden in a path.")


def _check_depth(name: str, value: object, allowed: int = MAX_VALUE_DEPTH) -> None:
    if deeper(value, allowed):
        raise _Skipped(
            f"{name}.value.too_deep", f"The value has more than {allowed} objects or arrays inside one another."
        )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an array" if isinstance(value, list) else "an object"
