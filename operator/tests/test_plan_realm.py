"""What is decided for one Realm."""

import base64
import copy
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from agentos_contracts import reasons
from agentos_contracts.findings import error, warning
from agentos_contracts.quota import Allotment, Usage
from agentos_operator.plan.realm import RealmInput, RealmPlan, deleting, own_namespace, plan

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EARLIER = "2026-01-01T00:00:00Z"


def realm(spec: dict | None = None, conditions: dict[str, str] | None = None) -> dict:
    known = [{"type": k, "status": s, "lastTransitionTime": EARLIER} for k, s in (conditions or {}).items()]
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Realm",
        "metadata": {"name": "prod", "uid": "r-uid", "generation": 2, "creationTimestamp": EARLIER},
        "spec": {"namespace": "team"} | (spec or {}),
        "status": {"conditions": known},
    }


def namespace(label: str | None = "prod", **metadata: Any) -> dict:
    labels = {"agentos.dev/realm": label} if label else {}
    return {"metadata": {"name": "team", "labels": labels} | metadata}


def snapshot(**changes: Any) -> RealmInput:
    """A healthy Realm, but for the changes; ``spec`` and ``conditions`` change the Realm itself."""
    values: dict[str, Any] = {
        "realm": realm(changes.pop("spec", None), changes.pop("conditions", None)),
        "now": NOW,
        "findings": (),
        "namespace": namespace(),
        "rival": "",
        "statefulset": {"status": {"readyReplicas": 1}},
        "pods": (),
        "unbound_volume": "",
        "linked": True,
        "down_for": 0.0,
        "link_error": "",
        "connections": 3,
        "workers": (),
        "image": "agentos:1",
        "verify_keys": "public-key",
        "grace": 15.0,
    }
    return RealmInput(**values | changes)


def condition(answer: RealmPlan, kind: str) -> dict:
    return next((c for c in answer.status["conditions"] if c["type"] == kind), {})


def child(answer: RealmPlan, kind: str) -> dict:
    (found,) = (each for each in answer.children if each["kind"] == kind)
    return found


def waiting(reason: str, **status: Any) -> dict:
    told = [{"image": "agentos:1", "ready": False, "state": {"waiting": {"reason": reason}}} | status]
    metadata = {"name": "agentos-engine-0", "namespace": "team", "uid": "p", "creationTimestamp": EARLIER}
    return {"metadata": metadata, "status": {"phase": "Pending", "containerStatuses": told}}


REFUSAL = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
UNSCHEDULABLE = waiting("")
UNSCHEDULABLE["status"]["conditions"] = [
    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient memory"}
]
EXTERNAL = {"engine": {"mode": "External", "url": "ws://theirs:49134/w/$(TOKEN)", "tokenSecretRef": {"name": "engine"}}}
BY_INGRESS = {
    "http": {
        "expose": {
            "type": "Ingress",
            "host": "team.example.org",
            "path": "/api",
            "ingress": {"className": "public", "tlsSecretName": "team-tls", "annotations": {"example.org/a": "b"}},
        }
    }
}
BY_GATEWAY = {
    "http": {
        "expose": {
            "type": "Gateway",
            "host": "team.example.org",
            "gateway": {"name": "public", "namespace": "edge", "sectionName": "https"},
        }
    }
}
GATEWAY = {"spec": {"listeners": [{"name": "http", "protocol": "HTTP"}, {"name": "https", "protocol": "HTTPS"}]}}


def route(**conditions: str) -> dict:
    told = [
        {"type": kind, "status": value, "reason": "Told", "message": f"{kind} is {value}"}
        for kind, value in conditions.items()
    ]
    return {"status": {"parents": [{"conditions": told}]}}


