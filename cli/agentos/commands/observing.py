"""``agentos logs``, ``traces`` and ``trace``."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from agentos.commands import completing
from agentos.commands.options import FormOption, on_console, on_engine
from agentos.everyday.forms import Form

if TYPE_CHECKING:
    from agentos.everyday.client import Console
    from agentos.everyday.target import Target


class Level(StrEnum):
    """Levels of log entries, the least first."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


@on_engine
def logs(
    target: "Target",
    workers: Annotated[list[str] | None, typer.Argument(metavar="WORKER", autocompletion=completing.worker)] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Not older than this, such as 10m.")] = None,
    level: Annotated[Level | None, typer.Option(help="From this level on; not with --realm.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many of the newest.")] = 100,
    output: FormOption = Form.TABLE,
) -> None:
    """Show what workers log, all or those named.

    With --realm it is what their pods print. -o json gives one object a line.
    """
    from agentos.everyday import times
    from agentos.everyday.logs import Wanted, show_logs, show_pod_logs

    seconds = None if since is None else times.seconds(since, "--since")
    wanted = Wanted(workers or [], seconds, level.value if level else None, count, follow)
    if output is Form.NAME:
        raise typer.BadParameter("log entries have no names; take json", param_hint="--output")
    if target.realm is not None:
        from agentos.everyday.realm import Kubectl

        show_pod_logs(Kubectl(target.context, target.kubeconfig), target.realm, wanted, output)
        return
    from agentos.everyday.target import console_of

    with console_of(target) as console:
        show_logs(console, wanted, output)


@on_console
def traces(
    console: "Console",
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many of the newest.")] = 20,
    output: FormOption = Form.TABLE,
) -> None:
    """List the latest traces."""
    from agentos.everyday.traces import show_traces

    show_traces(console, count, output)


@on_console
def trace(
    console: "Console",
    trace_id: Annotated[str, typer.Argument(metavar="ID", help="As `agentos traces` lists it.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Show a trace as a waterfall.

    Who called whom, how long it took, and what failed.
    """
    from agentos.everyday.traces import show_trace

    show_trace(console, trace_id, output)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (logs, traces, trace):
        app.command()(command)
