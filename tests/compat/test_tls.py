"""Unmodified SDKs over TLS: all that they open below ``wss://`` works as it does without."""

import asyncio
import base64

import pytest

from tests.compat.engine import wait_for
from tests.compat.sdks import SDKS

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"
IDENTITIES = ("tokens",)
TELEMETRY = True
TLS = True

PAIRS = [(sdk, SDKS[(position + 1) % len(SDKS)]) for position, sdk in enumerate(SDKS)]


@pytest.mark.parametrize(("caller", "callee"), PAIRS)
async def test_calls_arrive_large_ones_too(agents, caller, callee):
    sent = {"text": "x" * 400_000, "n": 1}
    echoed = await agents[caller].call(f"{agents[callee].prefix}::echo", sent)
    assert {key: echoed[key] for key in sent} == sent


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
async def test_data_channels_are_opened_over_tls(agents, unique, writer, reader):
    a, b = agents[writer], agents[reader]
    channel = await a.do("channel")
    drain = await b.function(unique(f"{b.prefix}::drain"), "drain", summary=True)
    call = asyncio.create_task(a.call(drain, {"reader": channel["reader"]}))
    await a.do("write", channel=channel["channel"], items=[{"bytes": base64.b64encode(bytes(1_000_000)).decode()}])
    assert (await call)["size"] == 1_000_000


@pytest.mark.parametrize("sdk", SDKS)
async def test_telemetry_arrives_over_tls(agents, unique, sdk):
    agent, text = agents[sdk], unique("told over TLS ")
    await agent.do("log", level="warn", message=text, data={})

    async def listed() -> bool:
        logs = (await agent.call("engine::logs::list", {"limit": 1000}))["logs"]
        return any(text in each["body"] for each in logs)

    await wait_for(listed, "the log line is listed")


@pytest.mark.parametrize("sdk", SDKS)
async def test_routes_are_served_over_tls(mesh, agents, unique, sdk):
    agent, name = agents[sdk], unique("secure")
    function_id = await agent.function(f"{agent.prefix}::{name}", "record", result={"body": {"ok": True}})
    await agent.bind("http", function_id, {"api_path": f"/{name}", "http_method": "POST"})
    answer = await mesh.engine.http("POST", f"/{name}", b"{}", {"Content-Type": "application/json"})
    assert (answer.status, answer.json()) == (200, {"ok": True})
