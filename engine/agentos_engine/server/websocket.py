"""The worker port: WebSockets on picows, each with one connection of the bus, or one end of a data channel."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import picows

from agentos_engine import limits
from agentos_engine.access.gatekeeper import Gatekeeper
from agentos_engine.access.guard import SessionGuard
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Connection, Link, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames
from agentos_engine.server.channels import ChannelSocket, accept_channel
from agentos_engine.server.fragments import Fragments, MessageFault
from agentos_engine.server.paths import AccessError, Gate, Target, parse_path

log = logging.getLogger(__name__)

_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CONTINUATION = picows.WSMsgType.CONTINUATION
_CLOSE = picows.WSMsgType.CLOSE
_TELEMETRY = (b"OTLP", b"MTRC", b"LOGS")

RESTART = picows.WSCloseCode.SERVICE_RESTART
"""1012. With 1000, 1001 or no code the Python SDK 0.11.6 would stay up and never reconnect; nor after an HTTP status."""

Ingest = Callable[[Connection | None, bytes, bytes], object]
"""Takes telemetry: the connection (None for one that brings nothing else), the four letters, the JSON after them."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """How peers that say nothing are treated; in seconds, see the limits of the same names."""

    ping_interval: float = limits.PING_INTERVAL
    silent_after: float = limits.SILENT_AFTER
    silence_timeout: float = limits.SILENCE_TIMEOUT


class WorkerServer:
    """One listening port. With a ``gatekeeper`` its connections are held to the rules of that listener."""

    def __init__(
        self,
        bus: Bus,
        gate: Gate,
        channels: Channels,
        ingest: Ingest,
        gatekeeper: Gatekeeper | None = None,
        *,
        liveness: Liveness,
        handshake_timeout: float = limits.HANDSHAKE_TIMEOUT,
    ) -> None:
        self.bus = bus
        self.gate = gate
        self.ingest = ingest
        self.gatekeeper = gatekeeper
        self.sockets: set[_Socket | ChannelSocket] = set()
        self.silent_pings = max(1, round(liveness.silent_after / liveness.ping_interval))
        self.dead_pings = max(1, round(liveness.silence_timeout / liveness.ping_interval))
        self._channels = channels
        self._ping_interval = liveness.ping_interval
        self._handshake_timeout = handshake_timeout
        self._server: asyncio.Server | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._all_gone: asyncio.Event | None = None
        self.closing = False

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises OSError when that is not possible."""
        self._server = await picows.ws_create_server(
            self._accept,
            host,
            port,
            disconnect_on_exception=False,  # an error while serving one peer must not end another's connection
            websocket_handshake_timeout=self._handshake_timeout,
            max_frame_size=limits.MAX_MESSAGE,
            read_buffer_init_size=2048,
            backlog=1024,
        )
        self._pinger = asyncio.get_running_loop().create_task(self._ping())
        return self._server.sockets[0].getsockname()[1]

    def stop_listening(self) -> None:
        """Refuse new connections at the TCP level: workers try again until the next engine is there."""
        self.closing = True
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Close all connections so that every SDK reconnects; cut those that do not answer in time."""
        self.stop_listening()
        if self._pinger is not None:
            self._pinger.cancel()
        open_sockets = list(self.sockets)
        for socket in open_sockets:
            socket.close(RESTART, "the engine is restarting")
        if open_sockets:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), limits.CLOSE_TIMEOUT)
        for socket in list(self.sockets):
            socket.abort()
        await asyncio.sleep(0)

    def enter(self, socket: "_Socket | ChannelSocket") -> None:
        """A socket is open."""
        self.sockets.add(socket)

    def forget(self, socket: "_Socket | ChannelSocket") -> None:
        """A socket has ended."""
        self.sockets.discard(socket)
        if not self.sockets and self._all_gone is not None:
            self._all_gone.set()

    def _accept(
        self, request: picows.WSUpgradeRequest
    ) -> "_Socket | ChannelSocket | picows.WSUpgradeResponseWithListener | None":
        target = parse_path(request.path)
        if not target.is_channel:
            return _Socket(self, target, request)
        try:
            self.gate.admit(target, self.origin_of(request))
        except AccessError as error:
            log.warning("channel refused: %s", error)
            return None  # picows answers 404
        return accept_channel(self._channels, request.path, self.enter, self.forget)

    def origin_of(self, request: picows.WSUpgradeRequest) -> str | None:
        """Return which page's browser connects; None for no browser, or where the listener's rules decide."""
        return request.headers.get("origin") if self.gatekeeper is None else None

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            for socket in list(self.sockets):
                socket.ping(self.dead_pings)


class _Socket(picows.WSListener, Link):
    """The WebSocket of a worker, or of one that only brings telemetry."""

    def __init__(self, server: WorkerServer, target: Target, request: picows.WSUpgradeRequest) -> None:
        self._server = server
        self._target = target
        self._request: picows.WSUpgradeRequest | None = request
        self._transport: picows.WSTransport | None = None
        self._connection: Connection | None = None
        self._early: list[bytes] | None = None
        """Messages that came before the auth function has answered."""
        self._refused = False
        self._fragments = Fragments(limits.MAX_MESSAGE)
        self._heard = True
        self._unanswered = 0
        self._write_paused = False

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Admit the peer, or tell it why not: after the upgrade, since some SDKs give up at an HTTP status."""
        self._transport = transport
        if self._server.closing:  # the TCP connection was there before the end
            self.abort()
            return
        if len(self._server.sockets) >= limits.MAX_CONNECTIONS:
            log.warning("connection cut: there are %d already", limits.MAX_CONNECTIONS)
            self.abort()
            return
        self._server.enter(self)
        address = transport.underlying_transport.get_extra_info("peername")
        ip_address = address[0] if address else ""
        request, self._request = self._request, None
        try:
            origin = self._server.origin_of(request) if request is not None else None
            peer = self._server.gate.admit(self._target, origin)
        except AccessError as error:
            self._refuse(str(error), ip_address)
            return
        if self._server.gatekeeper is not None and request is not None:
            self._early = []
            transport.underlying_transport.pause_reading()
            self._server.bus.spawn(self._authenticate(self._server.gatekeeper, request, peer, ip_address))
        elif not self._target.is_telemetry:
            self._connection = self._server.bus.connect(self, peer, ip_address)

    async def _authenticate(
        self, gatekeeper: Gatekeeper, request: picows.WSUpgradeRequest, peer: Peer, ip_address: str
    ) -> None:
        headers = [(str(name), str(value)) for name, value in request.headers.items()]
        query = request.path.partition(b"?")[2].decode("latin-1")
        try:
            session = await gatekeeper.authenticate(headers, query, ip_address)
        except BusError as error:
            self._refuse(error.message, ip_address)
            return
        if self._transport is None or self._transport.is_disconnected or self._transport.is_close_frame_sent:
            return
        if not self._target.is_telemetry:
            guard = SessionGuard(self._server.bus, gatekeeper, session)
            self._connection = self._server.bus.connect(self, peer, ip_address, guard)
        early, self._early = self._early or [], None
        for message in early:
            self._receive(message)
        self._transport.underlying_transport.resume_reading()

    def _refuse(self, reason: str, ip_address: str) -> None:
        log.warning("connection refused: %s", reason, extra={"ip_address": ip_address})
        if self._transport is None or self._transport.is_disconnected:
            return
        self._refused = True
        self._transport.send(_TEXT, frames.connection_error("AUTH_ERROR", reason))
        self._transport.send_close(picows.WSCloseCode.POLICY_VIOLATION, "AUTH_ERROR")
        # What a stranger goes on sending stays in the kernel's buffers.
        self._transport.underlying_transport.pause_reading()
        asyncio.get_running_loop().call_later(limits.REFUSED_LINGER, self.abort)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Take the connection off the bus."""
        self._server.forget(self)
        self._fragments.drop()
        self._leave()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Put fragments together and hand whole messages to the bus."""
        self._heard = True
        if self._refused:
            return
        kind = frame.msg_type
        if kind == _CLOSE:
            self._on_close(transport, frame)
        elif kind in (_TEXT, _BINARY, _CONTINUATION) and not transport.is_close_frame_sent:
            try:
                message = self._fragments.take(frame)
            except MessageFault as fault:
                self.close(fault.code, fault.reason)
            else:
                if message is not None:
                    self._receive(message)
        if self._unanswered:
            self._revive()

    def _receive(self, message: bytes) -> None:
        if self._early is not None:
            self._early.append(message)
            return
        connection = self._connection
        kind = message[:4]
        if kind in _TELEMETRY:
            self._server.ingest(connection, kind, message[4:])
        elif connection is not None and (len(message) >= 64 or message.strip()):
            self._server.bus.receive(connection, message)

    def _on_close(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if not transport.is_close_frame_sent:
            code = frame.get_close_code()
            known = code if code != picows.WSCloseCode.NO_INFO else picows.WSCloseCode.OK
            transport.send_close(known)
        self._leave()
        transport.disconnect()
        asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def _leave(self) -> None:
        """Take the connection off the bus."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._server.bus.disconnect(connection)

    # Link

    def send(self, frame: bytes) -> None:
        """Send a text frame; a peer that does not read for too long is cut off."""
        transport = self._transport
        if transport is None or transport.is_disconnected or transport.is_close_frame_sent:
            return
        transport.send(_TEXT, frame)
        if self._write_paused and self.unsent() > limits.MAX_OUTBOUND:
            log.warning("worker disconnected: it does not read", extra={"worker_id": self._worker_id()})
            self.abort()

    def end(self, reason: str) -> None:
        """Close the connection; the bus has forgotten it already."""
        self._connection = None
        self.close(RESTART, reason)

    def unsent(self) -> int:
        """Bytes that wait because the peer does not read."""
        return 0 if self._transport is None else self._transport.underlying_transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        self._write_paused = True
        if self._connection is not None:
            self._connection.congested = True

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._write_paused = False
        if self._connection is not None:
            self._connection.congested = False

    # Liveness and the end

    def ping(self, dead_pings: int) -> None:
        """Ask for a sign of life when nothing came since the last look; after ``dead_pings`` in vain, end it."""
        if self._transport is None:
            return
        if self._heard:
            self._heard = False
            return
        if self._unanswered >= dead_pings:
            log.warning("worker disconnected: it is silent", extra={"worker_id": self._worker_id()})
            self.close(RESTART, "no answer to pings")
            return
        self._unanswered += 1
        if self._unanswered >= self._server.silent_pings and self._connection is not None:
            self._connection.silent = True
        self._transport.send_ping()

    def _revive(self) -> None:
        self._unanswered = 0
        if self._connection is not None:
            self._connection.silent = False

    def close(self, code: picows.WSCloseCode, reason: str) -> None:
        """Leave the bus and send a close frame; the connection is cut when that is not answered in time."""
        if self._transport is not None:
            self._leave()
            self._transport.send_close(code, reason)
            asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)

    def _worker_id(self) -> str:
        return self._connection.id if self._connection is not None else ""
