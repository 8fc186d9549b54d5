"""``agentos validate --server``, with a script in place of kubectl; tests/e2e has the real one."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Command

KUBECTL = f"""#!{sys.executable}
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
arguments = [each for each in sys.argv[1:] if not each.startswith(("--context", "--kubeconfig"))]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
said = json.loads((folder / "answers").read_text())
key = arguments[0]
if key == "get":
    key = arguments[1].partition(".")[0]
elif key == "apply":
    key = "apply " + json.load(sys.stdin)["metadata"]["name"]
code, out, err = said.get(key, [0, "", ""])
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
REALM = {"metadata": {"name": "acme"}, "spec": {"namespace": "team"}}
HOLDER = {
    "metadata": {"name": "old", "namespace": "team", "uid": "old-uid", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"owns": ["held::*"], "manifest": {"name": "old"}},
}
CLAIM = {
    "metadata": {"name": "held", "namespace": "team"},
    "spec": {
        "segment": "held",
        "holders": [{"pattern": "held::*", "worker": "old", "uid": "old-uid", "since": "2026-01-01T00:00:00Z"}],
    },
}
FORBIDDEN = 'Error from server (Forbidden): functionclaims.agentos.dev is forbidden: User "eve" cannot list resource'


class Cluster:
    """The script's answers: by what is read, and by the name of what is applied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "kubectl"
        program.write_text(KUBECTL)
        program.chmod(0o755)
        self.answers: dict[str, list[Any]] = {}
        for kind, items in (("realms", [REALM]), ("workers", [HOLDER]), ("functionclaims", [CLAIM])):
            self.answer(kind, 0, json.dumps({"items": items}))
        self.answer("config", 0, "team")

    def answer(self, key: str, code: int, out: str = "", err: str = "") -> None:
        self.answers[key] = [code, out, err]
        (self.folder / "answers").write_text(json.dumps(self.answers))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "bin")


@pytest.fixture
def validate(command: Command, cluster: Cluster):
    """Write a Worker's file, and run the command on it with that kubectl first on the PATH."""

    def run(*arguments: str, name: str = "new", **spec: Any):
        body = {"image": "i:1", "manifest": {"name": name}, "owns": [f"{name}::*"]} | spec
        resource = {"apiVersion": "agentos.dev/v1alpha1", "kind": "Worker", "metadata": {"name": name}, "spec": body}
        (command.folder / "w.yaml").write_text(json.dumps(resource, indent=1))
        return command.run("validate", "--server", *arguments, "w.yaml", PATH=f"{cluster.folder}:{os.environ['PATH']}")

    return run


def test_what_would_start_is_told_and_nothing_is_changed(validate, cluster):
    done = validate()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "w.yaml:1: Worker new: starts\n1 document checked: 0 errors, 0 warnings\n"
    assert [call for call in cluster.calls() if call[0] not in ("get", "config")] == [
        ["apply", "--dry-run=server", "-f", "-", "-o", "name", "--request-timeout=15s"]
    ]


def test_who_would_wait_is_a_warning_of_the_forecast(validate):
    done = validate("-o", "json", owns=["held::one"])
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["outcomes"] == [{"place": "w.yaml:1", "resource": "Worker new", "outcome": "waits"}]
    (found,) = report["findings"]
    assert (found["source"], found["severity"], found["reason"], found["path"]) == (
        "forecast", "warning", "Clash", "spec.owns"
    )  # fmt: skip
    assert "held by Worker old since 2026-01-01T00:00:00Z" in found["message"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            'Error from server (Forbidden): workers.agentos.dev is forbidden: User "eve" cannot create resource',
            "Forbidden",
        ),
        ('admission webhook "workers.agentos.dev" denied the request: quota of realm acme is used up', "Refused"),
    ],
)
def test_what_the_server_refuses_is_an_error_with_its_words(validate, cluster, said, reason):
    cluster.answer("apply new", 1, "", f"Warning: mind the gap\n{said}\n")
    done = validate("-o", "json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [(each["source"], each["reason"], each["message"]) for each in report["findings"]] == [
        ("server", "Admission", "mind the gap"),
        ("server", reason, said),
    ]
    assert report["outcomes"][0]["outcome"] == "refused"


def test_what_the_files_say_themselves_is_told_once(validate, cluster):
    words = "spec.replicas: must be at least 0, got the whole number -1"
    cluster.answer("apply new", 1, "", f'admission webhook "workers.agentos.dev" denied the request: {words}\n')
    done = validate(replicas=-1)
    assert done.returncode == 1
    assert done.stdout.count("spec.replicas") == 1
    assert done.stdout.endswith("Worker new: refused\n1 document checked: 1 error, 0 warnings\n")


def test_what_cannot_be_read_is_said_and_the_rest_is_checked(validate, cluster):
    cluster.answer("functionclaims", 1, "", FORBIDDEN)
    done = validate(owns=["held::one"], calls=["nobody::*"])
    assert done.returncode == 0
    assert "not checked: clashes in namespace team: no right to list functionclaims.agentos.dev\n" in done.stdout
    assert "nobody::* is served by nobody" in done.stdout


def test_a_namespace_that_is_not_there_yet_is_said(validate, cluster):
    cluster.answer(
        "apply new", 1, "", 'Error from server (NotFound): error when creating "STDIN": namespaces "team" not found\n'
    )
    done = validate()
    assert "not checked: dry run of Worker team/new: there is no namespace team\n" in done.stdout


def test_a_cluster_that_does_not_answer_is_exit_code_3(validate, cluster):
    cluster.answer("realms", 1, "", "Unable to connect to the server: dial tcp: connection refused\n")
    done = validate()
    assert (done.returncode, done.stdout) == (3, "")
    assert "Unable to connect" in done.stderr


def test_a_cluster_without_our_kinds_says_so(validate, cluster):
    cluster.answer("realms", 1, "", 'error: the server doesn\'t have a resource type "realms"\n')
    done = validate()
    assert done.returncode == 1
    assert "the server doesn't have a resource type" in done.stderr
