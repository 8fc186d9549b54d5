"""What the readers find in an iii project, before it becomes resources."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentos_engine.config_file import Finding


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to tell about a place in a file: what is so there, and what to do about it.

    ``line`` counts from 1, and is 0 for the file as a whole; ``path`` is like ``workers[2].config.port``. No remark
    repeats a value: it may be a secret.
    """

    file: str
    line: int
    path: str
    what: str
    instead: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        path = f"{self.path}: " if self.path else ""
        return f"{where}: {path}{self.what}; {self.instead}" if self.instead else f"{where}: {path}{self.what}"


class ImportRefused(Exception):
    """An input cannot be used; ``faults`` has all that is wrong with it, in the order of the lines."""

    def __init__(self, faults: Iterable[Remark]) -> None:
        self.faults = sorted(faults, key=lambda each: (each.file, each.line))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(slots=True)
class Draft:
    """A Worker to be. ``name`` is what it would like to be called; ``file``, ``line`` and ``path`` are where it stands.

    ``env`` has texts to copy. ``secrets`` are names of variables whose values are not copied, ``file_secrets`` those
    that ``env_files`` hold. ``dependencies`` are names of other drafts' ``key``; None: those of the manifest.
    """

    key: str
    name: str
    file: str
    line: int
    path: str
    folder: Path | None
    manifest: dict[str, Any]
    image: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    file_secrets: list[str] = field(default_factory=list)
    env_files: list[str] = field(default_factory=list)
    dependencies: list[str] | None = None


@dataclass(slots=True)
class Project:
    """What was read. ``storage``: whether something in it outlives a restart of the engine, None where nothing says."""

    drafts: list[Draft] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    storage: bool | None = None

    def join(self, other: "Project") -> None:
        """Take what another file says."""
        self.drafts += other.drafts
        self.remarks += other.remarks
        if other.storage is not None:
            self.storage = bool(self.storage) or other.storage


class Notes:
    """Gathers remarks on one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.remarks: list[Remark] = []

    def add(self, line: int, path: str, what: str, instead: str) -> None:
        """Add a remark."""
        self.remarks.append(Remark(self.file, line, path, what, instead))


def remark_of(file: str, finding: Finding) -> Remark:
    """Return what the engine's reader says of a file as a remark."""
    return Remark(file, finding.line, finding.path, finding.message, finding.remedy)
