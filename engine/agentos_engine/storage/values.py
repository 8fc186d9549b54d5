"""Stored values: raw JSON under (space, scope, key). What a store promises, and what it refuses.

A space is a kind of data: ``state``, or ``stream:<name>`` for each stream. A scope is a state scope or a stream's
group, a key one value in it. Names are any texts; whoever takes them from outside bounds their length.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from agentos_engine.bus.errors import BusError

STATE = "state"
"""The space of ``state::*``."""
STREAM = "stream:"
"""With a stream's name behind it: the space of that stream."""

MAX_NAME_LENGTH = 1024
"""Characters of a stream's name, a scope or a key that comes from outside."""
MAX_VALUE_BYTES = 16 << 20
"""Of one value: the old and the new one have to fit into one message."""
MAX_VALUE_DEPTH = 100
"""Objects and arrays inside one another in a value: whoever lists it may have a parser with limits of its own."""
MAX_LIST_BYTES = 32 << 20
"""Bytes that one listing returns at most, counted as values and keys, or as names of scopes or spaces."""

Items = list[tuple[str, bytes]]
"""Keys and their values."""
Names = list[str]
Change = Callable[[bytes | None], bytes]
"""Makes the new value of the old one (None: there is none). Pure: it may run in another thread, and more than once."""


class StorageError(BusError):
    """The store cannot do what is asked. Codes: ``storage_full``, ``storage_busy``, ``listing_too_large``, ``storage_failed``."""


class ValueStore(Protocol):
    """A durable map of (space, scope, key) to raw JSON.

    Writes take effect in the order in which they are called, return in that order, and return only when they are
    durable. A write whose caller is cancelled may or may not take effect, but never by half. Every method raises
    StorageError.
    """

    async def get(self, space: str, scope: str, key: str) -> bytes | None:
        """Return the value; None when there is none (a stored null is ``b"null"``)."""
        ...

    async def set(self, space: str, scope: str, key: str, value: bytes) -> bytes | None:
        """Store a value, which is JSON, and return the one that it replaces."""
        ...

    async def delete(self, space: str, scope: str, key: str) -> bytes | None:
        """Delete a value and return it; None when there was none."""
        ...

    async def update(self, space: str, scope: str, key: str, change: Change) -> tuple[bytes | None, bytes]:
        """Replace a value by ``change`` of it, with no other write in between; return the old and the new one.

        What ``change`` raises reaches the caller, and nothing is written.
        """
        ...

    async def list(self, space: str, scope: str) -> Items:
        """Return the keys and values of a scope, ordered by key in Unicode order."""
        ...

    async def scopes(self, space: str) -> Names:
        """Return the scopes of a space that hold a value, in Unicode order."""
        ...

    async def spaces(self) -> Names:
        """Return the spaces that hold a value, in Unicode order."""
        ...

    async def drop(self, space: str, scope: str) -> int:
        """Delete all values of a scope; return how many there were."""
        ...

    async def close(self) -> None:
        """End the use of the store; what was written stays. Safe to call twice."""
        ...


def check(value: bytes, max_bytes: int = MAX_VALUE_BYTES) -> None:
    """Refuse JSON that is not to be stored. Raises BusError ``VALUE_TOO_LARGE`` or ``VALUE_TOO_DEEP``."""
    check_size(value, max_bytes)
    if value.count(b"[") + value.count(b"{") <= MAX_VALUE_DEPTH:
        return  # the usual case, decided without a look at the structure
    try:
        deep = deeper(msgspec.json.decode(value), MAX_VALUE_DEPTH)
    except RecursionError:
        deep = True
    except msgspec.DecodeError:
        deep = False  # a number that cannot be calculated with, such as 1e999
    if deep:
        raise BusError(
            "VALUE_TOO_DEEP",
            f"The value has more than {MAX_VALUE_DEPTH} objects or arrays inside one another, the most allowed.",
        )


def check_size(value: bytes, max_bytes: int) -> None:
    """Refuse a value that is too long. Raises BusError ``VALUE_TOO_LARGE``."""
    if len(value) > max_bytes:
        raise BusError("VALUE_TOO_LARGE", f"The value has {len(value)} bytes as JSON; at most {max_bytes} are allowed.")


def deeper(value: object, allowed: int) -> bool:
    """Whether a decoded JSON value has more than so many objects and arrays inside one another."""
    level = [value]
    for _ in range(allowed + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return True


def check_listing(size: int, what: str) -> None:
    """Refuse a listing of so many bytes. Raises StorageError ``listing_too_large``; ``what`` begins its message."""
    if size > MAX_LIST_BYTES:
        raise StorageError(
            "listing_too_large",
            f"{what} have {size} bytes, more than the {MAX_LIST_BYTES} of one listing; spread them over more scopes.",
        )
