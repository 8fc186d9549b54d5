"""Completion of function ids, worker and queue names, from the engine on this machine."""

import os

import typer

from agentos.commands.options import CONSOLE_URL, CONSOLE_URL_VARIABLE


def function(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the id of a function."""
    from agentos.everyday.completion import offered
    from agentos.everyday.functions import function_ids

    return offered(_url(context), function_ids, incomplete)


def argument(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the rest of a function's id where the shell has split it at its colons, else KEY= of its input."""
    from agentos.everyday.completion import offered, split_id
    from agentos.everyday.functions import function_ids, input_keys

    words = [str(context.params.get("function_id") or ""), *(context.params.get("arguments") or ())]
    function_id, kept = split_id(words, incomplete)
    if kept is not None:
        return [name[kept:] for name in offered(_url(context), function_ids, function_id)]
    keys = offered(_url(context), lambda console: input_keys(console, function_id), incomplete)
    return [f"{key}=" for key in keys]


def worker(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a worker."""
    from agentos.everyday.completion import offered
    from agentos.everyday.workers import worker_names

    return offered(_url(context), worker_names, incomplete)


def queue(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a queue or topic."""
    from agentos.everyday.completion import offered
    from agentos.everyday.queues import names

    return offered(_url(context), names, incomplete)


def _url(context: typer.Context) -> str | None:
    """The console that names come from; none for a realm, to which the way is too long for a shell that waits."""
    if context.params.get("realm"):
        return None
    return context.params.get("url") or os.environ.get(CONSOLE_URL_VARIABLE) or CONSOLE_URL
