"""Options that many commands share: which engine is meant, and the form of the output."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from agentos.errors import CommandError, ExitCode
from agentos.everyday.forms import DataForm, Form

if TYPE_CHECKING:
    from agentos.everyday.client import Console
    from agentos.everyday.target import Target

P = ParamSpec("P")

CONSOLE_URL = "http://127.0.0.1:3113"
CONSOLE_URL_VARIABLE = "AGENTOS_CONSOLE_URL"


class TextForm(StrEnum):
    """Forms of a report."""

    TEXT = "text"
    JSON = "json"


FormOption = Annotated[
    Form, typer.Option("--output", "-o", help="Form of the output; name gives one id a line, for scripts.")
]
DataFormOption = Annotated[DataForm, typer.Option("--output", "-o", help="Form of the output.")]
TextFormOption = Annotated[TextForm, typer.Option("--output", "-o", help="Form of the output.")]

_TARGET = (
    ("realm", str | None, None, typer.Option("--realm", metavar="NAME", help="A Realm of the cluster.")),
    ("context", str | None, None, typer.Option("--context", metavar="NAME", help="kubectl's context, with --realm.")),
    ("kubeconfig", str | None, None, typer.Option("--kubeconfig", metavar="FILE", help="kubectl's configuration.")),
    (
        "url",
        str,
        CONSOLE_URL,
        typer.Option("--url", envvar=CONSOLE_URL_VARIABLE, help="The console of an engine on this machine."),
    ),
)


def on_engine(command: "Callable[Concatenate[Target, P], None]") -> Callable[..., None]:
    """Give a command the options that say which engine is meant; it gets them as its first parameter."""

    @functools.wraps(command)
    def with_target(*args: Any, **values: Any) -> None:
        from agentos.everyday.target import Target

        _check_text(args, values)
        target = Target(**{name: values.pop(name) for name, *_ in _TARGET})
        command(target, *args, **values)

    _, *own = inspect.signature(command).parameters.values()
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, kind, default, option in _TARGET
    ]
    with_target.__signature__ = inspect.Signature([*own, *ours])  # type: ignore[attr-defined]
    with_target.__annotations__ = {each.name: each.annotation for each in [*own, *ours]}
    return with_target


def on_console(command: "Callable[Concatenate[Console, P], None]") -> Callable[..., None]:
    """The same for a command that needs nothing but the engine's console, which it gets as its first parameter."""

    @functools.wraps(command)
    def with_console(target: "Target", *args: P.args, **values: P.kwargs) -> None:
        from agentos.everyday.target import console_of

        with console_of(target) as console:
            command(console, *args, **values)

    return on_engine(with_console)


def _check_text(arguments: Iterable[Any], options: Mapping[str, Any]) -> None:
    """Raise CommandError for text that is not UTF-8, which nothing further on can take."""
    for value in (*arguments, *options.values()):
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise CommandError("an argument is not UTF-8", ExitCode.USAGE) from None
