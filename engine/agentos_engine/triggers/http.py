"""Trigger type ``http``: routes of the REST port to functions."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError
from agentos_engine.bus.invocations import Call
from agentos_engine.protocol.http import Request, Response, error_response, handler_response, request_payload
from agentos_engine.protocol.messages import Message, decode_error, is_null
from agentos_engine.triggers.registry import Binding
from agentos_engine.triggers.routes import Path, PathError, RouteTree, request_segments

log = logging.getLogger(__name__)

TYPE = "http"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


class Exchange(Protocol):
    """A request and the way to answer it. After the time-out, or when the client went, ``on_abandoned`` is called."""

    request: Request
    on_abandoned: Callable[[], None] | None

    def respond(self, response: Response) -> None:
        """Answer; a second answer is ignored."""


class _Config(msgspec.Struct):
    api_path: str
    http_method: str | None = None
    condition_function_id: object = None
    middleware_function_ids: object = None


@dataclass(slots=True, eq=False)
class _Owner:
    binding: Binding
    path: Path


@dataclass(slots=True)
class _Route:
    """All bindings to one method and shape of path, oldest first, so that a rolling update never leaves it empty.

    The oldest decides the names of the parameters. Those with other names are told that they conflict, and serve as
    soon as the ones before them are gone.
    """

    owners: list[_Owner] = field(default_factory=list)

    def serving(self) -> list[_Owner]:
        return [each for each in self.owners if each.path.names == self.owners[0].path.names]


class HttpTrigger:
    """Serves the type, and answers the requests of the REST port."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._routes: RouteTree[_Route] = RouteTree()
        self._bound: dict[Binding, tuple[str, _Owner]] = {}
        bus.triggers.built_in[TYPE] = self

    def bind(self, binding: Binding) -> None:
        """Serve a route. Raises BusError for a config that is wrong, or asks for what is not served."""
        method, path = _read_config(binding.config)
        owner = _Owner(binding, path)
        route = self._routes.get(path, method)
        if route is None:
            route = _Route()
            self._routes.put(path, method, route)
        route.owners.append(owner)
        self._bound[binding] = (method, owner)
        first = route.owners[0].path
        if first.names != path.names:
            raise BusError(
                "trigger_registration_failed",
                f"Route '{method} {path.text}' conflicts with already-registered route '{method} {first.text}': "
                "the same path with other parameter names; it is served when the other one is gone",
            )

    def unbind(self, binding: Binding) -> None:
        """Serve a route no longer."""
        method, owner = self._bound.pop(binding, ("", None))
        if owner is None:
            return
        route = self._routes.get(owner.path, method)
        if route is not None:
            route.owners.remove(owner)
            if not route.owners:
                self._routes.remove(owner.path, method)

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, at once or when the function has answered."""
        request = exchange.request
        if request.method == "OPTIONS" and request.header("access-control-request-method") is not None:
            exchange.respond(Response(204, list(PREFLIGHT_HEADERS)))
            return
        found = self._find(request)
        if isinstance(found, Response):
            exchange.respond(found)
        else:
            self._call(exchange, *found)

    def refusal(self, request: Request) -> Response | None:
        """Return the response to a request that no function gets, whatever its body is; None for all others."""
        if request.method == "OPTIONS" and request.header("access-control-request-method") is not None:
            return None
        found = self._find(request)
        return found if isinstance(found, Response) else None

    def _find(self, request: Request) -> "Response | tuple[str, _Route, list[str]]":
        """Return method, route and values of the parameters for a request, or the response that there is no route."""
        try:
            segments = request_segments(request.path)
        except PathError as error:
            return error_response(400, "BAD_REQUEST", str(error))
        allowed: set[str] = set()
        for routes, values in self._routes.match(segments):
            method = "GET" if request.method == "HEAD" and "HEAD" not in routes else request.method
            if method in routes:
                return method, routes[method], values
            allowed |= routes.keys()
        if not allowed:
            message = f"No route for {request.method} {request.path[:200]}"
            return error_response(404, "NOT_FOUND", message)
        if "GET" in allowed:
            allowed.add("HEAD")
        message = f"{request.method} is not allowed here"
        allow = {"allow": ", ".join(sorted(allowed))}
        return error_response(405, "METHOD_NOT_ALLOWED", message, allow)

    def _call(self, exchange: Exchange, method: str, route: _Route, values: list[str]) -> None:
        serving = route.serving()
        # The newest whose function answers: a worker may register its routes before its functions.
        choose = self._bus.registry.choose
        owner = next((each for each in reversed(serving) if choose(each.binding.function_id)), serving[-1])
        binding = owner.binding
        params = dict(zip(owner.path.names, values, strict=True))
        try:
            payload = request_payload(exchange.request, owner.path.text, method, params)
        except ValueError as error:
            exchange.respond(error_response(400, "BAD_REQUEST", f"the query cannot be read: {error}"))
            return
        caller = _HttpCaller(exchange)
        try:
            call = self._bus.invoke(binding.function_id, payload, caller, binding.metadata)
        except BusError as error:
            exchange.respond(_failure(binding.function_id, error.code, error.message))
            return
        exchange.on_abandoned = lambda: self._bus.abandon(call)


class _HttpCaller:
    """Turns the answer of a function into the response of the request."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def answered(self, call: Call, message: Message, frame: bytes) -> None:
        self._exchange.respond(_response(call.function_id, message))

    def failed(self, call: Call, error: BusError) -> None:
        self._exchange.respond(_failure(call.function_id, error.code, error.message))


def _response(function_id: str, message: Message) -> Response:
    if not is_null(message.error):
        error = decode_error(message.error)
        if error is None:
            return _failure(function_id, "INTERNAL_ERROR", "the worker reported an error that has no code and message")
        return _failure(function_id, error.code or "INTERNAL_ERROR", error.message)
    try:
        return handler_response(message.result)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return _failure(function_id, "INTERNAL_ERROR", str(error))


def _failure(function_id: str, code: str, message: str) -> Response:
    """A 500 with an id under which the log has the function; the worker's stack trace goes to neither."""
    error_id = str(uuid.uuid4())
    log.warning("HTTP handler failed", extra={"error_id": error_id, "function_id": function_id, "code": code[:100]})
    return error_response(500, code, message, error_id=error_id)


def _read_config(raw: bytes | None) -> tuple[str, Path]:
    try:
        config = msgspec.json.decode(raw or b"null", type=_Config)
        path = Path.parse(config.api_path)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BusError("trigger_registration_failed", f"the config of the http trigger is wrong: {error}") from error
    except PathError as error:
        raise BusError("trigger_registration_failed", str(error)) from error
    method = (config.http_method or "GET").upper()
    if method not in METHODS:
        raise BusError("trigger_registration_failed", f"http_method {method[:20]!r} is not one of {', '.join(METHODS)}")
    if config.condition_function_id or config.middleware_function_ids:
        raise BusError(
            "trigger_registration_failed",
            "condition_function_id and middleware_function_ids are not served by this engine yet: without them the "
            "route would be open, so it is not registered; remove them or check in the function",
        )
    return method, path


CORS_HEADERS = (("access-control-allow-origin", "*"), ("access-control-expose-headers", "*"))
"""Every response of the REST port carries them: without a CORS config, iii allows any origin."""

PREFLIGHT_HEADERS = (
    ("access-control-allow-methods", "*"),
    ("access-control-allow-headers", "*, Authorization"),  # browsers do not count Authorization into the asterisk
    ("access-control-max-age", "600"),
)
