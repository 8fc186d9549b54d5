"""The operator's rights are those that it uses, held against the API server's audit log; and what people's roles give.

Runs after the other end-to-end tests, since it judges what was asked in the whole session.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import demo
from tests.cluster import Cluster
from tests.e2e.audit import OPERATOR, Request, requests
from tests.e2e.support import (
    NAMESPACE,
    apply,
    can,
    condition,
    get,
    realm,
    until,
    until_ready,
    until_realm_ready,
    worker,
)

pytestmark = pytest.mark.cluster

OPERATORS_NAMESPACE = demo.NAMESPACE


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb on one resource. ``namespace`` is empty for a right in the whole cluster, ``name`` for one on all names."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""

    def covers(self, request: Request) -> bool:
        return (
            (self.group, self.resource, self.verb) == (request.group, request.resource, request.verb)
            and self.namespace in ("", request.namespace)
            and self.name in ("", request.name)
        )


def not_seen(group: str, resources: str, *verbs: str) -> set[tuple[str, str, str]]:
    return {(group, resource, verb) for resource in resources.split() for verb in verbs}


NOT_SEEN = {
    "clusters that check owner references (OwnerReferencesPermissionEnforcement) ask for it; this one does not": (
        not_seen("agentos.dev", "workers/finalizers realms/finalizers", "update")
    ),
    "a Realm's engine is deleted with it by the garbage collector too, and either may be first": (
        not_seen("apps", "statefulsets", "delete")
    ),
    "this cluster has no Gateway API": (
        not_seen("gateway.networking.k8s.io", "httproutes", "create", "update", "delete")
        | not_seen("gateway.networking.k8s.io", "gateways", "get")
    ),
    "an object is read by itself when the watch has not brought it within 6 s, which no test can arrange": (
        not_seen("agentos.dev", "workers realms functionclaims", "get")
        | not_seen("apps", "deployments statefulsets", "get")
        | not_seen("policy", "poddisruptionbudgets", "get")
        | not_seen("", "pods", "get")
    ),
}
"""Rights that no request of a test cluster shows, by the reason why the operator has them all the same."""


@pytest.fixture
def log(cluster: Cluster) -> Path:
    assert cluster.audit_log is not None, "this kind of cluster has no audit log"
    return cluster.audit_log


def granted(cluster: Cluster) -> set[Right]:
    """Everything that is bound to the operator's account."""
    found = set()
    account = {"kind": "ServiceAccount", "name": "agentos-operator", "namespace": OPERATORS_NAMESPACE}
    for kind in ("clusterrolebindings", "rolebindings"):
        options = [] if kind == "clusterrolebindings" else ["--all-namespaces"]
        for binding in json.loads(cluster.kubectl("get", kind, "-o", "json", *options).stdout)["items"]:
            if account not in binding.get("subjects", ()):
                continue
            namespace, role = binding["metadata"].get("namespace", ""), binding["roleRef"]
            where = namespace if role["kind"] == "Role" else ""
            for rule in get(cluster, role["kind"].lower(), role["name"], where)["rules"]:
                found |= {
                    Right(group, resource, verb, namespace, name)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                    for name in rule.get("resourceNames", [""])
                }
    return found


@pytest.fixture
def side(cluster: Cluster) -> Iterator[str]:
    """The name of a Realm and its namespace that are gone after the test."""
    yield "side"
    cluster.kubectl("delete", "realm", "side", "--ignore-not-found", "--timeout=90s", timeout=100)
    cluster.kubectl("delete", "namespace", "side", "--ignore-not-found", "--timeout=90s", timeout=100)


def restart_operator(cluster: Cluster) -> None:
    deployment = ("-n", OPERATORS_NAMESPACE, "deployment/agentos-operator")
    cluster.kubectl("rollout", "restart", *deployment)
    cluster.kubectl("rollout", "status", *deployment, "--timeout=120s", timeout=130)


