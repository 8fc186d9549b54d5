"""What workers on unmodified SDKs see of the engine. Numbers in the names are those of the compatibility list."""

import asyncio
import itertools
import json
import random

import pytest

SDKS = {"py-0.11.6": "py11", "py-0.25.0": "py25", "node-0.11.6": "node11", "node-0.22.1": "node22"}
PAIRS = [pytest.param(a, b, id=f"{a}-to-{b}") for a, b in itertools.product(SDKS.values(), repeat=2)]
PREFIXES = [pytest.param(prefix, id=sdk) for sdk, prefix in SDKS.items()]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def agents(mesh):
    """The workers by prefix."""
    return {agent.prefix: agent for agent in mesh.agents}


@pytest.mark.parametrize(("caller", "callee"), PAIRS)
async def test_check_25_26_values_cross_unchanged_and_objects_name_the_caller(agents, caller, callee):
    for value in (["a", 1, None], "text with \u00e4 \u20ac \U0001f600", 42, 1.5, True):
        assert await agents[caller].call(f"{callee}::echo", value) == value
    assert await agents[caller].call(f"{callee}::echo", None) is None
    assert await agents[caller].call(f"{callee}::echo") is None
    for value in ({"a": {"b": [1]}}, {}):
        echoed = await agents[caller].call(f"{callee}::echo", value)
        assert len(echoed.pop("_caller_worker_id")) == 36
        assert echoed == value


@pytest.mark.parametrize(("caller", "callee"), PAIRS)
async def test_check_26_27_28_a_handler_error_reaches_the_caller_with_code_message_and_trace(
    agents, call_error, caller, callee
):
    with pytest.raises(call_error) as failure:
        await agents[caller].call(f"{callee}::fail", {})
    assert failure.value.code == "invocation_failed"
    assert f"handler of {callee} failed" in failure.value.message
    assert "agent." in failure.value.stacktrace


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_25_the_caller_worker_id_is_that_of_the_caller_even_when_it_claims_another(agents, prefix):
    workers = (await agents[prefix].call("engine::workers::list", {}))["workers"]
    own = next(each["id"] for each in workers if each["name"] == prefix)
    echoed = await agents[prefix].call("py25::echo", {"_caller_worker_id": "somebody else"})
    assert echoed == {"_caller_worker_id": own}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_29_an_unknown_function_is_named_in_the_error(agents, call_error, prefix):
    with pytest.raises(call_error) as failure:
        await agents[prefix].call("no::such", {})
    assert failure.value.code == "function_not_found"
    assert "Function no::such not found in namespace default." in failure.value.message


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_calls_of_what_the_engine_does_not_serve_get_a_coded_error(agents, call_error, prefix):
    for function_id, code in (("sandbox::exec", "NOT_SERVED"), ("state::get", "function_not_found")):
        with pytest.raises(call_error) as failure:
            await agents[prefix].call(function_id, {})
        assert failure.value.code == code
    with pytest.raises(call_error) as failure:
        await agents[prefix].call("py25::echo", {}, queue="jobs")
    assert failure.value.code == "enqueue_error"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_30_a_caller_that_gave_up_is_not_harmed_by_the_late_result(agents, call_error, prefix):
    with pytest.raises(call_error) as failure:
        await agents[prefix].call("node22::slow", {"ms": 300}, timeout_ms=50)
    assert "timed out" in failure.value.message.lower() or failure.value.code == "TIMEOUT"
    assert await agents[prefix].call("node22::slow", {"ms": 400}) == {"slept": 400, "tag": None}


@pytest.mark.parametrize(("caller", "callee"), PAIRS)
async def test_check_31_a_void_call_runs_once_and_answers_nothing(agents, wait_for, caller, callee):
    mark = f"from {caller}"
    assert await agents[caller].call(f"{callee}::note", {"mark": mark, "fail": True}, void=True) is None

    async def noted():
        return [note for note in await agents[callee].do("notes") if note["mark"] == mark]

    (note,) = await wait_for(noted, "the handler ran")
    assert note["_caller_worker_id"]
    assert await agents[caller].call(f"{callee}::echo", 1) == 1
    assert len(await noted()) == 1


