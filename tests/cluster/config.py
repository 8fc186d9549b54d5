"""The configuration files and command lines of a bare node's components. No I/O: each function returns a value."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.network import Subnets
from tests.cluster.pki import Certificate

NODE_NAME = "node0"
PAUSE_IMAGE = "localhost/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDITED_GROUP = "system:serviceaccounts:agentos-system"
"""Whose every request is in the audit log: the operator's."""

# kubelet sets these for the whole machine unless they already have the value: k8s.io/component-helpers/node/util/sysctl.
PINNED_SYSCTLS = {
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Layout:
    """All that the configuration of one node depends on."""

    state: Path
    subnets: Subnets
    cgroup: str
    kube: Path
    snapshotter: str = "overlayfs"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def server(self) -> str:
        return f"https://{self.subnets.node_address}:6443"

    def file(self, name: str) -> str:
        return str(self.state / "config" / name)

    def crt(self, name: str) -> str:
        return str(self.pki / f"{name}.crt")

    def key(self, name: str) -> str:
        return str(self.pki / f"{name}.key")


def certificates(subnets: Subnets) -> list[Certificate]:
    """One per component, with the user and group by which Kubernetes' built-in RBAC knows it."""
    node = str(subnets.node_address)
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    addresses = [node, str(subnets.apiserver_service_address), "127.0.0.1"]
    return [
        Certificate("apiserver", "kube-apiserver", names=[*service, "localhost"], addresses=addresses),
        Certificate("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters"),
        Certificate("admin", "kubernetes-admin", "system:masters"),
        Certificate("kubelet", f"system:node:{NODE_NAME}", "system:nodes", names=[NODE_NAME], addresses=[node]),
        Certificate("controller-manager", "system:kube-controller-manager"),
        Certificate("scheduler", "system:kube-scheduler"),
        Certificate("proxy", "system:kube-proxy"),
        Certificate("coredns", "coredns", "system:masters"),  # a role of its own would come seconds too late for it
    ]


def kubeconfig(layout: Layout, user: str, name: str) -> str:
    """A kubeconfig with everything in it, so that it can be copied elsewhere. Reads the certificates."""

    def data(path: str) -> str:
        return base64.b64encode(Path(path).read_bytes()).decode()

    cluster = {"server": layout.server, "certificate-authority-data": data(layout.crt("ca"))}
    credentials = {"client-certificate-data": data(layout.crt(user)), "client-key-data": data(layout.key(user))}
    return _json(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }
    )


def containerd(layout: Layout) -> str:
    """containerd's TOML. It may not lower oom_score_adj, which needs a capability that not every root has."""
    return f"""version = 2
root = "{layout.state}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.state}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.state}/config/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{layout.snapshotter}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def cni(subnets: Subnets) -> str:
    """Each pod gets a point-to-point link, not a port of a bridge: all its traffic is routed, so that a Service's
    answer from a pod of the same node passes conntrack without the br_netfilter module."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(subnets.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return _json({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins})


def kubelet(layout: Layout) -> str:
    """kubelet's configuration. A full disk of the developer's machine must neither evict pods nor remove images."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": layout.crt("ca")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{layout.cgroup}",
            "clusterDNS": [str(layout.subnets.node_address)],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "maxPods": 250,
            "resolvConf": "",
            "syncFrequency": "10s",
            "tlsCertFile": layout.crt("kubelet"),
            "tlsPrivateKeyFile": layout.key("kubelet"),
            "volumePluginDir": str(layout.state / "volume-plugins"),
        }
    )


def corefile(layout: Layout) -> str:
    """DNS of the cluster, on the node's own address. There is nothing beyond it to forward to."""
    address = layout.subnets.node_address
    return f""".:53 {{
  bind {address}
  errors
  health {address}:8081
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.file("coredns.conf")}
    pods insecure
  }}
  cache 5
}}
"""


def audit_policy() -> str:
    """Every write but the Leases', once each, without bodies; of who is watched for its rights the reads and Leases too."""
    return _json(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "userGroups": [AUDITED_GROUP]},
                {"level": "None", "verbs": ["get", "list", "watch"]},
                {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
                {"level": "Metadata"},
            ],
        }
    )


def storage_class() -> str:
    """The default storage class: a claim gets a folder of the node, as on kind."""
    return _json(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/host-path",
        }
    )


def processes(layout: Layout) -> list[dict[str, object]]:
    """The components in the order of their start: name, argv, and whether it waits for the apiserver."""
    subnets, kube = layout.subnets, str(layout.kube)

    def component(name: str, *arguments: str, needs_api: bool = True) -> dict[str, object]:
        return {"name": name, "argv": [kube, name, *arguments], "needs_api": needs_api}

    return [
        {
            "name": "containerd",
            "argv": ["containerd", "--config", layout.file("containerd.toml")],
            "needs_api": False,
        },
        component(
            "etcd",
            f"--data-dir={layout.state}/etcd",
            "--unsafe-no-fsync",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            needs_api=False,
        ),
        component(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={subnets.node_address}",
            "--bind-address=0.0.0.0",
            f"--service-cluster-ip-range={subnets.services}",
            f"--tls-cert-file={layout.crt('apiserver')}",
            f"--tls-private-key-file={layout.key('apiserver')}",
            f"--client-ca-file={layout.crt('ca')}",
            f"--kubelet-certificate-authority={layout.crt('ca')}",
            f"--kubelet-client-certificate={layout.crt('apiserver-kubelet')}",
            f"--kubelet-client-key={layout.key('apiserver-kubelet')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={layout.pki}/sa.pub",
            f"--service-account-signing-key-file={layout.key('sa')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--audit-policy-file={layout.file('audit-policy.json')}",
            f"--audit-log-path={layout.state}/log/audit.log",
            needs_api=False,
        ),
        component(
            "kube-controller-manager",
            f"--kubeconfig={layout.file('controller-manager.conf')}",
            f"--service-account-private-key-file={layout.key('sa')}",
            f"--root-ca-file={layout.crt('ca')}",
            f"--cluster-signing-cert-file={layout.crt('ca')}",
            f"--cluster-signing-key-file={layout.key('ca')}",
            "--use-service-account-credentials",
            "--enable-hostpath-provisioner",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ),
        component(
            "kube-scheduler",
            f"--kubeconfig={layout.file('scheduler.conf')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ),
        component(
            "kubelet",
            f"--kubeconfig={layout.file('kubelet.conf')}",
            f"--config={layout.file('kubelet.json')}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={subnets.node_address}",
        ),
        component(
            "kube-proxy",
            f"--kubeconfig={layout.file('proxy.conf')}",
            f"--hostname-override={NODE_NAME}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={subnets.pods}",
            # The table size is the machine's, and only its first network namespace may set it.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ),
        component("coredns", "-conf", layout.file("Corefile")),
    ]


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"
