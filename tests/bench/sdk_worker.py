"""A worker on the unmodified Python SDK, which runs it in an environment of its own: one function with an HTTP route.

usage: sdk_worker.py   (the engine's URL comes in III_URL)
"""

import os
import threading

from iii import InitOptions, register_worker


async def answer(request: dict) -> dict:
    """Answer every request alike."""
    return {"status_code": 200, "body": {"ok": True}}


worker = register_worker(os.environ["III_URL"], InitOptions(worker_name="bench", otel={"enabled": False}))
worker.register_function("bench::rest", answer)
worker.register_trigger(
    {"type": "http", "function_id": "bench::rest", "config": {"api_path": "/bench", "http_method": "GET"}}
)
threading.Event().wait()
