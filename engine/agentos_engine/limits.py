"""Bounds on what comes from outside. Sizes are in bytes, times in seconds; docs/limits.md lists them all.

:class:`Limits` holds those that whoever runs an engine may set in its config file; the constants are the same for
every engine.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

MAX_MESSAGE = 64 << 20
"""Largest WebSocket message; the iii engine's own bound."""
MIN_MESSAGE = 64 << 10
"""Least that ``message_bytes`` may be: SDKs send what a worker registers in one message each."""
MAX_UNSENT = 16 << 20
"""Unsent bytes after which a worker that does not read gets no new calls."""
MAX_BUILT_IN_PAYLOAD = 17 << 20
"""Largest payload of a call to one of the engine's own functions: a value of 16 MiB and what stands around it."""
MAX_ID_LENGTH = 1024
"""Characters of a function id, trigger id, trigger type or invocation id."""
MAX_NAMESPACES = 1000
"""iii namespaces that hold functions: a call of an unknown function looks into each."""
MAX_IN_FLIGHT = 10_000
"""Unanswered calls of a bridge."""
MAX_MEMORY = 1 << 30
"""``memory_bytes`` of a machine that has plenty."""
MIN_MEMORY = 64 << 20
"""``memory_bytes`` of one that has little: one of the largest messages."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the config file may set, under ``agentos: {limits: …}``.

    Where there is a bound for one connection and one for all, a connection may use at most as much as is free: one
    alone half of the whole, two a third each. So those with the most are refused first, and a newcomer finds room.
    """

    connections: int = 20_000
    """Sockets on a worker port: 15 KB each when idle."""
    connections_per_identity: int = 10_000
    """Sockets of one token: half of all, so that no worker locks out the others."""
    message_bytes: int = MAX_MESSAGE
    """Largest message that is taken from a worker."""
    calls_per_connection: int = 10_000
    """Unanswered calls that one connection has made, and likewise that it is to answer."""
    calls: int = 250_000
    """Unanswered calls in all: 0.5 KB each beside their payloads."""
    functions_per_connection: int = 10_000
    """Functions of one connection."""
    functions: int = 200_000
    """Functions in all: 0.9 KB each beside their descriptions."""
    triggers_per_connection: int = 10_000
    """Trigger bindings, routes and subscriptions among them, and likewise trigger types, of one connection."""
    triggers: int = 200_000
    """Trigger bindings and types in all, at 1 KB each."""
    registered_bytes_per_connection: int = 64 << 20
    """Size of the registrations of one connection."""
    registered_bytes: int = 256 << 20
    """Size of all registrations."""
    channels_per_connection: int = 8192
    """Open data channels that one connection has made."""
    channels: int = 65_000
    """Open data channels in all: 1 KB each beside what waits in them."""
    queue_jobs: int = 100_000
    """Jobs that wait or run in one queue, or for one subscriber of a durable topic."""
    jobs: int = 1_000_000
    """Jobs in all queues: 0.4 KB of memory each; their payloads are in the store."""
    job_bytes: int = 512 << 20
    """Payloads of the jobs in all queues; one queue may use at most as much as is free."""
    unsent_bytes_per_connection: int = 128 << 20
    """Unsent bytes after which a peer that does not read is disconnected: two of the largest messages."""
    memory_bytes: int = MAX_MEMORY
    """What may wait in memory in all. Half of it is for peers that do not read; when that is used up, the one for
    which most waits is disconnected. A quarter is for payloads of calls that the engine itself carries out, an eighth
    for data channels, and one for the bodies of HTTP requests. Without a setting it is half of the memory that the
    process may use, at most 1 GiB."""

    @property
    def unsent_bytes(self) -> int:
        """The share of peers that do not read."""
        return self.memory_bytes // 2

    @property
    def held_bytes(self) -> int:
        """The share of payloads of calls that the engine itself carries out."""
        return self.memory_bytes // 4

    @property
    def channel_bytes(self) -> int:
        """The share of data channels."""
        return self.memory_bytes // 8

    @property
    def http_bytes(self) -> int:
        """The share of the bodies of HTTP requests."""
        return self.memory_bytes // 8


DEFAULT = Limits()


def of_config(given: tuple[tuple[str, int], ...]) -> Limits:
    """Return the limits of an engine whose config file sets these."""
    return Limits(**{"memory_bytes": default_memory(usable_memory()), **dict(given)})


def range_of(name: str) -> tuple[int, int]:
    """Return the least and the most that a field of :class:`Limits` may be set to."""
    if name == "message_bytes":
        return MIN_MESSAGE, MAX_MESSAGE
    if name == "memory_bytes":
        return MIN_MEMORY, 1 << 40
    return (MIN_MESSAGE, 1 << 40) if "bytes" in name else (1, 100_000_000)


def usable_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that this process may use: of its container, if that is bounded, else of the machine."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            found.append(int(text))
    return min(found)


def raise_open_files() -> int:
    """Let the process have as many files open as it may, and return how many: each connection is one.

    Shells and service managers often allow 1024 until somebody asks for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # a system that allows less than it says
        return soft
    return hard


def default_memory(usable: int) -> int:
    """Return ``memory_bytes`` for a process that may use so many bytes."""
    return min(max(usable // 2, MIN_MEMORY), MAX_MEMORY)


HANDSHAKE_TIMEOUT = 10.0
"""From the TCP accept to the end of the WebSocket upgrade."""
PING_INTERVAL = 5.0
"""How long a peer may be silent before it is asked for a sign of life; then once more after each interval."""
SILENT_AFTER = 15.0
"""A worker from which nothing came for so long, no pong either, gets no new calls."""
SILENCE_TIMEOUT = 60.0
"""A peer from which nothing came for so long is dead."""
CALL_TIMEOUT = 3600.0
"""The longest that a call may take, unless the function's metadata or the configuration say otherwise."""
SWEEP_INTERVAL = 0.25
"""Between two looks at the deadlines of calls."""
DRAIN_TIMEOUT = 5.0
"""At shutdown, for calls in flight."""
CLOSE_TIMEOUT = 2.0
"""How long a peer may take to answer a close frame."""
REFUSED_LINGER = 0.5
"""How long a refused peer has to read why."""

MAX_HTTP_HEADERS = 64 << 10
MAX_HTTP_BODY = 16 << 20
MAX_HTTP_BUFFERED = 128 << 20
"""Bodies of all requests of a port that are in memory at one time, unless ``memory_bytes`` has less; more get 503."""
MAX_ADMIN_BUFFERED = 1 << 20
"""The same for the admin port, where no request needs a body."""
MAX_HTTP_CONCURRENT = 1024
"""Requests in progress; more wait for their turn."""
MAX_HTTP_CONNECTIONS = 8192
HTTP_REQUEST_TIMEOUT = 30.0
"""For the handler to answer; then 504."""
HTTP_READ_TIMEOUT = 30.0
"""For the client to send a whole request, or to take the response."""
HTTP_IDLE_TIMEOUT = 75.0
"""For the next request on a connection that is kept alive."""
HTTP_LINGER_TIMEOUT = 2.0
"""For a client whose request was refused to stop sending it."""
MAX_HTTP_PATH_SEGMENTS = 64
