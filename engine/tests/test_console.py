"""The console's port: who may ask it, and what it answers."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest
from agentos_engine import limits
from agentos_engine.config import SettingsError, read_settings
from agentos_engine.console import access
from agentos_engine.console.options import ConsoleOptions
from agentos_engine.console.recorder import MAX_PAYLOAD
from agentos_engine.protocol.http import Request

from tests.waiting import until

ALWAYS = ConsoleOptions(always=True, payloads=True)


class Answer:
    """An HTTP response."""

    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]["code"]


class Console:
    """The console of a running engine."""

    def __init__(self, running):
        self.running = running
        self.port = running.ports.console
        self.host = f"127.0.0.1:{self.port}"

    async def ask(self, method, path, body=b"", **headers):
        fields = {"host": self.host, "connection": "close", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
        return Answer(await self.running.http(request, self.port))

    async def get(self, path, **headers):
        return await self.ask("GET", path, **headers)

    async def post(self, body, path="/api/call", **headers):
        return await self.ask("POST", path, body, **{"content_type": "application/json"} | headers)

    async def call(self, function_id, payload=None, **more):
        body = json.dumps({"function_id": function_id, "payload": payload, **more}).encode()
        answer = await self.post(body)
        assert answer.status == 200
        return answer.json

    async def worker(self, name, **functions):
        """Connect a worker with functions; each answers with what it was given, or as its handler says."""
        client = await self.running.connect()
        data = {"runtime": "test", "version": "0.25.0", "name": name}
        await client.ask("engine::workers::register", data)
        for function in functions:
            await client.send(type="registerfunction", id=f"{name}::{function}")
        await client.settled()
        return client


@pytest.fixture
async def start(run_engine):
    """Starts an engine with a console."""

    async def start(options=None, *flags, **more):
        return Console(await run_engine("--console-port", "0", *flags, console=options, **more))

    return start


# Who may ask


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:3113", "LocalHost", "[::1]:9", "127.0.0.1"])
async def test_loopback_by_each_of_its_names_is_served(start, host):
    assert (await (await start()).get("/api/info", host=host)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:3113", "10.0.0.1", ""]
)
@pytest.mark.parametrize("path", ["/", "/api/info", "/api/events", "/nothing"])
async def test_a_name_that_was_made_to_resolve_to_loopback_is_refused(start, host, path):
    answer = await (await start()).get(path, host=host)
    assert (answer.status, answer.error) == (403, "FORBIDDEN_HOST")


async def test_a_request_without_a_host_or_with_two_is_refused(start):
    console = await start()
    assert (await console.get("/api/info", host=None)).status == 403
    assert access.refusal(Request("GET", "/", headers=[("host", "localhost"), ("host", "localhost")])) is not None


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
async def test_a_page_of_another_origin_is_refused(start, origin):
    console = await start()
    answer = await console.post(b'{"function_id": "state::list_groups"}', origin=origin)
    assert (answer.status, answer.error) == (403, "FORBIDDEN_ORIGIN")
    assert (await console.get("/api/events", origin=origin)).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_an_image_or_frame_of_another_origin_is_refused_though_it_names_none(start, site):
    console = await start()
    answer = await console.get("/api/events", sec_fetch_site=site)
    assert (answer.status, answer.error) == (403, "FORBIDDEN_ORIGIN")
    assert (await console.get("/", sec_fetch_site=site)).status == 200


async def test_the_consoles_own_page_is_served(start):
    console = await start()
    answer = await console.post(
        b'{"function_id": "state::list_groups"}', origin=f"http://{console.host}", sec_fetch_site="same-origin"
    )
    assert answer.status == 200
    assert (await console.get("/api/info", sec_fetch_site="none")).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; application/json", "multipart/form-data", None])
async def test_a_post_that_a_form_could_send_is_refused(start, content_type):
    answer = await (await start()).post(b'{"function_id": "state::list_groups"}', content_type=content_type)
    assert (answer.status, answer.error) == (403, "FORBIDDEN_CONTENT_TYPE")


async def test_what_is_refused_is_not_read(start):
    answer = await (await start()).post(b"{", origin="http://evil.example", content_length=str(8 << 20))
    assert answer.status == 403


async def test_the_console_listens_on_loopback_whatever_the_engine_does(start):
    console = await start(None, "--host", "0.0.0.0")
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} | {"127.0.0.2"}
    for address in others - {"127.0.0.1"}:
        with pytest.raises(OSError):
            await asyncio.open_connection(address, console.port)


async def test_an_engine_has_no_console_unless_it_is_asked_for(run_engine):
    running = await run_engine()
    assert running.ports.console == 0
    assert running.engine.bus.calls.tap is None


# The page


async def test_the_page_and_its_files_come_with_their_types_and_a_strict_policy(start):
    console = await start()
    page = await console.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body == (await console.get("/assets/index.html")).body
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["nothing.js", "../server.py", "%2e%2e/server.py", "..%2fserver.py", "/etc/passwd", ""]
)
async def test_no_other_file_is_served(start, name):
    answer = await (await start()).get(f"/assets/{name}")
    assert (answer.status, answer.error) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/api/call", 405),
        ("DELETE", "/api/calls", 405),
        ("POST", "/api/info", 405),
        ("PUT", "/assets/index.html", 405),
    ],
)
async def test_what_there_is_not_has_an_error_with_a_code(start, method, path, status):
    answer = await (await start()).ask(method, path, content_type="application/json")
    assert answer.status == status
    assert set(answer.json["error"]) == {"code", "message"}


# What the engine is


async def test_info_tells_realm_ports_and_what_is_recorded(start):
    console = await start(ALWAYS, "--realm", "team")
    info = (await console.get("/api/info")).json
    ports = console.running.ports
    assert info["realm"] == "team"
    assert info["ports"] == {
        "workers": ports.workers,
        "http": ports.http,
        "stream": ports.stream,
        "admin": ports.admin,
        "console": ports.console,
    }
    assert info["recording"] == {"always": True, "payloads": True}
    assert info["fleet"] is False
    assert info["version"]
    assert info["started_at"] > 1_700_000_000_000


async def test_the_fleet_is_what_the_supervisor_tells(start):
    workers = [{"name": "greeter", "state": "ready", "pid": 1}]
    console = await start(ConsoleOptions(fleet=lambda: workers))
    assert (await console.get("/api/fleet")).json == {"workers": workers}


async def test_a_realm_has_no_fleet(start):
    answer = await (await start()).get("/api/fleet")
    assert (answer.status, answer.error) == (404, "NO_FLEET")


# Calls


async def answering(worker, **answer):
    """Answer the next call that a worker gets; returns the call."""
    call = await worker.receive("invokefunction")
    await worker.send(
        type="invocationresult", invocation_id=call["invocation_id"], function_id=call["function_id"], **answer
    )
    return call


async def test_a_call_returns_result_time_and_trace(start):
    console = await start()
    worker = await console.worker("greeter", hello=1)
    calling = asyncio.create_task(console.call("greeter::hello", {"name": "Ada"}))
    call = await answering(worker, result={"text": "Hello, Ada"})
    answer = await calling
    assert call["data"] == {"name": "Ada"}
    assert answer["result"] == {"text": "Hello, Ada"}
    assert answer["duration_ms"] >= 0
    assert answer["trace_id"] == call["traceparent"].split("-")[1]


async def test_a_call_without_a_payload_and_a_result_that_is_nothing_are_null(start):
    console = await start()
    worker = await console.worker("greeter", hello=1)
    calling = asyncio.create_task(console.post(b'{"function_id": "greeter::hello"}'))
    call = await answering(worker)
    assert call["data"] is None
    assert (await calling).json["result"] is None


async def test_an_error_of_the_function_is_an_answer(start):
    console = await start()
    worker = await console.worker("greeter", hello=1)
    calling = asyncio.create_task(console.call("greeter::hello"))
    await answering(worker, error={"code": "RUDE", "message": "no", "stacktrace": "line 1"})
    answer = await calling
    assert answer["error"] == {"code": "RUDE", "message": "no"}
    assert "result" not in answer


async def test_no_token_is_shown_or_kept_of_an_error(start):
    console = await start(ALWAYS)
    worker = await console.worker("greeter", hello=1)
    calling = asyncio.create_task(console.call("greeter::hello"))
    await answering(worker, error={"code": "RUDE", "message": "no way to ws://127.0.0.1:1/w/eyJh.eyJi.c-c/pod"})
    answer = await calling
    spans = await console.call("engine::traces::list", {})
    kept = (await console.get("/api/calls")).body.decode()
    assert answer["error"]["message"] == "no way to ws://127.0.0.1:1/w/<redacted>/pod"
    assert "no way to" in kept
    assert "no way to" in json.dumps(await console.call("engine::traces::tree", {"trace_id": answer["trace_id"]}))
    assert "eyJh" not in json.dumps([answer, kept, spans])


async def test_a_function_that_does_not_answer_in_time_is_timed_out(start):
    console = await start()
    await console.worker("greeter", hello=1)
    assert (await console.call("greeter::hello", timeout_ms=1))["error"]["code"] == "TIMEOUT"
    (record,) = (await console.get("/api/calls")).json["calls"]
    assert (record["status"], record["error"]["code"]) == ("error", "TIMEOUT")


async def test_a_function_that_nobody_has_is_not_found(start):
    console = await start()
    answer = await console.call("nobody::has")
    assert answer["error"]["code"] == "function_not_found"
    (record,) = (await console.get("/api/calls")).json["calls"]
    assert (record["function_id"], record["worker"], record["trace_id"]) == ("nobody::has", None, answer["trace_id"])


async def test_a_call_in_another_namespace_is_looked_for_there(start):
    answer = await (await start()).call("state::nothing", namespace="elsewhere")
    assert "namespace elsewhere" in answer["error"]["message"]


async def test_when_the_client_goes_the_call_ends(start):
    console = await start(ALWAYS)
    await console.worker("greeter", hello=1)
    _, writer = await asyncio.open_connection("127.0.0.1", console.port)
    body = b'{"function_id": "greeter::hello"}'
    head = (
        f"POST /api/call HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await until(lambda: console.running.engine.bus.calls.invocations.in_flight == 1)
    writer.close()
    await until(lambda: console.running.engine.bus.calls.invocations.in_flight == 0)
    (record,) = (await console.get("/api/calls")).json["calls"]
    assert (record["status"], record["error"]["code"]) == ("error", "abandoned")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"[]",
        b"{}",
        b'{"function_id": ""}',
        b'{"function_id": 5}',
        b'{"function_id": "%s"}' % (b"x" * (limits.MAX_ID_LENGTH + 1)),
        b'{"function_id": "a::b", "timeout_ms": 0}',
        b'{"function_id": "a::b", "timeout_ms": 3600001}',
        b'{"function_id": "a::b", "namespace": ""}',
        b'{"function_id": "a::b", "payload": "\xff"}',
        b'{"function_id": "a::b", "payload": %s}' % (b"[" * 100_000),
    ],
)
async def test_a_body_that_is_no_call_is_refused(start, body):
    answer = await (await start()).post(body)
    assert (answer.status, answer.error) == (400, "INVALID_REQUEST")


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(start):
    answer = await (await start()).post(b"", content_length=str(limits.MAX_HTTP_BODY + 1))
    assert answer.status == 413


# Records


async def test_calls_are_listed_newest_first_and_shown_with_what_went_in_and_out(start):
    console = await start(ALWAYS)
    await console.call("state::set", {"scope": "a", "key": "b", "value": [1]})
    await console.call("state::get", {"scope": "a", "key": "b"})
    calls = (await console.get("/api/calls?limit=1")).json["calls"]
    assert [each["function_id"] for each in calls] == ["state::get"]
    assert set(calls[0]) == {
        *(
            "id",
            "function_id",
            "caller",
            "worker",
            "started_at",
            "duration_ms",
            "status",
            "error",
            "trace_id",
            "span_id",
        ),
    }
    assert (calls[0]["caller"], calls[0]["worker"], calls[0]["status"]) == ("console", "engine", "ok")
    shown = (await console.get(f"/api/calls/{calls[0]['id']}")).json
    assert shown["payload"] == {"scope": "a", "key": "b"}
    assert shown["result"] == [1]
    assert shown["payload_truncated"] is False


async def test_a_payload_that_is_too_large_is_left_out_of_the_record(start):
    console = await start(ALWAYS)
    answer = await console.call("state::set", {"scope": "a", "key": "b", "value": "x" * MAX_PAYLOAD})
    assert len(answer["result"]["new_value"]) == MAX_PAYLOAD
    (record,) = (await console.get("/api/calls")).json["calls"]
    shown = (await console.get(f"/api/calls/{record['id']}")).json
    assert (shown["payload"], shown["payload_truncated"]) == (None, True)
    assert (shown["result"], shown["result_truncated"]) == (None, True)


async def test_a_realm_records_calls_of_the_console_but_never_what_is_in_them(start):
    console = await start()
    await console.call("state::set", {"scope": "a", "key": "b", "value": "secret"})
    (record,) = (await console.get("/api/calls")).json["calls"]
    shown = await console.get(f"/api/calls/{record['id']}")
    assert b"secret" not in shown.body
    assert not {"payload", "result"} & set(shown.json)
    assert console.running.engine.bus.calls.tap is None


async def test_what_the_console_asks_to_show_it_is_not_recorded(start):
    console = await start(ALWAYS)
    await console.worker("greeter", hello=1)
    assert (await console.call("engine::functions::list"))["trace_id"] is None
    assert (await console.get("/api/calls")).json["calls"] == []


async def test_an_unknown_record_is_not_found(start):
    answer = await (await start()).get("/api/calls/77")
    assert (answer.status, answer.error) == (404, "NO_RECORD")


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=²", "limit=1%0A", f"limit=1{'0' * 5000}"),
        *("limit=00100", "&".join("a=1" for _ in "x" * 30)),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(start, query):
    answer = await (await start()).get(f"/api/calls?{query}")
    assert answer.status == 400


# The process


async def test_a_port_that_is_taken_is_said_with_the_flag_that_chooses_another(run_engine):
    said = r"console: cannot listen on 127.0.0.1 port \d+: .*; choose another with --console-port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match=said):
        await run_engine("--console-port", str(taken.getsockname()[1]))


def test_an_engine_without_a_console_does_not_load_it():
    program = "import agentos_engine.__main__, sys; print('agentos_engine.console' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "port"),
    [([], {}, None), (["--console-port=3113"], {}, 3113), ([], {"AGENTOS_CONSOLE_PORT": "3113"}, 3113)],
)
def test_the_console_is_off_unless_it_has_a_port(arguments, environment, port):
    assert read_settings(arguments, environment).console_port == port
