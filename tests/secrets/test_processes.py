"""Real processes with real secrets, at their most talkative: nothing that they print, keep or answer holds one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from agentos_contracts.tokens import Identity, Role, SigningKey, issue
from ups import until
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from tests.certificates import Authority
from tests.secrets.canaries import Canaries

AGENTOS = Path(sys.executable).with_name("agentos")
KIT_WORKER = """
import os
from agentos_workers.kit import Context, FunctionError, Http, Worker
worker = Worker("leaky")
@worker.function("leaky::fail", http=Http("POST", "leaky/fail"))
async def fail(context: Context) -> None:
    try:
        raise RuntimeError("broken at " + os.environ["III_URL"])
    except RuntimeError as error:
        raise FunctionError("BROKEN", str(error), status=500) from error
@worker.function("leaky::crash", http=Http("POST", "leaky/crash"))
async def crash(context: Context) -> None:
    raise RuntimeError("crashed at " + os.environ["III_URL"])
"""
SDK_WORKER = """
import logging, os, signal, threading
from iii import InitOptions, register_worker
logging.basicConfig(level=logging.DEBUG)
worker = register_worker(os.environ["III_URL"], InitOptions(worker_name="plain"))
def fail(data):
    raise RuntimeError("broken at " + os.environ["III_URL"])
worker.register_function("plain::fail", fail)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
"""


@contextlib.contextmanager
def process(canaries: Canaries, name: str, folder: Path, *command: object, **environment: str) -> Iterator[Path]:
    """Run a program to its end with the block; what it prints is among the canaries' texts then. Gives its output's file."""
    log = folder / f"{name}.log"
    with log.open("w") as output:
        running = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
    finally:
        running.send_signal(signal.SIGINT if "up" in command else signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        canaries.keep(name, log.read_text())


def run(canaries: Canaries, name: str, *command: object, **environment: str) -> str:
    """Run a program that ends by itself; returns what it printed, and keeps it."""
    done = subprocess.run(
        [*map(str, command)], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    return canaries.keep(name, done.stdout + done.stderr)


class Bus:
    """A bare connection to an engine, such as the operator's."""

    def __init__(self, socket: ClientConnection, canaries: Canaries) -> None:
        self._socket, self._number = socket, 0
        canaries.add("reattach token", json.loads(socket.recv(10))["reattach_token"])

    def call(self, function_id: str, payload: object = None) -> str:
        """Call a function; returns the answer's frame as text."""
        self._number += 1
        call = {
            "type": "invokefunction",
            "function_id": function_id,
            "data": payload,
            "invocation_id": str(self._number),
        }
        self._socket.send(json.dumps(call))
        while True:
            frame = str(self._socket.recv(20))
            if json.loads(frame).get("invocation_id") == call["invocation_id"]:
                return frame

    def tell(self, secret: dict[str, str]) -> None:
        """Send what an SDK sends of itself, with all that an instrumented client puts into it."""
        url = f"ws://127.0.0.1:1/w/{secret['token of plain']}/pod"
        texts = {
            "url.full": f"{url}/ws/channels/1?key={secret['query']}",
            "http.request.header.authorization": f"Bearer {secret['wrong_key']}",
            "http.request.header.x-api-key": secret["api_key"],
            "http.request.header.cookie": f"session={secret['cookie']}",
            "exception.message": f"refused: {{'authorization': 'Bearer {secret['bearer']}'}}",
        }
        attributes = [{"key": name, "value": {"stringValue": text}} for name, text in texts.items()]
        span = {"traceId": "a" * 32, "spanId": "b" * 16, "name": f"GET {url}", "attributes": attributes,
                "events": [{"name": "exception", "attributes": attributes}], "status": {"code": 2, "message": url}}  # fmt: skip
        record = {
            "body": {"stringValue": f"said what it is: Connected to {url}"},
            "attributes": attributes,
            "severityNumber": 17,
        }
        spans = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        records = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
        self._socket.send(b"OTLP" + json.dumps(spans).encode())
        self._socket.send(b"LOGS" + json.dumps(records).encode())
        self.call("engine::log::error", {"message": f"no way to {url}", "data": texts})


