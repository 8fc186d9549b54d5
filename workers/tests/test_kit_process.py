"""A worker as a process: the command line, signals, and what its output never holds."""

from __future__ import annotations

import logging
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from agentos_contracts.redaction import MARK
from agentos_workers.__main__ import main
from agentos_workers.kit import Worker
from agentos_workers.loading import known_workers

TOKEN = "secret-token.abc_DEF"
SLOW = """
import os, time
from agentos_workers.kit import Context, Worker
worker = Worker("slow")
@worker.function("slow::sleep")
def sleep(context: Context) -> None:
    context.call_blocking("test::entered", None, timeout=20)
    time.sleep(float(os.environ["SLEEP"]))
@worker.function("slow::leak")
def leak(context: Context) -> None:
    raise RuntimeError("broken at " + os.environ["III_URL"])
"""


@pytest.fixture
def slow(tmp_path: Path) -> tuple[str, ...]:
    """The command line of a worker whose calls take as long as ``SLEEP`` says."""
    (tmp_path / "slow.py").write_text(SLOW)
    return "-m", "agentos_workers", "run", str(tmp_path / "slow.py")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unregisters_the_functions_and_ends_the_process_with_0(
    bus: Any, start_process: Any, number: signal.Signals
) -> None:
    process = start_process(III_URL=bus.url)
    bus.wait_for(lambda: len(bus.functions) == 3 and len(bus.triggers) == 3)
    code, output = process.stop(number)
    assert code == 0, output
    assert not bus.functions
    assert not bus.triggers


def test_a_signal_lets_the_running_call_finish(bus: Any, start_process: Any, slow: tuple[str, ...]) -> None:
    process = start_process(*slow, SLEEP="0.5", III_URL=bus.url)
    bus.wait_for(lambda: len(bus.functions) == 2)
    bus.provided["test::entered"] = lambda payload: None
    running = bus.send("slow::sleep", {})
    bus.wait_for(lambda: bus.calls)
    code, output = process.stop(signal.SIGTERM)
    assert (bus.result(running), code) == (None, 0), output


def test_a_call_that_does_not_end_is_dropped_after_the_drain_limit(
    bus: Any, start_process: Any, slow: tuple[str, ...]
) -> None:
    process = start_process(*slow, SLEEP="60", III_URL=bus.url, AGENTOS_DRAIN_SECONDS="0.3")
    bus.wait_for(lambda: len(bus.functions) == 2)
    bus.provided["test::entered"] = lambda payload: None
    bus.send("slow::sleep", {})
    bus.wait_for(lambda: bus.calls)
    code, output = process.stop(signal.SIGTERM)
    assert code == 0
    assert "1 calls were still running after 0.3 s of draining and are dropped" in output


def test_the_token_is_in_no_output_of_a_worker_that_runs_and_fails(
    bus: Any, start_process: Any, slow: tuple[str, ...]
) -> None:
    process = start_process(*slow, SLEEP="0", III_URL=bus.url, AGENTOS_LOG_LEVEL="debug")
    bus.wait_for(lambda: len(bus.functions) == 2)
    assert bus.request("slow::leak", "GET", "x")[0] == 500
    _, output = process.stop(signal.SIGTERM)
    assert "Connected to" in output
    assert f"broken at ws://127.0.0.1:{bus.url.split(':')[2].split('/')[0]}/w/{MARK}/pod-uid" in output
    assert TOKEN not in output


@pytest.mark.parametrize("path", [f"/w/{TOKEN}/uid", f"/w/{TOKEN}/uid with space"])
def test_the_token_is_in_no_output_while_no_engine_answers(start_process: Any, path: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        process = start_process(III_URL=f"ws://127.0.0.1:{port}{path}", AGENTOS_LOG_LEVEL="debug")
        lines = []
        assert process.process.stdout is not None
        for line in process.process.stdout:
            lines.append(line)
            if "Connection failed" in line:
                break
        code, rest = process.stop(signal.SIGTERM)
    output = "".join(lines) + rest
    assert "Connection failed" in output
    assert TOKEN not in output
    assert code == 0


def test_telemetry_follows_the_path_of_the_token_and_is_off_unless_wanted(bus: Any, start_process: Any) -> None:
    process = start_process(III_URL=bus.url, OTEL_ENABLED="true")
    bus.wait_for(lambda: len(bus.paths) == 2)
    assert sorted(bus.paths) == [f"/w/{TOKEN}/pod-uid", f"/w/{TOKEN}/pod-uid/otel"]
    _, output = process.stop(signal.SIGTERM)
    assert TOKEN not in output


def test_a_setting_that_cannot_be_used_is_one_line_and_exit_code_2(start_process: Any) -> None:
    code, output = start_process(WASM_CONCURRENCY="many", WASM_QUEUE="-1").wait()
    assert code == 2
    assert len(output.splitlines()) == 1
    assert "WASM_CONCURRENCY: Input should be a valid integer" in output
    assert "WASM_QUEUE: Input should be greater than or equal to 0" in output


def test_code_that_cannot_be_loaded_is_told_with_the_authors_frames_and_exit_code_2(
    start_process: Any, tmp_path: Path
) -> None:
    path = tmp_path / "worker.py"
    path.write_text("def start():\n    raise OSError('no disk')\nstart()\n")
    code, output = start_process("-m", "agentos_workers", "run", str(path)).wait()
    assert code == 2
    assert output.splitlines() == [
        f"agentos-worker: {path}:2: OSError: no disk",
        f'  File "{path}", line 3, in <module>',
        "    start()",
        f'  File "{path}", line 2, in start',
        "    raise OSError('no disk')",
    ]
    code, output = start_process("-m", "agentos_workers", "run", "nope").wait()
    assert (code, output.splitlines()[1:]) == (2, [])
    assert output.startswith("agentos-worker: no worker 'nope'; there are: ")


def test_list_prints_every_worker(capsys: pytest.CaptureFixture) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == known_workers()
    assert "wasm-sandbox" in known_workers()


def test_what_the_sdk_prints_is_redacted_for_every_handler_of_a_program_that_uses_the_kit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert Worker  # importing the kit is enough, as pytest's plugin does
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("iii.iii").info(f"Connected to ws://engine:49134/w/{TOKEN}/pod-uid")
        logging.getLogger("websockets.client").debug("> GET %s HTTP/1.1", f"/w/{TOKEN}/pod-uid")
        try:
            raise ValueError(f"ws://engine/w/{TOKEN}/pod-uid isn't a valid URI")
        except ValueError:
            logging.getLogger("iii.channels").exception("Error in channel message callback")
    assert f"Connected to ws://engine:49134/w/{MARK}/pod-uid" in caplog.text
    assert "isn't a valid URI" in caplog.text
    assert TOKEN not in caplog.text