TWO_PODS = Allotment(Usage(1, 2, 3, Decimal("0.5"), Decimal(2**31)), {})
NO_ENGINE = {"statefulset": None, "linked": False}
TABLE = [
    ("namespace is its own", {}, "NamespaceReady", True, reasons.NAMESPACE_READY, None),
    ("namespace is not there yet", {"namespace": None}, "NamespaceReady", True, reasons.NAMESPACE_READY, None),
    ("namespace of nobody", {"namespace": namespace(None)}, "NamespaceReady", True, reasons.NAMESPACE_READY, None),
    (
        "another Realm has it",
        {"rival": "old", **NO_ENGINE},
        "NamespaceReady",
        False,
        reasons.NAMESPACE_TAKEN,
        "namespace team belongs to Realm old; give this Realm another spec.namespace",
    ),
    (
        "namespace goes away",
        {"namespace": namespace(deletionTimestamp=EARLIER), **NO_ENGINE},
        "NamespaceReady",
        False,
        reasons.NAMESPACE_TERMINATING,
        "namespace team is being deleted; wait until it is gone",
    ),
    (
        "namespace is not there, and not the operator's to make",
        {"namespace": None, "makes_namespaces": False, **NO_ENGINE},
        "NamespaceReady",
        False,
        reasons.NAMESPACE_MISSING,
        "namespace team is not there, or the operator has no rights in it; make it, then repeat helm upgrade, which brings "
        "the rights",
    ),
    (
        "errors in the spec",
        {
            "findings": [
                error("spec.engine.mode", "E", "must be Dedicated"),
                warning("x", "W", "y"),
                error("a", "E", "b"),
            ]
        },
        "NamespaceReady",
        False,
        reasons.REALM_INVALID,
        "spec.engine.mode: must be Dedicated; a: b",
    ),
    ("engine runs", {}, "EngineAvailable", True, reasons.ENGINE_AVAILABLE, None),
    ("engine not wanted", {"rival": "old"}, "EngineAvailable", False, reasons.NOT_STARTED, None),
    ("engine starts", NO_ENGINE, "EngineAvailable", False, reasons.ENGINE_STARTING, "waiting for the engine's pod"),
    (
        "volume is not bound",
        NO_ENGINE | {"unbound_volume": "data-agentos-engine-0"},
        "EngineAvailable",
        False,
        reasons.ENGINE_STORAGE_PENDING,
        "the volume data-agentos-engine-0 is not bound; see kubectl describe pvc -n team data-agentos-engine-0",
    ),
    (
        "image cannot be pulled",
        NO_ENGINE | {"pods": [waiting("ImagePullBackOff")]},
        "EngineAvailable",
        False,
        reasons.IMAGE_PULL_FAILED,
        'the image "agentos:1" cannot be pulled; mend spec.image, or name a pull secret in spec.imagePullSecrets',
    ),
    (
        "engine crashes",
        NO_ENGINE | {"pods": [waiting("CrashLoopBackOff")]},
        "EngineAvailable",
        False,
        reasons.CRASH_LOOPING,
        "the container ends again and again (exit code unknown); look at its last words: "
        "kubectl logs -n team agentos-engine-0 --previous",
    ),
    (
        "engine's container cannot be made",
        NO_ENGINE | {"pods": [waiting("CreateContainerError")]},
        "EngineAvailable",
        False,
        reasons.CONTAINER_CONFIG_INVALID,
        "the container cannot be started: CreateContainerError",
    ),
    (
        "no node takes the engine",
        NO_ENGINE | {"pods": [UNSCHEDULABLE]},
        "EngineAvailable",
        False,
        reasons.UNSCHEDULABLE,
        "no node takes the pod: Insufficient memory",
    ),
    (
        "engine's pod is refused",
        {"linked": False, "statefulset": {"status": {"conditions": [REFUSAL]}}},
        "EngineAvailable",
        False,
        reasons.POD_REFUSED,
        "the cluster refuses to make the pod: exceeded quota",
    ),
    ("somebody else's engine", {"spec": EXTERNAL}, "EngineAvailable", True, reasons.EXTERNAL_ENGINE, None),
    (
        "no token for somebody else's engine",
        {"spec": EXTERNAL, "linked": False, "token_missing": "Secret engine is not there in namespace team"},
        "EngineLinked",
        False,
        reasons.TOKEN_MISSING,
        "Secret engine is not there in namespace team",
    ),
    ("keys are not being rotated", {}, "TokensCurrent", True, reasons.TOKENS_CURRENT, None),
    (
        "somebody uses the key before",
        {"rotating_until": NOW, "old_key_users": ["team/a", "team/b"]},
        "TokensCurrent",
        False,
        reasons.KEY_ROTATION,
        "the signing key before is still used by team/a, team/b; at 03:04 UTC it ends in any case",
    ),
    (
        "somebody elsewhere uses the key before",
        {"rotating_until": NOW},
        "TokensCurrent",
        False,
        reasons.KEY_ROTATION,
        "nobody here uses the signing key before any more; other realms may; at 03:04 UTC it ends in any case",
    ),
    ("engine of its own", {}, "Enforced", True, reasons.ENGINE_ENFORCES, None),
    ("engine of somebody else", {"spec": EXTERNAL}, "Enforced", False, reasons.ENGINE_NOT_OURS, None),
    ("link is up", {}, "EngineLinked", True, reasons.LINKED, None),
    (
        "no engine to link to",
        NO_ENGINE,
        "EngineLinked",
        False,
        reasons.ENGINE_NOT_READY,
        "the engine is not there yet",
    ),
    (
        "engine refuses grants",
        {"link_error": "the engine refuses grants: disk full"},
        "EngineLinked",
        True,
        reasons.LINKED,
        "the engine refuses grants: disk full",
    ),
    (
        "link down within the grace",
        {"linked": False, "down_for": 14.0, "conditions": {"EngineLinked": "True"}},
        "EngineLinked",
        True,
        reasons.LINKED,
        "the link has been down for less than 15 s",
    ),
    (
        "link not up yet",
        {"linked": False, "down_for": 2.0},
        "EngineLinked",
        False,
        reasons.ENGINE_NOT_READY,
        "waiting for the first connection to the engine",
    ),
    (
        "link down longer",
        {"linked": False, "down_for": 15.0, "conditions": {"EngineLinked": "True"}},
        "EngineLinked",
        False,
        reasons.ENGINE_UNREACHABLE,
        "the operator cannot reach the engine at agentos-engine.team.svc:49134; look at the engine's logs",
    ),
    ("no quota", {}, "WithinQuota", True, reasons.WITHIN_QUOTA, None),
    (
        "a Worker waits for room",
        {"spec": {"quota": {"replicas": 2}}, "allotment": Allotment(Usage(1, 2), {"u": ()})},
        "WithinQuota",
        True,
        reasons.WITHIN_QUOTA,
        "1 Worker waits for room",
    ),
    (
        "the quota was lowered",
        {"spec": {"quota": {"replicas": 1, "memory": "1Gi", "workers": 1}}, "allotment": TWO_PODS},
        "WithinQuota",
        False,
        reasons.QUOTA_EXCEEDED,
        "more is used than spec.quota allows: replicas 2 of 1, memory 2Gi of 1Gi; what runs goes on, nothing grows",
    ),
    ("REST stays inside", {}, "Exposed", True, reasons.NOT_EXPOSED, None),
    ("expose says None", {"spec": {"http": {"expose": {"type": "None"}}}}, "Exposed", True, reasons.NOT_EXPOSED, None),
    ("namespace is another's", {"rival": "old"}, "Exposed", False, reasons.NOT_STARTED, None),
    (
        "Ingress is served",
        {"spec": BY_INGRESS, "exposed": {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}},
        "Exposed",
        True,
        reasons.EXPOSED,
        "https://team.example.org/api",
    ),
    (
        "Ingress is not served yet",
        {"spec": BY_INGRESS, "exposed": {"status": {"loadBalancer": {}}}},
        "Exposed",
        True,
        reasons.ADDRESS_PENDING,
        "no controller has told yet that it serves the Ingress (IngressClass public)",
    ),
    (
        "route is taken",
        {"spec": BY_GATEWAY, "exposed": route(Accepted="True", ResolvedRefs="True"), "gateway": GATEWAY},
        "Exposed",
        True,
        reasons.EXPOSED,
        "https://team.example.org/",
    ),
    (
        "route is refused",
        {"spec": BY_GATEWAY, "exposed": route(Accepted="False", ResolvedRefs="True")},
        "Exposed",
        False,
        reasons.ROUTE_REFUSED,
        "Gateway edge/public does not take the HTTPRoute: Told: Accepted is False",
    ),
    (
        "no controller for the Gateway",
        {"spec": BY_GATEWAY},
        "Exposed",
        True,
        reasons.ADDRESS_PENDING,
        "no controller has told yet that it serves the HTTPRoute (Gateway edge/public)",
    ),
    (
        "no Gateway API",
        {"spec": BY_GATEWAY, "gateway_api": False},
        "Exposed",
        False,
        reasons.GATEWAY_API_MISSING,
        "the cluster has no HTTPRoutes: install the Gateway API's CRDs and a controller, or set spec.http.expose.type to "
        "Ingress",
    ),
    (
        "link never up, with its error",
        {"linked": False, "down_for": 20.0, "link_error": "the engine refused the operator: unknown key"},
        "EngineLinked",
        False,
        reasons.ENGINE_UNREACHABLE,
        "the operator cannot reach the engine at agentos-engine.team.svc:49134 "
        "(the engine refused the operator: unknown key); look at the engine's logs",
    ),
]


