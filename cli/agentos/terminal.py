"""Writing to the terminal: progress goes to stderr, what was asked for to stdout."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr what takes long: a spinner on a terminal, one plain line in a pipe."""
    if not sys.stderr.isatty():
        print(f"{what} …", file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
