"""The commands that `helm install` prints at its end do what they say, run as they stand in one shell."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import demo
from tests.cluster import Cluster

pytestmark = pytest.mark.cluster

SECONDS = 180


def commands(notes: str) -> str:
    """What is indented by two spaces: the commands of the notes."""
    return "\n".join(line[2:] for line in notes.splitlines() if line.startswith("  "))


def test_the_printed_commands_run_a_worker_and_call_it(cluster: Cluster, tmp_path: Path) -> None:
    script = commands(cluster.helm("get", "notes", "agentos", "--namespace", demo.NAMESPACE).stdout)
    assert [word for word in ("kubectl apply", "wait", "port-forward", "curl") if word not in script] == []
    # A person types the call a moment after the port-forward said that it listens; a script has to wait for that.
    script = re.sub(
        r"^curl ", "curl --retry 20 --retry-connrefused --retry-delay 1 --show-error --fail ", script, flags=re.M
    )
    (tmp_path / "kubectl").symlink_to(cluster.tools.kubectl)
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p)' EXIT\n{script}"],
        env={**os.environ, **cluster.environment(), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker.agentos.dev/wasm-sandbox condition met" in done.stdout
    assert re.search(r'"modules":\s*\[\]|^\[\]', done.stdout, re.M), done.stdout
    assert re.search(r"^default/wasm-sandbox|wasm-sandbox +True", done.stdout, re.M), done.stdout
