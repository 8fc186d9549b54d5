"""The engine as its configuration makes it: modules, listeners with rules, and changes while it runs."""

import asyncio
import json
import socket

import pytest
import websockets
from agentos_engine.app import effective
from agentos_engine.config import SettingsError, read_settings
from agentos_engine.config_file import default_config, parse

from tests.waiting import until


def config_text(*entries, **more):
    return json.dumps({"workers": [{"name": name, "config": config} for name, config in entries], **more})


MANAGER = ("iii-worker-manager", {"host": "127.0.0.1", "port": 0})


@pytest.fixture
async def run_config(run_engine, tmp_path):
    """Starts an engine on a config file with these entries."""

    async def run(*entries, **more):
        path = tmp_path / "config.yaml"
        path.write_text(config_text(*entries, **more))
        return await run_engine("--config", str(path))

    return run


def test_flags_win_over_the_file_and_without_one_only_this_machine_can_connect():
    settings = read_settings(["--port", "7", "--stream-port", "0"], {})
    ours = effective(None, settings)
    assert {
        key: (entry.options.host, entry.options.port)
        for key, entry in ours.entries.items()
        if hasattr(entry.options, "port")
    } == {
        "worker-manager": ("127.0.0.1", 7),
        "http": ("127.0.0.1", 3111),
        "stream": ("127.0.0.1", 0),
    }
    text = config_text(("iii-worker-manager", {"port": 1}), ("iii-worker-manager#b", {"port": 2, "host": "::1"}))
    given = effective(parse(text, {}), read_settings(["--port", "7"], {}))
    assert [(each.options.host, each.options.port) for each in given.of_kind("worker-manager")] == [
        ("0.0.0.0", 7),
        ("::1", 2),
    ]
    assert default_config().entries["worker-manager"].options.port == 49134


async def test_only_what_is_listed_runs(run_config):
    running = await run_config(MANAGER)
    assert (running.ports.http, running.ports.stream) == (0, 0)
    client = await running.connect()
    assert (await client.ask("state::get", {"scope": "s", "key": "k"}))["error"]["code"] == "function_not_found"
    enqueue = {"type": "enqueue", "queue": "default"}
    await client.send(type="invokefunction", invocation_id="q", function_id="a::f", action=enqueue)
    assert (await client.receive("invocationresult"))["error"]["code"] == "enqueue_error"
    assert (await client.ask("engine::health::check", {}))["result"]["status"]


async def test_a_change_starts_stops_and_restarts_what_differs_and_leaves_the_rest_alone(run_config):
    running = await run_config(MANAGER, ("iii-state", {}), ("iii-http", {"host": "127.0.0.1"}))
    worker = await running.connect()
    await worker.send(type="registerfunction", id="a::f")
    config = {"api_path": "f"}
    await worker.send(type="registertrigger", id="t", trigger_type="http", function_id="a::f", config=config)
    await worker.ask("state::set", {"scope": "s", "key": "k", "value": 1})
    text = config_text(MANAGER, ("iii-pubsub", {}), ("iii-http", {"host": "127.0.0.1", "default_timeout": 5000}))
    await running.engine.reload(parse(text, {}))
    port = running.engine.modules["http"].port
    assert port != running.ports.http
    assert (await worker.ask("state::get", {"scope": "s", "key": "k"}))["error"]["code"] == "function_not_found"
    assert "error" not in await worker.ask("publish", {"topic": "t", "data": 1})

    async def answer():
        invoked = await worker.receive("invokefunction")
        await worker.send(
            type="invocationresult", invocation_id=invoked["invocation_id"], function_id="a::f", result={"body": 7}
        )

    answering = asyncio.create_task(answer())
    request = b"GET /f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert (await running.http(request, port)).endswith(b"7")
    await answering
    text = config_text(MANAGER, ("iii-state", {}))
    await running.engine.reload(parse(text, {}))
    assert (await worker.ask("state::get", {"scope": "s", "key": "k"}))["result"] == 1, "what is stored stays"


