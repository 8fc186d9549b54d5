"""A listener with rules: who may connect, call and register. The functions that decide are a raw worker's."""

import json

import pytest
import pytest_asyncio

from tests.compat.agents import Agent, Bench
from tests.compat.engine import CallError, wait_for
from tests.compat.raw import RawWorker
from tests.compat.sdks import SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "guarded.yaml"
MEMBER = {
    "allowed_functions": ["private::allowed"],
    "forbidden_functions": ["public::forbidden", "engine::log::warn"],
    "allow_trigger_type_registration": True,
    "context": {"tenant": "blue"},
}
PREFIXED = {**MEMBER, "function_registration_prefix": "tenant"}


class Gate:
    """The worker that decides, and what it was asked."""

    def __init__(self, raw: RawWorker) -> None:
        self.raw = raw
        self.asked: dict[str, list] = {
            "auth": [],
            "on_function": [],
            "on_trigger": [],
            "on_trigger_type": [],
            "middleware": [],
        }

    async def open(self) -> None:
        for name in self.asked:
            await self.raw.register(f"gate::{name}", lambda data, name=name: self.decide(name, data))
        for function_id in ("public::open", "public::forbidden", "private::allowed", "private::closed"):
            await self.raw.register(function_id, lambda data: {"served": data})
        await self.raw.register("private::by-metadata", lambda data: "by metadata", metadata={"exposed": True})

    def decide(self, name: str, data: dict):
        self.asked[name].append(data)
        return getattr(self, name)(data)

    def auth(self, data: dict) -> dict:
        token = data["headers"].get("x-token") or data["query_params"].get("token", [""])[0]
        token = token or data["headers"].get("authorization", "").removeprefix("Bearer ")
        if token not in ("member", "prefixed"):
            raise CallError({"code": "denied", "message": "no such member"})
        return MEMBER if token == "member" else PREFIXED

    def on_function(self, data: dict):
        if "refused" in data["function_id"]:
            raise CallError({"code": "denied", "message": "not this one"})
        return {"function_id": data["function_id"].replace("old-name", "new-name")}

    def on_trigger(self, data: dict):
        if "refused" in str(data["config"]):
            raise CallError({"code": "denied", "message": "not this one"})
        return {"config": json.loads(json.dumps(data["config"]).replace("old", "new"))}

    def on_trigger_type(self, data: dict):
        if "refused" in data["trigger_type_id"]:
            raise CallError({"code": "denied", "message": "not this one"})
        return {"trigger_type_id": data["trigger_type_id"].replace("old", "new")}

    async def middleware(self, data: dict):
        result = await self.raw.call(data["function_id"], data["payload"])
        return {"through": result}


@pytest_asyncio.fixture(loop_scope="module")
async def gate(mesh):
    """The worker that decides; a new one for each test, so that it was asked in this one alone."""
    made = Gate(await mesh.connect())
    await made.open()
    yield made
    await made.raw.close()


async def guarded(bench: Bench, sdk: str, name: str, token: str = "member", **environment: str) -> Agent:
    """Start a worker on the listener with rules; it has no route of its own, for middleware does not apply there."""
    headers = {"AGENT_HEADERS": json.dumps({"x-token": token})}
    agent = await bench.start(sdk, name, port=bench.guarded_port, environment={**headers, **environment})
    await bench.worker(name)
    return agent


@check(13)
async def test_who_is_not_known_gets_an_error_frame_and_is_closed(mesh, gate):
    stranger = await mesh.connect(port=mesh.guarded_port, query="?token=wrong")
    frame = await stranger.receive("error")
    assert frame["error"]["code"] == "AUTH_ERROR"
    await stranger.closed()
    assert [each["type"] for each in stranger.frames] == ["error"]


@check(13)
async def test_without_a_function_that_decides_nobody_comes_in(mesh):
    async def nobody_decides() -> bool:
        stranger = await mesh.connect(port=mesh.guarded_port, query="?token=member")
        frame = await stranger.receive("error")
        assert frame["error"]["code"] == "AUTH_ERROR"
        return "gate::auth not found" in frame["error"]["message"]

    await wait_for(nobody_decides, "the missing function is named")


