"""The worker port: WebSockets on picows, each with one connection of the bus."""

import asyncio
import contextlib
import logging
import time

import picows

from agentos_engine import limits
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection, Peer
from agentos_engine.protocol import frames
from agentos_engine.server.paths import AccessError, Gate, Target, parse_path

log = logging.getLogger(__name__)

_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CONTINUATION = picows.WSMsgType.CONTINUATION
_CLOSE = picows.WSMsgType.CLOSE
_TELEMETRY = (b"OTLP", b"MTRC", b"LOGS")

RESTART = picows.WSCloseCode.SERVICE_RESTART
"""1012. With 1000, 1001 or no code the Python SDK 0.11.6 would stay up and never reconnect; nor after an HTTP status."""


class WorkerServer:
    """The listening port."""

    def __init__(
        self,
        bus: Bus,
        gate: Gate,
        *,
        ping_interval: float = limits.PING_INTERVAL,
        silence_timeout: float = limits.SILENCE_TIMEOUT,
        handshake_timeout: float = limits.HANDSHAKE_TIMEOUT,
    ) -> None:
        self.bus = bus
        self.gate = gate
        self.sockets: set[_Socket] = set()
        self._ping_interval = ping_interval
        self._silent_pings = max(1, round(silence_timeout / ping_interval))
        self._handshake_timeout = handshake_timeout
        self._server: asyncio.Server | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._all_gone: asyncio.Event | None = None

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

    def forget(self, socket: "_Socket") -> None:
        """A socket has ended."""
        self.sockets.discard(socket)
        if not self.sockets and self._all_gone is not None:
            self._all_gone.set()

    def _accept(self, request: picows.WSUpgradeRequest) -> "_Socket | None":
        target = parse_path(request.path)
        if target.is_channel:
            return None  # picows answers 404
        return _Socket(self, target)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            for socket in list(self.sockets):
                socket.ping(self._silent_pings)


class _Socket(picows.WSListener):
    """One WebSocket."""

    def __init__(self, server: WorkerServer, target: Target) -> None:
        self._server = server
        self._target = target
        self._transport: picows.WSTransport | None = None
        self._connection: Connection | None = None
        self._partial: bytearray | None = None
        """What has come of a fragmented message."""
        self._unanswered = 0
        self._write_paused = False

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Admit the peer, or tell it why not: after the upgrade, since some SDKs give up at an HTTP status."""
        self._transport = transport
        self._server.sockets.add(self)
        address = transport.underlying_transport.get_extra_info("peername")
        ip_address = address[0] if address else ""
        try:
            peer: Peer = self._server.gate.admit(self._target)
        except AccessError as error:
            log.warning("connection refused: %s", error, extra={"ip_address": ip_address})
            transport.send(_TEXT, frames.connection_error("AUTH_ERROR", str(error)))
            self.close(picows.WSCloseCode.POLICY_VIOLATION, "AUTH_ERROR")
            return
        if not self._target.is_telemetry:
            self._connection = self._server.bus.connect(self._send, peer, ip_address)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Take the connection off the bus."""
        self._server.forget(self)
        self._partial = None
        self._leave()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Put fragments together and hand whole messages to the bus."""
        self._unanswered = 0
        kind = frame.msg_type
        if kind == _CLOSE:
            self._on_close(transport, frame)
        elif kind in (_TEXT, _BINARY, _CONTINUATION) and not transport.is_close_frame_sent:
            if frame.rsv1 or (kind == _CONTINUATION) == (self._partial is None):
                self.close(picows.WSCloseCode.PROTOCOL_ERROR, "compressed, or fragments out of order")
            elif frame.fin and self._partial is None:
                self._receive(frame.get_payload_as_bytes())
            else:
                self._on_fragment(frame)

    def _on_fragment(self, frame: picows.WSFrame) -> None:
        partial = self._partial if self._partial is not None else bytearray()
        if len(partial) + frame.payload_size > limits.MAX_MESSAGE:
            self._partial = None
            self.close(picows.WSCloseCode.MESSAGE_TOO_BIG, f"a message has at most {limits.MAX_MESSAGE} bytes")
            return
        partial += frame.get_payload_as_memoryview()
        self._partial = None if frame.fin else partial
        if frame.fin:
            self._receive(bytes(partial))

    def _receive(self, message: bytes) -> None:
        connection = self._connection
        if connection is None or message[:4] in _TELEMETRY or (len(message) < 64 and not message.strip()):
            return
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
            self._server.bus.disconnect(connection, time.time())

    def _send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return
        transport.send(_TEXT, frame)
        if self._write_paused and transport.underlying_transport.get_write_buffer_size() > limits.MAX_OUTBOUND:
            log.warning("worker disconnected: it does not read", extra={"worker_id": self._worker_id()})
            self.abort()

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._write_paused = False

    def ping(self, silent_pings: int) -> None:
        """Ask for a sign of life; after ``silent_pings`` without any, end the connection."""
        if self._transport is None:
            return
        if self._unanswered >= silent_pings:
            log.warning("worker disconnected: it is silent", extra={"worker_id": self._worker_id()})
            self.close(RESTART, "no answer to pings")
            return
        self._unanswered += 1
        self._transport.send_ping()

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
