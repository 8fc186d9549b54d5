"""Routes: which function gets a request, what it is given, and what its result means; over real sockets."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from agentos_engine.bus.channels import Channels
from agentos_engine.bus.connection import Link
from agentos_engine.bus.errors import BusError
from agentos_engine.config import SettingsError
from agentos_engine.config_file import options
from agentos_engine.triggers.http import Http


class Reply:
    """A response as read from the wire."""

    def __init__(self, data):
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.pairs = [tuple(line.split(": ", 1)) for line in lines]
        self.headers = dict(self.pairs)

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.status, self.json()["error"]


class Worker(Link):
    """A worker that answers each call at once with what its function returns, or never when that is HOLD."""

    def __init__(self, bus):
        self.bus, self.functions, self.calls, self.told = bus, {}, [], []
        self.connection = bus.connect(self)

    def send(self, frame):
        message = json.loads(frame)
        if message["type"] == "invokefunction":
            self.calls.append(message)
            asyncio.get_running_loop().call_soon(self._run, message)
        else:
            self.told.append(message)

    def _run(self, message):
        result = self.functions[message["function_id"]](message["data"])
        if result is not HOLD:
            key = "error" if isinstance(result, Failure) else "result"
            self.answer(message, **{key: result.error if isinstance(result, Failure) else result})

    def answer(self, message, **answer):
        ids = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
        self.say(type="invocationresult", **ids, **answer)

    def say(self, **message):
        self.bus.receive(self.connection, json.dumps(message).encode())

    def serve(self, function_id, function=lambda data: {"body": data}):
        """Serve a function: from payload to result; by default the body of the response is the payload."""
        self.functions[function_id] = function
        self.say(type="registerfunction", id=function_id)

    def bind(self, path, method="GET", function_id="a::f", trigger_id=None, metadata=None, **config):
        trigger_id = trigger_id or f"{method} {path}"
        config = {"api_path": path, "http_method": method, **config}
        names = {"id": trigger_id, "trigger_type": "http", "function_id": function_id}
        self.say(type="registertrigger", config=config, metadata=metadata, **names)

    def refusals(self):
        return [each for each in self.told if each["type"] == "triggerregistrationresult"]

    def end(self):
        self.bus.disconnect(self.connection)


HOLD = object()


class Failure:
    """A function's error."""

    def __init__(self, error):
        self.error = error


@pytest.fixture
async def rest(bus):
    """Starts the module with these options: ``async with rest(…) as http``; has a default one to :func:`ask`."""

    @asynccontextmanager
    async def rest(**settings):
        http = Http(bus=bus, channels=Channels(bus.clock), host="127.0.0.1", port=0, **settings)
        await http.start()
        try:
            yield http
        finally:
            await http.stop()

    return rest


@pytest.fixture
async def http(rest):
    """The module, started with iii's defaults."""
    async with rest() as http:
        yield http


