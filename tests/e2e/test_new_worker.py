"""From `agentos new worker` to a pod whose functions answer: the folder that runs on a laptop runs here, unchanged."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import demo
from tests.cluster import Cluster, image
from tests.cluster.node import BareNode
from tests.e2e.support import NAMESPACE, get, until_ready

pytestmark = pytest.mark.cluster

COMMAND = Path(sys.executable).with_name("agentos")
Run = Callable[..., str]


@pytest.fixture
def agentos(tmp_path: Path) -> Run:
    """Run the real command in a folder of its own, with the images at hand that were built for the cluster."""
    environment = {**os.environ, **image.build_environment()}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [COMMAND, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def deploy(agentos: Run, cluster: Cluster, tmp_path: Path) -> Callable:
    """Build a worker's folder, give the image to the node, render the Worker and apply it: what an author does."""

    def act(name: str, *build_arguments: str) -> str:
        reference = agentos("build", name, *build_arguments)
        if isinstance(cluster.node, BareNode):
            archive = tmp_path / f"{name}.tar"
            image.export(reference, archive)
            cluster.node.import_archive(archive)
        else:
            cluster.load_image(reference)
        cluster.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=agentos("render", name))
        until_ready(cluster, name)
        return f"http://{cluster.service_address(NAMESPACE, 'agentos-engine', demo.HTTP_PORT)}/{name}"

    return act


def test_a_new_python_worker_answers_in_the_cluster(agentos: Run, deploy: Callable, cluster: Cluster) -> None:
    agentos("new", "worker", "tea-house")
    url = deploy("tea-house")
    assert demo.post(f"{url}/greet", {"name": "Ada"}, demo.api_key(cluster)) == {"message": "Hello, Ada!"}
    status = get(cluster, "worker", "tea-house")["status"]
    assert status["functions"] == ["tea-house::count", "tea-house::greet", "tea-house::total"]


def test_a_new_node_worker_answers_in_the_cluster(agentos: Run, deploy: Callable, cluster: Cluster) -> None:
    agentos("new", "worker", "tea-room", "--language", "node")
    url = deploy("tea-room", "--build-arg", f"BASE={image.node_image()}")
    assert demo.post(f"{url}/greet", {"name": "Ada"}, demo.api_key(cluster)) == {"message": "Hello, Ada!"}


def test_a_worker_without_a_dockerfile_answers_in_the_cluster(
    agentos: Run, deploy: Callable, cluster: Cluster, tmp_path: Path
) -> None:
    agentos("new", "worker", "tea-shop")
    folder = tmp_path / "tea-shop"
    (folder / "Dockerfile").unlink()
    with (folder / "iii.worker.yaml").open("a") as manifest:
        manifest.write(f"runtime:\n  base_image: {image.project_image()}\n")
    url = deploy("tea-shop")
    assert demo.post(f"{url}/greet", {"name": "Ada"}, demo.api_key(cluster)) == {"message": "Hello, Ada!"}
