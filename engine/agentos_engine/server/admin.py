"""The admin port: is the process alive, does it take work, and how much does it do."""

from collections.abc import Callable
from typing import Protocol

from agentos_engine.bus.bus import Bus
from agentos_engine.protocol.http import Response, error_response
from agentos_engine.server.http import Exchange


class Rest(Protocol):
    """The REST port, as far as it is counted."""

    requests: int
    in_progress: int


class Admin:
    """Answers ``/healthz``, ``/readyz`` and ``/metrics``.

    ``rest`` gives the REST port, None when there is none; ``is_ready``: True from listening until draining.
    """

    def __init__(self, bus: Bus, rest: Callable[[], Rest | None], is_ready: Callable[[], bool]) -> None:
        self._bus = bus
        self._rest = rest
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
            exchange.respond(_text(200, self._metrics(), "text/plain; version=0.0.4; charset=utf-8"))
        else:
            exchange.respond(error_response(404, "NOT_FOUND", "there are /healthz, /readyz and /metrics"))

    def _metrics(self) -> str:
        bus, rest = self._bus, self._rest()
        values = (
            ("connections", "gauge", "Workers connected.", len(bus.connections)),
            ("functions", "gauge", "Functions that some worker serves.", len(bus.registry)),
            ("calls_total", "counter", "Calls accepted, void ones included.", bus.calls.accepted),
            ("call_errors_total", "counter", "Calls refused, failed in the worker, or stopped.", bus.calls.errors),
            ("calls_in_flight", "gauge", "Calls that wait for a worker's answer.", bus.calls.invocations.in_flight),
            ("http_requests_total", "counter", "Requests of the REST port.", rest.requests if rest else 0),
            (
                "http_requests_in_flight",
                "gauge",
                "Requests of the REST port not yet answered.",
                rest.in_progress if rest else 0,
            ),
        )
        return "".join(
            f"# HELP agentos_engine_{name} {text}\n# TYPE agentos_engine_{name} {kind}\nagentos_engine_{name} {value}\n"
            for name, kind, text, value in values
        )


def _text(status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(status, [("content-type", content_type)], text.encode())
