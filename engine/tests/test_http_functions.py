"""Functions that are invoked over HTTP: what the server gets, what callers get, and what is refused."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from dataclasses import replace

import pytest
from agentos_engine.bus.errors import BusError
from agentos_engine.config_file import options
from agentos_engine.http_functions import HttpFunctions
from agentos_engine.protocol.http import Response
from agentos_engine.server.http import HttpServer

from tests.waiting import until

SECRET = "s3cr3t-value"
OPEN = options.HttpFunctions(block_private_ips=False, require_https=False)


class Upstream:
    """A server on loopback that answers as it was told and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list = []
        self.response = Response(200, [], b"{}")
        self.silent = False
        self.server = HttpServer(self._handle)
        self.url = ""

    def _handle(self, exchange) -> None:
        self.requests.append(replace(exchange.request))  # the server lets go of its body once answered
        if not self.silent:
            exchange.respond(self.response)


@pytest.fixture
async def upstream():
    upstream = Upstream()
    upstream.url = f"http://127.0.0.1:{await upstream.server.listen('127.0.0.1', 0)}"
    yield upstream
    await upstream.server.close()


@pytest.fixture
async def start(bus):
    """Starts the module on the bare bus."""
    started: list[HttpFunctions] = []

    async def start(security: options.HttpFunctions = OPEN, **environment) -> HttpFunctions:
        started.append(HttpFunctions(bus=bus, security=security, environment=environment))
        await started[-1].start()
        return started[-1]

    yield start
    for each in started:
        await each.stop()
    await bus.close()


def register(peer, url: str, function_id: str = "svc::f", **invocation) -> None:
    peer.send(type="registerfunction", id=function_id, invocation={"url": url, **invocation})


def refusal(peer) -> str:
    [message] = peer.take("error")
    assert message["error"]["code"] == "registration_refused"
    return message["error"]["message"]


async def failure(work) -> BusError:
    with pytest.raises(BusError) as caught:
        await work
    return caught.value


async def test_a_call_becomes_a_request_with_the_payload_as_its_body(bus, join, start, upstream):
    await start()
    upstream.response = Response(200, [], b' {"ok": [1, 2.50]}\n')
    register(join(), f"{upstream.url}/hooks/f?a=b", headers={"X-Custom": "yes"})
    assert await bus.call("svc::f", b'{"n": 1.0}') == b'{"ok": [1, 2.50]}'
    [request] = upstream.requests
    headers = dict(request.headers)
    assert (request.method, request.path, request.query) == ("POST", "/hooks/f", "a=b")
    assert request.body == b'{"n": 1.0}'
    assert headers["content-type"] == "application/json"
    assert headers["x-custom"] == "yes"
    assert headers["x-iii-function-path"] == "svc::f"
    assert headers["x-iii-timestamp"] == str(int(bus.clock.time()))
    assert headers["x-iii-invocation-id"]
    assert "x-iii-signature" not in headers
    assert "authorization" not in headers


async def test_a_worker_that_calls_it_gets_the_answer(bus, join, start, upstream):
    await start()
    upstream.response = Response(200, [], b"[7]")
    register(join(), upstream.url)
    caller = join()
    caller.send(type="invokefunction", invocation_id="1", function_id="svc::f", data={"n": 1})
    await until(lambda: caller.frames)
    assert caller.take("invocationresult")[0]["result"] == [7]
    assert json.loads(upstream.requests[0].body)["n"] == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "put"])
async def test_every_method_of_the_sdks_is_used(bus, join, start, upstream, method):
    await start()
    register(join(), upstream.url, method=method)
    await bus.call("svc::f", b"[1]")
    assert (upstream.requests[0].method, upstream.requests[0].body) == (method.upper(), b"[1]")


async def test_hmac_signs_timestamp_and_body_so_that_the_server_can_verify_them(bus, join, start, upstream):
    await start(HOOK_SECRET=SECRET)
    register(join(), upstream.url, auth={"type": "hmac", "secret_key": "HOOK_SECRET"})
    await bus.call("svc::f", '{"name":"é"}'.encode())
    [request] = upstream.requests
    headers = dict(request.headers)
    signed = headers["x-iii-timestamp"] + ":" + base64.b64encode(request.body).decode()
    expected = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
    assert headers["x-iii-signature"] == f"sha256={expected}"
    assert SECRET not in str(request.headers)


async def test_the_signature_is_the_known_one():
    from agentos_engine.http_functions import signature

    # printf '1700000000:e30=' | openssl dgst -sha256 -hmac key
    assert signature("key", "1700000000", b"{}") == (
        "sha256=a2b91470f85746f9927b6fd65e1c1cc3c4ac1e358be210264e7ecf3f55d63a99"
    )


