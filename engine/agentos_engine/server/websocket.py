"""The worker port: WebSockets on picows, each with one connection of the bus, or one end of a data channel."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import picows

from agentos_engine import limits
from agentos_engine.access.gatekeeper import Gatekeeper
from agentos_engine.access.guard import SessionGuard
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Connection, Link, Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.protocol import frames
from agentos_engine.server import read_buffers
from agentos_engine.server.channels import ChannelSocket, accept_channel
from agentos_engine.server.fragments import Fragments, MessageFault
from agentos_engine.server.gathering import Gathering, text_frames
from agentos_engine.server.listening import Listening
from agentos_engine.server.liveness import received_lately
from agentos_engine.server.paths import NO_GRANT, AccessError, Gate, Target, parse_path
from agentos_engine.server.tls import Tls, listen
from agentos_engine.server.turns import SLICE, Turns

log = logging.getLogger(__name__)

_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CONTINUATION = picows.WSMsgType.CONTINUATION
_CLOSE = picows.WSMsgType.CLOSE
_PING = picows.WSMsgType.PING
_TELEMETRY = (b"OTLP", b"MTRC", b"LOGS")

RESTART = picows.WSCloseCode.SERVICE_RESTART
"""1012. With 1000, 1001 or no code the Python SDK 0.11.6 would stay up and never reconnect; nor after an HTTP status."""

MUCH = 16 << 10
"""Bytes that have been read and not looked at yet, beside which it is asked whether others had a turn."""
PINGS_AT_ONCE = 100
"""Some milliseconds' worth; then others have a turn."""

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
        tls: Tls | None = None,
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
        self._tls = tls
        self.ping_interval = liveness.ping_interval
        self._of_identity: Counter[str] = Counter()
        self._handshake_timeout = handshake_timeout
        self._server: Listening | None = None
        self._pinger: asyncio.Task[None] | None = None
        self._all_gone: asyncio.Event | None = None
        self.turns = Turns()
        self.closing = False
        self.received = self.sent = 0
        """Bytes of messages from and to workers."""
        self.gathering = Gathering()

    async def listen(self, host: str, port: int) -> int:
        """Start to listen and return the port. Raises OSError when that is not possible."""
        create = partial(
            picows.ws_create_server,
            self._accept,
            disconnect_on_exception=False,  # an error while serving one peer must not end another's connection
            websocket_handshake_timeout=self._handshake_timeout,
            max_frame_size=self.bus.bounds.limits.message_bytes,
            enable_auto_pong=False,  # a peer that sends pings and reads nothing must not fill the memory
            read_buffer_init_size=read_buffers.INITIAL,
            logger_name=read_buffers.QUIET,
            backlog=1024,
        )
        self._server = await listen(create, host, port, self._tls, self._handshake_timeout)
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
        self.turns.finish()

    def enter(self, socket: "_Socket | ChannelSocket") -> None:
        """A socket is open."""
        self.sockets.add(socket)

    def forget(self, socket: "_Socket | ChannelSocket") -> None:
        """A socket has ended."""
        self.sockets.discard(socket)
        if not self.sockets and self._all_gone is not None:
            self._all_gone.set()

    def count_in(self, uid: str) -> bool:
        """Count a connection by the uid in its token; False when that has more than it may."""
        self._of_identity[uid] += 1
        return self._of_identity[uid] <= self.bus.bounds.limits.connections_per_identity

    def count_out(self, uid: str) -> None:
        """A connection that was counted has ended."""
        self._of_identity[uid] -= 1
        if not self._of_identity[uid]:
            del self._of_identity[uid]

    def _accept(
        self, request: picows.WSUpgradeRequest
    ) -> "_Socket | ChannelSocket | picows.WSUpgradeResponseWithListener | None":
        target = parse_path(request.path)
        if not target.is_channel:
            return _Socket(self, target, request)
        try:
            peer = self.gate.admit(target, self.origin_of(request))
            if not self.gate.is_granted(peer):
                raise AccessError(NO_GRANT)
        except AccessError as error:
            log.warning("channel refused: %s", error)
            return None  # picows answers 404
        if len(self.sockets) >= self.bus.bounds.limits.connections:
            self.bus.bounds.count("connections")
            return None
        answer = accept_channel(self._channels, request.path, self.enter, self.forget, self.bus.bounds)
        if isinstance(answer, ChannelSocket):
            self.gate.follow(peer, answer)
        return answer

    def origin_of(self, request: picows.WSUpgradeRequest) -> str | None:
        """Return which page's browser connects; None for no browser, or where the listener's rules decide."""
        return request.headers.get("origin") if self.gatekeeper is None else None

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self.ping_interval)
            for position, socket in enumerate(list(self.sockets), 1):
                if socket in self.sockets:
                    socket.ping(self.dead_pings)
                if position % PINGS_AT_ONCE == 0:
                    await asyncio.sleep(0)


