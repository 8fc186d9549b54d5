"""``agentos queue``: queues and durable topics, and their dead letters."""

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.forms import Form
from agentos.everyday.functions import unknown
from agentos.everyday.output import Column, Row, as_json, fields, show_list, show_value
from agentos.everyday.plain import plain
from agentos.everyday.times import ago

COLUMNS = (
    Column("QUEUE", "name"),
    Column("WAITING", "depth"),
    Column("CONSUMERS", "consumer_count"),
    Column("DEAD", "dlq_depth", lambda text: "red" if text != "0" else ""),
)
DEAD_COLUMNS = (
    Column("MESSAGE", "id"),
    Column("FAILED", lambda row: ago(_milliseconds(row.get("failed_at")))),
    Column("ATTEMPTS", "retries"),
    Column("ERROR", "error"),
    Column("PAYLOAD", lambda row: as_json(row.get("payload"), indent=None)),
)


def show_queues(console: Console, form: Form) -> None:
    """List queues and durable topics with what waits in them."""
    rows = [{"name": name, **_statistics(console, name)} for name in names(console)]
    show_list(rows, COLUMNS, form, "name", "no queues")


def names(console: Console) -> list[str]:
    """Return the names of all queues and topics, also of those that are only known by their dead letters."""
    known = {str(row.get("name")) for row in _rows(console.ask("engine::queue::list_topics"))}
    known |= {str(row.get("topic")) for row in _rows(console.ask("engine::queue::dlq_topics"))}
    return sorted(known)


def show_dead_letters(console: Console, name: str, count: int, form: Form) -> None:
    """List the dead letters of a queue or topic, oldest first. Raises CommandError when there is no such queue."""
    rows = _rows(console.ask("engine::queue::dlq_messages", topic=name, limit=count))
    if not rows:
        _check(console, name)
    show_list(rows, DEAD_COLUMNS, form, "id", f"{plain(name)} has no dead letters")


def redrive(console: Console, name: str, message: str | None, form: Form) -> None:
    """Run dead letters again: all, or one. Raises CommandError when there is no such queue or dead letter."""
    if message is None:
        result = console.ask("iii::queue::redrive", queue=name)
    else:
        result = console.ask("iii::queue::redrive_message", queue=name, message_id=message)
    count = result.get("redriven") if isinstance(result, dict) else None
    if not count:
        _check(console, name)
    if not count and message is not None:
        raise CommandError(
            f"{plain(name)} has no dead letter {plain(message)}; agentos queue dlq {plain(name)} lists them",
            ExitCode.NOT_FOUND,
        )
    if form is Form.TABLE:
        fields([("Queue", name), ("Run again", count or 0)])
    elif form is Form.NAME:
        show_list([{"name": name}], COLUMNS, form, "name", "")
    else:
        show_value(result, form)


def _check(console: Console, name: str) -> None:
    known = names(console)
    # A subscriber's own queue within a topic is named topic::function_id.
    if name not in known and not any(name.startswith(f"{each}::") for each in known):
        raise unknown("queue", name, known)


def _statistics(console: Console, name: str) -> Row:
    found = console.ask("engine::queue::topic_stats", topic=name)
    found = found if isinstance(found, dict) else {}
    return {key: found.get(key) for key in ("depth", "consumer_count", "dlq_depth", "config")}


def _rows(result: object) -> list[Row]:
    return [row for row in result if isinstance(row, dict)] if isinstance(result, list) else []


def _milliseconds(seconds: object) -> float | None:
    return seconds * 1000 if isinstance(seconds, int | float) else None
