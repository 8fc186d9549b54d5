"""``agentos test``, ``inspect`` and ``render`` on real workers in real processes."""

import json
import sys
import time
from pathlib import Path

import pytest
from agentos.author import scratch
from agentos.author.inspecting import inspect
from agentos.author.scratch import Log, read_worker, run
from agentos.author.testing import test_command as command_for
from agentos.errors import CommandError
from agentos.local.process import ending
from commands import COMMAND, Command, Run
from ups import kit_worker, until

CALLER = """
from agentos_workers.kit import Context, Cron, Http, Reply, Request, Worker

worker = Worker("shop")


class Order(Request):
    item: str
    count: int = 1


class Receipt(Reply):
    total: int


@worker.function("shop::buy", http=Http("POST", "shop/orders"), triggers=Cron("0 0 9 * * *"))
async def buy(request: Order, context: Context) -> Receipt:
    \"\"\"Buys something.\"\"\"
    await context.call("mail::send", {"to": "a"}, 5)
    return Receipt(total=request.count)
"""

BARE = """
import os, threading
from iii import InitOptions, register_worker

worker = register_worker(os.environ["III_URL"], InitOptions(worker_name="bare", otel={"enabled": False}))
worker.register_function("bare::run", lambda data: data, description="Runs.")
worker.register_function("state::get", lambda data: data)
for missing in ("stock::count", "".join(["price", "::", "of"])):
    try:
        worker.trigger({"function_id": missing, "payload": {}, "timeout_ms": 2000})
    except Exception as error:
        print("said", error, flush=True)
threading.Event().wait()
"""

FOLDER_TEST = """
import os

def test_greets_at_any_time(bus):
    assert os.environ["AGENTOS_TEST_WORKER"] == "greeter"
    before = bus.now()
    assert (bus.advance(3600) - before).total_seconds() == 3600
    assert bus.call("greeter::hello", {"name": "Ada"}) == {"text": "hello Ada"}
    assert bus.http("POST", "greeter/hello", {"name": "Ada"}).body == {"text": "hello Ada"}
"""


@pytest.fixture
def agentos(command: Command) -> Run:
    """Run the command to its end. What the tests of a worker's folder print is seen of ``command.process`` only."""
    return command.run


def bare_worker(folder: Path, code: str = BARE, start: str | None = None) -> Path:
    """A worker that is not on our kit."""
    folder.mkdir()
    start = start or f"{sys.executable} worker.py"
    (folder / "iii.worker.yaml").write_text(f"iii: v1\nname: {folder.name}\nscripts:\n  start: {start}\n")
    (folder / "worker.py").write_text(code)
    return folder


