"""The ends of data channels that workers open: WebSockets at ``/ws/channels/{id}?key={key}&dir=read|write`` on picows.

A writer that is too fast is not read from, so that TCP slows it down; a reader that is too slow is waited for.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qsl

import picows

from agentos_engine import limits
from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.channels import Channel, Channels, Reader, Writer
from agentos_engine.server.fragments import Fragments, MessageFault
from agentos_engine.server.liveness import received_lately

log = logging.getLogger(__name__)

_TEXT = picows.WSMsgType.TEXT
_BINARY = picows.WSMsgType.BINARY
_CONTINUATION = picows.WSMsgType.CONTINUATION
_PING = picows.WSMsgType.PING
_PONG = picows.WSMsgType.PONG
_CLOSE = picows.WSMsgType.CLOSE

RECEIVE_BUFFER = 128 << 10
"""The kernel's, of a writer's socket. Left alone it grows to megabytes, and picows's with it: nothing of a channel is
bounded then."""
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 60, 15, 4
"""Seconds, seconds, and how many. An end that waits for the other answers no WebSocket ping, but its kernel does."""

RECENT = limits.PING_INTERVAL
"""Seconds: who sent any bytes within these is not silent."""
_PREFIX = "/ws/channels/"
_MAX_PARAMETERS = 32


def accept_channel(
    channels: Channels,
    path_and_query: bytes,
    on_open: Callable[["ChannelSocket"], object],
    on_close: Callable[["ChannelSocket"], object],
    bounds: Bounds | None = None,
) -> "ChannelSocket | picows.WSUpgradeResponseWithListener":
    """Answer the request for one end of a channel: its listener, or 404 or 400 for picows to send.

    What stands before ``/ws/channels/`` in the path is not looked at. The callbacks get the socket when it is open and
    when it has ended.
    """
    path, _, query = path_and_query.decode("latin-1").partition("?")
    try:
        parameters = dict(parse_qsl(query, max_num_fields=_MAX_PARAMETERS))
    except ValueError:
        return _refuse(HTTPStatus.BAD_REQUEST, f"more than {_MAX_PARAMETERS} query parameters")
    direction = parameters.get("dir")
    if direction not in ("read", "write"):
        return _refuse(HTTPStatus.BAD_REQUEST, "the query parameter dir has to be read or write")
    channel = channels.find(path.rpartition(_PREFIX)[2], parameters.get("key", ""))
    if channel is None:
        return _refuse(HTTPStatus.NOT_FOUND, "Channel not found")
    return (ReaderSocket if direction == "read" else WriterSocket)(channel, on_open, on_close, bounds or Bounds())


def _refuse(status: HTTPStatus, text: str) -> picows.WSUpgradeResponseWithListener:
    return picows.WSUpgradeResponseWithListener(
        picows.WSUpgradeResponse.create_error_response(status, text.encode()), None
    )


class ChannelSocket(picows.WSListener):
    """What both ends have in common."""

    def __init__(
        self,
        channel: Channel,
        on_open: Callable[["ChannelSocket"], object],
        on_close: Callable[["ChannelSocket"], object],
        bounds: Bounds,
    ) -> None:
        self._bounds = bounds
        self._channel = channel
        self._on_open = on_open
        self._on_close = on_close
        self._transport: picows.WSTransport | None = None
        self.is_held_up = False
        """Whether the other end of the channel, or this peer, makes it wait."""
        self.sent = 0
        """Messages sent to the peer."""
        self._confirmed = 0
        """Of those, how many it had taken when it answered a ping."""
        self._unanswered = 0
        self._write_paused = False

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Take the end, or close at once when it was taken before."""
        self._transport = transport
        self._on_open(self)
        _keep_alive(transport.underlying_transport.get_extra_info("socket"))
        if not self._enter(transport):
            self.close(picows.WSCloseCode.POLICY_VIOLATION, "this end of the channel was taken before")

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Give up the end."""
        self._bounds.backlog.forget(self)
        self._on_close(self)
        self._leave()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take data, an answer to a ping, or the peer's close frame."""
        self._unanswered = 0
        if frame.msg_type == _CLOSE:
            self._on_close_frame(transport, frame)
        elif frame.msg_type == _PONG:
            with contextlib.suppress(ValueError):  # an unasked one may hold anything
                self._confirmed = int(frame.get_payload_as_bytes())
        elif frame.msg_type == _PING:
            if not self._write_paused and not transport.is_close_frame_sent:
                transport.send_pong(frame.get_payload_as_bytes())
        elif not transport.is_close_frame_sent:
            self._on_frame(frame)

    def ping(self, silent_pings: int) -> None:
        """Ask for a sign of life; after ``silent_pings`` without any, cut the connection.

        A peer that waits for the other end, or is still at work on what it was sent, may be unable to answer: that one
        is left to TCP.
        """
        transport = self._transport
        if transport is None:
            return
        if self._is_busy():
            self._unanswered = 0
        elif self._unanswered >= silent_pings:
            if received_lately(transport.underlying_transport, RECENT):
                return  # the bytes of a large message come slowly
            self._cut("it is silent")
            return
        else:
            self._unanswered += 1
        if not self.is_held_up:
            transport.send_ping(b"%d" % self.sent)

    def close(self, code: picows.WSCloseCode, reason: str) -> None:
        """Give up the end and send a close frame; the connection is cut when that is not answered in time."""
        self._leave()
        if self._transport is not None:
            self._transport.send_close(code, reason)
            self._cut_later()

    def unsent(self) -> int:
        """Bytes that wait because the peer does not read."""
        return 0 if self._transport is None else self._transport.underlying_transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        self._write_paused = True
        self._bounds.backlog.note(self)

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._write_paused = False
        self._bounds.backlog.forget(self)

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.disconnect(graceful=False)

    def _on_close_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        code = frame.get_close_code()
        known = code if code != picows.WSCloseCode.NO_INFO else picows.WSCloseCode.OK
        if known == picows.WSCloseCode.OK:
            self._finish()
        self._leave()
        transport.send_close(known)
        transport.disconnect()
        self._cut_later()

    def _cut(self, reason: str) -> None:
        log.warning("data channel cut: %s", reason, extra={"channel_id": self._channel.id})
        self.abort()

    def _cut_later(self) -> None:
        asyncio.get_running_loop().call_later(limits.CLOSE_TIMEOUT, self.abort)

    def _enter(self, transport: picows.WSTransport) -> bool:
        """Take the end of the channel; False when it is not free."""
        raise NotImplementedError

    def _on_frame(self, frame: picows.WSFrame) -> None:
        """Take any frame other than a close frame."""
        raise NotImplementedError

    def _is_busy(self) -> bool:
        return self.is_held_up or self._confirmed != self.sent

    def _finish(self) -> None:
        """The peer has closed well."""

    def _leave(self) -> None:
        """Give up the end of the channel; again: nothing happens."""
        raise NotImplementedError


