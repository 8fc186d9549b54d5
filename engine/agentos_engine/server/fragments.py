"""Whole messages out of the frames of a WebSocket: picows leaves fragments as they come."""

import picows

_CONTINUATION = picows.WSMsgType.CONTINUATION


class MessageFault(Exception):
    """Frames that make no message: the close code to end the connection with, and why."""

    def __init__(self, code: picows.WSCloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Fragments:
    """Puts the fragments of one peer together. ``limit``: bytes of a message that comes in several."""

    __slots__ = ("_limit", "partial")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.partial: bytearray | None = None
        """What has come of a message; None between messages."""

    def take(self, frame: picows.WSFrame) -> bytes | None:
        """Take a frame with data and return the message that it completes, if it does. Raises MessageFault."""
        partial = self.partial
        if frame.rsv1 or (frame.msg_type == _CONTINUATION) == (partial is None):
            raise MessageFault(picows.WSCloseCode.PROTOCOL_ERROR, "compressed, or fragments out of order")
        if partial is None:
            if frame.fin:
                return frame.get_payload_as_bytes()
            partial = bytearray()
        if len(partial) + frame.payload_size > self._limit:
            self.partial = None
            raise MessageFault(picows.WSCloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._limit} bytes")
        partial += frame.get_payload_as_memoryview()
        self.partial = None if frame.fin else partial
        return bytes(partial) if frame.fin else None

    def drop(self) -> None:
        """Forget what has come of a message."""
        self.partial = None
