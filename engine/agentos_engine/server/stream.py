"""The stream port: WebSockets on picows for those who consume streams, such as browsers."""

import asyncio
import contextlib
import logging
import re
import urllib.parse
from dataclasses import dataclass
from functools import partial

import picows

from agentos_engine import limits
from agentos_engine.bus.backlog import Backlog
from agentos_engine.clock import Clock
from agentos_engine.observability.trace_context import Trace
from agentos_engine.server.fragments import Fragments, MessageFault
from agentos_engine.server.listening import Listening
from agentos_engine.server.stream_client import Client, Feed, Host
from agentos_engine.server.tls import Tls, listen

log = logging.getLogger(__name__)

MAX_CLIENTS = 8192
MAX_MESSAGE = 1 << 20
"""Of a client."""
PING_INTERVAL = 15.0
"""Seconds."""
SILENCE_TIMEOUT = 60.0
"""A client from which nothing came for so long, no pong either, or that took nothing of what it was sent, is dead."""
COALESCED = 32 << 10
"""Bytes to which frames are put together before they are sent."""

_DATA = (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY, picows.WSMsgType.CONTINUATION)
_FOREVER = float("inf")
_TOKEN = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:,|$)")
"""The first in a list of subprotocols."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client came with. Names of headers are in lower case, ``address`` is ``IP:port``."""

    headers: dict[str, str]
    path: str
    query: dict[str, list[str]]
    address: str

    @property
    def trace(self) -> Trace:
        """``traceparent`` and ``baggage`` as they came."""
        return self.headers.get("traceparent"), self.headers.get("baggage")


