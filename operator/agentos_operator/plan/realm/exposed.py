"""Exposed: the REST port is reached from outside the cluster, where the Realm asks for that."""

from typing import Any

from agentos_contracts.reasons import ADDRESS_PENDING, EXPOSED, GATEWAY_API_MISSING, NOT_EXPOSED, ROUTE_REFUSED

from ...kinds import Object
from ..conditions import Verdict
from ..objects.exposure import exposure
from .snapshot import RealmInput


def exposed(i: RealmInput) -> Verdict:
    """What the controller of the Ingress or the Gateway tells. One that tells nothing does not keep a Realm from being Ready."""
    expose = exposure(i.realm)
    if not expose:
        return Verdict(True, NOT_EXPOSED)
    if expose["type"] == "Gateway":
        if not i.gateway_api:
            return Verdict(
                False,
                GATEWAY_API_MISSING,
                "the cluster has no HTTPRoutes: install the Gateway API's CRDs and a controller, or set "
                "spec.http.expose.type to Ingress",
            )
        if refusal := _route_refusal(i.exposed or {}):
            return Verdict(False, ROUTE_REFUSED, f"Gateway {_gateway(i.realm)} does not take the HTTPRoute: {refusal}")
    if url := address(i):
        return Verdict(True, EXPOSED, url)
    if expose["type"] == "Gateway":
        made, by = "HTTPRoute", f"Gateway {_gateway(i.realm)}"
    else:
        made, by = "Ingress", _class(expose)
    return Verdict(True, ADDRESS_PENDING, f"no controller has told yet that it serves the {made} ({by})")


def address(i: RealmInput) -> str:
    """URL from outside the cluster, once a controller serves it; else empty."""
    expose = exposure(i.realm)
    if not expose or i.exposed is None:
        return ""
    status = i.exposed.get("status", {})
    if expose["type"] == "Ingress":
        served = bool((status.get("loadBalancer") or {}).get("ingress"))
        secure = bool((expose.get("ingress") or {}).get("tlsSecretName"))
    else:
        served = any(_condition(parent, "Accepted").get("status") == "True" for parent in status.get("parents", ()))
        secure = _terminates_tls(i.gateway or {}, expose["gateway"].get("sectionName"))
    if not served:
        return ""
    return f"{'https' if secure else 'http'}://{expose['host']}{expose.get('path', '/')}"


def _route_refusal(route: Object) -> str:
    """A controller's words on why it does not take the route; empty when none refuses it."""
    told = [
        _condition(parent, kind)
        for parent in route.get("status", {}).get("parents", ())
        for kind in ("Accepted", "ResolvedRefs")
    ]
    refused = [each for each in told if each.get("status") == "False"]
    return "; ".join(f"{each.get('reason', '')}: {each.get('message', '')}" for each in refused)


def _terminates_tls(gateway: Object, section: str | None) -> bool:
    listeners = gateway.get("spec", {}).get("listeners", ())
    return any(each.get("protocol") == "HTTPS" for each in listeners if section in (None, each.get("name")))


def _condition(parent: Object, kind: str) -> dict[str, Any]:
    return next((each for each in parent.get("conditions", ()) if each.get("type") == kind), {})


def _gateway(realm: Object) -> str:
    gateway = exposure(realm)["gateway"]
    return f"{gateway.get('namespace') or realm['spec']['namespace']}/{gateway['name']}"


def _class(expose: Object) -> str:
    name = (expose.get("ingress") or {}).get("className")
    return f"IngressClass {name}" if name else "the default IngressClass"
