"""The kind branch: what it would run. (The cluster itself needs a Docker engine.)"""

import json
from pathlib import Path

import pytest

from tests.cluster import kind
from tests.cluster.command import ClusterError
from tests.cluster.tools import Tools

TOOLS = Tools(kubectl=Path("/cache/kubectl"), helm=Path("/cache/helm"), kind=Path("/cache/kind"))
KUBECONFIG = Path("/state/kubeconfig")


def test_the_configuration_is_one_control_plane_node() -> None:
    configuration = json.loads(kind.configuration())
    assert configuration["kind"] == "Cluster"
    assert configuration["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    assert configuration["nodes"] == [{"role": "control-plane"}]


def test_creating_waits_for_the_node_and_leaves_the_users_kubeconfig_alone() -> None:
    command = kind.create_command(TOOLS, "agentos", Path("/state/kind.yaml"), KUBECONFIG)
    expected = "/cache/kind create cluster --name agentos --config /state/kind.yaml --kubeconfig /state/kubeconfig"
    assert " ".join(command) == f"{expected} --wait 180s"


def test_deleting_names_the_cluster_and_its_kubeconfig() -> None:
    command = kind.delete_command(TOOLS, "agentos", KUBECONFIG)
    assert " ".join(command) == "/cache/kind delete cluster --name agentos --kubeconfig /state/kubeconfig"


def test_loading_an_image_names_the_cluster() -> None:
    command = kind.load_command(TOOLS, "agentos", "localhost/agentos:0.1.0")
    assert " ".join(command) == "/cache/kind load docker-image localhost/agentos:0.1.0 --name agentos"


def fake_kubectl(folder: Path, script: str) -> Tools:
    program = folder / "kubectl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Tools(kubectl=program, helm=Path("/cache/helm"))


def test_a_service_is_reached_by_one_port_forward_that_is_used_again_and_ended_by_its_record(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    script = f'echo "$@" >> {calls}; echo "Forwarding from 127.0.0.1:40123 -> 3111"; exec sleep 60'
    tools = fake_kubectl(tmp_path, script)
    node = kind.KindNode(tmp_path)
    assert node.forward(tools, "default", "engine", 3111) == "127.0.0.1:40123"
    assert node.forward(tools, "default", "engine", 3111) == "127.0.0.1:40123"
    arguments = f"port-forward --kubeconfig {tmp_path}/kubeconfig --namespace default --address 127.0.0.1"
    assert calls.read_text() == f"{arguments} service/engine :3111\n"
    process = kind.Process.read(tmp_path / "forward-default-engine-3111.pid")
    assert process is not None
    assert process.alive()
    process.kill()
    assert not process.alive()


def test_a_port_forward_that_fails_says_what_kubectl_said(tmp_path: Path) -> None:
    tools = fake_kubectl(tmp_path, 'echo "services \\"engine\\" not found" >&2; exit 1')
    with pytest.raises(ClusterError, match=r'default/engine port 3111: .*services "engine" not found'):
        kind.KindNode(tmp_path).forward(tools, "default", "engine", 3111)