class WriterSocket(ChannelSocket):
    """A worker that writes."""

    _writer: Writer | None = None
    _is_text = False

    def __init__(
        self,
        channel: Channel,
        on_open: Callable[[ChannelSocket], object],
        on_close: Callable[[ChannelSocket], object],
        bounds: Bounds,
    ) -> None:
        super().__init__(channel, on_open, on_close, bounds)
        self._fragments = Fragments(bounds.limits.message_bytes)

    def _enter(self, transport: picows.WSTransport) -> bool:
        transport.underlying_transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER
        )
        self._writer = self._channel.open_writer(self._go_on, self._on_reader_gone)
        return self._writer is not None

    def _on_frame(self, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind not in (_TEXT, _BINARY, _CONTINUATION):
            return
        try:
            message = self._fragments.take(frame)
        except MessageFault as fault:
            self.close(fault.code, fault.reason)
            return
        if kind != _CONTINUATION:
            self._is_text = kind == _TEXT
        if message is not None:
            self._write(message)

    def _write(self, data: bytes) -> None:
        if self._is_text and not _is_utf8(data):
            self.close(picows.WSCloseCode.INVALID_TEXT, "a text message is not UTF-8")
        elif self._writer is not None and not self._writer.write(data, self._is_text):
            self._pause()

    def _pause(self) -> None:
        # Messages that picows has read already still come, one read's worth: the channel takes them.
        if self._transport is not None and not self.is_held_up:
            self.is_held_up = True
            self._transport.underlying_transport.pause_reading()

    def _go_on(self) -> None:
        self._unanswered = 0
        if self._transport is not None and self.is_held_up:
            self.is_held_up = False
            if not self._transport.underlying_transport.is_closing():
                self._transport.underlying_transport.resume_reading()

    def _on_reader_gone(self) -> None:
        self.close(picows.WSCloseCode.OK, "the reader has gone")

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.finish()

    def _leave(self) -> None:
        self._fragments.drop()
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        self._go_on()  # else the peer's close frame would not be seen


class ReaderSocket(ChannelSocket):
    """A worker that reads."""

    _reader: Reader | None = None

    def _enter(self, transport: picows.WSTransport) -> bool:
        self._reader = self._channel.open_reader(self._send, self._on_end)
        if self._reader is None:
            return False
        self._reader.resume()
        return True

    def _send(self, data: bytes, text: bool) -> None:
        self.sent += 1
        if self._transport is not None:
            self._transport.send(_TEXT if text else _BINARY, data)

    def _on_end(self, clean: bool) -> None:
        self._reader = None
        if self._transport is not None:  # not cut later: what was sent may take the peer any time
            if clean:
                self._transport.send_close(picows.WSCloseCode.OK, "the stream is complete")
            else:
                self._transport.send_close(picows.WSCloseCode.INTERNAL_ERROR, "cut off: the writer has gone")

    def _on_frame(self, frame: picows.WSFrame) -> None:
        """Data from a reader means nothing."""

    def pause_writing(self) -> None:
        """More is waiting to be sent than the socket takes."""
        super().pause_writing()
        self.is_held_up = True
        if self._reader is not None:
            self._reader.pause()

    def resume_writing(self) -> None:
        """The socket has caught up."""
        super().resume_writing()
        self.is_held_up = False
        if self._reader is not None:
            self._reader.resume()

    def _leave(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or data.decode() is not None
    except UnicodeDecodeError:
        return False


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
