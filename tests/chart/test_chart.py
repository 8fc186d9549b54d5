"""What the Helm chart renders, what it refuses, and that it grants no more than the operator needs.

All of it goes through the real helm (built into the cache on first use); no cluster is involved.
"""

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agentos_operator.keys import IDENTITY_SECRET, WEBHOOK_SECRET
from agentos_operator.settings import Settings
from agentos_operator.webhook import PATH
from ruamel.yaml import YAML

from tests.cluster.progress import Steps
from tests.cluster.tools import helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "agentos"
OLDEST = "1.31.0"
"""The oldest Kubernetes that the chart accepts; given to helm, which without a cluster assumes an ancient one."""

EVERY_VALUE_CHANGED = {
    "image": {"repository": "registry.example.org:5000/team/agentos", "tag": "1.2.3", "pullPolicy": "Always"},
    "engineImage": "registry.example.org:5000/team/engine@sha256:" + "0" * 64,
    "replicas": 2,
    "defaultRealm": {"create": True, "name": "prod", "namespace": "123"},
    "watchNamespaces": ["team-a", "123"],
    "metrics": {
        "serviceMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True, "labels": {"example.org/dashboard": "yes"}},
    },
    "autoscaling": {"scaleDownSeconds": 10},
    "tracing": {"otlpEndpoint": "http://collector.observability:4318", "ratio": 0.5},
    "networkPolicy": {
        "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}, "namespaceSelector": {}}]
    },
    "logLevel": "debug",
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": "1.5", "memory": "1Gi"}},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "podAnnotations": {"example.org/scrape": "true"},
    "extraLabels": {"example.org/team": "platform", "app.kubernetes.io/name": "must-not-win"},
}
VALUES = {"default values": {}, "every value changed": EVERY_VALUE_CHANGED}

Right = tuple[str, str, str | None]
"""API group, resource, and the one name that it is limited to."""

CLUSTER_RIGHTS: dict[Right, set[str]] = {
    ("agentos.dev", "workers", None): {"get", "list", "watch"},
    ("agentos.dev", "realms", None): {"get", "list", "watch", "create"},
    ("agentos.dev", "workers/status", None): {"patch"},
    ("agentos.dev", "realms/status", None): {"patch"},
    ("agentos.dev", "workers/finalizers", None): {"update"},
    ("agentos.dev", "realms/finalizers", None): {"update"},
    ("agentos.dev", "functionclaims", None): {"get", "list", "watch", "create", "update", "delete"},
    ("apps", "deployments", None): {"get", "list", "watch", "create", "update", "delete"},
    ("apps", "statefulsets", None): {"get", "list", "watch", "create", "update", "delete"},
    ("policy", "poddisruptionbudgets", None): {"get", "list", "watch", "create", "update", "delete"},
    ("", "services", None): {"get", "create", "update"},
    ("", "serviceaccounts", None): {"get", "create", "update"},
    ("networking.k8s.io", "networkpolicies", None): {"get", "create", "update", "delete"},
    ("networking.k8s.io", "ingresses", None): {"get", "create", "update", "delete"},
    ("gateway.networking.k8s.io", "httproutes", None): {"get", "create", "update", "delete"},
    ("gateway.networking.k8s.io", "gateways", None): {"get"},
    ("", "secrets", None): {"get", "create", "update"},
    ("", "namespaces", None): {"get", "create", "patch"},
    ("", "pods", None): {"get", "list", "watch"},
    ("", "pods/status", None): {"patch"},
    ("", "configmaps", None): {"get", "list", "watch"},
    ("", "persistentvolumeclaims", None): {"get"},
    ("events.k8s.io", "events", None): {"create", "patch"},
    ("apiextensions.k8s.io", "customresourcedefinitions", None): {"list", "watch"},
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "agentos"): {"get", "patch"},
}
CLUSTER_ONLY: tuple[Right, ...] = (
    ("agentos.dev", "realms", None),
    ("agentos.dev", "realms/status", None),
    ("agentos.dev", "realms/finalizers", None),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "agentos"),
)
"""What is left in the whole cluster when only certain namespaces are watched."""
EVENTS: Right = ("events.k8s.io", "events", None)
READ, WRITE = {"get", "list", "watch"}, {"create", "update", "patch", "delete", "deletecollection"}
OWN_NAMESPACE_RIGHTS: dict[Right, set[str]] = {
    ("coordination.k8s.io", "leases", None): {"create"},
    ("coordination.k8s.io", "leases", "agentos-operator"): {"get", "update"},
}


