"""``agentos new`` and ``agentos build``."""

from pathlib import Path
from typing import Annotated

import typer

from agentos.author import Language, Tool

new = typer.Typer(help="Make something new.", no_args_is_help=True)


@new.callback()
def _new() -> None:
    """Make something new."""


@new.command("worker")
def new_worker(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the worker and of its function namespace.")],
    language: Annotated[
        Language, typer.Option("--language", "-l", help="Language that it is written in.")
    ] = Language.PYTHON,
    parent: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the folder NAME is made.")] = Path("."),
) -> None:
    """Make a folder NAME with a small worker that runs, and its test."""
    from agentos.author.new import made, new_worker

    folder, files = new_worker(name, language, parent)
    typer.echo(made(folder, files))


def build(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="The worker's folder.")] = Path("."),
    tag: Annotated[
        str | None, typer.Option("--tag", "-t", help="The image's name. [default: localhost/NAME:VERSION]")
    ] = None,
    tool: Annotated[
        Tool | None, typer.Option("--tool", help="What builds it. [default: the first of these that works]")
    ] = None,
    build_arguments: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="KEY=VALUE", help="For an ARG of the Dockerfile.")
    ] = None,
) -> None:
    """Build a worker's image and print its name.

    The folder's Dockerfile is used; without one, runtime.base_image and scripts of the manifest. AGENTOS_BUILD_OPTIONS
    holds more options for the tool.
    """
    import os

    from agentos.author import build as building
    from agentos.terminal import progress
    from agentos.validating import as_text

    source, report = building.read_source(folder)
    if report.findings:
        typer.echo(as_text(report, verbose=False), err=True)
    if source is None:
        raise typer.Exit(report.exit_code)
    reference = building.reference_of(source.manifest, tag)
    found = building.find_tool(tool)
    options = building.options_for(found, build_arguments or [], os.environ)
    try:
        with progress(f"building {reference} with {found}"):
            building.build(source, reference, found, options)
    except building.BuildFailed as failed:
        typer.echo("\n".join(failed.last_lines), err=True)
        raise
    typer.echo(reference)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(new, name="new")
    app.command()(build)