async def test_check_35_every_result_of_200_concurrent_calls_reaches_its_own_caller(agents):
    order = random.Random(3)
    wanted = [(order.choice(list(SDKS.values())), order.choice(list(SDKS.values())), tag) for tag in range(200)]
    results = await asyncio.gather(
        *(agents[a].call(f"{b}::slow", {"ms": order.randrange(200), "tag": tag}) for a, b, tag in wanted)
    )
    assert [result["tag"] for result in results] == list(range(200))


@pytest.mark.parametrize(("caller", "callee"), PAIRS)
async def test_check_37_metadata_reaches_a_handler_that_can_take_it(agents, caller, callee):
    result = await agents[caller].call(f"{callee}::metadata", {"a": 1}, metadata={"trace": [1, 2]})
    if callee == "py11":
        assert result["a"] == 1
    elif callee == "node22" or callee == "py25":
        sent = {"trace": [1, 2]} if caller in ("node22", "py25") else None
        assert result["metadata"] == sent


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_3_15_19_functions_are_listed_with_description_schemas_and_metadata(agents, prefix):
    listed = (await agents[prefix].call("engine::functions::list", {}))["functions"]
    functions = {each["function_id"]: each for each in listed}
    assert len(functions) == len(listed)
    for other in SDKS.values():
        entry = functions[f"{other}::echo"]
        assert entry["description"] == f"echo of {other}"
        assert entry["request_format"]["properties"]["text"] == {"type": "string"}
        assert entry["response_format"]["type"] == "object"
        assert entry["metadata"] == {"team": "compat"}
        assert (entry["namespace"], entry["worker_name"]) == ("default", other)
        assert f"{other}::hidden" not in functions
    assert not any(each.startswith("engine::") for each in functions)
    everything = await agents[prefix].call("engine::functions::list", {"include_internal": True})
    ids = {each["function_id"] for each in everything["functions"]}
    assert {"py11::hidden", "engine::functions::list"} <= ids
    filtered = await agents[prefix].call("engine::functions::list", {"prefix": "py25::", "search": "ECHO"})
    assert [each["function_id"] for each in filtered["functions"]] == ["py25::echo"]
    of_worker = await agents[prefix].call("engine::functions::list", {"worker": "node22"})
    assert {each["worker_name"] for each in of_worker["functions"]} == {"node22"}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_18_workers_are_listed_with_what_they_told_and_who_they_are(mesh, agents, prefix):
    listed = await agents[prefix].call("engine::workers::list", {})
    workers = {each["name"]: each for each in listed["workers"]}
    assert listed["timestamp"] > 1_700_000_000_000
    for sdk, other in SDKS.items():
        worker = workers[other]
        assert worker["runtime"] == sdk.split("-")[0].replace("py", "python")
        assert worker["version"]
        assert worker["os"]
        assert worker["pid"] == agents[other].process.pid
        assert worker["function_count"] == len(worker["functions"]) >= 10
        assert worker["status"] == "available"
        assert worker["ip_address"] == "127.0.0.1"
        if mesh.engine.key is not None:
            subject = f"default/{other}"
            assert worker["identity"] == {
                "realm": "compat",
                "subject": subject,
                "uid": f"uid-of-{subject}",
                "role": "worker",
                "pod_uid": f"pod-{other}",
            }
        else:
            assert "identity" not in worker


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_20_21_registering_twice_gives_one_entry_and_unregistering_removes_it(
    agents, wait_for, call_error, prefix
):
    agent = agents[prefix]
    if prefix not in ("py25", "node22", "node11"):  # the old Python SDK refuses a second registration by itself
        await agent.do("register", name="twice")
    else:
        await agent.do("register", name="twice")
        await agent.do("unregister", name="twice")
        await agent.do("register", name="twice")

    async def listed():
        found = await agent.call("engine::functions::list", {"prefix": f"{prefix}::twice"})
        return found["functions"]

    assert len(await wait_for(listed, "the function is listed")) == 1
    assert await agents["node22"].call(f"{prefix}::twice", 5) == 5
    await agent.do("unregister", name="twice")

    async def gone():
        return not await listed()

    await wait_for(gone, "the function is gone")
    with pytest.raises(call_error) as failure:
        await agents["py25"].call(f"{prefix}::twice", 5)
    assert failure.value.code == "function_not_found"


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_41_42_a_route_hands_over_the_request_and_sends_what_the_handler_returns(mesh, prefix):
    body = json.dumps({"n": [1, None, "\u00e4"]}).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Mixed-CASE": "Kept"}
    answer = await mesh.engine.http("POST", f"/{prefix}/items/a%20b%2Fc?q=1&q=2&empty=", body, headers)
    assert answer.status == 200
    assert answer.headers["X-Listed"] == "yes"
    assert answer.headers["Content-Type"] == "application/json"
    request = answer.json()["request"]
    assert request["path"] == f"/{prefix}/items/:item"
    assert request["method"] == "POST"
    assert request["path_params"] == {"item": "a b/c"}
    assert request["query_params"] == {"q": "2", "empty": ""}
    assert request["headers"]["x-mixed-case"] == "Kept"
    assert request["body"] == {"n": [1, None, "\u00e4"]}
    assert request["trigger"] == {"type": "http", "path": f"/{prefix}/items/:item", "method": "POST"}
    assert "_caller_worker_id" not in request
    assert (await mesh.engine.http("GET", f"/{prefix}/items/x")).json()["request"]["body"] is None


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_43_a_text_body_with_a_content_type_is_sent_raw(mesh, prefix):
    answer = await mesh.engine.http("GET", f"/{prefix}/page")
    assert (answer.status, answer.body) == (201, b"<p>hello</p>")
    assert (answer.headers["Content-Type"], answer.headers["X-From"]) == ("text/html", prefix)
    head = await mesh.engine.http("HEAD", f"/{prefix}/page")
    assert (head.status, head.body, head.headers["Content-Length"]) == (201, b"", "12")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_50_errors_of_routes_have_their_status_and_a_json_error_without_a_trace(mesh, prefix):
    failed = await mesh.engine.http("GET", f"/{prefix}/fail")
    assert failed.status == 500
    error = failed.json()["error"]
    assert error["code"] == "invocation_failed"
    assert f"handler of {prefix} failed" in error["message"]
    assert error["error_id"]
    assert b"agent." not in failed.body
    missing = await mesh.engine.http("GET", f"/{prefix}/nowhere")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
    wrong = await mesh.engine.http("DELETE", f"/{prefix}/items/x")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert (await mesh.engine.http("GET", f"/{prefix}/keyless")).body == b"{}"