@pytest.mark.parametrize(
    ("changes", "kind", "ok", "reason", "message"),
    [pytest.param(*row[1:], id=f"{row[2]}-{row[4].name}-{row[0]}") for row in TABLE],
)
def test_every_condition_tells_its_reason_and_what_to_do(changes, kind, ok, reason, message):
    told = condition(plan(snapshot(**changes)), kind)
    assert told["status"] == ("True" if ok else "False")
    assert told["reason"] == reason.name
    assert told["message"] == (reason.meaning if message is None else message)


def test_the_table_above_has_just_the_documented_reasons():
    documented = {(str(kind), reason.name) for kind, listed in reasons.REALM_REASONS.items() for reason in listed}
    assert {(row[2], row[4].name) for row in TABLE} | {("EngineAvailable", "Deleting")} == documented


def test_a_realm_over_its_quota_is_ready_and_tells_how_much_is_used():
    quota = {"replicas": 1}
    answer = plan(snapshot(spec={"quota": quota}, allotment=TWO_PODS))
    assert condition(answer, "Ready")["status"] == "True"
    used = {"workers": 1, "replicas": 2, "functions": 3, "cpu": "500m", "memory": "2Gi"}
    assert answer.status["quota"] == {"used": used, "limit": quota}
    assert plan(snapshot()).status["quota"] is None


