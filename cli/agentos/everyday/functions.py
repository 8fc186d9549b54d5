"""``agentos call``, ``agentos functions`` and ``agentos function``."""

import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday import arguments
from agentos.everyday.client import CallFailed, Console
from agentos.everyday.forms import DataForm, Form
from agentos.everyday.output import Column, Row, fields, show_list, show_value, write
from agentos.everyday.plain import cell, plain

NEAREST = 3
COLUMNS = (
    Column("FUNCTION", "function_id"),
    Column("WORKER", "worker_name"),
    Column("DESCRIPTION", "description"),
)


def call(
    console: Console, function_id: str, given: list[str], json_text: str | None, timeout: float, form: DataForm
) -> None:
    """Call a function and write its result. Raises CommandError."""
    base = {} if json_text is None else arguments.read_json(json_text, "--json")
    schema = None
    if arguments.needs_schema(given):
        schema = info(console, function_id).get("request_schema")
    payload = arguments.payload(given, base, schema)
    try:
        result = console.call(function_id, payload, timeout)
    except CallFailed as error:
        code = error.code
        if error.error_code == "function_not_found":
            # Or it is there, and has itself called one that is not.
            if function_id not in (known := function_ids(console)):
                raise unknown("function", function_id, known) from None
            code = ExitCode.FAILED
        trace = f" (agentos trace {plain(error.trace_id)})" if error.trace_id else ""
        raise CommandError(f"{error}{trace}", code) from None
    show_value(result, form)


def function_ids(console: Console) -> list[str]:
    """Return the ids of all functions, the engine's own too."""
    rows = console.listed("engine::functions::list", "functions", include_internal=True)
    return sorted({str(row.get("function_id")) for row in rows})


def info(console: Console, function_id: str) -> dict[str, Any]:
    """Return what the engine knows of a function. Raises CommandError; for one that is not there, with the nearest."""
    try:
        found = console.ask("engine::functions::info", function_id=function_id)
    except CallFailed as error:
        if error.error_code != "NOT_FOUND":
            raise
        raise unknown("function", function_id, function_ids(console)) from None
    return found if isinstance(found, dict) else {}


def unknown(kind: str, name: str, known: Iterable[str]) -> CommandError:
    """Return the error for a name that is not there; it tells the nearest of those that are."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, NEAREST, 0.5)
    nearest += [each for each in names if name and name in each and each not in nearest][: NEAREST - len(nearest)]
    hint = f"; did you mean {plain(', '.join(nearest))}?" if nearest else ""
    return CommandError(f"there is no {kind} {plain(name)}{hint}", ExitCode.NOT_FOUND)


def show_functions(console: Console, pattern: str | None, everything: bool, form: Form) -> None:
    """List functions; ``pattern`` is a glob, or a part of the id."""
    rows = console.listed("engine::functions::list", "functions", include_internal=everything)
    if not everything:
        rows = [row for row in rows if row.get("worker_name") != "engine"]
    if pattern is not None:
        glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
        rows = [row for row in rows if fnmatch.fnmatchcase(str(row.get("function_id")), glob)]
    nothing = f"no function {'matches' if pattern else 'is there yet'}; --all shows those of the engine, too"
    show_list(rows, COLUMNS, form, "function_id", nothing)


def show_function(console: Console, function_id: str, form: Form) -> None:
    """Show one function: who has it, what fires it, what it takes and gives."""
    found = info(console, function_id)
    if form is Form.NAME:
        write(plain(function_id) + "\n")
        return
    if form is not Form.TABLE:
        show_value(found, form)
        return
    triggers = found.get("registered_triggers")
    bindings = [row for row in triggers if isinstance(row, dict)] if isinstance(triggers, list) else []
    fields(
        [
            ("Function", found.get("function_id")),
            ("Worker", found.get("worker_name")),
            ("Namespace", found.get("namespace")),
            ("Description", found.get("description")),
            ("Triggers", "; ".join(f"{cell(row.get('trigger_type'))} {config_of(row)}" for row in bindings)),
        ]
    )
    for title, key in (("Input", "request_schema"), ("Output", "response_schema")):
        _show_schema(title, found.get(key))


def config_of(binding: Row) -> str:
    """Return a trigger's config in one line: ``api_path=greet http_method=POST``."""
    config = binding.get("config")
    if isinstance(config, dict):
        return " ".join(f"{cell(name)}={cell(value)}" for name, value in config.items() if value is not None)
    return cell(config)


def _show_schema(title: str, schema: object) -> None:
    if not isinstance(schema, dict):
        return
    write(f"\n{title}:\n")
    rows = list(_fields_of(schema))
    if rows:
        columns = (
            Column("FIELD", "name"),
            Column("TYPE", "type"),
            Column("REQUIRED", lambda row: "yes" if row["required"] else ""),
            Column("DESCRIPTION", "description"),
        )
        show_list(rows, columns, Form.TABLE, "name", "")
    else:
        show_value(schema, DataForm.YAML)


def _fields_of(schema: dict[str, Any]) -> Iterable[Row]:
    for one in arguments.alternatives(schema, schema):
        properties, required = one.get("properties"), one.get("required")
        if not isinstance(properties, dict):
            continue
        for name, about in properties.items():
            yield {
                "name": name,
                "type": _type_of(about, schema),
                "required": isinstance(required, list) and name in required,
                "description": about.get("description") if isinstance(about, dict) else None,
            }


def _type_of(about: object, root: object) -> str:
    types: dict[str, None] = {}
    for one in arguments.alternatives(about, root):
        kind = one.get("type")
        for each in kind if isinstance(kind, list) else [kind]:
            if isinstance(each, str):
                items = one.get("items") if each == "array" else None
                inner = items.get("type") if isinstance(items, dict) else None
                types[f"array of {inner}" if isinstance(inner, str) else each] = None
        if isinstance(choices := one.get("enum"), list):
            types[" | ".join(map(str, choices[:10]))] = None
    return " or ".join(types)


def input_keys(console: Console, function_id: str) -> list[str]:
    """Return the names of a function's input fields."""
    schema = info(console, function_id).get("request_schema")
    return [row["name"] for row in _fields_of(schema)] if isinstance(schema, dict) else []
