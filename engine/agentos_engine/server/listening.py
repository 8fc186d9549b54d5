"""Listening ports whose server can be replaced: for another certificate, and when the process was out of descriptors."""

import asyncio
import errno
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

import aiofastnet

log = logging.getLogger(__name__)

REST = 1.0
"""Seconds for which a port takes no connections when the process can have no more descriptors."""

_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server(Protocol):
    """A server of asyncio, as far as it is used here."""

    @property
    def sockets(self) -> Sequence[Any]:
        """What it listens on."""
        ...

    def close(self) -> None:
        """Listen no longer; connections go on."""
        ...


Create = Callable[..., Awaitable[Server]]
"""Starts a server: with ``host`` and ``port``, or with ``sock``."""


def tcp(protocol_factory: Callable[[], asyncio.Protocol], secure: bool) -> Create:
    """Return what starts a server for a protocol; ``secure``: one with TLS."""
    loop = asyncio.get_running_loop()
    if not secure:
        return partial(loop.create_server, protocol_factory, backlog=1024)
    # picows' way to TLS, too: the loop's own keeps up to a megabyte for each connection over which much was sent.
    return partial(aiofastnet.create_server, loop, protocol_factory, backlog=1024)


class Listening:
    """One port. Another server can take over its sockets without a moment in which nobody listens."""

    def __init__(self, create: Create) -> None:
        self._create = create
        self._servers: list[Server] = []
        self._closed = False
        self._resting: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when that is not possible."""
        loop = asyncio.get_running_loop()
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(_report)
        self._servers = [await self._create(host=host, port=port)]
        _ports.add(self)

    async def renew(self) -> None:
        """Let new servers take over. Raises OSError when that is not possible; the former ones go on then."""
        fresh: list[Server] = []
        try:
            for each in self.sockets:
                fresh.append(await self._create(sock=each.dup()))
        except OSError:
            for each in fresh:
                each.close()
            raise
        former, self._servers = (fresh, []) if self._closed else (self._servers, fresh)
        for each in former:
            each.close()

    @property
    def sockets(self) -> list[Any]:
        """What is listened on."""
        return [each for server in self._servers for each in server.sockets]

    def close(self) -> None:
        """Listen no longer; connections go on."""
        self._closed = True
        _ports.discard(self)
        servers, self._servers = self._servers, []
        for each in servers:
            each.close()

    @classmethod
    def out_of_resources(cls, descriptor: int) -> None:
        """A connection could not be taken because the process can have no more descriptors: rest for a while."""
        for each in list(_ports):
            if each._resting is None and descriptor in {found.fileno() for found in each.sockets}:
                log.error("no more connections can be taken: too many are open, or too little memory is left")
                each._resting = asyncio.get_running_loop().create_task(each._rest())

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self.sockets:
            loop.remove_reader(each.fileno())
        try:
            while not self._closed:
                await asyncio.sleep(REST)
                try:
                    await self.renew()
                    return
                except OSError:
                    continue
        finally:
            self._resting = None


_ports: weakref.WeakSet[Listening] = weakref.WeakSet()
"""Those that are open."""


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error of the loop, with what aiofastnet makes of two of them set right.

    Of a client that goes amid its handshake it gives the class where an exception should be: port scanners and health
    checks would fill the log. Out of descriptors, it fails to stop reading, and would try again without end.
    """
    error = context.get("exception")
    if error is ConnectionResetError or (isinstance(error, AttributeError) and error.name == "remove_reader"):
        return
    listening = context.get("socket")
    if isinstance(error, OSError) and error.errno in _NO_RESOURCES and listening is not None:
        Listening.out_of_resources(listening.fileno())
        return
    loop.default_exception_handler(context)
