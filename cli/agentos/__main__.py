"""The ``agentos`` command. What a subcommand needs is imported when it runs, so that ``--help`` stays quick."""

import os
import sys
from types import TracebackType
from typing import Annotated, Any

import typer
from agentos_contracts.redaction import redacted
from typer.core import TyperGroup

from agentos.commands import author, author_loop, everyday, importing, observing, stored, up, validate
from agentos.errors import CommandError, ExitCode


class _InOrder(TyperGroup):
    """Lists the commands as they were added, groups of commands among them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        first = ("up", "new", "test", "inspect", "render", "build", "validate", "import")
        found = super().list_commands(ctx)
        return sorted(found, key=lambda name: first.index(name) if name in first else len(first))


app = typer.Typer(
    cls=_InOrder,
    name="agentos",
    help="AgentOS on Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"agentos {version('agentos')}")
        raise typer.Exit


@app.callback()
def agentos(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """AgentOS on Kubernetes."""


for _group in (up, author, author_loop, validate, importing, everyday, observing, stored):
    _group.add_to(app)


def _open_closed_streams() -> None:
    # As after `<&-`: else the next socket or pipe would be taken for stdin, stdout or stderr, here and in children.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 (until the process ends)
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # An exception's text may hold an address with a token in it.
    import traceback

    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def main() -> None:
    """Run the command."""
    _open_closed_streams()
    sys.excepthook = _show_uncaught
    try:
        app()
    except CommandError as error:
        print(redacted(f"agentos: {error}"), file=sys.stderr)
        raise SystemExit(error.code) from None
    except BrokenPipeError:  # such as | head
        sys.stderr.close()
        raise SystemExit(ExitCode.OK) from None


if __name__ == "__main__":
    main()
