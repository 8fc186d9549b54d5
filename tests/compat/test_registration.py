"""What is registered, and what is told of it."""

import pytest

from tests.compat.engine import CallError, wait_for
from tests.compat.sdks import NEW, OLD, PREFIXES, SDKS, with_config

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"


@check(3, 15)
@pytest.mark.parametrize("sdk", SDKS)
async def test_functions_are_listed_with_description_schemas_and_metadata(agents, sdk):
    listed = (await agents[sdk].call("engine::functions::list", {}))["functions"]
    functions = {each["function_id"]: each for each in listed}
    assert len(functions) == len(listed)
    for other in (PREFIXES[each] for each in SDKS):
        entry = functions[f"{other}::echo"]
        assert entry["description"] == f"echo of {other}"
        assert entry["request_format"]["properties"]["text"] == {"type": "string"}
        assert entry["response_format"]["type"] == "object"
        assert entry["metadata"] == {"team": "compat"}
        assert (entry["namespace"], entry["worker_name"]) == ("default", other)
    filtered = await agents[sdk].call("engine::functions::list", {"prefix": "py25::", "search": "ECHO"})
    assert [each["function_id"] for each in filtered["functions"]] == ["py25::echo"]
    of_worker = await agents[sdk].call("engine::functions::list", {"worker": "node22"})
    assert {each["worker_name"] for each in of_worker["functions"]} == {"node22"}


@check(15)
@pytest.mark.parametrize("sdk", NEW)
async def test_a_function_is_described_in_the_new_shape(agents, sdk):
    for other in (PREFIXES[each] for each in SDKS):
        found = await agents[sdk].call("engine::functions::info", {"function_id": f"{other}::echo"})
        assert found["description"] == f"echo of {other}"
        assert found["request_schema"]["properties"]["text"] == {"type": "string"}
        assert found["response_schema"]["type"] == "object"
        assert found["metadata"] == {"team": "compat"}
    with pytest.raises(CallError, match="NOT_FOUND"):
        await agents[sdk].call("engine::functions::info", {"function_id": "no::such"})


@check(16)
@pytest.mark.parametrize("sdk", OLD)
async def test_an_old_sdk_gets_trigger_instances(agents, sdk):
    triggers = (await agents[sdk].call("engine::triggers::list", {}))["triggers"]
    for other in (PREFIXES[each] for each in SDKS):
        (own,) = [each for each in triggers if each.get("function_id") == f"{other}::keyless"]
        assert own["trigger_type"] == "http"
        assert own["id"]
        assert own["config"] == {"api_path": f"{other}/keyless", "http_method": "GET"}


@check(16)
@pytest.mark.parametrize("sdk", NEW)
async def test_a_new_sdk_gets_trigger_types_and_instances_by_another_name(agents, sdk):
    types = {each["id"]: each for each in (await agents[sdk].call("engine::triggers::list", {}))["triggers"]}
    assert types["http"]["description"]
    listed = (await agents[sdk].call("engine::registered-triggers::list", {}))["registered_triggers"]
    for other in (PREFIXES[each] for each in SDKS):
        (own,) = [each for each in listed if each["function_id"] == f"{other}::keyless"]
        assert (own["trigger_type"], own["worker_name"]) == ("http", other)
        assert own["config"] == {"api_path": f"{other}/keyless", "http_method": "GET"}
        assert isinstance(own["config_summary"], str)


@check(17)
@pytest.mark.parametrize("sdk", OLD)
async def test_an_old_sdk_gets_the_trigger_types(agents, sdk):
    types = (await agents[sdk].call("engine::trigger-types::list", {}))["trigger_types"]
    wanted = {"http", "cron", "state", "stream", "subscribe", "durable:subscriber", "log"}
    assert wanted <= {each["id"] for each in types}
    assert all(each["description"] for each in types)


@check(18)
@pytest.mark.parametrize("sdk", SDKS)
async def test_workers_are_listed_with_what_they_told_and_who_they_are(mesh, agents, sdk):
    listed = await agents[sdk].call("engine::workers::list", {})
    workers = {each["name"]: each for each in listed["workers"]}
    assert listed["timestamp"] > 1_700_000_000_000
    for each in SDKS:
        other = PREFIXES[each]
        worker = workers[other]
        assert worker["runtime"] == each.split("-")[0].replace("py", "python")
        assert worker["version"]
        assert worker["os"]
        assert worker["pid"] == agents[each].process.pid
        assert worker["function_count"] == len(worker["functions"]) >= 7
        assert worker["status"] == "available"
        assert worker["ip_address"] == "127.0.0.1"
        if mesh.engine.key is not None:
            subject = f"default/{other}"
            whom = {"realm": "compat", "subject": subject, "uid": f"uid-of-{subject}", "role": "host"}
            assert worker["identity"] == {**whom, "pod_uid": f"pod-{other}"}
        else:
            assert "identity" not in worker


@check(18)
@pytest.mark.parametrize("sdk", NEW)
async def test_a_worker_is_listed_under_the_name_that_its_environment_gives(mesh, unique, sdk):
    name = unique("named")
    agent = await mesh.start(sdk, unique("unnamed"), environment={"III_WORKER_NAME": name})
    assert (await mesh.worker(name))["pid"] == agent.process.pid


