"""A Worker's PodDisruptionBudget."""

from ...kinds import Object
from ...settings import WORKER_UID_LABEL
from .metadata import seal, worker_metadata


def worker_disruption_budget(worker: Object, realm: str) -> Object:
    """One pod at a time goes when nodes are drained. Pods that are not ready anyway never hold up a node."""
    return seal(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": worker_metadata(worker, realm),
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": {WORKER_UID_LABEL: worker["metadata"]["uid"]}},
            },
        }
    )