def test_a_healthy_realm_has_network_policies_account_service_and_engine():
    answer = plan(snapshot())
    kinds = [child["kind"] for child in answer.children]
    assert kinds == ["NetworkPolicy", "NetworkPolicy", "ServiceAccount", "Service", "Secret", "StatefulSet"]
    assert condition(answer, "Ready")["status"] == "True"
    assert answer.namespace is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"rival": "old"}, id="taken"),
        pytest.param({"findings": [error("spec", "E", "bad")]}, id="invalid"),
        pytest.param({"namespace": namespace(deletionTimestamp=EARLIER)}, id="terminating"),
    ],
)
def test_nothing_is_made_in_a_namespace_that_it_cannot_have(changes):
    answer = plan(snapshot(**{"namespace": None} | changes))
    assert (answer.namespace, answer.children) == (None, ())
    assert condition(answer, "Ready")["status"] == "False"


@pytest.mark.parametrize(
    ("there", "made"),
    [
        pytest.param(None, True, id="missing"),
        pytest.param(namespace(None), True, id="unlabelled"),
        pytest.param(namespace("other"), True, id="left by another"),
        pytest.param(namespace(), False, id="its own"),
    ],
)
def test_the_namespace_is_made_or_marked_once(there, made):
    wanted = plan(snapshot(namespace=there)).namespace
    assert (wanted is not None) == made
    if wanted:
        assert wanted["metadata"]["name"] == "team"
        assert wanted["metadata"]["labels"]["agentos.dev/realm"] == "prod"


def test_a_namespace_goes_with_its_realm_only_when_the_realm_says_so():
    kept = plan(snapshot(namespace=None)).namespace
    deleted = plan(snapshot(namespace=None, spec={"deletionPolicy": "Delete"})).namespace
    assert "ownerReferences" not in kept["metadata"]
    assert deleted["metadata"]["ownerReferences"][0]["uid"] == "r-uid"


def engine_of(**spec: Any) -> dict:
    return plan(snapshot(spec=spec)).children[-1]["spec"]


def test_the_engine_is_told_its_realm_and_the_verifying_key():
    (container,) = engine_of()["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") or variable["valueFrom"] for variable in container["env"]}
    assert env == {
        "AGENTOS_HOST": "0.0.0.0",
        "AGENTOS_REALM": "prod",
        "AGENTOS_VERIFY_KEYS": {"secretKeyRef": {"name": "agentos-verify-keys", "key": "keys"}},
        "AGENTOS_DATA_DIR": "/data",
        "AGENTOS_CONSOLE_PORT": "3113",
        "AGENTOS_HTTP_AUTH": '{"apiKeysFile": "/etc/agentos/api-key/key", "auth": "apiKey"}',
    }
    assert container["image"] == "agentos:1"