class HelmRefused(Exception):
    """helm ended with an error; the message is what it printed."""


class Helm:
    """Runs the pinned helm with its home in a folder of the test's own."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program, self._home = program, home

    def __call__(self, *arguments: str) -> str:
        environment = {"HOME": str(self._home), "PATH": "/usr/bin:/bin", "HELM_NAMESPACE": "agentos-system"}
        done = subprocess.run(
            [self._program, *arguments], capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        if done.returncode != 0:
            raise HelmRefused(done.stderr + done.stdout)
        return done.stdout

    def render(self, values: dict[str, Any] | None = None, release: str = "agentos", chart: Path = CHART) -> list[dict]:
        """The objects that `helm install` would send, except the CRDs."""
        path = self._home / "values.json"
        path.write_text(json.dumps(values or {}))
        text = self("template", release, str(chart), "--kube-version", OLDEST, "--values", str(path))
        return [document for document in YAML(typ="safe").load_all(text) if document]


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return Helm(helm(Steps()), tmp_path)


def one(objects: list[dict], kind: str, name: str | None = None) -> dict:
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name or ''}: {len(found)} of them"
    return found[0]


def rights(role: dict) -> dict[Right, set[str]]:
    granted: dict[Right, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [None]):
                    granted.setdefault((group, resource, name), set()).update(rule["verbs"])
    return granted


def role_in(objects: list[dict], namespace: str) -> dict:
    (found,) = [o for o in objects if o["kind"] == "Role" and o["metadata"]["namespace"] == namespace]
    return found


def environment(objects: list[dict]) -> dict[str, str]:
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {
        entry["name"]: entry["value"] if "value" in entry else entry["valueFrom"]["fieldRef"]["fieldPath"]
        for entry in container["env"]
    }


# --- the chart as a whole


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_strict_lint_has_nothing_to_say(chart: Helm, tmp_path: Path, values: dict) -> None:
    path = tmp_path / "lint.json"
    path.write_text(json.dumps(values))
    report = chart("lint", "--strict", str(CHART), "--kube-version", OLDEST, "--values", str(path))
    assert "1 chart(s) linted, 0 chart(s) failed" in report


def test_the_crds_are_the_generated_ones_of_the_tree_by_a_link(chart: Helm) -> None:
    link = CHART / "crds"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "crds"
    rendered = chart("template", "agentos", str(CHART), "--kube-version", OLDEST, "--include-crds")
    objects = [document for document in YAML(typ="safe").load_all(rendered) if document]
    crds = [document for document in objects if document["kind"] == "CustomResourceDefinition"]
    assert {crd["metadata"]["name"] for crd in crds} == {
        "workers.agentos.dev",
        "realms.agentos.dev",
        "functionclaims.agentos.dev",
    }


def test_a_packaged_chart_holds_the_crds_and_renders_the_same(chart: Helm, tmp_path: Path) -> None:
    chart("package", str(CHART), "--destination", str(tmp_path))
    package = tmp_path / "agentos-0.1.0.tgz"
    assert chart("show", "crds", str(package)) == chart("show", "crds", str(CHART))
    assert chart.render(chart=package) == chart.render()


def test_an_older_kubernetes_is_refused_by_name(chart: Helm) -> None:
    with pytest.raises(
        HelmRefused, match=r"requires kubeVersion: >=1\.31-0 which is incompatible with Kubernetes v1\.30"
    ):
        chart("template", "agentos", str(CHART), "--kube-version", "1.30.0")


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_exactly_these_objects_are_made(chart: Helm, values: dict) -> None:
    watching = [
        ("PrometheusRule", "agentos"),
        ("ServiceMonitor", "agentos-engine"),
        ("ServiceMonitor", "agentos-operator"),
        ("ConfigMap", "agentos-dashboard"),
    ]
    made = sorted((o["kind"], o["metadata"]["name"]) for o in chart.render(values))
    # With names to watch: a Role in each, one in default for the Events of Realms, and the operator's own.
    in_namespaces = [("Role", "agentos-operator"), ("RoleBinding", "agentos-operator")] * (4 if values else 1)
    assert made == sorted(
        [
            *in_namespaces,
            *(watching if "metrics" in values else ()),
            ("ClusterRole", "agentos-edit"),
            ("ClusterRole", "agentos-operator"),
            ("ClusterRole", "agentos-realms"),
            ("ClusterRole", "agentos-view"),
            ("ClusterRoleBinding", "agentos-operator"),
            ("Deployment", "agentos-operator"),
            ("Service", "agentos-operator"),
            ("ServiceAccount", "agentos-operator"),
            ("ValidatingWebhookConfiguration", "agentos"),
        ]
    )


@pytest.mark.parametrize("release", ["staging", "x" * 53])
def test_another_release_name_gives_names_of_its_own_and_keeps_them_consistent(chart: Helm, release: str) -> None:
    objects = chart.render(release=release)
    names = {o["metadata"]["name"] for o in objects}
    assert all(name.startswith(release[:46]) and len(name) <= 63 for name in names)
    operator = one(objects, "Deployment")["metadata"]["name"]
    webhook = one(objects, "ValidatingWebhookConfiguration")["metadata"]["name"]
    assert environment(objects)["AGENTOS_WEBHOOK_CONFIGURATION"] == webhook
    assert environment(objects)["AGENTOS_WEBHOOK_SERVICE"] == one(objects, "Service")["metadata"]["name"] == operator
    right = ("admissionregistration.k8s.io", "validatingwebhookconfigurations", webhook)
    assert right in rights(one(objects, "ClusterRole", operator))


# --- the operator's pod


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_the_pod_meets_pod_security_restricted(chart: Helm, values: dict) -> None:
    pod = one(chart.render(values), "Deployment")["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & pod.keys()
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"emptyDir"}]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container["ports"])
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_the_operator_is_told_everything_by_its_environment(chart: Helm) -> None:
    assert environment(chart.render()) == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_UID": "metadata.uid",
        "AGENTOS_IMAGE": "localhost/agentos:0.1.0",
        "AGENTOS_DEFAULT_REALM": "default",
        "AGENTOS_DEFAULT_REALM_NAMESPACE": "default",
        "AGENTOS_WATCH_NAMESPACES": "",
        "AGENTOS_WEBHOOK_SERVICE": "agentos-operator",
        "AGENTOS_WEBHOOK_CONFIGURATION": "agentos",
        "AGENTOS_OTLP_ENDPOINT": "",
        "AGENTOS_TRACE_RATIO": "0.01",
        "AGENTOS_OPERATOR_LABELS": "app.kubernetes.io/name=agentos-operator,app.kubernetes.io/instance=agentos",
        "AGENTOS_METRICS_FROM": '[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]',
        "AGENTOS_SCALE_DOWN_SECONDS": "60",
        "AGENTOS_LOG_LEVEL": "INFO",
    }


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_operator_understands_what_it_is_told(chart: Helm, level: str) -> None:
    objects = chart.render({"logLevel": level})
    settings = Settings.from_environment(environment(objects))
    assert logging.getLevelNamesMapping()[settings.log_level] == getattr(logging, level.upper())
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhook": settings.webhook_port, "metrics": settings.health_port}
    (webhook,) = one(objects, "ValidatingWebhookConfiguration")["webhooks"]
    assert webhook["clientConfig"]["service"]["path"] == PATH


def test_every_value_reaches_the_pod(chart: Helm) -> None:
    objects = chart.render(EVERY_VALUE_CHANGED)
    deployment = one(objects, "Deployment")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    container = pod["containers"][0]
    assert deployment["spec"]["replicas"] == 2
    assert container["image"] == "registry.example.org:5000/team/agentos:1.2.3"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"] == EVERY_VALUE_CHANGED["resources"]
    assert template["metadata"]["annotations"] == {"example.org/scrape": "true"}
    for field in ("priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[field] == EVERY_VALUE_CHANGED[field]
    told = environment(objects)
    assert told["AGENTOS_IMAGE"] == EVERY_VALUE_CHANGED["engineImage"]
    assert (told["AGENTOS_DEFAULT_REALM"], told["AGENTOS_DEFAULT_REALM_NAMESPACE"]) == ("prod", "123")
    assert told["AGENTOS_LOG_LEVEL"] == "DEBUG"
    assert Settings.from_environment(told).watch_namespaces == ("team-a", "123")
    assert Settings.from_environment(told).scale_down_seconds == 10
    assert Settings.from_environment(told).engine_environment == {
        "AGENTOS_OTLP_ENDPOINT": "http://collector.observability:4318",
        "AGENTOS_TRACE_RATIO": "0.5",
    }
    assert list(Settings.from_environment(told).metrics_from) == EVERY_VALUE_CHANGED["networkPolicy"]["metricsFrom"]
    for labelled in [*objects, template]:
        assert labelled["metadata"]["labels"]["example.org/team"] == "platform"
        assert labelled["metadata"]["labels"]["app.kubernetes.io/name"] == "agentos-operator"


def test_the_engine_runs_from_the_operators_image_unless_told_otherwise(chart: Helm) -> None:
    objects = chart.render({"image": {"tag": "9.9.9"}})
    assert environment(objects)["AGENTOS_IMAGE"] == "localhost/agentos:9.9.9"


def test_without_a_default_realm_the_operator_is_told_of_none(chart: Helm) -> None:
    told = environment(chart.render({"defaultRealm": {"create": False}}))
    assert (told["AGENTOS_DEFAULT_REALM"], told["AGENTOS_DEFAULT_REALM_NAMESPACE"]) == ("", "")


def test_service_ports_and_probes_meet_the_ports_of_the_container(chart: Helm) -> None:
    objects = chart.render()
    deployment, service = one(objects, "Deployment"), one(objects, "Service")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"webhook": 9443, "metrics": 8080}
    assert {port["port"]: ports[port["targetPort"]] for port in service["spec"]["ports"]} == {443: 9443, 8080: 8080}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]):
        assert selector
        assert selector.items() <= labels.items()


def test_the_operator_knows_the_labels_by_which_network_policies_let_it_reach_engines(chart: Helm) -> None:
    objects = chart.render(EVERY_VALUE_CHANGED, release="staging")
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    told = Settings.from_environment(environment(objects)).operator_labels
    assert told == {"app.kubernetes.io/name": "agentos-operator", "app.kubernetes.io/instance": "staging"}
    assert told.items() <= labels.items()


# --- rights


def test_the_operator_has_these_rights_and_no_others(chart: Helm) -> None:
    objects = chart.render({name: value for name, value in EVERY_VALUE_CHANGED.items() if name != "watchNamespaces"})
    assert rights(one(objects, "ClusterRole", "agentos-operator")) == CLUSTER_RIGHTS
    assert rights(one(objects, "Role")) == OWN_NAMESPACE_RIGHTS


def test_with_names_to_watch_it_has_them_in_these_namespaces_alone(chart: Helm) -> None:
    objects = chart.render(EVERY_VALUE_CHANGED)
    cluster = rights(one(objects, "ClusterRole", "agentos-operator"))
    in_one = rights(role_in(objects, "team-a"))
    assert cluster == {right: CLUSTER_RIGHTS[right] for right in CLUSTER_ONLY}
    assert in_one == {
        right: verbs - {"create"} if right == ("", "namespaces", None) else verbs
        for right, verbs in CLUSTER_RIGHTS.items()
        if right not in (*CLUSTER_ONLY, ("apiextensions.k8s.io", "customresourcedefinitions", None))
    }
    assert rights(role_in(objects, "123")) == in_one
    assert rights(role_in(objects, "default")) == {EVENTS: CLUSTER_RIGHTS[EVENTS]}
    own_secrets = {("", "secrets", name): {"get", "update"} for name in (IDENTITY_SECRET, WEBHOOK_SECRET)}
    assert rights(role_in(objects, "agentos-system")) == (
        OWN_NAMESPACE_RIGHTS | own_secrets | {("", "secrets", None): {"create"}}
    )
    account = {"kind": "ServiceAccount", "name": "agentos-operator", "namespace": "agentos-system"}
    bindings = [o for o in objects if o["kind"] == "RoleBinding"]
    assert {o["metadata"]["namespace"] for o in bindings} == {"team-a", "123", "default", "agentos-system"}
    assert all((o["subjects"], o["roleRef"]["name"]) == ([account], "agentos-operator") for o in bindings)
    (webhook,) = one(objects, "ValidatingWebhookConfiguration")["webhooks"]
    assert webhook["namespaceSelector"] == {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "123"]}]
    }
    assert one(objects, "ServiceMonitor", "agentos-engine")["spec"]["namespaceSelector"] == {
        "matchNames": ["team-a", "123"]
    }


def test_without_a_default_realm_it_may_not_make_realms(chart: Helm) -> None:
    objects = chart.render({"defaultRealm": {"create": False}})
    assert rights(one(objects, "ClusterRole", "agentos-operator"))["agentos.dev", "realms", None] == READ


def test_the_install_page_lists_exactly_the_rights_in_the_whole_cluster() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    table = page.split("| what | in the whole cluster | why |")[1].split("\n\n")[0]
    listed: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        what, verbs, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for resource in re.findall(r"`([a-z/]+)`", what):
            listed.setdefault(resource, set()).update(re.findall(r"[a-z]+", verbs.split(";")[0]))
    assert listed == {resource: verbs for (_, resource, _), verbs in CLUSTER_RIGHTS.items()}


def test_no_role_has_a_wildcard_reads_all_secrets_or_can_raise_rights(chart: Helm) -> None:
    roles = [o for o in chart.render() if o["kind"] in ("ClusterRole", "Role")]
    assert len(roles) == 5
    for role in roles:
        for (group, resource, name), verbs in rights(role).items():
            assert "*" not in {group, resource, name, *verbs}
            assert not {"bind", "escalate", "impersonate"} & verbs
            assert "deletecollection" not in verbs or role["metadata"]["name"] != "agentos-operator"
            assert group not in ("rbac.authorization.k8s.io", "certificates.k8s.io", "authentication.k8s.io")
            assert resource not in ("pods/exec", "pods/attach", "nodes", "nodes/proxy", "serviceaccounts/token")
            if resource == "secrets":
                assert not {"list", "watch", "delete"} & verbs
            if resource == "pods":
                assert verbs == {"get", "list", "watch"}


def test_the_bindings_give_the_operators_roles_to_its_account_only(chart: Helm) -> None:
    objects = chart.render()
    account = {"kind": "ServiceAccount", "name": "agentos-operator", "namespace": "agentos-system"}
    for binding, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        found = one(objects, binding)
        assert found["subjects"] == [account]
        assert (found["roleRef"]["kind"], found["roleRef"]["name"]) == (role, "agentos-operator")
    assert one(objects, "RoleBinding")["metadata"]["namespace"] == "agentos-system"
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    pod = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("agentos-operator", True)


@pytest.mark.parametrize(
    ("name", "joins", "granted"),
    [
        (
            "agentos-view",
            {"view", "edit", "admin"},
            {
                **{("agentos.dev", each, None): READ for each in ("workers", "realms", "functionclaims")},
                **{
                    ("agentos.dev", each, None): {"get"}
                    for each in ("workers/status", "workers/scale", "realms/status")
                },
            },
        ),
        (
            "agentos-edit",
            {"edit", "admin"},
            {
                ("agentos.dev", "workers", None): WRITE,
                ("agentos.dev", "workers/scale", None): {"update", "patch"},
            },
        ),
        (
            "agentos-realms",
            set(),
            {("agentos.dev", "realms", None): READ | WRITE, ("agentos.dev", "realms/status", None): {"get"}},
        ),
    ],
)
def test_people_get_their_rights_with_kubernetes_own_roles_or_by_a_binding(
    chart: Helm, name: str, joins: set[str], granted: dict[Right, set[str]]
) -> None:
    role = one(chart.render(), "ClusterRole", name)
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels = role["metadata"]["labels"]
    assert {label.removeprefix(prefix) for label in labels if label.startswith(prefix)} == joins
    assert all(labels[prefix + target] == "true" for target in joins)
    assert rights(role) == granted


# --- the webhook


def test_the_webhook_checks_workers_and_realms_and_lets_pass_when_the_operator_is_away(chart: Helm) -> None:
    configuration = one(chart.render(), "ValidatingWebhookConfiguration")
    (webhook,) = configuration["webhooks"]
    rules = webhook.pop("rules")
    # No caBundle: the operator's patch survives an upgrade only because no manifest of the chart names the field.
    assert webhook == {
        "name": "validate.agentos.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "matchPolicy": "Equivalent",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 5,
        "clientConfig": {
            "service": {"name": "agentos-operator", "namespace": "agentos-system", "port": 443, "path": "/validate"}
        },
    }
    assert {resource: rule["scope"] for rule in rules for resource in rule["resources"]} == {
        "workers": "Namespaced",
        "workers/scale": "Namespaced",
        "realms": "Cluster",
    }
    for rule in rules:
        assert rule["apiGroups"] == ["agentos.dev"]
        assert rule["apiVersions"] == ["v1alpha1"]
        assert rule["operations"] == ["CREATE", "UPDATE"]


# --- values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 2}, r"at '': additional properties 'replica' not allowed"),
        ({"image": {"name": "x"}}, r"at '/image': additional properties 'name' not allowed"),
        ({"resources": {"request": {}}}, r"at '/resources': additional properties 'request' not allowed"),
        ({"metrics": {"rules": True}}, r"at '/metrics/rules': got boolean, want object"),
        ({"metrics": {"serviceMonitor": {"interval": "30"}}}, r"at '/metrics/serviceMonitor/interval': '30' does not"),
        ({"tracing": {"ratio": 2}}, r"at '/tracing/ratio': maximum: got 2, want 1"),
        (
            {"tracing": {"otlpEndpoint": "collector:4318"}},
            r"at '/tracing/otlpEndpoint': 'collector:4318' does not match",
        ),
        ({"replicas": "two"}, r"at '/replicas': got string, want integer"),
        ({"replicas": -1}, r"at '/replicas': minimum: got -1, want 0"),
        ({"image": {"tag": 1.0}}, r"at '/image/tag': got number, want string"),
        ({"image": {"tag": "a b"}}, r"at '/image/tag': 'a b' does not match pattern"),
        ({"image": {"pullPolicy": "Sometimes"}}, r"at '/image/pullPolicy': value must be one of 'Always',"),
        ({"defaultRealm": {"create": "yes"}}, r"at '/defaultRealm/create': got string, want boolean"),
        ({"defaultRealm": {"name": "Prod_1"}}, r"at '/defaultRealm/name': 'Prod_1' does not match pattern"),
        ({"watchNamespaces": ["Team_A"]}, r"at '/watchNamespaces/0': 'Team_A' does not match pattern"),
        (
            {"watchNamespaces": ["team-a"]},
            r"defaultRealm.namespace: default is not among watchNamespaces; add it there",
        ),
        (
            {"watchNamespaces": ["default", "agentos-system"]},
            r"watchNamespaces: agentos-system is the operator's own namespace, with the key that signs identities",
        ),
        ({"logLevel": "loud"}, r"at '/logLevel': value must be one of 'debug', 'info',"),
        ({"podAnnotations": {"a": True}}, r"at '/podAnnotations/a': got boolean, want string"),
        ({"resources": {"limits": {"memory": "lots"}}}, r"at '/resources/limits/memory': 'lots' does not match"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(chart: Helm, values: dict, message: str) -> None:
    with pytest.raises(HelmRefused, match=message):
        chart.render(values)


def test_every_value_has_a_comment_a_schema_entry_and_a_row_in_the_readme() -> None:
    defaults = YAML(typ="safe").load(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text())
    lines = (CHART / "values.yaml").read_text().splitlines()
    readme = (CHART / "README.md").read_text()
    for path in _paths(defaults, schema):
        (line,) = [
            index for index, text in enumerate(lines) if re.match(rf"{'  ' * (len(path) - 1)}{path[-1]}:", text)
            and _groups_of(lines, index) == path[:-1]
        ]  # fmt: skip
        assert lines[line - 1].lstrip().startswith("# "), f"{path}: no comment above it in values.yaml"
        assert f"| `{'.'.join(path)}` |" in readme, f"{path}: no row in README.md"
    assert set(schema["properties"]) - {"global"} == set(defaults)
    assert set(EVERY_VALUE_CHANGED) == set(defaults)


GROUPS = (
    "image",
    "defaultRealm",
    "autoscaling",
    "tracing",
    "networkPolicy",
    "metrics",
    "serviceMonitor",
    "rules",
    "dashboard",
)


def _paths(defaults: dict, schema: dict, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The values that can be set; a group has the same keys in the defaults and in the schema."""
    found: list[tuple[str, ...]] = []
    for key, value in defaults.items():
        inner = schema["properties"][key]
        if key in GROUPS:
            assert set(inner["properties"]) == set(value)
            found += _paths(value, inner, (*above, key))
        else:
            found.append((*above, key))
    return found