def a_workers_life(cluster: Cluster) -> None:
    manifest = {"iii.worker.yaml": "name: used"}
    source = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "used", "namespace": NAMESPACE}}
    apply(cluster, source | {"data": manifest})
    from_map = {"configMapKeyRef": {"name": "used"}}
    apply(cluster, worker("used", "used::one", manifest=None, manifestFrom=from_map))
    until_ready(cluster, "used")
    apply(cluster, worker("second", "used::two", replicas=2))
    until_ready(cluster, "second")
    budget = until("two pods have a disruption budget", lambda: get(cluster, "poddisruptionbudget", "second"))
    loose = json.dumps({"spec": {"maxUnavailable": 2}})
    cluster.kubectl("patch", "poddisruptionbudget", "second", "-n", NAMESPACE, "--type=merge", "-p", loose)
    until("it is put right", lambda: get(cluster, "poddisruptionbudget", "second")["spec"] == budget["spec"])
    apply(cluster, worker("second", "used::two", replicas=1))
    until("one pod has none", lambda: not get(cluster, "poddisruptionbudget", "second"))
    changed = {"requests": {"cpu": "2m"}}
    apply(cluster, worker("used", "used::one", manifest=None, manifestFrom=from_map, resources=changed))
    until("the change is rolled out", lambda: condition(get(cluster, "worker", "used"), "Reconciling")[0] == "")
    cluster.kubectl("delete", "configmap", "used", "-n", NAMESPACE)
    cluster.kubectl("delete", "workers", "used", "second", "-n", NAMESPACE, "--timeout=60s", timeout=70)
    until("nobody owns its functions", lambda: not get(cluster, "functionclaim", "used"))


def a_realms_life(cluster: Cluster, name: str) -> None:
    storage = {"storage": {"size": "1Gi"}}
    apply(cluster, realm(name, engine=storage))
    until_realm_ready(cluster, name)
    edges_come_change_and_go(cluster, name, storage)
    apply(cluster, realm(name, engine=storage, http={"auth": "none"}, deletionPolicy="Delete"))
    uid = get(cluster, "realm", name, "")["metadata"]["uid"]

    def goes_with_it() -> bool:
        owners = get(cluster, "namespace", name, "")["metadata"].get("ownerReferences", ())
        return uid in {owner["uid"] for owner in owners}

    until("the namespace goes with the Realm from now on", goes_with_it)
    cluster.kubectl("delete", "realm", name, "--timeout=90s", timeout=100)
    until("the engine is gone", lambda: not get(cluster, "statefulset", "agentos-engine", name))


def edges_come_change_and_go(cluster: Cluster, name: str, engine: dict) -> None:
    """The Realm's Ingress, its HTTPRoute (which this cluster does not know), its NetworkPolicies."""

    def exposed(kind: str, host: str) -> None:
        expose = {"type": kind, "host": host} | ({"gateway": {"name": "public"}} if kind == "Gateway" else {})
        apply(cluster, realm(name, engine=engine, http={"expose": expose}))

    def host() -> str:
        rules = get(cluster, "ingress", "agentos-engine", name).get("spec", {}).get("rules", ())
        return rules[0]["host"] if rules else ""

    for wanted in ("one.example.org", "two.example.org"):
        exposed("Ingress", wanted)
        until(f"the Ingress is for {wanted}", lambda wanted=wanted: host() == wanted)
    exposed("Gateway", "one.example.org")
    until("the Ingress is gone", lambda: not host())
    peers = {"extraFrom": [{"podSelector": {}}]}
    policy = get(cluster, "networkpolicy", "agentos-engine", name)["spec"]
    apply(cluster, realm(name, engine=engine, networkPolicy=peers))
    until("another may come in", lambda: get(cluster, "networkpolicy", "agentos-engine", name)["spec"] != policy)
    apply(cluster, realm(name, engine=engine, networkPolicy={"enabled": False}))
    until("the NetworkPolicy is gone", lambda: not get(cluster, "networkpolicy", "agentos-engine", name))