async def test_check_53_any_origin_may_call_a_route(mesh):
    preflight = await mesh.engine.http(
        "OPTIONS", "/py25/page", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert preflight.headers["Access-Control-Allow-Methods"] == "*"
    assert (await mesh.engine.http("GET", "/py25/page")).headers["Access-Control-Allow-Origin"] == "*"
    assert (await mesh.engine.http("GET", "/no")).headers["Access-Control-Allow-Origin"] == "*"


async def test_the_sdks_own_counters_show_in_the_metrics(mesh):
    text = (await mesh.engine.http("GET", "/metrics", port="admin_port")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(values["agentos_engine_connections"]) >= len(SDKS)
    assert int(values["agentos_engine_functions"]) >= 10 * len(SDKS)
    assert int(values["agentos_engine_calls_total"]) > 0
    assert int(values["agentos_engine_calls_in_flight"]) == 0


async def test_check_24_a_trigger_registered_without_config_is_accepted(mesh, agents):
    for prefix in ("py11", "py25"):
        await agents[prefix].do("bind", type="not::known", function_id=f"{prefix}::echo")
    assert await agents["py11"].call("py25::echo", 1) == 1


async def test_check_9_a_message_of_20_mb_from_python_arrives_whole_at_node(agents):
    text = "x" * 20_000_000
    echoed = await agents["py25"].call("node22::echo", {"text": text}, timeout_ms=30000)
    assert echoed["text"] == text


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_check_23_52_a_route_bound_by_node_and_python_alike_answers(mesh, agents, wait_for, prefix):
    path = f"late/{prefix}"
    await agents[prefix].do(
        "bind", type="http", function_id=f"{prefix}::keyless", config={"api_path": path, "http_method": "GET"}
    )

    async def answers():
        return (await mesh.engine.http("GET", f"/{path}")).status == 200

    await wait_for(answers, "the route answers")
