"""``agentos traces`` and ``agentos trace``: the latest traces, and one as a waterfall."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.forms import Form
from agentos.everyday.output import Column, Row, on_terminal, show_list, show_value, terminal
from agentos.everyday.plain import cell, plain
from agentos.everyday.times import ago, duration

MAX_SPANS = 1000
"""Newest spans in which the latest traces are looked for: what the engine gives at once."""
MAX_INDENT = 20
"""Levels that are indented; deeper ones stand below each other."""
MIN_BAR = 10
"""Columns below which no bars are drawn."""
MAX_BAR = 60

TRACE_COLUMNS = (
    Column("TRACE", "trace_id"),
    Column("STARTED", lambda row: ago(row["started_at"])),
    Column("DURATION", lambda row: duration(row["duration_ms"] / 1000)),
    Column("SPANS", "spans"),
    Column("STATUS", "status", lambda text: "red" if text == "error" else ""),
    Column("NAME", "name"),
)
SPAN_COLUMNS = (
    Column("SPAN", "label"),
    Column("WORKER", "worker"),
    Column("START", "start"),
    Column("DURATION", "duration"),
    Column("STATUS", "status"),
    Column("ERROR", "error"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A span in the waterfall; times in seconds, ``start`` since the trace began, ``length`` None while it runs."""

    depth: int
    name: str
    worker: str
    start: float
    length: float | None
    status: str
    error: str

    @property
    def label(self) -> str:
        """The name, indented."""
        return "  " * min(self.depth, MAX_INDENT) + self.name

    @property
    def took(self) -> str:
        """How long it took, for people."""
        return "running" if self.length is None else duration(self.length)


def show_traces(console: Console, count: int, form: Form) -> None:
    """List the latest traces, newest first."""
    spans = console.listed("engine::traces::list", "spans", sort_order="desc", limit=MAX_SPANS)
    show_list(latest(spans)[:count], TRACE_COLUMNS, form, "trace_id", "no traces yet")


def latest(spans: Sequence[Row]) -> list[Row]:
    """Return the traces that spans are of, newest first. A trace is named after its first span that has no parent."""
    traces: dict[str, list[Row]] = {}
    for span in spans:
        traces.setdefault(str(span.get("trace_id")), []).append(span)
    rows = []
    for trace_id, members in traces.items():
        ids = {span.get("span_id") for span in members}
        members.sort(key=_start)
        root = next((span for span in members if span.get("parent_span_id") not in ids), members[0])
        begin, end = _start(members[0]), max(max(_start(span), _end(span)) for span in members)
        rows.append(
            {
                "trace_id": trace_id,
                "name": root.get("name"),
                "service_name": root.get("service_name"),
                "started_at": begin / 1e6,
                "duration_ms": (end - begin) / 1e6,
                "spans": len(members),
                "status": "error" if any(span.get("status") == "error" for span in members) else "ok",
            }
        )
    return sorted(rows, key=lambda row: row["started_at"], reverse=True)


def show_trace(console: Console, trace_id: str, form: Form) -> None:
    """Show one trace. Raises CommandError when there is no such."""
    roots = console.listed("engine::traces::tree", "roots", trace_id=trace_id)
    if not roots:
        raise CommandError(
            f"there is no trace {plain(trace_id)}; agentos traces lists the latest ones", ExitCode.NOT_FOUND
        )
    if form in (Form.JSON, Form.YAML):
        show_value(roots, form)
    elif form is Form.NAME:
        spans = [span for _, span in walk(roots)]
        show_list(spans, (), form, lambda span: span.get("span_id"), "")
    elif on_terminal():
        draw_waterfall(waterfall(roots))
    else:
        rows = [_plain_row(line) for line in waterfall(roots)]
        show_list(rows, SPAN_COLUMNS, Form.TABLE, "label", "")


def walk(roots: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """Give spans with their depth, parents before children."""
    waiting = [(0, span) for span in reversed(roots)]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        children = span.get("children")
        if isinstance(children, list):
            waiting += [(depth + 1, child) for child in reversed(children) if isinstance(child, dict)]


def waterfall(roots: Sequence[Row]) -> list[Line]:
    """Return the lines of the waterfall."""
    spans = list(walk(roots))
    begin = min(_start(span) for _, span in spans)
    return [
        Line(
            depth=depth,
            name=cell(span.get("name")),
            worker=cell(_worker(span)),
            start=(_start(span) - begin) / 1e9,
            length=(_end(span) - _start(span)) / 1e9 if _end(span) >= _start(span) else None,
            status=cell(span.get("status")),
            error=cell(_error(span)),
        )
        for depth, span in spans
    ]


def draw_waterfall(lines: Sequence[Line]) -> None:
    """Draw the waterfall on the terminal: what failed is red."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    total = max(line.start + (line.length or 0) for line in lines) or 1e-9
    width = terminal().width
    names = min(max(cell_len(line.label) for line in lines), max(width // 3, 20))
    workers = min(max(cell_len(line.worker) for line in lines), 20)
    times = max(len(line.took) for line in lines)
    room = min(width - names - workers - times - 6, MAX_BAR)
    drawn = Text()
    for line in lines:
        failed = line.status == "error"
        drawn.append(set_cell_size(line.label, names), "red" if failed else "")
        drawn.append(f"  {set_cell_size(line.worker, workers)}", "dim")
        drawn.append(f"  {line.took.rjust(times)}  ")
        drawn.append(_bar(line, total, room) if room >= MIN_BAR else "", "red" if failed else "cyan")
        drawn.append("\n")
        if line.error:
            drawn.append("  " * min(line.depth + 1, MAX_INDENT) + line.error + "\n", "red")
    drawn.rstrip()
    terminal().print(drawn, soft_wrap=True)


def _bar(line: Line, total: float, room: int) -> str:
    mark = "━" if terminal().encoding.startswith("utf") else "="
    first = min(int(line.start / total * room), room - 1)
    length = total - line.start if line.length is None else line.length
    return " " * first + mark * max(1, min(round(length / total * room), room - first))


def _plain_row(line: Line) -> Row:
    return {
        # Blanks at the front of a cell would go, dots stay.
        "label": ". " * min(line.depth, MAX_INDENT) + line.name,
        "worker": line.worker,
        "start": "+" + duration(line.start) if line.start else "0",
        "duration": line.took,
        "status": line.status,
        "error": line.error,
    }


def _error(span: Row) -> Any:
    if span.get("status") != "error":
        return None
    return span.get("status_description") or next((m for m in _exceptions(span)), None)


def _exceptions(span: Row) -> Iterator[str]:
    events = span.get("events")
    for event in events if isinstance(events, list) else ():
        for pair in event.get("attributes", ()) if isinstance(event, dict) else ():
            if isinstance(pair, list) and len(pair) == 2 and pair[0] == "exception.message":
                yield str(pair[1])


def _worker(span: Row) -> Any:
    """Return who did it: the engine's spans of calls name the worker that answered."""
    attributes = span.get("attributes")
    for pair in attributes if isinstance(attributes, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and pair[0] == "worker":
            return pair[1]
    return span.get("service_name")


def _start(span: Row) -> float:
    return _nanoseconds(span.get("start_time_unix_nano"))


def _end(span: Row) -> float:
    return _nanoseconds(span.get("end_time_unix_nano"))


def _nanoseconds(value: object) -> float:
    return value if isinstance(value, int | float) else 0
