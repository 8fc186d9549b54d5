"""``agentos up``: how workers live and end when much happens at once."""

import os
import shutil
import signal
import threading
from pathlib import Path

import psutil
from ups import PLAIN_WORKER, WORKER, Up, alive, kit_worker, plain_worker, processes, until, up, worker_yaml

SLOW = WORKER.replace("    return", "    import asyncio\n    await asyncio.sleep({seconds})\n    return")


def slow_worker(folder: Path, name: str, seconds: float, text: str = "hello") -> Path:
    code = SLOW.replace("{seconds}", str(seconds)).format(name=name, text=text)
    return kit_worker(folder, name, code=code)


def in_thread(running: Up, name: str, answers: list[str]) -> threading.Thread:
    caller = threading.Thread(target=lambda: answers.append(running.hello(name)))
    caller.start()
    until("the call is there", running.in_flight)
    return caller


# What is wanted changes


def test_a_worker_that_is_scaled_to_zero_stops_and_comes_back_and_the_others_go_on(tmp_path: Path) -> None:
    kit_worker(tmp_path / "code" / "one", "one")
    kit_worker(tmp_path / "code" / "two", "two")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "two.yaml").write_text(worker_yaml("two", "../code/two", "two::*"))
    (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "one::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(2)
        (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "one::*", "  replicas: 0\n"))
        running.line(r"one .*waits: spec\.replicas is 0")
        until("it has ended", lambda: running.fleet()["one"]["pid"] is None)
        assert running.fleet()["one"]["reason"] == "ScaledToZero"
        kit_worker(tmp_path / "code" / "one", "one", text="later")
        assert running.hello("two") == "hello Ada"
        (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "one::*"))
        until("it is back", lambda: running.fleet()["one"]["state"] == "Ready")
        assert running.hello("one") == "later Ada"
        assert running.fleet()["one"]["restarts"] == 0