async def test_an_entry_that_cannot_start_after_a_change_is_left_out_and_the_others_run(run_config, caplog):
    running = await run_config(MANAGER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config_text(MANAGER, ("iii-worker-manager#b", {"host": "127.0.0.1", "port": port}), ("iii-state", {}))
        await running.engine.reload(parse(text, {}))
    assert f"port {port}" in caplog.text
    client = await running.connect()
    assert "error" not in await client.ask("state::list_groups", {})


async def test_a_config_that_a_module_refuses_is_one_error_at_the_start(run_config):
    with pytest.raises(SettingsError, match="observability"):
        await run_config(MANAGER, ("iii-observability", {"exporter": "carrier-pigeon"}))


RULES = {
    "auth_function_id": "auth::check",
    "expose_functions": ['match("public::*")'],
}


@pytest.fixture
async def guarded(run_config):
    """An engine with an open port and one with rules; a worker on the open one that serves all hooks."""
    rules = {
        **RULES,
        "on_function_registration_function_id": "auth::function",
        "on_trigger_registration_function_id": "auth::trigger",
    }
    running = await run_config(
        MANAGER, ("iii-worker-manager#rbac", {"host": "127.0.0.1", "port": 0, "rbac": rules}), ("iii-pubsub", {})
    )
    owner = await running.connect()
    for name in ("auth::check", "auth::function", "auth::trigger", "public::f", "private::f"):
        await owner.send(type="registerfunction", id=name)
    await owner.settled()
    asked = []

    async def serve():
        async for frame in owner.socket:
            message = json.loads(frame)
            if message["type"] != "invokefunction":
                continue
            asked.append(message)
            result = {"public::f": "public", "private::f": "private"}.get(message["function_id"], {})
            if message["function_id"] == "auth::check":
                result = {"context": {"who": message["data"]["query_params"].get("who", [""])[0]}}
                result |= {"function_registration_prefix": "tenant"}
                if "bad" in message["data"]["query_params"]:
                    await owner.send(
                        type="invocationresult",
                        invocation_id=message["invocation_id"],
                        function_id="auth::check",
                        error={"code": "invocation_failed", "message": "no such token"},
                    )
                    continue
            if "invocation_id" in message:
                await owner.send(
                    type="invocationresult",
                    invocation_id=message["invocation_id"],
                    function_id=message["function_id"],
                    result=result,
                )

    serving = asyncio.create_task(serve())
    running.asked = asked
    running.rbac_port = running.engine.modules["worker-manager#rbac"].port
    yield running
    serving.cancel()


async def connect(running, query="?who=ann"):
    socket = await websockets.connect(f"ws://127.0.0.1:{running.rbac_port}/{query}")
    running.sockets.append(socket)
    return type(await running.connect())(socket)


async def test_check_13_the_auth_function_sees_who_comes_and_a_refusal_is_told(guarded):
    client = await connect(guarded)
    await client.settled()
    (asked,) = [each["data"] for each in guarded.asked if each["function_id"] == "auth::check"]
    assert asked["query_params"] == {"who": ["ann"]}
    assert asked["ip_address"] == "127.0.0.1"
    assert asked["headers"]["host"].startswith("127.0.0.1")
    refused = await connect(guarded, "?bad=1")
    error = (await refused.receive("error"))["error"]
    assert error == {"code": "AUTH_ERROR", "message": "no such token"}
    await refused.socket.wait_closed()


async def test_check_73_calls_are_held_to_what_is_exposed_and_listings_too(guarded):
    client = await connect(guarded)
    assert (await client.ask("public::f"))["result"] == "public"
    refused = (await client.ask("private::f"))["error"]
    assert refused["code"] == "FORBIDDEN"
    assert "private::f" in refused["message"]
    assert "rbac.expose_functions" in refused["message"]
    assert "error" not in await client.ask("engine::log::info", {"message": "m"})
    assert "error" not in await client.ask("engine::channels::create", {})
    assert (await client.ask("engine::workers::list", {}))["error"]["code"] == "FORBIDDEN"


async def test_rules_hold_for_what_is_called_by_a_queue_too(run_config):
    """What looks at who calls finds nobody when a queue calls it, and a payload may name another function."""
    names = ("engine::queue::enqueue", "engine::register_trigger", "public::f")
    exposed = {"expose_functions": [f'match("{name}")' for name in names]}
    running = await run_config(
        MANAGER,
        ("iii-worker-manager#rbac", {"host": "127.0.0.1", "port": 0, "rbac": exposed}),
        ("iii-queue", {}),
    )
    running.rbac_port = running.engine.modules["worker-manager#rbac"].port
    client = await connect(running)
    job = {"queue": "default", "function_id": "private::f", "data": {}}
    assert (await client.ask("engine::queue::enqueue", job))["error"]["code"] == "FORBIDDEN"
    assert "error" not in await client.ask("engine::queue::enqueue", {**job, "function_id": "public::f"})
    for deputy in ("engine::queue::enqueue", "engine::register_trigger"):
        assert (await client.ask("engine::queue::enqueue", {**job, "function_id": deputy}))["error"][
            "code"
        ] == "FORBIDDEN"
        queued = {"invocation_id": "i", "function_id": deputy, "data": job}
        await client.send(type="invokefunction", action={"type": "enqueue", "queue": "default"}, **queued)
        assert (await client.receive("invocationresult"))["error"]["code"] == "FORBIDDEN"
        await client.send(type="registertrigger", id="t", trigger_type="cron", function_id=deputy, config={})
        assert (await client.receive("triggerregistrationresult"))["error"]["code"] == "FORBIDDEN"


async def test_check_74_a_prefix_is_for_others_and_never_for_the_worker_itself(guarded):
    client = await connect(guarded)
    await client.send(type="registerfunction", id="f")
    other = await guarded.connect()

    async def registered():
        listed = await other.ask("engine::functions::list", {"prefix": "tenant::"})
        return [each["function_id"] for each in listed["result"]["functions"]] == ["tenant::f"]

    await until(registered)
    await other.send(type="invokefunction", invocation_id="i", function_id="tenant::f", data=1)
    invoked = await client.receive("invokefunction")
    assert invoked["function_id"] == "f"
    await client.send(type="invocationresult", invocation_id="i", function_id="f", result=2)
    assert (await other.receive("invocationresult"))["result"] == 2
    await client.send(type="unregisterfunction", id="f")

    async def gone():
        listed = await other.ask("engine::functions::list", {"prefix": "tenant::"})
        return listed["result"]["functions"] == []

    await until(gone)


@pytest.mark.parametrize(
    ("function_id", "config", "refused"),
    [
        ("private::f", {"topic": "t"}, False),  # becomes tenant::private::f, which nobody has
        ("mine", {"topic": "t", "condition_function_id": "private::f"}, True),
        ("mine", {"topic": "t", "condition_function_id": "public::f"}, False),
        ("mine", {"topic": "t", "condition_function_id": "nobody::has::this"}, True),
        ("mine", {"topic": "t", "middleware_function_ids": ["public::f", "private::f"]}, True),
    ],
)
async def test_a_trigger_cannot_call_what_its_maker_may_not(guarded, function_id, config, refused):
    client = await connect(guarded)
    await client.send(type="registertrigger", id="t", trigger_type="subscribe", function_id=function_id, config=config)
    await client.send(type="registerfunction", id="after")
    other = await guarded.connect()

    async def settled():
        listed = await other.ask("engine::functions::list", {"prefix": "tenant::after"})
        return listed["result"]["functions"]

    await until(settled)
    bound = (await other.ask("engine::registered-triggers::list", {}))["result"]["registered_triggers"]
    assert [each["function_id"] for each in bound] == ([] if refused else [f"tenant::{function_id}"])
    if refused:
        assert (await client.receive("triggerregistrationresult"))["error"]["code"] == "FORBIDDEN"


async def test_state_may_be_that_of_another_engine(run_engine, run_config):
    there = await run_engine()
    url = f"ws://127.0.0.1:{there.ports.workers}"
    here = await run_config(MANAGER, ("iii-state", {"adapter": {"name": "bridge", "config": {"bridge_url": url}}}))
    near, far = await here.connect(), await there.connect()
    item = {"scope": "s", "key": "k"}
    assert (await near.ask("state::set", {**item, "value": 5}))["result"] == {"old_value": None, "new_value": 5}
    assert (await far.ask("state::get", item))["result"] == 5


async def test_a_call_right_after_its_registration_finds_the_function_in_spite_of_hooks(guarded):
    client = await connect(guarded)
    await client.send(type="registerfunction", id="f", metadata={"timeout_ms": int("9" * 400)})
    await client.send(type="registerfunction", id="g")
    await client.send(type="invokefunction", invocation_id="i", function_id="tenant::g", data=1)
    answer = asyncio.create_task(client.receive("invocationresult"))
    assert (await answer)["error"]["code"] == "FORBIDDEN", "its own function is not exposed to itself"
    listed = await (await guarded.connect()).ask("engine::functions::list", {"prefix": "tenant::"})
    assert [each["function_id"] for each in listed["result"]["functions"]] == ["tenant::f", "tenant::g"]


async def test_what_failed_to_start_is_tried_again_with_the_next_change(run_config):
    running = await run_config(MANAGER)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    entries = (MANAGER, ("iii-worker-manager#b", {"host": "127.0.0.1", "port": port}))
    await running.engine.reload(parse(config_text(*entries), {}))
    taken.close()
    await running.engine.reload(parse(config_text(*entries, ("iii-pubsub", {})), {}))
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as client:
        assert "workerregistered" in await client.recv()


@pytest.mark.parametrize("method", ["file_based", "in_memory", None])
async def test_with_a_data_folder_state_and_jobs_survive_the_engine_unless_memory_is_asked_for(
    run_engine, tmp_path, method
):
    adapter = {} if method is None else {"adapter": {"name": "kv", "config": {"store_method": method}}}
    path = tmp_path / "config.yaml"
    path.write_text(config_text(MANAGER, ("iii-state", adapter), ("iii-queue", {})))
    flags = ("--config", str(path), "--data-dir", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    first = await run_engine(*flags)
    client = await first.connect()
    await client.ask("state::set", {"scope": "s", "key": "k", "value": {"n": 1}})
    action = {"type": "enqueue", "queue": "default"}
    await client.send(type="invokefunction", invocation_id="q", function_id="a::later", data=7, action=action)
    assert "result" in await client.receive("invocationresult")
    await first.engine.stop()
    second = await run_engine(*flags)
    worker = await second.connect()
    await worker.send(type="registerfunction", id="a::later")
    kept = (await worker.ask("state::get", {"scope": "s", "key": "k"})).get("result")
    assert kept == (None if method == "in_memory" else {"n": 1})


async def test_the_engine_says_when_what_shall_last_is_kept_in_memory(run_config, caplog):
    adapter = {"name": "kv", "config": {"store_method": "file_based"}}
    await run_config(MANAGER, ("iii-state", {"adapter": adapter}))
    assert "--data-dir" in caplog.text
