"""Finds the ids of functions that stand as texts in a worker's source files."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentos_contracts.patterns import MAX_PATTERN_LENGTH, Pattern, PatternError

MAX_FILES = 2000
MAX_FILE_BYTES = 1024 * 1024
"""Larger files are passed over: nobody writes these by hand."""
MAX_BYTES = 64 * 1024 * 1024
"""Of all files together."""
MAX_PLACES = 20
"""Places that are kept of one id."""

_SUFFIXES = frozenset(
    {".py", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx", ".rs", ".go", ".java", ".kt", ".rb", ".php"}
)
_NOT_ITS_OWN = frozenset({"node_modules", "target", "venv", "env", "dist", "build", "vendor", "__pycache__"})
_TESTS = frozenset({"test", "tests", "__tests__", "spec"})
_TEST_FILE = re.compile(r"test_.*|.*_test\.[a-z]+|.*[.](test|spec)\.[a-z]+|conftest\.py")
_COMMENT = re.compile(r"\s*(#|//|\*)")
_LITERAL = re.compile(r"""(["'`])([A-Za-z0-9_.-]+(?:::[A-Za-z0-9_.-]+)+)\1""")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file, which is relative to the worker's folder."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def literal_ids(folder: Path) -> dict[str, list[Place]]:
    """Return the function ids in a folder's source files, each with where it stands, in order.

    Installed packages, build output, hidden folders, links, tests and comment lines are left out, and so are ids that the
    code puts together when it runs.
    """
    found: dict[str, list[Place]] = {}
    for path in source_files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, start=1):
            if "::" not in line or _COMMENT.match(line):
                continue
            for _, text in _LITERAL.findall(line):
                places = found.setdefault(text, []) if _is_id(text) else []
                place = Place(name, number)
                if len(places) < MAX_PLACES and place not in places:
                    places.append(place)
    return dict(sorted(found.items()))


def source_files(folder: Path) -> Iterator[Path]:
    """Yield a folder's own source files in order, without tests; at most MAX_FILES, and MAX_BYTES of them."""
    count = size = 0
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in _NOT_ITS_OWN and name not in _TESTS
        )
        for name in sorted(files):
            path = Path(where, name)
            if path.suffix not in _SUFFIXES or _TEST_FILE.fullmatch(name):
                continue
            try:
                found = path.lstat()
            except OSError:
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
                continue
            count, size = count + 1, size + found.st_size
            if count > MAX_FILES or size > MAX_BYTES:
                return
            yield path


def _is_id(text: str) -> bool:
    try:
        return len(text) <= MAX_PATTERN_LENGTH and Pattern.parse(text).text == text
    except PatternError:
        return False
