"""``agentos state``, ``queue`` and ``stream``: what an engine keeps."""

from typing import TYPE_CHECKING, Annotated

import typer

from agentos.commands import completing
from agentos.commands.options import DataFormOption, FormOption, on_console
from agentos.everyday.forms import DataForm, Form

if TYPE_CHECKING:
    from agentos.everyday.client import Console

QueueArgument = Annotated[
    str, typer.Argument(metavar="QUEUE", help="A queue or topic.", autocompletion=completing.queue)
]

state = typer.Typer(name="state", help="Values under a scope and a key.", no_args_is_help=True, rich_markup_mode=None)
queue = typer.Typer(name="queue", help="Queues, and what failed in them.", no_args_is_help=True, rich_markup_mode=None)


@state.command("list")
@on_console
def state_list(
    console: "Console",
    scope: Annotated[str | None, typer.Argument(help="List its values; without, the scopes.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """List scopes, or the values of one."""
    from agentos.everyday.state import list_scopes, list_values

    if scope is None:
        list_scopes(console, output)
    else:
        list_values(console, scope, output)


@state.command("get")
@on_console
def state_get(console: "Console", scope: str, key: str, output: DataFormOption = DataForm.JSON) -> None:
    """Print a value."""
    from agentos.everyday.state import get

    get(console, scope, key, output)


@state.command("set")
@on_console
def state_set(
    console: "Console",
    scope: str,
    key: str,
    value: Annotated[str, typer.Argument(metavar="JSON", help="The value: JSON, @FILE, or - for stdin.")],
    output: DataFormOption = DataForm.JSON,
) -> None:
    """Store a value; prints the old and the new one."""
    from agentos.everyday.state import put

    put(console, scope, key, value, output)


@state.command("delete")
@on_console
def state_delete(console: "Console", scope: str, key: str, output: DataFormOption = DataForm.JSON) -> None:
    """Delete a value; prints what it was."""
    from agentos.everyday.state import delete

    delete(console, scope, key, output)


@queue.command("list")
@on_console
def queue_list(console: "Console", output: FormOption = Form.TABLE) -> None:
    """List queues and durable topics with what waits in them."""
    from agentos.everyday.queues import show_queues

    show_queues(console, output)


@queue.command("dlq")
@on_console
def queue_dlq(
    console: "Console",
    name: QueueArgument,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many of the oldest.")] = 50,
    output: FormOption = Form.TABLE,
) -> None:
    """List dead letters: messages whose last attempt has failed."""
    from agentos.everyday.queues import show_dead_letters

    show_dead_letters(console, name, count, output)


@queue.command("redrive")
@on_console
def queue_redrive(
    console: "Console",
    name: QueueArgument,
    message: Annotated[str | None, typer.Option(metavar="ID", help="Only this one.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Run dead letters again, with all their attempts."""
    from agentos.everyday.queues import redrive

    redrive(console, name, message, output)


@on_console
def stream(
    console: "Console",
    name: str,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show what happens in the group, until Ctrl-C.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List the items of a stream, or follow it.

    -f shows what happens in a group; with -o json one event a line.
    """
    from agentos.everyday import streams

    if follow and group is None:
        raise typer.BadParameter("events are those of one group; name it", param_hint="--group")
    if follow and group is not None:
        streams.follow(console, name, group, output)
    else:
        streams.show_items(console, name, group, output)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(state)
    app.add_typer(queue)
    app.command()(stream)
