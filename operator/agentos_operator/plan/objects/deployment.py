"""A Worker's Deployment."""

from urllib.parse import quote

from agentos_contracts.effective import Effective
from agentos_contracts.pod_template import WORKER_CONTAINER
from agentos_contracts.scaling import drain_seconds

from ...kinds import Object
from ...settings import BUS_PORT, REGISTERED_GATE, REPLICAS_FROM_ANNOTATION, WORKER_UID_LABEL
from .metadata import (
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    TMP_MOUNT,
    TMP_VOLUME,
    engine_host,
    pruned,
    seal,
    worker_labels,
    worker_metadata,
)
from .template import with_templates
from .worker import token_secret_name

TIME_TO_END = 30
"""Seconds that a going pod has to end by itself, after the time for its calls in progress."""


def worker_deployment(
    worker: Object, realm: str, effective: Effective, token_hash: str, replicas: int, replicas_from: str
) -> Object:
    """The worker's pods: a container that is told its engine's address with its own token in it, and what templates add.

    ``replicas_from`` is what the Worker says on the number of pods: kept, so that a change of it is noticed.
    """
    metadata, spec = worker["metadata"], worker["spec"]
    name, namespace = metadata["name"], metadata["namespace"]
    own_env = [
        {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": token_secret_name(name), "key": "token"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "III_URL", "value": _engine_url(namespace, effective.version)},
        {"name": "III_WORKER_NAME", "value": name},
    ]
    if not any(variable["name"] == "HOME" for variable in effective.env):
        own_env.append({"name": "HOME", "value": "/tmp"})  # noqa: S108 (the pod's own emptyDir)
    container = {
        "name": WORKER_CONTAINER,
        "image": effective.image,
        "imagePullPolicy": "IfNotPresent",
        "command": effective.command,
        "args": effective.args,
        "env": own_env + list(effective.env),
        "envFrom": list(spec.get("envFrom", ())),
        "resources": dict(effective.resources),
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [TMP_MOUNT],
    }
    if seconds := drain_seconds(spec):
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": seconds}}}
    labels = worker_labels(worker, realm)
    pod = {
        "metadata": {
            "labels": labels,
            "annotations": {
                "agentos.dev/token-hash": token_hash,
                # Of several containers the one that kubectl logs and exec take.
                "kubectl.kubernetes.io/default-container": WORKER_CONTAINER,
            },
        },
        "spec": {
            "serviceAccountName": spec.get("serviceAccountName") or name,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": effective.image_pull_secrets,
            "securityContext": RESTRICTED_POD,
            "terminationGracePeriodSeconds": seconds + TIME_TO_END,
            "readinessGates": [{"conditionType": REGISTERED_GATE}],
            "containers": [container],
            "volumes": [TMP_VOLUME],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": worker_metadata(worker, realm) | {"annotations": {REPLICAS_FROM_ANNOTATION: replicas_from}},
        "spec": {
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {WORKER_UID_LABEL: metadata["uid"]}},
            # An old pod stays until the new one answers on the bus: that is what the readiness gate says.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        },
    }
    deployment = pruned(deployment)
    deployment["spec"]["template"] = with_templates(pruned(pod), effective.templates)
    sealed = seal(deployment)
    # Not part of the hash: it changes by itself, and is compared by itself.
    sealed["spec"]["replicas"] = replicas
    return sealed


def _engine_url(namespace: str, version: str | None) -> str:
    """Where a worker finds its engine; the path says who it is, in which pod and in which version."""
    suffix = f"@{quote(version, safe='+')}" if version else ""
    return f"ws://{engine_host(namespace)}:{BUS_PORT}/w/$(AGENTOS_TOKEN)/$(POD_UID){suffix}"
