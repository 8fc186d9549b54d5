"""NamespaceReady: the spec is sound, and the namespace is this Realm's or free to take."""

from collections.abc import Mapping
from typing import Any

from agentos_contracts.findings import Finding, error, errors
from agentos_contracts.reasons import (
    NAMESPACE_MISSING,
    NAMESPACE_READY,
    NAMESPACE_TAKEN,
    NAMESPACE_TERMINATING,
    REALM_INVALID,
)

from ...kinds import owned_by
from ...settings import FIELD_MANAGER, MANAGED_BY_LABEL, REALM_LABEL
from ..conditions import Verdict
from .snapshot import RealmInput


def namespace_ready(i: RealmInput) -> Verdict:
    """The spec is sound, and the namespace is this Realm's or free to take."""
    if found := errors(i.findings):
        return Verdict(False, REALM_INVALID, "; ".join(str(finding) for finding in found))
    name = i.realm["spec"]["namespace"]
    if i.rival:
        return Verdict(
            False,
            NAMESPACE_TAKEN,
            f"namespace {name} belongs to Realm {i.rival}; give this Realm another spec.namespace",
        )
    if i.namespace is not None and i.namespace["metadata"].get("deletionTimestamp"):
        return Verdict(False, NAMESPACE_TERMINATING, f"namespace {name} is being deleted; wait until it is gone")
    if i.namespace is None and not i.makes_namespaces:
        return Verdict(
            False,
            NAMESPACE_MISSING,
            f"namespace {name} is not there, or the operator has no rights in it; make it, then repeat helm upgrade, "
            "which brings the rights",
        )
    return Verdict(True, NAMESPACE_READY)


def own_namespace(realm: Mapping[str, Any], operators: str) -> list[Finding]:
    """An error when a Realm wants the operator's namespace: Workers there could read the key that signs identities."""
    spec = realm.get("spec")
    if not isinstance(spec, Mapping) or spec.get("namespace") != operators:
        return []
    message = f"{operators} is the operator's own, with the key that signs identities; give the Realm another namespace"
    return [error("spec.namespace", "Reserved", message)]


def namespace_is_right(i: RealmInput) -> bool:
    """Whether the namespace is there and marked, and goes with the Realm just when it should."""
    if i.namespace is None:
        return False
    labels, name = i.namespace["metadata"].get("labels", {}), i.realm["metadata"]["name"]
    if labels.get(REALM_LABEL) != name:
        return False
    made_here = labels.get(MANAGED_BY_LABEL) == FIELD_MANAGER
    wanted = made_here and i.realm["spec"].get("deletionPolicy") == "Delete"
    return owned_by(i.namespace, i.realm["metadata"]["uid"]) == wanted