JWT = {"issuer": "https://login.example.org", "audience": "agentos", "jwksUrl": "https://login.example.org/keys"}
NO_KEY = [
    pytest.param({"auth": "none"}, id="none"),
    pytest.param({"auth": "jwt", "jwt": JWT}, id="jwt"),
    pytest.param({"auth": "none", "routes": [{"path": "/api/*", "auth": "jwt"}], "jwt": JWT}, id="jwt by route"),
]
KEY = [
    pytest.param(None, id="not said"),
    pytest.param({}, id="empty"),
    pytest.param({"auth": "apiKey"}, id="said"),
    pytest.param({"auth": "none", "routes": [{"path": "/api/*", "auth": "apiKey"}]}, id="by route"),
]


def http_auth_of(**spec: Any) -> dict:
    """What the engine is told, as it reads it: Kubernetes turns $$ into $."""
    (container,) = engine_of(**spec)["template"]["spec"]["containers"]
    (text,) = [variable["value"] for variable in container["env"] if variable["name"] == "AGENTOS_HTTP_AUTH"]
    return json.loads(text.replace("$$", "$"))


@pytest.mark.parametrize("http", KEY)
def test_an_engine_that_asks_for_a_key_reads_it_from_the_secret(http):
    answer = plan(snapshot(spec={"http": http} if http is not None else {}))
    pod = answer.children[-1]["spec"]["template"]["spec"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "api-key"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "api-key"]
    assert volume["secret"] == {"secretName": "agentos-api-key", "defaultMode": 0o440, "optional": False}
    assert (mount["readOnly"], "subPath" in mount) == (True, False)
    assert http_auth_of(http=http)["apiKeysFile"] == f"{mount['mountPath']}/key"
    metadata = answer.api_key["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("agentos-api-key", "team")
    assert "data" not in answer.api_key


@pytest.mark.parametrize("http", NO_KEY)
def test_without_api_keys_there_is_no_secret_and_no_mount(http):
    answer = plan(snapshot(spec={"http": http}))
    pod = answer.children[-1]["spec"]["template"]["spec"]
    assert answer.api_key is None
    assert "api-key" not in [part["name"] for part in (*pod["volumes"], *pod["containers"][0]["volumeMounts"])]
    assert "apiKeysFile" not in http_auth_of(http=http)


def test_the_engine_is_told_routes_and_issuer_to_the_letter():
    routes = [{"path": "/$(AGENTOS_REALM)/*", "methods": ["POST"], "auth": "none"}]
    told = http_auth_of(http={"auth": "jwt", "jwt": JWT, "routes": routes})
    assert told == {"auth": "jwt", "jwt": JWT, "routes": routes}
    assert "$$(AGENTOS_REALM)" in str(engine_of(http={"auth": "jwt", "jwt": JWT, "routes": routes}))


def test_a_change_of_who_is_let_in_rolls_the_engine_and_the_status_tells_it():
    before, after = plan(snapshot()), plan(snapshot(spec={"http": {"auth": "none"}}))
    assert before.children[-1]["spec"]["template"] != after.children[-1]["spec"]["template"]
    assert (before.status["engine"]["httpAuth"], after.status["engine"]["httpAuth"]) == ("apiKey", "none")


def test_the_api_key_goes_with_its_realm_only_when_the_realm_says_so():
    kept = plan(snapshot()).api_key
    deleted = plan(snapshot(spec={"deletionPolicy": "Delete"})).api_key
    assert "ownerReferences" not in kept["metadata"]
    assert deleted["metadata"]["ownerReferences"][0]["uid"] == "r-uid"


def test_no_key_is_made_in_a_namespace_that_the_realm_cannot_have():
    assert plan(snapshot(rival="old")).api_key is None


def test_the_console_of_an_engine_is_reached_from_inside_its_pod_only():
    service = child(plan(snapshot()), "Service")
    (container,) = engine_of()["template"]["spec"]["containers"]
    offered = [port["port"] for port in service["spec"]["ports"]] + [
        port["containerPort"] for port in container["ports"]
    ]
    assert 3113 not in offered


def test_an_engine_without_storage_has_an_empty_folder_for_its_data():
    spec = engine_of()
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {}} in spec["template"]["spec"]["volumes"]


