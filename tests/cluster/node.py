"""The bare node: a real one-node Kubernetes cluster without Docker, in its own mount, network and PID namespaces.

One process on the host (`unshare`) holds it: when that one is killed, the kernel ends all that runs in the node, and
mounts and network go with the last of them. Beside it, a cluster has on the host only its folder, its cgroup and one
veth pair with two routes; all named after the folder, so that each can be found again after a crash at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cluster import cgroups, config, network, pki
from tests.cluster.command import ClusterError, cache_folder, replace_file, run, wait_until
from tests.cluster.process import Process
from tests.cluster.progress import Steps
from tests.cluster.tools import Tools

NAMESPACE_SECONDS = 10
API_SECONDS = 90
NODE_SECONDS = 90
CONTAINERD_SECONDS = 30

# Records itself before it becomes the holder: killed at whatever moment, `up` leaves no node that can't be found.
LAUNCH = """
start=$(cut -d' ' -f22 /proc/$$/stat) && echo "$$ $start" > "$1/.holder" && mv "$1/.holder" "$1/holder" &&
exec unshare --mount --net --ipc --pid --fork --kill-child --mount-proc --propagation slave "$2" -I "$3" "$1"
"""


class BareNode:
    """The node whose folder is `state`, running or not."""

    def __init__(self, state: Path) -> None:
        self.state = state
        identity = hashlib.sha256(str(state).encode()).hexdigest()[:8]
        self.cgroup = f"agentos-{identity}"
        self.interface = f"agentos{identity}"

    @property
    def holder(self) -> Process | None:
        """The host process that holds the node, if it runs."""
        process = Process.read(self.state / "holder")
        return process if process and process.alive() else None

    def start(self, name: str, tools: Tools, steps: Steps) -> None:
        """Bring it up, up to a node that is Ready and DNS that answers. The folder must exist and be empty."""
        assert tools.kube is not None
        for folder in ("config/cni", "log", "containerd/opt"):
            (self.state / folder).mkdir(parents=True, mode=0o700)
        with steps("start the node"):
            with network.allocation():
                subnets = network.free_subnets(network.networks_in_use())
                layout = config.Layout(self.state, subnets, self.cgroup, tools.kube, self._snapshotter())
                self._write_settings(layout)
                holder = self._launch()
                network.connect(self.interface, holder.pid, subnets)
            self._write_config(layout, name)
            cgroups.make(self.cgroup)
            (self.state / "start").touch()
        with steps("wait for the apiserver"):
            self._wait(lambda: self._kubectl(tools, "get", "--raw=/readyz").returncode == 0, API_SECONDS, "apiserver")
            run(self._kubectl_argv(tools, "apply", "-f", "-"), input=config.storage_class())
        with steps("wait for the node"):
            self._wait(lambda: self._is_ready(tools), NODE_SECONDS, "node")
            # Without it the first pods are refused; without DNS they start, and fail at their first look-up.
            get = ("get", "serviceaccount", "default")
            self._wait(lambda: self._kubectl(tools, *get).returncode == 0, NODE_SECONDS, "default service account")
            self._wait(lambda: _accepts((str(subnets.node_address), 53)), NODE_SECONDS, "DNS server")

    def healthy(self, tools: Tools) -> bool:
        """Does it run, and does its apiserver call its node ready?"""
        return self.holder is not None and self._is_ready(tools)

    def import_archive(self, archive: Path) -> None:
        """Load a docker-archive into the node's containerd, where kubelet finds it."""
        holder = self.holder
        if holder is None:
            raise ClusterError(
                f"{self.state.name}: this cluster doesn't run; start it with `python -m tests.cluster up`."
            )
        enter = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--net=/proc/{holder.pid}/ns/net"]
        ctr = ["ctr", "--address", config.CONTAINERD_SOCKET, "--namespace", "k8s.io"]
        self._wait(
            lambda: run([*enter, *ctr, "version"], check=False).returncode == 0, CONTAINERD_SECONDS, "containerd"
        )
        run([*enter, *ctr, "images", "import", "-"], stdin=archive, timeout=600)

    def stop(self) -> None:
        """Remove every trace. Fine when there is none, and after a crash of anything at any moment."""
        if holder := self.holder:
            inside = holder.children()
            holder.kill()
            # The kernel ends a PID namespace's first process last: when it is gone, all in the node are.
            for process in inside:
                process.kill()
        network.disconnect(self.interface)
        cgroups.remove(self.cgroup)
        if self.state.exists():
            below = f"{self.state}/"
            if mounted := [
                line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if below in line
            ]:
                raise ClusterError(f"Not removing {self.state}: something is mounted there: {', '.join(mounted)}")
            shutil.rmtree(self.state)

    def _launch(self) -> Process:
        with open(self.state / "log" / "node.log", "ab") as log:
            subprocess.Popen(
                ["sh", "-c", LAUNCH, "launch", self.state, sys.executable, Path(__file__).with_name("supervisor.py")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                # Not the caller's environment: a proxy there, say, is none of the cluster's business.
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
            )
        own = os.readlink("/proc/self/ns/net")

        def has_namespaces() -> bool:
            holder = self.holder
            return holder is not None and os.readlink(f"/proc/{holder.pid}/ns/net") != own

        self._wait(has_namespaces, NAMESPACE_SECONDS, "node", needs_holder=False)
        holder = self.holder
        assert holder is not None
        return holder

    def _write_settings(self, layout: config.Layout) -> None:
        settings = {
            "keep": [str(self.state), str(cache_folder())],
            "pinned_sysctls": config.PINNED_SYSCTLS,
            "processes": config.processes(layout),
        }
        replace_file(self.state / "supervisor.json", json.dumps(settings, indent=1))

    def _write_config(self, layout: config.Layout, name: str) -> None:
        pki.make(layout.pki, config.certificates(layout.subnets))
        for user in ("controller-manager", "scheduler", "kubelet", "proxy", "coredns"):
            replace_file(Path(layout.file(f"{user}.conf")), config.kubeconfig(layout, user, name))
        replace_file(Path(layout.file("containerd.toml")), config.containerd(layout))
        replace_file(Path(layout.file("cni/10-pods.conflist")), config.cni(layout.subnets))
        replace_file(Path(layout.file("kubelet.json")), config.kubelet(layout))
        replace_file(Path(layout.file("Corefile")), config.corefile(layout))
        replace_file(Path(layout.file("audit-policy.json")), config.audit_policy())
        replace_file(self.state / "kubeconfig", config.kubeconfig(layout, "admin", name))

    def _snapshotter(self) -> str:
        """overlayfs, except where the folder lies on an overlay itself (in a container, say): those don't nest."""
        kind = run(["stat", "--file-system", "--format=%T", self.state]).stdout.strip()
        return "native" if kind == "overlayfs" else "overlayfs"

    def _kubectl_argv(self, tools: Tools, *arguments: str) -> list[str | Path]:
        cache = self.state / "kubectl-cache"
        return [tools.kubectl, "--kubeconfig", self.state / "kubeconfig", "--cache-dir", cache, *arguments]

    def _kubectl(self, tools: Tools, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([*self._kubectl_argv(tools, "--request-timeout=5s"), *arguments], check=False, timeout=20)

    def _is_ready(self, tools: Tools) -> bool:
        ready = '{.status.conditions[?(@.type=="Ready")].status}'
        result = self._kubectl(tools, "get", "node", config.NODE_NAME, "-o", f"jsonpath={ready}")
        return result.returncode == 0 and result.stdout == "True"

    def _wait(self, condition: Callable[[], bool], seconds: float, what: str, needs_holder: bool = True) -> None:
        def settled() -> bool:
            return condition() or (needs_holder and self.holder is None)

        if not wait_until(settled, seconds, every=0.1) or (needs_holder and self.holder is None):
            logs = ", ".join(str(path) for path in sorted((self.state / "log").glob("*.log")))
            raise ClusterError(f"The {what} did not come up within {seconds:.0f} s. Look into {logs}.")


def _accepts(address: tuple[str, int]) -> bool:
    """Does something listen there?"""
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False
