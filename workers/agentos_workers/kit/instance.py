"""One life of a worker: from its connection to the drained stop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

from pydantic import BaseModel

from . import scope as scopes
from .context import Context
from .errors import FunctionError, WorkerRefused
from .function import Function, answer
from .http import HttpRequest
from .scope import Scope
from .sdk import InitOptions, InvocationError, RegistrationRejectedError, register_worker
from .settings import KitSettings, load_settings
from .worker import Worker

_THREADS = 32
_ANSWER_MS = 30_000
_TELEMETRY_WANTED = ("1", "true", "yes", "on")

_log = logging.getLogger(__name__)


class Instance:
    """A worker that is connected. `failed` is told, once, why it cannot work any more; it must not block.

    `telemetry` permits the SDK's own, where ``OTEL_ENABLED`` asks for it: there is one for the whole process.
    """

    def __init__(
        self,
        worker: Worker,
        scope: Scope,
        *,
        telemetry: bool = False,
        failed: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.worker = worker
        self.scope = scope
        self._telemetry = telemetry
        self._failed = failed
        self._settings: Any = None
        self._kit = KitSettings()
        self._resource: Future[Any] = Future()
        self._client: Any = None
        self._unregister: list[Callable[[], None]] = []
        self._calls: set[asyncio.Task[Any]] = set()
        self._idle = threading.Condition()
        self._threads: ThreadPoolExecutor | None = None
        # Held while registering and while stopping, so that neither sees the other half done.
        self._changing = threading.Lock()
        self._connecting = False
        self._opening = False
        self._stopping = False

    def start(self) -> bool:
        """Connects, registers everything and waits until the engine has taken it in, however long that takes.

        Returns False when `stop` came first. Raises SettingsError when an environment variable is wrong, WorkerRefused
        when the engine does not want this worker.
        """
        with scopes.entered(self.scope):
            self._kit = load_settings(KitSettings, "AGENTOS_")
            if self.worker.settings_model is not None:
                self._settings = load_settings(self.worker.settings_model, self.worker.settings_prefix)
            self._threads = ThreadPoolExecutor(
                min(_THREADS, self._kit.max_in_flight), thread_name_prefix=self.scope.name
            )
            self._connecting = True
            try:
                # Returns after 30 s without an engine, and goes on trying.
                client = register_worker(self.scope.url, self._options())
            except (RegistrationRejectedError, ConnectionError) as error:
                raise WorkerRefused(f"the engine refused it: {error}") from None
            with self._changing:
                self._connecting = False
                if self._stopping:
                    client.shutdown()
                    return False
                self._client = client
                self._register(client)
            client.add_connection_state_listener(self._on_connection_state)
            self._opening = True
            self._in_thread(self._make_resource, "resource")
            return self._wait_until_registered(client)

    def stop(self, drain_seconds: float | None = None) -> bool:
        """Takes the functions away, waits for the calls that run, closes the connection.

        Returns False when something is left behind: calls that were still running after `drain_seconds` (default
        ``AGENTOS_DRAIN_SECONDS``), or the opening of the resource or the wait for an engine, which cannot be cut short.
        """
        with scopes.entered(self.scope), self._changing:
            if self._stopping:
                return True
            self._stopping = True
            limit = self._kit.drain_seconds if drain_seconds is None else drain_seconds
            deadline = time.monotonic() + limit
            for unregister in reversed(self._unregister):
                unregister()
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
            opening = self._opening and not self._resource.done()
            # At once, or when it is open.
            self._resource.add_done_callback(self._close_resource)
            return drained and not self._connecting and not opening

    def _options(self) -> InitOptions:
        environ = self.scope.environ
        # The SDK's telemetry opens a second connection and costs memory; here it is on only when asked for.
        telemetry = self._telemetry and environ.get("OTEL_ENABLED", "").lower() in _TELEMETRY_WANTED
        token = self.scope.token
        # Name, namespace and token are given because the SDK takes those of the process otherwise.
        return InitOptions(
            worker_name=self.scope.name,
            worker_description=self.worker.description or None,
            namespace=environ.get("III_NAMESPACE", "").strip() or None,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            enable_metrics_reporting=telemetry,
            otel={"enabled": telemetry},
        )

    def _register(self, client: Any) -> None:
        for function in self.worker.functions.values():
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
            for trigger in function.triggers:
                self._unregister.append(client.register_trigger(trigger.trigger(function.id)).unregister)

    def _wait_until_registered(self, client: Any) -> bool:
        """Waits for the answer to a call that was sent after the registrations, whatever it says: the engine handles
        what one connection sends in order."""
        # One of the few that engines leave out of traces: nobody wants to see it.
        call = {"function_id": "engine::baggage::get_all", "payload": {}, "timeout_ms": _ANSWER_MS}
        while not self._stopping:
            try:
                client.trigger(call)
                return True
            except InvocationError as error:
                if error.code != "TIMEOUT":
                    return not self._stopping
            except RegistrationRejectedError as error:
                raise WorkerRefused(f"the engine refused it: {error}") from None
        return False

    def _in_thread(self, job: Callable[[], None], name: str) -> None:
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(job,), name=f"{self.scope.name}-{name}", daemon=True).start()

    def _on_connection_state(self, state: str) -> None:
        if state == "failed":
            self._failed("the engine refused it for good")
        else:
            _log.info("engine connection: %s", state)

    def _make_resource(self) -> None:
        opener = self.worker.open_resource
        try:
            self._resource.set_result(opener(self._settings) if opener else None)
        except Exception as error:
            _log.exception("%s cannot start", self.scope.name)
            self._resource.set_exception(error)
            self._failed(f"what its handlers share could not be opened: {type(error).__name__}: {error}")

    def _close_resource(self, resource: Future[Any]) -> None:
        close = self.worker.close_resource
        if close is not None and not resource.cancelled() and resource.exception() is None:
            close(resource.result())

    def _entry(self, function: Function) -> Callable[..., Any]:
        """The handler that the SDK gets. It runs on the SDK's event loop, in a task of its own."""

        async def entry(data: Any, metadata: Any = None) -> dict[str, Any] | None:
            async def run(request: BaseModel | None, http: HttpRequest | None, caller: str | None) -> Any:
                # Shielded, or one cancelled call would cancel the resource of all.
                resource = await asyncio.shield(asyncio.wrap_future(self._resource))
                context = Context(function.id, caller, http, metadata, self._settings, resource, self._client)
                return await self._call_handler(function, request, context)

            call = cast("asyncio.Task[Any]", asyncio.current_task())
            with self._idle:
                self._calls.add(call)
            try:
                with scopes.entered(self.scope):
                    return await answer(function, data, self._admit, run)
            finally:
                with self._idle:
                    self._calls.discard(call)
                    self._idle.notify_all()

        return entry

    def _admit(self) -> None:
        limit = self._kit.max_in_flight
        if len(self._calls) > limit:
            raise FunctionError("OVERLOADED", f"{self.scope.name} already answers {limit} calls; try again", status=503)

    async def _call_handler(self, function: Function, request: BaseModel | None, context: Context) -> Any:
        arguments = (context,) if request is None else (request, context)
        if inspect.iscoroutinefunction(function.handler):
            return await function.handler(*arguments)
        call = functools.partial(contextvars.copy_context().run, function.handler, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
