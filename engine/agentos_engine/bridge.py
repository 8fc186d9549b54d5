"""The module ``bridge``: a link to another engine, of which this one becomes a worker.

Functions of this engine are exposed over there, functions of the other one are forwarded to here, and
``bridge.invoke`` calls any of its functions. The WebSocket library is loaded when a bridge starts.
"""

import asyncio
import contextlib
import logging
import os
import random
import socket
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from agentos_engine import limits
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.errors import BusError, function_not_found
from agentos_engine.bus.functions import MISSING, Context, Handler, decode
from agentos_engine.config import SettingsError
from agentos_engine.config_file import options
from agentos_engine.protocol import frames
from agentos_engine.protocol.messages import Malformed, Message, decode_error, is_null, kept, text_of
from agentos_engine.protocol.messages import decode as decode_message

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 30.0
"""Seconds for an answer, when the caller does not say."""
MAX_TIMEOUT = 24 * 3600.0
CONNECT_WAIT = 5.0
"""Seconds that a call waits for a link that is down at the moment."""
OPEN_TIMEOUT = 10.0
PING_INTERVAL = 20.0
FIRST_DELAY = 0.5
"""Seconds before the link is tried again; doubled each time."""
MAX_DELAY = 30.0
STABLE_AFTER = 10.0
"""Seconds that a link has to hold for the next delay to be the first again."""

INVOKE, INVOKE_ASYNC = "bridge.invoke", "bridge.invoke_async"