def processes_with(text: str) -> list[str]:
    """The command lines of processes that have a text in them, zombies left out."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        lines += [line] if text in line else []
    return lines


# agentos test


def test_the_folder_s_tests_run_against_the_worker_and_move_the_clock(command, tmp_path):
    (kit_worker(tmp_path / "greeter", "greeter") / "test_worker.py").write_text(FOLDER_TEST)
    done = command.process("test", "greeter")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_failing_test_makes_the_exit_code_1_and_shows_what_the_worker_printed(command, tmp_path):
    folder = kit_worker(tmp_path / "greeter", "greeter")
    (folder / "worker.py").write_text((folder / "worker.py").read_text() + '\nprint("I am here")\n')
    (folder / "test_worker.py").write_text(FOLDER_TEST.replace("hello Ada", "hello Eve"))
    done = command.process("test", "greeter")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "I am here" in done.stderr


def test_the_command_can_be_given_and_its_output_is_passed_through(command, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    script = "import os, sys; print(os.environ['AGENTOS_TEST_WORKER'], sys.argv[1:]); print('err', file=sys.stderr)"
    done = command.process("test", "greeter", "--", sys.executable, "-c", script, "--flag", "-v")
    assert (done.returncode, done.stdout) == (0, "greeter ['--flag', '-v']\n")
    assert "err\n" in done.stderr


def test_any_failure_of_the_command_is_1(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    assert agentos("test", "greeter", "--", "sh", "-c", "exit 77").returncode == 1


def test_with_verbose_the_worker_is_heard_at_once(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    done = agentos("test", "-v", "greeter", "--", "true")
    assert done.returncode == 0
    assert "greeter      * ready" in done.stderr


def test_tests_that_do_not_end_are_ended_with_all_that_they_started(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    done = agentos("test", "--timeout", "1", "greeter", "--", "sh", "-c", "sleep 98.7654 & sleep 98.7654")
    assert done.returncode == 5
    assert done.stderr.endswith("agentos: the tests did not end within 1 s; see --timeout\n")
    until("no process is left", lambda: not processes_with("98.7654"), 10)


def test_ctrl_c_ends_the_tests_and_the_worker(command, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    with command.running("test", "greeter", "--", "sh", "-c", "echo begun; sleep 97.6543") as running:
        assert running.stdout.readline() == "begun\n"
    worker = f"{tmp_path}/greeter"
    until("no process is left", lambda: not processes_with("97.6543") and not processes_with(worker), 10)


def test_a_worker_that_dies_is_told_in_one_line_after_its_last_ones(agentos, tmp_path):
    bare_worker(tmp_path / "bad", "print('no luck'); raise SystemExit(3)")
    done = agentos("test", "bad")
    assert done.returncode == 1
    assert done.stderr == f"bad          | no luck\nagentos: worker bad does not run: {ending(3)}\n"


def test_a_worker_that_never_registers_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scratch, "START_SECONDS", 0.5)
    worker = read_worker(bare_worker(tmp_path / "mute", "print('well', flush=True); import time; time.sleep(60)"))
    with pytest.raises(CommandError, match="worker mute does not run: after"):
        run(inspect(worker, Log(False), 0))
    assert "well" in capsys.readouterr().err


def test_what_it_needs_is_installed_first_and_once(agentos, tmp_path):
    extra = "  install: echo installed >> installs.txt\n"
    folder = kit_worker(tmp_path / "greeter", "greeter", extra=extra)
    for _ in range(2):
        assert agentos("test", "greeter", "--", "true").returncode == 0
    assert (folder / "installs.txt").read_text() == "installed\n"


def test_an_install_that_fails_is_told_in_one_line(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter", extra="  install: echo no network; exit 4\n")
    done = agentos("test", "greeter", "--", "true")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "greeter      | no network",
        "agentos: worker greeter does not run: scripts.install failed: exit code 4 (echo no network; exit 4)",
    ]


def test_what_it_depends_on_need_not_be_there(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter", extra="dependencies:\n  memory: ^1\n")
    assert agentos("test", "greeter", "--", "true").returncode == 0


@pytest.mark.parametrize("verb", ["test", "inspect", "render"])
def test_a_folder_without_a_manifest_and_one_with_errors_are_one_clear_line_each(command, tmp_path, verb):
    (tmp_path / "empty").mkdir()
    done = command.run(verb, "empty")
    assert done.returncode == 2
    assert done.stderr == "agentos: empty has no iii.worker.yaml; agentos new worker NAME makes a worker's folder\n"
    assert command.run(verb, "nowhere").stderr.startswith("agentos: there is no folder nowhere; ")
    bare_worker(tmp_path / "bad", start="5")
    done = command.run(verb, "bad")
    assert done.returncode == 1
    assert done.stderr == (
        "bad/iii.worker.yaml:4: error: scripts.start: must be a text, got the whole number 5; put it in quotes\n"
        "agentos: the worker in bad cannot be run; see above\n"
    )


def test_a_command_that_is_not_there_is_one_line(agentos, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    done = agentos("test", "greeter", "--", "no-such-program")
    assert done.returncode == 1
    assert done.stderr.endswith("agentos: no-such-program is not there; give another command after --\n")


def test_agentos_test_does_not_start_itself(command, tmp_path):
    kit_worker(tmp_path / "greeter", "greeter")
    done = command.process("test", "greeter", "--", str(COMMAND), "test", ".")
    assert done.returncode == 1
    assert "agentos test runs already" in done.stderr


PYTEST = [sys.executable, "-m", "pytest"]


@pytest.mark.parametrize(
    ("files", "start", "command"),
    [
        ({"worker.py": ""}, "agentos-worker run worker.py", PYTEST),
        ({"worker.py": "", "package.json": "{}"}, "agentos-worker run worker.py", PYTEST),
        ({"worker.py": ""}, "python worker.py", PYTEST),
        ({"package.json": '{"scripts": {"test": "vitest run"}}'}, "node x.js", ["npm", "test"]),
        ({"package.json": '{"scripts": {"test": "agentos test ."}}'}, "node x.js", ["node", "--test"]),
        ({"package.json": '{"scripts": {}}'}, "node x.js", ["node", "--test"]),
        ({"package.json": "[]"}, "node x.js", ["node", "--test"]),
        ({"package.json": '{"scripts": 5}'}, "node x.js", ["node", "--test"]),
        ({"package.json": "no json"}, "node x.js", ["node", "--test"]),
        ({"Cargo.toml": ""}, "./worker", ["cargo", "test"]),
    ],
)
def test_the_command_is_the_language_s_own(tmp_path, files, start, command):
    (tmp_path / "iii.worker.yaml").write_text(f"iii: v1\nname: w\nscripts:\n  start: {start}\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert command_for(read_worker(tmp_path)) == command


def test_a_folder_in_a_language_without_a_usual_command_has_to_say_it(tmp_path):
    (tmp_path / "iii.worker.yaml").write_text("iii: v1\nname: w\nscripts:\n  start: ./worker\n")
    with pytest.raises(CommandError, match=r"say it: agentos test .* -- COMMAND"):
        command_for(read_worker(tmp_path))


# agentos inspect


def test_inspect_prints_what_a_worker_registers_and_calls(agentos, tmp_path):
    kit_worker(tmp_path / "shop", "shop", code=CALLER, extra="version: 1.2.0\ndescription: Sells things\n")
    done = agentos("inspect", "shop", "-o", "json", "--for", "100ms")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (function,) = found["functions"]
    assert (found["name"], found["version"], function["id"]) == ("shop", "1.2.0", "shop::buy")
    assert function["description"] == "Buys something."
    assert function["request_schema"]["required"] == ["item"]
    assert function["response_schema"]["properties"]["total"]["type"] == "integer"
    assert found["routes"] == [{"method": "POST", "path": "/shop/orders", "function_id": "shop::buy"}]
    assert [each["type"] for each in found["triggers"]] == ["cron", "http"]
    assert found["triggers"][0]["config"] == {"expression": "0 0 9 * * *"}
    assert {"function_id": "mail::send", "of": "worker", "found": ["worker.py:19"]} in found["calls"]
    assert found["warnings"] == []


def test_calls_of_functions_that_nobody_has_are_observed(agentos, tmp_path):
    bare_worker(tmp_path / "bare")
    done = agentos("inspect", "bare", "-o", "json", "--for", "1s")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    calls = {each["function_id"]: each["found"] for each in found["calls"]}
    assert calls["price::of"] == ["observed"]
    assert calls["stock::count"] == ["observed", "worker.py:8"]
    assert [each["id"] for each in found["functions"]] == ["bare::run"]
    assert found["warnings"] == ["function refused: its id belongs to the engine: state::get"]


def test_inspect_has_tables_for_people(agentos, tmp_path):
    kit_worker(tmp_path / "shop", "shop", code=CALLER)
    done = agentos("inspect", "shop", "--for", "0s")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "shop::buy item, count? Buys something." in lines
    assert "POST /shop/orders shop::buy" in lines
    assert 'cron shop::buy {"expression":"0 0 9 * * *"}' in lines
    assert "mail::send worker worker.py:19" in lines


def test_a_bad_time_to_watch_is_refused(agentos, tmp_path):
    kit_worker(tmp_path / "shop", "shop", code=CALLER)
    for text in ("3h", "-1s", "", "6m", "soon"):
        done = agentos("inspect", "shop", f"--for={text}")
        assert done.returncode == 2
        assert done.stderr.startswith("agentos: --for: ")


# agentos render


def test_a_rendered_worker_validates_and_runs_as_it_stands(agentos, tmp_path):
    kit_worker(tmp_path / "shop", "shop", code=CALLER)
    done = agentos("render", "shop", "--out", "shop.yaml", "-n", "market", "--for", "100ms")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "shop.yaml").read_text()
    assert "  owns:\n    - shop::*\n" in text
    assert "    - mail::send # worker.py:19\n" in text
    assert "    agentos.dev/source: shop\n" in text
    done = agentos("validate", "shop.yaml")
    assert done.stdout.endswith("1 document checked: 0 errors, 0 warnings\n")


def test_render_writes_to_stdout_and_over_a_file_only_when_told(agentos, tmp_path):
    kit_worker(tmp_path / "shop", "shop", code=CALLER)
    done = agentos("render", "shop", "--no-run", "--image", "registry/shop:2.0.0")
    assert done.stdout.startswith("apiVersion: agentos.dev/v1alpha1\n")
    assert "  image: registry/shop:2.0.0\n" in done.stdout
    (tmp_path / "shop.yaml").write_text("mine")
    done = agentos("render", "shop", "--no-run", "--out", "shop.yaml")
    assert (done.returncode, done.stderr) == (2, "agentos: shop.yaml is there already; --force writes over it\n")
    assert (tmp_path / "shop.yaml").read_text() == "mine"
    assert agentos("render", "shop", "--no-run", "--out", "shop.yaml", "--force").returncode == 0
    assert "kind: Worker" in (tmp_path / "shop.yaml").read_text()


def test_render_without_a_run_starts_nothing(agentos, tmp_path):
    bare_worker(tmp_path / "bad", 'open("ran", "w"); call("stock::count"); call("bad::own")')
    done = agentos("render", "bad", "--no-run")
    assert done.returncode == 0
    assert "    - stock::count # worker.py:1\n" in done.stdout
    assert "bad::own" not in done.stdout
    assert not (tmp_path / "bad" / "ran").exists()


def test_a_worker_that_hangs_is_ended_soon(agentos, tmp_path, monkeypatch):
    """Its function never ends; nobody waits for it when the command is over."""
    monkeypatch.setattr(scratch, "STOP_SECONDS", 0.5)
    code = CALLER.replace(
        'await context.call("mail::send", {"to": "a"}, 5)', "import asyncio; await asyncio.sleep(600)"
    )
    kit_worker(tmp_path / "shop", "shop", code=code)
    script = (
        "import httpx, os\n"
        "try: httpx.post(os.environ['AGENTOS_HTTP_URL'] + '/shop/orders', json={'item': 'x'}, timeout=1)\n"
        "except httpx.ReadTimeout: raise SystemExit(0)\n"
        "raise SystemExit(1)\n"
    )
    began = time.monotonic()
    assert agentos("test", "shop", "--", sys.executable, "-c", script).returncode == 0
    assert time.monotonic() - began < 20
