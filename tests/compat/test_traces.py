"""One trace from an HTTP request to a job's handler: the engine's spans and those of the SDKs, at a collector."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.compat.conftest import free_port
from tests.compat.engine import wait_for
from tests.compat.sdks import PREFIXES

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONFIG = "traces.yaml"
TELEMETRY = True
IDENTITIES = ("tokens",)
PORT = free_port()
ENVIRONMENT = {"COLLECTOR": f"http://127.0.0.1:{PORT}"}
ENGINE = "engine-of-the-test"
CHAINS = [
    ("py-0.25.0", "node-0.22.1", "py-0.25.0"),
    ("node-0.22.1", "py-0.25.0", "node-0.22.1"),
    ("py-0.11.6", "node-0.11.6", "py-0.25.0"),
]


def proto_ids(value: object) -> object:
    """OTLP/JSON has ids in hex, where protobuf's own JSON has bytes in base64."""
    if isinstance(value, list):
        return [proto_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(each)).decode()
        if key in ("traceId", "spanId", "parentSpanId")
        else proto_ids(each)
        for key, each in value.items()
    }


class Collector:
    """What an OpenTelemetry collector's OTLP/HTTP receiver does: it takes only what OTLP's own protobufs can hold."""

    def __init__(self) -> None:
        self.spans: dict[bytes, tuple[str, object]] = {}
        """By span id: name of the service, and the span."""
        self.refused: list[str] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    assert b"eyJ" not in body  # how every token begins
                    assert self.path == "/v1/traces"
                    assert self.headers["content-type"] == "application/json"
                    collector.take(json.loads(body))
                except Exception as error:
                    collector.refused.append(f"{self.path}: {error!r}: {body[:1000]!r}")
                    self.send_response(400)
                else:
                    self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: object) -> None:
        """Take one request. Raises when it is not OTLP."""
        request = Parse(json.dumps(proto_ids(body)), ExportTraceServiceRequest())
        for group in request.resource_spans:
            names = {each.key: each.value.string_value for each in group.resource.attributes}
            for part in group.scope_spans:
                for span in part.spans:
                    assert len(span.trace_id) == 16
                    assert len(span.span_id) == 8
                    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
                    assert span.span_id not in self.spans
                    self.spans[span.span_id] = names["service.name"], span

    def path_to(self, service: str, name: str) -> list[tuple[str, str]] | None:
        """Services and names of the spans above one, the root first; None while some are not there."""
        found = next((each for each in self.spans.values() if each[0] == service and name in each[1].name), None)
        path = []
        while found is not None:
            path.insert(0, (found[0], found[1].name))
            if not found[1].parent_span_id:
                return path
            found = self.spans.get(found[1].parent_span_id)
        return None


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()
    assert made.refused == []


@pytest.mark.parametrize("chain", CHAINS, ids=["-".join(PREFIXES[each] for each in chain) for chain in CHAINS])
async def test_a_request_its_calls_and_its_job_are_one_trace(collector, mesh, agents, unique, chain):
    first, second, third = (agents[sdk] for sdk in chain)
    name = unique("traced")
    entry = await first.function(f"{first.prefix}::{name}_entry", "relay")
    nested = await second.function(f"{second.prefix}::{name}_nested", "relay")
    job = await third.function(f"{third.prefix}::{name}_job")
    await first.bind("http", entry, {"api_path": f"/{name}", "http_method": "POST"})
    body = {"function_id": nested, "payload": {"function_id": job, "payload": {"n": 1}, "queue": "default"}}
    answer = await mesh.engine.http("POST", f"/{name}", json.dumps(body).encode(), {"content-type": "application/json"})
    assert answer.status == 200
    await third.saw(job)

    async def complete() -> list | None:
        return collector.path_to(third.prefix, job)

    path = await wait_for(complete, "all spans of the trace are at the collector", 20)
    root, in_entry, call, in_nested, enqueue, queue, in_job = path
    assert root == (ENGINE, f"POST /{name}")
    assert call == (ENGINE, f"call {nested}")
    assert enqueue == (ENGINE, f"enqueue {job} -> default")
    assert queue == (ENGINE, "fn_queue default")
    assert [service for service, _ in (in_entry, in_nested, in_job)] == [first.prefix, second.prefix, third.prefix]
