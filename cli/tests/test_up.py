"""``agentos up`` with real processes: what a person at a laptop sees."""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from ups import PLAIN_WORKER, Up, alive, kit_worker, plain_worker, processes, until, up, worker_yaml


@pytest.fixture(params=["shared", "isolated"])
def mode(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The flags with which Python workers share a process, or have one each."""
    return () if request.param == "shared" else ("--isolate",)


# Starting


def test_the_workers_of_a_folder_answer_calls(tmp_path: Path, mode: tuple[str, ...]) -> None:
    kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two")
    plain_worker(tmp_path / "three", "three", extra="env:\n  WORD: words\n")
    with up(tmp_path, *mode) as running:
        running.ready(3)
        assert [running.hello(name) for name in ("one", "two", "three")] == ["hello Ada", "hello Ada", "plain words"]


def test_python_workers_of_our_kit_share_a_process_unless_isolated(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        kit_worker(tmp_path / name, name)
    with up(tmp_path) as shared:
        shared.ready(3)
        assert len({row["pid"] for row in shared.fleet().values()}) == 1
    with up(tmp_path, "--isolate") as isolated:
        isolated.ready(3)
        assert len({row["pid"] for row in isolated.fleet().values()}) == 3


def test_workers_that_need_other_values_of_a_variable_do_not_share_a_process(tmp_path: Path) -> None:
    code = """
import os
from agentos_workers.kit import Context, Http, Reply, Request, Worker
worker = Worker("{name}")
class Nothing(Request):
    pass
class Word(Reply):
    text: str
@worker.function("{name}::hello", http=Http("POST", "{name}/hello"))
async def hello(request: Nothing, context: Context) -> Word:
    return Word(text=os.environ.get("WORD", "none"))
"""
    for name, word in (("one", "first"), ("two", "second")):
        kit_worker(tmp_path / name, name, extra=f"env:\n  WORD: {word}\n", code=code.replace("{name}", name))
    with up(tmp_path) as running:
        running.ready(2)
        assert (running.hello("one"), running.hello("two")) == ("first", "second")


def test_a_fleet_of_worker_yaml_runs_the_folders_that_it_names(tmp_path: Path, mode: tuple[str, ...]) -> None:
    kit_worker(tmp_path / "code" / "one", "one")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "one::*"))
    with up(tmp_path, "-f", "fleet", *mode) as running:
        running.ready(1)
        assert running.hello("one") == "hello Ada"


def test_a_worker_gets_its_variables_from_config_maps_secrets_and_the_shell(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one")
    (tmp_path / "one.yaml").write_text(
        """apiVersion: v1
kind: Secret
metadata: {name: words}
stringData: {word: from-a-secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: manifest}
data:
  iii.worker.yaml: |
    iii: v1
    name: one
    scripts: {start: python worker.py}
---
apiVersion: agentos.dev/v1alpha1
kind: Worker
metadata: {name: one}
spec:
  image: localhost/one:dev
  manifestFrom: {configMapKeyRef: {name: manifest}}
  env:
  - name: WORD
    valueFrom: {secretKeyRef: {name: words, key: word}}
"""
    )
    with up(tmp_path, "-f", "one.yaml") as running:
        running.ready(1)
        assert running.hello("one") == "plain from-a-secret"


def test_an_install_script_runs_once_and_again_when_its_files_change(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one")
    (tmp_path / "iii.worker.yaml").write_text(
        "iii: v1\nname: one\nscripts:\n  install: echo installed >> count.txt\n  start: python worker.py\n"
    )
    for _ in range(2):
        with up(tmp_path) as running:
            running.ready(1)
    assert (tmp_path / "count.txt").read_text().count("installed") == 1
    (tmp_path / "requirements.txt").write_text("# another\n")
    with up(tmp_path) as running:
        running.ready(1)
    assert (tmp_path / "count.txt").read_text().count("installed") == 2


def test_state_is_kept_from_one_start_to_the_next(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    with up(tmp_path) as running:
        running.ready(1)
        payload = {"scope": "s", "key": "k", "value": 7}
        httpx.post(f"{running.console}/api/call", json={"function_id": "state::set", "payload": payload})
    with up(tmp_path) as running:
        body = {"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}
        assert httpx.post(f"{running.console}/api/call", json=body).json()["result"] == 7


# Faults that a person makes


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = Up(tmp_path, f"--http-port={port}")
        assert running.process.wait(30) == 1
        (line,) = running.output.splitlines()
        assert f"port {port}" in line
        assert "--http-port" in line


def test_a_second_one_in_the_same_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        running.line("page http")
        second = subprocess.run(
            [*running.process.args[:4], "--port=0", "--admin-port=0", "--console-port=0"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "another engine uses it" in second.stderr


def test_a_missing_interpreter_is_one_line(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one", start="no-such-interpreter worker.mjs")
    with up(tmp_path) as running:
        line = running.line(r"one .*no-such-interpreter.*")[0]
        assert "is not there" in line
        assert "install no-such-interpreter" in line


def test_bad_yaml_is_one_line_with_its_place_and_the_other_workers_run(tmp_path: Path) -> None:
    kit_worker(tmp_path / "good", "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "iii.worker.yaml").write_text("name: bad\nscripts: [\n")
    with up(tmp_path) as running:
        running.ready(1)
        (line,) = [line for line in running.output.splitlines() if "bad" in line]
        assert line.startswith("bad/iii.worker.yaml:")
        assert "error:" in line


def test_nothing_but_errors_ends_it(tmp_path: Path) -> None:
    (tmp_path / "iii.worker.yaml").write_text("name: sandbox\nscripts: {start: python worker.py}\n")
    running = Up(tmp_path)
    assert running.process.wait(30) == 1
    assert "the name sandbox belongs to the engine" in running.output


def test_errors_are_those_that_validate_tells(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(worker_yaml("one", ".", '"sandbox::*", "tool*"'))
    told = subprocess.run(
        ["python", "-m", "agentos", "validate", "one.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    ).stdout
    running = Up(tmp_path, "-f", "one.yaml")
    assert running.process.wait(30) == 1
    for line in told.splitlines()[:-1]:
        place, _, message = line.partition(": error: ")
        assert any(each.startswith(place) and each.endswith(message) for each in running.output.splitlines()), line


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    running = Up(tmp_path, "-f", "nowhere.yaml")
    assert running.process.wait(30) == 2
    assert "nowhere.yaml: No such file" in running.output


def test_a_file_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path, mode: tuple[str, ...]) -> None:
    kit_worker(tmp_path, "one", code="import agentos_workers\nthis is no python\n")
    with up(tmp_path, *mode) as running:
        assert running.line(r"worker\.py[^\n]*(line 2|:2)[^\n]*")


# Claims


def test_who_claims_what_another_holds_waits_and_takes_over_when_the_holder_goes(tmp_path: Path) -> None:
    kit_worker(tmp_path / "code" / "first", "same", text="first")
    kit_worker(tmp_path / "code" / "second", "same", text="second")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "a.yaml").write_text(worker_yaml("first", "../code/first", "same::*"))
    (fleet / "b.yaml").write_text(worker_yaml("second", "../code/second", "same"))
    with up(tmp_path, "-f", "fleet") as running:
        running.line(r"second .* waits: same::\* is held by Worker first")
        running.line("1 worker ready.*1 waiting")
        assert running.hello("same") == "first Ada"
        assert running.fleet()["second"]["reason"] == "Clash"
        (fleet / "a.yaml").unlink()
        until("the second has taken over", lambda: running.fleet().get("second", {}).get("state") == "Ready")
        assert running.hello("same") == "second Ada"


def test_a_holder_keeps_its_functions_when_an_older_name_comes_later(tmp_path: Path) -> None:
    kit_worker(tmp_path / "code" / "z", "same", text="z")
    kit_worker(tmp_path / "code" / "a", "same", text="a")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "z.yaml").write_text(worker_yaml("z", "../code/z", "same::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(1)
    (fleet / "a.yaml").write_text(worker_yaml("a", "../code/a", "same::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.line(r"a .* waits: same::\* is held by Worker z")
        running.line("1 worker ready")
        assert running.hello("same") == "z Ada"


def test_a_worker_starts_only_when_what_it_needs_is_ready(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one", extra='dependencies:\n  two: "*"\n')
    with up(tmp_path) as running:
        running.line(r"one .* waits: needs two")
        kit_worker(tmp_path / "two", "two")
        until("one is ready", lambda: running.fleet()["one"]["state"] == "Ready")
        assert running.output.index("two          * ready") < running.output.index("one          * ready")


def test_workers_that_need_each_other_are_told_the_way_round(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one", extra='dependencies:\n  two: "*"\n')
    kit_worker(tmp_path / "two", "two", extra='dependencies:\n  one: "*"\n')
    with up(tmp_path) as running:
        running.line(r"one .* waits: one → two → one: each waits for the next")
        running.line(r"two .* waits: two → one → two: each waits for the next")


def test_of_two_workers_that_register_the_same_undeclared_one_gets_it_and_the_other_is_told(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "same")
    kit_worker(
        tmp_path / "two",
        "same2",
        code=(tmp_path / "one" / "worker.py").read_text().replace('Worker("same")', 'Worker("same2")'),
    )
    with up(tmp_path) as running:
        told = running.line(
            r"(same2?) +\* same::hello is not served: Worker (same2?) holds it; write spec\.owns in their YAML"
        )
        assert {told[1], told[2]} == {"same", "same2"}
        functions = {name: row["functions"] for name, row in running.fleet().items()}
        assert functions == {told[1]: [], told[2]: ["same::hello"]}


# Changes


def test_changed_code_answers_and_no_call_is_dropped(tmp_path: Path, mode: tuple[str, ...]) -> None:
    folder = kit_worker(tmp_path / "one", "one", text="old")
    kit_worker(tmp_path / "two", "two")
    with up(tmp_path, *mode) as running:
        running.ready(2)
        answers: list[str] = []
        stop = threading.Event()

        def call_on() -> None:
            with httpx.Client(timeout=10) as client:
                while not stop.is_set():
                    answer = client.post(f"{running.url}/one/hello", json={"name": "Ada"})
                    answers.append(answer.json()["text"] if answer.status_code == 200 else answer.text)

        callers = [threading.Thread(target=call_on) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            for text in ("new", "newer"):
                kit_worker(folder, "one", text=text)
                until(f"the code that says {text}", lambda text=text: answers and answers[-1] == f"{text} Ada")
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        assert set(answers) == {"old Ada", "new Ada", "newer Ada"}
        assert running.hello("two") == "hello Ada"
        assert running.fleet()["two"]["restarts"] == 0


def test_a_broken_edit_leaves_what_runs_and_its_repair_is_taken(tmp_path: Path, mode: tuple[str, ...]) -> None:
    folder = kit_worker(tmp_path / "one", "one", text="old")
    with up(tmp_path, *mode) as running:
        running.ready(1)
        (folder / "worker.py").write_text("this is no python\n")
        running.line("the one from before goes on")
        assert running.hello("one") == "old Ada"
        kit_worker(folder, "one", text="mended")
        until("the mended code", lambda: running.hello("one") == "mended Ada")


def test_a_broken_manifest_leaves_what_runs(tmp_path: Path) -> None:
    folder = kit_worker(tmp_path / "one", "one")
    with up(tmp_path) as running:
        running.ready(1)
        (folder / "iii.worker.yaml").write_text("name: [\n")
        running.line(r"one/iii\.worker\.yaml:\d+: error")
        assert running.hello("one") == "hello Ada"


def test_a_changed_test_starts_nothing_anew(tmp_path: Path) -> None:
    folder = kit_worker(tmp_path / "one", "one", text="old")
    with up(tmp_path) as running:
        running.ready(1)
        (folder / "test_worker.py").write_text("# another test\n")
        kit_worker(folder, "one", text="new")
        until("the new code", lambda: running.hello("one") == "new Ada")
        assert running.output.count("changed: starting it anew") == 1


def test_without_watching_a_change_changes_nothing(tmp_path: Path) -> None:
    folder = kit_worker(tmp_path / "one", "one", text="old")
    with up(tmp_path, "--no-watch") as running:
        running.ready(1)
        kit_worker(folder, "one", text="new")
        kit_worker(tmp_path / "two", "two")
        time.sleep(1)
        assert running.hello("one") == "old Ada"
        assert "two" not in running.fleet()


# Deaths


def test_a_worker_that_dies_is_started_again_and_the_others_live(tmp_path: Path, mode: tuple[str, ...]) -> None:
    kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two")
    plain_worker(tmp_path / "three", "three")
    with up(tmp_path, *mode) as running:
        running.ready(3)
        for name in ("one", "three"):
            os.kill(running.fleet()[name]["pid"], signal.SIGKILL)
            running.line(rf"{name} .*killed by SIGKILL; it is started again in 0\.5 s")
            until(f"{name} is back", lambda name=name: running.fleet()[name]["state"] == "Ready")
        until("all are ready", lambda: all(row["state"] == "Ready" for row in running.fleet().values()))
        assert [running.hello(name) for name in ("one", "two", "three")] == ["hello Ada", "hello Ada", "plain "]


def test_a_worker_that_dies_again_and_again_is_started_at_growing_intervals(tmp_path: Path) -> None:
    kit_worker(tmp_path / "two", "two")
    plain_worker(tmp_path / "one", "one", start="sh -c 'exit 3'")
    with up(tmp_path) as running:
        running.line(r"one .*exit code 3; it is started again in 0\.5 s")
        running.line(r"one .*exit code 3; it is started again in 1 s")
        running.line(r"one .*exit code 3; it is started again in 2 s")
        assert running.hello("two") == "hello Ada"
        assert running.fleet()["one"]["reason"] == "CrashLooping"


# The end


def test_ctrl_c_lets_calls_end_and_leaves_no_process(tmp_path: Path, mode: tuple[str, ...]) -> None:
    code = (kit_worker(tmp_path / "one", "one") / "worker.py").read_text()
    slow = code.replace("    return", "    import asyncio\n    await asyncio.sleep(2)\n    return")
    kit_worker(tmp_path / "one", "one", code=slow)
    plain_worker(tmp_path / "two", "two")
    with up(tmp_path, *mode) as running:
        running.ready(2)
        left = processes(running)
        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(running.hello("one")))
        caller.start()
        until("the call is there", running.in_flight)
        assert running.stop() == 0
        caller.join()
    assert answers == ["hello Ada"]
    assert "letting 1 call end" in running.output
    assert not alive(left)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one")
    (tmp_path / "worker.py").write_text(PLAIN_WORKER.replace("lambda *_: ended.set()", "signal.SIG_IGN"))
    with up(tmp_path) as running:
        running.ready(1)
        left = processes(running)
        running.process.send_signal(signal.SIGINT)
        running.line("stopping")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) == 130
    until("all processes are gone", lambda: not alive(left), 10)


def test_when_it_is_killed_its_workers_end_too(tmp_path: Path, mode: tuple[str, ...]) -> None:
    kit_worker(tmp_path / "one", "one")
    plain_worker(tmp_path / "two", "two")
    with up(tmp_path, *mode) as running:
        running.ready(2)
        left = processes(running)
        running.process.kill()
        running.process.wait()
        until("all processes are gone", lambda: not alive(left), 30)


# What it costs


def test_ten_idle_python_workers_and_the_engine_take_at_most_150_mb(tmp_path: Path) -> None:
    for number in range(10):
        kit_worker(tmp_path / f"w{number}", f"w{number}")
    with up(tmp_path) as running:
        running.ready(10)
        everybody = [psutil.Process(running.process.pid), *processes(running)]
        megabytes = sum(each.memory_info().rss for each in everybody) / 1e6
    assert megabytes <= 150
