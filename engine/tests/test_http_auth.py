"""Who may use the REST port: rules, keys, and requests that try to be read in two ways; JWT is in test_http_auth_jwt."""

import asyncio
import json
import logging
import os
import subprocess
import sys

import pytest
from agentos_contracts.tokens import SigningKey
from agentos_engine.clock import ManualClock
from agentos_engine.config import read_settings
from agentos_engine.config_file import ConfigError, parse
from agentos_engine.config_file.http_auth import parse_http_auth
from agentos_engine.http_auth import failures, gate
from agentos_engine.http_auth.failures import BURST, Failures
from agentos_engine.http_auth.gate import HttpAuth, http_auth
from agentos_engine.http_auth.keys import MAX_KEY_LENGTH, MAX_KEYS, ApiKeys, read_keys
from agentos_engine.http_auth.policy import HttpAuthOptions, JwtOptions, Policy, Rule
from agentos_engine.protocol.http import Request
from agentos_engine.triggers.routes import request_segments

KEY = "k" * 43
OTHER = "o" * 43

# Rules


RULES = (
    Rule("/webhooks/*", "none"),
    Rule("/webhooks/internal/*", "apiKey"),
    Rule("/webhooks/internal/status", "none", ("GET",)),
    Rule("/webhooks/:vendor/ping", "jwt"),
    Rule("/webhooks/github/ping", "none", ("POST",)),
    Rule("/users/:id", "jwt"),
    Rule("/users/me", "none"),
    Rule("/files/a b/*", "none"),
    Rule("/", "none"),
)


@pytest.mark.parametrize(
    ("target", "method", "kind"),
    [
        ("/", "GET", "none"),
        ("/webhooks", "GET", "apiKey"),
        ("/webhooks/", "GET", "none"),
        ("/webhooks/x", "DELETE", "none"),
        ("/webhooks/x/y/z", "POST", "none"),
        ("/webhooks/internal", "GET", "none"),
        ("/webhooks/internal/", "GET", "apiKey"),
        ("/webhooks/internal/x", "GET", "apiKey"),
        ("/webhooks/internal/status", "GET", "none"),
        ("/webhooks/internal/status", "POST", "apiKey"),
        ("/webhooks/internal/status/", "GET", "apiKey"),
        ("/webhooks/gitlab/ping", "POST", "jwt"),
        ("/webhooks/github/ping", "POST", "none"),
        ("/webhooks/github/ping", "GET", "jwt"),
        ("/webhooks//ping", "GET", "none"),
        ("/users/7", "GET", "jwt"),
        ("/users/", "GET", "apiKey"),
        ("/users/me", "GET", "none"),
        ("/users/%6De", "GET", "none"),
        ("/users/Me", "GET", "jwt"),
        ("/users/me%2Fx", "GET", "jwt"),
        ("/users/me/x", "GET", "apiKey"),
        ("/users/me;v=1", "GET", "jwt"),
        ("/Users/me", "GET", "apiKey"),
        ("//webhooks/x", "GET", "apiKey"),
        ("/webhooks%2Fx", "GET", "apiKey"),
        ("/webhooks\\x", "GET", "apiKey"),
        ("/%77ebhooks/x", "GET", "none"),
        ("/%2577ebhooks/x", "GET", "apiKey"),
        ("/files/a%20b/c", "GET", "none"),
        ("/webhooks*/x", "GET", "apiKey"),
    ],
)
def test_the_most_specific_rule_for_path_and_method_decides(target, method, kind):
    assert Policy("apiKey", RULES).kind_of(request_segments(target), method) == kind


