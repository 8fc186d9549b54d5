"""The admin port: is the process alive, does it take work, and how much does it do."""

from collections.abc import Callable

from agentos_engine.observability.exposition import OPENMETRICS_TYPE, PROMETHEUS_TYPE
from agentos_engine.protocol.http import Request, Response, error_response
from agentos_engine.server.http import Exchange


class Admin:
    """Answers ``/healthz``, ``/readyz`` and ``/metrics``.

    ``metrics`` returns the exposition, in the format of OpenMetrics when asked for it; ``is_ready``: True from
    listening until draining.
    """

    def __init__(self, metrics: Callable[[bool], str], is_ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._is_ready = is_ready

    def handle(self, exchange: Exchange) -> None:
        """Answer a request."""
        request = exchange.request
        if request.method not in ("GET", "HEAD"):
            exchange.respond(error_response(405, "METHOD_NOT_ALLOWED", "only GET", {"allow": "GET, HEAD"}))
        elif request.path == "/healthz":
            exchange.respond(_text(200, "ok\n"))
        elif request.path == "/readyz":
            ready = self._is_ready()
            exchange.respond(_text(200, "ready\n") if ready else _text(503, "not listening, or draining\n"))
        elif request.path == "/metrics":
            openmetrics = _wants_openmetrics(request)
            kind = OPENMETRICS_TYPE if openmetrics else PROMETHEUS_TYPE
            exchange.respond(_text(200, self._metrics(openmetrics), kind))
        else:
            exchange.respond(error_response(404, "NOT_FOUND", "there are /healthz, /readyz and /metrics"))


def _wants_openmetrics(request: Request) -> bool:
    """Prometheus names it first when it takes it, with the version."""
    accepted = ",".join(value for name, value in request.headers if name == "accept")
    first = accepted.partition(",")[0].replace(" ", "")
    return first.startswith("application/openmetrics-text;version=1.0.0")


def _text(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(status, [("content-type", content_type)], text.encode())
