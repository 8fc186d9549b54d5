"""What all subcommands of ``agentos`` have in common."""

import subprocess
from importlib.metadata import version

import pytest
from commands import COMMAND


def test_the_version_is_told() -> None:
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"agentos {version('agentos')}\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" call a::b --url http://127.0.0.1:1 {closed}', COMMAND],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
