"""JSON logs on stderr, without the secrets that a worker is started with.

The worker's token is part of its ``III_URL`` (``ws://engine:49134/w/<token>/<pod uid>``) and the SDK logs that URL, so
every line passes the redaction as its last step, tracebacks included. Workers may share the process: each record names
the one that it belongs to.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentos_contracts.redaction import Redaction, log_uncaught

from . import scope
from .errors import FunctionError

_LOGGER = logging.getLogger("agentos_workers")


class Attribution:
    """Finds the worker that a record belongs to.

    It is the one that the code runs for. Threads that a worker starts by itself do not know that, so for them it is the
    one whose folder the record's file is in, or a file of its traceback. All others have the name `otherwise`.
    """

    def __init__(self, otherwise: str) -> None:
        self.otherwise = otherwise
        self._owners: dict[object, tuple[str, str]] = {}

    def add(self, owner: object, folder: Path, name: str) -> None:
        """Files in `folder` belong to the worker `name`, until `owner` is removed."""
        self._owners[owner] = (f"{folder}{os.sep}", name)

    def remove(self, owner: object) -> None:
        """Undoes `add`."""
        self._owners.pop(owner, None)

    def __call__(self, record: logging.LogRecord) -> str:
        worker = scope.current.get()
        if worker is not None:
            return worker.name
        paths = [record.pathname]
        if record.exc_info and record.exc_info[2]:
            paths += [frame.filename for frame in reversed(traceback.extract_tb(record.exc_info[2]))]
        # The innermost folder, and of several workers from one folder the newest.
        folders = [*self._owners.values()][::-1]
        folders.sort(key=lambda owned: len(owned[0]), reverse=True)
        return next((name for path in paths for folder, name in folders if path.startswith(folder)), self.otherwise)


redaction = Redaction()
"""Takes out what this process's workers prove themselves with, by value, and other secrets by their form."""
attribution = Attribution("host")


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (RFC 3339, UTC), level, worker, logger, message, and error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "worker": attribution(record),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return redaction(json.dumps(entry, default=str))


def _wanted(record: logging.LogRecord) -> bool:
    """Drops two messages of the SDK: failures that were meant for the caller, which it would log with a traceback as if
    they were faults, and its advice against HTTP triggers, which have no replacement in 0.25 yet."""
    if isinstance(record.msg, str) and record.msg.startswith("register_trigger is deprecated"):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not (error is not None and isinstance(error.__cause__, FunctionError))


def configure(otherwise: str) -> None:
    """Sends all logs of the process to stderr as redacted JSON, uncaught exceptions and warnings among them.

    `otherwise` is the worker of records that cannot be attributed. The level comes from ``AGENTOS_LOG_LEVEL`` (default
    ``info``; an unknown name counts as that).
    """
    attribution.otherwise = otherwise
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    level = logging.getLevelNamesMapping().get(os.environ.get("AGENTOS_LOG_LEVEL", "info").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("iii.iii").addFilter(_wanted)
    log_uncaught(_LOGGER)
