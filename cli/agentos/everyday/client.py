"""The client of an engine's console API."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# httpx imports its own command line, with rich, pygments and click, when these are installed: a third of all the CPU time
# that a command costs. It copes with the module being absent.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402 (after the line above)

from agentos.errors import CommandError, ExitCode  # noqa: E402
from agentos.everyday.plain import plain  # noqa: E402
from agentos.terminal import progress  # noqa: E402

MAX_ANSWER = 128 << 20
"""Bytes of one answer, or of one event."""
ASK_TIMEOUT = 15.0
"""Seconds for the engine's own functions."""
CONNECT_TIMEOUT = 5.0
PROGRESS_AFTER = 1.0
"""Seconds after which it is said what is waited for."""
SILENCE = 45.0
"""Seconds without a sign after which a stream of events counts as broken; the engine gives one every 15 s."""

_CODES = {"function_not_found": ExitCode.NOT_FOUND, "TIMEOUT": ExitCode.TIMEOUT}
_JSON = {"content-type": "application/json"}
_MISSING = ("NO_FLEET", "NO_RECORD", "NO_STREAMS")
"""What a console may not have."""


class CallFailed(CommandError):
    """A function answered with an error, or could not be called; ``trace_id`` is that of the call, if it has one."""

    def __init__(self, function_id: str, error: Mapping[str, Any], trace_id: str | None) -> None:
        self.error_code = str(error.get("code", "unknown_error"))
        self.trace_id = trace_id
        text = f"{function_id}: {self.error_code}: {error.get('message', '')}"
        super().__init__(plain(text), _CODES.get(self.error_code, ExitCode.FAILED))


class Event(NamedTuple):
    """One server-sent event; ``data`` is decoded."""

    kind: str
    data: Any


