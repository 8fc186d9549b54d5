"""``agentos state``: values under a scope and a key."""

from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.arguments import read_json
from agentos.everyday.client import Console
from agentos.everyday.forms import DataForm, Form
from agentos.everyday.output import Column, as_json, show_list, show_value
from agentos.everyday.plain import plain


def list_scopes(console: Console, form: Form) -> None:
    """List the scopes that hold a value."""
    result = console.ask("state::list_groups")
    groups = result.get("groups") if isinstance(result, dict) else None
    rows = [{"scope": scope} for scope in groups] if isinstance(groups, list) else []
    columns = (Column("SCOPE", "scope"),)
    show_list(rows, columns, form, "scope", "no state yet")


def list_values(console: Console, scope: str, form: Form) -> None:
    """List the values of a scope, ordered by key; iii's ``state::list`` does not tell the keys."""
    if form is Form.NAME:
        raise CommandError("-o name: state::list gives the values of a scope, not their keys", ExitCode.USAGE)
    result = console.ask("state::list", scope=scope)
    values = result if isinstance(result, list) else []
    if form is not Form.TABLE:
        show_value(values, form)
        return
    columns = (Column("VALUE", lambda row: as_json(row["value"], indent=None)),)
    show_list([{"value": value} for value in values], columns, form, str, f"no values in scope {plain(scope)}")


def get(console: Console, scope: str, key: str, form: DataForm) -> None:
    """Show a value. Raises CommandError when there is none."""
    value = console.ask("state::get", scope=scope, key=key)
    show_value(_there(value, scope, key), form)


def put(console: Console, scope: str, key: str, value: str, form: DataForm) -> None:
    """Store a value, given as JSON, and show the old and the new one."""
    payload = {"scope": scope, "key": key, "value": read_json(value, "VALUE")}
    changed = console.call("state::set", payload, timeout=30.0)
    show_value(changed, form)


def delete(console: Console, scope: str, key: str, form: DataForm) -> None:
    """Delete a value and show what it was. Raises CommandError when there was none."""
    value = console.ask("state::delete", scope=scope, key=key)
    show_value(_there(value, scope, key), form)


def _there(value: Any, scope: str, key: str) -> Any:
    if value is None:
        raise CommandError(f"scope {plain(scope)} has no value under {plain(key)}", ExitCode.NOT_FOUND)
    return value
