"""wasm-sandbox on the project's engine, both as processes, over REST."""

from __future__ import annotations

import base64
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

GREET = bytes(wat2wasm((Path(__file__).parents[2] / "examples" / "wasm" / "greet.wat").read_text()))
WAIT_SECS = 20


@pytest.fixture
def ports(start_process: Any) -> Iterator[tuple[int, int]]:
    """The worker port and the HTTP port of an engine."""
    engine = start_process("-m", "agentos_engine", "--port", "0", "--http-port", "0", "--admin-port", "0")
    assert engine.process.stdout is not None
    for line in engine.process.stdout:
        entry = json.loads(line)
        if entry["message"] == "listening":
            yield entry["port"], entry["http_port"]
            return
    raise AssertionError("the engine ended before it listened")


def request(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} if data else {}
    call = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(call, timeout=WAIT_SECS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def test_a_module_runs_through_rest_and_the_routes_go_with_the_worker(
    ports: tuple[int, int], start_process: Any
) -> None:
    ws, http = ports
    worker = start_process(III_URL=f"ws://127.0.0.1:{ws}")
    assert any('"serving ' in line for line in worker.process.stdout)
    # The registrations are sent; the engine needs a moment to take them in.
    deadline = time.monotonic() + WAIT_SECS
    while request(http, "GET", "wasm/modules")[0] == 404:
        assert time.monotonic() < deadline
    assert request(http, "GET", "wasm/modules") == (200, {"modules": [], "count": 0})
    upload = {"moduleId": "greet", "wasm": base64.b64encode(GREET).decode()}
    assert request(http, "POST", "wasm/validate", upload) == (200, {"valid": True, "moduleId": "greet", "cached": True})
    status, answer = request(http, "POST", "wasm/execute", {"moduleId": "greet", "input": {"name": "Ada"}})
    assert status == 200
    assert answer["output"] == {"greeting": "hello from wasm", "bytes": 14, "input": {"name": "Ada"}}
    status, answer = request(http, "POST", "wasm/execute", {"moduleId": "greet"})
    assert (status, answer["error"]["fields"]) == (400, [{"path": "input", "message": "Field required"}])
    assert request(http, "POST", "wasm/execute", {"moduleId": "x", "input": 1})[0] == 404
    code, output = worker.stop(signal.SIGTERM)
    assert code == 0, output
    assert request(http, "GET", "wasm/modules")[0] == 404
