"""Who reaches a realm: its NetworkPolicies, and REST outside the cluster."""

from typing import Any

import pytest
from agentos_operator.kinds import Key
from agentos_operator.plan.objects.network_policy import engine_network_policy, workers_network_policy
from agentos_operator.plan.realm import plan

from .test_plan_realm import BY_GATEWAY, BY_INGRESS, GATEWAY, realm, route, snapshot

OPERATOR = [
    {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agentos-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "agentos-operator"}},
    }
]
WORKERS = [{"podSelector": {"matchExpressions": [{"key": "agentos.dev/worker", "operator": "Exists"}]}}]
MONITORING = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
PORTS = {49134: "bus", 3111: "http", 3112: "stream", 9464: "metrics"}
OWN = [(WORKERS, ["bus", "http", "stream"]), (OPERATOR, ["bus"])]


def let_in(policy: dict[str, Any]) -> list[tuple[Any, list[str]]]:
    """Who is let in at which ports; None is everybody."""
    return [(rule.get("from"), [PORTS[each["port"]] for each in rule["ports"]]) for rule in policy["spec"]["ingress"]]


def engine_policy(spec: dict | None = None, operator: Any = OPERATOR, metrics: Any = ()) -> dict[str, Any]:
    return engine_network_policy(realm(spec), operator, metrics)


PARTNER = {"namespaceSelector": {"matchLabels": {"team": "partner"}}}
OFFICE = {"ipBlock": {"cidr": "10.20.0.0/16", "except": ["10.20.1.0/24"]}}
TABLE = [
    ("by default its Workers and the operator", {}, {}, OWN),
    ("metrics for whom the chart names", {}, {"metrics": MONITORING}, [*OWN, (MONITORING, ["metrics"])]),
    ("an operator outside the cluster has no known address", {}, {"operator": None}, [OWN[0], (None, ["bus"])]),
    (
        "others reach REST unless a port is named",
        {"networkPolicy": {"extraFrom": [PARTNER, OFFICE | {"ports": ["bus", "stream"]}]}},
        {},
        [*OWN, ([PARTNER], ["http"]), ([OFFICE], ["bus", "stream"])],
    ),
    ("who is everywhere keeps an empty selector", {"networkPolicy": {"extraFrom": [{"namespaceSelector": {}}]}}, {},
     [*OWN, ([{"namespaceSelector": {}}], ["http"])]),
    ("exposed to the named controller", {"http": {"expose": {"type": "Ingress", "host": "a.b", "from": [PARTNER]}}}, {},
     [*OWN, ([PARTNER], ["http"])]),
    ("exposed, no controller named", BY_INGRESS, {}, [*OWN, (None, ["http"])]),
    ("expose says None", {"http": {"expose": {"type": "None", "from": [PARTNER]}}}, {}, OWN),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "others", "expected"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])
def test_the_engine_lets_in(spec, others, expected):
    policy = engine_policy(spec, **others)
    assert let_in(policy) == expected
    assert policy["spec"]["policyTypes"] == ["Ingress"]  # egress stays open


def test_the_policy_selects_the_engine_of_this_realm():
    chosen = engine_policy()["spec"]["podSelector"]["matchLabels"]
    (engine,) = (each for each in plan(snapshot()).children if each["kind"] == "StatefulSet")
    assert chosen.items() <= engine["spec"]["template"]["metadata"]["labels"].items()
    assert len(chosen) == 2


def test_nobody_connects_to_a_workers_pods():
    spec = workers_network_policy(realm())["spec"]
    assert spec == {"podSelector": WORKERS[0]["podSelector"], "policyTypes": ["Ingress"], "ingress": []}


def names(objects: Any) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


POLICIES = {("NetworkPolicy", "agentos-engine"), ("NetworkPolicy", "agentos-workers")}
INGRESS, ROUTE = {("Ingress", "agentos-engine")}, {("HTTPRoute", "agentos-engine")}


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        pytest.param({}, POLICIES, id="by default policies and no way out"),
        pytest.param({"spec": {"networkPolicy": {}}}, POLICIES, id="an empty policy is the default"),
        pytest.param({"spec": {"networkPolicy": {"enabled": False}}}, set(), id="turned off"),
        pytest.param({"spec": BY_INGRESS}, POLICIES | INGRESS, id="Ingress"),
        pytest.param({"spec": BY_GATEWAY}, POLICIES | ROUTE, id="Gateway"),
        pytest.param({"spec": BY_GATEWAY, "gateway_api": False}, POLICIES, id="Gateway, but no Gateway API"),
    ],
)
def test_what_is_asked_for_is_made_and_the_rest_of_it_is_taken_away(changes, there):
    answer = plan(snapshot(**changes))
    optional = POLICIES | INGRESS | ROUTE
    assert names(answer.children) & optional == there
    assert set(answer.absent) == {Key(kind, "team", name) for kind, name in optional - there}


def test_in_a_namespace_of_another_nothing_is_made_or_taken_away():
    answer = plan(snapshot(rival="old", spec=BY_INGRESS))
    assert (answer.children, answer.absent) == ((), ())


def test_the_ingress_leads_host_and_path_to_the_rest_port():
    (made,) = (each for each in plan(snapshot(spec=BY_INGRESS)).children if each["kind"] == "Ingress")
    backend = {"service": {"name": "agentos-engine", "port": {"number": 3111}}}
    assert made["spec"] == {
        "ingressClassName": "public",
        "tls": [{"hosts": ["team.example.org"], "secretName": "team-tls"}],
        "rules": [
            {
                "host": "team.example.org",
                "http": {"paths": [{"path": "/api", "pathType": "Prefix", "backend": backend}]},
            }
        ],
    }
    assert made["metadata"]["annotations"]["example.org/a"] == "b"


def test_an_ingress_asks_for_no_more_than_the_realm_does():
    spec = {"http": {"expose": {"type": "Ingress", "host": "team.example.org"}}}
    (made,) = (each for each in plan(snapshot(spec=spec)).children if each["kind"] == "Ingress")
    assert set(made["spec"]) == {"rules"}
    assert made["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/"


def test_the_route_is_attached_to_the_gateway():
    (made,) = (each for each in plan(snapshot(spec=BY_GATEWAY)).children if each["kind"] == "HTTPRoute")
    assert made["spec"] == {
        "parentRefs": [{"name": "public", "namespace": "edge", "sectionName": "https"}],
        "hostnames": ["team.example.org"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "agentos-engine", "port": 3111}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        pytest.param({}, "", id="not exposed"),
        pytest.param({"spec": BY_GATEWAY}, "", id="no route yet"),
        pytest.param({"spec": BY_GATEWAY, "exposed": route(Accepted="False")}, "", id="refused"),
        pytest.param(
            {"spec": BY_GATEWAY, "exposed": route(Accepted="True")}, "http://team.example.org/", id="Gateway unreadable"
        ),
        pytest.param(
            {"spec": BY_GATEWAY, "exposed": route(Accepted="True"), "gateway": GATEWAY},
            "https://team.example.org/",
            id="listener with TLS",
        ),
    ],
)
def test_status_tells_the_address_once_it_is_served(changes, url):
    assert plan(snapshot(**changes)).status["http"] == {"url": url}
