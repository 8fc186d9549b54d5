"""``agentos up`` in the world as it is: odd files, folders, environments, output and flags."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from ups import PLAIN_WORKER, Up, kit_worker, plain_worker, until, up, worker_yaml

SHOWS_ENVIRONMENT = """
import os
from agentos_workers.kit import Context, Http, Reply, Request, Worker
worker = Worker("one")
class Nothing(Request):
    pass
class Word(Reply):
    text: str
@worker.function("one::hello", http=Http("POST", "one/hello"))
async def hello(request: Nothing, context: Context) -> Word:
    return Word(text=os.environ.get("III_URL", "none").partition("/w/")[0])
"""


def prints(text: str) -> str:
    """The code of a worker that serves, and before that writes something to its output."""
    return PLAIN_WORKER.replace("ended = ", f"{text}\nended = ")


# Environment and command


def test_what_the_shell_says_of_another_engine_does_not_reach_workers(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one", code=SHOWS_ENVIRONMENT)
    plain_worker(tmp_path / "two", "two")
    with up(tmp_path, environment={"III_URL": "ws://127.0.0.1:1", "III_WORKER_NAME": "wrong"}) as running:
        running.ready(2)
        assert "127.0.0.1:1" not in running.hello("one").split("/")
        assert running.hello("two") == "plain "


def test_a_start_script_may_name_its_program_by_a_variable(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one", start="$PYTHON worker.py", extra=f"env:\n  PYTHON: {sys.executable}\n")
    with up(tmp_path) as running:
        running.ready(1)


def test_a_command_gets_the_variables_that_a_pod_has(tmp_path: Path) -> None:
    plain_worker(tmp_path / "code", "one")
    (tmp_path / "code" / "worker.py").write_text(PLAIN_WORKER.replace("os.environ.get('WORD', '')", "sys.argv[1:]"))
    extra = "  env: [{name: WORD, value: w}]\n  command: [python]\n  args: [worker.py, $(III_WORKER_NAME), $(WORD), $$(WORD)]\n"
    (tmp_path / "one.yaml").write_text(worker_yaml("one", "code", "one::*", extra))
    with up(tmp_path, "-f", "one.yaml") as running:
        running.ready(1)
        assert running.hello("one") == "plain ['one', 'w', '$(WORD)']"


# Files


def test_a_comment_in_a_fleets_file_starts_nothing_anew(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two")
    file = tmp_path / "fleet.yaml"
    fleet = worker_yaml("one", "one", "one::*") + "---\n" + worker_yaml("two", "two", "two::*")
    file.write_text(fleet)
    with up(tmp_path, "-f", "fleet.yaml") as running:
        running.ready(2)
        before = running.fleet()["two"]["pid"]
        file.write_text("# a comment\n" + fleet.replace("owns: [one::*]", "owns: [one::hello]"))
        running.line(r"one .*changed: starting it anew")
        until("it is ready again", lambda: running.output.count("one          * ready") == 2)
        assert "two          * changed" not in running.output
        assert running.fleet()["two"]["pid"] == before


def test_a_file_that_an_editor_replaces_is_read_anew(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    file = tmp_path / "one.yaml"
    file.write_text(worker_yaml("one", "one", "one::*"))
    with up(tmp_path, "-f", "one.yaml") as running:
        running.ready(1)
        for owns in ("one::hello", "one::*"):
            (tmp_path / "new").write_text(worker_yaml("one", "one", owns))
            before = running.output.count("* ready")
            os.replace(tmp_path / "new", file)
            until(f"{owns} is read", lambda before=before: running.output.count("* ready") == before + 1)


@pytest.mark.parametrize("name", ["build", "a folder with ümläuts"])
def test_changes_are_seen_wherever_the_project_is(tmp_path: Path, name: str) -> None:
    folder = kit_worker(tmp_path / name / "one", "one", text="old")
    with up(tmp_path / name) as running:
        running.ready(1)
        kit_worker(folder, "one", text="new")
        until("the new code", lambda: running.hello("one") == "new Ada")


def test_the_same_file_given_twice_is_read_once(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    (tmp_path / "one.yaml").write_text(worker_yaml("one", "one", "one::*"))
    with up(tmp_path, "-f", "one.yaml", "-f", ".") as running:
        running.ready(1)
        assert "error" not in running.output


def test_a_folder_that_goes_stops_its_worker_and_one_that_comes_back_starts_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    kit_worker(project / "one", "one")
    kit_worker(project / "two", "two")
    with up(project, "one", "two") as running:
        running.ready(2)
        (project / "one").rename(tmp_path / "elsewhere")
        running.line(r"one\S*: error: No such file")
        until("it has stopped", lambda: "one" not in running.fleet())
        assert running.hello("two") == "hello Ada"
        kit_worker(project / "two", "two", text="new")
        until("the other is still followed", lambda: running.hello("two") == "new Ada")
        (tmp_path / "elsewhere").rename(project / "one")
        until("it is back", lambda: running.fleet().get("one", {}).get("state") == "Ready")
        assert running.stop() == 0
    assert "Traceback" not in running.output


def test_the_folder_that_a_worker_names_may_come_later(tmp_path: Path) -> None:
    kit_worker(tmp_path / "two", "two")
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "one.yaml").write_text(worker_yaml("one", "../one", "one::*"))
    (fleet / "two.yaml").write_text(worker_yaml("two", "../two", "two::*"))
    with up(tmp_path, "-f", "fleet") as running:
        running.line(r"fleet/one\.yaml:1: error: Worker one: there is no folder one; see agentos\.dev/source")
        running.ready(1)
        kit_worker(tmp_path / "one", "one")
        until("it is there", lambda: running.fleet().get("one", {}).get("state") == "Ready")


def test_a_list_as_kubectl_prints_it_is_a_fleet(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    kit_worker(tmp_path / "two", "two")
    workers = [worker_yaml(name, name, f"{name}::*") for name in ("one", "two")]
    items = "".join("- " + text.strip().replace("\n", "\n  ") + "\n" for text in workers)
    (tmp_path / "list.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n{items}")
    with up(tmp_path, "-f", "list.yaml") as running:
        running.ready(2)


def test_yaml_of_other_tools_is_none_of_its_business(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    (tmp_path / "docker-compose.yaml").write_text("services:\n  one: {image: one}\n")
    (tmp_path / "chart").mkdir()
    (tmp_path / "chart" / "deployment.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n{{ if .x }}\n")
    (tmp_path / "chart" / "secret.yaml").write_text("apiVersion: v1\nkind: Secret\nname: {{ .x }}\n")
    (tmp_path / "bomb.yaml").write_text("a: &a [x, x]\n" + "".join(f"b{n}: [*a, *a]\n" for n in range(9)))
    with up(tmp_path) as running:
        running.ready(1)
        assert ".yaml" not in running.output


def test_a_file_on_the_way_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    with up(tmp_path) as running:
        running.ready(1)
        assert "binary.yaml: warning: cannot be read: not UTF-8 text\n" in running.output
        assert "dangling.yaml: warning: cannot be read: No such file or directory\n" in running.output


def test_a_record_of_claims_that_is_broken_counts_as_empty(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    (tmp_path / "fleet.yaml").write_text(worker_yaml("one", "one", "one::*"))
    for text in (
        "{",
        "[" * 100_000,
        '{"seen": {"one": 3}, "holders": []}',
        '{"seen": {}, "holders": {"one": [{"x": 1}]}}',
    ):
        (tmp_path / ".agentos").mkdir(exist_ok=True)
        (tmp_path / ".agentos" / "claims.json").write_text(text)
        with up(tmp_path, "-f", "fleet.yaml") as running:
            running.ready(1)
        assert list(json.loads((tmp_path / ".agentos" / "claims.json").read_text())["seen"]) == ["one"]


# Output


def test_a_worker_that_floods_its_output_does_not_hold_up_the_others(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    flood = "threading.Thread(target=lambda: [print('y') for _ in iter(int, 1)], daemon=True).start()"
    plain_worker(tmp_path / "two", "two", code=prints(flood))
    with up(tmp_path) as running:
        running.ready(2)
        took = sorted(_seconds(running) for _ in range(20))
        assert took[10] < 0.2


def test_output_of_any_form_is_shown_without_what_acts_on_a_terminal(tmp_path: Path) -> None:
    lines = [
        r"\x1b[31mred\x1b[0m and \x1b]0;title\x07 \x9b2J plain",
        r'{"message": "a lone \\ud800 surrogate", "worker": "\\u001b[2J"}',
        '{"a":' * 3000,
        "long" * 20_000,
    ]
    text = "".join(
        f'sys.stdout.write("{line}\\n")\n'
        if "'" not in line and '"' not in line
        else f"sys.stdout.write({line!r} + chr(10))\n"
        for line in lines
    )
    text += 'sys.stdout.buffer.write(b"\\x00\\xff\\xfe binary\\n")\nprint("the last one, without an end", end="", flush=True)'
    plain_worker(tmp_path, "one", code=prints(text))
    with up(tmp_path) as running:
        running.ready(1)
        running.stop()
    assert "red and" in running.output
    assert "the last one, without an end" in running.output
    assert "binary" in running.output
    assert not {"\x1b", "\x9b", "\x00", "\x07"} & set(running.output)


def test_a_workers_token_is_never_shown_nor_written(tmp_path: Path) -> None:
    plain_worker(tmp_path, "one", code=prints("print('it is', os.environ['III_URL'])"))
    with up(tmp_path, "--verbose") as running:
        running.ready(1)
        running.line("it is ws://")
        token = _token(running.fleet()["one"]["pid"])
        assert len(token) > 40
        logs = json.dumps(running.call("engine::logs::list"))
        commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        files = [file.read_bytes() for file in (tmp_path / ".agentos").rglob("*") if file.is_file()]
    assert token not in running.output + logs + commands
    assert not any(token.encode() in content for content in files)


def test_it_ends_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    ports = [f"--{name}port=0" for name in ("", "http-", "stream-", "admin-", "console-")]
    with subprocess.Popen(
        [sys.executable, "-m", "agentos", "up", *ports],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("engine ws://")
        process.stdout.close()
        try:
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


# Flags and what is in the way


@pytest.mark.parametrize("name", ["", "http-", "stream-", "admin-", "console-"])
def test_each_port_that_is_taken_is_one_line_with_its_flag(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = Up(tmp_path, f"--{name}port={port}")
        assert running.process.wait(30) == 1
    (line,) = running.output.splitlines()
    assert f"--{name}port" in line
    assert str(port) in line


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_is_none_is_a_usage_error(tmp_path: Path, port: str) -> None:
    running = Up(tmp_path, f"--http-port={port}")
    assert running.process.wait(30) == 2
    assert "Traceback" not in running.output


def test_a_data_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".agentos").write_text("")
    running = Up(tmp_path)
    assert running.process.wait(30) == 2
    (line,) = running.output.splitlines()
    assert ".agentos: cannot be written" in line


@pytest.mark.parametrize("content", [None, "modules: [", "modules: 3", "- 1", "\x00"])
def test_a_config_that_cannot_be_used_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    running = Up(tmp_path, "--config=config.yaml")
    assert running.process.wait(30) == 2
    (line,) = running.output.splitlines()
    assert "config.yaml" in line


def test_it_starts_again_after_it_was_killed(tmp_path: Path) -> None:
    kit_worker(tmp_path / "one", "one")
    with up(tmp_path) as running:
        running.ready(1)
        running.process.kill()
        running.process.wait()
    with up(tmp_path) as running:
        running.ready(1)


def _seconds(running: Up) -> float:
    return httpx.post(f"{running.url}/one/hello", json={"name": "Ada"}, timeout=30).elapsed.total_seconds()


def _token(pid: int) -> str:
    import psutil

    return psutil.Process(pid).environ()["III_URL"].partition("/w/")[2].partition("/")[0]
