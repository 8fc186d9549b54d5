"""Logs: one JSON object a line on stderr, in which no secret can stand."""

import json
import logging
import sys
from datetime import UTC, datetime

from agentos_contracts.redaction import log_uncaught, redacted

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record and its extra fields as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redacted(json.dumps(fields, default=str))


def configure(level: str) -> None:
    """Send the logs of the process to stderr. ``level`` is one of debug, info, warning, error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("picows").setLevel(logging.ERROR)  # one line per connection and more; ours say what matters
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    log_uncaught(logging.getLogger("agentos_engine"))
