"""Load on an iii-compatible bus: peers without an SDK, cheap enough to keep a router busy.

The ordinary echo worker and caller parse every message, as SDKs do; they saturate before the router does, so frames
reach it one by one. The lean ones parse nothing: fixed-width ids are found by offset, and the router is the bottleneck.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import picows

TIMEOUT = 30.0
"""Seconds for an answer that must come."""
_TEXT = picows.WSMsgType.TEXT


class Peer(picows.WSListener):
    """A worker without an SDK; ``on`` gets each message but the greeting."""

    def __init__(self) -> None:
        self.greeted = asyncio.Event()
        self.on: Callable[[bytes], object] | None = None

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self.greeted.set()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == _TEXT:
            message = frame.get_payload_as_bytes()
            if b'"workerregistered"' in message[:200]:
                self.greeted.set()
            elif self.on is not None:
                self.on(message)

    def send(self, message: bytes | dict) -> None:
        """Send a message."""
        self.transport.send(_TEXT, message if isinstance(message, bytes) else json.dumps(message).encode())

    async def call(self, function_id: str, data: object, action: dict | None = None) -> dict:
        """Call a function and return the whole answer. What ``on`` was is put back after it."""
        before, invocation_id = self.on, str(uuid.uuid4())
        answer: asyncio.Future[dict] = asyncio.get_running_loop().create_future()

        def take(message: bytes) -> None:
            fields = json.loads(message)
            if fields.get("invocation_id") == invocation_id and not answer.done():
                answer.set_result(fields)

        self.on = take
        call = {"type": "invokefunction", "invocation_id": invocation_id, "function_id": function_id, "data": data}
        self.send(call if action is None else call | {"action": action})
        try:
            return await asyncio.wait_for(answer, TIMEOUT)
        finally:
            self.on = before

    async def name(self, name: str) -> None:
        """Tell the router who this is, as SDKs do, which also settles all that was sent before."""
        about = {"runtime": "python", "name": name, "version": "0"}
        self.send(
            {
                "type": "invokefunction",
                "invocation_id": str(uuid.uuid4()),
                "function_id": "engine::workers::register",
                "data": about,
            }
        )

    def close(self) -> None:
        """Go."""
        self.transport.disconnect()


async def connect(url: str) -> Peer:
    """Connect. Raises OSError when there is nobody, or the router does not let this one in."""
    _, peer = await picows.ws_connect(Peer, url, max_frame_size=64 << 20)
    await asyncio.wait_for(peer.greeted.wait(), TIMEOUT)
    if peer.transport.is_disconnected:
        raise ConnectionRefusedError("the router ended the connection before it greeted")
    return peer


@dataclass
class Window:
    """What one stretch of load came to. ``latencies`` in seconds, of the ordinary caller."""

    calls: int
    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


class Route:
    """One caller and one function of one echo worker."""

    def __init__(self, caller: Peer, worker: Peer, function_id: str) -> None:
        self.caller, self.worker, self.function_id = caller, worker, function_id


async def route(url: str, function_id: str, settle: float = 0.5) -> Route:
    """Connect a worker with a function, and a caller."""
    worker, caller = await connect(url), await connect(url)
    worker.send({"type": "registerfunction", "id": function_id})
    await worker.name(function_id.partition("::")[0])
    await asyncio.sleep(settle)
    return Route(caller, worker, function_id)


def body_of(size: int) -> bytes:
    """Return a payload with so many bytes of text."""
    return json.dumps({"x": "a" * size}).encode()


async def ordinary(routes: list[Route], in_flight: int, size: int, seconds: float) -> Window:
    """Keep so many calls in flight over all routes, taking turns; every message is parsed on both sides."""
    body, window = body_of(size), Window(0, 0.0)
    sent: dict[str, float] = {}
    done, failure = asyncio.Event(), []

    def serve(route: Route) -> Callable[[bytes], None]:
        send, function_id = route.worker.send, route.function_id.encode()

        def echo(message: bytes) -> None:
            fields = json.loads(message)
            if fields["type"] == "invokefunction":
                data = json.dumps(fields.get("data")).encode()
                send(
                    b'{"type":"invocationresult","invocation_id":"%s","function_id":"%s","result":%s}'
                    % (fields["invocation_id"].encode(), function_id, data)
                )

        return echo

    def ask(route: Route) -> tuple[Callable[[], None], Callable[[bytes], None]]:
        send, function_id = route.caller.send, route.function_id.encode()

        def fire() -> None:
            invocation_id = str(uuid.uuid4())
            sent[invocation_id] = time.perf_counter()
            send(
                b'{"type":"invokefunction","invocation_id":"%s","function_id":"%s","data":%s}'
                % (invocation_id.encode(), function_id, body)
            )

        def got(message: bytes) -> None:
            fields = json.loads(message)
            if fields["type"] != "invocationresult" or fields["invocation_id"] not in sent:
                return
            now = time.perf_counter()
            window.latencies.append(now - sent.pop(fields["invocation_id"]))
            if fields.get("error"):
                failure.append(fields["error"])
            if now < stop and not failure:
                fire()
            elif not sent:
                done.set()

        return fire, got

    fires = []
    for each in routes:
        fire, each.caller.on = ask(each)
        each.worker.on = serve(each)
        fires.append(fire)
    began = time.perf_counter()
    stop = began + seconds
    for number in range(in_flight):
        fires[number % len(fires)]()
    await asyncio.wait_for(done.wait(), seconds + TIMEOUT)
    if failure:
        raise SystemExit(f"a call failed: {failure[0]}")
    window.calls, window.seconds = len(window.latencies), time.perf_counter() - began
    return window


async def lean(routes: list[Route], in_flight: int, size: int, seconds: float, payload: bytes | None = None) -> Window:
    """Keep so many calls in flight on one route with peers that parse nothing.

    ``payload`` is sent instead of one of ``size``, for functions of the router itself.
    """
    (route,) = routes
    body = payload or body_of(size)
    worker, caller, function_id = route.worker, route.caller, route.function_id.encode()
    head = b'{"type":"invokefunction","invocation_id":"00000000-0000-4000-8000-%012d","function_id":"' + function_id
    head += b'","data":' + body.replace(b"%", b"%%") + b"}"
    answer = b'","function_id":"' + function_id + b'","result":' + body + b"}"
    fired, open_ = 0, in_flight
    done, failure = asyncio.Event(), []

    def echo(message: bytes) -> None:
        at = message.find(b'"invocation_id"')
        if at >= 0 and b'"invokefunction"' in message[:400]:
            begin = message.index(b'"', at + 16) + 1
            worker.send(b'{"type":"invocationresult","invocation_id":"' + message[begin : begin + 36] + answer)

    def fire() -> None:
        nonlocal fired
        fired += 1
        caller.send(head % fired)

    def got(message: bytes) -> None:
        nonlocal open_
        if b'"error"' in message[:200]:
            failure.append(message[:300])
        if time.perf_counter() < stop and not failure:
            fire()
        else:
            open_ -= 1
            if not open_ or failure:
                done.set()

    worker.on, caller.on = echo, got
    began = time.perf_counter()
    stop = began + seconds
    for _ in range(in_flight):
        fire()
    await asyncio.wait_for(done.wait(), seconds + TIMEOUT)
    if failure:
        raise SystemExit(f"a call failed: {failure[0]!r}")
    return Window(fired, time.perf_counter() - began)
