"""``agentos call``: from the command line to a function and back."""

import json
import socket
import subprocess
import time

import pytest
from commands import COMMAND, Command
from consoles import Engine, Failing, Worker
from ruamel.yaml import YAML
from ups import until

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "loud": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"$ref": "#/$defs/Options"},
        "either": {"type": ["string", "integer"]},
    },
    "$defs": {"Options": {"type": "object", "properties": {"depth": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def echo(engine: Engine) -> Worker:
    """A worker whose functions answer, fail, or keep silent."""
    worker = engine.worker("echo")

    def fail(data: object) -> object:
        raise Failing("OUT_OF_TEA", "no \x1b[31mtea\nat all")

    def slow(data: object) -> object:
        time.sleep(data["seconds"])  # type: ignore[index]
        return "late"

    worker.function("echo::say", lambda data: data, request_format=SCHEMA)
    worker.function("echo::plain", lambda data: data)
    worker.function("echo::fail", fail)
    worker.function("echo::slow", slow)
    worker.function("echo::steer", lambda data: {"text": "a\x1b[2J\x9b\u202eb", "ü": 1})
    worker.function("echo::deep", lambda data: json.loads("[" * 480 + "]" * 480))
    worker.function("echo::null", lambda data: None)

    def miss(data: object) -> object:
        raise Failing("function_not_found", "Function other::thing not found")

    worker.function("echo::miss", miss)
    return worker


@pytest.fixture(autouse=True)
def _echo(echo: Worker) -> None:
    """Every test has the worker."""


def test_the_result_is_printed_as_indented_json(agentos: Command):
    assert agentos("call", "echo::plain", "a=1") == '{\n  "a": "1"\n}\n'


def test_yaml_when_asked_for(agentos: Command):
    assert YAML(typ="safe").load(agentos("call", "echo::plain", "a:=[1, {}]", "-o", "yaml")) == {"a": [1, {}]}


def test_without_arguments_the_payload_is_an_empty_object(agentos: Command):
    assert json.loads(agentos("call", "echo::plain")) == {}


def test_a_function_that_returns_nothing_gives_null(agentos: Command):
    assert agentos("call", "echo::null") == "null\n"


def test_values_become_what_the_schema_says(agentos: Command):
    answer = agentos(
        "call", "echo::say", "name=7", "count=3", "ratio=0.5", "loud=true", 'tags=["a"]', "options.depth=2", "either=5",
        "unknown=1",
    )  # fmt: skip
    assert json.loads(answer) == {
        "name": "7",
        "count": 3,
        "ratio": 0.5,
        "loud": True,
        "tags": ["a"],
        "options": {"depth": 2},
        "either": "5",
        "unknown": "1",
    }


def test_raw_json_nested_keys_and_literal_dots(agentos: Command):
    answer = agentos("call", "echo::plain", "a.b:=1", "a.c=x=y", r"d\.e:=null", "f:=[1,2]")
    assert json.loads(answer) == {"a": {"b": 1, "c": "x=y"}, "d.e": None, "f": [1, 2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count=many"], "count: 'many' is not of type integer"),
        (["options=x"], "options: 'x' is not of type object"),
        (["count"], "'count' is not KEY=VALUE"),
        (["a:=x"], "a:=: not JSON"),
        (["a:=NaN"], "a:=: not JSON (NaN is not JSON)"),
        (["a:=" + "[" * 5000], "a:=: nested too deeply"),
        (["a=1", "a.b=2"], "a.b: a has a value already that is no object"),
        (["--json", "[1]", "a=1"], "--json: KEY=VALUE goes with an object only"),
        (["--json", "{"], "--json: not JSON"),
        (["--json", "@none.json"], "--json: cannot read none.json: No such file or directory"),
        (["a=\udcff"], "an argument is not UTF-8"),
        (["a:=1e999"], "the payload cannot be sent as JSON"),
        (['a:="\\ud800"'], "the payload cannot be sent as JSON"),
        (["--timeout", "soon"], "--timeout: 'soon' is not a length of time"),
        (["--timeout", "2h"], "--timeout: 2h is not more than 0 and at most 1h"),
        (["--url", "localhost"], "--url: 'localhost' is not like http://127.0.0.1:3113"),
    ],
)
def test_a_wrong_argument_is_said_in_one_line_with_exit_code_2(agentos: Command, arguments, message):
    said = agentos("call", "echo::say", *arguments, code=2)
    assert said.startswith(f"agentos: {message}")
    assert said.count("\n") == 1


def test_a_password_in_the_url_is_not_repeated(agentos: Command):
    assert "sesame" not in agentos("call", "echo::say", "--url", "http://me:sesame@127.0.0.1:1", code=2)


def test_the_payload_from_a_file_and_from_stdin(agentos: Command, tmp_path):
    (tmp_path / "in.json").write_text('{"a": 1}')
    assert json.loads(agentos("call", "echo::plain", "--json", "@in.json", "b:=2")) == {"a": 1, "b": 2}
    assert json.loads(agentos("call", "echo::plain", "--json", "-", stdin="[1, 2]")) == [1, 2]


def test_an_error_of_the_function_goes_to_stderr_with_its_code_and_trace_and_exit_code_1(agentos: Command):
    said = agentos("call", "echo::fail", code=1)
    assert said.startswith(r"agentos: echo::fail: OUT_OF_TEA: no \x1b[31mtea\nat all (agentos trace ")
    assert "\x1b" not in said


def test_an_unknown_function_names_the_nearest_with_exit_code_4(agentos: Command):
    said = agentos("call", "echo::sya", code=4)
    assert said.startswith("agentos: there is no function echo::sya; did you mean echo::say")
    assert agentos("call", "echo::sya", "a=1", code=4) == said


def test_a_function_that_misses_another_is_not_called_unknown(agentos: Command):
    assert "other::thing not found" in agentos("call", "echo::miss", code=1)


def test_no_answer_in_time_is_exit_code_5(agentos: Command):
    said = agentos("call", "echo::slow", "seconds:=2", "--timeout", "100ms", code=5)
    assert "echo::slow: TIMEOUT" in said


def test_nothing_listening_is_exit_code_3(agentos: Command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets the port meanwhile
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = agentos("call", "echo::say", "--url", url, code=3)
    assert said == f"agentos: nothing answers at {url}; start `agentos up`, or name a realm with --realm\n"


def test_another_port_of_the_engine_is_exit_code_3(agentos: Command, engine: Engine):
    for port in ("admin_port", "http_port"):
        url = f"http://127.0.0.1:{engine.ports[port]}"
        assert agentos("call", "echo::say", "--url", url, code=3) == (
            f"agentos: what answers at {url} is not the console of an AgentOS engine; name another with --url\n"
        )


def test_a_proxy_in_the_environment_has_no_say(agentos: Command):
    proxy = "http://127.0.0.1:1"
    assert agentos("call", "echo::plain", HTTP_PROXY=proxy, http_proxy=proxy, ALL_PROXY=proxy) == "{}\n"


def test_what_would_steer_a_terminal_is_escaped_and_stays_the_same_value(agentos: Command):
    expected = {"text": "a\x1b[2J\x9b\u202eb", "ü": 1}
    text = agentos("call", "echo::steer")
    assert json.loads(text) == expected
    assert '"ü": 1' in text
    assert not set(text) & set("\x1b\x9b\u202e")
    yaml = agentos("call", "echo::steer", "-o", "yaml")
    assert not set(yaml) & set("\x1b\x9b\u202e")
    assert YAML(typ="safe").load(yaml)["text"] == expected["text"]


def test_a_terminal_that_is_not_utf_8_does_not_end_the_command(agentos: Command):
    text = agentos.process("call", "echo::plain", "a=ü", PYTHONIOENCODING="ascii").stdout
    assert text == '{\n  "a": "\\xfc"\n}\n'


def test_more_than_a_second_is_said_on_stderr(agentos: Command, engine: Engine, tmp_path):
    with agentos.running("call", "echo::slow", "seconds:=20") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "calling echo::slow …\n"


def test_ctrl_c_while_waiting_ends_with_130(agentos: Command, echo: Worker):
    before = len(echo.seen)
    with agentos.running("call", "echo::slow", "seconds:=20"):
        until("the call has come", lambda: len(echo.seen) > before)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_result_that_is_nested_deeply_is_shown_or_refused_in_one_line(agentos: Command, form):
    done = agentos.process("call", "echo::deep", "-o", form)
    assert done.stderr == "" or (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_reader_that_goes_ends_it_quietly(agentos: Command, tmp_path):
    rows = json.dumps(list(range(200_000)))
    (tmp_path / "big.json").write_text(rows)
    line = f"set -o pipefail; {COMMAND} call echo::plain --json @big.json | head -1"
    done = subprocess.run(
        ["bash", "-c", line],
        env=agentos.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("[\n", "", 0)
