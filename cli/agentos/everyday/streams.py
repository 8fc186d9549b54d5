"""``agentos stream``: the items of a stream, and what happens to them."""

from typing import Any
from urllib.parse import quote

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.forms import Form
from agentos.everyday.output import Column, Row, as_json, line, show_entry, show_list, show_value
from agentos.everyday.plain import cell, plain
from agentos.everyday.times import clock

COLUMNS = (
    Column("GROUP", "group_id"),
    Column("ITEM", lambda row: as_json(row["data"], indent=None)),
)


def show_items(console: Console, name: str, group: str | None, form: Form) -> None:
    """List the items of a stream, or of one group of it; iii's ``stream::list`` does not tell their ids."""
    groups = [group] if group is not None else _list(console.ask("stream::list_groups", stream_name=name))
    if form is Form.NAME:
        show_list([{"group": each} for each in groups], (), form, "group", "")
        return
    rows = [
        {"group_id": each, "data": item}
        for each in groups
        for item in _list(console.ask("stream::list", stream_name=name, group_id=each))
    ]
    if form is Form.TABLE:
        show_list(rows, COLUMNS, form, str, f"nothing in stream {plain(name)}")
    else:
        show_value(rows, form)


def follow(console: Console, name: str, group: str, form: Form) -> None:
    """Write what happens in a group of a stream, beginning with what is there, until the engine goes."""
    if form is Form.NAME:
        raise CommandError("-o name: events have no names; take -o json", ExitCode.USAGE)
    with console.events(f"/api/streams/{quote(name, safe='')}", group=group) as events:
        for event in events:
            if isinstance(event.data, dict):
                _write(event.data, form)


def _write(event: Row, form: Form) -> None:
    if form is not Form.TABLE:
        show_entry(event, form)
        return
    at, what = event.get("timestamp"), event.get("event")
    what = what if isinstance(what, dict) else {}
    parts = [
        clock(at) if isinstance(at, int | float) else "",
        cell(what.get("type")).ljust(6),
        cell(event.get("id")),
        cell(as_json(what.get("data"), indent=None)),
    ]
    line("  ".join(part for part in parts if part))


def _list(result: Any) -> list[Any]:
    return result if isinstance(result, list) else []
