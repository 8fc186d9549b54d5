"""What the objects of Workers and Realms share: names, labels, owners, the hash of what was applied."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from agentos_contracts.worker import ENGINE_NAME

from ...kinds import Object
from ...settings import (
    APPLIED_HASH_ANNOTATION,
    BUS_PORT,
    FIELD_MANAGER,
    MANAGED_BY_LABEL,
    REALM_LABEL,
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


def engine_host(namespace: str) -> str:
    """Name by which a realm's engine is reached from the whole cluster."""
    return f"{ENGINE_NAME}.{namespace}.svc"


def engine_address(namespace: str, external: Mapping[str, Any] | None) -> str:
    """Where a realm's engine is, for people; ``external``: the ``spec.engine`` of one that somebody else runs."""
    return external["url"] if external else f"{engine_host(namespace)}:{BUS_PORT}"


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


def worker_labels(worker: Object, realm: str) -> dict[str, str]:
    name = worker["metadata"]["name"]
    return {
        "app.kubernetes.io/name": name,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        REALM_LABEL: realm,
        WORKER_LABEL: name,
        WORKER_UID_LABEL: worker["metadata"]["uid"],
    }


def worker_metadata(worker: Object, realm: str, name: str | None = None) -> dict[str, Any]:
    return {
        "name": name or worker["metadata"]["name"],
        "namespace": worker["metadata"]["namespace"],
        "labels": worker_labels(worker, realm),
        "ownerReferences": owner_references(worker),
    }


def realm_labels(realm: Object) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": ENGINE_NAME,
        MANAGED_BY_LABEL: FIELD_MANAGER,
        REALM_LABEL: realm["metadata"]["name"],
    }


def realm_metadata(realm: Object) -> dict[str, Any]:
    return {
        "name": ENGINE_NAME,
        "namespace": realm["spec"]["namespace"],
        "labels": realm_labels(realm),
        "ownerReferences": owner_references(realm),
    }
