"""A realm's REST port outside the cluster: an Ingress, or an HTTPRoute of the Gateway API."""

from typing import Any

from agentos_contracts.worker import ENGINE_NAME

from ...kinds import Object
from ...settings import HTTP_PORT
from .metadata import realm_metadata, seal


def exposure(realm: Object) -> dict[str, Any]:
    """``spec.http.expose`` where it asks for something; else empty."""
    expose = (realm["spec"].get("http") or {}).get("expose") or {}
    return expose if expose.get("type", "None") != "None" else {}


def http_ingress(realm: Object) -> Object:
    """The Ingress of a realm that asks for one."""
    expose = exposure(realm)
    own: dict[str, Any] = expose.get("ingress") or {}
    backend = {"service": {"name": ENGINE_NAME, "port": {"number": HTTP_PORT}}}
    path = {"path": expose.get("path", "/"), "pathType": "Prefix", "backend": backend}
    spec: dict[str, Any] = {"rules": [{"host": expose["host"], "http": {"paths": [path]}}]}
    if own.get("className"):
        spec["ingressClassName"] = own["className"]
    if own.get("tlsSecretName"):
        spec["tls"] = [{"hosts": [expose["host"]], "secretName": own["tlsSecretName"]}]
    metadata = realm_metadata(realm) | ({"annotations": dict(own["annotations"])} if own.get("annotations") else {})
    return seal({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec})


def http_route(realm: Object) -> Object:
    """The HTTPRoute of a realm that asks for one."""
    expose = exposure(realm)
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": expose.get("path", "/")}}],
        "backendRefs": [{"name": ENGINE_NAME, "port": HTTP_PORT}],
    }
    parent = {
        name: expose["gateway"][name] for name in ("name", "namespace", "sectionName") if expose["gateway"].get(name)
    }
    return seal(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": realm_metadata(realm),
            "spec": {"parentRefs": [parent], "hostnames": [expose["host"]], "rules": [rule]},
        }
    )
