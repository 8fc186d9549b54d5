"""``--realm``: the way through kubectl, which a script stands in for here; tests/e2e has the real one."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from commands import Command
from consoles import Engine
from ups import until

KUBECTL = f"""#!{sys.executable}
import json, os, pathlib, signal, sys
folder = pathlib.Path(__file__).parent
arguments = [each for each in sys.argv[1:] if not each.startswith("--context") and not each.startswith("--kubeconfig")]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps({{"pid": os.getpid(), "arguments": sys.argv[1:]}}) + "\\n")
said = json.loads((folder / "answers").read_text())
key = arguments[0]
if arguments[0] == "get":
    key = "get" if arguments[2].startswith("-") else "get one"
code, out, err = said.get(key, [1, "", "error: unknown command"])
sys.stdout.write(out)
sys.stdout.flush()
sys.stderr.write(err)
sys.stderr.flush()
if code is None:
    signal.pause()
sys.exit(code)
"""
REALM = {"metadata": {"name": "acme"}, "spec": {"namespace": "acme-ns"}}


class Kubectl:
    """The script, what it answers, and how it was called."""

    def __init__(self, folder: Path, console_port: int) -> None:
        self._folder = folder
        folder.mkdir()
        program = folder / "kubectl"
        program.write_text(KUBECTL)
        program.chmod(0o755)
        self.answer("get one", 0, json.dumps(REALM))
        self.answer("get", 0, json.dumps({"items": [REALM]}))
        forwarding = f"Forwarding from 127.0.0.1:{console_port} -> 3113\n" + "Handling connection for 1\n" * 20_000
        self.answer("port-forward", None, forwarding)

    @property
    def path(self) -> str:
        """PATH with the script in front."""
        return f"{self._folder}:{os.environ['PATH']}"

    def answer(self, key: str, code: int | None, out: str = "", err: str = "") -> None:
        """Set what a subcommand writes and its exit code; None: it runs until it is ended."""
        file = self._folder / "answers"
        answers = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(answers | {key: [code, out, err]}))

    def calls(self) -> list[dict]:
        """Return how it was called."""
        file = self._folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def is_gone(self) -> bool:
        """Whether nothing that was started runs any more."""
        return not any(Path(f"/proc/{call['pid']}").exists() for call in self.calls())


@pytest.fixture
def kubectl(agentos: Command, engine: Engine, tmp_path: Path) -> Kubectl:
    """A kubectl for a cluster with the realm acme, whose engine is the test's."""
    made = Kubectl(tmp_path / "bin", engine.ports["console_port"])
    agentos.environment["PATH"] = made.path
    agentos.environment["AGENTOS_CONSOLE_URL"] = "http://127.0.0.1:1"
    return made


def test_a_realm_is_reached_through_a_port_forward_that_ends_with_the_command(agentos: Command, kubectl: Kubectl):
    agentos("state", "set", "a", "b", "1", "--realm", "acme", "--context", "c", "--kubeconfig", "k")
    get, forward = (call["arguments"] for call in kubectl.calls())
    assert get[:5] == ["--context=c", "--kubeconfig=k", "get", "realms.agentos.dev", "acme"]
    assert forward == [
        "--context=c", "--kubeconfig=k", "port-forward", "--namespace=acme-ns", "pod/agentos-engine-0", ":3113",
        "--address=127.0.0.1",
    ]  # fmt: skip
    assert kubectl.is_gone()


def test_open_holds_the_port_forward_until_ctrl_c(agentos: Command, kubectl: Kubectl, engine: Engine):
    with agentos.running("open", "--no-browser", "--realm", "acme") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{engine.console}/\n"
        assert not kubectl.is_gone()
    assert kubectl.is_gone()


def test_the_port_forward_ends_on_sigterm_too(agentos: Command, kubectl: Kubectl):
    with agentos.start("open", "--no-browser", "--realm", "acme") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    until("kubectl has ended", kubectl.is_gone)


def test_open_says_when_the_way_breaks(agentos: Command, kubectl: Kubectl):
    own = Engine()
    kubectl.answer("port-forward", None, f"Forwarding from 127.0.0.1:{own.ports['console_port']} -> 3113\n")
    process = agentos.start("open", "--no-browser", "--realm", "acme")
    assert process.stdout is not None
    process.stdout.readline()
    own.stop()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 3
    assert said.startswith("agentos: ")
    assert said.count("\n") == 1


