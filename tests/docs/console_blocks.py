"""Runs the commands of a docs page as they stand and compares what they print.

In a ``console`` block a line that begins with ``$ `` is a command, and what follows is its output. In that ``…`` stands for any
text, and alone on a line for any lines; ``[N]`` as the last line is the exit code, 0 when it is left out. All commands of
a page run in one shell session: `cd` and `export` last.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Step:
    """One command: where it stands, what it is, what it prints and how it ends."""

    line: int
    command: str
    output: tuple[str, ...]
    code: int


def steps_of(page: Path) -> list[Step]:
    """Return the commands of a page in their order."""
    text = page.read_text()
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n") + 1
        lines = block[1].splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            output = lines[start + 1 : end]
            code = 0
            if output and (match := _CODE.fullmatch(output[-1])):
                code = int(match[1])
                output = output[:-1]
            found.append(Step(first + start, lines[start][2:], tuple(output), code))
    return found


def fits(expected: tuple[str, ...], printed: str) -> bool:
    """Whether what was printed is what a page shows."""
    pattern = ""
    for line in expected:
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part.rstrip()) for part in line.split("…")) + r"[ ]*\n"
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else printed + "\n") is not None
