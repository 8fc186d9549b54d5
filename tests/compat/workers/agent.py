"""A worker on an unmodified Python SDK (0.11.6 or 0.25.0) that a test steers by JSON lines on stdin.

usage: agent.py PREFIX   (the engine's URL comes in III_URL, the headers of its connection in AGENT_HEADERS)

Each line is ``{"n", "op", ...}``; the answer on stdout is ``{"n", "result"}`` or ``{"n", "error"}``. Only what the SDK's
user can do is done here: no SDK internals. agent.mjs is its counterpart.
"""

import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
import threading

import iii
from iii import InitOptions, TriggerAction, register_worker

OLD = not hasattr(iii, "InvocationError")  # the 0.11 line
if OLD:
    from iii import ChannelReader, ChannelWriter, HttpInvocationConfig, IStream, Logger, TriggerHandler, http
    from iii.telemetry import current_trace_id
else:
    from iii import IStream
    from iii.channel import ChannelReader, ChannelWriter
    from iii.helpers import create_channel, create_stream
    from iii.triggers import TriggerHandler
    from iii_helpers.http import HttpInvocationConfig, http
    from iii_helpers.observability import Logger, current_trace_id

PREFIX = sys.argv[1]
records: dict[str, list] = {}
refs, bindings, channels = {}, [], []
log_lines: list[str] = []
released = threading.Event()
writing = threading.Lock()


class Kept(logging.Handler):
    """Keeps what the SDK logs."""

    def emit(self, record):
        log_lines.append(record.getMessage())


logging.getLogger("iii").addHandler(Kept())
options = InitOptions(
    worker_name=None if "III_WORKER_NAME" in os.environ else PREFIX,
    otel={"enabled": os.environ.get("OTEL_ENABLED") == "true"},
    headers=json.loads(os.environ["AGENT_HEADERS"]) if "AGENT_HEADERS" in os.environ else None,
)
worker = register_worker(os.environ["III_URL"], options)


def plain(value):
    """The value with the ends of channels replaced by their direction: what JSON can say."""
    if isinstance(value, ChannelReader):
        return "reader"
    if isinstance(value, ChannelWriter):
        return "writer"
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def record(name, **entry):
    records.setdefault(name, []).append(entry)
    return len(records[name])


async def drain(reader):
    """Everything that comes through a channel, in order."""
    items = []
    reader.on_message(lambda text: items.append({"text": text}))
    async for data in reader:
        items.append({"bytes": base64.b64encode(data).decode()})
    return items


