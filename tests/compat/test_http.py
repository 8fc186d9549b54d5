"""HTTP routes."""

import asyncio
import json

import pytest

from tests.compat.engine import wait_for
from tests.compat.sdks import PREFIXES, SDKS

check = pytest.mark.check
pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "full.yaml"


async def route(
    agents, unique, sdk: str, behaviour: str = "record", method: str = "GET", path: str = "", config=None, **options
):
    """Register a function and a route to it, both of their own; returns the route's first segment and the function's id."""
    name = unique("route")
    function_id = await agents[sdk].function(f"{PREFIXES[sdk]}::{name}", behaviour, **options)
    await agents[sdk].bind("http", function_id, {"api_path": f"/{name}{path}", "http_method": method, **(config or {})})
    return name, function_id


@check(41)
@pytest.mark.parametrize("sdk", SDKS)
async def test_the_handler_of_a_post_gets_the_request(mesh, agents, unique, sdk):
    name, function_id = await route(agents, unique, sdk, method="POST", path="/items/:item", result={})
    body = json.dumps({"n": [1, None, "\u00e4"]}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Mixed-CASE": "Kept"}
    await mesh.engine.http("POST", f"/{name}/items/a%20b%2Fc?q=1&q=2&empty=", body, headers)
    (request,) = await agents[sdk].seen(function_id)
    assert request["path"] == f"/{name}/items/:item"
    assert request["method"] == "POST"
    assert request["path_params"] == {"item": "a b/c"}
    assert request["query_params"] == {"q": "2", "empty": ""}
    assert request["headers"]["x-mixed-case"] == "Kept"
    assert all(key == key.lower() for key in request["headers"])
    assert request["body"] == {"n": [1, None, "\u00e4"]}
    assert request["trigger"] == {"type": "http", "path": f"/{name}/items/:item", "method": "POST"}
    assert (request["request_body"], request["response"]) == ("reader", "writer")
    assert "_caller_worker_id" not in request


@check(41)
@pytest.mark.parametrize("sdk", SDKS)
async def test_the_handler_of_a_get_gets_the_request(mesh, agents, unique, sdk):
    name, function_id = await route(agents, unique, sdk, path="/:a/and/:b", result={})
    assert (await mesh.engine.http("GET", f"/{name}/1/and/%C3%A4?x=%26&x=y")).status == 200
    (request,) = await agents[sdk].seen(function_id)
    assert request["method"] == "GET"
    assert request["path_params"] == {"a": "1", "b": "\u00e4"}
    assert request["query_params"] == {"x": "y"}
    assert request["body"] is None


@check(42)
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("form", ["object", "list"])
async def test_status_headers_and_body_are_those_that_the_handler_returns(mesh, agents, unique, sdk, form):
    headers = {"X-One": "1", "X-Two": "two: three"} if form == "object" else ["X-One: 1", "X-Two: two: three"]
    result = {"status_code": 202, "headers": headers, "body": {"made": ["\u00e4", 1, None]}}
    name, _ = await route(agents, unique, sdk, result=result)
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.headers["X-One"], answer.headers["X-Two"]) == (202, "1", "two: three")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"made": ["\u00e4", 1, None]}


@check(42)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_result_without_these_keys_is_an_empty_success(mesh, agents, unique, sdk):
    name, _ = await route(agents, unique, sdk, result={"anything": 1})
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/json", b"{}")
    name, _ = await route(agents, unique, sdk, result={"body": [1]})
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.headers["Content-Type"], answer.json()) == (200, "application/json", [1])


@check(43)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_text_with_a_content_type_is_sent_as_it_is(mesh, agents, unique, sdk):
    result = {"status_code": 201, "headers": {"Content-Type": "text/html", "X-From": sdk}, "body": "<p>hello</p>"}
    name, _ = await route(agents, unique, sdk, result=result)
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.body) == (201, b"<p>hello</p>")
    assert (answer.headers["Content-Type"], answer.headers["X-From"]) == ("text/html", sdk)
    head = await mesh.engine.http("HEAD", f"/{name}")
    assert (head.status, head.body, head.headers["Content-Length"]) == (201, b"", "12")


