"""Counts visits, on the plain Python SDK."""

import os
import signal
import threading

from iii import InitOptions, register_worker

worker = register_worker(os.environ.get("III_URL", "ws://localhost:49134"), InitOptions(otel={"enabled": False}))


async def call(function_id, payload):
    return await worker.trigger_async({"function_id": function_id, "payload": payload})


async def count(data):
    """One visit more; returns how many there were."""
    key = {"scope": "visits", "key": data["name"]}
    number = (await call("state::get", key) or 0) + 1
    await call("state::set", {**key, "value": number})
    return {"number": number}


async def report(request):
    name = request["query_params"]["name"]
    words = await call("greeter::words", {"name": name})
    number = await call("state::get", {"scope": "visits", "key": name})
    return {"status_code": 200, "body": {"report": f"{words['words']} ({number})"}}


worker.register_function("counter::count", count)
worker.register_function("counter::report", report)
worker.register_trigger(
    {"type": "http", "function_id": "counter::report", "config": {"api_path": "report", "http_method": "GET"}}
)
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
ended.wait()
worker.shutdown()
