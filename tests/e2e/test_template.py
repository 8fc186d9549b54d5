"""Pod templates of Workers and Realms, in real pods."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from agentos_contracts.pod_fields import from_openapi

from tests.cluster import Cluster
from tests.e2e.support import (
    IMAGE,
    NAMESPACE,
    SILENT,
    apply,
    condition,
    get,
    listed,
    until,
    until_condition,
    until_ready,
    worker,
)

pytestmark = pytest.mark.cluster

SIDECAR = {
    "name": "beside",
    "image": IMAGE,
    "command": SILENT,
    "resources": {"limits": {"cpu": 0.5, "memory": "0.125Gi"}},
    "env": [{"name": "EMPTY", "value": ""}],
    "args": [],
}
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"cost-center": "research"}, "annotations": {"example.org/note": "seen"}},
    "spec": {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [],
        "containers": [
            SIDECAR,
            {
                "name": "worker",
                "env": [{"name": "EXTRA", "value": "from the template"}],
                "volumeMounts": [{"name": "books", "mountPath": "/books"}],
            },
        ],
        "volumes": [{"name": "books", "emptyDir": {"sizeLimit": "10Mi"}}],
        "topologySpreadConstraints": [
            {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
    },
}  # fmt: skip


def deployment(cluster: Cluster, name: str) -> dict[str, Any]:
    return get(cluster, "deployment", name)


def pods(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """The pods of a Worker that are there to stay."""
    found = listed(cluster, "pods", f"agentos.dev/worker={name}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def until_rolled(cluster: Cluster, name: str, holds: Any) -> dict[str, Any]:
    """Waits until the only pod of a Worker is ready and as wanted; returns it."""

    def the_one() -> dict[str, Any] | None:
        found = pods(cluster, name)
        return found[0] if len(found) == 1 and holds(found[0]) else None

    pod = until(f"the pods of {name} have the wanted template", the_one, 90)
    until_ready(cluster, name)
    return pod


def labelled(pod: dict[str, Any]) -> str | None:
    return pod["metadata"]["labels"].get("cost-center")


def test_a_template_reaches_the_pod_is_written_once_and_goes_again(cluster: Cluster) -> None:
    apply(cluster, worker("templated", "templated::one", template=TEMPLATE))
    until_ready(cluster, "templated")
    (pod,) = pods(cluster, "templated")
    assert labelled(pod) == "research"
    assert pod["metadata"]["annotations"]["example.org/note"] == "seen"
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    containers = {each["name"]: each for each in pod["spec"]["containers"]}
    assert containers.keys() == {"worker", "beside"}
    assert containers["beside"]["resources"]["limits"] == {"cpu": "500m", "memory": "128Mi"}
    assert {"name": "EXTRA", "value": "from the template"} in containers["worker"]["env"]
    assert "/books" in [mount["mountPath"] for mount in containers["worker"]["volumeMounts"]]
    assert pod["spec"]["topologySpreadConstraints"][0]["labelSelector"] == {}
    # Of two containers kubectl takes the worker.
    variables = cluster.kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "env").stdout
    assert "EXTRA=from the template" in variables

    before = deployment(cluster, "templated")["metadata"]
    operator_works_on(cluster, "templated")
    after = deployment(cluster, "templated")["metadata"]
    assert (before["generation"], after["generation"]) == (1, 1)
    assert after["annotations"] == before["annotations"]

    apply(cluster, worker("templated", "templated::one"))
    pod = until_rolled(cluster, "templated", lambda pod: labelled(pod) is None)
    assert [each["name"] for each in pod["spec"]["containers"]] == ["worker"]
    assert "nodeSelector" not in pod["spec"]
    assert deployment(cluster, "templated")["metadata"]["generation"] == 2


def operator_works_on(cluster: Cluster, name: str) -> None:
    """Makes the operator pass over a Worker again, and over its Deployment; waits until it has."""
    cluster.kubectl("label", "deployment", name, "-n", NAMESPACE, "touched=yes", "--overwrite")
    cluster.kubectl("patch", "worker", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"calls":["state::*"]}}')

    def observed() -> bool:
        found = get(cluster, "worker", name)
        return found["status"]["observedGeneration"] == found["metadata"]["generation"]

    until("the operator has seen the change", observed)


OWNED = {
    "a label of the operator's": (
        {"metadata": {"labels": {"app.kubernetes.io/name": "agentos-engine"}}},
        "spec.template.metadata.labels: Invalid value: a name that is the operator's, which finds the pods by it; remove it",
    ),
    "a variable of the operator's": (
        {"spec": {"containers": [{"name": "worker", "env": [{"name": "III_URL", "value": "ws://x"}]}]}},
        "spec.template.spec.containers[0].env[0].name: III_URL is set by the operator on every worker; remove it",
    ),
    "another worker's token": (
        {"spec": {"volumes": [{"name": "v", "secret": {"secretName": "agentos-token-other"}}]}},
        "spec.template.spec.volumes[0].secret.secretName: agentos-token-other holds a Worker's identity on the bus, "
        "which no other may read; name another Secret",
    ),
    "the engine's volume": (
        {"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data-agentos-engine-0"}}]}},
        "spec.template.spec.volumes[0].persistentVolumeClaim.claimName: data-agentos-engine-0 is the volume on which the "
        "realm's engine keeps the data of all workers; name another",
    ),
    "another container in its place": (
        {"spec": {"containers": [{"$patch": "replace"}, {"name": "mine", "image": IMAGE}]}},
        "spec.template.spec.containers: the template would take away what the operator needs: the container worker",
    ),
}


@pytest.mark.parametrize(("template", "message"), OWNED.values(), ids=OWNED.keys())
def test_what_is_the_operators_is_refused_at_apply(cluster: Cluster, template: dict[str, Any], message: str) -> None:
    refused = apply(cluster, worker("greedy", "greedy::one", template=template), check=False)
    assert message in refused.stderr
    assert not get(cluster, "worker", "greedy")


def test_what_the_webhook_missed_is_told_in_status_and_runs_nothing(without_webhook: Cluster) -> None:
    cluster = without_webhook
    template, message = OWNED["a variable of the operator's"]
    apply(cluster, worker("greedy", "greedy::one", template=template))
    assert until_condition(cluster, "greedy", "ManifestValid", "False", "ManifestInvalid") == message
    assert not pods(cluster, "greedy")


def test_a_field_that_the_cluster_does_not_have_is_a_warning_and_then_told_in_its_words(cluster: Cluster) -> None:
    applied = apply(cluster, worker("typing", "typing::one", template={"spec": {"nodeSelektor": {"a": "b"}}}))
    assert "did you mean nodeSelector?" in applied.stderr
    told = 'unknown field "spec.template.spec.nodeSelektor"'
    until("the cluster's words", lambda: told in condition(get(cluster, "worker", "typing"), "Available")[2])
    apply(cluster, worker("typing", "typing::one"))
    until_ready(cluster, "typing")


def test_null_in_a_template_removes_a_field_when_it_is_applied_server_side(cluster: Cluster) -> None:
    writable = {"spec": {"containers": [{"name": "worker", "securityContext": {"readOnlyRootFilesystem": None}}]}}
    apply(cluster, worker("nulled", "nulled::one"))
    text = json.dumps(worker("nulled", "nulled::one", template=writable))
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)

    def is_writable(pod: dict[str, Any]) -> bool:
        return "readOnlyRootFilesystem" not in pod["spec"]["containers"][0]["securityContext"]

    until_rolled(cluster, "nulled", is_writable)


@pytest.fixture
def realm(cluster: Cluster) -> Iterator[Cluster]:
    """The default Realm, which has no defaults for its Workers afterwards."""
    yield cluster
    cluster.kubectl("patch", "realm", "default", "--type=merge", "-p", '{"spec":{"workerDefaults":null}}')


def test_what_a_realm_says_for_its_workers_reaches_their_pods_until_it_is_taken_back(realm: Cluster) -> None:
    cluster = realm
    apply(cluster, worker("ruled", "ruled::one", template={"metadata": {"labels": {"own": "yes"}}}))
    until_ready(cluster, "ruled")
    defaults = {
        "env": [{"name": "PROXY", "value": "realm"}, {"name": "OTEL_ENABLED", "value": "realm"}],
        "resources": {"requests": {"cpu": "11m"}},
        "template": {"metadata": {"labels": {"cost-center": "realm", "own": "no"}}},
    }
    patch = json.dumps({"spec": {"workerDefaults": defaults}})
    cluster.kubectl("patch", "realm", "default", "--type=merge", "-p", patch)
    pod = until_rolled(cluster, "ruled", lambda pod: labelled(pod) == "realm")
    (container,) = pod["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert (variables["PROXY"], variables["OTEL_ENABLED"]) == ("realm", "false")
    assert container["resources"] == {"requests": {"cpu": "11m"}}
    assert pod["metadata"]["labels"]["own"] == "yes"

    refused = {"spec": {"workerDefaults": {"template": {"spec": {"restartPolicy": "Never"}}}}}
    done = cluster.kubectl("patch", "realm", "default", "--type=merge", "-p", json.dumps(refused), check=False)
    assert "spec.workerDefaults.template.spec.restartPolicy: must be Always" in done.stderr

    cluster.kubectl("patch", "realm", "default", "--type=merge", "-p", '{"spec":{"workerDefaults":null}}')
    pod = until_rolled(cluster, "ruled", lambda pod: labelled(pod) is None)
    assert "resources" not in pod["spec"]["containers"][0] or not pod["spec"]["containers"][0]["resources"]


def test_the_table_of_fields_is_that_of_this_api_server(cluster: Cluster) -> None:
    document = json.loads(cluster.kubectl("get", "--raw", "/openapi/v3/apis/apps/v1").stdout)
    assert json.loads((files("agentos_contracts") / "pod_fields.json").read_text()) == from_openapi(document)
