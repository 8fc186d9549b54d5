"""A test cluster from start to end, whichever way it is made: `up`, `find`, `down`, and what can be done with one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tests.cluster import image
from tests.cluster import tools as tool_box
from tests.cluster.command import ClusterError, cache_lock, clusters_folder, replace_file, run
from tests.cluster.kind import KindNode, load_command
from tests.cluster.network import every_cluster
from tests.cluster.node import BareNode
from tests.cluster.progress import Steps
from tests.cluster.tools import Tools

DEFAULT_NAME = "agentos"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
RECORD = "cluster.json"  # written first: which way this cluster is made
READY = "ready"  # written last: `up` got to its end


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    name: str
    state: Path
    node: BareNode | KindNode
    tools: Tools

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig with an administrator's rights, usable from the host."""
        return self.state / "kubeconfig"

    @property
    def audit_log(self) -> Path | None:
        """The apiserver's audit log, one JSON object per line; reads and Leases only of the operator. None with kind."""
        return self.state / "log" / "audit.log" if isinstance(self.node, BareNode) else None

    @property
    def node_names(self) -> list[str]:
        return self.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout.split()

    def kubectl(
        self, *arguments: str | Path, input: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this cluster; `timeout` in seconds. Raises ClusterError when it fails (with `check`)."""
        return run([self.tools.kubectl, *arguments], input=input, check=check, timeout=timeout, env=self.environment())

    def helm(
        self, *arguments: str | Path, input: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run helm against this cluster; like `kubectl`."""
        return run([self.tools.helm, *arguments], input=input, check=check, timeout=timeout, env=self.environment())

    def environment(self) -> dict[str, str]:
        """The variables by which kubectl, helm and client libraries find this cluster, and write nowhere else."""
        unproxied = ",".join([*filter(None, [os.environ.get("NO_PROXY")]), "127.0.0.1", *map(str, every_cluster())])
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.state / "kubectl-cache"),
            "KUBERC": "off",
            "HELM_CACHE_HOME": str(self.state / "helm" / "cache"),
            "HELM_CONFIG_HOME": str(self.state / "helm" / "config"),
            "HELM_DATA_HOME": str(self.state / "helm" / "data"),
            "NO_PROXY": unproxied,
            "no_proxy": unproxied,
        }

    def load_image(self, ref: str) -> None:
        """Make an image that was built here known to the node, so that a pod can use it without a registry."""
        if isinstance(self.node, BareNode):
            self.node.import_archive(image.archive_of(ref))
        else:
            run(load_command(self.tools, self.name, ref), timeout=600)

    def service_address(self, namespace: str, service: str, port: int) -> str:
        """ "IP:port" by which the host reaches this port of a Service while the cluster runs."""
        if isinstance(self.node, KindNode):
            return self.node.forward(self.tools, namespace, service, port)
        address = self.kubectl("-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}").stdout
        try:
            ip_address(address)
        except ValueError:
            raise ClusterError(
                f"service {namespace}/{service} has no cluster IP (it has {address or 'none'!r}): a headless Service "
                "can't be reached by one address."
            ) from None
        return f"{address}:{port}"

    def healthy(self) -> bool:
        """Did `up` finish, and does the cluster answer now?"""
        return (self.state / READY).exists() and self.node.healthy(self.tools)


def up(name: str = DEFAULT_NAME, steps: Steps | None = None) -> Cluster:
    """The cluster of this name: the running one if it is healthy; else what is left of it is removed and it is made anew.

    Raises ClusterError when something that it needs isn't there, or it doesn't come up.
    """
    steps = steps or Steps()
    state = _state(name)
    with cache_lock(f"cluster-{name}"):
        record = _recorded(state)
        backend = record or ("kind" if tool_box.docker_answers() else "bare")
        tools = tool_box.kind_tools(steps) if backend == "kind" else tool_box.bare_tools(steps)
        if record:
            cluster = _cluster(name, state, backend, tools)
            if cluster.healthy():
                return cluster
        if state.exists():
            with steps("remove what is left of an earlier cluster"):
                _remove(name, state, steps)
        state.mkdir(parents=True, mode=0o700)
        replace_file(state / RECORD, json.dumps({"backend": backend}))
        cluster = _cluster(name, state, backend, tools)
        pause = image.pause_archive(steps) if backend == "bare" else None
        cluster.node.start(name, tools, steps)
        if pause and isinstance(cluster.node, BareNode):
            cluster.node.import_archive(pause)
        (state / READY).touch()
    return cluster


def find(name: str = DEFAULT_NAME) -> Cluster | None:
    """The healthy running cluster of this name, if there is one. (Its tools are built again should the cache be gone.)"""
    state = _state(name)
    backend = _recorded(state)
    if backend is None or not (state / READY).exists():
        return None
    steps = Steps()
    cluster = _cluster(
        name, state, backend, tool_box.kind_tools(steps) if backend == "kind" else tool_box.bare_tools(steps)
    )
    return cluster if cluster.healthy() else None


def down(name: str = DEFAULT_NAME, steps: Steps | None = None) -> None:
    """Remove every trace of the cluster of this name. Fine when there is none."""
    state = _state(name)
    with cache_lock(f"cluster-{name}"):
        _remove(name, state, steps or Steps())


def _remove(name: str, state: Path, steps: Steps) -> None:
    backend = _recorded(state)
    if backend == "kind":
        KindNode(state).stop(name, tool_box.kind_tools(steps))
    elif backend == "bare" or shutil.which("ip"):
        BareNode(state).stop()
    elif state.exists():
        shutil.rmtree(state)
    for folder in (state.parent, state.parent.parent):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def _state(name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ClusterError(f"{name!r} can't be a cluster's name: 1 to 40 of a-z, 0-9 and -, no - at either end.")
    return clusters_folder() / name


def _recorded(state: Path) -> str | None:
    """Which way this cluster was made: "bare" or "kind"; None when there is none, or it got no further than its folder."""
    try:
        return json.loads((state / RECORD).read_text())["backend"]
    except FileNotFoundError:
        return None


def _cluster(name: str, state: Path, backend: str, tools: Tools) -> Cluster:
    return Cluster(name, state, KindNode(state) if backend == "kind" else BareNode(state), tools)
