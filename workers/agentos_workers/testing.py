"""A pytest plugin for the tests of a worker: the fixture `bus`, a client of the engine that ``agentos test`` started.

Installing this package is enough for pytest to find it.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

URL_VARIABLE = "III_URL"
HTTP_VARIABLE = "AGENTOS_HTTP_URL"

_CLOCK_SECONDS = 90.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to an HTTP request; `body` is parsed when it is JSON, else text; header names are lower case."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Bus:
    """What a test may ask of the engine. Times are in seconds."""

    def __init__(self, client: Any, http_url: str | None) -> None:
        self._client = client
        self._http_url = http_url

    def call(self, function_id: str, payload: Any = None, timeout: float = 10) -> Any:
        """Calls a function and returns its result. Raises `agentos_workers.kit.InvocationError`, whose `code` says why:
        ``function_not_found``, ``TIMEOUT``, … What a handler raised has the code ``invocation_failed`` and begins its
        message with the handler's own code."""
        request = {"function_id": function_id, "payload": payload, "timeout_ms": max(1, round(timeout * 1000))}
        return self._client.trigger(request)

    def http(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10,
    ) -> Response:
        """Makes an HTTP request, with a JSON body unless `json` is None. Every status is an answer, not an error."""
        if not self._http_url:
            pytest.fail(f"{HTTP_VARIABLE} is not set; `agentos test` sets it", pytrace=False)
        data = None if json is None else _dumped(json)
        content = {} if data is None else {"content-type": "application/json"}
        url = f"{self._http_url.rstrip('/')}/{path.removeprefix('/')}"
        request = urllib.request.Request(url, data, {**content, **(headers or {})}, method=method)  # noqa: S310 (ours)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                return _response(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return _response(error.code, error.read(), error.headers)

    def advance(self, seconds: float) -> datetime:
        """Moves the engine's clock on and returns the new time, when all that came due by then is done: cron ticks,
        jobs and their retries, deadlines of calls."""
        return self._clock("engine::clock::advance", {"seconds": seconds})

    def now(self) -> datetime:
        """The engine's time; it stands still until `advance` moves it."""
        return self._clock("engine::clock::now", {})

    def functions(self) -> list[str]:
        """The ids of all functions that workers have registered, sorted."""
        listed = self.call("engine::functions::list", {"include_internal": False})["functions"]
        return sorted(entry["function_id"] for entry in listed if entry["worker_name"] != "engine")

    def wait_for(self, function_id: str, timeout: float = 10) -> None:
        """Returns once somebody has registered the function; fails the test when nobody does in time."""
        deadline = time.monotonic() + timeout
        while function_id not in (there := self.functions()):
            if time.monotonic() > deadline:
                known = ", ".join(there) or "none"
                pytest.fail(f"{function_id} is not there after {timeout:g} s; there are: {known}", pytrace=False)
            time.sleep(_LOOK_SECONDS)

    def _clock(self, function_id: str, payload: Mapping[str, Any]) -> datetime:
        from .kit import InvocationError

        try:
            answer = self.call(function_id, payload, _CLOCK_SECONDS)
        except InvocationError as error:
            if error.code == "function_not_found":
                pytest.fail("the clock of this engine goes by itself; run the tests with `agentos test`", pytrace=False)
            raise
        return datetime.fromisoformat(answer["now"])


@pytest.fixture(scope="session")
def bus() -> Iterator[Bus]:
    """A client of the engine that the tests run with; skips the test when there is none."""
    url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        pytest.skip(f"there is no engine ({URL_VARIABLE} is not set); run the tests with `agentos test`")
    from .kit.sdk import InitOptions, register_worker

    # Its reports hold the engine's address, so the token; pytest shows them.
    logging.getLogger("iii.iii").setLevel(logging.WARNING)
    states: list[str] = []
    client = register_worker(
        url, InitOptions(worker_name="tests", enable_metrics_reporting=False, otel={"enabled": False})
    )
    client.add_connection_state_listener(states.append)
    try:
        if states[0] != "connected":
            pytest.fail(f"no engine answers at {URL_VARIABLE}", pytrace=False)
        yield Bus(client, os.environ.get(HTTP_VARIABLE))
    finally:
        client.shutdown()


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _response(status: int, data: bytes, headers: Any) -> Response:
    names = {name.lower(): value for name, value in headers.items()}
    text = data.decode(errors="replace")
    is_json = names.get("content-type", "").partition(";")[0].strip() == "application/json"
    return Response(status, json.loads(text) if is_json and text else text, names)
