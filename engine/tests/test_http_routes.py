import json

import pytest
from agentos_engine.protocol.http import Request
from agentos_engine.triggers.http import HttpTrigger


class Exchange:
    """A request whose answer is kept."""

    def __init__(self, method, path, query="", headers=(), body=b""):
        self.request = Request(method, path, query, list(headers), body)
        self.on_abandoned = None
        self.response = None

    def respond(self, response):
        assert self.response is None
        self.response = response

    def error(self):
        return self.response.status, json.loads(self.response.body)["error"]


@pytest.fixture
def rest(bus):
    """Serves the routes of the bare bus."""
    return HttpTrigger(bus)


@pytest.fixture
def ask(rest):
    """Sends a request; the answer may come later."""

    def ask(method, path, *more, **options):
        exchange = Exchange(method, path, *more, **options)
        rest.handle(exchange)
        return exchange

    return ask


def bind(peer, path, method="GET", function_id="a::f", trigger_id=None, **config):
    trigger_id = trigger_id or f"{method} {path}"
    config = {"api_path": path, "http_method": method, **config}
    peer.send(type="registertrigger", id=trigger_id, trigger_type="http", function_id=function_id, config=config)


def serve(peer, *paths, function_id="a::f"):
    peer.send(type="registerfunction", id=function_id)
    for path in paths:
        bind(peer, path, function_id=function_id)


def answer(peer, result=None, **more):
    (invoked,) = peer.take("invokefunction")
    ids = {"invocation_id": invoked["invocation_id"], "function_id": invoked["function_id"]}
    peer.send(type="invocationresult", result=result, **ids, **more)
    return invoked["data"]


def test_a_literal_beats_a_parameter_and_methods_are_looked_for_in_both(join, ask):
    worker = join()
    serve(worker, "/items/:id")
    bind(worker, "/items/new", "POST")
    ask("GET", "/items/new")
    assert answer(worker)["path_params"] == {"id": "new"}
    ask("POST", "/items/new")
    assert answer(worker)["path"] == "/items/new"
    assert ask("PUT", "/items/new").response.headers[-1] == ("allow", "GET, HEAD, POST")
    assert ask("PUT", "/items/new").error()[1]["code"] == "METHOD_NOT_ALLOWED"
    assert ask("PUT", "/other").error()[0] == 404


def test_the_method_may_be_left_out_and_written_small(join, ask):
    worker = join()
    worker.send(type="registertrigger", id="1", trigger_type="http", function_id="a::f", config={"api_path": "x"})
    bind(worker, "y", "post")
    assert worker.take() == []
    assert ask("GET", "/x").response.status == 500  # the route is there, its function is not
    assert ask("POST", "/y").error()[1]["code"] == "function_not_found"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "object"),
        ("text", "object"),
        ({}, "api_path"),
        ({"api_path": 5}, "api_path"),
        ({"api_path": "a/:"}, "parameter"),
        ({"api_path": "a", "http_method": "BREW"}, "http_method"),
        ({"api_path": "a", "condition_function_id": "a::allowed"}, "condition_function_id"),
        ({"api_path": "a", "middleware_function_ids": ["a::auth"]}, "middleware_function_ids"),
    ],
)
def test_a_config_that_is_wrong_or_not_served_is_refused_aloud_and_gives_no_route(join, ask, config, words):
    worker = join()
    names = {"id": "t", "trigger_type": "http", "function_id": "a::f"}
    worker.send(type="registertrigger", config=config, **names)
    (refused,) = worker.take("triggerregistrationresult")
    assert {key: refused[key] for key in names} == names
    assert refused["error"]["code"] == "trigger_registration_failed"
    assert words in refused["error"]["message"]
    assert ask("GET", "/a").response.status == 404
    worker.send(type="unregistertrigger", id="t")
    worker.end()


def test_empty_conditions_and_middlewares_are_none(join):
    worker = join()
    bind(worker, "/a", condition_function_id=None, middleware_function_ids=[])
    assert worker.take() == []


def test_check_51_another_name_for_a_parameter_is_refused_until_the_first_route_goes(join, ask):
    first, second = join(), join()
    serve(first, "zz/:a/:b")
    serve(second, "zz/:b/:a", function_id="b::g")
    (refused,) = second.take()
    assert refused["error"]["code"] == "trigger_registration_failed"
    wanted = "Route 'GET zz/:b/:a' conflicts with already-registered route 'GET zz/:a/:b': "
    assert refused["error"]["message"].startswith(wanted)
    ask("GET", "/zz/1/2")
    assert answer(first)["path_params"] == {"a": "1", "b": "2"}
    first.end()
    ask("GET", "/zz/1/2")
    assert answer(second)["path_params"] == {"b": "1", "a": "2"}