def identity(key: SigningKey, subject: str, role: str = Role.WORKER, realm: str = "prod") -> str:
    return issue(key, Identity(realm, subject, f"uid-{subject}", role), int(time.time()))


def test_engine_workers_and_answers_hold_no_secret(tmp_path: Path) -> None:
    key, strange = SigningKey.generate(), SigningKey.generate()
    tokens = {name: identity(key, f"default/{name}") for name in ("leaky", "plain")}
    canaries = Canaries(
        **{f"token of {name}": token for name, token in tokens.items()},
        operator=identity(key, "operator", Role.OPERATOR),
        stranger=identity(strange, "default/leaky"),
        elsewhere=identity(key, "default/leaky", realm="other"),
        signing_key=key.to_text(),
        api_key="api-key-Canary-4815162342",
        wrong_key="wrong-key-Canary-4815162342",
        bearer="eyJhbGciOiJSUzI1NiJ9.eyJDYW5hcnkiOjF9.c2lnbmF0dXJlLUNhbmFyeQ",
        cookie="session-Canary-4815162342",
        query="query-Canary-4815162342",
        junk="junk-token-Canary-4815162342",
    )
    secret = canaries.secrets
    (tmp_path / "keys").write_text(secret["api_key"])
    (tmp_path / "worker.py").write_text(KIT_WORKER)
    (tmp_path / "plain.py").write_text(SDK_WORKER)
    auth = {"apiKeysFile": str(tmp_path / "keys")}
    engine_command = (
        *("-m", "agentos_engine", "--realm", "prod", "--verify-keys", key.verify_key, "--log-level", "debug"),
        *(f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-")),
        *("--http-auth", json.dumps(auth), "--data-dir", tmp_path / "data"),
    )
    with process(canaries, "engine", tmp_path, *engine_command) as log:
        listening = until(
            "it listens", lambda: [each for each in log.read_text().splitlines() if '"listening"' in each]
        )
        ports = json.loads(listening[0])
        bus, rest, admin, console = (ports[name] for name in ("port", "http_port", "admin_port", "console_port"))
        address = f"ws://127.0.0.1:{bus}/w"
        with connect(f"{address}/{secret['operator']}/op", proxy=None, max_size=None) as socket:
            operator = Bus(socket, canaries)
            grants = [
                {"uid": f"uid-default/{name}", "worker": f"default/{name}", "owns": [f"{name}::*"], "discover": False,
                 "calls": None, "state_scopes": None, "leaving": False}
                for name in tokens
            ]  # fmt: skip
            assert '"applied":2' in operator.call("engine::grants::apply", {"complete": True, "grants": grants})
            environment = {"OTEL_ENABLED": "true", "AGENTOS_LOG_LEVEL": "debug"}
            urls = {name: f"{address}/{token}/pod-{name}@1.0" for name, token in tokens.items()}
            kit = ("-m", "agentos_workers", "run", tmp_path / "worker.py")
            # What foreign SDKs print is theirs (docs/security.md): it is kept apart, and must hold what is looked for.
            foreign = Canaries(token=tokens["plain"])
            with (
                process(canaries, "worker on the kit", tmp_path, *kit, III_URL=urls["leaky"], **environment) as printed,
                process(foreign, "plain", tmp_path, tmp_path / "plain.py", III_URL=urls["plain"], **environment),
            ):
                listed = lambda: operator.call("engine::functions::list", {})  # noqa: E731
                until("both are there", lambda: all(f"{name}::fail" in listed() for name in tokens))
                canaries.keep("answer of the kit", operator.call("leaky::crash", {}))
                assert "/w/<redacted>" in canaries.keep("answer of the kit", operator.call("leaky::fail", {}))
                assert "broken at" in foreign.keep("answer", operator.call("plain::fail", {}))
                _ask_rest(canaries, f"http://127.0.0.1:{rest}")
                _knock(canaries, address)
                operator.tell(secret)
                until("logs are there", lambda: "said what it is" in operator.call("engine::logs::list", {}))
                until(
                    "spans are there",
                    lambda: "a" * 32 in operator.call("engine::traces::list", {"include_internal": True}),
                )
                for listing in (
                    "logs",
                    "traces",
                    "metrics",
                    "connections",
                    "workers",
                    "functions",
                    "triggers",
                    "grants",
                ):
                    canaries.keep(f"engine::{listing}::list", operator.call(f"engine::{listing}::list", {}))
                for path in ("workers", "calls", "functions", "logs", "traces"):
                    canaries.keep(f"console {path}", httpx.get(f"http://127.0.0.1:{console}/api/{path}").text)
                failing = {"function_id": "leaky::fail", "payload": {}}
                answer = httpx.post(f"http://127.0.0.1:{console}/api/call", json=failing)
                assert "/w/<redacted>" in canaries.keep("console call", answer.text)
                for path in ("metrics", "healthz", "readyz", "nothing"):
                    canaries.keep("admin port", httpx.get(f"http://127.0.0.1:{admin}/{path}").text)
            assert "Connected to ws://127.0.0.1" in printed.read_text()
    assert foreign.found(), "an unmodified SDK prints its token no more: docs/security.md says it does"
    assert "leaky" in canaries.texts["engine"]
    assert canaries.found() == []


def _ask_rest(canaries: Canaries, base: str) -> None:
    secret = canaries.secrets
    refused = [
        {},
        {"authorization": f"Bearer {secret['wrong_key']}"},
        {"authorization": f"Basic {secret['wrong_key']}"},
        {"authorization": f"Bearer {secret['bearer']}"},
        {"x-api-key": secret["wrong_key"]},
        {"authorization": secret["api_key"], "cookie": f"session={secret['cookie']}"},
    ]
    for headers in refused:
        answer = httpx.post(f"{base}/leaky/fail?token={secret['query']}", headers=headers, json={})
        assert answer.status_code in (401, 429), answer.text
        canaries.keep("REST refusals", f"{answer.headers} {answer.text}")
    for path in ("leaky/fail", "leaky/crash", f"nowhere?api_key={secret['query']}", f"w/{secret['junk']}/x"):
        answer = httpx.post(f"{base}/{path}", headers={"x-api-key": secret["api_key"]}, json={})
        assert answer.status_code in (404, 500), (path, answer.text)
        canaries.keep("REST errors", f"{answer.headers} {answer.text}")


def _knock(canaries: Canaries, address: str) -> None:
    """Connect with what is no token, and with one send what is no message."""
    secret = canaries.secrets
    doors = [
        f"{secret[name]}{suffix}"
        for name in ("stranger", "elsewhere", "junk", "bearer")
        for suffix in ("/pod", f"/ws/channels/x?key={secret['query']}", f"/%00?reattach={secret['query']}")
    ]

    def knock(door: str) -> list[str]:
        said: list[str] = []
        with (
            contextlib.suppress(ConnectionClosed, InvalidHandshake),
            connect(f"{address}/{door}", proxy=None) as socket,
        ):
            while True:
                said.append(str(socket.recv(10)))
        return said

    with ThreadPoolExecutor(len(doors)) as threads:
        for said in threads.map(knock, doors):
            canaries.keep("refusals of the bus", "".join(said))
    for junk in (
        f'{{"type": "{secret["bearer"]}"}}',
        secret["junk"],
        f'{{"type":"reattach","token":"{secret["junk"]}"}}',
    ):
        with (
            contextlib.suppress(ConnectionClosed, TimeoutError),
            connect(f"{address}/{secret['operator']}/op2", proxy=None) as socket,
        ):
            canaries.add("another reattach token", json.loads(socket.recv(10))["reattach_token"])
            socket.send(junk)
            socket.send(b"OTLP" + secret["junk"].encode())
            socket.send('{"type":"ping"}')
            canaries.keep("answers to junk", str(socket.recv(0.5)))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--verify-keys", "key-Canary-4815162342"], id="a key that is none"),
        pytest.param(["--http-auth", '{"auth":"apiKey","apiKey":"key-Canary-4815162342"}'], id="a key in the flag"),
        pytest.param(["--http-auth", '{"password": "key-Canary-4815162342"'], id="JSON that is none"),
        pytest.param(["--config", "config.yaml"], id="a config that is wrong"),
        pytest.param(["--tls-cert", "config.yaml", "--tls-key", "config.yaml"], id="a key file that is none"),
    ],
)
def test_an_engine_that_does_not_start_says_why_without_a_secret(tmp_path: Path, arguments: list[str]) -> None:
    canaries = Canaries(key="key-Canary-4815162342")
    (tmp_path / "config.yaml").write_text(
        "workers:\n- name: iii-http\n  config: {api_key: key-Canary-4815162342, port: 'token=key-Canary-4815162342'}\n"
    )
    files = [str(tmp_path / each) if each == "config.yaml" else each for each in arguments]
    said = run(canaries, "engine", sys.executable, "-m", "agentos_engine", *files, "--port=0", "--log-level=debug")
    assert "agentos-engine: " in said
    assert canaries.found() == []