def test_a_change_that_takes_what_another_holds_waits_and_what_runs_goes_on(tmp_path: Path) -> None:
    kit_worker(tmp_path / "code" / "one", "one", text="first")
    kit_worker(tmp_path / "code" / "two", "two", text="second")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "one::*"))
    (fleet / "two.yaml").write_text(worker_yaml("two", "../code/two", "two::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(2)
        kit_worker(tmp_path / "code" / "one", "two", text="thief")
        (fleet / "one.yaml").write_text(worker_yaml("one", "../code/one", "two::*"))
        running.line(r"one .*its change waits: two::\* is held by Worker two")
        row = running.fleet()["one"]
        assert (row["state"], row["reason"], row["functions"]) == ("Ready", "Clash", ["one::hello"])
        assert (running.hello("one"), running.hello("two")) == ("first Ada", "second Ada")
        (fleet / "two.yaml").unlink()
        until("the first has taken over", lambda: running.fleet()["one"]["functions"] == ["two::hello"])
        assert running.hello("two") == "thief Ada"
        assert "is not served" not in running.output


def test_what_a_worker_gives_up_goes_to_who_waits_only_when_it_serves_it_no_more(tmp_path: Path) -> None:
    slow_worker(tmp_path / "code" / "one", "same", 2, text="first")
    kit_worker(tmp_path / "code" / "two", "same", text="second")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "a.yaml").write_text(worker_yaml("one", "../code/one", "same::*"))
    (fleet / "b.yaml").write_text(worker_yaml("two", "../code/two", "same::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(1)
        answers: list[str] = []
        caller = in_thread(running, "same", answers)
        kit_worker(tmp_path / "code" / "one", "other")
        (fleet / "a.yaml").write_text(worker_yaml("one", "../code/one", "other::*"))
        until("the second serves it", lambda: running.fleet()["two"]["state"] == "Ready")
        caller.join()
        assert answers == ["first Ada"]
        # Its route is a claim of its own: free once the first has had the time to register it again.
        until("its route is served", lambda: running.serves("same"))
        assert running.hello("same") == "second Ada"
        assert "is not served" not in running.output


def test_a_worker_that_is_removed_and_added_again_and_again_serves_in_the_end(tmp_path: Path) -> None:
    kit_worker(tmp_path / "two", "two")
    folder = slow_worker(tmp_path / "one", "one", 3)
    with up(tmp_path) as running:
        running.ready(2)
        answers: list[str] = []
        caller = in_thread(running, "one", answers)
        for _ in range(2):
            shutil.rmtree(folder)
            until("it is gone", lambda: "one" not in running.fleet())
            slow_worker(folder, "one", 0, text="again")
            until("it is known", lambda: "one" in running.fleet())
        caller.join()
        assert answers == ["hello Ada"]
        until("it is ready", lambda: running.fleet()["one"]["state"] == "Ready")
        assert running.hello("one") == "again Ada"
        assert running.stop() == 0
    assert "Traceback" not in running.output


def test_a_change_does_not_wait_for_calls_of_the_form_before_it(tmp_path: Path) -> None:
    folder = slow_worker(tmp_path / "one", "one", 5)
    with up(tmp_path) as running:
        running.ready(1)
        answers: list[str] = []
        caller = in_thread(running, "one", answers)
        for text in ("new", "newer"):
            kit_worker(folder, "one", text=text)
            until(f"the code that says {text}", lambda text=text: running.hello("one") == f"{text} Ada", 60)
        assert not answers or running.output.count("starting it anew") == 2
        caller.join()
        assert answers == ["hello Ada"]


def test_changes_and_deaths_leave_no_process_behind(tmp_path: Path) -> None:
    folder = kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two", code="this is no python\n")
    with up(tmp_path) as running:
        running.line(r"two .*it is started again in 2 s")
        for number in range(3):
            (folder / "worker.py").write_text(f"this is no python {number}\n")
            until("it is told", lambda number=number: running.output.count("the one from before goes on") == number + 1)
        shutil.rmtree(tmp_path / "two")
        until("two is gone", lambda: "two" not in running.fleet())
        pid = running.fleet()["one"]["pid"]
        until("only the process of one is left", lambda: [each.pid for each in processes(running)] == [pid])


def test_removing_a_worker_ends_its_install_script(tmp_path: Path) -> None:
    kit_worker(tmp_path / "two", "two")
    folder = plain_worker(tmp_path / "one", "one")
    text = (folder / "iii.worker.yaml").read_text()
    (folder / "iii.worker.yaml").write_text(text.replace("scripts:\n", "scripts:\n  install: sleep 1000\n"))
    with up(tmp_path) as running:
        until("it installs", lambda: running.fleet()["one"]["state"] == "Installing")
        until("two is ready", lambda: running.fleet()["two"]["state"] == "Ready")
        shutil.rmtree(folder)
        until("only the process of two is left", lambda: len(processes(running)) == 1)


def test_the_start_is_told_though_one_worker_never_runs(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    plain_worker(tmp_path / "two", "two", start="sh -c 'exit 3'")
    plain_worker(tmp_path / "three", "three", start="sleep 1000")
    with up(tmp_path) as running:
        running.line(r"three .*not ready yet: it has not connected to \$III_URL")
        running.line(r"1 worker ready with 1 function, 2 not running, ")
        assert running.fleet()["three"]["reason"] == "NotRegistered"
        assert running.fleet()["two"]["message"] == "exit code 3"


# Processes


def test_workers_that_want_the_same_variables_share_a_process(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        kit_worker(tmp_path / name, name, extra="env:\n  WORD: same\n")
    with up(tmp_path) as running:
        running.ready(3)
        (pid,) = {row["pid"] for row in running.fleet().values()}
        until("no other is left over", lambda: [each.pid for each in processes(running)] == [pid])


def test_changes_leave_no_file_open(tmp_path: Path) -> None:
    folder = kit_worker(tmp_path / "one", "one")

    def settled(count: int) -> int:
        until("it is ready", lambda: running.output.count("* ready") == count)
        until("the one before it has ended", lambda: len(processes(running)) == 1)
        return psutil.Process(running.process.pid).num_fds()

    with up(tmp_path) as running:
        running.ready(1)
        open_files = []
        for number in range(2, 8):
            kit_worker(folder, "one", text=str(number))
            open_files.append(settled(number))
        assert open_files[-1] <= open_files[0] + 2


def test_a_worker_that_fails_after_it_was_ready_is_started_again(tmp_path: Path) -> None:
    code = WORKER.format(name="one", text="hello").replace('Worker("one")', 'Worker("one", open_resource=opened)')
    opened = """
import pathlib, time
def opened(settings):
    if not pathlib.Path("PLACE").exists():
        time.sleep(1)
        raise OSError("no such place")
""".replace("PLACE", str(tmp_path / "place"))
    kit_worker(tmp_path / "one", "one", code=opened + code)
    kit_worker(tmp_path / "two", "two")
    with up(tmp_path) as running:
        running.line(r"one .*no such place; it is started again in 0\.5 s")
        assert running.output.index("one          * ready") < running.output.index("it is started again")
        (tmp_path / "place").touch()
        until("it answers", lambda: running.fleet()["one"]["state"] == "Ready" and running.hello("one") == "hello Ada")
        assert running.fleet()["two"]["restarts"] == 0


def test_when_the_shared_process_dies_all_its_workers_come_back(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two")
    with up(tmp_path) as running:
        running.ready(2)
        os.kill(running.fleet()["one"]["pid"], signal.SIGKILL)
        for name in ("one", "two"):
            running.line(
                rf"{name} .*the process that it shared ended: killed by SIGKILL; it is started again in 0\.5 s"
            )
        until("both are ready", lambda: running.output.count("* ready") == 4)
        assert (running.hello("one"), running.hello("two")) == ("hello Ada", "hello Ada")


def test_an_error_of_any_length_is_told_as_the_reason(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one", code="raise ValueError('x' * 100_000 + 'the end')\n")
    with up(tmp_path) as running:
        running.line(r"one .*it is started again in 0\.5 s")
        assert running.fleet()["one"]["reason"] == "CrashLooping"


def test_a_worker_that_ignores_sigterm_is_ended_with_the_rest_at_a_second_ctrl_c(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one", code=PLAIN_WORKER.replace("lambda *_: ended.set()", "signal.SIG_IGN"))
    with up(tmp_path) as running:
        running.ready(1)
        left = processes(running)
        running.process.send_signal(signal.SIGINT)
        running.line("workers are still ending; Ctrl-C again kills them")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(10) == 130
    until("all processes are gone", lambda: not alive(left), 10)


def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\n" + PLAIN_WORKER
    plain_worker(tmp_path, "one", code=code)
    with up(tmp_path) as running:
        running.ready(1)
        pid = running.fleet()["one"]["pid"]
        (child,) = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        until("the child has ended", lambda: not alive([child]))


def test_two_workers_of_a_folder_install_once(tmp_path: Path) -> None:
    folder = plain_worker(tmp_path / "code", "one")
    (folder / "iii.worker.yaml").unlink()
    manifest = """    scripts:
      install: echo installed >> count.txt; sleep 1
      start: python worker.py
"""
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    for name in ("one", "two"):
        text = worker_yaml(name, "../code", f"{name}::*")
        (fleet / f"{name}.yaml").write_text(
            text.replace("    scripts: {start: agentos-worker run worker.py}\n", manifest)
        )
    with up(tmp_path, "-f", "fleet") as running:
        running.ready(2)
        assert (folder / "count.txt").read_text().split() == ["installed"]
        before = {name: row["pid"] for name, row in running.fleet().items()}
        (folder / "worker.py").write_text(PLAIN_WORKER + "\n")
        until("both are new", lambda: all(row["pid"] not in (None, before[n]) for n, row in running.fleet().items()))


# The end, whenever it comes


def test_ctrl_c_while_the_form_before_a_change_ends_lets_its_calls_end(tmp_path: Path) -> None:
    folder = slow_worker(tmp_path / "one", "one", 4)
    with up(tmp_path) as running:
        running.ready(1)
        answers: list[str] = []
        caller = in_thread(running, "one", answers)
        slow_worker(folder, "one", 0, text="new")
        until("the new one is ready", lambda: running.output.count("* ready") == 2)
        left = processes(running)
        assert not answers
        assert running.stop() == 0
        caller.join()
    assert answers == ["hello Ada"]
    assert not alive(left)


def test_ctrl_c_ends_it_while_workers_install_start_and_back_off(tmp_path: Path) -> None:
    plain_worker(tmp_path / "one", "one")
    text = (tmp_path / "one" / "iii.worker.yaml").read_text()
    (tmp_path / "one" / "iii.worker.yaml").write_text(text.replace("scripts:\n", "scripts:\n  install: sleep 1000\n"))
    plain_worker(tmp_path / "two", "two", start="sleep 1000")
    plain_worker(tmp_path / "three", "three", start="sh -c 'exit 3'")
    with up(tmp_path) as running:
        running.line("started again in 0.5 s")
        until("the states", lambda: running.fleet()["one"]["state"] == "Installing")
        until("a process that starts", lambda: running.fleet()["two"]["pid"])
        left = processes(running)
        assert running.stop() == 0
    assert not alive(left)
    assert "Traceback" not in running.output


def test_a_closed_terminal_ends_it_as_ctrl_c_does(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one")
    with up(tmp_path) as running:
        running.ready(1)
        left = processes(running)
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(30) == 0
    assert not alive(left)
