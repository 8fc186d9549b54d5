"""``agentos up``."""

from pathlib import Path
from typing import Annotated

import typer

_PORTS = {"engine": 49134, "http": 3111, "stream": 3112, "admin": 9464, "console": 3113}


def up(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", help="Worker folders, or folders and files with Worker YAML; default: here."
        ),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="The same, as kubectl has it; may be repeated.")
    ] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Give each Python worker a process of its own.")] = False,
    watch: Annotated[bool, typer.Option(help="Start workers anew when their files change.")] = True,
    realm: Annotated[str | None, typer.Option(help="The Realm, when the files have several.")] = None,
    config: Annotated[Path | None, typer.Option(help="An iii config.yaml for the engine.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Folder for what must last.")] = Path(".agentos"),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for workers; 0 takes a free one. [49134]")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for the workers' HTTP routes. [3111]")
    ] = None,
    stream_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for streams. [3112]")] = None,
    admin_port: Annotated[int, typer.Option(min=0, max=65535, help="Port for health and metrics.")] = _PORTS["admin"],
    console_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for the page and the other commands.")
    ] = _PORTS["console"],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all that the engine logs.")] = False,
) -> None:
    """Run an engine and workers on this machine, until Ctrl-C.

    Workers start again when they die or their files change; validation and claims are those of the cluster.
    """
    import os
    import sys

    from agentos.local.up import UpOptions, run

    def chosen(given: int | None, usual: str) -> int | None:
        return _PORTS[usual] if given is None and config is None else given

    run(
        UpOptions(
            paths=(*(folders or ()), *(file or ())) or (Path(),),
            realm=realm,
            data_dir=data_dir,
            config=config,
            port=chosen(port, "engine"),
            http_port=chosen(http_port, "http"),
            stream_port=chosen(stream_port, "stream"),
            admin_port=admin_port,
            console_port=console_port,
            isolate=isolate,
            watch=watch,
            verbose=verbose,
            colours=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
        )
    )


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)
