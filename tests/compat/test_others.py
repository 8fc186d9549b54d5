"""Telemetry, what lasts, speed, and the sequences of iii's console and command line."""

import asyncio
import json
import statistics
import time

import pytest

from tests.compat.engine import CallError, wait_for
from tests.compat.sdks import PREFIXES, SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"
TELEMETRY = True


@check(7, sdks=SDKS)
async def test_workers_with_telemetry_are_listed_once_and_their_spans_arrive(mesh, agents):
    raw = await mesh.connect()
    for sdk, agent in agents.items():
        await agent.call(f"{PREFIXES[sdk]}::echo", {"traced": 1})

    async def spans() -> bool:
        found = (await raw.call("engine::traces::list", {"limit": 1000}))["spans"]
        return {PREFIXES[sdk] for sdk in SDKS} <= {each["service_name"] for each in found}

    await wait_for(spans, "spans of every SDK are stored")
    names = [each["name"] for each in (await raw.call("engine::workers::list", {}))["workers"]]
    assert [names.count(PREFIXES[sdk]) for sdk in SDKS] == [1] * len(SDKS)


@check(36)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_handler_runs_in_the_trace_of_its_call(mesh, agents, unique, sdk):
    function_id = await agents[sdk].function(unique(f"{PREFIXES[sdk]}::trace"), "trace")
    raw = await mesh.connect()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await raw.answer(function_id, {}, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert answer["result"] == {"trace_id": trace}
    assert answer["traceparent"].split("-")[1] == trace


@check(78)
@pytest.mark.parametrize("sdk", SDKS)
async def test_logs_by_call_fire_their_triggers_and_are_kept(agents, unique, sdk):
    agent, text = agents[sdk], unique("something broke ")
    heard = await agent.function(unique(f"{agent.prefix}::errors"))
    binding = await agent.bind("log", heard, {"level": "error"})
    await agent.call("engine::log::info", {"message": f"fine: {text}"})
    await agent.call("engine::log::error", {"message": text, "data": {"order": 7}, "service_name": agent.prefix})

    async def told() -> list | None:
        return [each for each in await agent.seen(heard) if text in each["body"]] or None

    (event,) = await wait_for(told, "the trigger fires")
    assert (event["severity_text"].lower(), event["severity_number"], event["body"]) == ("error", 17, text)
    assert event["service_name"] == agent.prefix
    listed = (await agent.call("engine::logs::list", {"limit": 1000}))["logs"]
    ours = {each["body"]: each for each in listed if text in each["body"]}
    assert set(ours) == {text, f"fine: {text}"}
    assert ours[text]["severity_number"] == 17
    await agent.unbind(binding)


@check(78)
@pytest.mark.parametrize("sdk", SDKS)
async def test_logs_of_an_sdks_logger_arrive_by_its_telemetry_connection(agents, unique, sdk):
    agent, text = agents[sdk], unique("the logger of an SDK ")
    heard = await agent.function(unique(f"{agent.prefix}::warnings"))
    binding = await agent.bind("log", heard, {"level": "warn"})
    await agent.do("log", level="warn", message=text, data={"n": 1})

    async def told() -> bool:
        return any(text in each["body"] for each in await agent.seen(heard))

    await wait_for(told, "the trigger fires")
    await agent.unbind(binding)


@check(79)
async def test_the_console_gets_what_it_shows(mesh):
    console = await mesh.connect()
    await console.name("console", runtime="rust", version="0.11.6")
    health = await console.call("engine::health::check", {})
    assert {"status", "components", "timestamp", "version"} <= set(health)
    assert {"otel", "metrics", "logs", "spans"} <= set(health["components"])
    assert all("status" in each for each in health["components"].values())
    await console.call("py11::echo", {})
    metrics = await console.call("engine::metrics::list", {})
    told = metrics["engine_metrics"]
    assert {"total", "success", "error", "deferred", "by_function"} <= set(told["invocations"])
    assert told["invocations"]["total"] >= 1
    assert told["invocations"]["by_function"]["py11::echo"] >= 1
    assert {"spawns", "deaths", "active"} <= set(told["workers"])
    wanted = {
        "avg_duration_ms",
        "p50_duration_ms",
        "p95_duration_ms",
        "p99_duration_ms",
        "min_duration_ms",
        "max_duration_ms",
    }
    assert wanted <= set(told["performance"])
    assert "sdk_metrics" in metrics
    assert metrics["timestamp"]
    traces = await console.call("engine::traces::list", {"offset": 0, "limit": 10})
    assert {"spans", "total", "offset", "limit"} <= set(traces)
    for function_id, key in (
        ("engine::functions::list", "functions"),
        ("engine::workers::list", "workers"),
        ("engine::triggers::list", "triggers"),
        ("engine::registered-triggers::list", "registered_triggers"),
        ("engine::logs::list", "logs"),
        ("stream::list_all", "stream"),
        ("state::list_groups", "groups"),
    ):
        assert isinstance((await console.call(function_id, {}))[key], list), function_id
    for function_id in ("engine::alerts::list", "engine::rollups::list", "engine::sampling::rules"):
        assert isinstance(await console.call(function_id, {}), dict), function_id
    for function_id in ("engine::queue::list_topics", "engine::queue::dlq_topics"):
        assert isinstance(await console.call(function_id, {}), list), function_id
    await console.close()


@check(79)
async def test_the_console_serves_its_pages_by_functions_of_its_own(mesh):
    console = await mesh.connect(role="host", subject="console")
    await console.name("console", runtime="rust", version="0.11.6")
    await console.register("engine::console::status", lambda data: {"body": {"ok": True}})
    await console.bind("http", "engine::console::status", {"api_path": "_console/status", "http_method": "GET"})
    assert (await mesh.engine.http("GET", "/_console/status")).json() == {"ok": True}
    await console.close()


@check(79)
async def test_the_console_gets_spans_and_trees(mesh):
    console = await mesh.connect()
    otel = await mesh.connect(query="/otel")
    trace = "0af7651916cd43dd8448eb211c80319c"
    now = time.time_ns()

    def span(span_id: str, name: str, parent: str = "") -> dict:
        times = {"startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 1_000_000)}
        return {"traceId": trace, "spanId": span_id, "parentSpanId": parent, "name": name, "kind": 2, **times}

    spans = [span("b7ad6b7169203331", "outer"), span("b7ad6b7169203332", "inner", "b7ad6b7169203331")]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "compat-spans"}}]}
    payload = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "compat"}, "spans": spans}]}]}
    await otel.socket.send(b"OTLP" + json.dumps(payload).encode())

    async def stored() -> list | None:
        found = (await console.call("engine::traces::list", {"trace_id": trace}))["spans"]
        return found if len(found) == 2 else None

    kept = {each["name"]: each for each in await wait_for(stored, "the spans are stored")}
    assert kept["inner"]["parent_span_id"] == "b7ad6b7169203331"
    assert kept["outer"]["service_name"] == "compat-spans"
    tree = json.dumps(await console.call("engine::traces::tree", {"trace_id": trace}))
    assert "outer" in tree
    assert "inner" in tree