@check(47)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_condition_that_returns_false_keeps_the_handler_from_running(mesh, agents, unique, sdk):
    condition = await agents[sdk].function(unique(f"{PREFIXES[sdk]}::no"), result=False)
    name, function_id = await route(
        agents, unique, sdk, result={"body": 1}, config={"condition_function_id": condition}
    )
    answer = await mesh.engine.http("GET", f"/{name}?x=1")
    assert answer.status == 422
    assert answer.json()["skipped"] is True
    assert answer.json()["error"]["code"] == "CONDITION_NOT_MET"
    assert await agents[sdk].seen(function_id) == []
    (asked,) = await agents[sdk].seen(condition)
    assert asked["query_params"] == {"x": "1"}
    assert not {"request_body", "response"} & set(asked)


@check(47)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_condition_that_returns_nothing_lets_the_handler_run(mesh, agents, unique, sdk):
    condition = await agents[sdk].function(unique(f"{PREFIXES[sdk]}::nothing"))
    name, function_id = await route(
        agents, unique, sdk, result={"body": 1}, config={"condition_function_id": condition}
    )
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.json()) == (200, 1)
    assert len(await agents[sdk].seen(function_id)) == 1


@check(48)
@pytest.mark.parametrize("sdk", SDKS)
async def test_middlewares_run_in_their_order_and_see_the_request(mesh, agents, unique, sdk):
    prefix = PREFIXES[sdk]
    order: list[str] = []
    raw = await mesh.connect()
    names = [unique("raw::middleware") for _ in range(2)]
    for name in names:
        await raw.register(name, lambda data, name=name: order.append(name))
    seeing = await agents[sdk].function(unique(f"{prefix}::middleware"), result={"action": "continue"})
    config = {"middleware_function_ids": [names[1], seeing, names[0]]}
    name, function_id = await route(
        agents, unique, sdk, method="POST", path="/:a", result={"body": "done"}, config=config
    )
    answer = await mesh.engine.http(
        "POST", f"/{name}/1?q=2", b"{}", {"X-Who": "me", "Content-Type": "application/json"}
    )
    assert answer.json() == "done"
    assert order == [names[1], names[0]]
    (given,) = await agents[sdk].seen(seeing)
    assert (given["phase"], given["context"]) == ("preHandler", {})
    assert set(given["request"]) == {"path_params", "query_params", "headers", "method"}
    assert given["request"]["path_params"] == {"a": "1"}
    assert given["request"]["query_params"] == {"q": "2"}
    assert given["request"]["method"] == "POST"
    assert given["request"]["headers"]["x-who"] == "me"
    assert len(await agents[sdk].seen(function_id)) == 1


@check(48)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_middleware_can_answer_itself_or_fail_the_request(mesh, agents, unique, sdk):
    agent = agents[sdk]
    response = {"status_code": 401, "headers": {"X-By": "middleware"}, "body": {"who": "are you"}}
    answering = await agent.function(unique(f"{agent.prefix}::m"), result={"action": "respond", "response": response})
    second = await agent.function(unique(f"{agent.prefix}::m"))
    config = {"middleware_function_ids": [answering, second]}
    name, function_id = await route(agents, unique, sdk, result={"body": 1}, config=config)
    answer = await mesh.engine.http("GET", f"/{name}")
    assert (answer.status, answer.headers["X-By"], answer.json()) == (401, "middleware", {"who": "are you"})
    assert await agent.seen(second) == await agent.seen(function_id) == []
    failing = await agent.function(unique(f"{agent.prefix}::m"), "fail")
    name, function_id = await route(agents, unique, sdk, config={"middleware_function_ids": [failing]})
    assert (await mesh.engine.http("GET", f"/{name}")).status == 500
    assert await agent.seen(function_id) == []


