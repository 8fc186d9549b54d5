"""Real clusters: two side by side, `up` killed half way, and nothing left after `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import Cluster, Steps, down, find, up
from tests.cluster.command import PROJECT_ROOT, run, wait_until
from tests.cluster.image import BASE_IMAGE, base_archive
from tests.cluster.node import BareNode
from tests.cluster.process import Process

pytestmark = pytest.mark.cluster

# A Service with one pod that says who it is, and a pod that asks it by its name.
WORKLOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
        - name: hello
          image: IMAGE
          command: [sh, -c, "cd /data && echo 'hello from NAME' > index.html && exec python3 -m http.server 8000"]
          readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
          securityContext: {runAsUser: 65532, readOnlyRootFilesystem: true}
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {selector: {app: hello}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  restartPolicy: OnFailure
  containers:
    - name: asker
      image: IMAGE
      command: [python3, -c, "import urllib.request as u; print(u.urlopen('http://hello', timeout=3).read().decode())"]
"""


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder of this module's own; what a failed test leaves running is removed at the end."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTOS_STATE", str(folder))
        yield folder
        for name in ("one", "two", "killed"):
            down(name)


def is_of_another_cluster(name: str, own: BareNode) -> bool:
    return "agentos" in name and own.interface not in name and own.cgroup not in name


@dataclass(frozen=True)
class Traces:
    """What this machine has of each kind of thing that a node makes."""

    mounts: frozenset[str]
    interfaces: frozenset[str]
    routes: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]
    sysctls: str

    @classmethod
    def now(cls, own: BareNode) -> Traces:
        def ours(names: list[str]) -> frozenset[str]:
            return frozenset(name for name in names if not is_of_another_cluster(name, own))

        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        links = [link["ifname"] for link in json.loads(run(["ip", "-json", "link"]).stdout)]
        routes = run(["ip", "route", "show", "table", "all"]).stdout.splitlines()
        # Directories that components would write to, were they not given a private view of them.
        roots = (
            "/run",
            "/var/lib",
            "/var/log/pods",
            "/var/log/containers",
            "/etc/cni",
            "/opt",
            "/usr/libexec/kubernetes",
        )
        files = [str(path) for root in roots for path in [Path(root), *Path(root).glob("*"), *Path(root).glob("*/*")]]
        groups = [folder for folder, _, _ in os.walk("/sys/fs/cgroup")]
        settings = ["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward"]
        values = [Path("/proc/sys", *name.split(".")).read_text() for name in settings]
        return cls(
            ours(mounts),
            ours(links),
            ours(routes),
            ours(groups),
            frozenset(name for name in files if Path(name).exists()),
            repr(values),
        )


def processes_of(cluster: Cluster) -> list[Process]:
    """Every process of the node, and the one that holds it: all in PID namespaces below the holder's child."""
    assert isinstance(cluster.node, BareNode)
    holder = cluster.node.holder
    assert holder is not None
    found, unseen = [holder], [holder]
    while unseen:
        children = unseen.pop().children()
        found += children
        unseen += children
    return found


def network_namespaces() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(path))
        except OSError:  # ended in between
            continue
    return found


def start_workload(cluster: Cluster) -> None:
    base_archive(Steps())
    cluster.load_image(BASE_IMAGE)
    cluster.kubectl("apply", "-f", "-", input=WORKLOAD.replace("IMAGE", BASE_IMAGE).replace("NAME", cluster.name))


