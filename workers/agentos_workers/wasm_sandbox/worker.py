"""wasm-sandbox: three functions over one sandbox."""

from __future__ import annotations

from typing import Any

from ..kit import Context, Http, Worker
from .models import (
    HTTP_MAX_SECS,
    ExecuteReply,
    ExecuteRequest,
    ListReply,
    Rejection,
    Settings,
    ValidateReply,
    ValidateRequest,
)

# The largest module as an array of byte values: up to four characters a byte.
_MAX_UPLOAD_BYTES = 40 * 1024 * 1024


def _open(settings: Settings) -> Any:
    # wasmtime takes a while to import.
    from .sandbox import Sandbox

    return Sandbox(settings)


worker = Worker(
    "wasm-sandbox",
    description="Runs WebAssembly modules under limits of memory, fuel and time",
    settings=Settings,
    prefix="WASM_",
    open_resource=_open,
    close_resource=lambda sandbox: sandbox.close(),
)


@worker.function("wasm::execute", http=Http("POST", "wasm/execute"))
async def execute(request: ExecuteRequest, context: Context) -> ExecuteReply:
    """Runs a module that wasm::validate has taken, on a JSON input, and gives its JSON output."""
    max_secs = None if context.http is None else HTTP_MAX_SECS
    return await context.resource.execute(request, context.call_blocking, max_secs)


@worker.function("wasm::validate", http=Http("POST", "wasm/validate"), max_request_bytes=_MAX_UPLOAD_BYTES)
async def validate(request: ValidateRequest, context: Context) -> ValidateReply:
    """Compiles a module, checks it against the guest ABI and keeps it for wasm::execute."""
    from .runtime import ModuleRejected

    try:
        await context.resource.add(request.module_id, request.wasm)
    except ModuleRejected as error:
        reason = Rejection(code=error.code, message=str(error))
        return ValidateReply(valid=False, module_id=request.module_id, cached=False, error=reason)
    return ValidateReply(valid=True, module_id=request.module_id, cached=True)


@worker.function("wasm::list_modules", http=Http("GET", "wasm/modules"))
async def list_modules(context: Context) -> ListReply:
    """Lists the modules that are loaded."""
    modules = context.resource.module_ids()
    return ListReply(modules=modules, count=len(modules))