def test_an_unknown_realm_is_exit_code_4_and_says_which_there_are(agentos: Command, kubectl: Kubectl):
    error = 'Error from server (NotFound): realms.agentos.dev "acne" not found\n'
    kubectl.answer("get one", 1, "", error)
    assert agentos("functions", "--realm", "acne", code=4) == "agentos: there is no realm acne; there are: acme\n"
    kubectl.answer("get", 0, '{"items": []}')
    said = agentos("functions", "--realm", "acne", code=4)
    assert said == "agentos: there is no realm acne; there is none on this cluster\n"


def test_missing_rights_are_told_in_kubectls_words(agentos: Command, kubectl: Kubectl):
    error = 'Error from server (Forbidden): pods "agentos-engine-0" is forbidden: User "jo" cannot create\n'
    kubectl.answer("port-forward", 1, "", f"noise\n{error}")
    assert agentos("functions", "--realm", "acme", code=1) == (
        f"agentos: no way to pod agentos-engine-0 of realm acme: kubectl: {error}"
    )


def test_an_engine_that_is_not_there_is_exit_code_3(agentos: Command, kubectl: Kubectl):
    kubectl.answer("port-forward", 1, "", 'Error from server (NotFound): pods "agentos-engine-0" not found\n')
    said = agentos("functions", "--realm", "acme", code=3)
    assert said == "agentos: there is no pod agentos-engine-0 of realm acme; see kubectl describe realm acme\n"


def test_a_console_that_does_not_answer_is_told_with_kubectls_reason(agentos: Command, kubectl: Kubectl):
    refused = "error: lost connection to pod"
    kubectl.answer("port-forward", None, "Forwarding from 127.0.0.1:1 -> 3113\n", f"{refused}\n")
    said = agentos("functions", "--realm", "acme", code=3)
    assert said == f"agentos: the console of realm acme does not answer: {refused}\n"
    assert kubectl.is_gone()


def test_no_kubectl_is_exit_code_2(agentos: Command, tmp_path: Path):
    said = agentos("functions", "--realm", "acme", code=2, PATH=str(tmp_path))
    assert said == "agentos: --realm needs kubectl, which is not on the PATH\n"


@pytest.mark.parametrize("name", ["-n", "A", "a/b", "a b", "x" * 300])
def test_what_cannot_be_a_realm_is_not_given_to_kubectl(agentos: Command, kubectl: Kubectl, name):
    agentos("functions", f"--realm={name}", code=2)
    assert kubectl.calls() == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH")
def test_a_cluster_that_does_not_answer_is_exit_code_3(agentos: Command, tmp_path: Path):
    (tmp_path / "config").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\n"
    )
    said = agentos("functions", "--realm", "acme", "--kubeconfig", str(tmp_path / "config"), code=3)
    assert said.startswith("agentos: kubectl: ")
    assert "refused" in said
    assert said.count("\n") == 1


def test_logs_are_the_output_of_the_workers_pods(agentos: Command, kubectl: Kubectl):
    kubectl.answer("logs", 0, "[pod/shop-1/worker] low \x1b[2Jstock\n[pod/bank-1/worker] a] b\n")
    assert agentos("logs", "--realm", "acme") == "shop-1  low \\x1b[2Jstock\nbank-1  a] b\n"
    rows = [json.loads(line) for line in agentos("logs", "--realm", "acme", "-o", "json").splitlines()]
    assert rows[0] == {"pod": "shop-1", "container": "worker", "text": "low \x1b[2Jstock"}
    agentos("logs", "shop", "bank", "--realm", "acme", "--since", "10m", "-n", "5")
    *_, first, _, last = (call["arguments"] for call in kubectl.calls())
    assert "--selector=agentos.dev/worker" in first
    assert {"--namespace=acme-ns", "--selector=agentos.dev/worker in (shop,bank)", "--since=600s", "--tail=5"} <= set(
        last
    )
    assert "--follow" not in last


def test_logs_of_pods_are_followed_until_ctrl_c(agentos: Command, kubectl: Kubectl):
    kubectl.answer("logs", None, "[pod/shop-1/worker] open\n")
    with agentos.running("logs", "-f", "--realm", "acme") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "shop-1  open\n"
        assert "--follow" in kubectl.calls()[-1]["arguments"]
    assert kubectl.is_gone()


def test_logs_of_a_worker_without_pods_is_exit_code_4(agentos: Command, kubectl: Kubectl):
    kubectl.answer("logs", 0, "", "No resources found in acme-ns namespace.\n")
    assert agentos("logs", "shop", "--realm", "acme", code=4).startswith(
        "agentos: no pod of worker shop in realm acme;"
    )
    agentos("logs", "a,b)", "--realm", "acme", code=2)
    agentos("logs", "--level", "warn", "--realm", "acme", code=2)
