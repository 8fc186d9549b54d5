"""What validation says: findings with a path, a reason and a message for people."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error is refused at apply; a warning is shown and admitted."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say about a resource or a manifest.

    ``path`` names the field, such as ``spec.owns[0]``; empty for the document as a whole. ``reason`` is CamelCase, for
    machines. ``line`` counts from 1 in the text that was read, where that is known.
    """

    severity: Severity
    path: str
    reason: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def shown(text: str, limit: int = 60) -> str:
    """Return a text from outside as it may stand in a message: cut to ``limit``, one line, visible ASCII only."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return cut if cut.isascii() and cut.isprintable() else ascii(cut)[1:-1]


_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what is not seen: controls, what turns the direction of writing, what is assigned to nothing."""


def visible(text: str) -> str:
    """Return words of others as they may stand in a status, an Event or a log: one line, nothing that a terminal acts on.

    Line ends and tabs become spaces, everything else that is not seen its escape, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    line = " ".join(part for part in re.split(r"[\t\r\n\v\f]+", text) if part)
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in _UNSEEN else char for char in line)


def error(path: str, reason: str, message: str, line: int | None = None) -> Finding:
    """Make a finding that is refused."""
    return Finding(Severity.ERROR, path, reason, message, line)


def warning(path: str, reason: str, message: str, line: int | None = None) -> Finding:
    """Make a finding that is shown and admitted."""
    return Finding(Severity.WARNING, path, reason, message, line)


MAX_DEPTH = 64
"""Most levels of maps and lists in a resource; what walks them by recursion ends at about a thousand."""


def too_deep(value: object) -> bool:
    """Whether maps and lists are nested deeper than anything written by people. Walks without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the errors among the findings, in their order."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def warnings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the warnings among the findings, in their order."""
    return [finding for finding in findings if finding.severity is Severity.WARNING]
