"""The everyday commands against a realm: from this machine through kubectl into the engine's pod."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e.support import SILENT, apply, until, until_ready, worker

pytestmark = pytest.mark.cluster

AGENTOS = Path(sys.executable).with_name("agentos")


def environment(cluster: Cluster) -> dict[str, str]:
    """By which the command finds kubectl, and kubectl the cluster."""
    return {
        **os.environ,
        **cluster.environment(),
        "PATH": f"{Path(cluster.tools.kubectl).parent}:{os.environ['PATH']}",
    }


def agentos(cluster: Cluster, *arguments: str, code: int = 0) -> str:
    """Run the command; return what it wrote to stdout, or to stderr when ``code`` is not 0."""
    done = subprocess.run(
        [AGENTOS, *arguments], env=environment(cluster), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def realm(cluster: Cluster) -> Cluster:
    """The cluster with a worker in its default realm."""
    apply(cluster, worker("greeter", "greet::hello"))
    until_ready(cluster, "greeter")
    return cluster


def test_functions_workers_and_calls_of_a_realm(realm: Cluster) -> None:
    assert "greet::hello" in agentos(realm, "functions", "--realm", "default", "-o", "name").split()
    assert re.search(r"^greeter +available +1 ", agentos(realm, "workers", "--realm", "default"), re.MULTILINE)
    answer = json.loads(agentos(realm, "call", "greet::hello", "name=you", "--realm", "default"))
    assert (answer["echo"]["name"], answer["from"]) == ("you", "greeter")
    assert "did you mean greet::hello" in agentos(realm, "call", "greet::helo", "--realm", "default", code=4)


def test_state_of_a_realm(realm: Cluster) -> None:
    agentos(realm, "state", "set", "cli", "key", '{"n": 1}', "--realm", "default")
    assert json.loads(agentos(realm, "state", "get", "cli", "key", "--realm", "default")) == {"n": 1}
    agentos(realm, "state", "delete", "cli", "key", "--realm", "default")
    agentos(realm, "state", "get", "cli", "key", "--realm", "default", code=4)


def test_logs_are_those_of_the_workers_pods(realm: Cluster) -> None:
    says = f"print('I am here'); {SILENT[-1]}"
    talker = worker("talker", owns=[], command=["python3", "-uc", says])
    apply(realm, talker)
    lines = until("the pod has printed", lambda: _printed(realm, "talker"), 90)
    assert re.fullmatch(r"talker-\S+  I am here", lines[0])
    assert "no pod of worker nobody" in agentos(realm, "logs", "nobody", "--realm", "default", code=4)


def _printed(cluster: Cluster, name: str) -> list[str]:
    done = subprocess.run(
        [AGENTOS, "logs", name, "--realm", "default"],
        env=environment(cluster), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_page_of_a_realm_is_there_until_ctrl_c(realm: Cluster) -> None:
    command = [AGENTOS, "open", "--no-browser", "--realm", "default"]
    # A process that was started in the background of a shell hands on that it does not hear SIGINT.
    hears = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment(realm), stdout=subprocess.PIPE, text=True, preexec_fn=hears)
    with ended(process):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", url)
        info = agentos(realm, "functions", "--url", url.rstrip("/"), "-o", "name")
        assert "greet::hello" in info.split()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """The process does not outlive the test."""
    with process:
        try:
            yield
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(30)


def test_an_unknown_realm_names_those_that_are_there(realm: Cluster) -> None:
    said = agentos(realm, "functions", "--realm", "nowhere", code=4)
    # On a slow machine the progress is told before it.
    assert "\nagentos: there is no realm nowhere; there are: default" in f"\n{said}"


def test_only_the_rights_of_the_kube_context_count(realm: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(realm.kubeconfig.read_text())
    config.chmod(0o600)
    options = f"--kubeconfig={config}"
    realm.kubectl("create", "serviceaccount", "stranger", "-n", "default")
    try:
        token = realm.kubectl("create", "token", "stranger", "-n", "default").stdout.strip()
        realm.kubectl("config", options, "set-credentials", "stranger", f"--token={token}")
        cluster_name = realm.kubectl("config", options, "view", "-o", "jsonpath={.clusters[0].name}").stdout
        realm.kubectl("config", options, "set-context", "stranger", "--user=stranger", f"--cluster={cluster_name}")
        said = agentos(
            realm, "functions", "--realm", "default", "--kubeconfig", str(config), "--context", "stranger", code=1
        )
    finally:
        realm.kubectl("delete", "serviceaccount", "stranger", "-n", "default")
    assert "stranger" in said
    assert "forbidden" in said
    assert token not in said
