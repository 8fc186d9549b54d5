"""What a guest may ask of the world: four functions of the bus, each after a capability check for its agent."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

from ..kit import InvocationError

ALLOWED = frozenset({"memory::recall", "memory::store", "security::scan_injection", "embedding::generate"})
CHECK = "security::check_capability"
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_LOG_BYTES = 2048
MAX_LOG_LINES = 100
_LEVELS = (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)

_log = logging.getLogger(__name__)

BusCall = Callable[[str, Any, float], Any]


class HostCalls:
    """The host's side of one run. `deadline` is the run's own, on the monotonic clock."""

    def __init__(self, call: BusCall, module_id: str, agent_id: str, deadline: float, call_secs: float) -> None:
        self._call = call
        self._module_id = module_id
        self._agent_id = agent_id
        self._deadline = deadline
        self._call_secs = call_secs
        self._log_lines = 0

    def call(self, message: bytes) -> bytes:
        """Answers one ``host_call`` of the guest: JSON ``{functionId, args}`` in, the function's result as JSON out, or
        ``{"error": {"code", "message"}}``. Never raises."""
        try:
            return self._answer(message)
        except InvocationError as error:
            return _error(*_explain(error))
        except Exception:
            _log.exception("a host call of module %r failed", self._module_id)
            return _error("internal", "the host call failed; the worker's log has details")

    def log(self, level: int, text: bytes) -> None:
        """Writes one line of the guest to the worker's log: level 0 (trace) to 4 (error), long lines cut, and at most
        100 lines of a run."""
        self._log_lines += 1
        if self._log_lines > MAX_LOG_LINES:
            return
        severity = _LEVELS[min(max(level, 0), len(_LEVELS) - 1)]
        _log.log(severity, "guest %r: %s", self._module_id, text[:MAX_LOG_BYTES].decode(errors="replace"))

    def _answer(self, message: bytes) -> bytes:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("functionId"), str):
            return _error("invalid_request", "a host call is a JSON object with functionId (a string) and args")
        function_id: str = request["functionId"]
        if function_id not in ALLOWED:
            return _error("forbidden", f"a guest may call only {', '.join(sorted(ALLOWED))}")
        try:
            check = self._on_bus(CHECK, {"agentId": self._agent_id, "resource": function_id})
        except InvocationError as error:
            if error.code == "invocation_failed":
                return _error("forbidden", error.message)
            raise
        if not isinstance(check, dict) or check.get("allowed") is not True:
            return _error("forbidden", f"agent {self._agent_id!r} has no capability for {function_id}")
        result = to_json(self._on_bus(function_id, request.get("args")), inf_nan_mode="null")
        if len(result) > MAX_MESSAGE_BYTES:
            return _error("too_large", f"the result has {len(result)} bytes, more than {MAX_MESSAGE_BYTES}")
        return result

    def _on_bus(self, function_id: str, payload: Any) -> Any:
        left = min(self._call_secs, self._deadline - time.monotonic())
        if left <= 0:
            raise InvocationError("TIMEOUT", "the guest's own time is over", function_id)
        return self._call(function_id, payload, left)


def _explain(error: InvocationError) -> tuple[str, str]:
    called = error.function_id or "the function"
    if error.code == "function_not_found":
        return "not_available", f"{called} is not available: no worker provides it now"
    if error.code == "TIMEOUT":
        return "timed_out", f"{called} did not answer in time"
    if error.code == "FORBIDDEN":
        return "forbidden", error.message
    return "call_failed", f"{called}: {error.message}"


def _error(code: str, message: str) -> bytes:
    return to_json({"error": {"code": code, "message": message}})
