"""The bus: what each message of a worker does."""

import asyncio
import hmac
import logging
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from agentos_engine import limits
from agentos_engine.bus.bounds import Bounds
from agentos_engine.bus.calls import Calls
from agentos_engine.bus.connection import ANONYMOUS, DEFAULT_NAMESPACE, Connection, Link, Peer
from agentos_engine.bus.draining import Draining
from agentos_engine.bus.errors import ENGINE_STOPPING, INVOCATION_STOPPED, BusError
from agentos_engine.bus.functions import Functions
from agentos_engine.bus.guard import Guard
from agentos_engine.bus.invocations import NOBODY, WorkerCaller
from agentos_engine.bus.registrations import Registrations
from agentos_engine.bus.registry import BALANCED, Registry
from agentos_engine.bus.sleepers import Sleepers
from agentos_engine.bus.spans import Spans
from agentos_engine.clock import Clock
from agentos_engine.limits import DEFAULT, Limits
from agentos_engine.permissions.table import Grants
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Malformed, Message, decode, text_of
from agentos_engine.triggers.registry import TriggerRegistry

log = logging.getLogger(__name__)

_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Bus:
    """All connections of one engine, their functions, triggers and calls.

    ``call_timeout`` in seconds: the longest that a call may take; ``routing``: see :class:`Registry`; ``bounds``: how
    much of everything there may be.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        call_timeout: float | None = None,
        routing: str = BALANCED,
        bounds: Limits = DEFAULT,
    ) -> None:
        self.clock = clock or Clock()
        self.bounds = Bounds(bounds)
        self.connections: dict[str, Connection] = {}
        self.registry = Registry(routing, self.bounds)
        self.triggers = TriggerRegistry(self.bounds)
        self.functions = Functions()
        self.calls = Calls(self, call_timeout)
        self.registrations = Registrations(self)
        self.permissions_denied = dict.fromkeys(("connection", "registration", "trigger", "call", "scope"), 0)
        """How often permissions refused something, by what it was."""
        self.invoke = self.calls.invoke
        self.call = self.calls.call
        self.notify = self.calls.notify
        self.notify_all = self.calls.notify_all
        self.abandon = self.calls.invocations.abandon
        self.spans: Spans | None = None
        """Who records the engine's own spans; None: nobody."""
        self.revision = 0
        """Grows when a connection comes, goes, or changes its name."""
        self.watchers: list[Callable[[Connection], None]] = []
        """Called when a connection comes, goes, or changes its name or functions."""
        self.log_watchers: list[Callable[[bytes], None]] = []
        """Called with each log entry that comes, as its JSON."""
        self.draining = Draining()
        self.grants = Grants(self)
        self.sleepers = Sleepers(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        calls, registrations = self.calls, self.registrations
        self._handlers: dict[str, Callable[[Connection, Message, bytes], object]] = {
            "invokefunction": calls.receive,
            "invocationresult": calls.answer,
            "registerfunction": _when_there_is_time(registrations.function),
            "unregisterfunction": lambda connection, message, frame: registrations.unregister_function(
                connection, message.id or ""
            ),
            "registertrigger": _when_there_is_time(registrations.trigger),
            "unregistertrigger": self._unregister_trigger,
            "registertriggertype": registrations.trigger_type,
            "unregistertriggertype": self._unregister_trigger_type,
            "triggerregistrationresult": registrations.trigger_result,
            "ping": lambda connection, message, frame: connection.send(frames.PONG),
            "pong": lambda connection, message, frame: None,
            "registerservice": lambda connection, message, frame: None,  # grouping only, of the 0.11 SDKs
            "reattach": self._reattach,
        }

    # Connections

    def connect(
        self, link: Link, peer: Peer = ANONYMOUS, ip_address: str = "", guard: Guard | None = None
    ) -> Connection:
        """Add a worker's connection and greet it."""
        connection = Connection(
            id=str(uuid.uuid4()),
            link=link,
            send=link.send,
            peer=peer,
            ip_address=ip_address,
            reattach_token=str(uuid.uuid4()),
            guard=guard,
            permissions=self.grants.of(peer),
            connected_at=self.clock.time(),
            draining=self.draining.is_going(peer),
        )
        connection.caller = WorkerCaller(connection)
        self.connections[connection.id] = connection
        connection.send(frames.worker_registered(connection.id, connection.reattach_token))
        self.sleepers.back(connection)
        log.info("worker connected", extra={"worker_id": connection.id, "subject": peer.subject})
        self.changed(connection)
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Remove a connection and all that was its own; callers that wait for it are answered at once."""
        if connection.closed:
            return
        connection.closed = True
        connection.since = self.clock.time()
        del self.connections[connection.id]
        self.sleepers.gone(connection)
        for function_id in list(connection.registrations):
            self.registry.remove(connection, function_id)
        self.registrations.forget(connection)
        try:
            self.triggers.drop(connection)
        except Exception:  # callers that wait must hear of the end all the same
            log.exception("not all triggers of a worker that has gone could be removed")
        self.calls.errors.count(INVOCATION_STOPPED.code, len(connection.calls))
        self.calls.invocations.stop(connection, INVOCATION_STOPPED)
        connection.caller = NOBODY  # the two would keep each other, and with them the socket
        log.info("worker disconnected", extra={"worker_id": connection.id, "worker": connection.about.name})
        self.changed(connection)

    def changed(self, connection: Connection) -> None:
        """Tell the watchers that a connection is not as it was."""
        self.revision += 1
        for watcher in list(self.watchers):
            try:
                watcher(connection)
            except Exception:
                log.exception("a watcher of connections failed")

    def settle(self, connection: Connection, namespace: str) -> None:
        """Take a connection, with all that it has registered, into an iii namespace. Raises BusError for a bad name."""
        if not _NAMESPACE.fullmatch(namespace):
            raise BusError(
                "INVALID_NAMESPACE", f"namespace {namespace[:100]!r}: letters, digits, hyphens and underscores only"
            )
        if namespace == connection.namespace:
            return
        self.check_namespace(namespace)

        def move() -> None:
            for registration, owner in self.registry.move(connection, namespace):
                connection.send(frames.function_refused(registration.local_id, namespace, owner.id))
            for binding in connection.waiting_bindings.values():
                if binding.own_namespace:
                    binding.namespace = namespace

        self.triggers.move(connection, move, namespace)

    def check_namespace(self, namespace: str) -> None:
        """Raise BusError ``limit_exceeded`` when functions are in as many iii namespaces as there may be."""
        if not self.registry.has_namespace(namespace) and self.registry.namespaces >= limits.MAX_NAMESPACES:
            problem = f"functions are in {limits.MAX_NAMESPACES} iii namespaces, the most allowed"
            raise self.bounds.exceeded("namespaces", problem, "use one that there is")

    def _reattach(self, connection: Connection, message: Message, frame: bytes) -> None:
        """A worker is back while its old connection still looks alive: that one goes, so that there is one of it."""
        previous = self.connections.get(text_of(message.previous_worker_id) or "")
        token = text_of(message.reattach_token) or ""
        if previous is None or previous is connection or previous.peer != connection.peer:
            return
        if hmac.compare_digest(previous.reattach_token.encode(), token.encode()):
            self.disconnect(previous)
            previous.link.end("the worker has connected anew")

    # Messages

    def receive(self, connection: Connection, frame: bytes) -> None:
        """Carry out one message. Bad ones are logged once per connection and never end it."""
        message = decode(frame)
        if isinstance(message, Malformed):
            self._malformed(connection, message)
            return
        try:
            if connection.guard is None or not connection.guard.receive(connection, message, frame):
                self._handlers.get(message.type, self._unknown)(connection, message, frame)
        except Exception:
            log.exception("a message could not be carried out", extra={"worker_id": connection.id})
            if message.type == "invokefunction" and message.invocation_id:
                error = BusError("internal_error", "the engine failed; its log says why")
                self.calls.refuse(connection, message.invocation_id, message.function_id or "", error)

    def carry_out(self, connection: Connection, message: Message, frame: bytes) -> None:
        """Do what a message says."""
        self._handlers.get(message.type, self._unknown)(connection, message, frame)

    def _unknown(self, connection: Connection, message: Message, frame: bytes) -> None:
        self._fault(connection, f"unknown message type {message.type[:100]!r}")

    def _unregister_trigger(self, connection: Connection, message: Message, frame: bytes) -> None:
        self.registrations.unregister_trigger(connection, message.id or "")

    def _unregister_trigger_type(self, connection: Connection, message: Message, frame: bytes) -> None:
        self.registrations.unregister_trigger_type(connection, message.id or "")

    def _fault(self, connection: Connection, reason: str) -> None:
        connection.faults += 1
        if connection.faults == 1:  # one line per connection: a worker that sends garbage must not fill the log
            log.warning(
                "message ignored: %s", reason, extra={"worker_id": connection.id, "worker": connection.about.name}
            )

    def _malformed(self, connection: Connection, fault: Malformed) -> None:
        self._fault(connection, fault.reason)
        if fault.type == "invokefunction" and fault.invocation_id:
            error = BusError("invalid_message", f"the message was {fault.reason}")
            self.calls.refuse(connection, fault.invocation_id, fault.function_id, error)
        elif fault.type == "invocationresult" and fault.invocation_id:
            call = connection.calls.get(fault.invocation_id)
            if call is not None:
                self.calls.errors.count("invalid_message")
                error = BusError("invalid_message", f"the worker's answer was {fault.reason}")
                self.calls.invocations.fail(call, error)
            connection.given_up.discard(fault.invocation_id)

    # The engine's own work

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something in the background; when it fails, the log says so."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work of the engine failed", exc_info=error)

    def version_of(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> str:
        """Return the version of the worker that would get the next call of a function; empty when it is not known."""
        owners = self.registry.owners(function_id, namespace)
        return owners.registrations[-1].version if owners is not None else ""

    async def drain(self, connections: list[Connection], seconds: float) -> bool:
        """Let connections end their calls and get no new ones while there are others that can.

        Returns True as soon as none of them has a call in flight, False after so many seconds.
        """
        for connection in connections:
            connection.draining = True
        done = asyncio.get_running_loop().create_future()
        handle = self.clock.machine.call_later(seconds, _resolve, done, False)

        def look() -> None:
            busy = next((each for each in connections if each.calls), None)
            if busy is None:
                _resolve(done, True)
            else:
                busy.when_idle.append(look)

        look()
        try:
            return await done
        finally:
            handle.cancel()
            for connection in connections:
                if look in connection.when_idle:
                    connection.when_idle.remove(look)

    def shut_out(self, connections: list[Connection], reason: str) -> None:
        """End connections, and let their pods in no more: what they had is free at once."""
        for connection in connections:
            self.draining.shut_out(connection.peer)
            self.disconnect(connection)
            connection.link.end(reason)

    def stop_calls(self) -> None:
        """Fail all calls: each caller is told before any connection ends."""
        self.calls.invocations.stop_all(list(self.connections.values()), ENGINE_STOPPING)

    async def close(self) -> None:
        """Stop what runs in the background."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _when_there_is_time(handler: "Callable[[Connection, Message, bytes], object]") -> Any:
    """Thousands of workers that register at one time must not hold up calls. Guards have looked at a message already."""

    def carry_out(connection: Connection, message: Message, frame: bytes) -> None:
        if connection.guard is not None or not connection.link.put_off(frame):
            handler(connection, message, frame)

    return carry_out


def _resolve(future: "asyncio.Future[bool]", value: bool) -> None:
    if not future.done():
        future.set_result(value)