@pytest.mark.parametrize(("policy", "when_deleted"), [("Retain", "Retain"), ("Delete", "Delete"), (None, "Retain")])
def test_an_engines_volume_is_as_asked_for(policy, when_deleted):
    storage = {"size": "10Gi", "storageClassName": "fast"}
    spec = engine_of(engine={"storage": storage}, **({"deletionPolicy": policy} if policy else {}))
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["metadata"] == {"name": "data"}
    assert claim["spec"]["resources"] == {"requests": {"storage": "10Gi"}}
    assert claim["spec"]["storageClassName"] == "fast"
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == when_deleted
    assert [volume["name"] for volume in spec["template"]["spec"]["volumes"]] == ["tmp", "api-key"]


def test_a_volume_of_the_clusters_default_class_names_none():
    (claim,) = engine_of(engine={"storage": {"size": 1024}})["volumeClaimTemplates"]
    assert "storageClassName" not in claim["spec"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "1024"}}


def test_image_and_resources_of_the_engine_can_be_set():
    resources = {"limits": {"memory": "2Gi"}}
    (container,) = engine_of(engine={"image": "mine:2", "resources": resources})["template"]["spec"]["containers"]
    assert (container["image"], container["resources"]) == ("mine:2", resources)


def test_the_engine_passes_pod_security_restricted():
    spec = engine_of()["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False


def test_the_service_finds_only_this_realms_engine_by_the_ports_names():
    service = child(plan(snapshot()), "Service")
    template = child(plan(snapshot()), "StatefulSet")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    names = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == names


def test_workers_connections_and_addresses_are_told():
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    status = plan(snapshot(workers=[ready, {"status": {}}, {}])).status
    assert (status["workers"], status["readyWorkers"]) == (3, 1)
    assert status["engine"] == {
        "url": "ws://agentos-engine.team.svc:49134",
        "httpUrl": "http://agentos-engine.team.svc:3111",
        "httpAuth": "apiKey",
        "connections": 3,
    }
    assert status["observedGeneration"] == 2


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param(NO_ENGINE, "Reconciling", id="starting"),
        pytest.param({"rival": "old"}, "Stalled", id="taken"),
        pytest.param({"findings": [error("spec", "E", "bad")]}, "Stalled", id="invalid"),
    ],
)
def test_kstatus_knows_whether_it_goes_on_by_itself(changes, kind):
    answer = plan(snapshot(**changes))
    assert condition(answer, kind)["status"] == "True"
    assert not condition(answer, "Stalled" if kind == "Reconciling" else "Reconciling")


@pytest.mark.parametrize("changes", [pytest.param(row[1], id=row[0]) for row in TABLE])
def test_the_same_input_gives_the_same_plan_and_is_not_changed(changes):
    given = snapshot(**changes)
    untouched = copy.deepcopy(given)
    assert plan(given) == plan(copy.deepcopy(untouched))
    assert given == untouched


@pytest.mark.parametrize(
    ("resource", "refused"),
    [
        ({"spec": {"namespace": "agentos-system"}}, True),
        ({"spec": {"namespace": "team"}}, False),
        ({"spec": None}, False),
        ({}, False),
    ],
)
def test_the_operators_own_namespace_is_no_realms(resource, refused):
    told = [str(finding) for finding in own_namespace(resource, "agentos-system")]
    assert told == (
        [
            "spec.namespace: agentos-system is the operator's own, with the key that signs identities; "
            "give the Realm another namespace"
        ]
        if refused
        else []
    )


