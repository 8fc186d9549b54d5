"""Writing to the terminal: progress goes to stderr, what was asked for to stdout."""

import contextlib
import sys
import threading
from collections.abc import Iterator


def counted(number: int, noun: str) -> str:
    """Return a number of things as people say it: ``1 worker``, ``2 workers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextlib.contextmanager
def progress(what: str, *, after: float = 0.0) -> Iterator[None]:
    """Say on stderr what takes long: a spinner on a terminal, one plain line in a pipe.

    Nothing is said of what is over within ``after`` seconds.
    """
    with contextlib.ExitStack() as shown:
        if not after:
            shown.enter_context(_shown(what))
            yield
            return
        lock, over = threading.Lock(), False

        def show() -> None:
            with lock:
                if not over:
                    shown.enter_context(_shown(what))

        timer = threading.Timer(after, show)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                over = True


@contextlib.contextmanager
def _shown(what: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        print(f"{what} …", file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
