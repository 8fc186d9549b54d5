"""Trigger type ``http``: the REST port, with routes to functions."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentos_engine import limits
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Peer
from agentos_engine.bus.errors import BusError
from agentos_engine.config import port_taken
from agentos_engine.config_file import options
from agentos_engine.http_auth.gate import HttpAuth, KeysPending
from agentos_engine.protocol.http import Response, error_response
from agentos_engine.server import http_refusals
from agentos_engine.server.http import Exchange, HttpServer
from agentos_engine.server.tls import Tls
from agentos_engine.triggers.cors import Cors
from agentos_engine.triggers.http_call import RouteCall
from agentos_engine.triggers.registry import Binding, leave
from agentos_engine.triggers.routes import TYPE, Path, PathError, RouteConfig, RouteTree, request_segments

log = logging.getLogger(__name__)

DESCRIPTION = "Calls the function for each HTTP request to a path and method."
TOO_MANY = 429
"""With this status a connection ends: a client that guesses pays for a new one each time."""


@dataclass(slots=True, eq=False)
class Owner:
    """A binding that serves a route."""

    binding: Binding
    path: Path
    method: str
    middleware: tuple[str, ...]

    @property
    def maker(self) -> Peer:
        """Whose it is."""
        return self.binding.maker

    def conflict(self, other: "Owner") -> str | None:
        """Why another binding cannot serve the route as long as this one does; None when it can."""
        if self.path.names != other.path.names:
            return "the same path with other parameter names"
        if not self.maker.shares_with(other.maker):
            return f"Worker {self.maker.subject} serves it"
        return None


@dataclass(slots=True)
class _Route:
    """All bindings to one method and shape of path, oldest first, so that a rolling update never leaves it empty.

    The oldest decides the names of the parameters, and which worker has the route. Those that do not fit are told that
    they conflict, and serve as soon as the ones before them are gone.
    """

    owners: dict[Owner, None] = field(default_factory=dict)

    @property
    def first(self) -> Owner:
        return next(iter(self.owners))

    def serving(self) -> Iterator[Owner]:
        """Those that serve, the newest first: of the oldest's worker."""
        first = self.first
        return (each for each in reversed(self.owners) if first.conflict(each) is None)


