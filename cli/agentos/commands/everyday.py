"""``agentos call``, ``functions``, ``function``, ``workers``, ``triggers`` and ``open``."""

from typing import TYPE_CHECKING, Annotated

import typer

from agentos.commands import completing
from agentos.commands.options import DataFormOption, FormOption, on_console, on_engine
from agentos.everyday.forms import DataForm, Form

if TYPE_CHECKING:
    from agentos.everyday.client import Console
    from agentos.everyday.target import Target

FunctionArgument = Annotated[
    str, typer.Argument(metavar="FUNCTION", help="Its id, such as wasm::execute.", autocompletion=completing.function)
]


@on_console
def call(
    console: "Console",
    function_id: FunctionArgument,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Fields of the payload: a=1 by the function's schema, a:=JSON as it stands, a.b=1 inside a.",
            autocompletion=completing.argument,
        ),
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="JSON", help="The payload: JSON, @FILE, or - for stdin.")
    ] = None,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="How long to wait, such as 500ms, 30s or 5m.")] = "30s",
    output: DataFormOption = DataForm.JSON,
) -> None:
    """Call a function and print its result.

    Exit code: 1 when the function failed, 3 when no engine answers, 4 when there is no such function, 5 when no answer
    came in time.
    """
    from agentos.everyday import functions, times

    seconds = times.seconds(timeout, "--timeout", most=3600.0)
    functions.call(console, function_id, arguments or [], json, seconds, output)


@on_console
def functions(
    console: "Console",
    pattern: Annotated[str | None, typer.Argument(help="A part of the id, or a pattern such as 'wasm::*'.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those of the engine, and internal ones, too.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List functions."""
    from agentos.everyday.functions import show_functions

    show_functions(console, pattern, everything, output)


@on_console
def function(console: "Console", function_id: FunctionArgument, output: FormOption = Form.TABLE) -> None:
    """Show a function: worker, triggers, schemas."""
    from agentos.everyday.functions import show_function

    show_function(console, function_id, output)


@on_console
def workers(
    console: "Console",
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", autocompletion=completing.worker)] = None,
    everything: Annotated[bool, typer.Option("--all", help="The parts of the engine, too.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List workers: their state, and why.

    With `agentos up` also those that it has not started yet, or holds back.
    """
    from agentos.everyday.workers import show_workers

    show_workers(console, name, everything, output)


@on_console
def triggers(
    console: "Console",
    trigger_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only these, such as http or cron.")
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """List which functions are bound to which triggers."""
    from agentos.everyday.workers import show_triggers

    show_triggers(console, trigger_type, output)


@on_engine
def open_(
    target: "Target",
    browser: Annotated[bool, typer.Option(help="Open it in a browser, where there is a display.")] = True,
) -> None:
    """Open the console page.

    Its address is printed; a browser is started where there is a display. With --realm it lasts until Ctrl-C.
    """
    from agentos.everyday.page import hold, open_page
    from agentos.everyday.target import console_of

    with console_of(target) as console:
        open_page(console, browser)
        if target.realm is not None:
            hold(console)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (call, functions, function, workers, triggers):
        app.command()(command)
    app.command("open")(open_)