def what_others_changed_is_put_right(cluster: Cluster) -> None:
    apply(cluster, worker("kept", "kept::one"))
    until_ready(cluster, "kept")
    default = get(cluster, "realm", "default", "")
    cluster.kubectl("delete", "lease", "agentos-operator", "-n", OPERATORS_NAMESPACE)
    until("the Lease is there again", lambda: get(cluster, "lease", "agentos-operator", OPERATORS_NAMESPACE))
    cluster.kubectl("delete", "realm", "default", "--timeout=60s", timeout=70)
    until("the engine is gone", lambda: not get(cluster, "statefulset", "agentos-engine"))
    hooks = "validatingwebhookconfiguration/agentos"
    bundle = "/webhooks/0/clientConfig/caBundle"
    cluster.kubectl("patch", hooks, "--type=json", "-p", json.dumps([{"op": "remove", "path": bundle}]))
    for kind, name, patch in (
        ("serviceaccount", "kept", {"automountServiceAccountToken": True}),
        ("secret", "agentos-token-kept", {"data": {"token": "bm9uZQ=="}}),
    ):
        cluster.kubectl("patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", json.dumps(patch))
    restart_operator(cluster)
    until("the default Realm is made again", lambda: get(cluster, "realm", "default", ""))
    until_realm_ready(cluster, "default")
    assert get(cluster, "realm", "default", "")["metadata"]["uid"] != default["metadata"]["uid"]
    until_ready(cluster, "kept")
    service = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": "admin"}]
    cluster.kubectl("patch", "service", "agentos-engine", "-n", NAMESPACE, "--type=json", "-p", json.dumps(service))
    restart_operator(cluster)

    def right() -> bool:
        port = get(cluster, "service", "agentos-engine")["spec"]["ports"][0]
        account = get(cluster, "serviceaccount", "kept")
        return port["targetPort"] == "bus" and account["automountServiceAccountToken"] is False

    until("the Service and the account are as they were", right)
    hook = get(cluster, "validatingwebhookconfiguration", "agentos", "")["webhooks"][0]
    assert hook["clientConfig"]["caBundle"]
    until_ready(cluster, "kept")


def test_the_operators_rights_are_those_that_it_uses_and_no_others(
    cluster: Cluster, log: Path, side: str, session_begins: int
) -> None:
    a_workers_life(cluster)
    a_realms_life(cluster, side)
    what_others_changed_is_put_right(cluster)
    used = set(requests(log, session_begins))
    assert any(request.verb == "list" for request in used), (
        "the audit log of this cluster has no reads: it was made before its policy asked for them; make it anew"
    )
    refused = sorted(
        f"{request.verb} {request.resource} in {request.namespace}" for request in used if not request.allowed
    )
    assert not refused, "RBAC has refused the operator; give it the right in rbac-operator.yaml, or do not ask"
    allowed_unseen = set[tuple[str, str, str]]().union(*NOT_SEEN.values())
    rights = granted(cluster)
    unused = sorted(
        right
        for right in rights
        if (right.group, right.resource, right.verb) not in allowed_unseen
        and not any(right.covers(request) for request in used)
    )
    assert not unused, "no test has used these; take them out of rbac-operator.yaml, or have a test use them"
    gone = allowed_unseen - {(right.group, right.resource, right.verb) for right in rights}
    assert not gone, "the operator has these no more; take them out of NOT_SEEN"