def wait_for_workload(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
    cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asker", "--timeout=60s")


def test_two_clusters_run_side_by_side_and_leave_nothing(state: Path) -> None:
    before = {name: Traces.now(BareNode(state / "clusters" / name)) for name in ("one", "two")}
    clusters = [up("one"), up("two")]
    for cluster in clusters:
        start_workload(cluster)
    for cluster in clusters:
        wait_for_workload(cluster)

        # DNS and Service from inside, each its own.
        assert cluster.kubectl("logs", "asker").stdout == f"hello from {cluster.name}\n\n"
        # The same Service from the host.
        address = cluster.service_address("default", "hello", 80)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{address}/", timeout=5) as reply:
            assert reply.read().decode() == f"hello from {cluster.name}\n"
        # exec goes by way of the kubelet.
        assert cluster.kubectl("exec", "deployment/hello", "--", "id", "-u").stdout == "65532\n"
        assert cluster.node_names == ["node0"]
        assert {release["name"] for release in json.loads(cluster.helm("list", "-o", "json").stdout)} == set()

    one, two = clusters
    assert one.kubectl("get", "pods", "-A", "-o", "name").stdout.count("pod/") == 2
    assert_writes_are_audited(one)
    running = {cluster.name: processes_of(cluster) for cluster in clusters}
    inside = {os.readlink(f"/proc/{process.pid}/ns/net") for process in running["one"] if process.alive()}
    assert len(inside) >= 2  # the node's and its pods'

    down("one")
    assert_nothing_left(before["one"], one, running["one"])
    assert not inside & network_namespaces()
    # The neighbour noticed nothing.
    assert two.healthy()
    assert all(process.alive() for process in running["two"][:2])
    assert two.kubectl("exec", "deployment/hello", "--", "true").returncode == 0

    down("two")
    assert_nothing_left(before["two"], two, running["two"])
    assert not (state / "clusters").exists()


def assert_writes_are_audited(cluster: Cluster) -> None:
    assert cluster.audit_log is not None
    events = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    resources = [event["objectRef"]["resource"] for event in events if event.get("objectRef")]
    created = [event for event in events if event["verb"] == "create" and event["objectRef"].get("name") == "asker"]
    assert len([event for event in created if event["objectRef"]["resource"] == "pods"]) >= 1
    assert "leases" not in resources
    assert not {event["verb"] for event in events} & {"get", "list", "watch"}


def assert_nothing_left(before: Traces, cluster: Cluster, processes: list[Process]) -> None:
    node = cluster.node
    assert isinstance(node, BareNode)
    assert [process for process in processes if process.alive()] == []
    after = Traces.now(node)
    for kind in ("mounts", "interfaces", "routes", "cgroups", "files"):
        assert sorted(getattr(after, kind) - getattr(before, kind)) == [], kind
    assert after.sysctls == before.sysctls
    assert not cluster.state.exists()
    assert find(cluster.name) is None
    down(cluster.name)  # once more is fine


# The moments at which `up` is killed: as soon as this is there in the cluster's folder.
MOMENTS = {
    "when the node's first process was just started": lambda folder: (folder / "holder").exists(),
    "while the control plane starts": lambda folder: (folder / "log" / "kube-apiserver.log").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_up_that_was_killed_half_way_works_when_run_again(moment: str, state: Path) -> None:
    folder = state / "clusters" / "killed"
    before = Traces.now(BareNode(folder))
    kill_up_when(MOMENTS[moment], folder)
    assert find("killed") is None

    cluster = up("killed")
    assert cluster.healthy()
    assert up("killed").node.holder == cluster.node.holder  # a healthy one is kept
    processes = processes_of(cluster)
    down("killed")
    assert_nothing_left(before, cluster, processes)


def test_down_after_up_was_killed_leaves_nothing(state: Path) -> None:
    folder = state / "clusters" / "killed"
    before = Traces.now(BareNode(folder))
    kill_up_when(lambda folder: (folder / "start").exists(), folder)
    node = BareNode(folder)
    holder = node.holder
    assert holder is not None
    processes = [holder, *holder.children()]
    down("killed")
    assert [process for process in processes if process.alive()] == []
    after = Traces.now(node)
    assert after == before
    assert not folder.exists()


def kill_up_when(condition: Callable[[Path], bool], folder: Path) -> None:
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", folder.name]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: condition(folder), 60, every=0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL


def test_up_with_a_broken_cluster_makes_it_anew() -> None:
    cluster = up("killed")
    assert isinstance(cluster.node, BareNode)
    holder = cluster.node.holder
    assert holder is not None
    holder.kill()
    assert find("killed") is None
    started = time.monotonic()
    again = up("killed")
    assert time.monotonic() - started < 60
    assert again.node.holder != holder
    down("killed")