class Bridge:
    """One link. ``first_delay`` is in seconds; without ``invoke`` it only forwards and exposes what is configured."""

    def __init__(
        self, *, bus: Bus, config: options.Bridge, first_delay: float = FIRST_DELAY, invoke: bool = True
    ) -> None:
        self._bus = bus
        self._invokes = invoke
        self._config = config
        self._first_delay = first_delay
        self._exposed = {each.remote_function: each.local_function for each in config.expose}
        self._shown = _origin(config.url)
        """The URL without its path, which may hold a token."""
        self._socket: ClientConnection | None = None
        self._up = asyncio.Event()
        self._trouble = "it was never there"
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._added: list[str] = []

    @property
    def connected(self) -> bool:
        """True while the link is up."""
        return self._up.is_set()

    async def start(self) -> None:
        """Add the functions and begin to connect; the other engine may come later.

        Raises SettingsError for a URL that is none and for a forwarded id that this engine serves itself.
        """
        from websockets.exceptions import InvalidURI
        from websockets.uri import parse_uri

        try:
            parse_uri(self._config.url)
        except InvalidURI as error:
            raise SettingsError("iii-bridge: url is not the address of an engine; write ws://HOST:49134") from error
        handlers: dict[str, Handler] = {}
        if self._invokes:
            handlers |= {INVOKE: self._invoke, INVOKE_ASYNC: self._invoke_async}
        for each in self._config.forward:
            handlers[each.local_function] = self._forwarding(each)
        for function_id, handler in handlers.items():
            if self._bus.functions.get(function_id) is not None:
                self._withdraw()
                raise SettingsError(f"iii-bridge: {function_id} is served already; choose another local_function")
            self._bus.functions.add(function_id, handler, f"Calls a function of the engine at {self._shown}.")
            self._added.append(function_id)
        self._keeper = self._bus.spawn(self._keep())

    async def stop(self) -> None:
        """Take the functions back and close the link; calls over it fail at once."""
        self._withdraw()
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _withdraw(self) -> None:
        for function_id in self._added:
            self._bus.functions.remove(function_id)
        self._added.clear()

    # The link

    async def _keep(self) -> None:
        """Connect, and connect again, for ever."""
        delay = self._first_delay
        while True:
            began = self._bus.clock.machine.monotonic()
            try:
                await self._live()
            except Exception as error:
                self._trouble = str(error) or type(error).__name__
                log.warning("bridge: no link to %s: %s", self._shown, self._trouble)
            if self._bus.clock.machine.monotonic() - began > STABLE_AFTER:
                delay = self._first_delay
            await self._bus.clock.machine.sleep(delay * random.uniform(0.7, 1.3))  # noqa: S311  spreads load, no secret
            delay = min(delay * 2, MAX_DELAY)

    async def _live(self) -> None:
        """Connect and serve the link until it ends. Raises whatever ended it."""
        from websockets.asyncio.client import connect

        connection = await connect(
            self._config.url,
            max_size=limits.MAX_MESSAGE,
            compression=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=limits.CLOSE_TIMEOUT,
            ping_interval=PING_INTERVAL,
        )
        try:
            for remote, local in self._exposed.items():
                await connection.send(_registration(remote, local), text=True)
            await connection.send(_introduction(), text=True)
            self._socket = connection
            self._up.set()
            log.info("bridge: linked to %s", self._shown)
            while True:
                self._receive(connection, await connection.recv(decode=False))
        finally:
            self._up.clear()
            self._socket = None
            self._fail_all()
            with contextlib.suppress(Exception):
                await connection.close(1000)

    def _fail_all(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    BusError("invocation_stopped", f"Invocation stopped: the link to {self._shown} broke.")
                )
        self._waiting.clear()
        for task in self._serving:
            task.cancel()

    def _receive(self, connection: "ClientConnection", frame: bytes) -> None:
        message = decode_message(frame)
        if isinstance(message, Malformed):
            log.warning("bridge: a message of %s is ignored: %s", self._shown, message.reason)
        elif message.type == "invocationresult":
            future = self._waiting.pop(message.invocation_id or "", None)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.type == "invokefunction":
            task = self._bus.spawn(self._serve(connection, message))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        elif message.type == "error":
            told = decode_error(message.error)
            text = "an error of another form" if told is None else f"{told.code}: {told.message}"[:500]
            if told is not None and told.code == "AUTH_ERROR":
                raise ConnectionError(text)
            log.warning("bridge: %s says: %s", self._shown, text)
        elif message.type == "registrationrejected":
            log.warning(
                "bridge: %s refuses an exposed function", self._shown, extra={"function_id": message.function_id}
            )

    # From there to here

    async def _serve(self, connection: "ClientConnection", message: Message) -> None:
        """Carry out a call of the other engine and answer it."""
        remote_id, invocation_id = message.function_id or "", message.invocation_id
        try:
            value = await self._call_exposed(remote_id, message)
            answer = frames.result(invocation_id or "", remote_id, value=value)
        except BusError as error:
            body = frames.error_body(error.code, error.message, error.stacktrace)
            answer = frames.failed(invocation_id or "", remote_id, body)
        if len(answer) > limits.MAX_MESSAGE:
            body = frames.error_body("limit_exceeded", f"the result has {len(answer)} bytes, too many for the link")
            answer = frames.failed(invocation_id or "", remote_id, body)
        if invocation_id is not None:
            with contextlib.suppress(Exception):  # the link is gone: the other engine has told its caller
                await connection.send(answer, text=True)

    async def _call_exposed(self, remote_id: str, message: Message) -> bytes | None:
        local_id = self._exposed.get(remote_id)
        if local_id is None:
            raise function_not_found(remote_id)
        if len(self._serving) > limits.MAX_IN_FLIGHT:
            raise BusError("limit_exceeded", f"the bridge has {limits.MAX_IN_FLIGHT} unanswered calls; try again later")
        return await self._bus.call(
            local_id,
            kept(message.data) or b"null",
            metadata=kept(message.metadata),
            traceparent=text_of(message.traceparent),
            baggage=text_of(message.baggage),
            source="bridge",
        )

    # From here to there

    async def call(
        self, function_id: str, data: bytes, *, seconds: float = DEFAULT_TIMEOUT, context: Context | None = None
    ) -> bytes | None:
        """Call a function of the other engine and return its raw JSON result, None for none.

        Metadata and trace of ``context`` go along. Raises BusError: that of the function, ``TIMEOUT``,
        ``bridge_disconnected``, or ``invocation_stopped`` when the link breaks meanwhile.
        """
        if len(self._waiting) >= limits.MAX_IN_FLIGHT:
            raise BusError("limit_exceeded", f"the bridge has {limits.MAX_IN_FLIGHT} unanswered calls; try again later")
        invocation_id = str(uuid.uuid4())
        frame = _invocation(function_id, data, invocation_id, context)
        future = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._send(frame, min(seconds, CONNECT_WAIT), (invocation_id, future))
                message = await future
        except TimeoutError as error:
            if invocation_id not in self._waiting:
                raise self._disconnected() from error
            milliseconds = round(seconds * 1000)
            text = f"Function {function_id} at {self._shown} did not answer within {milliseconds} ms."
            raise BusError("TIMEOUT", text) from error
        finally:
            self._waiting.pop(invocation_id, None)
            future.cancel()
            if not future.cancelled():
                future.exception()  # it may have come too late to be looked at
        if is_null(message.error):
            return kept(message.result)
        raise _error(message.error)

    async def notify(self, function_id: str, data: bytes, *, context: Context | None = None) -> None:
        """Call a function of the other engine without waiting for it. Raises BusError when that cannot be sent."""
        await self._send(_invocation(function_id, data, None, context), CONNECT_WAIT)

    async def _send(
        self, frame: bytes, seconds: float, waiting: "tuple[str, asyncio.Future[Message]] | None" = None
    ) -> None:
        if len(frame) > limits.MAX_MESSAGE:
            raise BusError("limit_exceeded", f"the call has {len(frame)} bytes, more than {limits.MAX_MESSAGE}")
        if not self._up.is_set():
            try:
                await asyncio.wait_for(self._up.wait(), seconds)
            except TimeoutError as error:
                raise self._disconnected() from error
        connection = self._socket
        if connection is None:
            raise self._disconnected()
        if waiting is not None:  # before sending: the answer may come at once
            self._waiting[waiting[0]] = waiting[1]
        from websockets.exceptions import ConnectionClosed

        try:
            await connection.send(frame, text=True)
        except (ConnectionClosed, OSError) as error:
            raise self._disconnected() from error

    def _disconnected(self) -> BusError:
        return BusError("bridge_disconnected", f"there is no link to {self._shown} at the moment: {self._trouble}")

    # The functions

    async def _invoke(self, context: Context, data: bytes) -> object:
        asked = decode(INVOKE, data, _Invoke)
        seconds = DEFAULT_TIMEOUT
        if asked.timeout_ms is not None:
            if asked.timeout_ms <= 0:
                raise BusError(
                    "deserialization_error", f"Failed to deserialize input for {INVOKE}: timeout_ms must be > 0"
                )
            seconds = min(asked.timeout_ms / 1000, MAX_TIMEOUT)
        result = await self.call(asked.function_id, _or_null(asked.data), seconds=seconds, context=context)
        return MISSING if result is None else msgspec.Raw(result)

    async def _invoke_async(self, context: Context, data: bytes) -> object:
        asked = decode(INVOKE_ASYNC, data, _Invoke)
        await self.notify(asked.function_id, _or_null(asked.data), context=context)
        return None

    def _forwarding(self, forward: options.Forwarded) -> Handler:
        async def handle(context: Context, data: bytes) -> object:
            seconds = forward.timeout_ms / 1000
            result = await self.call(forward.remote_function, data, seconds=seconds, context=context)
            return MISSING if result is None else msgspec.Raw(result)

        return handle


