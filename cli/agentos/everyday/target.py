"""Which engine a command is for, and the way to its console."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentos.errors import CommandError, ExitCode
from agentos.everyday.client import Console
from agentos.everyday.plain import plain


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for: the engine of a realm when there is one, else that at ``url``."""

    realm: str | None
    context: str | None
    kubeconfig: str | None
    url: str


@contextlib.contextmanager
def console_of(target: Target) -> Iterator[Console]:
    """Give the engine's console; a port-forward to a realm lasts as long. Raises CommandError."""
    with contextlib.ExitStack() as stack:
        if target.realm is None:
            url = _checked(target.url)
            unreachable = f"nothing answers at {url}; start `agentos up`, or name a realm with --realm"
        else:
            from agentos.everyday.realm import Kubectl, console_forwarded

            kubectl = Kubectl(target.context, target.kubeconfig)
            url = stack.enter_context(console_forwarded(kubectl, target.realm))
            unreachable = f"the port-forward to realm {target.realm} has ended"
        console = Console(url, unreachable)
        stack.callback(console.close)
        yield console


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise CommandError(f"--url: {plain(url)[:100]!r} is not like http://127.0.0.1:3113", ExitCode.USAGE)
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated: what stands before an @ may be a password.
        raise CommandError("--url: only http://HOST:PORT; the console takes no user, query or fragment", ExitCode.USAGE)
    return url.rstrip("/")
