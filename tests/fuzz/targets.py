"""What is fuzzed: functions that take any bytes, and raise when something is wrong with the engine, not with the bytes.

They need nothing but the engine, so that ``make test`` can put the whole corpus through them.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from agentos_engine import cron
from agentos_engine.bus.bus import Bus
from agentos_engine.bus.connection import Connection, Link
from agentos_engine.bus.errors import BusError
from agentos_engine.clock import ManualClock
from agentos_engine.config_file import ConfigError, parse
from agentos_engine.protocol.http import (
    Request,
    ResponseHead,
    ResultError,
    handler_response,
    middleware_payload,
    middleware_response,
    request_payload,
)
from agentos_engine.protocol.messages import Message
from agentos_engine.server.http_parsing import RequestError, RequestParser
from agentos_engine.triggers.registry import Binding
from agentos_engine.triggers.routes import PathError, request_segments

MAX_SIZE = 4096
"""Bytes of an input; also the fuzzer's bound."""
PEERS = 3


class _Bus(Bus):
    """Keeps what the real one only logs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fault: Exception | None = None
        self._handlers = {name: self._kept(handler) for name, handler in self._handlers.items()}

    def _kept(self, handler: Callable[..., object]) -> Callable[[Connection, Message, bytes], object]:
        def carry_out(connection: Connection, message: Message, frame: bytes) -> object:
            try:
                return handler(connection, message, frame)
            except Exception as error:
                self.fault = error
                raise

        return carry_out


class _Wire(Link):
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)


class _Served:
    """A trigger type of the engine."""

    def __init__(self) -> None:
        self.bound: set[Binding] = set()

    def bind(self, binding: Binding) -> None:
        if binding.config == b'"bad"':
            raise BusError("trigger_registration_failed", "bad")
        self.bound.add(binding)

    def unbind(self, binding: Binding) -> None:
        self.bound.discard(binding)


def bus(data: bytes) -> None:
    """Lines, each a message of the peer that the first character names.

    ``0`` to ``2`` send the rest of the line; a lone ``x``, ``y`` or ``z`` disconnects, and brings another in place of
    it; ``t`` lets a minute pass. In a message ``@0`` stands for the id of that peer's connection, ``$0`` for its token.
    """
    clock = ManualClock()
    tested = _Bus(clock=clock, call_timeout=30.0)
    served = _Served()
    tested.triggers.serve("t::engine", served)
    tested.functions.add("engine::echo", lambda context, payload: msgspec.Raw(payload))
    tested.functions.add("engine::settle", lambda context, payload: _settle(tested, context.connection, payload))
    peers = [_join(tested) for _ in range(PEERS)]
    for line in data[:MAX_SIZE].split(b"\n"):
        kind, message = line[:1], line[1:]
        if kind in b"012" and kind:
            for number, (connection, _) in enumerate(peers):
                message = message.replace(b"@%d" % number, connection.id.encode())
                message = message.replace(b"$%d" % number, connection.reattach_token.encode())
            connection = peers[int(kind)][0]
            if not connection.closed:
                tested.receive(connection, message)
        elif line in (b"x", b"y", b"z"):
            number = b"xyz".index(line)
            tested.disconnect(peers[number][0])
            peers[number] = _join(tested)
        elif line == b"t":
            clock._elapsed += 60
            tested.calls.expire()
        if tested.fault is not None:
            raise tested.fault
        _check_frames(peers)
        _check_counts(tested)
    for connection, _ in peers:
        tested.disconnect(connection)
    _check_counts(tested)
    assert not tested.connections
    assert len(tested.registry) == 0
    assert not list(tested.triggers)
    assert not list(tested.triggers.provided)
    assert not served.bound
    assert tested.calls.invocations.in_flight == 0


Value = TypeVar("Value")


def _tried(
    refusal: type[Exception], function: Callable[..., Value], *arguments: object
) -> tuple[Value | None, Exception | None]:
    """Call a function that may refuse what it is given, but only with this exception; returns that as well."""
    try:
        return function(*arguments), None
    except refusal as error:
        return None, error


def _join(tested: Bus) -> tuple:
    wire = _Wire()
    return tested.connect(wire), wire


def _settle(tested: Bus, connection, payload: bytes) -> None:
    namespace = msgspec.json.decode(payload)
    if isinstance(namespace, str):
        tested.settle(connection, namespace)


def _check_frames(peers: list[tuple]) -> None:
    for _, wire in peers:
        for frame in wire.frames:
            assert isinstance(_strict(frame)["type"], str)
        wire.frames.clear()


def _check_counts(tested: Bus) -> None:
    connections = list(tested.connections.values())
    assert tested.calls.invocations.in_flight == sum(len(each.calls) for each in connections)
    assert sum(len(each.outgoing) for each in connections) == tested.calls.invocations.in_flight
    for each in connections:
        parts = (each.registrations, each.bindings, each.trigger_types)
        assert each.registered_bytes == sum(one.size for part in parts for one in part.values())


def _strict(frame: bytes):
    """What a receiver reads that takes nothing but JSON in UTF-8."""
    value = json.loads(frame.decode(), parse_constant=_refuse, parse_int=str)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Receiver:
    """Gathers the requests of one connection."""

    def __init__(self) -> None:
        self.requests: list[list] = []
        self._open = False

    def on_begin(self) -> None:
        self._open = True

    def on_request(self, request: Request) -> None:
        assert self._open
        self.requests.append([request, b"", False])

    def on_data(self, data: bytes) -> None:
        self.requests[-1][1] += data

    def on_end(self) -> None:
        assert self._open
        self._open = False
        self.requests[-1][2] = True


def _requests(pieces: list[bytes]) -> tuple[list[list], int]:
    """The requests in what a client sends, and how it ended: with a status, 101 for an upgrade, 0 for still open."""
    receiver = _Receiver()
    parser = RequestParser(receiver)
    try:
        for piece in pieces:
            if not parser.feed(piece):
                return receiver.requests, 101
    except RequestError as error:
        return receiver.requests, error.response.status
    return receiver.requests, 0


def http(data: bytes) -> None:
    """What a client sends: the same requests come out of it in one piece and byte by byte."""
    data = data[:MAX_SIZE]
    requests, end = _requests([data])
    assert end in (0, 101, 400, 431)
    singly = _requests([data[at : at + 1] for at in range(len(data))])
    assert singly == (requests, end), f"{singly} is not {(requests, end)}"
    for request, body, complete in requests:
        request.body = body if complete else b""
        segments, error = _tried(PathError, request_segments, request.path)
        parameters = {str(at): segment for at, segment in enumerate(segments or ())}
        given = (request_payload, request, "/a", "GET", parameters), (middleware_payload, request, parameters)
        for make, *arguments in given:
            payload, error = _tried(ValueError, make, *arguments)
            if error is None:
                _strict(payload)
            else:  # too many fields in the query
                assert type(error) is ValueError
                assert "field" in str(error)


def result(data: bytes) -> None:
    """A handler's result over HTTP: a response, or an error that says why it is none."""
    for read in (handler_response, middleware_response, ResponseHead().apply):
        response, error = _tried(ResultError, read, data)
        assert error is None or len(str(error).encode()) < 500
        for name, value in getattr(response, "headers", ()):
            assert name
            assert not set(name + value) & set("\r\n\0")


def config(data: bytes) -> None:
    """The text of a config file: a configuration, or all that is wrong with it, each with a line of the text."""
    text = data[:MAX_SIZE].decode(errors="replace")
    environment = {"HOME": "/home", "NUMBER": "5", "LINES": "a: 1\nb: 2", "EMPTY": ""}
    _, error = _tried(ConfigError, parse, text, environment)
    if isinstance(error, ConfigError):
        str(error).encode()
        assert error.findings
        assert all(0 <= each.line <= text.count("\n") + 1 for each in error.findings)


def schedule(data: bytes) -> None:
    """A cron expression: a schedule whose ticks go forward, or an error that says why it is none."""
    found, error = _tried(cron.ExpressionError, cron.parse, data.decode(errors="replace"))
    if found is None:
        str(error).encode()
        return
    time, ticks = 1_750_000_000.5, 0
    while ticks < 5 and (following := found.next_after(time)) is not None:
        assert following > time
        time, ticks = following, ticks + 1


TARGETS: dict[str, Callable[[bytes], None]] = {
    "bus": bus,
    "config": config,
    "http": http,
    "result": result,
    "schedule": schedule,
}
"""By the name of their folders in the corpus."""
