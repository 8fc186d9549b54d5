"""Requests out of the bytes of a connection, on httptools."""

from typing import Protocol

import httptools

from agentos_engine import limits
from agentos_engine.protocol.http import Request, Response
from agentos_engine.server import http_refusals


class RequestError(Exception):
    """The request is refused with this response; nothing after it can be read."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Receiver(Protocol):
    """Who takes the requests; what it raises as RequestError comes out of :meth:`RequestParser.feed`."""

    def on_begin(self) -> None:
        """A request begins."""
        ...

    def on_request(self, request: Request) -> None:
        """Its head is there; more about it is in the parser's attributes."""
        ...

    def on_data(self, data: bytes) -> None:
        """A piece of its body."""
        ...

    def on_end(self) -> None:
        """It is complete."""
        ...


class RequestParser:
    """The parser of one connection."""

    def __init__(self, receiver: Receiver) -> None:
        self.in_message = False
        """Whether a request has begun and is not complete."""
        self.in_head = False
        self.keep_alive = True
        """Whether the client wants to go on after this request."""
        self.is_http_1_0 = False
        self.is_upgrade = False
        self.has_body = False
        self.length: int | None = None
        """Of the body, when the client told it."""
        self.expects_continue = False
        """The client waits for ``100 Continue`` before it sends the body."""
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        """Of earlier reads: of the head, or since the last of the body, where chunk extensions and trailers stand."""
        self._feeding = 0

    def feed(self, data: bytes) -> bool:
        """Read bytes; False: what follows is not HTTP, as the client asked for an upgrade. Raises RequestError."""
        self._feeding = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return False
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, RequestError):
                raise cause from None
            raise
        except httptools.HttpParserError as error:
            raise RequestError(http_refusals.not_http(str(error))) from error
        if self.in_message:
            self._head_bytes += len(data)
            if self._head_bytes > limits.MAX_HTTP_HEADERS:
                raise RequestError(http_refusals.too_many_headers())
        return True

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._head_bytes = 0
        self.in_message = self.in_head = True
        self._receiver.on_begin()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if not self.in_head:
            return  # a trailer: what a proxy has checked are the headers, and it must not pass for one of them
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1") if value else ""))

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.has_body = self.expects_continue = False
        self.length = None
        hosts = 0
        for name, value in self._headers:
            if name == "content-length":
                # Longer ones have been refused by httptools, as has what is no number.
                self.length = int(value) if value.isdecimal() else None
                self.has_body = self.length != 0
            elif name == "transfer-encoding":
                self.has_body = True
                coding = value.strip().lower()
                if coding != "chunked" and coding.endswith("chunked"):  # httptools refuses what ends otherwise
                    raise RequestError(http_refusals.unknown_coding())
            elif name == "host":
                hosts += 1
            elif name == "expect":
                self.expects_continue = value.lower() == "100-continue"
        if self._head_bytes + self._feeding > limits.MAX_HTTP_HEADERS:  # not all of which need be of this head
            size = sum(len(name) + len(value) + 4 for name, value in self._headers)
            if len(self._url) + size > limits.MAX_HTTP_HEADERS:
                raise RequestError(http_refusals.too_many_headers())
        self._head_bytes = -self._feeding
        parser = self._parser
        self.is_upgrade = parser.should_upgrade()
        self.keep_alive = parser.should_keep_alive() and not self.is_upgrade
        self.is_http_1_0 = parser.get_http_version() == "1.0"
        if hosts > 1:  # which of them a proxy in front has looked at cannot be known
            raise RequestError(http_refusals.not_http("several Host headers"))
        if self.has_body and self.is_upgrade:
            raise RequestError(http_refusals.upgrade_with_body())
        self._receiver.on_request(self._request())

    def on_body(self, body: bytes) -> None:
        self._head_bytes = -self._feeding
        self._receiver.on_data(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        self._receiver.on_end()

    def _request(self) -> Request:
        """The request without its body."""
        target = self._url.decode("latin-1")
        if not target.startswith("/") and "://" in target.partition("?")[0]:  # absolute form, as sent to a proxy
            target = "/" + target.split("://", 1)[1].partition("/")[2]
        path, _, query = target.partition("#")[0].partition("?")
        return Request(self._parser.get_method().decode("ascii"), path, query, self._headers)
