"""A Worker's Deployment."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from agentos_contracts.drain import grace_seconds, lifecycle
from agentos_contracts.effective import Effective
from agentos_contracts.external_engine import TOKEN_PLACE
from agentos_contracts.pod_template import WORKER_CONTAINER
from agentos_contracts.scaling import drain_seconds

from ...kinds import Object
from ...settings import (
    BUS_PORT,
    REGISTERED_GATE,
    REPLICAS_FROM_ANNOTATION,
    TOKEN_HASH_ANNOTATION,
    WORKER_UID_LABEL,
)
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


def worker_deployment(
    worker: Object,
    realm: str,
    effective: Effective,
    token_hash: str,
    replicas: int,
    replicas_from: str,
    external: Mapping[str, Any] | None = None,
) -> Object:
    """The worker's pods: a container that is told its engine's address with its own token in it, and what templates add.

    ``replicas_from`` is what the Worker says on the number of pods: kept, so that a change of it is noticed.
    ``external``: ``spec.engine`` of a Realm whose engine somebody else runs.
    """
    metadata, spec = worker["metadata"], worker["spec"]
    name = metadata["name"]
    own_env = _engine_env(worker, effective.version, external)
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
        "lifecycle": lifecycle(drain_seconds(spec)),
    }
    labels = worker_labels(worker, realm)
    pod = {
        "metadata": {
            "labels": labels,
            "annotations": {
                TOKEN_HASH_ANNOTATION: token_hash,
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
            "terminationGracePeriodSeconds": grace_seconds(drain_seconds(spec)),
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


def _engine_env(worker: Object, version: str | None, external: Mapping[str, Any] | None) -> list[Object]:
    """Where a worker finds its engine, and by which name the operator finds the worker there."""
    name, namespace = worker["metadata"]["name"], worker["metadata"]["namespace"]
    pod_uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}}
    if external is None:
        return [
            _token(token_secret_name(name), "token"),
            pod_uid,
            {"name": "III_URL", "value": _engine_url(namespace, version)},
            {"name": "III_WORKER_NAME", "value": name},
        ]
    # Without III_WORKER_NAME: by the name that an SDK gives itself the operator knows the pod.
    reference = external.get("tokenSecretRef")
    token = [_token(reference["name"], reference.get("key", "token"))] if reference else []
    return [*token, pod_uid, {"name": "III_URL", "value": external["url"].replace(TOKEN_PLACE, "$(AGENTOS_TOKEN)")}]


def _token(secret: str, key: str) -> Object:
    return {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _engine_url(namespace: str, version: str | None) -> str:
    """Where a worker finds its engine; the path says who it is, in which pod and in which version."""
    suffix = f"@{quote(version, safe='+')}" if version else ""
    return f"ws://{engine_host(namespace)}:{BUS_PORT}/w/$(AGENTOS_TOKEN)/$(POD_UID){suffix}"
