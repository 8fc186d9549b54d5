"""The ids of one connection that others know under another name: by its prefix, or because a hook renamed them."""


class Names:
    """Own ids of a connection and the ids that everybody else uses; one table each for functions, triggers and types."""

    def __init__(self) -> None:
        self._outer: dict[str, str] = {}
        self._inner: dict[str, str] = {}

    def add(self, inner: str, outer: str) -> str | None:
        """Remember that ``inner`` is known as ``outer``; returns what it was known as before, if that was another."""
        former = self._outer.get(inner)
        if former is not None and former != outer:
            self._inner.pop(former, None)
        self._outer[inner] = outer
        self._inner[outer] = inner
        return former if former != outer else None

    def outer(self, inner: str) -> str:
        """Return the id that others know; an unknown one is its own."""
        return self._outer.get(inner, inner)

    def inner(self, outer: str) -> str:
        """Return the connection's own id; an unknown one is its own."""
        return self._inner.get(outer, outer)

    def remove(self, inner: str) -> str:
        """Forget an id and return what others knew it as."""
        outer = self._outer.pop(inner, inner)
        if self._inner.get(outer) == inner:
            del self._inner[outer]
        return outer
