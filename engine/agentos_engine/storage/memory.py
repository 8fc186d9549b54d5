"""Values in the memory of the process: gone when it ends."""

from agentos_engine.storage.values import Change, Items, Names, StorageError, check_listing

MAX_BYTES = 256 << 20
"""Of everything, unless the settings say otherwise."""
ITEM_BYTES = 200
"""Counted for each value in addition to its own bytes and those of its key: what Python takes to hold them."""
SCOPE_BYTES = 400
"""The same for each scope."""


class MemoryValues:
    """A :class:`ValueStore` that lasts as long as the process and holds at most ``max_bytes``."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._spaces: dict[str, dict[str, dict[str, bytes]]] = {}
        self.size = 0
        """Bytes held, counted as the bound counts them."""

    async def get(self, space: str, scope: str, key: str) -> bytes | None:
        """Return the value, or None."""
        return self._scope(space, scope).get(key)

    async def set(self, space: str, scope: str, key: str, value: bytes) -> bytes | None:
        """Store a value and return the old one. Raises StorageError ``storage_full``."""
        return self._put(space, scope, key, value)

    async def delete(self, space: str, scope: str, key: str) -> bytes | None:
        """Delete a value and return it, or None."""
        values = self._scope(space, scope)
        value = values.pop(key, None)
        if value is not None:
            self.size -= _item_size(key, value)
            if not values:
                self._forget(space, scope)
        return value

    async def update(self, space: str, scope: str, key: str, change: Change) -> tuple[bytes | None, bytes]:
        """Replace a value by ``change`` of it; return both. Raises StorageError ``storage_full``."""
        new = change(self._scope(space, scope).get(key))
        return self._put(space, scope, key, new), new

    async def list(self, space: str, scope: str) -> Items:
        """Return the keys and values of a scope, by key. Raises StorageError ``listing_too_large``."""
        values = self._scope(space, scope)
        check_listing(sum(map(_text_size, values)) + sum(map(len, values.values())), f"The values of scope {scope!r}")
        return sorted(values.items())

    async def scopes(self, space: str) -> Names:
        """Return the scopes that hold a value. Raises StorageError ``listing_too_large``."""
        scopes = self._spaces.get(space, {})
        check_listing(sum(map(_text_size, scopes)), f"The names of the scopes of {space!r}")
        return sorted(scopes)

    async def spaces(self) -> Names:
        """Return the spaces that hold a value. Raises StorageError ``listing_too_large``."""
        check_listing(sum(map(_text_size, self._spaces)), "The names of the spaces")
        return sorted(self._spaces)

    async def drop(self, space: str, scope: str) -> int:
        """Delete all values of a scope; return how many there were."""
        values = self._scope(space, scope)
        if values:
            self.size -= sum(_item_size(key, value) for key, value in values.items())
            self._forget(space, scope)
        return len(values)

    async def close(self) -> None:
        """End the use of the store; the values stay for as long as the object does."""

    def _scope(self, space: str, scope: str) -> dict[str, bytes]:
        return self._spaces.get(space, {}).get(scope, {})

    def _put(self, space: str, scope: str, key: str, value: bytes) -> bytes | None:
        values = self._scope(space, scope)
        old = values.get(key)
        more = _item_size(key, value) - (0 if old is None else _item_size(key, old))
        if not values:
            more += _scope_size(scope)
        if self.size + more > self._max_bytes:
            raise StorageError(
                "storage_full",
                f"The store holds {self.size} of at most {self._max_bytes} bytes, too many to store {len(value)} more; "
                "delete values, or give the engine more memory or a data folder.",
            )
        self.size += more
        self._spaces.setdefault(space, {}).setdefault(scope, {})[key] = value
        return old

    def _forget(self, space: str, scope: str) -> None:
        """Remove a scope that is empty, or is to be: a scope exists only with a value in it."""
        self.size -= _scope_size(scope)
        scopes = self._spaces[space]
        del scopes[scope]
        if not scopes:
            del self._spaces[space]


def _item_size(key: str, value: bytes) -> int:
    return _text_size(key) + len(value) + ITEM_BYTES


def _scope_size(scope: str) -> int:
    return _text_size(scope) + SCOPE_BYTES


def _text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
