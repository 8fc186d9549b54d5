"""How responses look on the wire: their head, and the frames of a body that is streamed."""

import enum
import time
from http import HTTPStatus

from agentos_engine.protocol.http import Response

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class Framing(enum.Enum):
    """How the client knows where a streamed body ends."""

    NONE = "there is no body"
    LENGTH = "its length was told"
    CHUNKED = "by the last chunk"
    CLOSE = "by the end of the connection"


def framing_of(method: str, status: int, length: int | None, is_http_1_0: bool) -> Framing:
    """Return how the body of a streamed response is framed."""
    if method == "HEAD" or is_bodiless(status):
        return Framing.NONE
    if length is not None:
        return Framing.LENGTH
    return Framing.CLOSE if is_http_1_0 else Framing.CHUNKED


def is_bodiless(status: int) -> bool:
    """Whether responses with this status never have a body."""
    return status in (204, 304)


class HeadWriter:
    """Writes the heads of responses."""

    def __init__(self) -> None:
        self._second = 0
        self._date = ""

    def write(self, response: Response, *, length: int | None, chunked: bool, connection: str, common: bytes) -> bytes:
        """Return status line and headers.

        ``length``: for Content-Length, None for none. ``connection``: the header's value, empty for none. ``common``:
        header lines of the server's own, left out when the response says itself who may read it.
        """
        status = response.status
        lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"]
        dated = False
        for name, value in response.headers:
            lines.append(f"{name}: {value}\r\n")
            if name == "date":
                dated = True
            elif name == "access-control-allow-origin":
                common = b""
        if length is not None:
            lines.append(f"content-length: {length}\r\n")
        elif chunked:
            lines.append("transfer-encoding: chunked\r\n")
        if not dated:
            lines.append(self._date_line())
        if connection:
            lines.append(f"connection: {connection}\r\n")
        return b"".join(("".join(lines).encode("utf-8", "replace"), common, b"\r\n"))

    def _date_line(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = f"date: {date_text(second)}\r\n"
        return self._date


def date_text(second: int) -> str:
    """Return a time as HTTP headers have it. The standard library's way brings all of its mail package with it."""
    moment = time.gmtime(second)
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} {moment.tm_year} "
        f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} GMT"
    )