def summary(items):
    """The texts, and what all bytes together are."""
    data = b"".join(base64.b64decode(each["bytes"]) for each in items if "bytes" in each)
    texts = [each["text"] for each in items if "text" in each]
    return {"texts": texts, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


async def pour(writer, items):
    for item in items:
        if "text" in item:
            await writer.send_message_async(item["text"])
        else:
            await writer.write(base64.b64decode(item["bytes"]))
    await writer.close_async()


def behave(name, request):
    """Returns the handler that a request for a function describes."""

    async def echo(data):
        return data

    async def fail(data):
        raise ValueError(f"handler of {PREFIX} failed")

    async def slow(data):
        await asyncio.sleep(data["ms"] / 1000)
        return {"slept": data["ms"], "tag": data.get("tag")}

    async def with_metadata(data, metadata=None):
        return {"metadata": metadata}

    async def recorded(data, metadata=None):
        count = record(name, data=plain(data), metadata=metadata)
        await asyncio.sleep(request.get("delay_ms", 0) / 1000)
        if request.get("fail") is True or count <= request.get("fail_first", 0):
            raise ValueError(f"handler of {PREFIX} failed")
        return request.get("result")

    async def relay(data):
        asked = data.get("body") or data  # by a call, or by an HTTP request
        call = {"function_id": asked["function_id"], "payload": asked["payload"]}
        if "queue" in asked:
            call["action"] = TriggerAction.Enqueue(queue=asked["queue"])
        called = await worker.trigger_async(call)
        return {"via": PREFIX, "result": called}

    async def trace(data):
        return {"trace_id": current_trace_id()}

    async def request_body(data):
        body = await data["request_body"].read_all()
        return {"body": {"bytes": base64.b64encode(body).decode(), "parsed": plain(data["body"])}}

    async def held(data):
        chunks = aiter(data["request_body"])
        size = len(await anext(chunks))
        record(name, data={"first": size})
        await asyncio.to_thread(released.wait)
        async for chunk in chunks:
            size += len(chunk)
        return {"body": {"size": size}}

    async def streamed(request_, response):
        await response.status(request.get("status", 200))
        await response.headers(request["headers"])
        for chunk in request["chunks"]:
            await response.writer.write(chunk.encode())
        await response.writer.close_async()

    async def drained(data):
        items = await drain(data["reader"])
        return summary(items) if request.get("summary") else {"items": items}

    async def poured(data):
        await pour(data["writer"], data["items"])

    if request["do"] == "streamed":
        return http(streamed)
    return {
        "echo": echo, "fail": fail, "slow": slow, "metadata": with_metadata, "record": recorded, "relay": relay,
        "trace": trace, "request_body": request_body, "held": held, "drain": drained, "pour": poured,
    }[request["do"]]  # fmt: skip


class Recorded(TriggerHandler):
    """A trigger type that records its bindings; it refuses those whose config says so."""

    def __init__(self, type_id):
        self.name = f"type:{type_id}"

    def note(self, event, binding):
        fields = {key: getattr(binding, key, None) for key in ("id", "function_id", "config", "metadata")}
        record(self.name, event=event, **fields)

    async def register_trigger(self, binding):
        self.note("register", binding)
        if isinstance(binding.config, dict) and binding.config.get("refuse"):
            raise ValueError(f"{PREFIX} refuses this config")

    async def unregister_trigger(self, binding):
        self.note("unregister", binding)


class Fixed(IStream):
    """A stream of the worker's own, always with the same items."""

    async def get(self, query):
        return {"of": PREFIX, "item": query.item_id}

    async def set(self, change):
        record(f"stream:{change.stream_name}", data=change.data)
        return None

    async def delete(self, query):
        return None

    async def list(self, query):
        return [{"of": PREFIX, "group": query.group_id}]

    async def list_groups(self, query):
        return [f"group of {PREFIX}"]

    async def update(self, change):
        return None


def op_function(request):
    keys = ("description", "metadata", "request_format", "response_format")
    options = {key: request[key] for key in keys if key in request}
    if "url" in request:
        handler = HttpInvocationConfig(
            **{key: request[key] for key in ("url", "method", "auth", "headers") if key in request}
        )
    else:
        handler = behave(request["id"], request)
    refs[request["id"]] = worker.register_function(request["id"], handler, **options)


def op_unfunction(request):
    refs.pop(request["id"]).unregister()


def op_bind(request):
    fields = {key: request[key] for key in ("type", "function_id", "config", "metadata") if key in request}
    bindings.append(worker.register_trigger(fields))
    return len(bindings) - 1


def op_unbind(request):
    bindings[request["binding"]].unregister()


def op_own(request):
    worker.register_trigger_type({"id": request["id"], "description": "a type of its own"}, Recorded(request["id"]))


def op_call(request):
    trigger = {"function_id": request["function_id"], "timeout_ms": request.get("timeout_ms", 10000)}
    for key in ("payload", "metadata", "namespace"):
        if key in request:
            trigger[key] = request[key]
    if request.get("void"):
        trigger["action"] = TriggerAction.Void()
    if "queue" in request:
        trigger["action"] = TriggerAction.Enqueue(queue=request["queue"])
    return worker.trigger(trigger)


def op_channel(request):
    size = request.get("buffer_size")
    channel = worker.create_channel(size) if OLD else create_channel(worker, size)
    channels.append(channel)
    ends = {"writer": channel.writer_ref.model_dump(mode="json"), "reader": channel.reader_ref.model_dump(mode="json")}
    return {"channel": len(channels) - 1, **ends}


def op_write(request):
    asyncio.run(pour(channels[request["channel"]].writer, request["items"]))


def op_read(request):
    items = asyncio.run(drain(channels[request["channel"]].reader))
    return summary(items) if request.get("summary") else items


def op_stream(request):
    implementation = Fixed()
    return (
        worker.create_stream(request["name"], implementation)
        if OLD
        else create_stream(worker, request["name"], implementation)
    )


def op_log(request):
    getattr(Logger(), request["level"])(request["message"], request.get("data"))


operations = {
    "function": op_function, "unfunction": op_unfunction, "bind": op_bind, "unbind": op_unbind, "own": op_own,
    "call": op_call, "channel": op_channel, "write": op_write, "read": op_read, "stream": op_stream, "log": op_log,
    "disown": lambda request: worker.unregister_trigger_type({"id": request["id"], "description": ""}),
    "seen": lambda request: records.get(request["id"], []),
    "worker_id": lambda request: worker.worker_id,
    "logged": lambda request: log_lines,
    "release": lambda request: released.set(),
}  # fmt: skip


def answer(request):
    try:
        reply = {"result": operations[request["op"]](request)}
    except Exception as error:
        code, message = getattr(error, "code", type(error).__name__), getattr(error, "message", str(error))
        reply = {"error": {"code": code, "message": message, "stacktrace": getattr(error, "stacktrace", None)}}
    with writing:
        print(json.dumps({"n": request["n"], **reply}), flush=True)


TEXT_FORMAT = {"type": "object", "properties": {"text": {"type": "string"}}}
described = {"description": f"echo of {PREFIX}", "request_format": TEXT_FORMAT, "response_format": {"type": "object"}}
op_function({"id": f"{PREFIX}::echo", "do": "echo", "metadata": {"team": "compat"}, **described})
op_function({"id": f"{PREFIX}::hidden", "do": "echo", "metadata": {"internal": True}})
for each in ("fail", "slow", "metadata", "record"):
    op_function({"id": f"{PREFIX}::{each}", "do": each})
op_function({"id": f"{PREFIX}::keyless", "do": "record", "result": {"anything": 1}})
config = {"api_path": f"{PREFIX}/keyless", "http_method": "GET"}
op_bind({"type": "http", "function_id": f"{PREFIX}::keyless", "config": config})

for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
worker.shutdown()
