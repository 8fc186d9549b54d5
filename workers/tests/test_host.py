"""Workers that share a process, and the same workers alone in theirs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WAIT_SECS = 20
COMMAND = (sys.executable, "-m", "agentos_workers")
WORKER = """
import logging, threading, time
from pydantic import BaseModel
from agentos_workers.kit import Context, Worker
from .models import Settings, Told

worker = Worker("declared", settings=Settings, prefix="SHOP_")

@worker.function("{name}::tell")
def tell(context: Context) -> Told:
    logging.getLogger().info("from a handler")
    thread = threading.Thread(target=lambda: logging.getLogger(__name__).info("from its own thread"))
    thread.start()
    thread.join()
    return Told(size=context.settings.size)

@worker.function("{name}::hold")
def hold(context: Context) -> None:
    context.call_blocking("test::entered", None, timeout=20)
"""
MODELS = """
from pydantic import BaseModel
from agentos_workers.kit import Reply
class Settings(BaseModel):
    size: int = 1
class Told(Reply):
    size: int
"""


class HostProcess:
    """``agentos-worker host`` as its parent has it."""

    def __init__(self, home: Path, **environ: str) -> None:
        reader, writer = os.pipe()
        self.home = home
        with (home / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, "host", "--events", str(writer)],
                env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
                stdin=subprocess.PIPE,
                stderr=stderr,
                pass_fds=[writer],
            )
        os.close(writer)
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._reader.start()

    def _read(self, reader: int) -> None:
        with os.fdopen(reader) as lines:
            for line in lines:
                with self._changed:
                    self.events.append(json.loads(line))
                    self._changed.notify_all()

    def send(self, command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((command if isinstance(command, str) else json.dumps(command)).encode() + b"\n")
        self.process.stdin.flush()

    def start(self, target: str, name: str, url: str, **env: str) -> None:
        self.send({"start": [{"target": target, "name": name, "url": url, "env": env, "cwd": "/"}]})

    def event(self, event: str, name: str) -> dict[str, Any]:
        """Waits for an event."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.events if (one["event"], one["name"]) == (event, name)), None)

        with self._changed:
            assert self._changed.wait_for(found, WAIT_SECS), (self.events, self.logs())
            return found() or {}

    def end(self) -> int:
        """Ends standard input, as a parent that is gone; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(WAIT_SECS)
        self._reader.join(WAIT_SECS)
        return code

    def output(self) -> str:
        return (self.home / "stderr").read_text()

    def logs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output().splitlines()]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostProcess]:
    host = HostProcess(tmp_path, III_WORKER_NAME="of-the-process")
    yield host
    host.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], str]:
    """Makes a worker folder; the path of its worker.py."""

    def make(name: str, worker: str = WORKER) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.py").write_text(MODELS)
        (tmp_path / name / "worker.py").write_text(worker.replace("{name}", name))
        return str(tmp_path / name / "worker.py")

    return make


@pytest.fixture
def buses(new_bus: Callable[[str], Any]) -> tuple[Any, Any]:
    return new_bus("first-token"), new_bus("second-token")


class Alone:
    """A worker by ``agentos-worker run``, with what a test asks of either way to run one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, target: str, name: str, url: str, **env: str) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), "III_URL": url, **env}
        with (self.home / "stderr").open("w") as stderr:
            self.process = subprocess.Popen([*COMMAND, "run", target], env=environ, stderr=stderr)

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECS)

    def failure(self, name: str) -> str:
        assert self.process is not None
        assert self.process.wait(WAIT_SECS) in (1, 2)
        return self.output()

    def output(self) -> str:
        return (self.home / "stderr").read_text()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Shared(HostProcess):
    def failure(self, name: str) -> str:
        return self.event("failed", name)["message"]


@pytest.fixture(params=[Alone, Shared])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    way = request.param(tmp_path)
    yield way
    way.kill()


