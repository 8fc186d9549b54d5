"""An inspection as tables for people."""

import json
from typing import Any

from agentos.author.inspecting import Inspection, some_of
from agentos.everyday.output import Column, Field, Row, line, table


def show(found: Inspection) -> None:
    """Write an inspection to stdout, a table for each kind of thing that there is."""
    title = f"{found.name} {found.version}" if found.version else found.name
    line(f"{title}: {found.description}" if found.description else title)
    _section("functions", found.functions, ("ID", "id"), ("INPUT", _input), ("DESCRIPTION", "description"))
    _section("routes", found.routes, ("METHOD", "method"), ("PATH", "path"), ("FUNCTION", "function_id"))
    others = [each for each in found.triggers if each["type"] != "http"]
    _section("triggers", others, ("TYPE", "type"), ("FUNCTION", "function_id"), ("CONFIG", _config))
    _section("trigger types", found.trigger_types, ("ID", "id"), ("DESCRIPTION", "description"))
    calls = found.as_json()["calls"]
    _section("calls", calls, ("FUNCTION", "function_id"), ("OF", "of"), ("FOUND", lambda row: some_of(row["found"])))
    if found.warnings:
        line("")
        for text in found.warnings:
            line(f"warning: {text}", "yellow")


def _section(title: str, rows: list[Row], *columns: tuple[str, Field]) -> None:
    line("")
    line(f"{title}:" if rows else f"no {title}")
    if rows:
        table(rows, [Column(*column) for column in columns])


def _config(row: Row) -> str:
    config = row["config"]
    return "" if config is None else json.dumps(config, ensure_ascii=False, separators=(",", ":"))


def _input(row: Row) -> str:
    """The names of a function's input; those that may be left out with a question mark."""
    schema: Any = row["request_schema"]
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return ""
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    return ", ".join(name if name in needed else f"{name}?" for name in properties)
