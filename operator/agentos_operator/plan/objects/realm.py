"""A Realm's namespace and the Secret of its REST port."""

from typing import Any

from agentos_contracts.reserved import API_KEY_SECRET

from ...kinds import Object
from .metadata import owner_references, realm_labels, realm_metadata


def realm_namespace(realm: Object) -> Object:
    """The namespace, for a Realm that has to make it. With ``deletionPolicy: Delete`` it goes with the Realm."""
    metadata: dict[str, Any] = {"name": realm["spec"]["namespace"], "labels": realm_labels(realm)}
    if realm["spec"].get("deletionPolicy") == "Delete":
        metadata["ownerReferences"] = owner_references(realm)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def api_key_secret(realm: Object) -> Object:
    """The Secret of the REST port's key, without the key. With ``deletionPolicy: Delete`` it goes with the Realm."""
    metadata = realm_metadata(realm) | {"name": API_KEY_SECRET}
    if realm["spec"].get("deletionPolicy") != "Delete":
        del metadata["ownerReferences"]
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