def test_a_worker_serves_with_its_own_settings_under_its_own_name_in_either_way(
    way: Any, bus: Any, folder: Callable[..., str]
) -> None:
    way.start(folder("orders"), "orders", bus.url, SHOP_SIZE="7", III_WORKER_NAME="given")
    bus.wait_for(lambda: len(bus.functions) == 2)
    assert bus.call("orders::tell", {}) == {"size": 7}
    bus.wait_for(lambda: bus.names == ["given"])
    assert way.end() == 0
    assert not bus.functions
    logs = [json.loads(line) for line in way.output().splitlines()]
    assert {entry["worker"] for entry in logs} == {"given"}
    assert {"from a handler", "from its own thread"} <= {entry["message"] for entry in logs}


def test_a_running_call_is_finished_in_either_way(way: Any, bus: Any, folder: Callable[..., str]) -> None:
    release, entered = threading.Event(), threading.Event()

    def provide(payload: Any) -> None:
        entered.set()
        release.wait(WAIT_SECS)

    bus.provided["test::entered"] = provide
    way.start(folder("orders"), "orders", bus.url)
    bus.wait_for(lambda: len(bus.functions) == 2)
    held = bus.send("orders::hold", {})
    assert entered.wait(WAIT_SECS)
    ending = threading.Thread(target=way.end)
    ending.start()
    bus.wait_for(lambda: not bus.functions)
    release.set()
    assert bus.result(held) is None
    ending.join(WAIT_SECS)


@pytest.mark.parametrize(
    ("code", "env", "message"),
    [
        ("from models import Told", {}, "worker.py:1: 'models' is beside this file"),
        ("def broken(:", {}, "worker.py:1: invalid syntax"),
        ("x = 1\nraise OSError('no disk')", {}, "worker.py:2: OSError: no disk"),
        (WORKER, {"SHOP_SIZE": "big"}, "SHOP_SIZE: Input should be a valid integer"),
        (WORKER, {"AGENTOS_DRAIN_SECONDS": "x"}, "AGENTOS_DRAIN_SECONDS: Input should be a valid number"),
        (
            "from agentos_workers.kit import Worker\nworker = Worker('x', open_resource=lambda settings: 1 / 0)",
            {},
            "what its handlers share could not be opened: ZeroDivisionError",
        ),
    ],
)
def test_what_is_wrong_with_a_worker_is_told_in_either_way(
    way: Any, bus: Any, folder: Callable[..., str], code: str, env: dict[str, str], message: str
) -> None:
    way.start(folder("orders", code), "orders", bus.url, **env)
    assert message in way.failure("orders")


def test_a_worker_that_the_engine_refuses_for_good_is_told_in_either_way(
    way: Any, bus: Any, folder: Callable[..., str]
) -> None:
    bus.refuses = True
    way.start(folder("orders"), "orders", bus.url)
    assert "the engine refused it" in way.failure("orders")


def test_workers_of_one_process_are_apart(
    host: HostProcess, new_bus: Callable[[str], Any], folder: Callable[..., str]
) -> None:
    first, second, third = (new_bus(token) for token in ("first", "second", "third"))
    start = [
        {"target": folder("orders"), "name": "orders", "url": first.url, "env": {"SHOP_SIZE": "1"}},
        {"target": folder("stock"), "name": "stock", "url": second.url, "env": {"SHOP_SIZE": "2"}},
        {"target": folder("broken", "1 / 0"), "name": "broken", "url": third.url},
        {"target": "wasm-sandbox", "name": "wasm", "url": third.url, "env": {"III_WORKER_NAME": "wasm"}},
    ]
    host.send({"start": start})
    for name in ("orders", "stock", "wasm"):
        host.event("started", name)
    assert "broken/worker.py:1: ZeroDivisionError: division by zero" in host.event("failed", "broken")["message"]
    assert first.call("orders::tell", {}) == {"size": 1}
    assert second.call("stock::tell", {}) == {"size": 2}
    assert [bus.names for bus in (first, second, third)] == [["declared"], ["declared"], ["wasm"]]
    assert host.end() == 0
    assert {one["name"] for one in host.events if one["event"] == "stopped"} == {"orders", "stock", "wasm"}


