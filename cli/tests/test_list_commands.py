"""``agentos functions``, ``function``, ``workers``, ``triggers`` and ``open``, in every form of output."""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from commands import COMMAND, Command
from consoles import Engine, Worker
from ruamel.yaml import YAML

STEERING = "\x1b[31mred\x9b\u202e"
SHOWN = r"\x1b[31mred\x9b\u202e"
LONG = "a description that is longer than any terminal is wide " * 8


@pytest.fixture(scope="module", autouse=True)
def greeter(engine: Engine) -> Worker:
    """A worker with functions, triggers, and things to be careful with."""
    worker = engine.worker("greeter")
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Who is greeted."},
            "tone": {"enum": ["warm", "cool"]},
            "times": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["name"],
    }
    worker.function("greet::hello", lambda data: data, description=LONG, request_format=schema)
    worker.function("greet::bye", lambda data: data, description="Says\n\tbye.")
    worker.function(f"greet::{STEERING}", lambda data: data, description=STEERING)
    worker.trigger("http", "greet::hello", {"api_path": "greet", "http_method": "POST"})
    worker.trigger("cron", "greet::bye", {"expression": "0 0 0 1 1 *"})
    engine.worker(f"evil{STEERING}")
    return worker


def test_a_table_in_a_pipe_is_aligned_and_nothing_is_cut_off(agentos: Command):
    header, *rows = agentos("functions").splitlines()
    assert re.fullmatch(r"FUNCTION +WORKER +DESCRIPTION", header)
    column = header.index("WORKER")
    assert all(row[column - 3 : column] == "   " and row[column:].startswith("greeter") for row in rows)
    assert any(row.endswith(LONG.strip()) for row in rows)
    assert "\t" not in "".join(rows)
    assert any(row.endswith("Says bye.") for row in rows)


def test_what_workers_say_of_themselves_does_not_reach_the_terminal_raw(agentos: Command):
    for line in ("functions", "functions -o name", "functions -o yaml", "workers", "workers -o json"):
        assert not set(agentos(*line.split())) & set("\x1b\x9b\u202e"), line
    assert f"greet::{SHOWN}" in agentos("functions")
    assert f"evil{SHOWN}" in agentos("workers")
    exact = json.loads(agentos("functions", "-o", "json"))
    assert f"greet::{STEERING}" in [row["function_id"] for row in exact]


def test_on_a_terminal_a_table_has_colours_no_boxes_and_fits(agentos: Command):
    written = agentos.on_terminal("functions", columns=70)
    assert "\x1b[1m" in written
    lines = re.sub(r"\x1b\[[0-9;]*m", "", written).splitlines()
    assert all(len(line) <= 70 for line in lines)
    assert any(line.rstrip().endswith("…") for line in lines)
    assert not set(written) & set("─│┃━┏")
    assert f"greet::{SHOWN}" in written


def test_no_color_is_respected(agentos: Command):
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(agentos.on_terminal("workers"))
    assert not colour.search(agentos.on_terminal("workers", NO_COLOR="1"))


def test_functions_by_part_of_the_id_and_by_pattern(agentos: Command):
    assert agentos("functions", "hel", "-o", "name") == "greet::hello\n"
    assert agentos("functions", "greet::b*", "-o", "name") == "greet::bye\n"
    assert agentos("functions", "none", "-o", "name") == ""
    assert agentos("functions", "none", "-o", "json") == "[]\n"
    assert agentos("functions", "none") == ""


def test_those_of_the_engine_only_with_all(agentos: Command):
    assert "state::get" not in agentos("functions", "-o", "name").splitlines()
    everything = agentos("functions", "--all", "-o", "name").splitlines()
    assert {"state::get", "engine::functions::list", "greet::hello"} <= set(everything)
    assert "iii-state" not in agentos("workers", "-o", "name").split()
    assert "iii-state" in agentos("workers", "--all", "-o", "name").split()


