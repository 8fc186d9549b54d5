"""What all workers share on top of the unmodified iii-sdk.

worker = Worker("wasm-sandbox")

@worker.function("wasm::execute", http=Http("POST", "wasm/execute"))
async def execute(request: ExecuteRequest, context: Context) -> ExecuteReply: ...

worker.run()
"""

from .context import Context
from .errors import FieldError, FunctionError, InvalidInput, SettingsError
from .function import Reply, Request
from .http import Http, HttpRequest
from .sdk import InvocationError
from .settings import load_settings
from .worker import Worker

__all__ = [
    "Context",
    "FieldError",
    "FunctionError",
    "Http",
    "HttpRequest",
    "InvalidInput",
    "InvocationError",
    "Reply",
    "Request",
    "SettingsError",
    "Worker",
    "load_settings",
]
