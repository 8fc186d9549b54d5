"""The kinds that the operator reads or writes, and the REST paths of their objects."""

import re
from dataclasses import dataclass
from typing import Any

_SAFE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?|", re.ASCII)
"""What a part of a path may be; empty stands for none. RBAC's names have colons."""

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of resource; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """REST path of the collection (no name), of one object, or of its subresource.

        ValueError for a name that would lead elsewhere: names may come from what people write, and the operator may read
        more than they.
        """
        for part in (namespace, name):
            if part is not None and not _SAFE_NAME.fullmatch(part):
                raise ValueError(f"{part!r} is no name of an object")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


WORKER = Kind("agentos.dev", "v1alpha1", "workers", "Worker")
REALM = Kind("agentos.dev", "v1alpha1", "realms", "Realm", namespaced=False)
CLAIM = Kind("agentos.dev", "v1alpha1", "functionclaims", "FunctionClaim")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
STATEFULSET = Kind("apps", "v1", "statefulsets", "StatefulSet")
DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
POD = Kind("", "v1", "pods", "Pod")
SERVICE = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
PERSISTENT_VOLUME_CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
INGRESS = Kind("networking.k8s.io", "v1", "ingresses", "Ingress")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAY = Kind("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
EVENT = Kind("events.k8s.io", "v1", "events", "Event")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
VALIDATING_WEBHOOK = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)

KINDS = {
    kind.kind: kind
    for kind in (
        WORKER, REALM, CLAIM, DEPLOYMENT, STATEFULSET, DISRUPTION_BUDGET, POD, SERVICE, SERVICE_ACCOUNT, SECRET, CONFIG_MAP,
        NAMESPACE, EVENT, LEASE, VALIDATING_WEBHOOK, NETWORK_POLICY, INGRESS, HTTP_ROUTE, GATEWAY,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one object: what the work queue holds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return (
            f"{self.kind.lower()}/{self.namespace}/{self.name}"
            if self.namespace
            else f"{self.kind.lower()}/{self.name}"
        )


def key_of(obj: Object) -> Key:
    """The key of an object that carries its kind."""
    metadata = obj["metadata"]
    return Key(obj["kind"], metadata.get("namespace", ""), metadata["name"])


def owned_by(obj: Object, uid: str) -> bool:
    """Whether the object's controlling owner has this uid."""
    return any(ref.get("uid") == uid and ref.get("controller") for ref in obj["metadata"].get("ownerReferences", ()))