class Http:
    """Serves the type on a port of its own.

    ``default_timeout``: milliseconds for a function to answer. ``concurrency_request_limit``: requests handled at one
    time; more wait. ``cors``: None is any origin. ``middleware`` is asked before every route. ``auth`` decides who may
    call what; None: everybody everything. Preflights of browsers pass in any case, and reach no function.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        channels: Channels,
        host: str = options.ANY_ADDRESS,
        port: int = 3111,
        default_timeout: int = 30_000,
        concurrency_request_limit: int = limits.MAX_HTTP_CONCURRENT,
        cors: options.Cors | None = None,
        middleware: Sequence[options.Middleware] = (),
        auth: HttpAuth | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.auth = auth
        self.bus = bus
        self.channels = channels
        self.host = host
        self.port = port
        """As given; once started, the one that is listened on."""
        self.cors = Cors(cors.allowed_origins, cors.allowed_methods) if cors is not None else Cors()
        self.middleware = [each.function_id for each in sorted(middleware, key=lambda each: each.priority)]
        """Functions that are asked before every route."""
        self._routes: RouteTree[_Route] = RouteTree()
        self._bound: dict[Binding, Owner] = {}
        self._started = False
        self.server = HttpServer(
            self.handle,
            refusal=self.refusal,
            streams=lambda request: not request.is_json(),
            headers=self.cors.headers,
            request_timeout=default_timeout / 1000,
            max_concurrent=concurrency_request_limit,
            bounds=bus.bounds,
            tls=tls,
        )

    async def start(self) -> None:
        """Listen, and serve the bindings. Raises SettingsError when the port cannot be had."""
        try:
            self.port = await self.server.listen(self.host, self.port)
        except OSError as error:
            raise port_taken("http", self.host, self.port, error) from error
        self._started = True
        self.bus.triggers.serve(TYPE, self, DESCRIPTION, shared=False)

    async def stop(self) -> None:
        """Answer the requests in progress, as far as that is soon, and free the port; the bindings wait."""
        if self._started:
            self._started = False
            await self.server.drain(limits.DRAIN_TIMEOUT)
            await self.server.close()
            self.bus.triggers.unserve(TYPE)

    @property
    def routes(self) -> int:
        """How many bindings serve a route."""
        return len(self._bound)

    # Bindings

    def bind(self, binding: Binding) -> None:
        """Serve a route. Raises BusError for a config that is wrong, or a route that another one hides for now."""
        config = RouteConfig.read(binding.config)
        owner = Owner(binding, config.path, config.method, config.middleware)
        route = self._routes.get(owner.path, owner.method)
        if route is None:
            route = _Route()
            self._routes.put(owner.path, owner.method, route)
        route.owners[owner] = None
        self._bound[binding] = owner
        problem = route.first.conflict(owner)
        if problem is not None:
            raise BusError(
                "trigger_registration_failed",
                f"Route '{owner.method} {owner.path.text}' conflicts with already-registered route "
                f"'{owner.method} {route.first.path.text}': {problem}; it is served when the other one is gone",
            )

    def unbind(self, binding: Binding) -> None:
        """Serve a route no longer."""
        owner = self._bound.pop(binding, None)
        if owner is None:
            return
        route = self._routes.get(owner.path, owner.method)
        if route is not None:
            leave(route.owners, owner)
            if not route.owners:
                self._routes.remove(owner.path, owner.method)
            elif route.first.conflict(owner) is not None:
                for each in route.serving():
                    each.binding.refused = False  # the last one that they conflicted with may have gone

    # Requests

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, at once or when the function has answered."""
        self._handle(exchange, may_wait=True)

    def _handle(self, exchange: Exchange, may_wait: bool) -> None:
        preflight = self.cors.preflight(exchange.request)
        if preflight is not None:
            exchange.respond(preflight)
            return
        found = exchange.found
        if found is None or not found[1].owners:
            try:
                found = self._find(exchange, may_wait)
            except KeysPending:
                self._handle_later(exchange)
                return
        if isinstance(found, Response):
            exchange.respond(found)
        else:
            method, route, values = found
            RouteCall(self, exchange, self._choose(route), method, values).start()

    def refusal(self, exchange: Exchange) -> Response | None:
        """Return the response to a request that no function gets, whatever its body is; None for all others."""
        if self.cors.preflight(exchange.request) is not None:
            return None
        try:
            found = self._find(exchange, may_wait=True)
        except KeysPending:
            return None  # decided when it is handled
        if isinstance(found, Response):
            return found
        exchange.found = found
        return None

    def _handle_later(self, exchange: Exchange) -> None:
        """Handle a request once the keys of its token's issuer were asked for."""

        async def wait(auth: HttpAuth) -> None:
            await auth.settled()
            exchange.on_abandoned = None
            if not exchange.answered:
                try:
                    self._handle(exchange, may_wait=False)
                except Exception:
                    exchange.abandon(http_refusals.broken())
                    raise

        if self.auth is not None:
            task = self.bus.spawn(wait(self.auth))

            def stop() -> None:
                task.cancel()

            exchange.on_abandoned = stop

    def _find(self, exchange: Exchange, may_wait: bool) -> Response | tuple[str, _Route, list[str]]:
        """Return method, route and values of the parameters for a request, or the response that it does not get there.

        Who asks is looked at first: a stranger does not learn which routes there are. Raises KeysPending, if the
        request may wait.
        """
        request = exchange.request
        try:
            segments = request_segments(request.path)
        except PathError as error:
            return error_response(400, "BAD_REQUEST", str(error))
        allowed: set[str] = set()
        found = None
        method = request.method
        for routes, values in self._routes.match(segments):
            method = "GET" if request.method == "HEAD" and "HEAD" not in routes else request.method
            if method in routes:
                found = method, routes[method], values
                break
            allowed |= routes.keys()
        # A route that went while the body came: its key is taken out of the request already.
        passed = exchange.found is not None and exchange.found[0] == method
        if self.auth is not None and not passed:
            refusal = self.auth.check(request, segments, method, exchange.address, may_wait)
            if refusal is not None:
                if refusal.status == TOO_MANY:
                    exchange.keep_alive = False
                return refusal
        if found is not None:
            return found
        if not allowed:
            message = f"No route for {request.method} {request.path[:200]}"
            return error_response(404, "NOT_FOUND", message)
        if "GET" in allowed:
            allowed.add("HEAD")
        message = f"{request.method} is not allowed here"
        allow = {"allow": ", ".join(sorted(allowed))}
        return error_response(405, "METHOD_NOT_ALLOWED", message, allow)

    def _choose(self, route: _Route) -> Owner:
        """The newest owner whose function answers: a worker may register its routes before its functions."""
        if len(route.owners) == 1:
            return route.first
        found = next((each for each in route.serving() if self._has_function(each.binding)), None)
        return found or next(route.serving())

    def _has_function(self, binding: Binding) -> bool:
        owners = self.bus.registry.owners(binding.function_id, binding.namespace)
        return owners is not None or self.bus.functions.get(binding.function_id) is not None
