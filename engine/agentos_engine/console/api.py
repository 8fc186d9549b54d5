"""The console's API: what each request is answered with."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs, unquote

import msgspec
from agentos_contracts.redaction import redacted

from agentos_engine import limits
from agentos_engine.bus.connection import DEFAULT_NAMESPACE
from agentos_engine.bus.errors import BusError
from agentos_engine.console import streams
from agentos_engine.console.events import TOPICS, Events
from agentos_engine.console.options import ConsoleOptions
from agentos_engine.console.readers import MAX_READERS, Readers
from agentos_engine.console.recorder import CONSOLE, Asking, Failure, Recorder
from agentos_engine.protocol.http import Request, Response
from agentos_engine.protocol.stream import MAX_NAME_LENGTH
from agentos_engine.server.http import Exchange

if TYPE_CHECKING:
    from agentos_engine.bus.bus import Bus

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000
LATE_ANSWER = 5.0
"""Seconds beyond the time-out of a call in which the bus says that it is over."""
MAX_LIMIT = 1000
_LIMIT = re.compile(r"[0-9]{1,4}")
MAX_QUERY_FIELDS = 20


class Refusal(Exception):
    """A request that is not served: HTTP status, a code for programs and a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class CallRequest(msgspec.Struct):
    """Body of ``POST /api/call``; ``payload`` is raw JSON."""

    function_id: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_ID_LENGTH)]
    payload: msgspec.Raw = msgspec.Raw(b"null")
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] = DEFAULT_TIMEOUT_MS
    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] = DEFAULT_NAMESPACE


class Api:
    """Answers requests. ``about`` returns what ``/api/info`` says of the engine. Its methods raise Refusal."""

    def __init__(
        self,
        bus: "Bus",
        recorder: Recorder,
        options: ConsoleOptions,
        about: Callable[[], Mapping[str, object]],
        current_streams: streams.Current,
    ) -> None:
        self._bus = bus
        self._recorder = recorder
        self._options = options
        self._about = about
        self._streams = current_streams
        self._readers = Readers(bus.clock)
        self._events = Events(bus, recorder, self._readers)

    def close(self) -> None:
        """Hear of nothing more."""
        self._events.close()

    def info(self, exchange: Exchange) -> None:
        """``GET /api/info``."""
        recording = {"always": self._options.always, "payloads": self._options.payloads}
        fleet = self._options.fleet is not None
        exchange.respond(_json({**self._about(), "recording": recording, "fleet": fleet}))

    def fleet(self, exchange: Exchange) -> None:
        """``GET /api/fleet``."""
        if self._options.fleet is None:
            raise Refusal(404, "NO_FLEET", "this engine starts no workers itself; ask Kubernetes for those of a realm")
        exchange.respond(_json({"workers": self._options.fleet()}))

    def calls(self, exchange: Exchange) -> None:
        """``GET /api/calls``."""
        text = _query(exchange.request).get("limit", "100")
        if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
            raise Refusal(400, "INVALID_REQUEST", f"limit is a number from 1 to {MAX_LIMIT}")
        exchange.respond(_json({"calls": self._recorder.records(int(text))}))

    def call_record(self, exchange: Exchange, record_id: str) -> None:
        """``GET /api/calls/ID``."""
        found = self._recorder.find(record_id)
        if found is None:
            raise Refusal(404, "NO_RECORD", "there is no record of this call, or none any more")
        fields: dict[str, object] = msgspec.structs.asdict(found.record)
        if self._recorder.payloads:
            fields |= {
                "payload": _raw(found.payload),
                "payload_truncated": found.payload_truncated,
                "result": _raw(found.result),
                "result_truncated": found.result_truncated,
            }
        exchange.respond(_json(fields))

    def events(self, exchange: Exchange) -> None:
        """``GET /api/events``."""
        text = _query(exchange.request).get("topics")
        topics = TOPICS if text is None else frozenset(text.split(","))
        if not topics <= TOPICS:
            raise Refusal(
                400, "INVALID_REQUEST", f"topics are some of {', '.join(sorted(TOPICS))}, with commas between"
            )
        self._check_room()
        self._events.read(exchange, topics)

    def stream(self, exchange: Exchange, name: str) -> None:
        """``GET /api/streams/STREAM``."""
        stream_name, group = unquote(name), _query(exchange.request).get("group")
        if group is None:
            raise Refusal(400, "INVALID_REQUEST", "say which group of the stream: ?group=NAME")
        if max(len(stream_name), len(group)) > MAX_NAME_LENGTH:
            raise Refusal(400, "INVALID_REQUEST", f"names have at most {MAX_NAME_LENGTH} characters")
        served = self._streams()
        if served is None:
            raise Refusal(404, "NO_STREAMS", "this engine serves no streams: list iii-stream in config.yaml")
        self._check_room()
        streams.follow(self._bus, self._streams, served, self._readers, exchange, stream_name, group)

    def _check_room(self) -> None:
        if self._readers.full:
            raise Refusal(503, "TOO_MANY_READERS", f"{MAX_READERS} are reading events already; close some first")

    # Calls

    def call(self, exchange: Exchange) -> None:
        """``POST /api/call``."""
        body = exchange.request.body
        try:
            body.decode()  # as for the frames of workers: it goes on in a text frame
            asked = msgspec.json.decode(body, type=CallRequest)
        except UnicodeDecodeError as error:
            raise Refusal(400, "INVALID_REQUEST", "the body is not UTF-8") from error
        except msgspec.DecodeError as error:
            raise Refusal(400, "INVALID_REQUEST", f"the body is not what this takes: {error}") from error
        except RecursionError as error:
            raise Refusal(400, "INVALID_REQUEST", "the body is nested too deeply") from error
        exchange.allow(asked.timeout_ms / 1000 + LATE_ANSWER)
        task = self._bus.spawn(self._call(exchange, asked))
        exchange.on_abandoned = task.cancel  # type: ignore[assignment]

    async def _call(self, exchange: Exchange, asked: CallRequest) -> None:
        caller, clock = Asking(), self._bus.clock.machine
        started = clock.monotonic()
        outcome: dict[str, Any]
        self._recorder.attach()
        try:
            outcome = {"result": _raw(await self._answer(caller, asked))}
        except BusError as error:
            outcome = {"error": Failure(error.code, redacted(error.message))}
        finally:
            self._recorder.detach()
        duration = round((clock.monotonic() - started) * 1000, 3)
        trace_id = caller.record.trace_id if caller.record is not None else None
        exchange.respond(_json({**outcome, "duration_ms": duration, "trace_id": trace_id}))

    async def _answer(self, caller: Asking, asked: CallRequest) -> bytes | None:
        call = self._bus.invoke(
            asked.function_id,
            bytes(asked.payload),
            caller,
            namespace=asked.namespace,
            timeout=asked.timeout_ms / 1000,
            source=CONSOLE,
        )
        try:
            return await caller.future
        finally:
            self._bus.abandon(call)


def _query(request: Request) -> dict[str, str]:
    try:
        fields = parse_qs(request.query, keep_blank_values=True, errors="replace", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise Refusal(400, "INVALID_REQUEST", f"the query has more than {MAX_QUERY_FIELDS} fields") from error
    return {name: values[-1] for name, values in fields.items()}


def _raw(value: bytes | None) -> msgspec.Raw | None:
    return None if value is None else msgspec.Raw(value)


def _json(value: object) -> Response:
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    return Response(200, headers, msgspec.json.encode(value))
