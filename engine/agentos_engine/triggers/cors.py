"""Which web pages may use the REST port, as browsers ask for it (CORS)."""

from collections.abc import Sequence

from agentos_engine.protocol.http import Request, Response

MAX_AGE = "600"
"""Seconds for which a browser may remember the answer to a preflight."""


class Cors:
    """The policy. Without ``allowed_origins``, pages of any origin may; without ``allowed_methods``, use any method."""

    def __init__(self, allowed_origins: Sequence[str] = (), allowed_methods: Sequence[str] = ()) -> None:
        self._origins = {origin.rstrip("/").lower(): b"" for origin in allowed_origins}
        if "*" in self._origins:
            self._origins = {}
        for origin in self._origins:
            self._origins[origin] = _lines(origin, vary=True)
        self._any_origin = _lines("*", vary=False)
        methods = [method.upper() for method in allowed_methods]
        self._methods = ", ".join(methods) if methods and "*" not in methods else "*"

    def headers(self, request: Request | None) -> bytes:
        """Return the header lines of every response; ``request`` is None when it could not be read."""
        if not self._origins:
            return self._any_origin
        origin = request.header("origin") if request is not None else None
        return self._origins.get(origin.lower(), _VARY) if origin is not None else _VARY

    def preflight(self, request: Request) -> Response | None:
        """Return the answer to a browser that asks whether it may send a request; None when this is no such question."""
        if request.method != "OPTIONS" or request.header("access-control-request-method") is None:
            return None
        headers = [
            ("access-control-allow-methods", self._methods),
            ("access-control-allow-headers", "*, Authorization"),  # the asterisk does not stand for Authorization
            ("access-control-max-age", MAX_AGE),
        ]
        return Response(204, headers)


_VARY = b"vary: origin\r\n"


def _lines(origin: str, vary: bool) -> bytes:
    lines = f"access-control-allow-origin: {origin}\r\naccess-control-expose-headers: *\r\n".encode()
    return lines + _VARY if vary else lines
