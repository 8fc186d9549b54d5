"""An inspection as tables for people."""

import json
from collections.abc import Callable
from typing import Any

from agentos.author.inspecting import Inspection
from agentos.everyday.output import Column, Row, line, table

PLACES_SHOWN = 3
"""Of those where a call was found."""


def show(found: Inspection) -> None:
    """Write an inspection to stdout, a table for each kind of thing that there is."""
    title = f"{found.name} {found.version}" if found.version else found.name
    line(f"{title}: {found.description}" if found.description else title)
    _section("functions", found.functions, _of("ID", "id"), Column("INPUT", _input), _of("DESCRIPTION", "description"))
    _section("routes", found.routes, _of("METHOD", "method"), _of("PATH", "path"), _of("FUNCTION", "function_id"))
    others = [each for each in found.triggers if each["type"] != "http"]
    _section(
        "triggers", others, _of("TYPE", "type"), _of("FUNCTION", "function_id"), Column("CONFIG", _compact("config"))
    )
    _section("trigger types", found.trigger_types, _of("ID", "id"), _of("DESCRIPTION", "description"))
    calls = found.as_json()["calls"]
    _section("calls", calls, _of("FUNCTION", "function_id"), _of("OF", "of"), Column("FOUND", _places))
    if found.warnings:
        line("")
        for text in found.warnings:
            line(f"warning: {text}", "yellow")


def _section(title: str, rows: list[Row], *columns: Column) -> None:
    line("")
    if not rows:
        line(f"no {title}")
        return
    line(f"{title}:")
    table(rows, columns)


def _of(title: str, key: str) -> Column:
    return Column(title, lambda row: row[key] or "")


def _compact(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else json.dumps(row[key], ensure_ascii=False, separators=(",", ":"))


def _input(row: Row) -> str:
    """The names of a function's input; those that may be left out with a question mark."""
    schema: Any = row["request_schema"]
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return ""
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    return ", ".join(name if name in needed else f"{name}?" for name in properties)


def _places(row: Row) -> str:
    more = len(row["found"]) - PLACES_SHOWN
    return ", ".join(row["found"][:PLACES_SHOWN]) + (f" and {more} more" if more > 0 else "")
