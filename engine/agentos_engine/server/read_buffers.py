"""Read buffers that shrink again.

picows reads each connection into a buffer that doubles for a large frame and stays so: a thousand workers that sent
4 MiB each, once, would hold gigabytes. It cannot give one back, but the buffer belongs to its protocol object, and a
transport may change its protocol: between two frames the large one makes room for a fresh one, which is told an
upgrade that the peer never sees.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import picows
from multidict import CIMultiDict
from picows.picows import WSProtocol  # pyright: ignore[reportAttributeAccessIssue]

INITIAL = 2048
"""Bytes of a fresh buffer: the least that picows takes."""
LARGE = 64 << 10
"""Bytes of a message after which the buffer is exchanged at once."""
SWOLLEN = 8 << 10
"""Bytes of a buffer above which an idle connection's is exchanged: many small frames in one read swell it, too."""

QUIET = logging.LoggerAdapter(logging.getLogger("picows.server"))
"""Of a Logger, picows would make and keep a child for each connection."""

_UPGRADE = (
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class _Unsent(picows.WSUpgradeResponse):
    """The answer to an upgrade that the peer has long had: nothing goes over the wire."""

    def __init__(self) -> None:
        self.status = HTTPStatus.SWITCHING_PROTOCOLS
        self.headers = CIMultiDict()

    def to_bytes(self) -> bytearray:
        """Return nothing."""
        return bytearray()


def is_swollen(transport: picows.WSTransport) -> bool:
    """True when there is room for more than SWOLLEN in the read buffer of a connection."""
    protocol: Any = transport.underlying_transport.get_protocol()
    return len(protocol.get_buffer(-1)) > SWOLLEN


def renew(transport: picows.WSTransport, listener: picows.WSListener, max_frame: int) -> None:
    """Exchange the read buffer of a connection for a small one; ``max_frame``: bytes of the largest frame to be taken.

    To be called while ``on_ws_frame`` handles a frame behind which the buffer is empty: its ``tail_size`` is 0. The
    listener's ``on_ws_connected`` gets the WSTransport that takes the place of the one given; its
    ``on_ws_disconnected`` is then told of the former one, over which nothing can be sent any more.
    """
    wire = transport.underlying_transport
    former = wire.get_protocol()
    fresh = WSProtocol(
        None,  # host and port
        None,  # path
        False,  # the client's side
        lambda request: picows.WSUpgradeResponseWithListener(_Unsent(), listener),
        QUIET,
        False,  # disconnect on an exception
        None,  # time-out of the upgrade
        False,  # pings of picows' own
        0,
        0,
        picows.WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # answers to pings: the listener gives them
        max_frame,
        None,  # headers
        INITIAL,
    )
    fresh.connection_made(wire)
    fresh.get_buffer(-1)[: len(_UPGRADE)] = _UPGRADE
    fresh.buffer_updated(len(_UPGRADE))
    wire.set_protocol(fresh)
    former.connection_lost(None)
    asyncio.get_running_loop().call_soon(lambda: former)  # it is still at work on the frame
