import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from agentos_contracts.tokens import Identity, SigningKey, issue
from agentos_engine import logs
from agentos_engine.config import SettingsError, lock_data_dir, read_settings

FREE = ("--port", "0", "--http-port", "0", "--stream-port", "0", "--admin-port", "0")


def run(*flags, **environment):
    command = [sys.executable, "-m", "agentos_engine", *flags]
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def started(process):
    """Wait for the line with the ports; return it and the lines before it."""
    before = []
    for line in process.stderr:
        fields = json.loads(line)
        if fields["message"] == "listening":
            return fields, before
        before.append(fields)
    raise AssertionError(f"the engine ended with {process.wait()}: {before}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_engine_says_its_ports_and_ends_with_0_on_a_signal(tmp_path, number):
    process = run(*FREE, "--data-dir", str(tmp_path / "new"))
    fields, _ = started(process)
    assert all(fields[name] > 0 for name in ("port", "http_port", "admin_port"))
    before = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == 0
    assert time.monotonic() - before < 5
    assert [json.loads(line)["message"] for line in process.stderr] == ["stopping", "stopped"]


def test_settings_come_from_the_environment_too_and_a_flag_wins():
    key = SigningKey.generate().verify_key
    environment = {"AGENTOS_PORT": "1", "AGENTOS_HTTP_PORT": "2", "AGENTOS_VERIFY_KEYS": key, "AGENTOS_REALM": "r"}
    settings = read_settings(["--port", "7"], {**environment, "AGENTOS_DATA_DIR": "/d"})
    assert (settings.port, settings.http_port, settings.admin_port) == (7, 2, 9464)
    assert (settings.host, settings.stream_port) == (None, None)
    assert (settings.realm, str(settings.data_dir)) == ("r", "/d")
    assert settings.verifier is not None
    assert read_settings([], {"AGENTOS_PORT": ""}).port is None


def test_a_key_that_begins_with_a_hyphen_is_not_taken_for_a_flag():
    key = next(key for key in (SigningKey.generate().verify_key for _ in range(10_000)) if key.startswith("-"))
    for flags in (["--verify-keys", key], [f"--verify-keys={key}"], ["--verify-keys", f"{key},{key}", "--port", "5"]):
        assert read_settings(flags, {}).verifier is not None
    assert read_settings([], {"AGENTOS_VERIFY_KEYS": key}).verifier is not None


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (("--port", "x"), {}, "'x' is not a port"),
        (("--http-port", "70000"), {}, "'70000' is not a port"),
        ((), {"AGENTOS_ADMIN_PORT": "-1"}, "'-1' is not a port"),
        (("--verify-keys", "short"), {}, "--verify-keys"),
        ((), {"AGENTOS_LOG_LEVEL": "loud"}, "AGENTOS_LOG_LEVEL"),
        (("--nonsense",), {}, "--nonsense"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(flags, environment, words):
    process = run(*flags, **environment)
    (line,) = process.stderr.read().splitlines()
    assert process.wait(10) == 2
    assert line.startswith("agentos-engine: ")
    assert words in line


@pytest.mark.parametrize("flag", ["--port", "--http-port", "--admin-port"])
def test_a_taken_port_is_one_line_and_exit_code_1(flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = run(*FREE, flag, str(port))
        (line,) = process.stderr.read().splitlines()
    assert process.wait(10) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in line
    assert line.endswith(f"choose another with {flag}")


def test_a_data_folder_is_never_shared(tmp_path):
    first = run(*FREE, "--data-dir", str(tmp_path))
    started(first)
    second = run(*FREE, "--data-dir", str(tmp_path))
    (line,) = second.stderr.read().splitlines()
    assert second.wait(10) == 1
    assert "another engine uses it" in line
    first.kill()
    first.wait(10)
    third = run(*FREE, "--data-dir", str(tmp_path))  # a killed engine leaves no lock behind
    started(third)
    third.terminate()
    assert third.wait(10) == 0


def test_a_data_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        lock_data_dir(tmp_path / "file" / "below")


def test_an_open_engine_warns_when_it_listens_beyond_loopback():
    process = run(*FREE, "--host", "0.0.0.0")
    _, before = started(process)
    process.terminate()
    process.wait(10)
    assert [each["level"] for each in before] == ["warning"]
    assert "open" in before[0]["message"]
    guarded = {"AGENTOS_VERIFY_KEYS": SigningKey.generate().verify_key, "AGENTOS_HTTP_AUTH": '{"auth": "none"}'}
    process = run(*FREE, "--host", "0.0.0.0", **guarded)
    _, before = started(process)
    process.terminate()
    process.wait(10)
    assert before == []


def test_the_process_imports_nothing_heavy():
    heavy = {"pydantic", "cryptography", "prometheus_client", "kubernetes", "aiohttp", "kopf", "websockets"}
    program = f"import sys, agentos_engine.__main__; print(sorted({heavy!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


def test_no_token_can_stand_in_a_log_line():
    key = SigningKey.generate()
    token = issue(key, Identity("r", "s", "u", "worker"), issued_at=1)
    for text in (f"path /w/{token}/pod", f"url ws://h:1/w/{token}", f"bare {token}", f"/w/not-even-a-token/{token}"):
        shown = logs.redacted(text)
        assert token not in shown
        assert not any(part in shown for part in token.split("."))
    assert logs.redacted("nothing secret: a/b/w/") == "nothing secret: a/b/w/"
