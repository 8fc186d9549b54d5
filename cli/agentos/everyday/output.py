"""Forms of output: tables for people, exact JSON and YAML, names for scripts.

A table is drawn with rich on a terminal. In a pipe it is plain text in aligned columns: no colour, nothing cut off.
"""

import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.forms import DataForm, Form
from agentos.everyday.plain import cell, has_unsafe, plain_json

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]
Field = str | Callable[[Row], object]
"""What is taken of a row: what stands under a key, or what a function makes of it."""
GAP = "   "
MIN_LAST = 12
"""Columns of the screen that the last column of a table has, however wide the others are."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, what stands in it, and the rich style of that text (none in a pipe)."""

    title: str
    field: Field
    style: Callable[[str], str] = lambda text: ""


def show_list(rows: Sequence[Row], columns: Sequence[Column], form: Form, name: Field, nothing: str) -> None:
    """Write rows; ``name`` gives the id of one, ``nothing`` is what a table says, on stderr, when there are none."""
    if form is Form.TABLE:
        if rows:
            table(rows, columns)
        else:
            print(nothing, file=sys.stderr)
    elif form is Form.NAME:
        ids = dict.fromkeys(_cell(row, name) for row in rows)
        write("".join(f"{each}\n" for each in ids if each))
    else:
        show_value(list(rows), form)


def show_value(value: Any, form: Form | DataForm) -> None:
    """Write a JSON value: as YAML, or as JSON, indented."""
    write(as_yaml(value) if form == DataForm.YAML else as_json(value))


def show_entry(value: Any, form: Form) -> None:
    """Write a JSON value of those that come one by one: as a YAML document, or as JSON in one line."""
    write("---\n" + as_yaml(value) if form is Form.YAML else as_json(value, indent=None))


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON, ended by a line end; ``indent`` None puts it in one line."""
    try:
        return plain_json(json.dumps(value, ensure_ascii=False, indent=indent)) + "\n"
    except RecursionError:
        raise _too_deep() from None


def as_yaml(value: Any) -> str:
    """Return a YAML document."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 1 << 20
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = io.StringIO()
    try:
        yaml.allow_unicode = not has_unsafe(json.dumps(value, ensure_ascii=False))
        yaml.dump(value, stream)
    except RecursionError:
        raise _too_deep() from None
    return stream.getvalue().removesuffix("...\n")


def table(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Write a table."""
    cells = [[_cell(row, column.field) for column in columns] for row in rows]
    if not on_terminal():
        write("".join(aligned([[column.title for column in columns], *cells])))
        return
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    room = terminal().width
    for position, column in enumerate(columns):
        # Ids, which come first, stay whole as far as there is room; what stands last is shortened.
        last = position == len(columns) - 1
        drawn.add_column(
            column.title, no_wrap=True, overflow="ellipsis", max_width=max(room, MIN_LAST) if last else None
        )
        room -= max(cell_len(text) for text in (column.title, *(row[position] for row in cells))) + len(GAP)
    for row in cells:
        drawn.add_row(*(Text(text, style=column.style(text)) for text, column in zip(row, columns, strict=True)))
    terminal().print(drawn)


def _cell(row: Row, field: Field) -> str:
    return cell(row.get(field) if isinstance(field, str) else field(row))


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Give lines with columns as wide as their widest text."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
        yield GAP.join(padded).rstrip() + "\n"


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Write what is known of one thing, a line for each that has a value."""
    known = [(f"{name}:", cell(value)) for name, value in pairs if value not in (None, "", [])]
    write("".join(aligned(known)) if known else "")


def on_terminal() -> bool:
    """Return whether stdout is one."""
    return sys.stdout.isatty()


def line(text: str, style: str = "") -> None:
    """Write one line, in a rich style on a terminal."""
    if not style or not on_terminal():
        write(text + "\n")
        return
    from rich.text import Text

    terminal().print(Text(text, style=style), soft_wrap=True)


@functools.cache
def terminal() -> "Console":
    """Return the terminal as rich sees it."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def write(text: str) -> None:
    """Write to stdout at once. Ends the process quietly when nobody reads any more, such as ``| head``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What stdout still holds would fail once more, loudly, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(ExitCode.OK) from None


def _too_deep() -> CommandError:
    return CommandError("the answer is nested too deeply to be shown")
