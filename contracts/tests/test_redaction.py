"""Secrets in text: found by their form, in every spelling, in time that grows as the text does."""

import base64
import json
import logging
import time
from urllib.parse import quote

import pytest
from agentos_contracts.redaction import MARK, RedactingFilter, Redaction, redacted
from agentos_contracts.tokens import Identity, SigningKey, issue
from hypothesis import given
from hypothesis import strategies as st

TOKEN = issue(SigningKey.generate(), Identity("r", "default/w", "u-1", "worker"), issued_at=1)
URL = f"ws://engine:49134/w/{TOKEN}/pod@1.0"
SECRET = "Sesame-0pen.77"

CARRIERS = [
    pytest.param("Connected to {0}", URL, id="what the SDK prints"),
    pytest.param("GET {0} HTTP/1.1", f"/w/{TOKEN}/pod", id="request line"),
    pytest.param("{0}", quote(URL, safe=""), id="percent-encoded"),
    pytest.param("{0}", URL.replace("/", "\\/"), id="JSON with escaped slashes"),
    pytest.param("{0}", TOKEN, id="alone"),
    pytest.param("{0}", TOKEN.replace(".", "%2E"), id="alone, encoded"),
    pytest.param("{0}", base64.b64encode(TOKEN.encode()).decode(), id="as data of a Secret"),
    pytest.param("x{0}", TOKEN, id="grown onto a word"),
    pytest.param("{0}", "/w/no-jwt-at-all/pod", id="a token that is none"),
    pytest.param("redis://:{0}@cache:6379/0", SECRET, id="credentials of a URL"),
    pytest.param("https://{0}@host/repo", SECRET, id="credentials without a user"),
    pytest.param("Authorization: Bearer {0}", SECRET, id="header"),
    pytest.param("authorization: {0}", SECRET, id="header without a scheme"),
    pytest.param("proxy-authorization: Basic {0}", SECRET, id="proxy's header"),
    pytest.param("x-api-key: {0}", SECRET, id="key's header"),
    pytest.param("{{'x-api-key': '{0}'}}", SECRET, id="header in a dict"),
    pytest.param("[(b'authorization', b'Bearer {0}'), (b'host', b'x')]", SECRET, id="headers of httpx"),
    pytest.param("cookie: a=b; session={0}", SECRET, id="cookie"),
    pytest.param("set-cookie: session={0}; HttpOnly", SECRET, id="cookie that is set"),
    pytest.param("sent Bearer {0} to it", SECRET, id="scheme alone"),
    pytest.param('{{"token": "{0}"}}', SECRET, id="JSON"),
    pytest.param('{{"token": "\\"{0}\\""}}', SECRET, id="JSON with quotes in it"),
    pytest.param('{{"body": "{{\\"access_key\\": \\"{0}\\"}}"}}', SECRET, id="JSON in JSON"),
    pytest.param("{{'reattach_token': '{0}'}}", SECRET, id="Python"),
    pytest.param("OPENAI_API_KEY={0} python x", SECRET, id="variable"),
    pytest.param("--password={0}", SECRET, id="option"),
    pytest.param("/ws/channels/1?key={0}&dir=read", SECRET, id="channel's access key"),
    pytest.param("/ws/channels/1?dir=read&access_key={0}", SECRET, id="access key in a query"),
    pytest.param(
        '{{"key":"http.request.header.x-api-key","value":{{"stringValue":"{0}"}}}}', SECRET, id="attribute of a trace"
    ),
    pytest.param(
        '{{"key":"http.request.header.authorization","value":{{"arrayValue":{{"values":[{{"stringValue":"{0}"}}]}}}}}}',
        SECRET,
        id="list as attribute of a trace",
    ),
    pytest.param("-----BEGIN PRIVATE KEY-----\n{0}\n-----END PRIVATE KEY-----", "Sesame0pen77", id="PEM"),
    pytest.param(
        "client-key-data: {0}", base64.b64encode(b"-----BEGIN EC PRIVATE KEY-----\nxx\nyyyyy").decode(), id="kubeconfig"
    ),
]


