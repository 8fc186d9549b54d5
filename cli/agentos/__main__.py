"""The ``agentos`` command. What a subcommand needs is imported when it runs, so that ``--help`` stays quick."""

import sys

import typer

from agentos.commands import author, author_loop, everyday, importing, observing, stored, up, validate
from agentos.errors import CommandError, ExitCode

app = typer.Typer(
    name="agentos",
    help="AgentOS on Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def agentos() -> None:
    """AgentOS on Kubernetes."""


for _group in (up, author, author_loop, validate, importing, everyday, observing, stored):
    _group.add_to(app)


def main() -> None:
    """Run the command."""
    try:
        app()
    except CommandError as error:
        print(f"agentos: {error}", file=sys.stderr)
        raise SystemExit(error.code) from None
    except BrokenPipeError:  # such as | head
        sys.stderr.close()
        raise SystemExit(ExitCode.OK) from None


if __name__ == "__main__":
    main()