def test_one_function_in_full(agentos: Command):
    text = agentos("function", "greet::hello")
    for line in (
        r"Function: +greet::hello",
        r"Worker: +greeter",
        r"Triggers: +http api_path=greet http_method=POST",
        r"name +string +yes +Who is greeted\.",
        r"tone +warm \| cool",
        r"times +array of integer",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    assert json.loads(agentos("function", "greet::hello", "-o", "json"))["request_schema"]["required"] == ["name"]
    assert YAML(typ="safe").load(agentos("function", "greet::hello", "-o", "yaml"))["worker_name"] == "greeter"
    assert agentos("function", "greet::hello", "-o", "name") == "greet::hello\n"
    assert "did you mean greet::hello" in agentos("function", "greet::helo", code=4)


def test_workers_are_listed_with_state_and_age_in_json_exact(agentos: Command):
    line = next(row for row in agentos("workers").splitlines() if row.startswith("greeter"))
    assert re.search(r"available +3 +0 +test 1\.0\.0 +(now|[0-9]+m?[0-9]*s ago)$", line)
    row = next(row for row in json.loads(agentos("workers", "-o", "json")) if row["name"] == "greeter")
    assert isinstance(row["connected_at_ms"], int)
    assert row["state"] == "available"


def test_one_worker_in_full(agentos: Command):
    text = agentos("workers", "greeter")
    assert re.search(r"^Worker: +greeter$", text, re.MULTILINE)
    assert "\ngreet::hello\n" in text
    assert json.loads(agentos("workers", "greeter", "-o", "json"))["name"] == "greeter"
    assert agentos("workers", "greeter", "-o", "name") == "greeter\n"
    assert "did you mean greeter?" in agentos("workers", "greter", code=4)


def test_triggers_all_and_of_one_type(agentos: Command):
    assert re.search(
        r"^http +greet::hello +greeter +api_path=greet http_method=POST$", agentos("triggers"), re.MULTILINE
    )
    rows = json.loads(agentos("triggers", "--type", "cron", "-o", "json"))
    assert [row["function_id"] for row in rows] == ["greet::bye"]
    assert agentos("triggers", "--type", "cron", "-o", "name") == rows[0]["id"] + "\n"


def test_open_prints_the_address_of_the_page(agentos: Command, engine: Engine):
    assert agentos("open", "--no-browser") == f"{engine.console}/\n"
    assert agentos("open", DISPLAY="", WAYLAND_DISPLAY="") == f"{engine.console}/\n"
    assert "nothing answers" in agentos("open", "--url", "http://127.0.0.1:1", code=3)


@pytest.mark.parametrize(
    "arguments", [["functions"], ["workers"], ["triggers"], ["logs"], ["traces"], ["queue", "list"], ["state", "list"]]
)
def test_no_engine_is_exit_code_3_for_every_list(agentos: Command, arguments):
    said = agentos(*arguments, "--url", "http://127.0.0.1:1", code=3)
    assert said.startswith("agentos: nothing answers at http://127.0.0.1:1; start `agentos up`")


class Console(BaseHTTPRequestHandler):
    """What stands in for the console of `agentos up`, or for something that is none."""

    answers: dict[str, tuple[int, bytes]]

    def do_GET(self) -> None:
        """Answer."""
        status, body = self.answers.get(self.path, (200, b"<html>not here</html>"))
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """A server, and what it answers by path."""
    answers: dict[str, tuple[int, bytes]] = {}
    handler = type("Answering", (Console,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        thread.join()


def test_workers_that_are_started_and_not_connected_are_listed_with_the_reason(agentos: Command, served):
    url, answers = served
    up = [
        {"name": "a", "state": "Ready", "reason": "", "message": "", "pid": 7, "restarts": 2, "functions": ["a::b"]},
        {
            "name": "b",
            "state": "Waiting",
            "reason": "ClaimConflict",
            "message": "a has b::*",
            "pid": None,
            "restarts": 0,
        },
    ]
    bus = [{"name": "a", "status": "available", "functions": ["a::b"], "runtime": "python", "version": "0.25.0"}]
    answers["/api/fleet"] = 200, json.dumps({"workers": up}).encode()
    answers["/api/call"] = 200, json.dumps({"result": {"workers": bus}}).encode()
    _, first, second = agentos("workers", "--url", url).splitlines()
    assert re.search(r"^a +Ready +1 +2 +python 0\.25\.0$", first)
    assert re.search(r"^b +Waiting +0 +ClaimConflict: a has b::\*$", second)
    assert re.search(r"^Reason: +ClaimConflict: a has b::\*$", agentos("workers", "b", "--url", url), re.MULTILINE)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (200, b'{"result": ' + b"[" * 100_000),
        (404, b"not found"),
        (404, b'{"error": {"code": "NOT_FOUND", "message": "no route"}}'),
        (500, b"\xff\xfe"),
        (200, b"[1, 2"),
        (200, b"7"),
    ],
)
def test_an_answer_that_is_none_is_one_line(agentos: Command, served, answer):
    url, answers = served
    answers["/api/call"] = answer
    done = agentos.run("functions", "--url", url)
    assert done.returncode in (1, 3), done
    assert done.stderr.startswith("agentos: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("result", [None, 7, [], {"functions": 7}, {"functions": [7, {"function_id": None}]}])
def test_a_result_of_another_shape_does_no_harm(agentos: Command, served, result):
    url, answers = served
    answers["/api/call"] = 200, json.dumps({"result": result}).encode()
    answers["/api/fleet"] = 200, json.dumps({"workers": result}).encode()
    for line in ("functions", "workers", "triggers", "traces", "logs", "state list", "queue list"):
        agentos(*line.split(), "--url", url)


def completions(agentos: Command, *words: str) -> list[str]:
    """What Bash offers when Tab is pressed after the last of these words; it splits words at colons."""
    typed = " ".join(f"'{word}'" for word in ("agentos", *words))
    script = f"""
        eval "$(agentos --show-completion bash)"
        COMP_WORDS=({typed}) COMP_CWORD={len(words)}
        _agentos_completion agentos && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{COMMAND.parent}:{agentos.environment['PATH']}"
    environment = {**agentos.environment, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_completion_offers_functions_workers_and_queues_that_are_safe_for_a_shell(agentos: Command):
    assert completions(agentos, "call", "gre") == ["greet::bye", "greet::hello"]
    assert completions(agentos, "workers", "") == ["greeter"]
    assert completions(agentos, "queue", "dlq", "def") == ["default"]
    assert completions(agentos, "function", "state::g") == ["state::get"]


def test_completion_goes_on_after_the_colons_at_which_bash_splits(agentos: Command):
    assert completions(agentos, "call", "greet", "::") == ["::bye", "::hello"]
    assert completions(agentos, "call", "greet", "::", "h") == ["hello"]
    assert completions(agentos, "call", "greet::hello", "n") == ["name="]
    assert completions(agentos, "call", "greet", "::", "hello", "n") == ["name="]
    assert completions(agentos, "call", "greet", "::", "hello", "times", ":=", "[1]", "n") == ["name="]


def test_completion_is_silent_when_nothing_answers(agentos: Command):
    agentos.environment["AGENTOS_CONSOLE_URL"] = "http://127.0.0.1:1"
    assert completions(agentos, "call", "gre") == []


def test_completion_gives_up_on_an_engine_that_does_not_answer(agentos: Command):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agentos.environment["AGENTOS_CONSOLE_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        before = time.monotonic()
        assert completions(agentos, "call", "gre") == []
        assert time.monotonic() - before < 5  # two processes of Python, and half a second


def test_a_schema_that_goes_round_in_circles_is_shown(agentos: Command, greeter: Worker):
    circle = {"type": "array", "items": {"type": "array", "$ref": "#"}}
    schema = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": circle}}
    greeter.function("greet::circle", lambda data: data, request_format=schema)
    assert re.search(r"^b +array of array$", agentos("function", "greet::circle"), re.MULTILINE)
