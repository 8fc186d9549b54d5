"""A worker as its author declares it: functions, settings and what the handlers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from .function import DEFAULT_MAX_REQUEST_BYTES, Function, Handler
from .http import Http
from .triggers import Cron, Trigger


class Worker:
    """Functions that are registered together over one connection; ``agentos-worker run`` makes it live.

    `settings` is a model filled from environment variables that start with `prefix`. `open_resource(settings)` makes
    what all handlers share (`Context.resource`); it runs in a thread once the functions are registered, so that heavy
    imports do not delay that, and calls wait for it. `close_resource(resource)` runs at the end.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        settings: type[BaseModel] | None = None,
        prefix: str = "",
        open_resource: Callable[[Any], Any] | None = None,
        close_resource: Callable[[Any], None] | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.functions: dict[str, Function] = {}
        self.settings_model = settings
        self.settings_prefix = prefix
        self.open_resource = open_resource
        self.close_resource = close_resource

    def function(
        self,
        function_id: str,
        *,
        http: Http | tuple[Http, ...] = (),
        triggers: Cron | Trigger | tuple[Cron | Trigger, ...] = (),
        description: str = "",
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    ) -> Callable[[Handler], Handler]:
        """Declares the decorated handler as a function: ``(request: Model, context: Context) -> Model``.

        The request may be left out, and the reply may be None. An async handler runs on the event loop, a plain one in
        a thread. `http` are its routes, `triggers` what else calls it: their payload is the request.
        `max_request_bytes` counts the request as JSON. The description is, unless given, the first paragraph of the
        handler's docstring.
        """
        routes = http if isinstance(http, tuple) else (http,)
        others = triggers if isinstance(triggers, tuple) else (triggers,)

        def declare(handler: Handler) -> Handler:
            if function_id in self.functions:
                raise ValueError(f"{function_id} is declared twice in worker {self.name}")
            self.functions[function_id] = Function.declare(
                function_id, handler, (*routes, *others), description, max_request_bytes
            )
            return handler

        return declare