class Console:
    """One engine's console API. ``url`` is ``http://HOST:PORT``; every method raises CommandError.

    ``unreachable`` is what is said when nothing answers. ``timeout``: seconds for the engine's own functions, ``margin``:
    for an answer to get here once the time of a call is over.
    """

    def __init__(
        self, url: str, unreachable: str, *, timeout: float = ASK_TIMEOUT, margin: float = CONNECT_TIMEOUT
    ) -> None:
        self.url = url
        self._unreachable = unreachable
        self._timeout = timeout
        self._margin = margin
        self._connect = min(timeout, CONNECT_TIMEOUT)
        try:
            # An address on this machine: a proxy in the environment has no business here, and for plain HTTP no
            # certificates need be read, which costs more CPU time than the call itself.
            self._http = httpx.Client(
                base_url=url,
                trust_env=False,
                timeout=httpx.Timeout(timeout, connect=self._connect),
                verify=urlsplit(url).scheme == "https",
            )
        except (httpx.InvalidURL, ValueError):
            raise CommandError(
                f"{plain(url)!r} is not an address; write http://127.0.0.1:3113", ExitCode.USAGE
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **parameters: str | int) -> Any:
        """Return what is at a path of the API."""
        return self._send(f"waiting for {self.url}", "GET", path, params=parameters)

    def call(self, function_id: str, payload: Any, timeout: float) -> Any:
        """Call a function and return its result; ``timeout`` in seconds. Raises CallFailed for its error."""
        body = {"function_id": function_id, "payload": payload, "timeout_ms": max(1, round(timeout * 1000))}
        try:
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:  # halves of characters, numbers without end
            raise CommandError(f"the payload cannot be sent as JSON: {error}", ExitCode.USAGE) from None
        # The engine keeps the time.
        limit = httpx.Timeout(timeout + self._margin, connect=self._connect)
        what = f"calling {plain(function_id)}"
        answer = self._send(what, "POST", "/api/call", content=content, headers=_JSON, timeout=limit)
        if not isinstance(answer, dict):
            raise self._not_a_console()
        if answer.get("error") is not None:
            error, trace_id = answer["error"], answer.get("trace_id")
            error = error if isinstance(error, dict) else {"message": str(error)}
            raise CallFailed(function_id, error, trace_id if isinstance(trace_id, str) else None)
        return answer.get("result")

    def ask(self, function_id: str, /, **payload: Any) -> Any:
        """Call one of the engine's own functions; arguments that are None are left out."""
        given = {name: value for name, value in payload.items() if value is not None}
        return self.call(function_id, given, self._timeout)

    def listed(self, function_id: str, key: str, /, **payload: Any) -> list[dict[str, Any]]:
        """Call one of the engine's own functions and return the list of objects under ``key`` of its result."""
        result = self.ask(function_id, **payload)
        rows = result.get(key) if isinstance(result, dict) else None
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    @contextlib.contextmanager
    def events(self, path: str, **parameters: str) -> Iterator[Iterator[Event]]:
        """Listen to events: ``with console.events(…) as events`` is connected when it is entered.

        The iterator raises CommandError when the engine goes.
        """
        timeout = httpx.Timeout(SILENCE, connect=self._connect)
        with self._failing(), self._http.stream("GET", path, params=parameters, timeout=timeout) as response:
            if response.status_code != httpx.codes.OK:
                raise self._refused(response.status_code, self._read(response))
            yield self._events(response)

    def _events(self, response: httpx.Response) -> Iterator[Event]:
        kind, data, pieces = "message", [], []
        for chunk in response.iter_bytes():
            pieces.append(chunk)
            if sum(map(len, data)) + sum(map(len, pieces)) > MAX_ANSWER:
                raise CommandError(f"the engine at {self.url} sent an event of more than {MAX_ANSWER >> 20} MiB")
            if b"\n" not in chunk:
                continue
            *lines, rest = b"".join(pieces).split(b"\n")
            pieces = [rest]
            for line in lines:
                name, _, value = line.rstrip(b"\r").partition(b":")
                value = value.removeprefix(b" ")
                if name == b"event":
                    kind = value.decode(errors="replace")
                elif name == b"data":
                    data.append(value)
                elif not name and not value:  # comments have a value
                    if data:
                        yield Event(kind, self._decode(b"\n".join(data)))
                    kind, data = "message", []
        raise CommandError(f"the engine at {self.url} has ended", ExitCode.UNREACHABLE)

    def _send(self, what: str, method: str, path: str, **options: Any) -> Any:
        with (
            progress(what, after=PROGRESS_AFTER),
            self._failing(),
            self._http.stream(method, path, **options) as response,
        ):
            body = self._read(response)
            if response.status_code != httpx.codes.OK:
                raise self._refused(response.status_code, body)
        return self._decode(body)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise CommandError(self._unreachable, ExitCode.UNREACHABLE) from None
        except httpx.TimeoutException:
            raise CommandError(f"no answer from {self.url} in time", ExitCode.TIMEOUT) from None
        except httpx.RemoteProtocolError:
            raise CommandError(f"the engine at {self.url} has gone", ExitCode.UNREACHABLE) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = plain(str(error)) or type(error).__name__
            raise CommandError(f"the connection to {self.url} broke: {reason}", ExitCode.UNREACHABLE) from None

    def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER:
                raise CommandError(f"the answer of {self.url} is larger than {MAX_ANSWER >> 20} MiB")
        return bytes(body)

    def _decode(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except RecursionError:
            raise CommandError(f"the answer of {self.url} is nested too deeply to be shown") from None
        except ValueError:
            raise self._not_a_console() from None

    def _refused(self, status: int, body: bytes) -> CommandError:
        try:
            error = json.loads(body)["error"]
            code, message = str(error["code"]), str(error["message"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return self._not_a_console()
        if status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED) and code not in _MISSING:
            return self._not_a_console()  # another port of the engine, such as that of the workers' routes
        exit_code = ExitCode.NOT_FOUND if code in _MISSING else ExitCode.FAILED
        return CommandError(plain(f"{code}: {message}"), exit_code)

    def _not_a_console(self) -> CommandError:
        return CommandError(
            f"what answers at {self.url} is not the console of an AgentOS engine; name another with --url",
            ExitCode.UNREACHABLE,
        )