def test_a_right_in_the_whole_cluster_is_not_used_in_the_operators_namespace_alone(
    cluster: Cluster, log: Path, session_begins: int
) -> None:
    used = set(requests(log, session_begins))
    at_home = sorted(
        right
        for right in granted(cluster)
        if not right.namespace
        and (places := {request.namespace for request in used if right.covers(request)})
        and places == {OPERATORS_NAMESPACE}
    )
    assert not at_home, "these belong into the Role of the operator's own namespace"


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("list", "secrets"), ("delete", "secrets"), ("delete", "pods"), ("create", "pods/exec"), ("create", "pods"),
        ("create", "clusterroles.rbac.authorization.k8s.io"), ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("delete", "workers.agentos.dev"), ("update", "workers.agentos.dev"), ("delete", "realms.agentos.dev"),
        ("delete", "namespaces"), ("create", "serviceaccounts/token"), ("get", "nodes"),
    ],
)  # fmt: skip
def test_the_operator_may_not(cluster: Cluster, verb: str, what: str) -> None:
    assert not can(cluster, OPERATOR, verb, what, None)


@pytest.fixture(scope="module")
def people(installed: Cluster) -> Iterator[Cluster]:
    """Users vera, who has Kubernetes' role view in the namespace, ed, who has edit, and rita, a realms' administrator."""
    for user, role in (("vera", "view"), ("ed", "edit")):
        installed.kubectl("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", "-n", NAMESPACE)
    installed.kubectl("create", "clusterrolebinding", "rita", "--clusterrole=agentos-realms", "--user=rita")
    until("the roles are aggregated", lambda: can(installed, "ed", "create", "workers.agentos.dev"))
    yield installed
    installed.kubectl("delete", "rolebinding", "vera", "ed", "-n", NAMESPACE)
    installed.kubectl("delete", "clusterrolebinding", "rita")


READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
WORKERS, CLAIMS, REALMS = "workers.agentos.dev", "functionclaims.agentos.dev", "realms.agentos.dev"


@pytest.mark.parametrize(
    ("who", "may", "may_not"),
    [
        (
            "vera",
            {WORKERS: READ, f"{WORKERS}/status": ["get"], f"{WORKERS}/scale": ["get"], CLAIMS: READ},
            {
                WORKERS: WRITE, f"{WORKERS}/status": ["update", "patch"], f"{WORKERS}/scale": ["update", "patch"],
                f"{WORKERS}/finalizers": ["update"], CLAIMS: WRITE, REALMS: WRITE, "secrets": READ,
            },
        ),
        (
            "ed",
            {
                WORKERS: [*READ, *WRITE], f"{WORKERS}/status": ["get"], f"{WORKERS}/scale": ["get", "update", "patch"],
                CLAIMS: READ,
            },
            {
                f"{WORKERS}/status": ["update", "patch"], f"{WORKERS}/finalizers": ["update"], CLAIMS: WRITE,
                REALMS: [*READ, *WRITE], f"{REALMS}/status": ["update", "patch"],
            },
        ),
        (
            "rita",
            {REALMS: [*READ, *WRITE], f"{REALMS}/status": ["get"]},
            {
                f"{REALMS}/status": ["update", "patch"], f"{REALMS}/finalizers": ["update"],
                WORKERS: WRITE, CLAIMS: WRITE, "secrets": READ,
            },
        ),
    ],
    ids=["view", "edit", "realm administrator"],
)  # fmt: skip
def test_people_may_and_may_not(
    people: Cluster, who: str, may: dict[str, list[str]], may_not: dict[str, list[str]]
) -> None:
    for wanted, table in ((True, may), (False, may_not)):
        for what, verbs in table.items():
            namespace = None if what.startswith("realms") else NAMESPACE
            for verb in verbs:
                assert can(people, who, verb, what, namespace) == wanted, (verb, what)
    assert not can(people, who, "get", WORKERS, "kube-system") or who == "rita"


def test_no_role_of_this_chart_lets_people_read_secrets(cluster: Cluster) -> None:
    for role in json.loads(
        cluster.kubectl("get", "clusterroles", "-l", "app.kubernetes.io/part-of=agentos", "-o", "json").stdout
    )["items"]:
        if role["metadata"]["name"] != "agentos-operator":
            assert {resource for rule in role["rules"] for resource in rule["resources"]}.isdisjoint(
                {"secrets", "pods"}
            )
