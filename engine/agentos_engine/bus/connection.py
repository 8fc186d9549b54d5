"""The state of one worker's connection."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentos_contracts.tokens import Role

from agentos_engine import limits
from agentos_engine.protocol.messages import is_plain

if TYPE_CHECKING:
    from agentos_engine.bus.guard import Guard
    from agentos_engine.bus.invocations import Call, Caller
    from agentos_engine.bus.registry import Registration
    from agentos_engine.permissions.rules import Permissions
    from agentos_engine.triggers.registry import Binding, Provided

DEFAULT_NAMESPACE = "default"
"""The iii namespace of whoever names none."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the token says: all empty when the engine is open (has no verification key).

    ``version`` is what the worker's pod says of itself; nothing is allowed because of it.
    """

    realm: str = ""
    subject: str = ""
    uid: str = ""
    role: str = ""
    pod_uid: str = ""
    version: str = ""
    key_id: str = ""
    """Id of the key that signed the token."""

    def shares_with(self, other: "Peer") -> bool:
        """True unless they are two different workers with tokens: these share no route, trigger or trigger type."""
        return self.uid == other.uid or self.role != Role.WORKER or other.role != Role.WORKER


ANONYMOUS = Peer()
PART_OF_ENGINE = Peer(role="part of the engine")
"""Who calls when it is no connection: a queue, a trigger, the console; somebody may have made it call."""


@dataclass(slots=True)
class Description:
    """What a worker told about itself with ``engine::workers::register``; ``version`` is that of its SDK."""

    name: str = ""
    runtime: str = ""
    version: str = ""
    os: str = ""
    description: str = ""
    isolation: str | None = None
    pid: int | None = None

    def is_before(self, minor: int) -> bool:
        """True for an SDK of a line before 0.``minor``; False for versions of another form."""
        parts = self.version.split(".")
        return len(parts) > 1 and parts[0] == "0" and parts[1].isdecimal() and int(parts[1]) < minor


class Link:
    """The other end of a connection as the bus needs it: the socket, or in tests a list."""

    def send(self, frame: bytes) -> None:
        """Hand one text frame to the socket; on a closed connection this does nothing."""
        raise NotImplementedError

    def end(self, reason: str) -> None:
        """Close the connection so that the SDK comes back; the bus has forgotten it already."""

    def unsent(self) -> int:
        """Bytes that wait because the peer does not read."""
        return 0

    def put_off(self, frame: bytes) -> bool:
        """Have a message come again when there is time for it, in its order; False: it is to be carried out now."""
        return False

    def is_full(self) -> bool:
        """Whether so much waits that no more calls are to go there."""
        return self.unsent() > limits.MAX_UNSENT


@dataclass(slots=True, eq=False)
class Connection:
    """A worker's connection as the bus sees it."""

    id: str
    link: Link
    send: Callable[[bytes], None]
    """The link's, kept here because every message needs it."""
    peer: Peer = ANONYMOUS
    ip_address: str = ""
    max_frame: int = limits.MAX_MESSAGE
    """Frames of up to so many bytes are sent; larger ones when :meth:`refusal_of` says nothing against it."""
    fragile: bool = False
    """A frame that its SDK cannot read ends its work for good, although it stays connected."""
    largest: int = limits.MAX_MESSAGE
    """Largest frame that its SDK takes, in bytes: a larger one would end the link."""
    reattach_token: str = field(default="", repr=False)
    namespace: str = DEFAULT_NAMESPACE
    guard: "Guard | None" = None
    """Rules of the listener that it came by; None when there are none."""
    permissions: "Permissions | None" = None
    """What the grant of its worker allows; None: everything, for it is no worker with a token."""
    about: Description = field(default_factory=Description)
    connected_at: float = field(default_factory=time.time)
    """Seconds since 1970."""
    serial: int = 0
    """Grows from connection to connection, in the order in which they first registered a function; 0: none yet."""
    since: float = 0.0
    """Seconds since 1970 of the last change between connected and not."""
    closed: bool = False
    asleep: bool = False
    """It is the place of a worker that has no pods on purpose: there is no socket."""
    silent: bool = False
    """Nothing came from it for so long that it gets no new calls."""
    draining: bool = False
    """It is going: calls go to others, as long as there are any."""
    congested: bool = False
    """More waits to be sent than its socket takes."""
    registrations: "dict[str, Registration]" = field(default_factory=dict)
    bindings: "dict[str, Binding]" = field(default_factory=dict)
    trigger_types: "dict[str, Provided]" = field(default_factory=dict)
    """Custom trigger types that this worker provides."""
    waiting: "dict[str, Registration]" = field(default_factory=dict)
    """Functions that it would serve, by id, and that its grant does not cover, or another worker still has."""
    waiting_bindings: "dict[str, Binding]" = field(default_factory=dict)
    """Bindings of such functions, and those to routes that its grant does not cover, by trigger id."""
    waiting_types: "dict[str, Provided]" = field(default_factory=dict)
    """Trigger types that its grant does not cover."""
    registered_bytes: int = 0
    calls: "dict[str, Call]" = field(default_factory=dict)
    """Calls that this worker is to answer, by the invocation id that it was given: nobody else can answer them."""
    given_up: set[str] = field(default_factory=set)
    """Ids of calls that nobody waits for any more, but this worker may yet answer: no other call gets such an id."""
    outgoing: "set[Call]" = field(default_factory=set)
    """Calls that this worker made and waits for."""
    caller: "Caller" = field(init=False)
    """Who is told the answers to these."""
    voids: int = 0
    """Calls without an answer that this worker made and that the engine is still carrying out, or putting in a queue."""
    held: int = 0
    """Bytes of the payloads of its calls that the engine is still carrying out."""
    when_idle: list[Callable[[], None]] = field(default_factory=list)
    """Called once the last of ``calls`` has ended."""
    refusals: int = 0
    """Registrations that were refused."""
    faults: int = 0
    """Frames that could not be understood."""

    def refusal_of(self, frame: bytes) -> str:
        """Return why its SDK should not get a frame of more than ``max_frame`` bytes; empty when it may."""
        largest = self.largest if self.fragile else self.max_frame
        if len(frame) > largest:
            return f"takes at most {largest} bytes in a message, and this one has {len(frame)}"
        if self.fragile and not is_plain(frame):
            return "cannot read a message with a number of more than 4,300 digits, or nested more than 500 deep"
        return ""

    def __post_init__(self) -> None:
        self.since = self.connected_at