async def fetch(http, method, target, headers=(), body=b""):
    """Send a request and return the reply."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: h",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    async with asyncio.timeout(10):
        data = await reader.read()
    writer.close()
    return Reply(data)


@pytest.fixture
def ask(http):
    """Sends a request and returns the reply."""

    def ask(*request, **options):
        return fetch(http, *request, **options)

    return ask


@pytest.fixture
def worker(bus, http):
    """A worker whose function a::f answers with its payload."""
    worker = Worker(bus)
    worker.serve("a::f")
    return worker


@pytest.fixture
def workers(bus, http):
    """Makes workers without functions."""
    return lambda: Worker(bus)


async def holds(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_literal_beats_a_parameter_and_methods_are_looked_for_in_both(worker, ask):
    worker.bind("/items/:id")
    worker.bind("/items/new", "POST")
    assert (await ask("GET", "/items/new")).json()["path_params"] == {"id": "new"}
    assert (await ask("POST", "/items/new")).json()["path"] == "/items/new"
    refused = await ask("PUT", "/items/new")
    assert refused.headers["allow"] == "GET, HEAD, POST"
    assert refused.error()[0] == 405
    assert refused.error()[1]["code"] == "METHOD_NOT_ALLOWED"
    assert (await ask("PUT", "/other")).error()[0] == 404


async def test_a_get_route_answers_head_too(worker, ask):
    worker.bind("/x")
    worker.functions["a::f"] = lambda data: {"body": data["method"]}
    head = await ask("HEAD", "/x")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len('"HEAD"')))


async def test_the_method_may_be_left_out_and_written_small(worker, ask):
    names = {"trigger_type": "http", "function_id": "a::none"}
    worker.say(type="registertrigger", id="1", config={"api_path": "x"}, **names)
    worker.bind("y", "post", "a::none")
    assert worker.refusals() == []
    assert (await ask("GET", "/x")).status == 500  # the route is there, its function is not
    assert (await ask("POST", "/y")).error()[1]["code"] == "function_not_found"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "object"),
        ("text", "object"),
        ({}, "api_path"),
        ({"api_path": 5}, "api_path"),
        ({"api_path": "a/:"}, "parameter"),
        ({"api_path": "a/%ff"}, "UTF-8"),
        ({"api_path": "a/../b"}, "'..'"),
        ({"api_path": "a", "http_method": "BREW"}, "http_method"),
        ({"api_path": "a", "condition_function_id": 5}, "condition_function_id"),
        ({"api_path": "a", "middleware_function_ids": "a::auth"}, "middleware_function_ids"),
        ({"api_path": "a", "middleware_function_ids": [""]}, "middleware_function_ids"),
        ({"api_path": "a", "middleware_function_ids": ["a::m"] * 33}, "middleware_function_ids"),
    ],
)
async def test_a_config_that_is_wrong_is_refused_aloud_and_gives_no_route(worker, ask, config, words):
    names = {"id": "t", "trigger_type": "http", "function_id": "a::f"}
    worker.say(type="registertrigger", config=config, **names)
    (refused,) = worker.refusals()
    assert {key: refused[key] for key in names} == names
    assert refused["error"]["code"] == "trigger_registration_failed"
    assert words in refused["error"]["message"]
    assert (await ask("GET", "/a")).status == 404
    worker.say(type="unregistertrigger", id="t")
    worker.end()


async def test_check_51_another_name_for_a_parameter_is_refused_until_the_first_route_goes(workers, ask):
    first, second = workers(), workers()
    first.serve("a::f")
    first.bind("zz/:a/:b")
    second.serve("b::g")
    second.bind("zz/:b/:a", function_id="b::g")
    (refused,) = second.refusals()
    assert refused["error"]["code"] == "trigger_registration_failed"
    wanted = "Route 'GET zz/:b/:a' conflicts with already-registered route 'GET zz/:a/:b': "
    assert refused["error"]["message"].startswith(wanted)
    assert (await ask("GET", "/zz/1/2")).json()["path_params"] == {"a": "1", "b": "2"}
    (binding,) = second.connection.bindings.values()
    assert binding.refused
    first.end()
    assert not binding.refused
    assert (await ask("GET", "/zz/1/2")).json()["path_params"] == {"b": "1", "a": "2"}


async def test_check_52_a_rolling_update_never_leaves_a_route_without_an_owner(workers, ask):
    old, new = workers(), workers()
    old.serve("a::f", lambda data: {"body": "old"})
    old.bind("/r")
    new.bind("/r", function_id="a::not-yet")  # its route comes before its function
    assert (await ask("GET", "/r")).json() == "old"
    new.serve("a::not-yet", lambda data: {"body": "new"})
    assert (await ask("GET", "/r")).json() == "new"
    old.end()
    assert (await ask("GET", "/r")).json() == "new"
    new.end()
    assert (await ask("GET", "/r")).status == 404


async def test_the_routes_of_replicas_outlive_each_of_them(workers, ask):
    replicas = [workers() for _ in range(3)]
    for replica in replicas:
        replica.serve("a::f")
        replica.bind("/r")
    for replica in replicas[:2]:
        replica.end()
        assert (await ask("GET", "/r")).status == 200
    replicas[2].end()
    assert (await ask("GET", "/r")).status == 404


async def test_a_trigger_registered_again_under_its_id_moves(worker, ask):
    worker.bind("/one", trigger_id="t")
    worker.bind("/two", trigger_id="t")
    assert (await ask("GET", "/one")).status == 404
    assert (await ask("GET", "/two")).status == 200


async def test_routes_that_are_there_before_the_module_starts_are_served_and_wait_when_it_stops(bus, rest):
    worker = Worker(bus)
    worker.serve("a::f")
    worker.bind("/x")
    for _ in range(2):
        async with rest() as http:
            assert (await fetch(http, "GET", "/x")).status == 200
        await http.stop()
    assert worker.refusals() == []


async def test_a_port_that_is_taken_is_told(bus, http):
    with pytest.raises(SettingsError, match=str(http.port)):
        await Http(bus=bus, channels=Channels(bus.clock), host="127.0.0.1", port=http.port).start()


async def test_a_function_of_the_engine_may_serve_a_route(bus, worker, ask):
    async def handler(context, data):
        if json.loads(data)["query_params"]:
            raise BusError("nope", "no query")
        return {"status_code": 202, "body": "engine"}

    bus.functions.add("own::f", handler)
    bus.functions.add("own::g", lambda context, data: {"body": "at once"})
    worker.bind("/f", function_id="own::f")
    worker.bind("/g", function_id="own::g")
    assert ((await ask("GET", "/f")).status, (await ask("GET", "/f")).json()) == (202, "engine")
    assert (await ask("GET", "/f?a=1")).error()[1]["code"] == "nope"
    assert (await ask("GET", "/g")).json() == "at once"


async def test_a_function_is_looked_for_in_the_namespace_of_its_trigger(bus, worker, ask):
    other = Worker(bus)
    bus.settle(other.connection, "other")
    other.serve("a::f", lambda data: {"body": "other"})
    other.say(
        type="registertrigger",
        id="t",
        trigger_type="http",
        function_id="a::f",
        namespace="other",
        config={"api_path": "o"},
    )
    worker.bind("/x")
    assert (await ask("GET", "/o")).json() == "other"
    assert (await ask("GET", "/x")).json() != "other"


async def test_a_callee_that_goes_fails_the_request_at_once(worker, ask):
    worker.functions["a::f"] = lambda data: worker.end() or HOLD
    worker.bind("/x")
    status, error = (await ask("GET", "/x")).error()
    assert (status, error["code"]) == (500, "invocation_stopped")
    assert error["error_id"]


async def test_a_handlers_error_is_told_without_its_stack_trace(worker, ask):
    worker.bind("/x")
    failure = Failure({"code": "W105", "message": "no good", "stacktrace": "SECRET line 5"})
    worker.functions["a::f"] = lambda data: failure
    reply = await ask("GET", "/x")
    status, error = reply.error()
    assert (status, error["code"], error["message"]) == (500, "W105", "no good")
    assert error["error_id"]
    assert b"SECRET" not in reply.body
    failure.error = "odd"
    assert (await ask("GET", "/x")).error()[1]["code"] == "INTERNAL_ERROR"


async def test_check_50_a_handler_beyond_the_time_out_gives_504_and_its_call_is_abandoned(bus, rest):
    worker = Worker(bus)
    worker.serve("a::f", lambda data: HOLD)
    worker.bind("/x")
    async with rest(default_timeout=200) as http:
        status, error = (await fetch(http, "GET", "/x")).error()
        assert (status, error["code"]) == (504, "TIMEOUT")
        assert bus.calls.invocations.in_flight == 0
        assert len(http.channels) == 0


async def test_a_function_beyond_its_own_time_out_gives_504_too(bus, clock, worker, ask):
    worker.functions["a::f"] = lambda data: HOLD
    worker.say(type="registerfunction", id="a::f", metadata={"timeout_ms": 1000})
    worker.bind("/x")
    asking = asyncio.create_task(ask("GET", "/x"))
    await holds(lambda: worker.calls)
    await clock.advance(2)
    bus.calls.expire()
    status, error = (await asking).error()
    assert (status, error["code"]) == (504, "TIMEOUT")


async def test_a_client_that_hangs_up_frees_all_at_once(bus, http, worker):
    worker.functions["a::f"] = lambda data: HOLD
    worker.bind("/x")
    _, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: worker.calls)
    assert len(http.channels) == 2
    writer.transport.abort()
    await holds(lambda: bus.calls.invocations.in_flight == 0)
    assert (len(http.channels), http.server.in_progress) == (0, 0)
    worker.answer(worker.calls[0], result={"body": 1})  # late: ignored


@pytest.mark.parametrize(
    ("result", "status", "headers", "body"),
    [
        ("text", 200, {"content-type": "application/json"}, b"{}"),
        ({"other": 1}, 200, {"content-type": "application/json"}, b"{}"),
        ({"status_code": 404}, 404, {"content-type": "application/json"}, b"{}"),
        ({"body": [1, {"a": None}]}, 200, {"content-type": "application/json"}, b'[1, {"a": null}]'),
        ({"body": "quoted"}, 200, {"content-type": "application/json"}, b'"quoted"'),
        ({"body": "<p>", "headers": {"Content-Type": "text/html"}}, 200, {"content-type": "text/html"}, b"<p>"),
        ({"body": None, "headers": {"content-type": "a/b"}}, 200, {"content-type": "a/b"}, b""),
        (
            {"body": {"a": 1}, "headers": ["content-type: a/b", "X: 1"]},
            200,
            {"content-type": "a/b", "x": "1"},
            b'{"a": 1}',
        ),
        ({"headers": {"x": 5, "y": True}}, 200, {"content-type": "application/json", "x": "5", "y": "true"}, b"{}"),
        (
            {"headers": {"Content-Length": "999", "Transfer-Encoding": "chunked"}},
            200,
            {"content-type": "application/json"},
            b"{}",
        ),
    ],
)
async def test_check_42_43_what_a_result_means_as_a_response(worker, ask, result, status, headers, body):
    worker.functions["a::f"] = lambda data: result
    worker.bind("/x")
    reply = await ask("GET", "/x")
    own = {"content-length": str(len(body)), "connection": "close"}
    expected = {**CORS, **own, **headers}
    assert (reply.status, reply.body) == (status, body)
    assert {name: value for name, value in reply.headers.items() if name != "date"} == expected


async def test_a_header_may_be_given_several_times(worker, ask):
    worker.functions["a::f"] = lambda data: {"headers": {"Set-Cookie": ["a=1", "b=2"]}}
    worker.bind("/x")
    assert [value for name, value in (await ask("GET", "/x")).pairs if name == "set-cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize(
    "result",
    [
        {"status_code": "200"},
        {"status_code": 99},
        {"status_code": 100},
        {"status_code": 1000},
        {"status_code": True},
        {"headers": "x"},
        {"headers": ["no colon"]},
        {"headers": {"x": "a\r\nSet-Cookie: evil=1"}},
        {"headers": {"bad name": "x"}},
        {"headers": {"x": {"a": 1}}},
    ],
)
async def test_a_result_that_http_cannot_say_is_a_500_that_says_what(worker, ask, result):
    worker.functions["a::f"] = lambda data: result
    worker.bind("/x")
    status, error = (await ask("GET", "/x")).error()
    assert (status, error["code"]) == (500, "INTERNAL_ERROR")
    assert "handler's" in error["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "seen"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", b" [1] ", [1]),
        ("application/json", b'{"a": ', None),
        ("application/json", b'"\xff"', None),
        ("application/json", b"", None),
        ("text/plain", b'{"a": 1}', None),
        ("", b'{"a": 1}', None),
    ],
)
async def test_check_41_the_body_is_parsed_only_when_it_is_json(worker, ask, content_type, body, seen):
    worker.bind("/x", "POST")
    reply = await ask("POST", "/x", headers=[("Content-Type", content_type)], body=body)
    assert reply.json()["body"] == seen


async def test_check_41_the_payload_has_these_keys_and_no_others(worker, ask):
    worker.bind("/x/:p", "POST", metadata={"k": 1})
    headers = [("Content-Type", "application/json"), ("X-Two", "1"), ("X-TWO", "2")]
    data = (await ask("POST", "/x/7?a=1", headers=headers, body=b'{"k": 1}')).json()
    refs = {key: data.pop(key) for key in ("request_body", "response")}
    assert {key: ref["direction"] for key, ref in refs.items()} == {"request_body": "read", "response": "write"}
    assert all(set(ref) == {"channel_id", "access_key", "direction"} for ref in refs.values())
    assert data == {
        "path": "/x/:p",
        "method": "POST",
        "path_params": {"p": "7"},
        "query_params": {"a": "1"},
        "headers": {
            "host": "h",
            "connection": "close",
            "content-type": "application/json",
            "x-two": "2",
            "content-length": "8",
        },
        "body": {"k": 1},
        "trigger": {"type": "http", "path": "/x/:p", "method": "POST"},
    }
    assert worker.calls[0]["metadata"] == {"k": 1}


async def test_query_and_path_parameters_are_decoded(worker, ask, http):
    worker.bind("/x/:p")
    data = (await ask("GET", "/x/%E2%82%AC%20?a=1&a=2&b=%C3%A4+c&empty=&bare")).json()
    assert data["path_params"] == {"p": "\u20ac "}
    assert data["query_params"] == {"a": "2", "b": "\u00e4 c", "empty": "", "bare": ""}
    assert (await ask("GET", "/x/y?a=1&&b=x=y")).json()["query_params"] == {"a": "1", "b": "x=y"}
    assert (await ask("GET", "/x/\u00e4")).error()[0] == 400  # raw UTF-8 is no HTTP
    for query in (
        "&".join(f"k{number}=1" for number in range(2000)),
        "&".join(f"k{number}=%20" for number in range(2000)),
    ):
        status, error = (await ask("GET", f"/x/y?{query}")).error()
        assert (status, error["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("route", ["/a b/\u00e4/c%d", "/a%20b/%C3%A4/c%25d", "a%20b/%c3%a4/c%d"])
async def test_a_route_with_encoded_or_plain_literals_is_found_by_what_clients_send(worker, ask, route):
    worker.bind(route)
    reply = await ask("GET", "/a%20b/%c3%A4/c%25d")
    assert (reply.status, reply.json()["path"]) == (200, route)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/f/a%2Fb", 200),  # one segment
        ("/f/a/b", 404),
        ("/f//", 404),
        ("//f/a", 404),
        ("/f/", 404),
        ("/f/a/", 404),
        ("/F/a", 404),
        ("/f/%2e%2E", 400),
        ("/x/../f/a", 400),
        ("/f/.", 400),
        ("/f/...", 200),
        ("/f/a%00b", 400),
        ("/f/%ff", 400),
        ("/f/%C0%AE", 400),
        ("/f/%zz", 200),
        ("/f/" + "a" * 60_000, 200),
        ("/f/" + "a/" * 100, 400),
        ("*", 404),
    ],
)
async def test_odd_paths_get_clear_answers(worker, ask, target, status):
    worker.bind("/f/:name")
    reply = await ask("GET", target)
    assert reply.status == status
    if target == "/f/a%2Fb":
        assert reply.json()["path_params"] == {"name": "a/b"}


# Conditions and middleware


async def test_check_47_only_a_literal_false_of_the_condition_skips_the_function(worker, ask):
    results = [False, None, 0, "", {}, True]
    worker.serve("a::allowed", lambda data: results.pop(0))
    worker.bind("/x", condition_function_id="a::allowed")
    refused = await ask("GET", "/x")
    assert refused.status == 422
    assert refused.json()["skipped"] is True
    assert refused.json()["error"]["code"] == "CONDITION_NOT_MET"
    assert [each["function_id"] for each in worker.calls] == ["a::allowed"]
    while results:
        assert (await ask("GET", "/x")).status == 200


async def test_a_condition_gets_the_payload_without_the_channels_and_its_error_is_a_500(worker, ask):
    worker.serve("a::allowed", lambda data: True)
    worker.bind("/x", condition_function_id="a::allowed")
    seen = (await ask("GET", "/x?a=1")).json()
    assert worker.calls[0]["data"] == {
        key: value for key, value in seen.items() if key not in ("request_body", "response")
    }
    worker.functions["a::allowed"] = lambda data: Failure({"code": "C1", "message": "broken"})
    assert (await ask("GET", "/x")).error()[1]["code"] == "C1"
    worker.bind("/y", condition_function_id="a::missing")
    assert (await ask("GET", "/y")).error()[1]["code"] == "function_not_found"


async def test_empty_conditions_and_middlewares_are_none(worker, ask):
    worker.bind("/a", condition_function_id=None, middleware_function_ids=[])
    worker.bind("/b", condition_function_id="", middleware_function_ids=None)
    assert worker.refusals() == []
    assert [(await ask("GET", path)).status for path in ("/a", "/b")] == [200, 200]


async def test_checks_48_49_middleware_is_asked_in_order_the_global_ones_by_priority_before_the_condition(bus, rest):
    worker, order = Worker(bus), []
    names = ["late", "early", "condition", "one", "two", "f"]
    for name in names:
        worker.serve(f"a::{name}", lambda data, name=name: order.append((name, data)) or {"action": "continue"})
    worker.bind(
        "/x/:p",
        function_id="a::f",
        condition_function_id="a::condition",
        middleware_function_ids=["a::one", "a::two"],
    )
    middleware = [options.Middleware("a::late", priority=5), options.Middleware("a::early", priority=-1)]
    async with rest(middleware=middleware) as http:
        assert (await fetch(http, "GET", "/x/1?a=b", headers=[("X-H", "1")])).status == 200
        assert [name for name, _ in order] == ["early", "late", "condition", "one", "two", "f"]
        view = {
            "path_params": {"p": "1"},
            "query_params": {"a": "b"},
            "headers": {"host": "h", "connection": "close", "x-h": "1"},
            "method": "GET",
        }
        for position in (0, 1, 3, 4):
            assert order[position][1] == {"phase": "preHandler", "request": view, "context": {}}
        assert (await fetch(http, "GET", "/none")).status == 404


@pytest.mark.parametrize(
    ("result", "status", "body"),
    [
        (
            {"action": "respond", "response": {"status_code": 401, "headers": {"x": "1"}, "body": {"no": 1}}},
            401,
            {"no": 1},
        ),
        ({"action": "respond"}, 200, {}),
        ({"action": "continue"}, 200, "f"),
        ({"action": "odd"}, 200, "f"),
        ({"action": 5}, 200, "f"),
        (None, 200, "f"),
        (False, 200, "f"),
        ("respond", 200, "f"),
    ],
)
async def test_a_middleware_that_responds_ends_the_request_and_any_other_value_goes_on(
    worker, ask, result, status, body
):
    worker.serve("a::f", lambda data: {"body": "f"})
    worker.serve("a::m", lambda data: result)
    worker.bind("/x", middleware_function_ids=["a::m"])
    reply = await ask("GET", "/x")
    assert (reply.status, reply.json()) == (status, body)
    if status == 401:
        assert reply.headers["x"] == "1"
        assert [each["function_id"] for each in worker.calls] == ["a::m"]


async def test_a_middleware_that_fails_gives_500_and_one_that_is_too_slow_504(bus, rest):
    worker = Worker(bus)
    worker.serve("a::f")
    worker.serve("a::broken", lambda data: Failure({"code": "M1", "message": "broken"}))
    worker.serve("a::odd", lambda data: {"action": "respond", "response": {"status_code": 7}})
    worker.serve("a::slow", lambda data: HOLD)
    async with rest(default_timeout=300) as http:
        for name in ("broken", "odd", "slow", "missing"):
            worker.bind(f"/{name}", middleware_function_ids=[f"a::{name}"])
        errors = {name: (await fetch(http, "GET", f"/{name}")).error() for name in ("broken", "odd", "slow", "missing")}
        assert {name: (status, error["code"]) for name, (status, error) in errors.items()} == {
            "broken": (500, "M1"),
            "odd": (500, "INTERNAL_ERROR"),
            "slow": (504, "MIDDLEWARE_TIMEOUT"),
            "missing": (500, "function_not_found"),
        }
        assert bus.calls.invocations.in_flight == 0
    assert "a::f" not in [each["function_id"] for each in worker.calls]


async def test_a_client_that_hangs_up_while_a_middleware_is_asked_ends_that(bus, http, worker):
    worker.serve("a::slow", lambda data: HOLD)
    worker.bind("/x", middleware_function_ids=["a::slow"])
    _, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
    await holds(lambda: worker.calls)
    writer.transport.abort()
    await holds(lambda: bus.calls.invocations.in_flight == 0)
    worker.answer(worker.calls[0], result=None)
    assert [each["function_id"] for each in worker.calls] == ["a::slow"]


# CORS


ORIGIN = [("Origin", "https://good.example")]
PREFLIGHT = [("Access-Control-Request-Method", "PUT"), ("Access-Control-Request-Headers", "x-y")]
CORS = {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}


async def test_check_53_without_a_config_every_origin_may_and_preflights_are_answered(worker, ask):
    worker.bind("/x")
    worker.bind("/x", "OPTIONS")
    for reply in (await ask("GET", "/x", ORIGIN), await ask("GET", "/none", ORIGIN)):
        assert CORS.items() <= reply.headers.items()
    preflight = await ask("OPTIONS", "/none", [*ORIGIN, *PREFLIGHT])
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-methods"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "*, Authorization"
    assert CORS.items() <= preflight.headers.items()
    assert (await ask("OPTIONS", "/x")).json()["method"] == "OPTIONS"
    worker.functions["a::f"] = lambda data: {"headers": {"Access-Control-Allow-Origin": "https://own.example"}}
    own = await ask("GET", "/x")
    assert [value for name, value in own.pairs if name == "access-control-allow-origin"] == ["https://own.example"]


async def test_with_a_config_only_its_origins_and_methods_are_allowed(bus, rest):
    worker = Worker(bus)
    worker.serve("a::f")
    worker.bind("/x")
    async with rest(cors=options.Cors(("https://good.example", "https://b.example"), ("GET", "put"))) as http:
        good = await fetch(http, "GET", "/x", ORIGIN)
        assert good.headers["access-control-allow-origin"] == "https://good.example"
        for others in ([("Origin", "https://bad.example")], []):
            reply = await fetch(http, "GET", "/x", others)
            assert reply.status == 200
            assert "access-control-allow-origin" not in reply.headers
            assert reply.headers["vary"] == "origin"
        assert good.headers["vary"] == "origin"
        preflight = await fetch(http, "OPTIONS", "/x", [*ORIGIN, *PREFLIGHT])
        assert preflight.headers["access-control-allow-origin"] == "https://good.example"
        assert preflight.headers["access-control-allow-methods"] == "GET, PUT"
        refused = await fetch(http, "OPTIONS", "/x", [("Origin", "https://bad.example"), *PREFLIGHT])
        assert refused.status == 204
        assert "access-control-allow-origin" not in refused.headers
