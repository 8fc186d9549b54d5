"""A Realm's engine: account, Service, StatefulSet."""

import base64
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agentos_contracts.realm import API_KEY_FIELD, API_KEY_SECRET, DEFAULT_HTTP_AUTH
from agentos_contracts.worker import ENGINE_NAME

from ...kinds import Object
from ...settings import ADMIN_PORT, BUS_PORT, CONSOLE_PORT, HTTP_PORT, REALM_LABEL, STREAM_PORT
from .metadata import (
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    TMP_MOUNT,
    TMP_VOLUME,
    pruned,
    realm_labels,
    realm_metadata,
    seal,
)

VERIFY_KEYS_SECRET, VERIFY_KEYS_FIELD = "agentos-verify-keys", "keys"
API_KEY_MOUNT = "/etc/agentos/api-key"
ENGINE_UID = 65532
"""The image's user; an engine's volume is made writable for its group."""


def engine_service_account(realm: Object) -> Object:
    return seal(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": realm_metadata(realm),
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
            "metadata": realm_metadata(realm),
            "spec": {
                "type": "ClusterIP",
                "selector": {"app.kubernetes.io/name": ENGINE_NAME, REALM_LABEL: realm["metadata"]["name"]},
                "ports": [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports],
            },
        }
    )


def verify_keys_secret(realm: Object, verify_keys: str) -> Object:
    """The public keys whose tokens the engine accepts from its start on; a Secret only because it must not be changed."""
    data = {VERIFY_KEYS_FIELD: base64.b64encode(verify_keys.encode()).decode()}
    metadata = realm_metadata(realm) | {"name": VERIFY_KEYS_SECRET}
    return seal({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data})


def http_auth(realm: Object) -> dict[str, Any]:
    """What the engine is told of who is let in at its REST port: ``spec.http``, and where the key is if one is asked for."""
    http = realm["spec"].get("http") or {}
    told: dict[str, Any] = {"auth": http.get("auth") or DEFAULT_HTTP_AUTH}
    told |= {part: http[part] for part in ("jwt", "routes") if http.get(part)}
    if "apiKey" in (told["auth"], *(route["auth"] for route in told.get("routes", ()))):
        told["apiKeysFile"] = f"{API_KEY_MOUNT}/{API_KEY_FIELD}"
    return told


def engine_statefulset(realm: Object, image: str, environment: Mapping[str, str] = MappingProxyType({})) -> Object:
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
            # From a Secret: a change of the keys is told to the engine that runs, and does not restart it.
            {
                "name": "AGENTOS_VERIFY_KEYS",
                "valueFrom": {"secretKeyRef": {"name": VERIFY_KEYS_SECRET, "key": VERIFY_KEYS_FIELD}},
            },
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
    statefulset = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": realm_metadata(realm), "spec": spec}
    return seal(pruned(statefulset))