def test_the_engine_is_told_where_its_traces_go():
    told = {"AGENTOS_TRACE_RATIO": "0.5", "AGENTOS_OTLP_ENDPOINT": "http://collector:4318/$(X)"}
    (engine,) = (each for each in plan(snapshot(engine_environment=told)).children if each["kind"] == "StatefulSet")
    (container,) = engine["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["AGENTOS_TRACE_RATIO"] == "0.5"
    assert environment["AGENTOS_OTLP_ENDPOINT"] == "http://collector:4318/$$(X)"


def test_a_change_of_the_keys_changes_their_secret_and_does_not_restart_the_engine():
    (one, two) = (plan(snapshot(verify_keys=keys)).children for keys in ("old", "new,old"))
    (changed,) = (b for a, b in zip(one, two, strict=True) if a != b)
    assert changed["metadata"]["name"] == "agentos-verify-keys"
    assert base64.b64decode(changed["data"]["keys"]) == b"new,old"


# --- An engine that somebody else runs ---


def test_nothing_is_made_for_an_external_engine_and_it_is_linked_to():
    answer = plan(snapshot(spec=EXTERNAL, statefulset=None, namespace=None))
    assert (answer.children, answer.api_key, answer.link) == ((), None, True)
    assert answer.namespace is not None
    assert condition(answer, "EngineAvailable")["reason"] == "ExternalEngine"
    assert condition(answer, "Ready")["status"] == "True"
    assert answer.status["engine"] == {"url": "ws://theirs:49134/w/$(TOKEN)", "connections": 3}


def test_an_engine_of_its_own_enforces_and_an_external_one_does_not_whatever_ready_says():
    assert condition(plan(snapshot()), "Enforced") | {"message": ""} == {
        "type": "Enforced", "status": "True", "reason": "EngineEnforces", "message": "", "observedGeneration": 2,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    told = condition(plan(snapshot(spec=EXTERNAL)), "Enforced")
    assert (told["status"], told["reason"]) == ("False", "EngineNotOurs")
    assert "Clashes are detected, not prevented." in told["message"]


def test_a_stranger_that_serves_what_a_worker_holds_is_named():
    clashes = {
        ("memory", "laptop:42"): frozenset({"memory::recall"}),
        ("wasm", "laptop:42"): frozenset({"wasm::a", "wasm::b"}),
    }
    told = condition(plan(snapshot(spec=EXTERNAL, clashes=clashes)), "Enforced")["message"]
    assert told.endswith(
        "memory::recall of Worker memory is also served by laptop:42. wasm::a, wasm::b of Worker wasm are also served by laptop:42."
    )


def test_without_its_token_an_external_engine_is_not_linked_to_and_the_secret_is_named():
    answer = plan(snapshot(spec=EXTERNAL, linked=False, token_missing="Secret engine is not there in namespace team"))
    assert not answer.link
    assert condition(answer, "Ready")["reason"] == "TokenMissing"
    assert condition(answer, "Ready")["message"] == "Secret engine is not there in namespace team"


def test_an_external_engine_out_of_reach_is_told_with_its_address_and_without_a_token():
    down = {"linked": False, "down_for": 20.0, "link_error": "no route"}
    assert condition(plan(snapshot(spec=EXTERNAL, **down)), "EngineLinked")["message"] == (
        "the operator cannot reach the engine at ws://theirs:49134/w/<redacted> (no route); "
        "see that it runs, and that spec.engine is right"
    )


# --- The Workers in sum ---


def test_workers_that_are_not_ready_are_counted_by_reason():
    def one(status: str, reason: str) -> dict:
        return {"status": {"conditions": [{"type": "Ready", "status": status, "reason": reason}]}}

    workers = [one("True", "Ready"), one("False", "Clash"), one("False", "CrashLooping"), one("False", "Clash"), {}]
    status = plan(snapshot(workers=workers)).status
    assert (status["workers"], status["readyWorkers"]) == (5, 1)
    assert status["notReady"] == [
        {"reason": "Clash", "workers": 2},
        {"reason": "CrashLooping", "workers": 1},
        {"reason": "Unknown", "workers": 1},
    ]


# --- A Realm that is being deleted ---


@pytest.mark.parametrize(
    ("engine", "workers", "message"),
    [
        (
            1,
            3,
            "waiting for the engine's pod agentos-engine-0, which lets calls in progress end and the pods of 2 Workers",
        ),
        (0, 1, "waiting for the pods of 1 Worker"),
        (0, 0, "waiting for the cluster to remove what belongs to it"),
    ],
)
def test_a_realm_that_is_being_deleted_says_what_it_waits_for(engine, workers, message):
    pods = [{"metadata": {"labels": {"agentos.dev/worker": f"w{number % 2}"}}} for number in range(workers)]
    status = deleting(realm(), [{"metadata": {"name": "agentos-engine-0"}}] * engine, pods, NOW)
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "Deleting", message)