@pytest.mark.parametrize(("text", "secret"), CARRIERS)
@pytest.mark.parametrize("around", ["{}", "before {} after", "('{}',)", "a={}"])
def test_a_secret_is_taken_out_wherever_it_stands(text, secret, around):
    shown = redacted(around.format(text.format(secret)))
    assert MARK in shown
    for part in (secret, *secret.split(".")):
        assert len(part) < 3 or part not in shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "nothing secret: a/b/w/",
        "/home/w/greeter/worker.py:2: OSError",
        "spec.env[0].valueFrom.secretKeyRef.name: agentos-token-x holds a Worker's identity",
        "spec.http.jwt: is required where auth, or the auth of a route, is jwt: say issuer, audience and jwksUrl",
        "the token is for realm 'a', this is 'b'",
        "basic understanding of bearer authentication",
        "input_tokens=5 max_tokens: 5",
        '{"secretName": "agentos-api-key"}',
        "function token::make, trigger key=value, api_path=wasm/execute",
        "ws://127.0.0.1:49134 http://127.0.0.1:3111/wasm/modules",
        "me@example.org",
        "password: must be a text",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


PIECES = st.sampled_from(
    [
        *(
            "/w/",
            "eyJ",
            "%2Fw%2F",
            "://",
            "@",
            ".",
            "%2E",
            "Bearer ",
            "authorization: ",
            '"token": "',
            "'",
            '"',
            "\\",
            "\n",
        ),
        *(
            "key=",
            "?",
            "&",
            "<redacted>",
            "=",
            ";",
            "secret",
            "ZXlK",
            "-----BEGIN PRIVATE KEY-----",
            "-----END",
            "sk-",
            " ",
        ),
        *(
            "a" * 24,
            "A1" * 12,
            ", b'",
            "cookie",
            "stringValue",
            "/",
            "-",
            "_",
            "9",
            "b'",
            '"key":"token","value":{"stringValue":"',
        ),
    ]
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=24).map("".join))
def test_redacting_twice_gives_what_redacting_once_gives(text):
    shown = redacted(text)
    assert redacted(shown) == shown


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_token_is_taken_out_of_any_text(before, after):
    shown = redacted(f"{before} {URL} {after}")
    assert TOKEN not in shown
    assert not any(part in shown for part in TOKEN.split("."))


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "eyJ",
            "eyJaaaaaaaaaa.",
            "ZXlK",
            "a-",
            "a.",
            "token",
            "=token",
            "secret_",
            "authorization",
            "authorization:",
            "://",
        ),
        *(
            "x@",
            "/w/",
            "%2Fw%2F",
            "?key=",
            "bearer ",
            "basic  ",
            "-----BEGIN PRIVATE KEY-----",
            '"token":"',
            "'token'",
            "\\",
        ),
        *(
            '\\"token\\":\\"',
            '"key":"token","value":{"stringValue":"',
            "cookie:a;",
            "sk-",
            "gh",
            " ",
            "\n",
            "(b'cookie', b'",
        ),
    ],
)
def test_the_time_grows_as_the_text_does(piece):
    def seconds(size: int) -> float:
        text = (piece * (size // len(piece) + 1))[:size]
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            redacted(text)
            best = min(best, time.process_time() - began)
        return best

    small, large = seconds(4_000), seconds(64_000)
    # 16 times the text; where time grew with its square, it would be 256 times.
    assert large < 80 * small + 0.02


def test_known_values_are_taken_out_in_every_spelling():
    redaction = Redaction(["abc"])
    redaction.add("ws://e:1/w/a%2Fb%2Btoken/uid", "sesame")
    redaction.add("ws://e:1/w/of-another-worker/uid")
    redaction.add("ws://user:open-up@e:1")
    shown = redaction("a/b+token a%2Fb%2Btoken sesame of-another-worker open-up abc")
    assert shown == f"{MARK} {MARK} {MARK} {MARK} {MARK} abc"


def test_records_of_other_loggers_are_redacted_for_every_handler():
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(logging.Formatter("%(message)s").format(record))

    logger = logging.getLogger("test_redaction")
    handler, filtering = Handler(), RedactingFilter()
    logger.addHandler(handler)
    logger.addFilter(filtering)
    try:
        logger.warning("Connected to %s", URL)
        try:
            raise ValueError(f"{URL} is no address")
        except ValueError:
            logger.exception("Connection failed: %r", {"token": SECRET})
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(filtering)
    assert seen[0] == f"Connected to ws://engine:49134/w/{MARK}/pod@1.0"
    assert "ValueError" in seen[1]
    assert not any(secret in "".join(seen) for secret in (TOKEN, SECRET))


def test_json_stays_json():
    lines = [text.values[0].format(text.values[1]) for text in CARRIERS]
    shown = redacted(json.dumps({"lines": lines, "token": SECRET, "nested": {"password": 'a"b\\'}}))
    read = json.loads(shown)
    assert (read["token"], read["nested"]["password"]) == (MARK, MARK)
    assert len(read["lines"]) == len(lines)