def test_check_52_a_rolling_update_never_leaves_a_route_without_an_owner(join, ask):
    old, new = join(), join()
    serve(old, "/r")
    bind(new, "/r", function_id="a::not-yet")  # its route comes before its function
    ask("GET", "/r")
    assert answer(old, {"body": "old"})
    new.send(type="registerfunction", id="a::not-yet")
    ask("GET", "/r")
    assert old.take() == []
    assert answer(new)
    old.end()
    ask("GET", "/r")
    assert answer(new)
    new.end()
    assert ask("GET", "/r").response.status == 404


def test_a_trigger_registered_again_under_its_id_moves(join, ask):
    worker = join()
    serve(worker)
    bind(worker, "/one", trigger_id="t")
    bind(worker, "/two", trigger_id="t")
    assert ask("GET", "/one").response.status == 404
    ask("GET", "/two")
    assert answer(worker)


def test_a_callee_that_goes_fails_the_request_at_once(join, ask):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    worker.end()
    status, error = exchange.error()
    assert (status, error["code"]) == (500, "invocation_stopped")
    assert error["error_id"]


def test_a_handlers_error_is_told_without_its_stack_trace(join, ask):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    answer(worker, error={"code": "W105", "message": "no good", "stacktrace": "SECRET line 5"})
    status, error = exchange.error()
    assert (status, error["code"], error["message"]) == (500, "W105", "no good")
    assert b"SECRET" not in exchange.response.body
    exchange = ask("GET", "/x")
    answer(worker, error="odd")
    assert exchange.error()[1]["code"] == "INTERNAL_ERROR"


@pytest.mark.parametrize(
    ("result", "status", "headers", "body"),
    [
        (None, 200, {"content-type": "application/json"}, b"{}"),
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
def test_check_42_43_what_a_result_means_as_a_response(join, ask, result, status, headers, body):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    answer(worker, result)
    assert exchange.response.status == status
    assert dict(exchange.response.headers) == headers
    assert exchange.response.body == body


def test_a_header_may_be_given_several_times(join, ask):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    answer(worker, {"headers": {"Set-Cookie": ["a=1", "b=2"]}})
    assert [value for name, value in exchange.response.headers if name == "set-cookie"] == ["a=1", "b=2"]


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
def test_a_result_that_http_cannot_say_is_a_500_that_says_what(join, ask, result):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    answer(worker, result)
    status, error = exchange.error()
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
def test_check_41_the_body_is_parsed_only_when_it_is_json(join, ask, content_type, body, seen):
    worker = join()
    serve(worker)
    bind(worker, "/x", "POST")
    ask("POST", "/x", headers=[("content-type", content_type)], body=body)
    assert answer(worker)["body"] == seen


def test_query_and_path_parameters_are_decoded(join, ask):
    worker = join()
    serve(worker, "/x/:p")
    ask("GET", "/x/%E2%82%AC%20", "a=1&a=2&b=%C3%A4+c&empty=&bare")
    data = answer(worker)
    assert data["path_params"] == {"p": "\u20ac "}
    assert data["query_params"] == {"a": "2", "b": "\u00e4 c", "empty": "", "bare": ""}
    assert ask("GET", "/x/%ff").error()[0] == 400
    assert ask("GET", "/x/y", "&".join(f"k{number}=1" for number in range(2000))).error()[0] == 400


def test_an_abandoned_request_leaves_no_call_behind(bus, join, ask):
    worker = join()
    serve(worker, "/x")
    exchange = ask("GET", "/x")
    exchange.on_abandoned()
    assert bus.invocations.in_flight == 0
    answer(worker, {"body": 1})
    assert exchange.response is None


def test_metadata_of_the_trigger_reaches_the_handler(join, ask):
    worker = join()
    serve(worker)
    names = {"id": "t", "trigger_type": "http", "function_id": "a::f"}
    worker.send(type="registertrigger", config={"api_path": "/m"}, metadata={"k": 1}, **names)
    ask("GET", "/m")
    assert worker.take()[0]["metadata"] == {"k": 1}


def test_a_preflight_is_answered_and_a_plain_options_request_is_routed(join, ask):
    worker = join()
    serve(worker)
    bind(worker, "/x", "OPTIONS")
    preflight = ask("OPTIONS", "/x", headers=[("access-control-request-method", "PUT")])
    assert preflight.response.status == 204
    ask("OPTIONS", "/x")
    assert answer(worker)["method"] == "OPTIONS"