def _groups_of(lines: list[str], index: int) -> tuple[str, ...]:
    """The keys above a line of YAML, outermost first."""
    found: list[str] = []
    depth = len(lines[index]) - len(lines[index].lstrip())
    for text in reversed(lines[:index]):
        indent = len(text) - len(text.lstrip())
        if re.match(r" *\w", text) and indent < depth:
            depth = indent
            found.insert(0, text.strip().split(":")[0])
    return tuple(found)


# --- the notes


def notes(chart: Helm, tmp_path: Path, values: dict) -> str:
    """What `helm install` prints at its end. helm renders notes only with a cluster, so a copy of the chart does it."""
    copy = tmp_path / "chart"
    shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("crds"))
    source = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "notes.yaml").write_text(
        '{{- define "notes" }}'
        + source
        + '{{ end }}\nkind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | quote }}\n'
    )
    return one(chart.render(values, chart=copy), "Notes")["text"]


def test_the_notes_show_the_worker_of_the_examples_and_how_to_call_it(chart: Helm, tmp_path: Path) -> None:
    text = notes(chart, tmp_path, {})
    worker = YAML(typ="safe").load(text.split("<<'YAML'\n")[1].split("  YAML\n")[0])
    example = YAML(typ="safe").load(ROOT / "examples" / "wasm-sandbox.yaml")
    assert worker["spec"] == example["spec"]
    assert worker["metadata"] == {"name": example["metadata"]["name"], "namespace": "default"}
    assert "kubectl --namespace default wait --for=condition=Ready --timeout=120s worker/wasm-sandbox" in text
    assert "kubectl --namespace default port-forward service/agentos-engine 3111:3111" in text
    assert "kubectl --namespace default get secret agentos-api-key --output jsonpath='{.data.key}' | base64 -d" in text
    assert 'curl --silent --header "Authorization: Bearer $KEY" http://127.0.0.1:3111/wasm/modules' in text
    assert "helm uninstall leaves the CRDs" in text


def test_the_notes_without_a_default_realm_ask_for_one(chart: Helm, tmp_path: Path) -> None:
    text = notes(chart, tmp_path, {"defaultRealm": {"create": False}})
    assert "It makes no Realm: apply one" in text
    assert "port-forward" not in text