@check(13)
@pytest.mark.parametrize("way", ["header", "query"])
async def test_the_function_that_decides_sees_headers_queries_and_address(mesh, gate, way):
    if way == "header":
        known = await mesh.connect(port=mesh.guarded_port, headers={"X-Token": "member"}, query="?a=1&a=2")
    else:
        known = await mesh.connect(port=mesh.guarded_port, query="?token=member&a=1&a=2")
    await known.receive("workerregistered")
    (asked,) = gate.asked["auth"]
    assert asked["query_params"]["a"] == ["1", "2"]
    assert asked["ip_address"] == "127.0.0.1"
    assert asked["headers"]["upgrade"] == "websocket"
    assert asked["headers"].get("x-token") == ("member" if way == "header" else None)
    assert asked["query_params"].get("token") == (["member"] if way == "query" else None)


@check(13)
@pytest.mark.parametrize("sdk", SDKS)
async def test_every_sdk_is_let_in_by_its_header(mesh, gate, unique, sdk):
    agent = await guarded(mesh, sdk, unique("member"))
    assert await agent.call("public::open", [1]) == {"through": {"served": [1]}}
    assert len(gate.asked["auth"]) == 1
    await agent.end()


@check(14)
@pytest.mark.parametrize("sdk", ["py-0.25.0"])
async def test_the_token_of_the_environment_is_sent_on_all_sockets(mesh, gate, unique, sdk):
    proxy = await mesh.proxy(mesh.guarded_port)
    name = unique("bearer")
    environment = {"III_TOKEN": "member", "OTEL_ENABLED": "true"}
    agent = await mesh.start(sdk, name, port=proxy.port, environment=environment)
    await mesh.worker(name)
    channel = await agent.do("channel")
    await agent.do("write", channel=channel["channel"], items=[{"text": "t"}])

    def kinds() -> set[str]:
        paths = [each.path for each in proxy.sessions]
        return {kind for kind in ("/otel", "/ws/channels/") for path in paths if kind in path}

    async def connected() -> bool:
        return len(kinds()) == 2

    await wait_for(connected, "telemetry and channel are connected")
    assert {each.headers.get("Authorization") for each in proxy.sessions} == {"Bearer member"}

    async def asked_twice() -> bool:
        return len(gate.asked["auth"]) >= 2

    await wait_for(asked_twice, "the hook is asked for the worker and for its telemetry")
    assert {each["headers"]["authorization"] for each in gate.asked["auth"]} == {"Bearer member"}
    await agent.end()


@check(73)
@pytest.mark.parametrize("sdk", SDKS)
async def test_rules_decide_what_may_be_called(mesh, gate, unique, sdk):
    agent = await guarded(mesh, sdk, unique("member"))
    assert await agent.call("public::open", 1) == {"through": {"served": 1}}
    assert await agent.call("private::allowed", 2) == {"through": {"served": 2}}
    assert await agent.call("private::by-metadata", {}) == {"through": "by metadata"}
    await agent.call("engine::log::info", {"message": "from behind the rules"})
    assert (await agent.do("channel"))["writer"]["direction"] == "write"
    for denied in ("private::closed", "public::forbidden", "engine::log::warn", "state::get", "engine::workers::list"):
        with pytest.raises(CallError, match=denied) as failure:
            await agent.call(denied, {"message": "m"})
        assert failure.value.code == "FORBIDDEN"
        assert "rbac." in failure.value.message
    await agent.end()


@check(73)
async def test_a_listing_shows_what_may_be_called_alone(mesh, gate):
    gate.raw._handlers["gate::auth"] = lambda data: {**MEMBER, "allowed_functions": ["engine::functions::list"]}
    known = await mesh.connect(port=mesh.guarded_port, query="?token=member")
    listed = (await known.call("engine::functions::list", {}))["functions"]
    assert {each["function_id"] for each in listed} == {"public::open", "private::by-metadata"}
    everything = (await gate.raw.call("engine::functions::list", {}))["functions"]
    assert "private::closed" in {each["function_id"] for each in everything}
    await known.close()