def test_every_worker_logs_under_its_name_and_no_token_is_in_any_line(
    host: HostProcess, buses: tuple[Any, Any], folder: Callable[..., str]
) -> None:
    for name, bus in zip(("orders", "stock"), buses, strict=True):
        leak = WORKER + f"\nprint_url = logging.getLogger(__name__).info({bus.url!r})\n"
        host.start(folder(name, leak), name, bus.url, III_WORKER_NAME=name, III_TOKEN=f"sesame-{name}")
        host.event("started", name)
        bus.call(f"{name}::tell", {})
    host.send("no command")
    host.send({"start": [{"name": "nothing"}]})
    assert host.end() == 0
    messages = [(entry["worker"], entry["message"]) for entry in host.logs()]
    for name in ("orders", "stock"):
        assert (name, "from a handler") in messages
        assert (name, "from its own thread") in messages
        assert (name, f"serving {name}::tell, {name}::hold") in messages
        assert any(worker == name and text.startswith("Connected to") for worker, text in messages)
    assert [worker for worker, text in messages if "a command that cannot be read" in text] == ["host", "host"]
    for secret in ("first-token", "second-token", "sesame"):
        assert secret not in host.output()


def test_a_new_version_serves_before_the_old_one_goes_and_a_name_can_be_used_again(
    host: HostProcess, bus: Any, folder: Callable[..., str]
) -> None:
    target = folder("orders")
    host.start(target, "orders-1", bus.url)
    host.event("started", "orders-1")
    Path(target).write_text(WORKER.replace("{name}::tell", "orders::say").replace("{name}", "orders"))
    host.start(target, "orders-2", bus.url)
    host.event("started", "orders-2")
    assert bus.functions.keys() == {"orders::tell", "orders::say", "orders::hold"}
    host.send({"stop": "orders-1"})
    host.event("stopped", "orders-1")
    host.start(target, "orders-1", bus.url)
    bus.wait_for(lambda: len(bus.paths) == 3)
    assert host.end() == 0


@pytest.mark.parametrize("names", [("waiting",), ("waiting", "staying")])
def test_a_worker_whose_engine_is_not_there_yet_can_be_stopped_and_does_not_hold_the_process(
    host: HostProcess, bus: Any, folder: Callable[..., str], names: tuple[str, ...]
) -> None:
    nowhere = "ws://127.0.0.1:1/w/secret-token.abc_DEF/x"
    for name in names:
        host.start(folder(name), name, nowhere)
    host.start(folder("orders"), "orders", bus.url)
    host.event("started", "orders")
    host.send({"stop": "waiting"})
    host.event("stopped", "waiting")
    assert host.end() == 0
    assert "secret-token" not in host.output()


def test_an_import_that_takes_long_does_not_hold_up_the_others(
    host: HostProcess, bus: Any, folder: Callable[..., str]
) -> None:
    host.start(folder("slow", "import time\ntime.sleep(3600)"), "slow", bus.url)
    host.start(folder("orders"), "orders", bus.url)
    host.event("started", "orders")
    assert host.end() == 0
    assert host.event("stopped", "slow")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_drains_all_and_sigint_is_left_to_the_parent(
    host: HostProcess, bus: Any, folder: Callable[..., str], number: signal.Signals
) -> None:
    host.start(folder("orders"), "orders", bus.url)
    host.event("started", "orders")
    host.process.send_signal(number)
    if number == signal.SIGINT:
        assert bus.call("orders::tell", {}) == {"size": 1}
        host.end()
    assert host.wait() == 0
    assert not bus.functions


def test_ten_workers_are_quick_to_start_and_small(host: HostProcess, bus: Any, folder: Callable[..., str]) -> None:
    names = [f"w{number}" for number in range(10)]
    host.send({"start": [{"target": folder(name), "name": name, "url": bus.url} for name in names]})
    for name in names:
        host.event("started", name)
    process = Path(f"/proc/{host.process.pid}")
    fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    resident = int(process.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # Of processor time, as it does not depend on what else runs.
    assert seconds < 0.8
    assert resident < 75_000_000
    assert host.end() == 0


def test_code_of_a_worker_finds_nothing_on_standard_input(
    host: HostProcess, bus: Any, folder: Callable[..., str]
) -> None:
    host.start(folder("reader", "import sys\nassert sys.stdin.read() == ''\n" + WORKER), "reader", bus.url)
    host.event("started", "reader")
    assert host.end() == 0
