"""What the functions of wasm-sandbox take and give. Field names are camelCase on the wire."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ..kit import Reply, Request

PAGE_BYTES = 65536
MAX_FUEL = 10**12
MAX_TIMEOUT_SECS = 300
# The engine gives up on a request over HTTP after 30 s.
HTTP_MAX_SECS = 25.0
MAX_MEMORY_PAGES = 1024

ModuleId = Annotated[str, Field(min_length=1, max_length=256)]


class Settings(BaseModel):
    """Environment variables, prefix ``WASM_``."""

    model_config = ConfigDict(frozen=True)

    concurrency: int = Field(default=4, ge=1, le=64, description="guests that run at once, each in a thread")
    queue: int = Field(default=64, ge=0, description="guests that may wait for a thread; more get OVERLOADED")
    cache_modules: int = Field(default=128, ge=1, description="modules kept, least recently used ones go first")
    cache_bytes: int = Field(default=128 * 1024 * 1024, ge=1, description="size of all kept modules, compiled")
    max_module_bytes: int = Field(default=8 * 1024 * 1024, ge=8, description="size of one module, as sent")
    compile_seconds: float = Field(default=10, gt=0, le=3600, description="time for compiling one module")
    compile_bytes: int = Field(
        default=256 * 1024 * 1024, ge=64 * 1024 * 1024, description="memory for compiling one module"
    )
    host_call_secs: float = Field(default=10, gt=0, description="time for one host call, within the guest's own limit")


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("not base64") from None
    if isinstance(value, list):
        try:
            return bytes(value)
        except (TypeError, ValueError):
            raise ValueError("an array must hold only byte values, 0 to 255") from None
    raise ValueError("must be an array of byte values or a base64 string")


class ExecuteRequest(Request):
    module_id: ModuleId
    input: Any = Field(description="handed to the guest as JSON")
    agent_id: str = Field(
        default="", max_length=256, description="the agent whose capabilities host calls are checked against"
    )
    fuel: int = Field(default=1_000_000, ge=1, le=MAX_FUEL, description="roughly the number of instructions allowed")
    timeout_secs: float = Field(
        default=30, gt=0, le=MAX_TIMEOUT_SECS, description="wall-clock limit, host calls included; over HTTP at most 25"
    )
    memory_pages: int = Field(default=256, ge=1, le=MAX_MEMORY_PAGES, description="memory limit in pages of 64 KiB")


class ExecuteReply(Reply):
    output: Any = Field(description='what the guest returned; {"raw": text} when that is no JSON')
    fuel_consumed: int
    module_id: str


class ValidateRequest(Request):
    module_id: ModuleId
    wasm: Annotated[
        bytes,
        BeforeValidator(_to_bytes),
        WithJsonSchema(
            {
                "description": "the binary module: an array of byte values, or base64 (shorter and faster)",
                "anyOf": [
                    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
                    {"type": "string", "contentEncoding": "base64"},
                ],
            }
        ),
    ]


class Rejection(Reply):
    code: str
    message: str


class ValidateReply(Reply):
    valid: bool
    module_id: str
    cached: bool = Field(description="the module is kept now and can be executed")
    error: Rejection | None = Field(
        default=None, description="why the module is not valid", exclude_if=lambda error: error is None
    )


class ListReply(Reply):
    modules: list[str] = Field(description="ids, in alphabetical order")
    count: int
