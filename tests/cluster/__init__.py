"""A real Kubernetes cluster for tests and demos: by kind where a Docker engine answers, else a bare node on this machine.

cluster = up("agentos")
cluster.kubectl("get", "nodes")
down("agentos")
"""

from tests.cluster.command import ClusterError
from tests.cluster.image import build_image
from tests.cluster.lifecycle import DEFAULT_NAME, Cluster, down, find, up
from tests.cluster.progress import Steps

__all__ = ["DEFAULT_NAME", "Cluster", "ClusterError", "Steps", "build_image", "down", "find", "up"]
