"""What is sent to one HTTP client, and how much of it the client has taken."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ

from agentos_engine.protocol.http import Request, Response
from agentos_engine.server.http_framing import Framing, HeadWriter, framing_of, is_bodiless


class Output:
    """The sending side of a connection. ``common``: see ``HttpServer.headers``."""

    def __init__(
        self, transport: asyncio.Transport, heads: HeadWriter, common: Callable[[Request | None], bytes]
    ) -> None:
        self.paused = False
        """Whether the client is slow: more waits than the socket takes."""
        self._transport = transport
        self._heads = heads
        self._common = common
        self._written = 0
        self._taken_before = 0
        """Bytes that the client had taken when somebody last looked."""
        self._framing = Framing.NONE
        self._remaining = 0

    def send(self, data: bytes) -> None:
        """Send bytes as they are; dropped when the connection ends."""
        if not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def respond(self, request: Request | None, response: Response, keep_alive: bool, is_http_1_0: bool) -> None:
        """Send a whole response; without a request when that could not be read."""
        bodiless = is_bodiless(response.status)
        head = self._heads.write(
            response,
            length=None if bodiless else len(response.body),
            chunked=False,
            connection=_connection(keep_alive, is_http_1_0),
            common=self._common(request),
        )
        if not response.body or bodiless or (request is not None and request.method == "HEAD"):
            self.send(head)
        else:
            self.send(b"".join((head, response.body)))

    def start(
        self, request: Request, response: Response, length: int | None, keep_alive: bool, is_http_1_0: bool
    ) -> bool:
        """Send the head of a streamed response; returns whether the connection can be kept after it."""
        self._framing = framing = framing_of(request.method, response.status, length, is_http_1_0)
        self._remaining = length or 0
        keep_alive = keep_alive and framing is not Framing.CLOSE
        bodiless = is_bodiless(response.status)
        head = self._heads.write(
            response,
            length=None if bodiless else length,
            chunked=length is None and not bodiless and not is_http_1_0,
            connection=_connection(keep_alive, is_http_1_0),
            common=self._common(request),
        )
        self.send(head)
        return keep_alive

    def write(self, data: bytes) -> bool:
        """Send a piece of a streamed response; False: it is more than the response's length, and not sent."""
        framing = self._framing
        if framing is Framing.LENGTH:
            self._remaining -= len(data)
            if self._remaining < 0:
                return False
        if data and framing is not Framing.NONE:
            self.send(b"%x\r\n%s\r\n" % (len(data), data) if framing is Framing.CHUNKED else data)
        return True

    def finish(self) -> bool:
        """End a streamed response; False: it is shorter than its length."""
        if self._framing is Framing.LENGTH and self._remaining:
            return False
        if self._framing is Framing.CHUNKED:
            self.send(b"0\r\n\r\n")
        return True

    def cut(self) -> None:
        """End the connection so that the client sees that the streamed response is not complete."""
        if self._framing is Framing.CLOSE:  # only a reset tells this from the end
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the client may be gone already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()

    def look(self) -> bool:
        """Return whether something waits for the client of which it has taken some since the last look."""
        outstanding = self._outstanding()
        taken = self._written - outstanding
        progress = taken > self._taken_before
        self._taken_before = taken
        return progress and outstanding > 0

    def _outstanding(self) -> int:
        """Bytes that the client's machine has not acknowledged: a socket reports room only in large steps."""
        waiting = self._transport.get_write_buffer_size()
        try:
            descriptor = self._transport.get_extra_info("socket").fileno()
            return waiting + int.from_bytes(ioctl(descriptor, TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
        except (OSError, AttributeError):
            return waiting


def _connection(keep_alive: bool, is_http_1_0: bool) -> str:
    """The value of the header; empty for none."""
    if not keep_alive:
        return "close"
    return "keep-alive" if is_http_1_0 else ""