def test_a_star_alone_covers_every_path():
    policy = Policy("none", [Rule("/*", "apiKey"), Rule("/open", "none")])
    kinds = {path: policy.kind_of(request_segments(path), "GET") for path in ("/", "/a", "//", "/open", "/open/x")}
    assert kinds == {"/": "apiKey", "/a": "apiKey", "//": "apiKey", "/open": "none", "/open/x": "apiKey"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "not an object"),
        ("{", "not JSON"),
        ("[" * 100_000, "deep"),
        ('{"auth": "apiKey", "auth": "none"}', "twice"),
        ('{"auth": "nobody"}', "apiKey, jwt, none"),
        ('{"Auth": "none"}', "'Auth' is not known"),
        ('{"auth": "jwt"}', "jwt is missing"),
        ('{"routes": [{"path": "/x", "auth": "jwt"}]}', "jwt is missing"),
        ('{"jwt": {"issuer": "i", "audience": "a"}}', "exactly one of jwksUrl and jwksFile"),
        ('{"jwt": {"issuer": "i", "jwksFile": "f"}}', "audience is missing"),
        ('{"jwt": {"issuer": "i", "audience": "a", "jwksUrl": "file:///etc/passwd"}}', "https:// or http://"),
        ('{"jwt": {"issuer": "i", "audience": "a", "jwksUrl": "https://"}}', "jwksUrl"),
        ('{"routes": [{"path": "/x"}]}', "auth is missing"),
        ('{"routes": [{"auth": "none"}]}', "path is missing"),
        ('{"routes": [{"path": "x", "auth": "none"}]}', "slash"),
        ('{"routes": [{"path": "/x*", "auth": "none"}]}', "last segment"),
        ('{"routes": [{"path": "/*/x", "auth": "none"}]}', "last segment"),
        ('{"routes": [{"path": "/x?a=b", "auth": "none"}]}', "more than a path"),
        ('{"routes": [{"path": "/../x", "auth": "none"}]}', "'..'"),
        ('{"routes": [{"path": "/:", "auth": "none"}]}', "no parameter"),
        ('{"routes": [{"path": "/x", "auth": "none", "methods": ["FETCH"]}]}', "no method"),
        ('{"routes": [{"path": "/x", "auth": "none", "methods": []}]}', "methods is empty"),
        ('{"routes": [{"path": "/x", "auth": "none"}, {"path": "/%78", "auth": "jwt"}], "jwt": 5}', "jwt"),
        ('{"routes": [{"path": "/:a", "auth": "none"}, {"path": "/:b", "auth": "apiKey"}]}', "two rules"),
        (json.dumps({"routes": [{"path": f"/{n}", "auth": "none"} for n in range(257)]}), "more than 256 routes"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(text, words, capsys):
    with pytest.raises(ValueError, match=r".") as error:
        parse_http_auth(text)
    assert words in str(error.value)
    with pytest.raises(SystemExit) as end:
        read_settings([], {"AGENTOS_HTTP_AUTH": text})
    assert end.value.code == 2
    assert "--http-auth" in capsys.readouterr().err


def test_the_flag_and_the_config_file_say_the_same():
    jwt = {"issuer": "https://i", "audience": "a", "jwksUrl": "https://i/keys"}
    routes = [{"path": "/webhooks/*", "methods": ["post"], "auth": "none"}, {"path": "/u", "auth": "jwt"}]
    block = {"auth": "apiKey", "apiKeysFile": "/keys", "jwt": jwt, "routes": routes}
    options = HttpAuthOptions(
        "apiKey",
        "/keys",
        JwtOptions("https://i", "a", jwks_url="https://i/keys"),
        (Rule("/webhooks/*", "none", ("POST",)), Rule("/u", "jwt")),
    )
    assert read_settings([], {"AGENTOS_HTTP_AUTH": json.dumps(block)}).http_auth == options
    assert read_settings(["--http-auth", json.dumps(block)], {}).http_auth == options
    assert parse(json.dumps({"agentos": {"http": block}}), {}).agentos.http == options
    with pytest.raises(ConfigError, match=r"line 1: agentos\.http\.auth"):
        parse("agentos: {http: {auth: all}}", {})


def test_without_settings_an_open_engine_asks_for_nothing_and_one_with_tokens_for_an_api_key():
    assert http_auth(None, True, ManualClock()) is None
    assert http_auth(HttpAuthOptions("none"), False, ManualClock()) is None
    guarded = http_auth(None, False, ManualClock())
    assert guarded is not None
    refused = guarded.check(Request("GET", "/a"), ["a"], "GET", lambda: "")
    assert refused.status == 401
    assert b"apiKeysFile" in refused.body


def test_a_refusal_says_how_a_key_is_sent(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k" * 40)
    guarded = http_auth(HttpAuthOptions(api_keys_file=str(keys)), False, ManualClock())
    assert guarded is not None
    body = guarded.check(Request("GET", "/a"), ["a"], "GET", lambda: "").body
    assert all(each in body for each in (b"x-api-key", b"Authorization", b"Bearer"))
    assert b"redacted" not in body


def test_an_engine_that_takes_no_jwt_does_not_load_what_only_that_needs(tmp_path):
    script = (
        "import sys, agentos_engine.__main__\n"
        "from agentos_engine.clock import Clock\n"
        "from agentos_engine.http_auth.gate import HttpAuth\n"
        "from agentos_engine.http_auth.policy import HttpAuthOptions\n"
        "HttpAuth(HttpAuthOptions('apiKey', '/nothing'), 'none', Clock())\n"
        "print({'jwt', 'cryptography', 'httpcore', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


# Keys


def test_every_key_is_compared_whatever_the_others_say(monkeypatch):
    compared = []
    compare = gate.read_keys.__globals__["hmac"].compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))) or compare(a, b))
    keys = ApiKeys(["first-key", "second-key", "third-key"])
    assert [keys.knows(text) for text in ("first-key", "nope", "third-key", "")] == [True, False, True, False]
    assert compared == [(32, 32)] * 12