def test_agentos_up_and_the_commands_hold_no_secret(tmp_path: Path) -> None:
    canaries = Canaries(password="password-Canary-4815162342", variable="sk-variable-Canary-4815162342")
    secret = canaries.secrets
    worker = tmp_path / "leaky"
    worker.mkdir()
    (worker / "worker.py").write_text(
        KIT_WORKER
        + "print('started with', os.environ['III_URL'], flush=True)\nprint(worker, os.environ['OPENAI_API_KEY'][:0], flush=True)\n"
    )
    manifest = "iii: v1\nname: leaky\nscripts: {start: agentos-worker run worker.py}\n"
    (worker / "iii.worker.yaml").write_text(f"{manifest}env: {{SERVICE_PASSWORD: {secret['password']}}}\n")
    shown = (worker / "token.txt").relative_to(tmp_path)
    # By what it is told it proves who it is: so the test learns the token.
    (worker / "worker.py").write_text(
        (worker / "worker.py").read_text() + f"open({str(worker / shown.name)!r}, 'w').write(os.environ['III_URL'])\n"
    )
    up = (
        "-m",
        "agentos",
        "up",
        "--verbose",
        "--isolate",
        *(f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-")),
    )
    with process(canaries, "agentos up", tmp_path, *up, worker, OPENAI_API_KEY=secret["variable"]) as log:
        until("the worker is ready", lambda: "1 worker ready" in log.read_text())
        token = (tmp_path / shown).read_text().partition("/w/")[2].partition("/")[0]
        canaries.add("token", token)
        console = log.read_text().partition("page ")[2].split()[0]
        bus = log.read_text().partition("engine ")[2].split()[0]
        here = ("--url", console)
        said = run(canaries, "call", AGENTOS, "call", "leaky::fail", *here)
        assert "/w/<redacted>" in said
        for path in ("fleet", "workers", "calls", "logs", "traces"):
            canaries.keep(f"console {path}", httpx.get(f"{console}/api/{path}").text)
        commands = {
            "logs": ["logs", *here],
            "traces": ["traces", "-o", "json", *here],
            # Addresses that hold secrets, where nobody answers, and where somebody else does.
            "nobody": ["call", "leaky::fail", "--url", f"http://me:{secret['password']}@127.0.0.1:9"],
            "another": ["call", "leaky::fail", "--url", f"{bus.replace('ws:', 'http:')}/w/{token}"],
        }
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda name: run(canaries, name, AGENTOS, *commands[name]), commands))
        assert "/w/<redacted>" in canaries.texts["logs"]
        assert "leaky::fail" in canaries.texts["traces"]
    for file in (tmp_path / ".agentos").rglob("*.log"):
        canaries.keep(str(file), file.read_text(errors="replace"))
    assert canaries.found() == []


