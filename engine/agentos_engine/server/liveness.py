"""Signs of life below WebSockets: a large message on a slow link is a frame for minutes, of which picows tells nothing."""

import asyncio
import socket
import struct

_LAST_DATA_RECEIVED = 52
"""Where ``tcpi_last_data_recv`` stands in Linux's ``struct tcp_info``: milliseconds, 32 bits."""


def received_lately(transport: asyncio.BaseTransport, seconds: float) -> bool:
    """Whether bytes came from a peer within so many seconds, as the kernel knows; False where it does not tell.

    A system call: to be asked about those that seem dead only.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED + 4)
        return struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)[0] < seconds * 1000
    except (OSError, struct.error):
        return False