@check(50)
@pytest.mark.parametrize("sdk", SDKS)
async def test_errors_have_their_status_and_a_json_error_without_a_trace(mesh, agents, unique, sdk):
    name, _ = await route(agents, unique, sdk, "fail")
    failed = await mesh.engine.http("GET", f"/{name}")
    assert failed.status == 500
    error = failed.json()["error"]
    assert error["code"] == "invocation_failed"
    assert f"handler of {PREFIXES[sdk]} failed" in error["message"]
    assert error["error_id"]
    assert b"agent." not in failed.body
    missing = await mesh.engine.http("GET", f"/{name}/nowhere")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
    wrong = await mesh.engine.http("DELETE", f"/{name}")
    assert (wrong.status, set(wrong.headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})


@check(50, sdks=SDKS)
async def test_a_handler_beyond_the_time_for_requests_gets_504(mesh, agents, unique):
    names = [(await route(agents, unique, sdk, delay_ms=30_000))[0] for sdk in SDKS]
    answers = await asyncio.gather(*(mesh.engine.http("GET", f"/{name}") for name in names))
    assert [answer.status for answer in answers] == [504] * len(SDKS)


@check(51)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_second_route_of_the_same_shape_does_not_disturb_the_first(mesh, agents, unique, sdk):
    name, function_id = await route(agents, unique, sdk, path="/:a", result={"body": "first"})
    raw = await mesh.connect()
    await raw.register(unique("raw::second"))
    config = {"api_path": f"/{name}/:b", "http_method": "GET"}
    await raw.send(
        type="registertrigger", id=unique("second"), trigger_type="http", function_id="raw::x", config=config
    )
    refused = await raw.receive("triggerregistrationresult")
    assert refused["error"]["code"] == "trigger_registration_failed"
    assert (
        f"Route 'GET /{name}/:b' conflicts with already-registered route 'GET /{name}/:a'"
        in refused["error"]["message"]
    )
    assert (await mesh.engine.http("GET", f"/{name}/1")).json() == "first"
    assert len(await agents[sdk].seen(function_id)) == 1


@check(53)
async def test_any_origin_may_call_a_route(mesh):
    asking = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-a",
    }
    preflight = await mesh.engine.http("OPTIONS", "/py25/keyless", headers=asking)
    assert preflight.status in (200, 204)
    assert preflight.headers["Access-Control-Allow-Origin"] in ("*", "https://a.example")
    assert (
        preflight.headers["Access-Control-Allow-Methods"] == "*"
        or "POST" in preflight.headers["Access-Control-Allow-Methods"]
    )
    assert {"*", "x-a"} & set(preflight.headers["Access-Control-Allow-Headers"].split(", "))
    for path in ("/py25/keyless", "/no/such/route"):
        answer = await mesh.engine.http("GET", path, headers={"Origin": "https://a.example"})
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://a.example")


@check(52)
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_route_goes_with_its_worker_and_may_be_had_by_another(mesh, agents, unique, sdk):
    name, function_id = await route(agents, unique, sdk, result={"body": "first"})
    raw = await mesh.connect()
    other = unique("raw::other")
    await raw.register(other, lambda data: {"body": "other"})
    await raw.bind("http", other, {"api_path": f"/{name}/x", "http_method": "GET"})
    assert (await mesh.engine.http("GET", f"/{name}/x")).json() == "other"
    await raw.close()

    async def gone() -> bool:
        return (await mesh.engine.http("GET", f"/{name}/x")).status == 404

    await wait_for(gone, "the route is gone")
    await agents[sdk].bind("http", function_id, {"api_path": f"/{name}/x", "http_method": "GET"})
    assert (await mesh.engine.http("GET", f"/{name}/x")).json() == "first"
