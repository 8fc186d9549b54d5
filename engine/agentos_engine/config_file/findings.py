"""What is wrong with a config file: where, why and what to do about it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from agentos_engine.config import SettingsError

MAX_FINDINGS = 100
"""Of each level. More are counted, not listed: a file that is something else altogether must not fill the log."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. ``path`` is like ``workers[2].config.port``; ``line`` counts from 1, and is 0 for the whole file.

    A file with an error is not used; a warning says what is done differently from what the file asks for.
    """

    level: Literal["error", "warning"]
    code: str
    path: str
    line: int
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{path}{self.message}; {self.remedy} [{self.code}]"


class ConfigError(SettingsError):
    """A file that cannot be used. ``findings`` has all that is wrong, in the order of the lines, warnings too."""

    def __init__(self, name: str, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        errors = [each for each in self.findings if each.level == "error"]
        super().__init__("\n".join(f"{name}: {each}" for each in errors))


class Findings:
    """Gathers what is found while a file is read."""

    def __init__(self) -> None:
        self._errors: list[Finding] = []
        self._warnings: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        listed = [*self._errors[:MAX_FINDINGS], *self._warnings[:MAX_FINDINGS]]
        yield from sorted(listed, key=lambda each: each.line)
        for found in (self._errors, self._warnings):
            if (left_out := len(found) - MAX_FINDINGS) > 0:
                yield Finding(found[0].level, "too_many", "", 0, f"{left_out} problems more", "mend these first")

    @property
    def failed(self) -> bool:
        """Whether there is an error among them."""
        return bool(self._errors)

    def error(self, code: str, path: str, line: int, message: str, remedy: str) -> None:
        """Add a problem because of which the file is not used."""
        self._errors.append(Finding("error", code, path, line, message, remedy))

    def warning(self, code: str, path: str, line: int, message: str, remedy: str) -> None:
        """Add a difference between what the file asks for and what is done."""
        self._warnings.append(Finding("warning", code, path, line, message, remedy))