def test_commands_on_files_repeat_no_secret_in_what_they_complain_of(tmp_path: Path) -> None:
    canaries = Canaries(number="4815162342", text="text-Canary-4815162342")
    file = tmp_path / "worker.yaml"
    file.write_text(
        textwrap.dedent("""\
        apiVersion: agentos.dev/v1alpha1
        kind: Worker
        metadata: {name: w}
        spec:
          image: i:1
          env: [{name: PIN, value: 4815162342}, {name: PASSWORD, value: [text-Canary-4815162342]}]
          args: [4815162342]
          manifest: {name: w, env: {PIN: 4815162342}}
        """)
    )
    assert "must be a text" in run(canaries, "validate", AGENTOS, "validate", file)
    run(canaries, "kubeconfig", AGENTOS, "functions", "--realm", "default", "--kubeconfig", file)
    assert canaries.found() == []


OPERATOR = """
import asyncio, logging, os, sys
from agentos_operator import __main__ as command
from agentos_operator.api import ApiError
from agentos_operator.bus import Link
from agentos_operator.grants import GrantTable
command._log_json("DEBUG")
log = logging.getLogger("agentos_operator.controller")
token, key = os.environ["CANARY_TOKEN"], os.environ["CANARY_KEY"]
async def links():
    for url in sys.argv[1:]:
        link = Link(url, lambda uids: None, GrantTable())
        link.start()
        await asyncio.sleep(0.4)
        log.info("link", extra={"error": link.last_error, "link": link})
        await link.stop()
asyncio.run(links())
secret = {"kind": "Secret", "data": {"token": token, "api-key": key}, "stringData": {"password": key}}
logging.getLogger("kopf.objects").warning("Patching failed: diff %r", secret)
log.warning("will try again", extra={"object": secret, "error": str(ApiError(403, "Forbidden", f"Bearer {token} is no one"))})
try:
    raise ApiError(500, "InternalError", f"ws://engine:49134/w/{token}/op: {secret}")
except ApiError:
    log.exception("a pass failed")
def crash(password):
    raise RuntimeError(f"Authorization: Bearer {key} for /w/{token}/x")
import threading
thread = threading.Thread(target=crash, args=(key,)); thread.start(); thread.join()
crash(key)
"""


