"""HTTP bodies as streams, and functions before every route."""

import asyncio
import base64
import hashlib
import json

import pytest

from tests.compat.sdks import SDKS, with_config
from tests.compat.test_http import route

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "new-names.yaml"
BOUNDARY = "frontier"
BODIES = {
    "application/x-www-form-urlencoded": b"name=J%C3%BCrgen&tag=1&tag=2",
    f"multipart/form-data; boundary={BOUNDARY}": (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'.encode()
        + bytes(range(256)) * 400
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    ),
    "application/json": json.dumps({"rows": list(range(2000))}).encode(),
}


@check(44)
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("kind", list(BODIES), ids=["form", "multipart", "json"])
async def test_the_bytes_of_a_body_are_read_from_its_channel(mesh, agents, unique, sdk, kind):
    name, _ = await route(agents, unique, sdk, "request_body", "POST")
    answer = await mesh.engine.http("POST", f"/{name}", BODIES[kind], {"Content-Type": kind})
    assert answer.status == 200, answer.body
    assert base64.b64decode(answer.json()["bytes"]) == BODIES[kind]
    assert answer.json()["parsed"] == (json.loads(BODIES[kind]) if kind == "application/json" else None)


async def streamed(port: int, path: str) -> tuple[str, list[bytes]]:
    """Ask for a path; returns the head, and the pieces of the body as they came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: compat\r\nConnection: close\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert "transfer-encoding: chunked" in head.lower()
    pieces = []
    while size := int(await reader.readline(), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readline()
    writer.close()
    return head, pieces


@check(45)
@pytest.mark.parametrize("sdk", SDKS)
async def test_server_sent_events_arrive_in_order_with_the_status_and_headers_set(mesh, agents, unique, sdk):
    chunks = [f"data: {number}\n\n" for number in range(50)]
    headers = {"Content-Type": "text/event-stream", "X-Feed": "prices"}
    name, _ = await route(agents, unique, sdk, "streamed", status=203, headers=headers, chunks=chunks)
    head, pieces = await asyncio.wait_for(streamed(mesh.engine.ports["http_port"], f"/{name}"), 20)
    assert head.startswith("HTTP/1.1 203")
    assert "content-type: text/event-stream" in head.lower()
    assert "x-feed: prices" in head.lower()
    assert b"".join(pieces).decode() == "".join(chunks)


@check(45)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_large_document_arrives_whole(mesh, agents, unique, sdk):
    chunks = ["%PDF-1.7\n", *(f"{number:06}" * 20_000 for number in range(8)), "%%EOF"]
    name, _ = await route(agents, unique, sdk, "streamed", headers={"Content-Type": "application/pdf"}, chunks=chunks)
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/pdf")
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256("".join(chunks).encode()).digest()


@check(46)
@pytest.mark.parametrize("sdk", SDKS)
async def test_an_upload_waits_for_its_reader_and_the_engine_does_not_grow(mesh, unique, sdk):
    size, piece = 96 << 20, b"x" * (64 << 10)
    agent = await mesh.start(sdk, unique("upload"))
    await mesh.answering(agent.prefix)
    name, function_id = await route({sdk: agent}, unique, sdk, "held", "POST")
    before = mesh.engine.memory
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.engine.ports["http_port"])
    head = f"POST /{name} HTTP/1.1\r\nHost: compat\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    writer.write(head.encode())
    sent = 0
    while sent < size:
        writer.write(piece)
        try:
            await asyncio.wait_for(writer.drain(), 1)  # nothing moves for a second: the upload has to wait
        except TimeoutError:
            break
        sent += len(piece)
    assert (await agent.saw(function_id))[0]["first"] > 0
    assert sent < size // 2
    assert mesh.engine.memory - before < 24 << 20
    await agent.do("release")
    sent += len(piece)  # the piece that had to wait
    while sent < size:
        writer.write(piece)
        await writer.drain()
        sent += len(piece)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = int(answer.lower().split(b"content-length:")[1].split()[0])
    assert json.loads(await reader.readexactly(length)) == {"size": size}
    assert mesh.engine.memory - before < 24 << 20
    writer.close()
    await agent.end()


@check(49, sdks=SDKS)
@with_config("middleware.yaml")
async def test_functions_before_every_route_run_by_priority_and_before_those_of_the_route(bench, unique):
    order: list[str] = []
    raw = await bench.connect()
    for name in ("global::second", "global::first", "raw::own"):
        await raw.register(name, lambda data, name=name: order.append(name))
    agents = {sdk: await bench.start(sdk) for sdk in SDKS}
    await bench.answering(*(agent.prefix for agent in agents.values()))
    config = {"middleware_function_ids": ["raw::own"]}
    made = {sdk: await route(agents, unique, sdk, result={"body": "done"}, config=config) for sdk in SDKS}
    for name, _ in made.values():
        order.clear()
        assert (await bench.engine.http("GET", f"/{name}")).json() == "done"
        assert order == ["global::first", "global::second", "raw::own"]
    refused = {"action": "respond", "response": {"status_code": 418, "body": "short"}}
    await raw.register("global::first", lambda data: refused)
    for sdk, (name, function_id) in made.items():
        answer = await bench.engine.http("GET", f"/{name}")
        assert (answer.status, answer.json()) == (418, "short")
        assert len(await agents[sdk].seen(function_id)) == 1