@check(80)
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_what_was_acknowledged_is_there_after_a_restart(bench, unique, sdk, end):
    agent = await bench.start(sdk)
    await bench.answering(agent.prefix)
    where, function_id = {"scope": unique("scope"), "key": "k"}, unique("late::job")
    await agent.call("state::set", {**where, "value": {"kept": True}})
    await agent.call(function_id, {"n": 1}, queue="kept")
    await (bench.engine.stop() if end == "stop" else bench.engine.kill())
    await bench.engine.start()
    await bench.answering(agent.prefix)
    assert await agent.call("state::get", where) == {"kept": True}
    await agent.function(function_id)
    assert (await agent.saw(function_id))[0] == {"n": 1}


async def seconds(port: int, path: str, count: int) -> list[float]:
    """Ask so often over one connection; returns how long each answer took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken = []
    for _ in range(count):
        before = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: compat\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
        taken.append(time.perf_counter() - before)
    writer.close()
    return taken


@check(81)
@pytest.mark.parametrize("sdk", SDKS)
async def test_32_requests_at_a_time_show_no_plateau_at_40_ms(mesh, sdk):
    port, path = mesh.engine.ports["http_port"], f"/{PREFIXES[sdk]}/keyless"
    alone = await seconds(port, path, 40)
    assert statistics.median(alone) < 0.03  # a delayed acknowledgement would add 40 ms to each
    together = await asyncio.gather(*(seconds(port, path, 10) for _ in range(32)))
    taken = [each for one in together for each in one]
    assert sum(0.039 <= each <= 0.046 for each in taken) < len(taken) / 2


async def triggered(mesh, function_id: str, payload) -> dict:
    """Do what ``iii trigger`` does: connect, say who this is, call, and go."""
    client = await mesh.connect()
    await client.name("iii-cli", runtime="rust", version="0.11.6", os="linux x86_64 (unix)", pid=1)
    answer = await client.answer(function_id, payload)
    await client.close()
    return answer


@check(82)
async def test_the_sequence_of_iii_trigger_lists_and_calls(mesh):
    listed = (await triggered(mesh, "engine::workers::list", {}))["result"]["workers"]
    assert {PREFIXES[sdk] for sdk in SDKS} <= {each["name"] for each in listed}
    assert all(isinstance(each["functions"], list) for each in listed)
    functions = (await triggered(mesh, "engine::functions::list", {}))["result"]["functions"]
    assert {f"{PREFIXES[sdk]}::echo" for sdk in SDKS} <= {each["function_id"] for each in functions}
    types = (await triggered(mesh, "engine::trigger-types::list", {}))["result"]["trigger_types"]
    assert "http" in {each["id"] for each in types}
    assert (await triggered(mesh, "py11::echo", [1, 2]))["result"] == [1, 2]
    assert (await triggered(mesh, "no::such", {}))["error"]["code"] == "function_not_found"


@check(82)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_worker_started_from_a_folder_is_found_as_iii_worker_add_looks_for_it(mesh, unique, sdk):
    """``iii worker add ./dir`` starts the folder's command with the engine's URL and polls until the worker is listed."""
    name = unique("added")
    environment = {"III_URL": mesh.engine.url(f"default/{name}"), "III_ENGINE_URL": mesh.engine.url(f"default/{name}")}
    agent = await mesh.start(sdk, name, environment=environment)

    async def found() -> dict | None:
        listed = (await triggered(mesh, "engine::workers::list", {}))["result"]["workers"]
        return next((each for each in listed if each["name"] == name and each["functions"]), None)

    worker = await wait_for(found, "the worker is listed with its functions")
    assert worker["pid"] == agent.process.pid
    assert (await triggered(mesh, f"{name}::echo", "hello"))["result"] == "hello"
    await agent.end()

    async def gone() -> bool:
        listed = (await triggered(mesh, "engine::workers::list", {}))["result"]["workers"]
        return name not in {each["name"] for each in listed}

    await wait_for(gone, "the worker is gone from the list")
    with pytest.raises(CallError):
        await (await mesh.connect()).call(f"{name}::echo", 1)


async def test_the_metrics_of_the_engine_count_what_the_sdks_do(mesh):
    text = (await mesh.engine.http("GET", "/metrics", port="admin_port")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    role = "host" if mesh.engine.key else "anonymous"
    assert int(values[f'agentos_engine_connections{{role="{role}"}}']) >= len(SDKS)
    assert int(values["agentos_engine_functions"]) >= 7 * len(SDKS)
    assert int(values["agentos_engine_calls_total"]) > 0
