"""Patterns in which ``*`` stands for any text, the empty one included; nothing else is special."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_GLOB_LENGTH = 1024
"""Characters of a pattern."""

_MATCH = re.compile(r"""match\(\s*(?:"([^"]+)"|'([^']+)')\s*\)""")


class GlobError(ValueError):
    """A text that is no pattern; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern. Matching takes each text between two stars at its first place, so it never goes back."""

    text: str
    _parts: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", tuple(self.text.split("*")))

    @classmethod
    def parse(cls, text: object) -> "Glob":
        """Read a pattern, bare or as ``match("…")``. Raises GlobError."""
        if not isinstance(text, str) or not text:
            raise GlobError('must be a text such as api::* or match("api::*")')
        if len(text) > MAX_GLOB_LENGTH:
            raise GlobError(f"has {len(text)} characters, more than {MAX_GLOB_LENGTH}")
        wrapped = _MATCH.fullmatch(text.strip())
        if wrapped is not None:
            return cls(wrapped[1] or wrapped[2])
        if is_match(text):
            raise GlobError('begins like match("…") but does not end like it; write match("api::*")')
        return cls(text)

    @property
    def is_exact(self) -> bool:
        """True when only one value fits."""
        return len(self._parts) == 1

    def matches(self, value: str) -> bool:
        """True when the pattern covers the whole value."""
        if len(self._parts) == 1:
            return value == self.text
        first, *middle, last = self._parts
        if len(value) < len(first) + len(last) or not value.startswith(first) or not value.endswith(last):
            return False
        position, end = len(first), len(value) - len(last)
        for part in middle:
            position = value.find(part, position, end)
            if position < 0:
                return False
            position += len(part)
        return True


class Globs:
    """Any of several patterns. Exact ones are looked up, so that long lists of ids cost nothing."""

    __slots__ = ("_exact", "_wild")

    def __init__(self, globs: Iterable[Glob] = ()) -> None:
        globs = list(globs)
        self._exact = frozenset(each.text for each in globs if each.is_exact)
        self._wild = tuple(each for each in globs if not each.is_exact)

    def __bool__(self) -> bool:
        return bool(self._exact or self._wild)

    def matches(self, value: str) -> bool:
        """True when one of the patterns covers the value."""
        return value in self._exact or any(each.matches(value) for each in self._wild)


def is_match(text: object) -> bool:
    """True for a text that is meant as ``match("…")`` and not as a value of its own."""
    return isinstance(text, str) and text.lstrip().startswith("match(")
