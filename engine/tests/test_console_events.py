"""What the console tells those who read on: calls, changes, log entries, streams."""

import asyncio
import contextlib
import json
import socket

import pytest
from agentos_engine.config_file import parse
from agentos_engine.console import readers
from agentos_engine.console.options import ConsoleOptions

from tests.waiting import until

ALWAYS = ConsoleOptions(always=True, payloads=True)


class Events:
    """A response with Server-Sent Events, as it comes."""

    def __init__(self, reader, writer):
        self._reader = reader
        self.writer = writer

    async def line(self):
        async with asyncio.timeout(15):
            return (await self._reader.readline()).decode()

    async def next(self, kind=None):
        """Return type and data of the next event, or of the next one of a type; None at the end."""
        event = ""
        while line := await self.line():
            if line.startswith("event: "):
                event = line[7:-1]
            elif line.startswith("data: "):
                if kind in (None, event):
                    return event, json.loads(line[6:])
                event = ""
        return None


class Console:
    """The console of a running engine."""

    def __init__(self, running):
        self.running = running
        self.bus = running.engine.bus
        self._writers = []

    async def get(self, path):
        """Return status and body of an answer that ends."""
        request = f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode()
        head, _, body = (await self.running.http(request, self.running.ports.console)).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    async def read(self, path="/api/events", small=False):
        """Begin to read events; ``small``: with little room for what was not read yet."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.running.ports.console))
        reader, writer = await asyncio.open_connection(sock=sock, limit=200_000)
        self._writers.append(writer)
        writer.write(f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
        events = Events(reader, writer)
        assert await events.line() == "HTTP/1.1 200 OK\r\n"
        while await events.line() != ": connected\n":
            pass
        return events

    def close(self):
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def start(run_engine):
    """Starts an engine with a console."""
    started = []

    async def start(options=None, *flags):
        started.append(Console(await run_engine("--console-port", "0", *flags, console=options)))
        return started[-1]

    yield start
    for console in started:
        console.close()


async def call(console, function_id, payload):
    return await console.bus.call(function_id, json.dumps(payload).encode(), source="test")


SET = "state::set", {"scope": "s", "key": "k", "value": 1}


async def test_a_call_between_two_workers_is_told_when_it_begins_and_when_it_ends(start):
    console = await start(ALWAYS)
    asks, answers = await console.running.connect(), await console.running.connect()
    for client, name in ((asks, "asks"), (answers, "answers")):
        await client.ask("engine::workers::register", {"runtime": "test", "version": "0.25.0", "name": name})
    await answers.send(type="registerfunction", id="a::b")
    await answers.settled()
    events = await console.read("/api/events?topics=call")
    await asks.send(type="invokefunction", invocation_id="1", function_id="a::b", data=1)
    begun = await events.next()
    asked = await answers.receive("invokefunction")
    await answers.send(type="invocationresult", invocation_id=asked["invocation_id"], function_id="a::b", result=2)
    ended = await events.next()
    assert (begun[0], ended[0]) == ("call", "call")
    assert begun[1]["id"] == ended[1]["id"]
    assert (begun[1]["caller"], begun[1]["worker"], begun[1]["status"]) == ("asks", "answers", "running")
    assert begun[1]["duration_ms"] is None
    assert (ended[1]["status"], ended[1]["duration_ms"] >= 0) == ("ok", True)
    assert asked["traceparent"].split("-")[1:3] == [begun[1]["trace_id"], begun[1]["span_id"]]
    assert not {"payload", "result"} & set(ended[1])


async def test_calls_are_watched_only_while_somebody_reads_of_them(start):
    console = await start()
    console_calls = console.bus.calls
    logs = await console.read("/api/events?topics=log,change")
    assert console_calls.tap is None
    calls = await console.read()
    assert console_calls.tap is not None
    await call(console, *SET)
    assert (await calls.next("call"))[1]["function_id"] == "state::set"
    calls.writer.close()
    await until(lambda: console_calls.tap is None)
    await call(console, *SET)
    assert len((await console.get("/api/calls"))[1]["calls"]) == 1
    logs.writer.close()


async def test_log_entries_are_told_as_they_are_listed(start):
    console = await start()
    events = await console.read("/api/events?topics=log")
    worker = await console.running.connect()
    await worker.ask("engine::log::warn", {"message": "it\nrains", "data": {"mm": 3}})
    kind, entry = await events.next()
    assert kind == "log"
    assert (entry["body"], entry["severity_text"], entry["attributes"]) == ("it\nrains", "WARN", {"mm": 3})
    listed = json.loads(await console.bus.call("engine::logs::list", b"{}"))["logs"]
    assert listed == [entry]


async def test_changes_of_workers_and_functions_are_gathered(start):
    console = await start()
    events = await console.read("/api/events?topics=change")
    worker = await console.running.connect()
    for number in range(100):
        await worker.send(type="registerfunction", id=f"a::{number}")
    await worker.settled()
    began = asyncio.get_running_loop().time()
    assert await events.next() == ("change", {})
    await worker.send(type="unregisterfunction", id="a::1")
    assert await events.next() == ("change", {})
    # A hundred functions and a worker in at most one more event than there is time for.
    assert asyncio.get_running_loop().time() - began > 0.2


async def test_unknown_topics_are_refused(start):
    status, answer = await (await start()).get("/api/events?topics=call,nothing")
    assert (status, answer["error"]["code"]) == (400, "INVALID_REQUEST")


async def test_a_quiet_response_shows_that_the_engine_is_there(start, monkeypatch):
    monkeypatch.setattr(readers, "HEARTBEAT", 0.05)
    events = await (await start()).read("/api/events?topics=log")
    while (line := await events.line()) == "\n":
        pass
    assert line == ": heartbeat\n"


async def test_one_reader_more_than_there_may_be_is_refused(start, monkeypatch):
    monkeypatch.setattr(readers, "MAX_READERS", 2)
    console = await start()
    first = await console.read()
    await console.read("/api/streams/s?group=g")
    status, answer = await console.get("/api/events")
    assert (status, answer["error"]["code"]) == (503, "TOO_MANY_READERS")
    first.writer.close()
    await until(lambda: console.bus.calls.tap is None)
    await console.read()


async def test_a_reader_that_is_slow_is_told_how_much_it_missed(start):
    console = await start(ALWAYS)
    slow = await console.read("/api/events?topics=log", small=True)
    quick = await console.read("/api/events?topics=log")
    worker = await console.running.connect()
    count, message = 6000, "x" * 2000
    for number in range(count):
        await worker.send(
            type="invokefunction",
            function_id="engine::log::info",
            data={"message": message, "data": {"number": number}},
            action={"type": "void"},
        )
        assert (await quick.next())[1]["attributes"] == {"number": number}
    got, missed = [], 0
    while not got or got[-1] < count - 1:
        kind, data = await slow.next()
        if kind == "missed":
            missed += data["count"]
        else:
            got.append(data["attributes"]["number"])
    assert missed > 0
    assert got == sorted(got)
    assert len(got) + missed == count


async def test_stopping_the_engine_ends_the_responses(start, run_engine):
    console = await start()
    events, stream = await console.read(), await console.read("/api/streams/s?group=g")
    await console.running.engine.stop()
    for each in (events, stream):
        with contextlib.suppress(ConnectionResetError):  # that is how an end that was not meant to be looks
            while await each.next():
                pass
    assert console.bus.calls.tap is None
    assert console.bus.log_watchers == []


# Streams


def item(number, **more):
    return {"stream_name": "a/b", "group_id": "g 1", "item_id": str(number), **more}


async def test_a_stream_is_followed_as_on_its_own_port(start):
    console = await start()
    await call(console, "stream::set", item(1, data={"n": 1}))
    events = await console.read("/api/streams/a%2Fb?group=g%201")
    _, first = await events.next()
    assert first["type"] == "stream"
    assert (first["streamName"], first["groupId"]) == ("a/b", "g 1")
    assert first["event"] == {"type": "sync", "data": [{"n": 1}]}
    await call(console, "stream::set", item(2, data="two"))
    await call(console, "stream::delete", item(2))
    sending = {"stream_name": "a/b", "group_id": "g 1", "type": "typing", "data": {"who": "ada"}}
    await call(console, "stream::send", sending)
    told = [(await events.next())[1]["event"] for _ in range(3)]
    assert told == [
        {"type": "create", "data": "two"},
        {"type": "delete", "data": "two"},
        {"type": "event", "data": {"type": "typing", "data": {"who": "ada"}}},
    ]


async def test_json_over_several_lines_stays_one_event(start):
    console = await start()
    events = await console.read("/api/streams/s?group=g")
    await events.next()
    await console.bus.call("stream::set", b'{"stream_name":"s","group_id":"g","item_id":"1","data":{"a":\r\n[1,\n2]}}')
    assert (await events.next())[1]["event"]["data"] == {"a": [1, 2]}


async def test_a_slow_reader_of_a_stream_learns_how_it_ended(start):
    console = await start()
    slow = await console.read("/api/streams/s?group=g", small=True)
    value = "x" * 100_000
    for number in range(200):
        await call(
            console, "stream::set", {"stream_name": "s", "group_id": "g", "item_id": "i", "data": f"{number}{value}"}
        )
    reads = 0
    while True:
        reads += 1
        event = (await slow.next())[1]["event"]
        last = event["data"][-1:] if event["type"] == "sync" else [event["data"]]
        if last == [f"199{value}"]:
            break
    assert reads < 200


async def test_when_the_reader_goes_nobody_follows_the_stream(start):
    console = await start()
    events = await console.read("/api/streams/s?group=g")
    await events.next()
    streams = console.running.engine.modules["stream"]
    assert streams.feed.wants("s", "g")
    events.writer.close()
    await until(lambda: not streams.feed.wants("s", "g"))


async def test_following_ends_when_the_engine_serves_streams_no_longer(start, monkeypatch):
    monkeypatch.setattr(readers, "HEARTBEAT", 0.05)
    console = await start()
    events = await console.read("/api/streams/s?group=g")
    await events.next()
    await console.running.engine.reload(parse("workers: [{name: iii-state}]", {}, "config.yaml"))
    assert await events.next() is None
    status, answer = await console.get("/api/streams/s?group=g")
    assert (status, answer["error"]["code"]) == (404, "NO_STREAMS")


@pytest.mark.parametrize("path", ["/api/streams/s", "/api/streams/s?group=" + "g" * 2000])
async def test_a_stream_that_cannot_be_meant_is_refused(start, path):
    status, answer = await (await start()).get(path)
    assert (status, answer["error"]["code"]) == (400, "INVALID_REQUEST")
