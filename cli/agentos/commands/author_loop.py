"""``agentos test``, ``inspect`` and ``render``: the author's loop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentos.commands.options import FormOption
from agentos.errors import CommandError, ExitCode
from agentos.everyday.forms import Form

if TYPE_CHECKING:
    from agentos.author.inspecting import Inspection
    from agentos.local.fleet import LocalWorker

MAX_WATCH = 300.0
"""Seconds that a worker is watched at most."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The worker's folder.")]
Watch = Annotated[str, typer.Option("--for", metavar="TIME", help="How long its calls are watched, such as 3s.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the worker prints.")]


def run_tests(
    folder: Folder,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="What runs the tests. [default: by language]"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds that the tests may take.")] = 600.0,
    verbose: Verbose = False,
) -> None:
    """Run a worker's tests against a private engine whose clock stands still until the tests move it.

    The worker runs as under `agentos up`. The tests run in its folder, with III_URL, AGENTOS_HTTP_URL and
    AGENTOS_TEST_WORKER set: python -m pytest, npm test (else node --test), or cargo test. They move the clock by
    engine::clock::advance {"seconds": 60}.
    """
    from agentos.author import testing
    from agentos.author.scratch import Log, read_worker, run

    worker = read_worker(folder)
    raise typer.Exit(run(testing.run_tests(worker, command or testing.test_command(worker), Log(verbose), timeout)))


def inspect_worker(
    folder: Folder,
    form: FormOption = Form.TABLE,
    watch: Watch = "3s",
    verbose: Verbose = False,
) -> None:
    """Start a worker on an engine of its own and print what it registers, and what it calls.

    Calls are those that it makes while it is watched, and ids of functions that stand in its source files.
    """
    from agentos.author.scratch import read_worker
    from agentos.everyday.output import show_value, write

    found = _inspected(read_worker(folder), watch, verbose)
    if form is Form.TABLE:
        from agentos.author.showing import show

        show(found)
    elif form is Form.NAME:
        write("".join(f"{each['id']}\n" for each in found.functions))
    else:
        show_value(found.as_json(), form)


def render_worker(
    folder: Folder,
    image: Annotated[str | None, typer.Option(help="Container image. [default: as agentos build names it]")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the Worker.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; default: stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over FILE, with all that was changed in it.")] = False,
    run_it: Annotated[bool, typer.Option("--run/--no-run", help="Start it to see what it registers.")] = True,
    watch: Watch = "3s",
    verbose: Verbose = False,
) -> None:
    """Write a worker's Worker resource, with what it owns and calls filled in.

    Beside each call stands where it was found: "observed" while the worker ran, or the line with its id.
    """
    from agentos.author.inspecting import from_sources
    from agentos.author.rendering import relative_source, render
    from agentos.author.scratch import read_worker
    from agentos.everyday.output import write

    if out is not None and out.exists() and not force:
        raise CommandError(f"{out} is there already; --force writes over it", ExitCode.USAGE)
    worker = read_worker(folder)
    found = _inspected(worker, watch, verbose) if run_it else from_sources(worker)
    source = relative_source(folder, out)
    rendered = render(worker, found, image=image, namespace=namespace, source=source, ran=run_it)
    for remark in rendered.remarks:
        typer.echo(f"warning: {remark}", err=True)
    for finding in rendered.findings:
        typer.echo(f"{finding.severity}: {finding}", err=True)
    if any(finding.severity == "error" for finding in rendered.findings):
        raise CommandError("no Worker was written: a cluster would refuse it; see above")
    if out is None:
        write(rendered.text)
        return
    try:
        out.write_text(rendered.text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}", ExitCode.USAGE) from None
    typer.echo(f"wrote {out}", err=True)


def _inspected(worker: "LocalWorker", watch: str, verbose: bool) -> "Inspection":
    from agentos.author.inspecting import inspect
    from agentos.author.scratch import Log, run
    from agentos.everyday import times
    from agentos.terminal import progress

    seconds = times.seconds(watch, "--for", MAX_WATCH, zero=True)
    with progress(f"running {worker.name} for {seconds:g} s"):
        return run(inspect(worker, Log(verbose), seconds))


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("test")(run_tests)
    app.command("inspect")(inspect_worker)
    app.command("render")(render_worker)
