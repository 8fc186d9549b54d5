"""The answers to requests that the server does not hand to its handler."""

import math

from agentos_engine import limits
from agentos_engine.protocol.http import Response, error_response

_AGAIN = {"retry-after": "1"}


def unknown_coding() -> Response:
    """For a body in another transfer coding than chunks."""
    return error_response(501, "NOT_IMPLEMENTED", "the only transfer coding that is read here is chunked")


def not_http(reason: str) -> Response:
    """What the client sent is no request."""
    return error_response(400, "BAD_REQUEST", f"the request is not HTTP/1.1: {reason}")


def upgrade_with_body() -> Response:
    """Where such a request would end is not clear."""
    message = "a request with a body cannot be upgraded; leave out the Upgrade header"
    return error_response(400, "BAD_REQUEST", message)


def unauthorized(why: str, with_token: bool) -> Response:
    """The request brings no right API key; ``with_token``: or no right JWT, which is another challenge."""
    challenge = 'Bearer realm="agentos", error="invalid_token"' if with_token else 'Bearer realm="agentos"'
    return error_response(401, "UNAUTHORIZED", why, {"www-authenticate": challenge})


def too_many_failures(seconds: float) -> Response:
    """The same, from an address from which too many such requests came."""
    message = "too many requests without a right key or token came from this address; try again later"
    return error_response(429, "TOO_MANY_FAILURES", message, {"retry-after": str(math.ceil(seconds))})


def too_slow() -> Response:
    """The request did not come in time."""
    return error_response(408, "REQUEST_TIMEOUT", "the request did not arrive in time")


def body_too_large() -> Response:
    """A body that has to be in memory as a whole is too large for that."""
    return error_response(413, "BODY_TOO_LARGE", f"the body is larger than {limits.MAX_HTTP_BODY} bytes")


def too_many_headers() -> Response:
    """The head of the request is too large."""
    message = f"request line and headers are larger than {limits.MAX_HTTP_HEADERS} bytes"
    return error_response(431, "HEADERS_TOO_LARGE", message)


def too_much_buffered() -> Response:
    """The bodies of all requests together are too large."""
    message = "the requests in progress have too large bodies all together; try again"
    return error_response(503, "OVERLOADED", message, _AGAIN)


def overloaded(in_progress: int) -> Response:
    """There is no place for the request."""
    message = f"more than {in_progress} requests are in progress; try again"
    return error_response(503, "OVERLOADED", message, _AGAIN)


def stopping() -> Response:
    """The server ends before the handler has answered."""
    return error_response(503, "STOPPING", "the engine is restarting; try again")


def too_late(code: str, what: str, seconds: float) -> Response:
    """Whoever was to answer took too long."""
    return error_response(504, code, f"{what} did not answer within {seconds:g} s")


def broken() -> Response:
    """The handler has a bug."""
    return error_response(500, "INTERNAL_ERROR", "the engine failed; its log says why")
