"""``agentos import``."""

from pathlib import Path
from typing import Annotated

import typer

from agentos.commands.options import TextForm, TextFormOption


def import_project(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="An iii config.yaml, a worker-compose.yaml, or both.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files that are made.")] = Path("fleet"),
    realm: Annotated[
        str | None,
        typer.Option("--realm", metavar="NAME", help="Name of the Realm; else that of the project's folder."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NS", help="The Realm's namespace; else its name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    output: TextFormOption = TextForm.TEXT,
) -> None:
    """Turn an iii project into a Realm and Workers, and list what could not be carried over.

    Exit code: 0 when files were made, 1 with errors in a file or when files are there already, 2 when something cannot
    be read or written.
    """
    from agentos.errors import ExitCode
    from agentos.importing.importer import as_json, as_text, import_files, names_of
    from agentos.importing.project import ImportRefused

    realm, namespace = names_of(files, realm, namespace)
    try:
        written, remarks = import_files(files, out=out, realm=realm, namespace=namespace, force=force)
    except ImportRefused as refused:
        if output is TextForm.JSON:
            typer.echo(as_json([], [], refused.faults))
        else:
            typer.echo("\n".join(f"agentos: {each}" for each in refused.faults), err=True)
        raise typer.Exit(ExitCode.FAILED) from None
    typer.echo(as_json(written, remarks, []) if output is TextForm.JSON else as_text(written, remarks))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="import")(import_project)
