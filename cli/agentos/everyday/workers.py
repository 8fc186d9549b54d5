"""``agentos workers`` and ``agentos triggers``."""

from collections.abc import Iterable
from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.forms import Form
from agentos.everyday.functions import config_of, unknown
from agentos.everyday.output import Column, Row, fields, show_list, show_value, write
from agentos.everyday.times import ago

_STYLES = {"ready": "green", "available": "green", "failed": "red", "invalid": "red", "unresponsive": "red"}
COLUMNS = (
    Column("WORKER", "name"),
    Column("STATE", "state", lambda text: _STYLES.get(text.lower(), "")),
    Column("FUNCTIONS", lambda row: _count(row)),
    Column("IN FLIGHT", "active_invocations"),
    Column("RESTARTS", "restarts"),
    Column("RUNTIME", lambda row: _runtime(row)),
    Column("CONNECTED", lambda row: ago(row.get("connected_at_ms"))),
    Column("REASON", lambda row: _reason(row)),
)
TRIGGER_COLUMNS = (
    Column("TYPE", "trigger_type"),
    Column("FUNCTION", "function_id"),
    Column("WORKER", "worker_name"),
    Column("CONFIG", lambda row: config_of(row)),
)


def show_workers(console: Console, name: str | None, everything: bool, form: Form) -> None:
    """List workers, a row for each connection; or show those of one name. Raises CommandError."""
    connected = console.listed("engine::workers::list", "workers")
    supervised = fleet(console)
    rows = merged(connected, supervised, everything or name is not None)
    if name is None:
        nothing = "no workers yet; --all shows the parts of the engine"
        show_list(rows, COLUMNS, form, "name", nothing)
        return
    found = [row for row in rows if row.get("name") == name]
    if not found:
        raise unknown("worker", name, sorted({str(row.get("name")) for row in rows if row.get("name")}))
    if form is Form.TABLE:
        for position, row in enumerate(found):
            write("\n" if position else "")
            _show(row)
    elif form is Form.NAME:
        show_list(found, COLUMNS, form, "name", "")
    else:
        show_value(found[0] if len(found) == 1 else found, form)


def fleet(console: Console) -> list[Row]:
    """Return what ``agentos up`` says of the workers that it starts; nothing in a realm, where Kubernetes does."""
    try:
        answer = console.get("/api/fleet")
    except CommandError as error:
        if error.code is ExitCode.NOT_FOUND:
            return []
        raise
    rows = answer.get("workers") if isinstance(answer, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def merged(connected: Iterable[Row], supervised: Iterable[Row], everything: bool) -> list[Row]:
    """Return connections with what is known of how they were started, then those that are started and not connected.

    ``state`` is that of the start where there was one, else the connection's status.
    """
    starts = {str(row.get("name")): row for row in supervised}
    rows: list[Row] = []
    for row in connected:
        if row.get("internal") and not everything:
            continue
        start = starts.get(str(row.get("name")), {})
        known = {key: start.get(key) for key in ("reason", "message", "restarts") if key in start}
        rows.append({**row, "state": start.get("state") or row.get("status"), **known})
    names = {str(row.get("name")) for row in rows}
    rows += [row for name, row in starts.items() if name not in names]
    return sorted(rows, key=lambda row: str(row.get("name")))


def show_triggers(console: Console, trigger_type: str | None, form: Form) -> None:
    """List which functions are bound to which triggers."""
    rows = console.listed("engine::registered-triggers::list", "registered_triggers", trigger_type=trigger_type)
    rows.sort(key=lambda row: (str(row.get("trigger_type")), str(row.get("function_id"))))
    show_list(rows, TRIGGER_COLUMNS, form, "id", "no triggers")


def _show(row: Row) -> None:
    fields(
        [
            ("Worker", row.get("name")),
            ("State", row.get("state")),
            ("Reason", _reason(row)),
            ("Description", row.get("description")),
            ("Restarts", row.get("restarts")),
            ("Process", row.get("pid")),
            ("Runtime", _runtime(row)),
            ("Address", row.get("ip_address")),
            ("Connected", ago(row.get("connected_at_ms"))),
            ("Calls", row.get("active_invocations")),
            ("Connection", row.get("id")),
        ]
    )
    functions = row.get("functions")
    if isinstance(functions, list) and functions:
        columns = (Column("FUNCTION", lambda each: each["function"]),)
        write("\n")
        show_list([{"function": each} for each in functions], columns, Form.TABLE, lambda each: each["function"], "")


def _count(row: Row) -> Any:
    functions = row.get("functions")
    return len(functions) if isinstance(functions, list) else row.get("function_count", functions)


def _runtime(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("runtime", "version") if row.get(key))


def _reason(row: Row) -> str:
    return ": ".join(str(row[key]) for key in ("reason", "message") if row.get(key))


def worker_names(console: Console) -> list[str]:
    """Return the names of the connected workers."""
    rows = console.listed("engine::workers::list", "workers")
    return sorted({str(row.get("name")) for row in rows if row.get("name") and not row.get("internal")})
