"""Which worker some code runs for: several share a process, each with its own name and environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

DEFAULT_URL = "ws://127.0.0.1:49134"


@dataclass(frozen=True, slots=True)
class Scope:
    """One worker here: its name on the bus and in logs, and its environment, which may differ from the process's."""

    name: str
    environ: Mapping[str, str]

    @property
    def url(self) -> str:
        """The engine's address: ``III_URL``, else the local engine. It holds the worker's token."""
        return self.environ.get("III_URL", "").strip() or DEFAULT_URL

    @property
    def token(self) -> str | None:
        """What proves who the worker is, where it is not part of the address (``III_TOKEN``)."""
        return self.environ.get("III_TOKEN", "").strip() or None


current: ContextVar[Scope | None] = ContextVar("agentos_worker", default=None)


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Makes `scope` the current one of this thread or task, and of those that copy its context."""
    token = current.set(scope)
    try:
        yield
    finally:
        current.reset(token)