def test_a_file_has_a_key_a_line_and_what_is_wrong_is_told_by_its_number_only(tmp_path, caplog):
    file = tmp_path / "keys"
    long = "l" * (MAX_KEY_LENGTH + 1)
    file.write_bytes(f"# comment\n\n {KEY} \r\n{OTHER}\nwith space\nn\u00f6t\n{long}\nshort".encode())
    keys, wrong = read_keys(file)
    assert (len(keys), wrong) == (3, "")
    assert all(map(keys.knows, (KEY, OTHER, "short")))
    assert not any(map(keys.knows, ("with space", long, "# comment")))
    told = [record.getMessage() for record in caplog.records]
    assert [text.split("line ")[1].split()[0] for text in told] == ["5", "6", "7", "8"]
    assert not any(each in "".join(told) for each in (KEY, "with space", "short\n", long))
    file.write_text("\n".join(f"{n}{KEY}" for n in range(MAX_KEYS + 5)))
    assert len(read_keys(file)[0]) == MAX_KEYS


@pytest.mark.parametrize("content", [None, b"", b"\n# only this\n", b"x" * (65 << 10)])
def test_a_file_without_keys_lets_nobody_in(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    auth = HttpAuth(HttpAuthOptions("apiKey", str(file)), "none", ManualClock())
    for headers in ([], [("x-api-key", "")], [("authorization", "Bearer ")], [("x-api-key", KEY)]):
        refused = auth.check(Request("GET", "/", headers=headers), [""], "GET", lambda: "")
        assert refused.status == 401
        assert b"file with the API keys" in refused.body


# Failures


def test_failures_are_counted_by_address_and_allowed_again_after_a_while():
    now = [0.0]
    counted = Failures(lambda: now[0])
    assert [counted.add("1.2.3.4") for _ in range(BURST)] == [0] * BURST
    assert 0 < counted.add("1.2.3.4") <= 1
    assert counted.add("1.2.3.5") == 0
    now[0] = 1.5
    assert counted.add("1.2.3.4") == 0
    assert counted.add("1.2.3.4") > 0
    now[0] = 1e9
    assert [counted.add("1.2.3.4") for _ in range(BURST)] == [0] * BURST
    assert counted.add("1.2.3.4") > 0


def test_addresses_of_one_ipv6_site_count_as_one_and_mapped_ones_as_ipv4():
    counted = Failures(lambda: 0.0)
    for host in range(BURST):
        counted.add(f"2001:db8:1:2::{host:x}")
    assert counted.add("2001:db8:1:2:ffff::1%eth0") > 0
    assert counted.add("2001:db8:1:3::1") == 0
    for _ in range(BURST):
        counted.add("::ffff:9.9.9.9")
    assert counted.add("9.9.9.9") > 0
    assert counted.add("nonsense:") == 0


def test_the_table_of_addresses_is_bounded_and_forgets_who_was_quiet_longest(monkeypatch):
    monkeypatch.setattr(failures, "MAX_ADDRESSES", 3)
    counted = Failures(lambda: 0.0)
    for _ in range(BURST + 1):
        counted.add("a")
    for address in ("b", "c", "a", "d"):
        counted.add(address)
    assert len(counted) == 3
    assert counted.add("a") > 0


# Over real sockets


class Rest:
    """An engine with a worker whose function answers with what it was given."""

    def __init__(self, running, worker):
        self.running, self.worker = running, worker
        self.calls = []
        self.task = asyncio.create_task(self._serve())

    async def _serve(self):
        while True:
            message = await self.worker.receive("invokefunction")
            self.calls.append(message["data"])
            ids = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
            await self.worker.send(type="invocationresult", result={"body": message["data"]}, **ids)

    async def bind(self, path, method="GET", **config):
        config = {"api_path": path, "http_method": method, **config}
        await self.worker.send(
            type="registertrigger", id=f"{method} {path}", trigger_type="http", function_id="a::f", config=config
        )

    async def send(self, request):
        """Send bytes; returns status, headers and body of the answer, which has to end the connection."""
        answer = await self.running.http(request)
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, json.loads(body) if body else None

    async def ask(self, target="/a", *headers, method="GET", version="1.1", body=b""):
        lines = [f"{method} {target} HTTP/{version}", "Host: h", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def status(self, *request, **options):
        return (await self.ask(*request, **options))[0]


@pytest.fixture
async def start(run_engine, tmp_path):
    made = []

    async def start(keys=KEY, *flags, **options):
        file = tmp_path / "keys"
        if keys is not None:
            file.write_text(keys)
        options = {"auth": "apiKey", "apiKeysFile": str(file), **options}
        running = await run_engine("--http-auth", json.dumps(options), *flags)
        worker = await running.connect()
        await worker.send(type="registerfunction", id="a::f")
        rest = Rest(running, worker)
        made.append(rest)
        for path in ("/a", "/users/:id", "/users/me", "/open/x", "/a%2Fb", "/"):
            await rest.bind(path)
        await rest.bind("/a", "POST")
        bound = running.engine.modules["http"]
        async with asyncio.timeout(10):
            while bound.routes < 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return rest

    yield start
    for rest in made:
        rest.task.cancel()


async def test_a_request_needs_a_key_and_no_worker_sees_it(start):
    rest = await start(f"{KEY}\n{OTHER}")
    for header in (f"Authorization: Bearer {KEY}", f"AUTHORIZATION: bEaReR   {OTHER}", f"X-Api-Key: {KEY}"):
        status, _, given = await rest.ask("/a", header, "X-Mine: 1")
        assert status == 200
        assert given["headers"] == {"host": "h", "connection": "close", "x-mine": "1"}
    status, headers, body = await rest.ask("/a")
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer")
    assert body["error"]["code"] == "UNAUTHORIZED"
    assert len(rest.calls) == 3


async def test_what_is_not_the_key_goes_on_to_the_worker_and_the_key_goes_nowhere(start):
    rest = await start(routes=[{"path": "/open/*", "auth": "none"}])
    _, _, given = await rest.ask("/a", f"x-api-key: {KEY}", "Authorization: Bearer theirs")
    assert given["headers"]["authorization"] == "Bearer theirs"
    assert "x-api-key" not in given["headers"]
    _, _, given = await rest.ask("/a", f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}", "x-api-key-id: 1")
    assert KEY not in json.dumps(given)
    assert given["headers"]["x-api-key-id"] == "1"
    _, _, given = await rest.ask("/open/x", f"Authorization: Bearer {KEY}", f"x-api-key: {KEY}", f"x-api-key: {KEY}")
    assert KEY not in json.dumps(given)
    _, _, given = await rest.ask("/open/x", "Authorization: Basic eA==", "x-api-key: theirs")
    assert (given["headers"]["authorization"], given["headers"]["x-api-key"]) == ("Basic eA==", "theirs")


@pytest.mark.parametrize(
    "headers",
    [
        ["x-api-key: wrong"],
        ["x-api-key:"],
        [f"x-api-key: {KEY[:-1]}"],
        [f"x-api-key: {KEY}x"],
        [f"x-api-key: {KEY}\xe9"],
        ["x-api-key: \xff\xfe"],
        [f"x-api-key: {KEY}", "x-api-key: wrong"],
        ["x-api-key: wrong", f"x-api-key: {KEY}"],
        [f"x_api_key: {KEY}"],
        [f"Authorization: {KEY}"],
        [f"Authorization: Basic {KEY}"],
        [f"Authorization: Bearer\t{KEY}"],
        [f"Authorization: Bearer {KEY}, Bearer {KEY}"],
        [f"Authorization: BearerX {KEY}"],
        ["Authorization: Bearer"],
        ["Authorization:"],
        [f"Authorization: Bearer {KEY}", "Authorization: Bearer wrong"],
        ["Authorization: Basic x", f"Authorization: Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"],
        ["Authorization: Bearer " + "x" * 60_000],
        [f"Cookie: x-api-key={KEY}"],
        [
            f"X-Original-URL: /open/x\r\nX-Rewrite-URL: /open/x\r\nX-Forwarded-Uri: /open/x\r\nX-HTTP-Method-Override: {KEY}"
        ],
    ],
    ids=lambda headers: "|".join(headers)[:50].encode("ascii", "replace").decode(),
)
async def test_headers_that_are_not_exactly_one_key_are_refused(start, headers):
    rest = await start(routes=[{"path": "/open/*", "auth": "none"}])
    status, answered, body = await rest.ask("/a", *headers)
    assert status == 401
    assert "www-authenticate" in answered
    assert KEY not in json.dumps(body)
    assert rest.calls == []


@pytest.mark.parametrize(
    "target",
    [
        "/a",
        "/a?x-api-key=" + KEY,
        "/a?/open/x",
        "/a#/open/x",
        "/%61",
        "/a%2Fb",
        "//a",
        "//open/x",
        "/open",
        "/open%2Fx",
        "/OPEN/x",
        "/open\\x",
        "/users/me",
        "/users/%6de",
        "/users/7",
        "/nothing",
        "http://h/a",
        "http://open/a",
        "http://h/open%2fx",
        "*",
    ],
)
async def test_no_way_to_write_a_path_leads_around_the_rule(start, target):
    rest = await start(routes=[{"path": "/open/*", "auth": "none"}])
    for method in ("GET", "HEAD"):
        assert await rest.status(target, method=method) == 401
        assert await rest.status(target, method=method, version="1.0") == 401
    assert rest.calls == []


@pytest.mark.parametrize(
    "target", ["/open/../a", "/open/%2e%2e/a", "/open/%2E./a", "/./a", "/open/x/..;/%2e%2e/a", "a", "/a%00"]
)
async def test_what_is_no_path_reaches_nobody(start, target):
    rest = await start(routes=[{"path": "/open/*", "auth": "none"}])
    assert await rest.status(target) in (400, 404)
    assert rest.calls == []


@pytest.mark.parametrize("target", ["/open/x", "/open/%78", "/%6fpen/x", "/open/x?a=b", "http://any/open/x"])
async def test_an_open_path_is_open_however_it_is_written(start, target):
    rest = await start(routes=[{"path": "/open/*", "auth": "none"}])
    assert await rest.status(target) == 200


async def test_a_rule_for_get_holds_for_head_of_the_same_route(start):
    rest = await start(auth="none", routes=[{"path": "/a", "methods": ["GET"], "auth": "apiKey"}])
    assert await rest.status("/a", method="HEAD") == 401
    assert await rest.status("/a", method="POST") == 200
    assert await rest.status("/a", "X-HTTP-Method-Override: GET", "X-HTTP-Method: GET", method="POST") == 200
    assert await rest.status("/a", f"x-api-key: {KEY}", method="HEAD") == 200


async def test_a_stranger_does_not_learn_which_routes_there_are(start):
    rest = await start()
    answers = [await rest.ask(path, method="DELETE") for path in ("/a", "/nothing", "/users/7")]
    assert {status for status, _, _ in answers} == {401}
    assert len({json.dumps(body) for _, _, body in answers}) == 1
    assert not any("allow" in headers for _, headers, _ in answers)
    assert await rest.status("/nothing", f"x-api-key: {KEY}") == 404


async def test_a_route_cannot_open_itself(start):
    rest = await start()
    await rest.bind("/mine", auth="none", security="none", http={"auth": "none"})
    async with asyncio.timeout(10):
        while (await rest.ask("/mine", f"x-api-key: {KEY}"))[0] != 200:
            pass
    assert await rest.status("/mine") == 401


async def test_preflights_of_browsers_pass_and_reach_no_function(start):
    rest = await start()
    await rest.bind("/a", "OPTIONS")
    asked = ("Origin: https://x", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization")
    status, headers, _ = await rest.ask("/a", *asked, method="OPTIONS")
    assert status == 204
    assert "Authorization" in headers["access-control-allow-headers"]
    assert await rest.status("/a", "Origin: https://x", method="OPTIONS") == 401
    assert await rest.status("/a", *asked, method="GET") == 401
    status, headers, _ = await rest.ask("/a", "Origin: https://x")
    assert (status, headers["access-control-allow-origin"]) == (401, "*")
    assert rest.calls == []


async def test_a_body_is_not_read_of_somebody_without_a_key(start):
    rest = await start()
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    status, headers, _ = await rest.send(head)
    assert (status, headers["connection"]) == (401, "close")
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert (await rest.send(head))[0] == 401
    body = json.dumps({"n": 1}).encode()
    key = f"x-api-key: {KEY}"
    status, _, given = await rest.ask("/a", key, "Content-Type: application/json", method="POST", body=body)
    assert (status, given["body"]) == (200, {"n": 1})


async def test_a_route_that_goes_while_the_body_comes_is_not_found_rather_than_refused(start):
    rest = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.running.ports.http)
    head = f"POST /a HTTP/1.1\r\nHost: h\r\nx-api-key: {KEY}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    writer.write(head.encode() + b"{")
    http = rest.running.engine.modules["http"]
    async with asyncio.timeout(10):
        while not http.server.buffered:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await rest.worker.send(type="unregistertrigger", id="POST /a")
        while http.routes > 6:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.write(b"}")
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 405 Method Not Allowed\r\n"
    writer.close()


async def test_each_request_of_a_connection_is_asked_for_itself(start):
    rest = await start()
    one = f"GET /a HTTP/1.1\r\nHost: h\r\nx-api-key: {KEY}\r\n\r\n"
    last = one.replace("Host: h", "Host: h\r\nConnection: close")
    answer = await rest.running.http(f"{one}GET /a HTTP/1.1\r\nHost: h\r\n\r\n{last}".encode())
    assert [int(part.split()[0]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 401, 200]


async def test_too_many_failures_are_put_off_while_the_right_key_still_passes(start, caplog):
    rest = await start()
    caplog.set_level(logging.WARNING)
    statuses = [await rest.status("/a", f"x-api-key: {KEY}{number}") for number in range(BURST + 5)]
    assert statuses[:BURST] == [401] * BURST
    assert statuses[-1] == 429
    status, headers, body = await rest.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")  # closed by the engine
    assert (status, body["error"]["code"], headers["connection"]) == (429, "TOO_MANY_FAILURES", "close")
    assert int(headers["retry-after"]) >= 1
    assert await rest.status("/a", f"x-api-key: {KEY}") == 200
    assert caplog.text.count("requests to the REST port were refused") == 1
    assert KEY not in caplog.text


async def test_keys_are_read_again_when_their_file_changes(start, tmp_path):
    rest = await start()
    assert await rest.status("/a", f"x-api-key: {OTHER}") == 401

    async def becomes(key, status):
        async with asyncio.timeout(10):
            while await rest.status("/a", f"x-api-key: {key}") != status:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    fresh = tmp_path / "fresh"
    fresh.write_text(OTHER)
    os.replace(fresh, tmp_path / "keys")
    await becomes(OTHER, 200)
    (tmp_path / "keys").unlink()
    async with asyncio.timeout(10):
        while await rest.status("/a", f"x-api-key: {OTHER}") == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    (tmp_path / "keys").write_text(KEY)
    await becomes(KEY, 200)


async def test_an_engine_with_tokens_wants_an_api_key_and_says_what_to_set(run_engine):
    key = SigningKey.generate().verify_key
    guarded = await run_engine("--verify-keys", key)
    answer = await guarded.http(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"apiKeysFile" in answer
    assert b"--http-auth" in answer
    for options in ({"anonymous": True}, {"http_auth": HttpAuthOptions("none")}):
        running = await run_engine("--verify-keys", key, **options)
        answer = await running.http(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_other_rules_in_the_config_file_take_effect_while_the_engine_runs(run_engine, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    port = "workers: [{name: http, config: {port: 0, host: 127.0.0.1}}]\n"
    running = await run_engine(prepare=None)
    ask = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    assert (await running.http(ask)).startswith(b"HTTP/1.1 404 ")
    config = running.engine.config
    block = f"agentos: {{http: {{auth: apiKey, apiKeysFile: {tmp_path / 'keys'}}}}}"
    guarded = parse(port + block, {}).agentos
    await running.engine.reload(type(config)(config.entries, agentos=guarded))
    assert (await running.http(ask)).startswith(b"HTTP/1.1 401 ")
    assert (await running.http(ask.replace(b"Host", f"x-api-key: {KEY}\r\nHost".encode()))).startswith(b"HTTP/1.1 404 ")
    await running.engine.reload(config)
    assert (await running.http(ask)).startswith(b"HTTP/1.1 404 ")