async def test_a_bearer_token_and_an_api_key_are_sent_in_their_headers(bus, join, start, upstream):
    await start(TOKEN=SECRET)
    register(join(), upstream.url, "svc::bearer", auth={"type": "bearer", "token_key": "TOKEN"})
    register(join(), upstream.url, "svc::key", auth={"type": "api_key", "header": "X-Key", "value_key": "TOKEN"})
    await bus.call("svc::bearer")
    await bus.call("svc::key")
    first, second = (dict(each.headers) for each in upstream.requests)
    assert first["authorization"] == f"Bearer {SECRET}"
    assert second["x-key"] == SECRET
    assert "authorization" not in second


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"type": "hmac", "secret_key": "NOT_SET"}, "secret_not_found"),
        ({"type": "bearer", "token_key": "NOT_SET"}, "token_not_found"),
        ({"type": "api_key", "header": "x-key", "value_key": "NOT_SET"}, "api_key_not_found"),
        ({"type": "bearer", "token_key": "EMPTY"}, "token_not_found"),
        ({"type": "bearer", "token_key": "BROKEN"}, "token_not_found"),
    ],
)
async def test_a_secret_that_is_not_there_fails_the_call_with_its_own_code(bus, join, start, upstream, auth, code):
    await start(EMPTY="", BROKEN="line\nbreak")
    register(join(), upstream.url, auth=auth)
    error = await failure(bus.call("svc::f"))
    assert error.code == code
    assert "line" not in error.message
    assert upstream.requests == []


@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, b""), (202, b""), (200, b" \n")])
async def test_an_empty_answer_is_no_result(bus, join, start, upstream, status, body):
    await start()
    upstream.response = Response(status, [], body)
    register(join(), upstream.url)
    assert await bus.call("svc::f") is None


@pytest.mark.parametrize("body", [b"<html>", b"{", b"{} x", b"NaN", b'"\xff"', b"[" * 100_000])
async def test_an_answer_that_is_no_json_is_an_invalid_response(bus, join, start, upstream, body):
    await start()
    upstream.response = Response(200, [], body)
    register(join(), upstream.url)
    assert (await failure(bus.call("svc::f"))).code == "invalid_response"


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, b'{"error":{"code":"BAD_CARD","message":"no funds"}}', "BAD_CARD", "no funds"),
        (500, b'{"code":"W105","message":"broken","stacktrace":"at x"}', "W105", "broken"),
        (500, b'{"error":"text"}', "http_error", 'HTTP 500: {"error":"text"}'),
        (500, b'{"error":{"code":5,"message":"x"}}', "http_error", 'HTTP 500: {"error":{"code":5,"message":"x"}}'),
        (404, b"not here\r\nsorry", "http_error", "HTTP 404: not here??sorry"),
        (503, b"", "http_error", "HTTP 503"),
        (302, b"", "http_error", "HTTP 302"),
        (500, b"x" * 10_000, "http_error", "HTTP 500: " + "x" * 300),
    ],
)
async def test_a_failure_is_told_as_the_server_tells_it(bus, join, start, upstream, status, body, code, message):
    await start()
    upstream.response = Response(status, [("location", "http://127.0.0.1:9/")], body)
    register(join(), upstream.url)
    error = await failure(bus.call("svc::f"))
    assert (error.code, error.message) == (code, message)
    assert len(upstream.requests) == 1
    if b"stacktrace" in body:
        assert error.stacktrace == "at x"


@pytest.mark.parametrize(
    "body",
    [
        f"denied: Bearer {SECRET}".encode(),
        json.dumps({"code": "DENIED", "message": f"wrong {SECRET}", "stacktrace": SECRET}).encode(),
        json.dumps({"error": {"code": SECRET, "message": "x"}}).encode(),
    ],
)
async def test_a_secret_that_the_server_repeats_reaches_neither_error_nor_log(bus, join, start, upstream, caplog, body):
    caplog.set_level(logging.DEBUG)
    await start(TOKEN=SECRET)
    upstream.response = Response(401, [], body)
    register(join(), upstream.url, auth={"type": "bearer", "token_key": "TOKEN"})
    error = await failure(bus.call("svc::f"))
    assert SECRET not in error.code + error.message + (error.stacktrace or "")
    assert SECRET not in caplog.text


async def test_a_server_that_is_not_there_fails_the_request_without_showing_the_path(bus, join, start, upstream):
    await start()
    register(join(), f"{upstream.url}/secret-path")
    await upstream.server.close()
    error = await failure(bus.call("svc::f"))
    assert error.code == "http_request_failed"
    assert upstream.url in error.message
    assert "secret-path" not in error.message


