"""A worker: functions, a connection to the engine, and a life from start to drained stop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import FrameType
from typing import Any, cast

from pydantic import BaseModel

from . import log
from .context import Context
from .errors import FunctionError, SettingsError
from .function import DEFAULT_MAX_REQUEST_BYTES, Function, Handler, answer
from .http import Http, HttpRequest
from .sdk import InitOptions, register_worker
from .settings import KitSettings, load_settings

DEFAULT_URL = "ws://127.0.0.1:49134"
_THREADS = 32

_log = logging.getLogger(__name__)


class Worker:
    """Functions that are registered together over one connection.

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
        self.settings: Any = None
        self._settings_model = settings
        self._settings_prefix = prefix
        self._open_resource = open_resource
        self._close_resource = close_resource
        self._resource: Future[Any] = Future()
        self._kit = KitSettings()
        self._client: Any = None
        self._unregister: list[Callable[[], None]] = []
        self._calls: set[asyncio.Task[Any]] = set()
        self._idle = threading.Condition()
        self._threads: ThreadPoolExecutor | None = None
        # Not an Event: its lock could be held by the very thread that a signal interrupts.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._exit_code = 0
        self._drained = False

    def function(
        self,
        function_id: str,
        *,
        http: Http | tuple[Http, ...] = (),
        description: str = "",
        max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    ) -> Callable[[Handler], Handler]:
        """Declares the decorated handler as a function: ``(request: Model, context: Context) -> Model``.

        An async handler runs on the event loop, a plain one in a thread. `max_request_bytes` counts the request as
        JSON. The description is, unless given, the first paragraph of the handler's docstring.
        """
        routes = (http,) if isinstance(http, Http) else http

        def declare(handler: Handler) -> Handler:
            if function_id in self.functions:
                raise ValueError(f"{function_id} is declared twice in worker {self.name}")
            self.functions[function_id] = Function.declare(function_id, handler, routes, description, max_request_bytes)
            return handler

        return declare

    def start(self, url: str | None = None) -> None:
        """Connects and registers everything. Without an engine it returns after 30 s and the SDK goes on trying.

        The engine's address is `url`, else ``III_URL``. Raises SettingsError when an environment variable is wrong.
        """
        self._kit = load_settings(KitSettings, "AGENTOS_")
        if self._settings_model is not None:
            self.settings = load_settings(self._settings_model, self._settings_prefix)
        self._threads = ThreadPoolExecutor(min(_THREADS, self._kit.max_in_flight), thread_name_prefix=self.name)
        # The SDK's telemetry opens a second connection and costs memory; here it is on only when asked for.
        telemetry = os.environ.get("OTEL_ENABLED", "").lower() in ("1", "true", "yes", "on")
        client = register_worker(
            url or engine_url(),
            InitOptions(
                worker_name=self.name,
                worker_description=self.description or None,
                enable_metrics_reporting=telemetry,
                otel={"enabled": telemetry},
            ),
        )
        self._client = client
        client.add_connection_state_listener(self._on_connection_state)
        for function in self.functions.values():
            reference = client.register_function(
                function.id,
                self._entry(function),
                description=function.description or None,
                request_format=function.request_format(),
                response_format=function.response_format(),
                # One event loop for all calls, the engine in the path of all of them.
                local_dispatch=False,
            )
            self._unregister.append(reference.unregister)
            for route in function.http:
                self._unregister.append(client.register_trigger(route.trigger(function.id)).unregister)
        threading.Thread(target=self._make_resource, name=f"{self.name}-resource", daemon=True).start()

    def stop(self, drain_seconds: float | None = None) -> bool:
        """Takes the functions away, waits for the calls that run, closes the connection.

        Returns False when calls were still running after `drain_seconds` (default ``AGENTOS_DRAIN_SECONDS``).
        """
        limit = self._kit.drain_seconds if drain_seconds is None else drain_seconds
        for unregister in reversed(self._unregister):
            unregister()
        self._unregister.clear()
        deadline = time.monotonic() + limit
        with self._idle:
            drained = self._idle.wait_for(lambda: not self._calls, timeout=max(0.0, deadline - time.monotonic()))
            left = list(self._calls)
        if not drained:
            _log.warning("%d calls were still running after %g s of draining and are dropped", len(left), limit)
        for call in left:
            call.get_loop().call_soon_threadsafe(call.cancel)
        if self._client is not None:
            self._client.shutdown()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._close_resource is not None and self._resource.done() and self._resource.exception() is None:
            self._close_resource(self._resource.result())
        return drained

    def run(self) -> int:
        """The whole life of a worker process; returns its exit code.

        SIGTERM and SIGINT drain and end with 0, a second one cuts the draining short. 2: wrong settings. 1: the worker
        cannot work (its resource failed, or the engine refused it for good).
        """
        # The SDK leaves a file with the engine's URL, so with the token, in ~/.iii/run.
        os.umask(0o077)
        log.configure(self.name, engine_url())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            self.start()
        except SettingsError as error:
            _log.error("%s", error)
            return 2
        _log.info("serving %s", ", ".join(self.functions))
        self._wake.get()
        stopper = threading.Thread(target=self._stop_and_wake, name="stop", daemon=True)
        stopper.start()
        self._wake.get()
        if not self._drained:
            # Threads of handlers that do not end would hold the process back.
            logging.shutdown()
            os._exit(self._exit_code)
        return self._exit_code

    def _stop_and_wake(self) -> None:
        self._drained = self.stop()
        self._wake.put(None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._client is None:
            # Still waiting for an engine: nothing is registered, and the SDK's wait cannot be cut short.
            os._exit(0)
        self._wake.put(None)

    def _on_connection_state(self, state: str) -> None:
        if state == "failed":
            _log.error("the engine refused this worker for good")
            self._fail()
        else:
            _log.info("engine connection: %s", state)

    def _fail(self) -> None:
        self._exit_code = 1
        self._wake.put(None)

    def _make_resource(self) -> None:
        try:
            self._resource.set_result(self._open_resource(self.settings) if self._open_resource else None)
        except Exception as error:
            _log.exception("%s cannot start", self.name)
            self._resource.set_exception(error)
            self._fail()

    def _entry(self, function: Function) -> Callable[..., Any]:
        """The handler that the SDK gets. It runs on the SDK's event loop."""

        async def entry(data: Any, metadata: Any = None) -> dict[str, Any]:
            async def run(request: BaseModel | None, http: HttpRequest | None, caller: str | None) -> Any:
                # Shielded, or one cancelled call would cancel the resource of all.
                resource = await asyncio.shield(asyncio.wrap_future(self._resource))
                context = Context(function.id, caller, http, metadata, self.settings, resource, self._client)
                return await self._call_handler(function, request, context)

            call = cast("asyncio.Task[Any]", asyncio.current_task())
            with self._idle:
                self._calls.add(call)
            try:
                return await answer(function, data, self._admit, run)
            finally:
                with self._idle:
                    self._calls.discard(call)
                    self._idle.notify_all()

        return entry

    def _admit(self) -> None:
        limit = self._kit.max_in_flight
        if len(self._calls) > limit:
            raise FunctionError("OVERLOADED", f"{self.name} already answers {limit} calls; try again", status=503)

    async def _call_handler(self, function: Function, request: BaseModel | None, context: Context) -> Any:
        arguments = (context,) if request is None else (request, context)
        if inspect.iscoroutinefunction(function.handler):
            return await function.handler(*arguments)
        call = functools.partial(contextvars.copy_context().run, function.handler, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def engine_url() -> str:
    """The engine's address: ``III_URL``, else the local engine."""
    return os.environ.get("III_URL", "").strip() or DEFAULT_URL
