"""The objects that are made for a Worker."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from agentos_operator.plan.worker import EngineView, WorkerInput, WorkerPlan, plan

from tests.worker_snapshots import (
    EARLIER,
    GATE,
    snapshot,
)


def pod_spec(answer: WorkerPlan) -> dict:
    return answer.children[-1]["spec"]["template"]["spec"]


def test_the_deployment_tells_its_container_where_the_engine_is():
    (container,) = pod_spec(plan(snapshot()))["containers"]
    assert container["name"] == "worker"
    assert container["image"] == "wasm:1.2.3"
    assert container["env"] == [
        {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "agentos-token-wasm", "key": "token"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "III_URL", "value": "ws://agentos-engine.team.svc:49134/w/$(AGENTOS_TOKEN)/$(POD_UID)@1.2.3"},
        {"name": "III_WORKER_NAME", "value": "wasm"},
        {"name": "HOME", "value": "/tmp"},
    ]


def test_the_workers_own_environment_follows_and_its_home_is_respected():
    env = [{"name": "LOG_LEVEL", "value": "debug"}, {"name": "HOME", "value": "/data"}]
    (container,) = pod_spec(plan(snapshot(spec={"env": env})))["containers"]
    assert container["env"][-2:] == env
    assert [variable["name"] for variable in container["env"]].count("HOME") == 1


def test_what_the_spec_says_of_the_container_is_in_the_pod():
    spec = {
        "command": ["run"],
        "args": ["--fast"],
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "resources": {"limits": {"memory": "64Mi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 4,
    }
    answer = plan(snapshot(spec=spec))
    (container,) = pod_spec(answer)["containers"]
    for field in ("command", "args", "envFrom", "resources"):
        assert container[field] == spec[field]
    assert pod_spec(answer)["imagePullSecrets"] == [{"name": "registry"}]
    (made,) = [child for child in answer.children if child["kind"] == "Deployment"]
    assert made["spec"]["replicas"] == 4


def test_what_nobody_said_is_left_out_so_that_wanted_and_actual_compare():
    (container,) = pod_spec(plan(snapshot()))["containers"]
    assert not {"command", "args", "envFrom", "resources"} & container.keys()
    assert "imagePullSecrets" not in pod_spec(plan(snapshot()))

    def empties(value: Any, path: str = "") -> list[str]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in empties(item, f"{path}.{key}")] or (
                [path] if not value else []
            )
        if isinstance(value, list):
            return [found for item in value for found in empties(item, path)] or ([path] if not value else [])
        return [path] if value is None else []

    assert empties(plan(snapshot()).children[-1]) == []


def test_an_empty_variable_is_without_value_as_the_api_server_tells_it():
    (container,) = pod_spec(plan(snapshot(spec={"env": [{"name": "EMPTY", "value": ""}]})))["containers"]
    assert container["env"][-1] == {"name": "EMPTY"}


def test_templates_are_merged_into_the_pod_the_workers_over_the_realms():
    realms = {
        "metadata": {"labels": {"team": "a", "zone": "x"}},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "worker", "tty": True}]},
    }
    own = {
        "metadata": {"labels": {"zone": None}},
        "spec": {"nodeSelector": {"disk": None, "arch": "arm64"}, "containers": [{"name": "proxy", "image": "p:1"}]},
    }
    given = snapshot()
    bare = plan(given).children[-1]["spec"]["template"]
    template = plan(
        snapshot(effective=replace(given.effective, templates=[realms, own]))  # type: ignore[type-var]
    ).children[-1]["spec"]["template"]
    assert template["metadata"] == bare["metadata"] | {"labels": bare["metadata"]["labels"] | {"team": "a"}}
    assert template["spec"] == bare["spec"] | {
        "nodeSelector": {"arch": "arm64"},
        "containers": [{"name": "proxy", "image": "p:1"}, bare["spec"]["containers"][0] | {"tty": True}],
    }


def test_what_is_empty_in_a_template_stays_for_it_may_mean_something():
    anywhere = {"topologySpreadConstraints": [{"topologyKey": "zone", "labelSelector": {}}]}
    template = {"spec": anywhere}
    assert pod_spec(plan(snapshot(spec={"template": template})))["topologySpreadConstraints"] == [
        {"topologyKey": "zone", "labelSelector": {}}
    ]


def test_a_change_of_a_template_is_a_change_of_the_deployment():
    hashes = {
        plan(snapshot(spec={"template": {"metadata": {"labels": {"a": value}}}})).children[-1]["metadata"][
            "annotations"
        ]["agentos.dev/applied-hash"]
        for value in ("x", "y")
    }
    assert len(hashes) == 2


def test_kubectl_logs_takes_the_worker_of_several_containers():
    annotations = plan(snapshot()).children[-1]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "worker"


def test_the_pod_passes_pod_security_restricted():
    spec = pod_spec(plan(snapshot()))
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]


def test_the_deployment_selects_by_uid_and_waits_for_the_gate():
    made = plan(snapshot()).children[-1]
    assert made["spec"]["selector"] == {"matchLabels": {"agentos.dev/worker-uid": "w-uid"}}
    template = made["spec"]["template"]
    assert template["metadata"]["labels"]["agentos.dev/worker-uid"] == "w-uid"
    assert template["spec"]["readinessGates"] == [{"conditionType": GATE}]
    assert made["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_every_child_goes_with_its_worker_and_carries_its_labels():
    for child in plan(snapshot()).children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Worker", "wasm", "w-uid", True)
        assert child["metadata"]["namespace"] == "team"
        assert child["metadata"]["labels"] == {
            "app.kubernetes.io/name": "wasm",
            "app.kubernetes.io/managed-by": "agentos-operator",
            "agentos.dev/realm": "prod",
            "agentos.dev/worker": "wasm",
            "agentos.dev/worker-uid": "w-uid",
        }
        assert child["metadata"]["annotations"]["agentos.dev/applied-hash"]


def test_a_new_token_rolls_the_pods_and_only_its_hash_is_in_the_template():
    before, after = plan(snapshot()).children, plan(snapshot(token="another.token.here")).children

    def told(children):
        return children[-1]["spec"]["template"]["metadata"]["annotations"]["agentos.dev/token-hash"]

    assert told(before) != told(after)
    assert before[0]["data"] == {"token": base64.b64encode(b"header.claims.signature").decode()}
    assert "header.claims.signature" not in str(before[-1])


def test_the_hash_changes_with_what_is_wanted_and_only_then():
    def digest(given):
        return plan(given).children[-1]["metadata"]["annotations"]["agentos.dev/applied-hash"]

    assert digest(snapshot()) == digest(snapshot(now=datetime(2027, 1, 1, tzinfo=UTC), pods=(), connections=()))
    assert digest(snapshot()) != digest(snapshot(spec={"image": "wasm:1.2.4"}))


# --- An engine that somebody else runs ---


THEIRS = {"mode": "External", "url": "wss://theirs/w/$(TOKEN)/x", "tokenSecretRef": {"name": "engine", "key": "token"}}


def external(**engine: Any) -> WorkerInput:
    view = EngineView("prod", linked=True, up_for=100, down_for=0, external=THEIRS | engine)
    return snapshot(engine=view, token="")


def test_on_an_external_engine_a_worker_gets_its_address_and_its_token_from_the_realms_secret():
    answer = plan(external())
    assert [child["kind"] for child in answer.children] == ["ServiceAccount", "Deployment"]
    assert pod_spec(answer)["containers"][0]["env"] == [
        {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "engine", "key": "token"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "III_URL", "value": "wss://theirs/w/$(AGENTOS_TOKEN)/x"},
        {"name": "HOME", "value": "/tmp"},
    ]


def test_an_external_engine_without_a_token_is_given_none():
    (container,) = pod_spec(plan(external(url="ws://theirs:49134", tokenSecretRef=None)))["containers"]
    assert [variable["name"] for variable in container["env"]] == ["POD_UID", "III_URL", "HOME"]
    assert container["env"][1]["value"] == "ws://theirs:49134"


def test_whether_ownership_is_enforced_is_told_beside_ready():
    told = {
        where: {c["type"]: c["status"] for c in plan(given).status["conditions"]}
        for where, given in (("own", snapshot()), ("external", external()), ("none", snapshot(engine=None)))
    }
    assert (told["own"]["Ready"], told["own"]["Enforced"]) == ("True", "True")
    assert (told["external"]["Ready"], told["external"]["Enforced"]) == ("True", "False")
    assert "Enforced" not in told["none"]


def test_an_outage_shorter_than_the_grace_changes_nothing_in_a_workers_status():
    up = snapshot().worker
    up["status"] = plan(snapshot()).status
    for each in up["status"]["conditions"]:
        each["lastTransitionTime"] = EARLIER
    down = EngineView("prod", linked=False, up_for=0, down_for=10)
    assert plan(snapshot(engine=down, worker=up)).status["conditions"] == up["status"]["conditions"]
