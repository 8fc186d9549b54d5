"""The bare node's configuration: each cluster's files name only what is its own."""

import json
from pathlib import Path

import pytest

from tests.cluster import cgroups, config, pki
from tests.cluster.network import Subnets
from tests.cluster.node import BareNode

STATES = (Path("/state/clusters/one"), Path("/state/clusters/two"))


def layout(index: int) -> config.Layout:
    return config.Layout(STATES[index], Subnets(index), BareNode(STATES[index]).cgroup, Path("/cache/kube"))


def flags(index: int, component: str) -> dict[str, str]:
    [process] = [process for process in config.processes(layout(index)) if process["name"] == component]
    pairs = [argument.removeprefix("--").partition("=") for argument in process["argv"][2:]]
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("index", [0, 1])
def test_no_file_names_anything_of_the_other_cluster(index: int) -> None:
    own, other = layout(index), layout(1 - index)
    texts = [config.containerd(own), config.cni(own.subnets), config.kubelet(own), config.corefile(own)]
    text = "\n".join([*texts, json.dumps(config.processes(own))])
    foreign = [str(other.state), other.cgroup, *map(str, (other.subnets.node_address, other.subnets.pods))]
    assert [word for word in [*foreign, str(other.subnets.services)] if word in text] == []


def test_names_on_the_host_differ_by_folder_and_fit_an_interface() -> None:
    one, two = (BareNode(state) for state in STATES)
    assert one.interface != two.interface
    assert one.cgroup != two.cgroup
    assert len(one.interface) <= 15


def test_the_kubelet_has_a_cgroup_root_of_its_own_and_cluster_dns_on_the_node() -> None:
    kubelet = json.loads(config.kubelet(layout(1)))
    assert kubelet["cgroupRoot"] == f"/{BareNode(STATES[1]).cgroup}"
    assert kubelet["cgroupDriver"] == "cgroupfs"
    assert kubelet["failCgroupV1"] is False
    assert kubelet["clusterDNS"] == ["10.250.1.2"]


def test_addresses_of_the_cluster_are_in_the_components_flags() -> None:
    assert flags(1, "kube-apiserver")["service-cluster-ip-range"] == "10.201.0.0/16"
    assert flags(1, "kube-apiserver")["advertise-address"] == "10.250.1.2"
    assert flags(1, "kube-proxy")["cluster-cidr"] == "10.161.0.0/16"
    assert json.loads(config.cni(Subnets(1)))["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.161.0.0/16"}]]


def test_the_apiserver_is_certified_for_its_address_and_for_its_service() -> None:
    [apiserver] = [c for c in config.certificates(Subnets(1)) if c.file == "apiserver"]
    settings = pki.settings(apiserver)
    for name in ("DNS:kubernetes.default.svc", "IP:10.250.1.2", "IP:10.201.0.1", "IP:127.0.0.1"):
        assert name in settings


def test_only_the_authority_may_sign() -> None:
    assert "CA:TRUE" in pki.settings(pki.Certificate("ca", "ca"), authority=True)
    assert "CA:TRUE" not in pki.settings(pki.Certificate("admin", "kubernetes-admin", "system:masters"))


def test_the_audit_log_leaves_out_the_stage_before_the_work_and_reads_and_leases_of_all_but_the_operator() -> None:
    policy = json.loads(config.audit_policy())
    assert policy["omitStages"] == ["RequestReceived"]
    of_the_operator, reads, leases, others = policy["rules"]
    assert of_the_operator == {"level": "Metadata", "userGroups": ["system:serviceaccounts:agentos-system"]}
    assert reads == {"level": "None", "verbs": ["get", "list", "watch"]}
    assert leases["resources"] == [{"group": "coordination.k8s.io", "resources": ["leases"]}]
    assert others == {"level": "Metadata"}


def test_only_what_the_apiserver_needs_starts_before_it_is_ready() -> None:
    early = [process["name"] for process in config.processes(layout(0)) if not process["needs_api"]]
    assert early == ["containerd", "etcd", "kube-apiserver"]


V1 = """tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n/dev/vda / ext4 rw 0 0\n"


def test_with_cgroup_v1_every_hierarchy_gets_a_group() -> None:
    assert cgroups.hierarchies(V1) == [Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup/memory")]


def test_with_cgroup_v2_alone_the_one_tree_gets_a_group() -> None:
    assert cgroups.hierarchies(V2) == [Path("/sys/fs/cgroup")]


def test_a_machine_without_cgroups_has_no_hierarchy() -> None:
    assert cgroups.hierarchies("/dev/vda / ext4 rw 0 0\n") == []
