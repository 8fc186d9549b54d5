"""The objects that a Worker and a Realm are made of, as JSON. Everything passes Pod Security "restricted"."""

import base64
import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from agentos_contracts.effective import Effective
from agentos_contracts.realm import API_KEY_FIELD, API_KEY_SECRET, DEFAULT_HTTP_AUTH
from agentos_contracts.worker import ENGINE_NAME, TOKEN_SECRET_PREFIX

from ..kinds import Object
from ..settings import (
    ADMIN_PORT,
    APPLIED_HASH_ANNOTATION,
    BUS_PORT,
    CONSOLE_PORT,
    FIELD_MANAGER,
    HTTP_PORT,
    MANAGED_BY_LABEL,
    REALM_LABEL,
    REGISTERED_GATE,
    STREAM_PORT,
    WORKER_LABEL,
    WORKER_UID_LABEL,
)

RESTRICTED_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
TMP_VOLUME, TMP_MOUNT = {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}, {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108
API_KEY_MOUNT = "/etc/agentos/api-key"
ENGINE_UID = 65532
"""The image's user; an engine's volume is made writable for its group."""


def engine_host(namespace: str) -> str:
    """Name by which a realm's engine is reached from the whole cluster."""
    return f"{ENGINE_NAME}.{namespace}.svc"


def token_secret_name(worker: str) -> str:
    return f"{TOKEN_SECRET_PREFIX}{worker}"


def owner_references(owner: Object) -> list[dict[str, Any]]:
    """By which an object is its owner's alone, and goes with it."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def seal(obj: Object) -> Object:
    """Adds the hash of the whole object, by which a change of what is wanted is noticed (the hash itself not counted)."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    annotations = obj["metadata"].setdefault("annotations", {})
    annotations[APPLIED_HASH_ANNOTATION] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return obj


def applied_hash(obj: Mapping[str, Any]) -> str:
    """The hash that :func:`seal` gave an object; empty when it has none."""
    return obj.get("metadata", {}).get("annotations", {}).get(APPLIED_HASH_ANNOTATION, "")


def pruned(value: Any) -> Any:
    """Without the empty lists, maps, texts and nulls that the API server would drop, so that wanted and actual compare."""
    if isinstance(value, Mapping):
        items = ((key, pruned(item)) for key, item in value.items())
        # emptyDir: {} means something, unlike other empty maps.
        return {key: item for key, item in items if key == "emptyDir" or item not in (None, {}, [], "")}
    if isinstance(value, list | tuple):
        return [pruned(item) for item in value]
    return value


# --- Worker ---


def worker_labels(worker: Object, realm: str) -> dict[str, str]:
    name = worker["metadata"]["name"]
    return {
        "app.kubernetes.io/name": name,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        REALM_LABEL: realm,
        WORKER_LABEL: name,
        WORKER_UID_LABEL: worker["metadata"]["uid"],
    }


def _worker_metadata(worker: Object, realm: str, name: str | None = None) -> dict[str, Any]:
    return {
        "name": name or worker["metadata"]["name"],
        "namespace": worker["metadata"]["namespace"],
        "labels": worker_labels(worker, realm),
        "ownerReferences": owner_references(worker),
    }


def worker_service_account(worker: Object, realm: str) -> Object:
    """An account with no rights; its token is not mounted."""
    return seal(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _worker_metadata(worker, realm),
            "automountServiceAccountToken": False,
        }
    )


def worker_token_secret(worker: Object, realm: str, token: str) -> Object:
    """The worker's identity on the bus; deleting the Worker deletes it."""
    metadata = _worker_metadata(worker, realm, token_secret_name(worker["metadata"]["name"]))
    data = {"token": base64.b64encode(token.encode()).decode()}
    return seal(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": data,
        }
    )


def _engine_url(namespace: str, version: str | None) -> str:
    """Where a worker finds its engine; the path says who it is, in which pod and in which version."""
    suffix = f"@{quote(version, safe='+')}" if version else ""
    return f"ws://{engine_host(namespace)}:{BUS_PORT}/w/$(AGENTOS_TOKEN)/$(POD_UID){suffix}"


def worker_deployment(worker: Object, realm: str, effective: Effective, token_hash: str) -> Object:
    """The worker's pods: one container that is told its engine's address with its own token in it."""
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
        "name": "worker",
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
    labels = worker_labels(worker, realm)
    pod = {
        "metadata": {"labels": labels, "annotations": {"agentos.dev/token-hash": token_hash}},
        "spec": {
            "serviceAccountName": spec.get("serviceAccountName") or name,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": list(spec.get("imagePullSecrets", ())),
            "securityContext": RESTRICTED_POD,
            "readinessGates": [{"conditionType": REGISTERED_GATE}],
            "containers": [container],
            "volumes": [TMP_VOLUME],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _worker_metadata(worker, realm),
        "spec": {
            "replicas": spec.get("replicas", 1),
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {WORKER_UID_LABEL: metadata["uid"]}},
            # An old pod stays until the new one answers on the bus: that is what the readiness gate says.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": pod,
        },
    }
    return seal(pruned(deployment))


# --- Realm ---


def realm_labels(realm: Object) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": ENGINE_NAME,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        REALM_LABEL: realm["metadata"]["name"],
    }


def _realm_metadata(realm: Object) -> dict[str, Any]:
    return {
        "name": ENGINE_NAME,
        "namespace": realm["spec"]["namespace"],
        "labels": realm_labels(realm),
        "ownerReferences": owner_references(realm),
    }


