"""From YAML to a function that answers."""

import json

import pytest

from tests import demo
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


def test_the_wasm_example_runs_a_real_module_over_rest(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(demo.ROOT / "examples" / "wasm-sandbox.yaml"))
    until_ready(cluster, "wasm-sandbox")
    base = f"http://{cluster.service_address(NAMESPACE, 'agentos-engine', demo.HTTP_PORT)}"
    module, key = list(demo.greet_module()), demo.api_key(cluster)
    assert demo.post(f"{base}/wasm/validate", {"moduleId": "greet", "wasm": module}, key)["valid"] is True
    answer = demo.post(f"{base}/wasm/execute", {"moduleId": "greet", "input": {"name": "Kubernetes"}}, key)
    assert "Kubernetes" in json.dumps(answer["output"])
    assert answer["fuelConsumed"] > 0
    table = cluster.kubectl("get", "workers,realms,functionclaims", "-n", NAMESPACE).stdout
    assert "wasm::*" in table
    assert "wasm-sandbox" in table


def test_ready_means_that_its_functions_are_registered_and_its_pods_gate_is_true(cluster: Cluster) -> None:
    apply(cluster, worker("greeter", "greet::hello", "greet::bye"))
    until_ready(cluster, "greeter")
    status = get(cluster, "worker", "greeter")["status"]
    assert status["functions"] == ["greet::bye", "greet::hello"]
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "ManifestValid": "True", "EngineLinked": "True", "WithinQuota": "True", "FunctionsClaimed": "True",
        "DependenciesReady": "True", "Available": "True", "Registered": "True", "Enforced": "True", "Ready": "True",
        "FunctionsInSync": "True",
    }  # fmt: skip
    pod = listed(cluster, "pods", "agentos.dev/worker=greeter")[0]
    assert condition(pod, "agentos.dev/registered")[0] == "True"


def test_everything_made_for_a_worker_goes_with_it(cluster: Cluster) -> None:
    apply(cluster, worker("short-lived", "brief::one"))
    until_ready(cluster, "short-lived")
    cluster.kubectl("delete", "worker", "short-lived", "-n", NAMESPACE)
    for kind in ("deployment", "secret", "serviceaccount", "pod"):
        until(f"no {kind} is left", lambda kind=kind: not listed(cluster, kind, "agentos.dev/worker=short-lived"), 90)
    until("its claim is gone", lambda: not get(cluster, "functionclaim", "brief"))


def test_a_worker_made_anew_under_the_same_name_is_ready_soon(cluster: Cluster) -> None:
    apply(cluster, worker("phoenix", "phoenix::one"))
    until_ready(cluster, "phoenix")
    before = get(cluster, "worker", "phoenix")["metadata"]["uid"]
    cluster.kubectl("delete", "worker", "phoenix", "-n", NAMESPACE)
    apply(cluster, worker("phoenix", "phoenix::one"))
    until_ready(cluster, "phoenix", timeout=20)
    after = get(cluster, "worker", "phoenix")["metadata"]["uid"]
    assert after != before
    for kind in ("deployment", "secret", "serviceaccount"):
        owners = [
            obj["metadata"]["ownerReferences"][0]["uid"] for obj in listed(cluster, kind, "agentos.dev/worker=phoenix")
        ]
        assert owners == [after]


def test_an_update_keeps_the_old_pod_until_the_new_one_answers(cluster: Cluster) -> None:
    first = worker("updated", "updated::one")
    apply(cluster, first)
    until_ready(cluster, "updated")
    old = listed(cluster, "pods", "agentos.dev/worker=updated")[0]["metadata"]["name"]
    broken = worker("updated", "updated::one", command=SILENT)
    apply(cluster, broken)
    until("the new pod runs", lambda: len([
        pod for pod in listed(cluster, "pods", "agentos.dev/worker=updated") if condition(pod, "ContainersReady")[0] == "True"
    ]) == 2)  # fmt: skip
    until("the rollout is told", lambda: condition(get(cluster, "worker", "updated"), "Reconciling")[0] == "True")
    assert old in [pod["metadata"]["name"] for pod in listed(cluster, "pods", "agentos.dev/worker=updated")]
    assert condition(get(cluster, "worker", "updated"), "Ready")[0] == "True"
    mended = worker("updated", "updated::one", args=[])
    mended["spec"]["env"].append({"name": "EDITION", "value": "2"})
    apply(cluster, mended)
    until("only the newest pod is left", lambda: [
        pod["spec"]["containers"][0]["env"][-1].get("value") for pod in listed(cluster, "pods", "agentos.dev/worker=updated")
    ] == ["2"], 90)  # fmt: skip
    until("nothing is under way", lambda: condition(get(cluster, "worker", "updated"), "Reconciling")[0] == "")


def test_changes_of_the_deployment_by_others_are_undone(cluster: Cluster) -> None:
    apply(cluster, worker("drifting", "drift::one"))
    until_ready(cluster, "drifting")

    def images() -> list[str]:
        pod = get(cluster, "deployment", "drifting")["spec"]["template"]["spec"]
        return [each["image"] for each in pod["containers"]]

    cluster.kubectl("set", "image", "deployment/drifting", "-n", NAMESPACE, "worker=localhost/other:1")
    until("its own image again", lambda: images() == [IMAGE])
    cluster.kubectl("delete", "deployment/drifting", "-n", NAMESPACE, "--wait=false")
    until(
        "the Deployment is back",
        lambda: get(cluster, "deployment", "drifting").get("status", {}).get("availableReplicas") == 1,
    )


def test_a_dependency_holds_the_first_start_back_until_it_is_ready(cluster: Cluster) -> None:
    needy = worker(
        "needy", "needy::one", manifest={"name": "needy", "dependencies": {"provider": "^1.2", "iii-state": "*"}}
    )
    apply(cluster, needy)
    assert until_condition(cluster, "needy", "DependenciesReady", "False", "DependencyMissing") == (
        "needs provider ^1.2, which no Worker here has as its manifest's name; apply one, or mend the dependency"
    )
    assert not listed(cluster, "pods", "agentos.dev/worker=needy")
    apply(cluster, worker("provider", "provider::one", version="1.1.0"))
    assert until_condition(cluster, "needy", "DependenciesReady", "False", "DependencyVersion") == (
        "needs provider ^1.2; Worker provider has 1.1.0; change the range or that Worker's spec.version"
    )
    apply(cluster, worker("provider", "provider::one", version="1.3.0"))
    until_ready(cluster, "provider", "needy")


def test_kubectl_explain_reads_well(cluster: Cluster) -> None:
    text = cluster.kubectl("explain", "worker.spec").stdout
    for field in ("manifest", "manifestFrom", "image", "owns", "calls", "version", "dependencies", "replicas"):
        assert f"\n  {field}\t" in text
    assert "<no description>" not in cluster.kubectl("explain", "worker.spec", "--recursive=false").stdout
