"""A worker on an unmodified Python SDK (0.11.6 or 0.25.0) that a test steers by JSON lines on stdin.

usage: agent.py PREFIX   (the engine's URL comes in III_URL)

Each line is ``{"n", "op", ...}``; the answer on stdout is ``{"n", "result"}`` or ``{"n", "error"}``. Only what the SDK's
user can do is done here: no SDK internals.
"""

import asyncio
import json
import os
import sys
import threading

import iii
from iii import InitOptions, TriggerAction, register_worker

PREFIX = sys.argv[1]
OLD = not hasattr(iii, "InvocationError")  # the 0.11 line: handlers get no metadata
notes: list = []


async def echo(data):
    return data


async def with_metadata(data, metadata=None):
    return {"metadata": metadata}


async def fail(data):
    raise ValueError("handler of " + PREFIX + " failed")


async def slow(data):
    await asyncio.sleep(data["ms"] / 1000)
    return {"slept": data["ms"], "tag": data.get("tag")}


async def note(data):
    notes.append(data)
    if isinstance(data, dict) and data.get("fail"):
        raise ValueError("a void call fails unheard")


async def nothing(data):
    return None


async def page(data):
    return {"status_code": 201, "headers": {"Content-Type": "text/html", "X-From": PREFIX}, "body": "<p>hello</p>"}


async def listed(data):
    return {"headers": ["X-Listed: yes"], "body": {"request": data}}


async def keyless(data):
    return {"anything": 1}


worker = register_worker(os.environ["III_URL"], InitOptions(worker_name=PREFIX, otel={"enabled": False}))
refs = {}


def register(name, handler, **options):
    refs[name] = worker.register_function(f"{PREFIX}::{name}", handler, **options)


register(
    "echo",
    echo,
    description=f"echo of {PREFIX}",
    request_format={"type": "object", "properties": {"text": {"type": "string"}}},
    response_format={"type": "object"},
    metadata={"team": "compat"},
)
register("metadata", echo if OLD else with_metadata)
register("hidden", echo, metadata={"internal": True})
for name, handler in {
    "fail": fail,
    "slow": slow,
    "note": note,
    "nothing": nothing,
    "page": page,
    "listed": listed,
    "keyless": keyless,
}.items():
    register(name, handler)


def route(method, path, name):
    config = {"api_path": path, "http_method": method}
    worker.register_trigger({"type": "http", "function_id": f"{PREFIX}::{name}", "config": config})


route("POST", f"/{PREFIX}/items/:item", "listed")
route("GET", f"/{PREFIX}/items/:item", "listed")
route("GET", f"{PREFIX}/page", "page")
route("GET", f"{PREFIX}/fail", "fail")
route("GET", f"{PREFIX}/slow", "slow")
route("GET", f"{PREFIX}/keyless", "keyless")


def call(request):
    trigger = {"function_id": request["function_id"], "timeout_ms": request.get("timeout_ms", 10000)}
    for key in ("payload", "metadata"):
        if key in request:
            trigger[key] = request[key]
    if request.get("void"):
        trigger["action"] = TriggerAction.Void()
    if "queue" in request:
        trigger["action"] = TriggerAction.Enqueue(queue=request["queue"])
    return worker.trigger(trigger)


def serve(request):
    operation = request["op"]
    if operation == "call":
        return call(request)
    if operation == "notes":
        return notes
    if operation == "register":
        return register(request["name"], echo)
    if operation == "unregister":
        return refs[request["name"]].unregister()
    if operation == "bind":
        trigger = {"type": request["type"], "function_id": request["function_id"]}
        if "config" in request:
            trigger["config"] = request["config"]
        worker.register_trigger(trigger)
        return None
    raise ValueError(f"unknown op {operation}")


def answer(request):
    try:
        reply = {"result": serve(request)}
    except Exception as error:
        code, message = getattr(error, "code", type(error).__name__), getattr(error, "message", str(error))
        reply = {"error": {"code": code, "message": message, "stacktrace": getattr(error, "stacktrace", None)}}
    print(json.dumps({"n": request["n"], **reply}), flush=True)


for line in sys.stdin:
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
worker.shutdown()