def test_the_operators_logs_hold_no_secret_at_their_most_talkative(tmp_path: Path) -> None:
    key = SigningKey.generate()
    canaries = Canaries(token=identity(key, "operator", Role.OPERATOR), key="api-key-Canary-4815162342")
    secret = canaries.secrets
    certificate, private = Authority(tmp_path).issue("engine")
    canaries.add("TLS key", private.read_text().splitlines()[1])
    engine = (
        *("-m", "agentos_engine", "--realm", "prod", "--verify-keys", SigningKey.generate().verify_key),
        *(f"--{name}port=0" for name in ("", "http-", "stream-", "admin-")),
    )
    tls = ("--tls-cert", certificate, "--tls-key", private, "--log-level=debug")
    with process(canaries, "engine", tmp_path, *engine, *tls) as log:
        listening = until(
            "it listens", lambda: [each for each in log.read_text().splitlines() if '"listening"' in each]
        )
        port = json.loads(listening[0])["port"]
        urls = [f"ws://127.0.0.1:{each}/w/{secret['token']}/op" for each in (port, 9)]
        said = run(
            canaries, "operator", sys.executable, "-c", OPERATOR, *urls, urls[0].replace("ws:", "wss:"), f"wss://[/w/{secret['token']}/op",
            CANARY_TOKEN=secret["token"], CANARY_KEY=secret["key"],
        )  # fmt: skip
    assert "uncaught exception" in said
    assert "a pass failed" in said
    assert said.count("/w/<redacted>") >= 3
    assert canaries.found() == []
