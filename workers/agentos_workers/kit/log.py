"""JSON logs on stderr, without the secrets that a worker is started with.

The worker's token is part of its ``III_URL`` (``ws://engine:49134/w/<token>/<pod uid>``) and the SDK logs that URL, so
every line passes the redaction as its last step, tracebacks included.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import FunctionError

REDACTED = "[redacted]"
_IN_URLS = (
    (re.compile(r"/w/[^/\s\"'?]+"), f"/w/{REDACTED}"),
    (re.compile(r"://[^/\s\"'@]+@"), f"://{REDACTED}@"),
    (re.compile(r"([?&](?:key|token)=)[^&\s\"']+"), rf"\1{REDACTED}"),
)
_LOGGER = logging.getLogger("agentos_workers")


class Redaction:
    """Removes this process's secrets from text: known values, and whatever sits where URLs carry secrets."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        found = {token or ""}
        parts = urlsplit(url or "")
        match = re.search(r"/w/([^/]+)", parts.path)
        if match:
            found.add(match.group(1))
        found.add(parts.password or "")
        found |= {unquote(value) for value in found}
        self._values = sorted((value for value in found if len(value) > 3), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, REDACTED)
        for pattern, replacement in _IN_URLS:
            text = pattern.sub(replacement, text)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (RFC 3339, UTC), level, logger, message, and error with its traceback."""

    def __init__(self, redaction: Redaction, worker: str) -> None:
        super().__init__()
        self._redact = redaction
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "worker": self._worker,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(entry, default=str))


def _wanted(record: logging.LogRecord) -> bool:
    """Drops two messages of the SDK: failures that were meant for the caller, which it would log with a traceback as if
    they were faults, and its advice against HTTP triggers, which have no replacement in 0.25 yet."""
    if isinstance(record.msg, str) and record.msg.startswith("register_trigger is deprecated"):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not (error is not None and isinstance(error.__cause__, FunctionError))


def configure(worker: str, url: str) -> None:
    """Sends all logs of the process to stderr as redacted JSON, uncaught exceptions and warnings among them.

    The level comes from ``AGENTOS_LOG_LEVEL`` (default ``info``; an unknown name counts as that).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(Redaction(url, os.environ.get("III_TOKEN")), worker))
    level = logging.getLevelNamesMapping().get(os.environ.get("AGENTOS_LOG_LEVEL", "info").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("iii.iii").addFilter(_wanted)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _LOGGER.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