def realm_namespace(realm: Object) -> Object:
    """The namespace, for a Realm that has to make it. With ``deletionPolicy: Delete`` it goes with the Realm."""
    metadata: dict[str, Any] = {"name": realm["spec"]["namespace"], "labels": realm_labels(realm)}
    if realm["spec"].get("deletionPolicy") == "Delete":
        metadata["ownerReferences"] = owner_references(realm)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def engine_service_account(realm: Object) -> Object:
    return seal(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _realm_metadata(realm),
            "automountServiceAccountToken": False,
        }
    )


def engine_service(realm: Object) -> Object:
    """Bus, REST, streams and health of the engine."""
    ports = [("bus", BUS_PORT), ("http", HTTP_PORT), ("stream", STREAM_PORT), ("admin", ADMIN_PORT)]
    return seal(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _realm_metadata(realm),
            "spec": {
                "type": "ClusterIP",
                "selector": {"app.kubernetes.io/name": ENGINE_NAME, REALM_LABEL: realm["metadata"]["name"]},
                "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
            },
        }
    )


def api_key_secret(realm: Object) -> Object:
    """The Secret of the REST port's key, without the key. With ``deletionPolicy: Delete`` it goes with the Realm."""
    metadata = _realm_metadata(realm) | {"name": API_KEY_SECRET}
    if realm["spec"].get("deletionPolicy") != "Delete":
        del metadata["ownerReferences"]
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}


def http_auth(realm: Object) -> dict[str, Any]:
    """What the engine is told of who is let in at its REST port: ``spec.http``, and where the key is if one is asked for."""
    http = realm["spec"].get("http") or {}
    told: dict[str, Any] = {"auth": http.get("auth") or DEFAULT_HTTP_AUTH}
    told |= {part: http[part] for part in ("jwt", "routes") if http.get(part)}
    if "apiKey" in (told["auth"], *(route["auth"] for route in told.get("routes", ()))):
        told["apiKeysFile"] = f"{API_KEY_MOUNT}/{API_KEY_FIELD}"
    return told


def engine_statefulset(
    realm: Object, image: str, verify_keys: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Object:
    """The realm's engine: one pod, with a volume when ``spec.engine.storage`` asks for one.

    ``environment``: variables besides those that it needs.
    """
    engine = realm["spec"].get("engine", {})
    storage = engine.get("storage")
    auth = http_auth(realm)
    # The whole Secret, as a folder: a file mounted by itself would not follow a change of the key.
    keys_volume = {"name": "api-key", "secret": {"secretName": API_KEY_SECRET, "defaultMode": 0o440, "optional": False}}
    keys_mount = {"name": "api-key", "mountPath": API_KEY_MOUNT, "readOnly": True}
    asks_for_key = "apiKeysFile" in auth
    probe = {
        "httpGet": {"path": "/readyz", "port": "admin"},
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 2,
    }
    container = {
        "name": "engine",
        "image": engine.get("image") or image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["agentos-engine"],
        "env": [
            {"name": "AGENTOS_HOST", "value": "0.0.0.0"},  # noqa: S104 (a pod's own address)
            {"name": "AGENTOS_REALM", "value": realm["metadata"]["name"]},
            {"name": "AGENTOS_VERIFY_KEYS", "value": verify_keys},
            {"name": "AGENTOS_DATA_DIR", "value": "/data"},
            {"name": "AGENTOS_CONSOLE_PORT", "value": str(CONSOLE_PORT)},
            # In a variable of a pod $(NAME) means another variable, and $$ a dollar.
            {"name": "AGENTOS_HTTP_AUTH", "value": json.dumps(auth, sort_keys=True).replace("$", "$$")},
            *({"name": name, "value": value.replace("$", "$$")} for name, value in sorted(environment.items())),
        ],
        "ports": [
            {"name": "bus", "containerPort": BUS_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "stream", "containerPort": STREAM_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": probe,
        "livenessProbe": probe
        | {"httpGet": {"path": "/healthz", "port": "admin"}, "periodSeconds": 10, "failureThreshold": 3},
        "resources": engine.get("resources")
        or {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            TMP_MOUNT,
            *([keys_mount] if asks_for_key else ()),
        ],
    }
    labels = realm_labels(realm)
    spec: dict[str, Any] = {
        "replicas": 1,
        "serviceName": ENGINE_NAME,
        # The default policy does not replace a pod that never became ready, so a mended Realm would stay broken.
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app.kubernetes.io/name": ENGINE_NAME, REALM_LABEL: realm["metadata"]["name"]}},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": ENGINE_NAME,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": RESTRICTED_POD | {"runAsUser": ENGINE_UID, "fsGroup": ENGINE_UID},
                "containers": [container],
                "volumes": [
                    TMP_VOLUME,
                    *([keys_volume] if asks_for_key else ()),
                    *([] if storage else [{"name": "data", "emptyDir": {}}]),
                ],
            },
        },
    }
    if storage:
        retention = "Delete" if realm["spec"].get("deletionPolicy") == "Delete" else "Retain"
        spec["persistentVolumeClaimRetentionPolicy"] = {"whenDeleted": retention, "whenScaled": "Retain"}
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": str(storage["size"])}},
            "storageClassName": storage.get("storageClassName"),
        }
        spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    statefulset = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": _realm_metadata(realm), "spec": spec}
    return seal(pruned(statefulset))