@check(74)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_prefix_is_there_for_others_and_not_for_the_owner(mesh, gate, unique, sdk):
    name = unique("prefixed")
    agent = await guarded(mesh, sdk, name, "prefixed")
    assert await gate.raw.call(f"tenant::{name}::echo", 5) == 5
    with pytest.raises(CallError, match="function_not_found"):
        await gate.raw.call(f"{name}::echo", 5)
    own = await agent.function(f"{name}::own", result="own")

    async def serves() -> bool:
        return await gate.raw.call(f"tenant::{own}", {}) == "own"

    await wait_for(serves, "the hooks have let the function through")
    await agent.bind("state", own, {"scope": f"old {name}"})

    async def fires() -> bool:
        await gate.raw.call("state::set", {"scope": f"new {name}", "key": "k", "value": 1})
        return len(await agent.seen(own)) > 1

    await wait_for(fires, "the trigger fires the function by its plain name")
    await agent.do("unfunction", id=own)

    async def gone() -> bool:
        try:
            await gate.raw.call(f"tenant::{own}", {})
        except CallError as error:
            return error.code == "function_not_found"
        return False

    await wait_for(gone, "the function is gone by its plain name")
    await agent.end()


@check(75)
@pytest.mark.parametrize("sdk", SDKS)
async def test_hooks_may_deny_and_rename_registrations(mesh, gate, unique, sdk):
    name = unique("hooked")
    agent = await guarded(mesh, sdk, name)
    await agent.function(f"{name}::refused")
    await agent.function(f"{name}::old-name", "echo", description="told", metadata={"team": "compat"})
    await agent.function(f"{name}::accepted", "echo")

    async def registered() -> bool:
        return await gate.raw.call(f"{name}::accepted", 1) == 1

    await wait_for(registered, "the function is registered")
    listed = (await gate.raw.call("engine::functions::list", {"prefix": f"{name}::"}))["functions"]
    ids = {each["function_id"] for each in listed}
    assert {f"{name}::new-name", f"{name}::accepted"} <= ids
    assert not {f"{name}::refused", f"{name}::old-name"} & ids
    (asked,) = [each for each in gate.asked["on_function"] if each["function_id"] == f"{name}::old-name"]
    assert (asked["description"], asked["metadata"], asked["context"]) == (
        "told",
        {"team": "compat"},
        MEMBER["context"],
    )
    for own_type in (unique("old-type"), unique("refused-type")):
        await agent.do("own", id=own_type)
        if "refused" in own_type:
            continue

        async def there(own_type: str = own_type) -> bool:
            types = (await gate.raw.call("engine::triggers::list", {}))["triggers"]
            return own_type.replace("old", "new") in {each["id"] for each in types if "id" in each}

        await wait_for(there, "the type is registered under its new name")
    await agent.bind("state", f"{name}::accepted", {"scope": name, "note": "refused"})
    await agent.bind("state", f"{name}::accepted", {"scope": f"old {name}"})

    async def asked_all() -> bool:
        mine = [each for each in gate.asked["on_trigger"] if each["function_id"] == f"{name}::accepted"]
        refused = [each for each in gate.asked["on_trigger_type"] if "refused" in each["trigger_type_id"]]
        return len(mine) == 2 and bool(refused)

    await wait_for(asked_all, "the hooks are asked")

    async def bound() -> bool:
        triggers = (await gate.raw.call("engine::registered-triggers::list", {}))["registered_triggers"]
        configs = [each["config"] for each in triggers if each["function_id"] == f"{name}::accepted"]
        return configs == [{"scope": f"new {name}"}]

    await wait_for(bound, "one of two triggers is registered")
    types = {each["id"] for each in (await gate.raw.call("engine::triggers::list", {}))["triggers"] if "id" in each}
    assert not any("refused" in each for each in types)
    assert await agent.call("public::open", 1) == {"through": {"served": 1}}  # still connected
    assert len(gate.asked["auth"]) == 1
    await agent.end()


@check(76)
@pytest.mark.parametrize("sdk", SDKS)
async def test_middleware_is_called_in_place_of_the_function(mesh, gate, unique, sdk):
    agent = await guarded(mesh, sdk, unique("member"))
    assert (await agent.call("public::open", {"n": 1}))["through"]["served"]["n"] == 1
    (asked,) = gate.asked["middleware"]
    assert asked["function_id"] == "public::open"
    assert asked["payload"]["n"] == 1
    assert asked["context"] == MEMBER["context"]
    assert asked["action"] is None
    await agent.call("public::open", {"n": 2}, void=True)

    async def asked_again() -> bool:
        return len(gate.asked["middleware"]) == 2

    await wait_for(asked_again, "the void call goes through the middleware too")
    assert gate.asked["middleware"][1]["action"] == {"type": "void"}
    await agent.end()