class _Invoke(msgspec.Struct):
    function_id: str
    data: msgspec.Raw = msgspec.Raw()
    timeout_ms: int | None = None


def _or_null(data: msgspec.Raw) -> bytes:
    return kept(data) or b"null"


def _invocation(function_id: str, data: bytes, invocation_id: str | None, context: Context | None) -> bytes:
    fields: dict[str, object] = {"type": "invokefunction", "function_id": function_id}
    if invocation_id is None:
        fields["action"] = {"type": "void"}
    else:
        fields["invocation_id"] = invocation_id
    if context is not None:
        trace: Mapping[str, str | None] = {"traceparent": context.traceparent, "baggage": context.baggage}
        fields |= {name: text for name, text in trace.items() if text is not None}
        if context.metadata is not None:
            fields["metadata"] = msgspec.Raw(context.metadata)
    fields["data"] = msgspec.Raw(data)
    return frames.text(fields)


def _registration(remote_id: str, local_id: str) -> bytes:
    description = f"{local_id} of the engine on {socket.gethostname()}, over a bridge"
    return frames.text({"type": "registerfunction", "id": remote_id, "description": description})


def _introduction() -> bytes:
    about = {"name": f"bridge@{socket.gethostname()}:{os.getpid()}", "runtime": "python", "pid": os.getpid()}
    return _invocation("engine::workers::register", frames.text(about), None, None)


def _error(raw: msgspec.Raw) -> BusError:
    try:
        found = msgspec.json.decode(raw, type=_ErrorBody)
    except (msgspec.DecodeError, RecursionError):
        return BusError("invocation_failed", "the other engine reported an error without a code and a message")
    return BusError(found.code, found.message, found.stacktrace)


class _ErrorBody(msgspec.Struct):
    code: str
    message: str
    stacktrace: str | None = None


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "the other engine"
