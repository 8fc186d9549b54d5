"""``agentos validate``."""

from typing import Annotated

import typer

from agentos.commands.options import TextForm, TextFormOption


def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Files with Workers, Realms or an iii.worker.yaml; folders to search; - for stdin."
        ),
    ],
    output: TextFormOption = TextForm.TEXT,
    server: Annotated[
        bool, typer.Option("--server", help="Ask a cluster, too: what it refuses, and what would wait for whom.")
    ] = False,
    context: Annotated[str | None, typer.Option(metavar="NAME", help="kubectl's context, with --server.")] = None,
    kubeconfig: Annotated[str | None, typer.Option(metavar="FILE", help="kubectl's configuration.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what was skipped, and why.")] = False,
) -> None:
    """Say all that is wrong with Workers, Realms and manifests, as the admission webhook would.

    With --server nothing is changed either: the cluster is read, and asked for a dry run of the apply.

    Exit code: 0 without errors (warnings allowed), 1 with errors, 2 when something cannot be read, 3 when the cluster does not
    answer.
    """
    from agentos.everyday.realm import Kubectl
    from agentos.validating import as_json, as_text, ask_server, validate_paths

    report = validate_paths(files)
    if server:
        ask_server(report, Kubectl(context, kubeconfig))
    typer.echo(as_json(report) if output is TextForm.JSON else as_text(report, verbose=verbose))
    for name, why in report.unreadable:
        typer.echo(f"agentos: cannot read {name}: {why}", err=True)
    raise typer.Exit(report.exit_code)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)