class _Socket(picows.WSListener, Link):
    """The WebSocket of a worker, or of one that only brings telemetry."""

    def __init__(self, server: WorkerServer, target: Target, request: picows.WSUpgradeRequest) -> None:
        self._server = server
        self._target = target
        self._request: picows.WSUpgradeRequest | None = request
        self._transport: picows.WSTransport | None = None
        self._connection: Connection | None = None
        self._early: list[bytes] | None = None
        """Messages that came before the auth function has answered, or that were put off; None: they go straight on."""
        self._refused = False
        self._backlog = server.bus.bounds.backlog
        self._fragments = Fragments(server.bus.bounds.limits.message_bytes)
        self._heard = True
        self._unanswered = 0
        self._uid = ""
        """Of the token, once it counts among the connections of its worker."""
        self._write_paused = False
        self._goes_on = False
        """It is at work on messages that were put off."""
        self._swollen = False
        """The read buffer is larger than an idle connection needs."""
        self.gathered: list[bytes] = []
        """Frames that wait for :meth:`flush`."""

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Admit the peer, or tell it why not: after the upgrade, since some SDKs give up at an HTTP status."""
        if self._transport is not None:  # its read buffer was exchanged
            self._transport = transport
            return
        self._transport = transport
        if self._server.closing:  # the TCP connection was there before the end
            self.abort()
            return
        bounds = self._server.bus.bounds
        if len(self._server.sockets) >= bounds.limits.connections:
            bounds.count("connections")
            log.warning("connection cut: there are %d already", bounds.limits.connections)
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
        if peer.uid:
            self._uid = peer.uid
            if not self._server.count_in(peer.uid):
                most = bounds.limits.connections_per_identity
                error = bounds.exceeded("connections_per_identity", f"{peer.subject} has {most} connections already")
                self._refuse(error.message, ip_address, "limit_exceeded")
                return
        if request is not None and (self._server.gatekeeper is not None or not self._server.gate.is_granted(peer)):
            self._early = []
            transport.underlying_transport.pause_reading()
            self._server.bus.spawn(self._authenticate(request, peer, ip_address))
        else:
            self._enter(peer, ip_address)

    def _enter(self, peer: Peer, ip_address: str, guard: SessionGuard | None = None) -> None:
        if self._target.is_telemetry:
            self._server.gate.follow(peer, self)
        else:
            self._connection = self._server.bus.connect(self, peer, ip_address, guard)

    async def _authenticate(self, request: picows.WSUpgradeRequest, peer: Peer, ip_address: str) -> None:
        """Let the peer in once the listener's auth function, and the operator, have said that it may."""
        gatekeeper, session = self._server.gatekeeper, None
        try:
            await self._server.gate.wait_for_grant(peer)
            if gatekeeper is not None:
                headers = [(str(name), str(value)) for name, value in request.headers.items()]
                query = request.path.partition(b"?")[2].decode("latin-1")
                session = await gatekeeper.authenticate(headers, query, ip_address)
        except AccessError as error:
            self._refuse(str(error), ip_address)
            return
        except BusError as error:
            self._refuse(error.message, ip_address)
            return
        if self._transport is None or self._transport.is_disconnected or self._transport.is_close_frame_sent:
            return
        if not self._server.gate.is_granted(peer):  # revoked while the auth function was asked
            self._refuse(NO_GRANT, ip_address)
            return
        guard = None
        if gatekeeper is not None and session is not None:
            guard = SessionGuard(self._server.bus, gatekeeper, session)
        self._enter(peer, ip_address, guard)
        early, self._early = self._early or [], None
        for message in early:
            self._receive(message)
        self._transport.underlying_transport.resume_reading()

    def _refuse(self, reason: str, ip_address: str, code: str = "AUTH_ERROR") -> None:
        log.warning("connection refused: %s", reason, extra={"ip_address": ip_address})
        self._server.bus.permissions_denied["connection"] += code == "AUTH_ERROR"
        if self._transport is None or self._transport.is_disconnected:
            return
        self._refused = True
        self._transport.send(_TEXT, frames.connection_error(code, reason))
        self._transport.send_close(picows.WSCloseCode.POLICY_VIOLATION, code)
        # What a stranger goes on sending stays in the kernel's buffers.
        self._transport.underlying_transport.pause_reading()
        asyncio.get_running_loop().call_later(limits.REFUSED_LINGER, self.abort)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Take the connection off the bus."""
        if transport is not self._transport:  # the one that went with a read buffer
            return
        self._server.forget(self)
        if self._uid:
            self._server.count_out(self._uid)
        self._backlog.forget(self)
        self._fragments.drop()
        if self._connection is not None and self._server.turns.are_full():
            self._connection.silent = True  # others get its calls until then
            self._server.turns.put(self._leave_last)
        else:
            self._leave_last()

    def _leave_last(self) -> None:
        """Take the connection off the bus once what it had sent is carried out."""
        if self._connection is not None:
            self._go_on(math.inf)
        self._leave()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Hand whole messages to the bus."""
        self._heard = True
        connection, server = self._connection, self._server
        # Nearly all frames are whole messages of workers that are on the bus: they take the shortest way there is.
        if (
            connection is not None
            and self._early is None
            and frame.msg_type is _TEXT
            and frame.fin
            and not frame.rsv1
            and self._fragments.partial is None
        ):
            message = frame.get_payload_as_bytes()
            if message[:1] == b"{":
                server.received += len(message)
                if not frame.last_in_buffer:
                    if not server.gathering.on:
                        server.gathering.begin()
                    server.bus.receive(connection, message)
                    if frame.tail_size > MUCH and time.monotonic() - server.gathering.began > SLICE:
                        self.put_off()
                else:
                    server.bus.receive(connection, message)
                    if server.gathering.on:
                        server.gathering.end()
                if self._unanswered or len(message) > read_buffers.LARGE:
                    self._look_after(frame, len(message))
                return
        self._on_other_frame(transport, frame)

    def _on_other_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Put fragments together, and do what is neither that nor a message."""
        if self._refused:
            return
        size = 0
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
                    size = len(message)
                    self._receive(message)
        elif kind == _PING and not self._write_paused and not transport.is_close_frame_sent:
            transport.send_pong(frame.get_payload_as_bytes())
        if self._unanswered or self._swollen or size > read_buffers.LARGE:
            self._look_after(frame, size)

    def _look_after(self, frame: picows.WSFrame, size: int) -> None:
        """The peer lives; the buffer of a message of so many bytes is given back, and one that has swollen otherwise."""
        revived = self._unanswered > 0
        if revived:
            self._revive()
        if size > read_buffers.LARGE:
            self._swollen = True
        if self._swollen:
            self._shrink(frame)

    def _receive(self, message: bytes) -> None:
        if self._early is not None:
            self._early.append(message)
            return
        connection = self._connection
        self._server.received += len(message)
        kind = message[:4]
        if kind in _TELEMETRY:
            self._server.ingest(connection, kind, message[4:])
        elif connection is not None and (len(message) >= 64 or message.strip()):
            self._server.bus.receive(connection, message)

    def put_off(self, frame: bytes | None = None) -> bool:
        """Leave a message, and all that comes behind it, to a later turn of the loop, if this one is full; else False.

        Without a message, what was read and not looked at yet: a peer that sends thousands at once is not alone.
        """
        transport, turns = self._transport, self._server.turns
        if transport is None or self._goes_on or (frame is not None and not turns.are_full()):
            return False
        self._early = [] if frame is None else [frame]
        transport.underlying_transport.pause_reading()
        turns.put(self._go_on)
        return True

    def _go_on(self, seconds: float = SLICE) -> None:
        """Carry out, for so long, what was put off."""
        early, transport, began = self._early, self._transport, time.monotonic()
        if early is None or transport is None:
            return
        self._early = None
        if not self._server.gathering.on:
            self._server.gathering.begin()
        self._goes_on = True
        for position, message in enumerate(early, 1):
            self._receive(message)
            if time.monotonic() - began > seconds and position < len(early):
                self._early = early[position:]
                self._server.turns.put(self._go_on)
                break
        self._goes_on = False
        if self._early is None and not transport.is_disconnected:
            transport.underlying_transport.resume_reading()

    def _shrink(self, frame: picows.WSFrame) -> None:
        """Give back the memory of a large read buffer, if nothing is left in it; else a later look does."""
        transport = self._transport
        if frame.tail_size or transport is None or transport.is_disconnected or transport.is_close_frame_sent:
            return
        self._swollen = False
        read_buffers.renew(transport, self, self._server.bus.bounds.limits.message_bytes)

    def _on_close(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self._connection is not None:
            self._go_on(math.inf)
        self.flush()
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
        server, transport = self._server, self._transport
        server.sent += len(frame)
        if server.gathering.on:
            server.gathering.add(self, frame)
        elif transport is not None:
            transport.send(_TEXT, frame)  # which does nothing after a close frame
            if self._write_paused:
                self._check_unsent()

    def flush(self) -> None:
        """Send the frames that were gathered."""
        gathered, transport = self.gathered, self._transport
        if not gathered:
            return
        self.gathered = []
        if transport is None or transport.is_disconnected or transport.is_close_frame_sent:
            return
        if len(gathered) == 1:
            transport.send(_TEXT, gathered[0])
        else:
            transport.underlying_transport.writelines(text_frames(gathered))
        if self._write_paused:
            self._check_unsent()

    def _check_unsent(self) -> None:
        """More has to wait: a peer that does not read for too long is cut off, here or because all wait for too much."""
        bounds = self._server.bus.bounds
        if self.unsent() > bounds.limits.unsent_bytes_per_connection:
            bounds.count("unsent_bytes_per_connection")
            log.warning("worker disconnected: it does not read", extra={"worker_id": self._worker_id()})
            self.abort()
        else:
            self._backlog.note(self)

    def end(self, reason: str) -> None:
        """Close the connection; the bus has forgotten it already."""
        self._connection = None
        self.close(RESTART, reason)

    def unsent(self) -> int:
        """Bytes that wait because the peer does not read."""
        return 0 if self._transport is None else self._transport.underlying_transport.get_write_buffer_size()

    def is_full(self) -> bool:
        """Whether so much waits that no more calls are to go there: also because too much waits for others."""
        return self.unsent() > min(limits.MAX_UNSENT, self._backlog.free)

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        self._write_paused = True
        self._backlog.note(self)
        if self._connection is not None:
            self._connection.congested = True

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._write_paused = False
        self._backlog.forget(self)
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
        if self._unanswered and received_lately(self._transport.underlying_transport, self._server.ping_interval):
            self._revive()  # the bytes of a large message come slowly, and its pong comes behind them
            return
        if self._unanswered >= dead_pings:
            log.warning("worker disconnected: it is silent", extra={"worker_id": self._worker_id()})
            self.close(RESTART, "no answer to pings")
            return
        self._unanswered += 1
        self._swollen = read_buffers.is_swollen(self._transport)
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
            self.flush()
            self._leave()
            self._transport.send_close(code, reason)
            asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)

    def _worker_id(self) -> str:
        return self._connection.id if self._connection is not None else ""
