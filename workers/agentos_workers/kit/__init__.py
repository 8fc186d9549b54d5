"""What all workers share on top of the unmodified iii-sdk.

worker = Worker("wasm-sandbox")

@worker.function("wasm::execute", http=Http("POST", "wasm/execute"))
async def execute(request: ExecuteRequest, context: Context) -> ExecuteReply: ...

In a file ``worker.py``; ``agentos-worker run worker.py`` connects it to the engine and serves its functions.
"""

from .context import Context
from .errors import FieldError, FunctionError, InvalidInput, SettingsError
from .function import Reply, Request
from .http import Http, HttpRequest
from .sdk import InvocationError
from .settings import load_settings
from .triggers import Cron, CronTick, Trigger
from .worker import Worker

__all__ = [
    "Context",
    "Cron",
    "CronTick",
    "FieldError",
    "FunctionError",
    "Http",
    "HttpRequest",
    "InvalidInput",
    "InvocationError",
    "Reply",
    "Request",
    "SettingsError",
    "Trigger",
    "Worker",
    "load_settings",
]
