"""The cluster where a Docker engine runs: kind makes it. A thin branch, with the same doors as the bare node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.cluster.command import ClusterError, replace_file, run, wait_until
from tests.cluster.process import Process
from tests.cluster.progress import Steps
from tests.cluster.tools import Tools

CREATE_SECONDS = 900  # the first time the node's image is downloaded
FORWARD_SECONDS = 30
FORWARDING = re.compile(r"^Forwarding from (127\.0\.0\.1:\d+) ", re.MULTILINE)


def configuration() -> str:
    """kind's own configuration of one node (JSON is YAML)."""
    return json.dumps(
        {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}]}, indent=1
    )


def create_command(tools: Tools, name: str, config: Path, kubeconfig: Path) -> list[str]:
    """Make the cluster and wait for its node. The user's own kubeconfig is left alone."""
    flags = ["--name", name, "--config", str(config), "--kubeconfig", str(kubeconfig), "--wait", "180s"]
    return [str(tools.kind), "create", "cluster", *flags]


def delete_command(tools: Tools, name: str, kubeconfig: Path) -> list[str]:
    return [str(tools.kind), "delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig)]


def load_command(tools: Tools, name: str, ref: str) -> list[str]:
    return [str(tools.kind), "load", "docker-image", ref, "--name", name]


def forward_command(tools: Tools, kubeconfig: Path, namespace: str, service: str, port: int) -> list[str]:
    """Forward a free port of the host to a Service's port."""
    where = ["--kubeconfig", str(kubeconfig), "--namespace", namespace, "--address", "127.0.0.1"]
    return [str(tools.kubectl), "port-forward", *where, f"service/{service}", f":{port}"]


class KindNode:
    """The kind cluster whose folder is `state`, running or not."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.kubeconfig = state / "kubeconfig"

    def start(self, name: str, tools: Tools, steps: Steps) -> None:
        config = self.state / "kind.yaml"
        replace_file(config, configuration())
        with steps("create the kind cluster"):
            log = self.state / "kind.log"
            run(create_command(tools, name, config, self.kubeconfig), timeout=CREATE_SECONDS, log=log)

    def healthy(self, tools: Tools) -> bool:
        argv = [tools.kubectl, "--kubeconfig", self.kubeconfig, "--request-timeout=5s", "get", "--raw=/readyz"]
        return self.kubeconfig.exists() and run(argv, check=False, timeout=20).returncode == 0

    def stop(self, name: str, tools: Tools) -> None:
        """End the port forwards, then the cluster. Fine when there is none."""
        for record in sorted(self.state.glob("forward-*.pid")):
            if process := Process.read(record):
                process.kill()
        run(delete_command(tools, name, self.kubeconfig), timeout=300)
        if self.state.exists():
            shutil.rmtree(self.state)

    def forward(self, tools: Tools, namespace: str, service: str, port: int) -> str:
        """A host address that leads to this Service's port for as long as the cluster runs."""
        record = self.state / f"forward-{namespace}-{service}-{port}.pid"
        log = record.with_suffix(".log")
        process = Process.read(record)
        if not (process and process.alive()):
            with open(log, "wb") as output:
                started = subprocess.Popen(
                    forward_command(tools, self.kubeconfig, namespace, service, port),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            if process := Process.of(started.pid):
                replace_file(record, process.record())
            wait_until(lambda: started.poll() is not None or _forwarded(log) is not None, FORWARD_SECONDS)
        address = _forwarded(log)
        if address is None:
            said = log.read_text(errors="replace").strip()
            raise ClusterError(
                f"Can't reach service {namespace}/{service} port {port}: kubectl port-forward said: {said}"
            )
        return address


def _forwarded(log: Path) -> str | None:
    found = FORWARDING.search(log.read_text(errors="replace"))
    return found[1] if found else None