class StreamServer:
    """The listening port. ``host`` decides what is served, ``feed`` is where its events are published."""

    def __init__(self, host: Host, feed: Feed, clock: Clock, tls: Tls | None = None) -> None:
        self._host = host
        self._tls = tls
        self._feed = feed
        self._clock = clock
        self._sockets: set[_Socket] = set()
        self._clients: set[asyncio.Task[None]] = set()
        self._server: Listening | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._gone: asyncio.Event | None = None
        self._unflushed: list[_Socket] = []

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._sockets)

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises OSError when that is not possible."""
        create = partial(
            picows.ws_create_server,
            self._accept,
            disconnect_on_exception=False,
            websocket_handshake_timeout=limits.HANDSHAKE_TIMEOUT,
            enable_auto_pong=False,  # a client that sends pings and reads nothing must not fill the memory
            max_frame_size=MAX_MESSAGE,
            read_buffer_init_size=2048,
            backlog=1024,
        )
        self._server = await listen(create, host, port, self._tls, limits.HANDSHAKE_TIMEOUT)
        self._pinger = asyncio.get_running_loop().create_task(self._ping())
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and close all connections, so that clients try again; returns when all have ended."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._pinger is not None:
            self._pinger.cancel()
        for socket in list(self._sockets):
            socket.close(picows.WSCloseCode.SERVICE_RESTART, "the engine is restarting")
        if not await self._all_gone():
            for socket in list(self._sockets):
                socket.abort()
            await self._all_gone()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _all_gone(self) -> bool:
        """Wait until there is no socket any more; False when that takes too long."""
        if self._sockets:
            self._gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), limits.CLOSE_TIMEOUT)
        return not self._sockets

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for socket in unflushed:
            socket.flush()

    # From the sockets

    def flush_soon(self, socket: "_Socket") -> None:
        """A socket has something to send: one write for all of it costs a fraction of one for each frame."""
        self._unflushed.append(socket)
        if len(self._unflushed) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def connected(self, socket: "_Socket", handshake: Handshake) -> Client:
        """A socket is there; return who is to get what comes from it."""
        socket.backlog = self._feed.bounds.backlog
        client = Client(socket, self._host, self._feed, handshake)
        self._sockets.add(socket)
        task = asyncio.get_running_loop().create_task(self._serve(client, socket))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return client

    def disconnected(self, socket: "_Socket") -> None:
        """A socket has ended."""
        self._sockets.discard(socket)
        if not self._sockets and self._gone is not None:
            self._gone.set()

    async def _serve(self, client: Client, socket: "_Socket") -> None:
        try:
            await client.run()
        except Exception:
            log.exception("a stream client's connection failed inside the engine")
            socket.close(picows.WSCloseCode.INTERNAL_ERROR, "the engine failed")

    def _accept(self, request: picows.WSUpgradeRequest) -> "picows.WSListener | picows.WSUpgradeResponseWithListener":
        """Any path will do: the documentation of iii has clients come by ``/stream/NAME/GROUP``, others come by ``/``."""
        if self._server is None or len(self._sockets) >= MAX_CLIENTS:
            self._feed.bounds.count("stream_clients")
            response = picows.WSUpgradeResponse.create_error_response(503, b"too many clients; try again later\n")
            return picows.WSUpgradeResponseWithListener(response, None)
        # Browsers give up unless one of the subprotocols that they offer is taken; some carry a token in the second.
        offered = _TOKEN.match(request.headers.get("sec-websocket-protocol", ""))
        chosen = {"Sec-WebSocket-Protocol": offered[1]} if offered else None
        response = picows.WSUpgradeResponse.create_101_response(chosen)
        return picows.WSUpgradeResponseWithListener(response, _Socket(self))

    async def _ping(self) -> None:
        while True:
            await self._clock.machine.sleep(PING_INTERVAL)
            for socket in list(self._sockets):
                socket.ping()


class _Socket(picows.WSListener):
    """One WebSocket."""

    def __init__(self, server: StreamServer) -> None:
        self.backlog: Backlog | None = None
        self._server = server
        self._transport: picows.WSTransport | None = None
        self._client: Client | None = None
        self._fragments = Fragments(MAX_MESSAGE)
        self._frames: list[bytes] = []
        self._frames_size = 0
        self._silent = 0
        """Pings since the last sign of life."""
        self._stuck = 0
        """Pings since the client last took something of what waits for it."""
        self._reading = True
        self._write_paused = False
        self._unsent = _FOREVER
        """Bytes that the client had not taken at the last ping."""

    # From picows

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Begin to serve the client."""
        self._transport = transport
        self._client = self._server.connected(self, handshake_of(transport))

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Tell the client's side that it is over."""
        self._fragments.drop()
        if self.backlog is not None:
            self.backlog.forget(self)
        self._server.disconnected(self)
        self._end()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Put fragments together and hand on whole messages."""
        self._silent = 0
        kind = frame.msg_type
        if transport.is_close_frame_sent and kind != picows.WSMsgType.CLOSE:
            return
        if kind == picows.WSMsgType.CLOSE:
            self._on_close(transport, frame)
        elif kind == picows.WSMsgType.PING:
            if not self._write_paused:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind in _DATA:
            try:
                message = self._fragments.take(frame)
            except MessageFault as fault:
                self.close(fault.code, fault.reason)
            else:
                if message is not None:
                    self._receive(message)

    def _receive(self, message: bytes) -> None:
        if self._client is not None:
            self._client.receive(message)

    def _on_close(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if not transport.is_close_frame_sent:
            code = frame.get_close_code()
            transport.send_close(code if code != picows.WSCloseCode.NO_INFO else picows.WSCloseCode.OK)
        self._end()
        transport.disconnect()
        asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        self._write_paused = True
        self._unsent = _FOREVER
        if self.backlog is not None:
            self.backlog.note(self)
        if self._client is not None:
            self._client.block()

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._write_paused = False
        self._stuck = 0
        if self.backlog is not None:
            self.backlog.forget(self)
        if self._client is not None:
            self._client.unblock()

    def unsent(self) -> int:
        """Bytes that wait because the client does not read."""
        return 0 if self._transport is None else self._transport.underlying_transport.get_write_buffer_size()

    # From the client's side

    def write(self, frame: bytes) -> None:
        """Send a whole WebSocket frame, together with the others of this turn of the loop."""
        self._frames.append(frame)
        self._frames_size += len(frame)
        if self._frames_size > COALESCED:
            self.flush()
        elif len(self._frames) == 1:
            self._server.flush_soon(self)

    def flush(self) -> None:
        """Send what was written."""
        frames, self._frames, self._frames_size = self._frames, [], 0
        transport = self._transport
        if not frames or transport is None or transport.is_disconnected or transport.is_close_frame_sent:
            return
        socket = transport.underlying_transport
        if not socket.is_closing():
            socket.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def read_on(self, wanted: bool) -> None:
        """Whether to read from the client."""
        self._reading = wanted
        if self._transport is None or self._transport.is_disconnected:
            return
        socket = self._transport.underlying_transport
        with contextlib.suppress(RuntimeError):  # it is closing
            if wanted:
                self._silent = 0
                socket.resume_reading()
            else:
                socket.pause_reading()

    def refuse(self) -> None:
        """Close with the code for somebody who is not let in."""
        self.close(picows.WSCloseCode.POLICY_VIOLATION, "AUTH_ERROR")

    # From the port

    def ping(self) -> None:
        """Ask for a sign of life; a client that gave none for too long is disconnected."""
        transport = self._transport
        if transport is None or transport.is_disconnected or transport.is_close_frame_sent:
            return
        if self._write_paused:
            unsent = transport.underlying_transport.get_write_buffer_size()
            self._stuck = 0 if unsent < self._unsent else self._stuck + 1
            self._unsent = unsent
        elif self._reading:
            self._silent += 1
        if max(self._silent, self._stuck) > SILENCE_TIMEOUT / PING_INTERVAL:
            log.info("stream client disconnected: it is silent, or takes nothing")
            self.close(picows.WSCloseCode.GOING_AWAY, "no answer to pings")
        elif not self._write_paused:
            transport.send_ping()

    def close(self, code: picows.WSCloseCode, reason: str) -> None:
        """Send a close frame; the connection is cut when that is not answered in time."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._end()
            self.flush()
            self._transport.send_close(code, reason)
            if not self._reading:
                self.read_on(True)
            asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)

    def _end(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            client.end()


def handshake_of(transport: picows.WSTransport) -> Handshake:
    """Read what a client came with."""
    request = transport.request
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        name, value = _clean(name).lower(), _clean(value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = request.path.decode("latin-1").partition("?")
    peer = transport.underlying_transport.get_extra_info("peername")
    return Handshake(
        headers=headers,
        path=path,
        query=urllib.parse.parse_qs(query, keep_blank_values=True, errors="replace"),
        address=_address(*peer[:2]) if peer else "",
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _clean(text: str) -> str:
    """What may have come as bytes that are no text, made fit for JSON."""
    return text.encode(errors="replace").decode()
