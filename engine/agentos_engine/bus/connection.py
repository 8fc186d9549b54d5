"""The state of one worker's connection."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentos_engine.bus.invocations import Call
    from agentos_engine.bus.registry import Registration
    from agentos_engine.triggers.registry import Binding


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the token says: all empty when the engine is open (has no verification key)."""

    realm: str = ""
    subject: str = ""
    uid: str = ""
    role: str = ""
    pod_uid: str = ""


ANONYMOUS = Peer()


@dataclass(slots=True)
class Description:
    """What a worker told about itself with ``engine::workers::register``."""

    name: str = ""
    runtime: str = ""
    version: str = ""
    os: str = ""
    description: str = ""
    isolation: str | None = None
    pid: int | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """A worker's connection as the bus sees it.

    ``send`` hands one text frame to the socket; on a closed connection it does nothing.
    """

    id: str
    send: Callable[[bytes], None]
    peer: Peer = ANONYMOUS
    ip_address: str = ""
    about: Description = field(default_factory=Description)
    connected_at: float = field(default_factory=time.time)
    """Seconds since 1970."""
    since: float = 0.0
    """Seconds since 1970 of the last change between connected and not."""
    closed: bool = False
    registrations: "dict[str, Registration]" = field(default_factory=dict)
    bindings: "dict[str, Binding]" = field(default_factory=dict)
    trigger_types: set[str] = field(default_factory=set)
    """Custom trigger types that this worker provides."""
    registered_bytes: int = 0
    calls: "dict[str, Call]" = field(default_factory=dict)
    """Calls that this worker is to answer, by the invocation id that it was given: nobody else can answer them."""
    outgoing: "set[Call]" = field(default_factory=set)
    """Calls that this worker made and waits for."""
    faults: int = 0
    """Frames that could not be understood."""

    def __post_init__(self) -> None:
        self.since = self.connected_at
