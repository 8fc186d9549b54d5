"""Reads the keys of one mapping of a config file; what is wrong goes to the findings, and a default takes its place.

Values are not repeated in messages: they may come from variables that hold secrets.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from agentos_engine.config_file.document import Node
from agentos_engine.config_file.findings import Findings

Item = TypeVar("Item")


class Section:
    """A mapping at a path. Each reading method takes a key once; :meth:`end` reports the keys that nobody took."""

    def __init__(self, node: Node | None, path: str, findings: Findings, line: int = 0) -> None:
        self.path = path
        self.findings = findings
        self.line = node.line if node is not None else line
        self._taken: set[str] = set()
        self._items: dict[str, Node] = {}
        self._key_lines: dict[str, int] = {}
        if node is not None and isinstance(node.value, dict):
            self._items, self._key_lines = node.value, node.key_lines
        elif node is not None and node.value is not None:
            self._wrong("", node, "a mapping", "write keys with values below it")

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def plain(self) -> dict[str, Any]:
        """Return the whole mapping as ordinary Python values."""
        self._taken.update(self._items)
        return {key: node.plain() for key, node in self._items.items()}

    def line_of(self, key: str) -> int:
        """Return the line of a key, or of the mapping when it has no such key."""
        return self._key_lines.get(key, self.line)

    def at(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str) -> Node | None:
        """Return the value of a key as it stands; None when it is absent or null."""
        self._taken.add(key)
        node = self._items.get(key)
        return None if node is None or node.value is None else node

    def text(self, key: str, default: str) -> str:
        """Return a text that is not empty."""
        return self.optional_text(key) or default

    def optional_text(self, key: str) -> str | None:
        """Return a text that is not empty; None when the key is absent."""
        node = self.take(key)
        if node is None:
            return None
        if not isinstance(node.value, str) or not node.value.strip():
            self._wrong(key, node, "a text", "write one, in quotes if it looks like a number")
            return None
        return node.value

    def required_text(self, key: str) -> str:
        """Return a text; one that is missing is an error."""
        if self._items.get(key) is None:
            self.error("missing_key", f"{key} is missing", f"add `{key}:`")
        return self.text(key, "")

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        found = self.optional_number(key, low, high)
        return default if found is None else found

    def optional_number(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number within bounds; None when the key is absent."""
        node = self.take(key)
        if node is None:
            return None
        if not isinstance(node.value, int) or isinstance(node.value, bool) or not low <= node.value <= high:
            self._wrong(key, node, f"a whole number from {low} to {high}", "write one")
            return None
        return node.value

    def flag(self, key: str, default: bool) -> bool:
        """Return a bool."""
        node = self.take(key)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            self._wrong(key, node, "true or false", "write one of them, without quotes")
            return default
        return node.value

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        """Return one of some words."""
        node = self.take(key)
        if node is None:
            return default
        if node.value not in choices:
            self._wrong(key, node, f"one of {', '.join(choices)}", "write one of them")
            return default
        return node.value

    def section(self, key: str) -> "Section":
        """Return a mapping, an empty one when the key is absent."""
        return Section(self.take(key), self.at(key), self.findings, self.line_of(key))

    def nodes(self, key: str) -> Iterator[tuple[str, Node]]:
        """Yield the path and node of each item of a list."""
        node = self.take(key)
        if node is None:
            return
        if not isinstance(node.value, list):
            self._wrong(key, node, "a list", "write each item on a line of its own after `- `")
            return
        for index, item in enumerate(node.value):
            yield f"{self.at(key)}[{index}]", item

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return a list of texts."""
        found = []
        for path, node in self.nodes(key):
            if isinstance(node.value, str) and node.value.strip():
                found.append(node.value)
            else:
                self.findings.error("wrong_type", path, node.line, "not a text", "write one, in quotes if need be")
        return tuple(found) if self._items.get(key) is not None else default

    def sections(self, key: str, read: Callable[["Section"], Item]) -> tuple[Item, ...]:
        """Return a list of mappings, each as ``read`` makes it; their unknown keys are reported."""
        found = []
        for path, node in self.nodes(key):
            section = Section(node, path, self.findings)
            found.append(read(section))
            section.end()
        return tuple(found)

    def named(self, key: str, read: Callable[["Section"], Item]) -> tuple[tuple[str, Item], ...]:
        """Return a mapping of mappings, each as ``read`` makes it; their unknown keys are reported."""
        outer = self.section(key)
        found = []
        for name in outer:
            section = outer.section(name)
            found.append((name, read(section)))
            section.end()
        return tuple(found)

    def error(self, code: str, message: str, remedy: str, key: str = "") -> None:
        """Report what is wrong with the mapping, or with one of its keys."""
        path, line = (self.at(key), self.line_of(key)) if key else (self.path, self.line)
        self.findings.error(code, path, line, message, remedy)

    def refuse(self, key: str, message: str, remedy: str) -> None:
        """Report a key that cannot stand here, and forget it."""
        self.error("unknown_key", message, remedy, key)
        self._items = {name: node for name, node in self._items.items() if name != key}

    def warning(self, code: str, message: str, remedy: str, key: str = "") -> None:
        """Report what is done differently from what the mapping, or one of its keys, asks for."""
        path, line = (self.at(key), self.line_of(key)) if key else (self.path, self.line)
        self.findings.warning(code, path, line, message, remedy)

    def end(self, unknown: Literal["error", "warning"] = "error") -> None:
        """Report the keys that are not known."""
        for key in [each for each in self._items if each not in self._taken]:
            import difflib

            close = difflib.get_close_matches(key[:50], self._taken, 1)
            remedy = f"did you mean {close[0]}?" if close else f"remove it; known are: {', '.join(sorted(self._taken))}"
            report = self.error if unknown == "error" else self.warning
            report("unknown_key", f"the key {key[:50]!r} is not known here", remedy, key)

    def _wrong(self, key: str, node: Node, wanted: str, remedy: str) -> None:
        path = self.at(key) if key else self.path
        self.findings.error("wrong_type", path, node.line, f"not {wanted}, but {_kind(node.value)}", remedy)


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "another number"
        case str():
            return "another text" if value.strip() else "an empty text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return "nothing"
