"""Writes docs/compatibility.md from the compatibility tests themselves: ``python -m tests.compat_table``.

A test says with ``@pytest.mark.check(25, 26)`` what it proves, and by its parameters, or ``sdks=`` in the marker, on
which SDKs; one without any is done with a bare client.
"""

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.compat.checks import CHECKS, COLUMNS, RAW, TOPICS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "compatibility.md"

HEAD = """\
# Compatibility with iii

Generated from the tests in `tests/compat` by `python -m tests.compat_table`; do not edit. Every check is run by
`make test` with real processes: the engine, and workers on unmodified SDKs from the public registries (Python 0.11.6 and
0.25.0, Node 0.11.6 and 0.22.1, Rust 0.11.6 where cargo is installed). **raw** is a bare WebSocket or HTTP client, for what
SDKs do not do, or do behind their users' backs.

● proved on this SDK, by itself or together with others. **Identity**: proved on an engine that demands tokens, most of it on one that
does not as well.
"""


class Collected:
    """Keeps the tests that pytest finds."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = list(items)


def collect() -> list[pytest.Item]:
    """Returns all compatibility tests, none of them run. Raises RuntimeError when they cannot be collected."""
    collected, told = Collected(), io.StringIO()
    arguments = ["--collect-only", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "compat")]
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = pytest.main(arguments, plugins=[collected])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(f"the compatibility tests cannot be collected:\n{told.getvalue()}")
    return collected.items


def proved(items: Iterable[pytest.Item]) -> dict[str, tuple[set[str], bool]]:
    """By check: the SDKs that it is proved on, and whether it is with identity too."""
    found: dict[str, tuple[set[str], bool]] = {}
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        identities = {
            each[0] if isinstance(each, tuple) else each for name, each in parameters.items() if name in FIXTURES
        }
        for mark in item.iter_markers("check"):
            sdks = (
                set(mark.kwargs.get("sdks", ())) or {each for each in parameters.values() if each in COLUMNS} or {RAW}
            )
            for number in map(str, mark.args):
                before, identity = found.get(number, (set(), False))
                found[number] = (before | sdks, identity or "tokens" in identities)
    return found


FIXTURES = ("mesh", "bench")


def gaps(found: dict[str, tuple[set[str], bool]]) -> list[str]:
    """What is not proved though it must be, and what is said to be proved though it is not in the list."""
    lines = [f"check {number} is not in the list" for number in found if number not in CHECKS]
    for number, check in CHECKS.items():
        missing = [sdk for sdk in check.on if sdk not in found.get(number, (set(), False))[0]]
        if missing:
            lines.append(f"check {number} ({check.title}) is not proved with {', '.join(missing)}")
        elif number not in found:
            lines.append(f"check {number} ({check.title}) is not proved at all")
    return lines


def document(found: dict[str, tuple[set[str], bool]]) -> str:
    """The page."""
    lines = [HEAD]
    for topic, checks in TOPICS.items():
        lines += [
            f"## {topic}\n",
            f"| | Check | {' | '.join(COLUMNS)} | Identity |",
            f"|---|---|{'---|' * (len(COLUMNS) + 1)}",
        ]
        for number, check in checks.items():
            sdks, identity = found.get(number, (set(), False))
            marks = ["●" if sdk in sdks else "" for sdk in COLUMNS] + ["●" if identity else ""]
            lines.append(f"| {number} | {check.title} | {' | '.join(marks)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Writes the page; returns 1, and writes nothing, when something is not proved."""
    found = proved(collect())
    for line in (missing := gaps(found)):
        print(line, file=sys.stderr)
    if not missing:
        PAGE.write_text(document(found))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
