"""Who reaches a realm's pods over the network. Egress stays open: workers call the world."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentos_contracts.network import DEFAULT_PEER_PORTS
from agentos_contracts.worker import ENGINE_NAME

from ...kinds import Object
from ...settings import ADMIN_PORT, BUS_PORT, HTTP_PORT, REALM_LABEL, STREAM_PORT, WORKER_LABEL
from .metadata import realm_metadata, seal

PORTS = {"bus": BUS_PORT, "http": HTTP_PORT, "stream": STREAM_PORT, "metrics": ADMIN_PORT}
WORKERS_POLICY = "agentos-workers"
WORKERS = {"key": WORKER_LABEL, "operator": "Exists"}
"""Any Worker's pods: of one namespace, which is the realm."""

Peers = Sequence[Mapping[str, Any]]


def wanted(realm: Object) -> bool:
    """Whether the realm is to have NetworkPolicies."""
    return (realm["spec"].get("networkPolicy") or {}).get("enabled", True)


def engine_network_policy(realm: Object, operator: Peers | None, metrics: Peers) -> Object:
    """The engine's: its Workers, the operator, and those that the realm or the chart names, each on its ports.

    ``operator``: how the operator's pods are known; None where it runs outside the cluster, from an address that nobody
    knows: then the bus is open, and the token that it asks for is the guard. ``metrics``: who reads the metrics.
    A kubelet's probes and port-forward need no rule: they come from the pod's own node.
    """
    spec = realm["spec"]
    ingress = [_rule([{"podSelector": {"matchExpressions": [WORKERS]}}], "bus", "http", "stream")]
    if operator is None or operator:
        ingress.append(_rule(operator, "bus"))
    if metrics:
        ingress.append(_rule(metrics, "metrics"))
    expose = (spec.get("http") or {}).get("expose") or {}
    if expose.get("type", "None") != "None":
        ingress.append(_rule(expose.get("from"), "http"))
    for peer in (spec.get("networkPolicy") or {}).get("extraFrom") or ():
        choice = {name: value for name, value in peer.items() if name != "ports"}
        ingress.append(_rule([choice], *(peer.get("ports") or DEFAULT_PEER_PORTS)))
    engine = {"matchLabels": {"app.kubernetes.io/name": ENGINE_NAME, REALM_LABEL: realm["metadata"]["name"]}}
    return _policy(realm, ENGINE_NAME, engine, ingress)


def workers_network_policy(realm: Object) -> Object:
    """The Workers': nobody connects to their pods, they dial out."""
    return _policy(realm, WORKERS_POLICY, {"matchExpressions": [WORKERS]}, [])


def _rule(peers: Peers | None, *ports: str) -> Object:
    """Who may connect to these ports; None is everybody."""
    allowed = [{"protocol": "TCP", "port": PORTS[name]} for name in ports]
    return {"ports": allowed} if peers is None else {"from": [dict(peer) for peer in peers], "ports": allowed}


def _policy(realm: Object, name: str, pods: Object, ingress: list[Object]) -> Object:
    return seal(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": realm_metadata(realm) | {"name": name},
            "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress},
        }
    )
