"""Which traffic NetworkPolicies allow, as Kubernetes' documentation has it."""

import shutil
from typing import Any

import pytest

from tests.cluster.command import ClusterError, run
from tests.cluster.policies import ruleset, selects


def pod(name: str, address: str, namespace: str = "shop", labels: dict | None = None, **status: Any) -> dict:
    ports = [{"name": "web", "containerPort": 8000}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": name}},
        "spec": {"containers": [{"ports": ports}]},
        "status": {"phase": "Running", "podIP": address} | status,
    }


def policy(*ingress: dict, **selector: Any) -> dict:
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": list(ingress)}
    return {"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}


PODS = [
    pod("engine", "10.0.0.1"),
    pod("caller", "10.0.0.2"),
    pod("stranger", "10.0.0.3", "other"),
    pod("ended", "10.0.0.4", phase="Succeeded"),
    pod("starting", ""),
]
SPACES = [{"metadata": {"name": name, "labels": {"team": name}}} for name in ("shop", "other")]
ENGINE = {"matchLabels": {"app": "engine"}}


def let_through(*policies: dict) -> list[str] | None:
    """The rules of the engine's pod; None when every packet gets to it."""
    lines = ruleset(policies, PODS, SPACES).splitlines()
    if "    ip daddr 10.0.0.1 jump pod-10.0.0.1" not in lines:
        return None
    start = lines.index("  chain pod-10.0.0.1 {")
    rules = [line.strip() for line in lines[start + 1 : lines.index("  }", start)]]
    assert rules.pop() == "drop"
    return rules


TABLE = [
    ("no policy: everybody", [], None),
    ("a policy for other pods changes nothing", [policy(matchLabels={"app": "else"})], None),
    ("no rule: nobody", [policy(**ENGINE)], []),
    ("an empty selector is every pod", [policy()], []),
    ("an empty rule: everybody", [policy({}, **ENGINE)], ["accept"]),
    ("a pod of the same namespace", [policy({"from": [{"podSelector": {"matchLabels": {"app": "caller"}}}]}, **ENGINE)],
     ["ip saddr { 10.0.0.2 } accept"]),
    ("a pod of another namespace is none of these", [policy({"from": [{"podSelector": {"matchLabels": {"app": "stranger"}}}]}, **ENGINE)],
     []),
    ("a whole namespace", [policy({"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}]}, **ENGINE)],
     ["ip saddr { 10.0.0.3 } accept"]),
    ("both selectors of one peer have to hold", [policy({"from": [
        {"namespaceSelector": {"matchLabels": {"team": "other"}}, "podSelector": {"matchLabels": {"app": "caller"}}}]}, **ENGINE)],
     []),
    ("of two peers one is enough", [policy({"from": [{"podSelector": {"matchLabels": {"app": "caller"}}},
                                                     {"namespaceSelector": {"matchLabels": {"team": "other"}}}]}, **ENGINE)],
     ["ip saddr { 10.0.0.2 } accept", "ip saddr { 10.0.0.3 } accept"]),
    ("addresses but for some", [policy({"from": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}]}, **ENGINE)],
     ["ip saddr 10.1.0.0/16 ip saddr != { 10.1.2.0/24 } accept"]),
    ("ports by number, name and range", [policy({"ports": [
        {"port": 3111}, {"port": "web"}, {"port": 1, "endPort": 9, "protocol": "UDP"}]}, **ENGINE)],
     ["tcp dport 3111 accept", "tcp dport 8000 accept", "udp dport 1-9 accept"]),
    ("a port by a name that the pod has not", [policy({"ports": [{"port": "other"}]}, **ENGINE)], []),
    ("policies add up", [policy({"ports": [{"port": 1}]}, **ENGINE), policy({"ports": [{"port": 2}]}, **ENGINE)],
     ["tcp dport 1 accept", "tcp dport 2 accept"]),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_who_gets_through(policies: list[dict], expected: list[str] | None) -> None:
    assert let_through(*policies) == expected


@pytest.mark.skipif(shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft on this machine")
def test_nft_understands_all_of_it() -> None:
    for _, policies, _ in TABLE:
        run(["unshare", "--net", "nft", "--check", "-f", "-"], input=ruleset(policies, PODS, SPACES))


def test_a_policy_on_egress_is_an_error_and_not_passed_over() -> None:
    egress = policy()
    egress["spec"]["policyTypes"] = ["Egress"]
    with pytest.raises(ClusterError, match="egress"):
        ruleset([egress], PODS, SPACES)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ],
)
def test_a_selector_chooses_by_labels(selector: dict, chosen: bool) -> None:
    assert selects(selector, {"a": "1"}) is chosen