@check(19)
@pytest.mark.parametrize("sdk", SDKS)
async def test_internal_functions_are_hidden_unless_asked_for(agents, sdk):
    listed = (await agents[sdk].call("engine::functions::list", {}))["functions"]
    ids = {each["function_id"] for each in listed}
    shown = {each for each in ids if each.startswith("engine::") or each.endswith("::hidden")}
    assert {each for each in shown if not each.startswith("engine::queue::")} == set()
    everything = await agents[sdk].call("engine::functions::list", {"include_internal": True})
    hidden = {f"{PREFIXES[each]}::hidden" for each in SDKS}
    assert hidden | {"engine::functions::list"} <= {each["function_id"] for each in everything["functions"]}


@check(20)
async def test_a_function_that_is_registered_twice_has_one_entry_and_the_last_description(mesh, unique):
    raw = await mesh.connect()
    function_id = unique("raw::twice")
    await raw.register(function_id, lambda data: "first", description="first")
    await raw.register(function_id, lambda data: "last", description="last")
    (entry,) = (await raw.call("engine::functions::list", {"prefix": function_id}))["functions"]
    assert entry["description"] == "last"
    calls: list = []
    await raw.register(function_id, lambda data: calls.append(data), description="last")
    await raw.call(function_id, 1)
    assert calls == [1]


@check(20, 21)
@pytest.mark.parametrize("sdk", SDKS)
async def test_the_last_handler_serves_and_an_unregistered_function_is_gone(agents, unique, sdk):
    agent, function_id = agents[sdk], unique(f"{PREFIXES[sdk]}::twice")
    await agent.function(function_id, "echo")
    await agent.do("unfunction", id=function_id)
    await agent.function(function_id, "record", result="the last")
    listed = (await agent.call("engine::functions::list", {"prefix": function_id}))["functions"]
    assert len(listed) == 1
    assert await agents["py-0.25.0"].call(function_id, 5) == "the last"
    await agent.do("unfunction", id=function_id)
    await agent.settled()
    assert (await agent.call("engine::functions::list", {"prefix": function_id}))["functions"] == []
    for caller in agents.values():
        with pytest.raises(CallError, match=function_id) as failure:
            await caller.call(function_id, 5)
        assert failure.value.code == "function_not_found"


@check(22)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscriber_hears_of_functions_that_come_and_go(mesh, agents, unique, sdk):
    agent = agents[sdk]
    heard = await agent.function(unique(f"{agent.prefix}::functions"))
    binding = await agent.bind("engine::functions-available", heard, {})
    raw = await mesh.connect()
    name = unique("appearing::f")
    await raw.register(name)

    async def told(present: bool) -> bool:
        events = await agent.seen(heard)
        assert all(each["event"] == "functions_changed" for each in events)
        return bool(events) and (name in str(events[-1]["functions"])) is present

    await wait_for(lambda: told(True), "the new function is told", 5)
    await raw.close()
    await wait_for(lambda: told(False), "the going of the function is told", 5)
    await agent.unbind(binding)


@check(22)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_subscriber_hears_of_workers_that_come_and_go(mesh, agents, unique, sdk):
    agent = agents[sdk]
    heard = await agent.function(unique(f"{agent.prefix}::workers"))
    binding = await agent.bind("engine::workers-available", heard, {})
    raw = await mesh.connect()
    worker_id = (await raw.receive("workerregistered"))["worker_id"]

    async def told(event: str) -> bool:
        return {"event": event, "worker_id": worker_id} in await agent.seen(heard)

    await wait_for(lambda: told("worker_connected"), "the new worker is told", 5)
    await raw.close()
    await wait_for(lambda: told("worker_disconnected"), "the going of the worker is told", 5)
    await agent.unbind(binding)


@check(23, 24)
@pytest.mark.parametrize("sdk", SDKS)
async def test_triggers_are_taken_as_each_sdk_sends_them(mesh, agents, unique, sdk):
    agent, path = agents[sdk], unique("late")
    await agent.bind("http", f"{agent.prefix}::keyless", {"api_path": path, "http_method": "GET"})
    assert (await mesh.engine.http("GET", f"/{path}")).status == 200
    topicless = await agent.function(unique(f"{agent.prefix}::topicless"))
    await agent.bind("engine::workers-available", topicless)  # without any config
    raw = await mesh.connect()
    worker_id = (await raw.receive("workerregistered"))["worker_id"]

    async def told() -> bool:
        return {"event": "worker_connected", "worker_id": worker_id} in await agent.seen(topicless)

    await wait_for(told, "the trigger without config fires")


@with_config("first-wins.yaml", "open")
async def test_a_function_that_is_refused_leaves_its_worker_connected(bench):
    """Not what happens by default, but what iii 0.23 does, and what its SDKs are made for."""
    first = await bench.start("py-0.25.0", "shared")
    await bench.answering("shared")
    second = await bench.start("py-0.25.0", "shared", environment={"III_WORKER_NAME": "latecomer"})
    assert "FUNCTION_NAMESPACE_CONFLICT" in await second.logged("Function registration rejected")
    await second.function("shared::extra", result="served by the second")
    assert await first.call("shared::extra", {}) == "served by the second"
    await second.call("shared::record", {"mark": 1})
    assert len(await first.saw("shared::record")) == 1
    assert await second.seen("shared::record") == []
