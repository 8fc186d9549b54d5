"""Functions that live behind HTTP."""

import asyncio
import base64
import hashlib
import hmac
import json
import time

import pytest
import pytest_asyncio

from tests.compat.engine import CallError
from tests.compat.sdks import SDKS, with_config

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "calling-out.yaml"
IDENTITIES = ("tokens",)
SECRET = "a secret of the tests"
ENVIRONMENT = {"HOOK_SECRET": SECRET, "HOOK_TOKEN": "a-token", "HOOK_KEY": "a-key"}


class Remote:
    """A web server that keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (each.partition(":") for each in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((line, headers, body))
        path = line.split()[1]
        status, answer = {
            "/echo": ("200 OK", body),
            "/nothing": ("204 No Content", b""),
            "/coded": ("422 Unprocessable", b'{"error": {"code": "W105", "message": "a bad request"}}'),
            "/broken": ("503 Broken", b"not JSON"),
        }[path]
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + answer)
        await writer.drain()
        writer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def remote():
    made = Remote()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()


async def far(agent, unique, url: str, **options) -> str:
    """Register a function that is served by this URL."""
    function_id = unique(f"{agent.prefix}::far")
    await agent.do("function", id=function_id, url=url, **options)
    await agent.settled()
    return function_id


@check(77)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_signed_request_can_be_verified(agents, remote, unique, sdk):
    auth = {"type": "hmac", "secret_key": "HOOK_SECRET"}
    function_id = await far(agents[sdk], unique, f"{remote.url}/echo", auth=auth)
    answer = await agents["py-0.25.0"].call(function_id, {"n": [1, "\u00e4"]})
    assert answer["n"] == [1, "\u00e4"]
    ((line, headers, body),) = remote.requests
    assert line.startswith("POST /echo ")
    assert json.loads(body)["n"] == [1, "\u00e4"]
    assert headers["x-iii-function-path"] == function_id
    assert len(headers["x-iii-invocation-id"]) == 36
    timestamp = headers["x-iii-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = f"{timestamp}:{base64.b64encode(body).decode()}".encode()
    assert headers["x-iii-signature"] == "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


@check(77)
@pytest.mark.parametrize("sdk", SDKS)
async def test_other_ways_to_authenticate_and_methods_are_used(agents, remote, unique, sdk):
    bearer, key = (
        {"type": "bearer", "token_key": "HOOK_TOKEN"},
        {"type": "api_key", "header": "X-Key", "value_key": "HOOK_KEY"},
    )
    options = {"method": "PUT", "headers": {"X-Custom": "kept"}}
    for auth in (bearer, key):
        function_id = await far(agents[sdk], unique, f"{remote.url}/echo", auth=auth, **options)
        await agents[sdk].call(function_id, [1])
    (first, one, body), (_, two, _) = remote.requests
    assert first.startswith("PUT /echo ")
    assert body == b"[1]"
    assert one["x-custom"] == "kept"
    assert one["authorization"] == "Bearer a-token"
    assert two["x-key"] == "a-key"


@check(77)
@pytest.mark.parametrize("sdk", SDKS)
async def test_answers_without_content_and_errors_reach_the_caller(agents, remote, unique, sdk):
    agent = agents[sdk]
    assert await agent.call(await far(agent, unique, f"{remote.url}/nothing"), {}) is None
    for path, code in (("/coded", "W105"), ("/broken", "http_error")):
        with pytest.raises(CallError) as failure:
            await agent.call(await far(agent, unique, remote.url + path), {})
        assert failure.value.code == code


@check(77, sdks=SDKS)
@with_config("calling-out-guarded.yaml", "open")
async def test_private_addresses_are_refused_when_they_are_blocked(bench, remote, unique):
    for sdk in SDKS:
        agent = await bench.start(sdk)
        await bench.answering(agent.prefix)
        for url in (
            remote.url,
            remote.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
            remote.url.replace("127.0.0.1", "localhost"),
        ):
            with pytest.raises(CallError) as failure:
                await agent.call(await far(agent, unique, f"{url}/echo"), {})
            assert failure.value.code in ("url_validation_failed", "function_not_found")
    assert remote.requests == []