async def test_a_server_that_breaks_off_fails_the_response(bus, join, start):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await start()
    register(join(), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (await failure(bus.call("svc::f"))).code == "http_response_failed"
    server.close()


async def test_the_time_allowed_is_that_of_the_definition(bus, join, start, upstream):
    await start()
    upstream.silent = True
    register(join(), upstream.url, timeout_ms=50)
    error = await failure(bus.call("svc::f"))
    assert (error.code, "within 0.05 s" in error.message) == ("http_request_failed", True)


@pytest.mark.parametrize(
    ("security", "url", "text"),
    [
        (options.HttpFunctions(), "http://a.example/", "require_https"),
        (options.HttpFunctions(), "https://127.0.0.1/", "block_private_ips"),
        (options.HttpFunctions(), "https://[::ffff:10.0.0.1]/", "block_private_ips"),
        (options.HttpFunctions(url_allowlist=("*.good.example",)), "https://bad.example/", "url_allowlist"),
        (OPEN, "ftp://a.example/", "https://"),
        (OPEN, "https://u:p@a.example/", "password"),
        (OPEN, "", "missing"),
    ],
)
async def test_a_url_that_the_rules_forbid_is_refused_when_it_is_registered(bus, join, start, security, url, text):
    await start(security)
    peer = join()
    register(peer, url)
    assert text in refusal(peer)
    assert (await failure(bus.call("svc::f"))).code == "function_not_found"


async def test_a_name_that_turns_out_to_be_private_fails_the_call(bus, join, start, upstream):
    await start(options.HttpFunctions(require_https=False))
    register(join(), upstream.url.replace("127.0.0.1", "localhost"))
    error = await failure(bus.call("svc::f"))
    assert (error.code, "block_private_ips" in error.message) == ("url_validation_failed", True)
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("invocation", "text"),
    [
        ({"method": "TRACE"}, "TRACE"),
        ({"method": 5}, "invocation"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": "5"}, "timeout_ms"),
        ({"headers": {"x": 5}}, "headers"),
        ({"headers": {"x": "a\r\nb: c"}}, "header x"),
        ({"headers": {"Host": "other"}}, "host"),
        ({"headers": {"X-III-Signature": "sha256=0"}}, "x-iii-signature"),
        ({"auth": {"type": "basic", "user": "x"}}, "basic"),
        ({"auth": {"type": "bearer"}}, "token_key"),
        ({"auth": {"type": "bearer", "token_key": "not a variable!"}}, "environment variable"),
        ({"auth": {"type": "bearer", "token_key": "AGENTOS_VERIFY_KEYS"}}, "AGENTOS_"),
        ({"auth": {"type": "bearer", "token_key": "OTEL_EXPORTER_OTLP_HEADERS"}}, "OTEL_"),
        ({"auth": {"type": "api_key", "header": "x y", "value_key": "A"}}, "auth.header"),
        ({"auth": {"type": "api_key", "header": "x-iii-timestamp", "value_key": "A"}}, "auth.header"),
    ],
)
async def test_a_definition_that_is_not_understood_is_refused_with_the_reason(join, start, invocation, text):
    await start()
    peer = join()
    register(peer, "http://127.0.0.1:9/", **invocation)
    message = refusal(peer)
    assert text in message
    assert "not a variable!" not in message


@pytest.mark.parametrize("invocation", [5, "https://a.example/", [], {}, {"url": 5}])
async def test_a_definition_of_another_form_is_refused(join, start, invocation):
    await start()
    peer = join()
    peer.send(type="registerfunction", id="svc::f", invocation=invocation)
    assert "invocation" in refusal(peer)


async def test_without_the_module_such_functions_are_refused_and_the_message_says_what_to_do(bus, join, start):
    peer = join()
    register(peer, "https://a.example/")
    assert "iii-http-functions" in refusal(peer)
    module = await start()
    register(peer, "https://a.example/")
    assert peer.take("error") == []
    await module.stop()
    await module.stop()
    assert (await failure(bus.call("svc::f"))).code == "http_functions_disabled"
    register(peer, "https://a.example/", "svc::g")
    assert "iii-http-functions" in refusal(peer)


async def test_a_caller_that_gives_up_ends_the_request(bus, join, start, upstream):
    await start()
    upstream.silent = True
    register(join(), upstream.url)
    call = asyncio.ensure_future(bus.call("svc::f"))
    await until(lambda: upstream.requests)
    call.cancel()
    await until(lambda: not upstream.server.in_progress)
