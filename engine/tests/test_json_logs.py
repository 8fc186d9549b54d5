"""Logs: whatever is logged, each line is one JSON object with the same keys."""

import json
import logging

import pytest
from agentos_engine.logs import JsonFormatter
from agentos_engine.observability.config import ObservabilityConfig
from agentos_engine.observability.module import Observability

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines():
    """What the process would print, from all loggers."""
    told: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(self.format(record))

    handler = Told()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield told
    root.removeHandler(handler)
    root.setLevel(level)


def test_an_exception_is_part_of_its_line(lines):
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        logging.getLogger("agentos_engine.x").exception("it failed\nbadly: %s", "so", extra={"function_id": "a::f"})
    (line,) = lines
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == (
        "error",
        "agentos_engine.x",
        "it failed\nbadly: so",
    )
    assert fields["time"].endswith("+00:00")
    assert fields["function_id"] == "a::f"
    assert fields["exception"].startswith("Traceback")
    assert fields["exception"].endswith("ValueError: first line\nsecond line")


async def test_an_entry_of_a_worker_tells_its_trace_where_there_is_one(lines, bus, join):
    module = Observability(bus=bus, config=ObservabilityConfig())
    await module.start()
    traced = {"message": "one\ntwo", "trace_id": TRACE, "span_id": "b7ad6b7169203331", "data": {"order": 7}}
    await bus.call("engine::log::warn", json.dumps(traced).encode())
    await bus.call("engine::log::info", b'{"message": "plain"}')
    await module.stop()
    first, second = (json.loads(line) for line in lines if "worker_log" in line)
    assert (first["level"], first["message"], first["trace_id"]) == ("warning", "one\ntwo", TRACE)
    assert "order" in first["data"]
    assert "trace_id" not in second
    assert all("\n" not in line for line in lines)


def test_what_json_does_not_know_is_told_as_text(lines):
    logging.getLogger("x").info("odd", extra={"path": object(), "raw": b"\xff", "text": "\ud800\u2028"})
    fields = json.loads(lines[0].encode())
    assert fields["raw"] == "b'\\xff'"
