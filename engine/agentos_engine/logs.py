"""Logs: one JSON object a line on stderr, in which no token can stand."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_TOKEN_PATH = re.compile(r"/w/[^/\s\"'\\]+")
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redacted(text: str) -> str:
    """Return the text with every token, in a path or alone, replaced."""
    return _TOKEN.sub("<token>", _TOKEN_PATH.sub("/w/<token>", text))


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
