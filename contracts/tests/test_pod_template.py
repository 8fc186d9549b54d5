"""A pod template of a Worker or a Realm: what may be said in it, and what is the operator's."""

import pytest
from agentos_contracts.findings import errors, warnings
from agentos_contracts.pod_template import template_findings
from agentos_contracts.validation import validate

MANIFEST = {"iii": "v1", "name": "w"}


def worker(**spec):
    spec = {"image": "w:1", "manifest": MANIFEST} | spec
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Worker", "metadata": {"name": "w"}, "spec": spec}


def realm(**defaults):
    spec = {"namespace": "team", "workerDefaults": defaults}
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "r"}, "spec": spec}


def container(**fields):
    return {"spec": {"containers": [{"name": "worker"} | fields]}}


def pod(**fields):
    return {"spec": fields}


GATE = {"conditionType": "agentos.dev/registered"}
ALLOWED = {
    "nothing": {},
    "labels and annotations": {"metadata": {"labels": {"team": "a"}, "annotations": {"prometheus.io/scrape": "true"}}},
    "a place on the nodes": pod(nodeSelector={"disk": "ssd"}, tolerations=[{"key": "gpu", "operator": "Exists"}]),
    "another container beside the worker": pod(containers=[{"name": "proxy", "image": "p:1"}]),
    "a container before it": pod(initContainers=[{"name": "fetch", "image": "f:1", "restartPolicy": "Always"}]),
    "a larger folder for temporary files": pod(volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}}]),
    "a writable file system": container(securityContext={"readOnlyRootFilesystem": False}),
    "probes and hooks": container(
        livenessProbe={"exec": {"command": ["x"]}}, lifecycle={"preStop": {"sleep": {"seconds": 5}}}
    ),
    "a longer end": pod(terminationGracePeriodSeconds=120),
    "another readiness gate beside ours": pod(readinessGates=[GATE, {"conditionType": "example.org/warm"}]),
    "a Secret of its own": pod(volumes=[{"name": "tls", "secret": {"secretName": "my-tls"}}]),
    "quantities as numbers": container(resources={"limits": {"cpu": 2, "memory": "1Gi"}, "requests": {"cpu": 0.5}}),
    "a port by name or number": container(readinessProbe={"httpGet": {"port": "http"}}, ports=[{"containerPort": 80}]),
    "a field taken away": container(securityContext={"capabilities": None}, env=[{"name": "HOME", "$patch": "delete"}]),
    "an order that keeps ours": container(**{"$setElementOrder/env": [{"name": "LOG_LEVEL"}]}),
}


@pytest.mark.parametrize("template", ALLOWED.values(), ids=ALLOWED.keys())
def test_everything_that_a_pod_can_have_may_be_said(template):
    assert validate(worker(template=template)) == []
    assert validate(realm(template=template)) == []


FIND = "is the operator's, which finds the pods by it; remove it"
SET = "is set by the operator on every worker; remove it"
LOST = "the template would take away what the operator needs: "
TOKEN = "agentos-token-other holds a Worker's identity on the bus, which no other may read; name another Secret"
KEY = "agentos-api-key holds the key of the realm's REST port, which is for its callers; name another Secret"
DISK = "data-agentos-engine-0 is the volume on which the realm's engine keeps the data of all workers; name another"
ACCOUNT = "has a field of its own; set spec.serviceAccountName of the Worker"
OWNED = {
    "the label by which pods are counted": (
        {"metadata": {"labels": {"agentos.dev/worker-uid": "x"}}},
        "metadata.labels[agentos.dev/worker-uid]",
        FIND,
    ),
    "the label of the engine's Service": (
        {"metadata": {"labels": {"app.kubernetes.io/name": "agentos-engine"}}},
        "metadata.labels[app.kubernetes.io/name]",
        FIND,
    ),
    "removing a label of ours": (
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
        "metadata.labels[app.kubernetes.io/managed-by]",
        FIND,
    ),
    "replacing all labels": (
        {"metadata": {"labels": {"$patch": "replace", "a": "b"}}},
        "metadata.labels",
        f"{LOST}its labels",
    ),
    "removing all labels": ({"metadata": {"labels": None}}, "metadata.labels", f"{LOST}its labels"),
    "keeping other labels only": (
        {"metadata": {"labels": {"$retainKeys": ["a"]}}},
        "metadata.labels",
        f"{LOST}its labels",
    ),
    "an annotation of ours": (
        {"metadata": {"annotations": {"agentos.dev/token-hash": "x"}}},
        "metadata.annotations[agentos.dev/token-hash]",
        "is the operator's; remove it",
    ),
    "removing all annotations": ({"metadata": {"annotations": None}}, "metadata.annotations", f"{LOST}its annotations"),
    "other metadata": (
        {"metadata": {"name": "x"}},
        "metadata.name",
        "means nothing in a template of pods; only labels and annotations do",
    ),
    "the engine's address": (
        container(env=[{"name": "A"}, {"name": "III_URL", "value": "ws://other"}]),
        "spec.containers[0].env[1].name",
        f"III_URL {SET}",
    ),
    "removing the token": (
        container(env=[{"name": "AGENTOS_TOKEN", "$patch": "delete"}]),
        "spec.containers[0].env[0].name",
        f"AGENTOS_TOKEN {SET}",
    ),
    "removing all variables": (
        container(env=None),
        "spec.containers",
        f"{LOST}the variables of the container worker, in their order",
    ),
    "an order by which the address lacks the token": (
        container(**{"$setElementOrder/env": [{"name": "III_URL"}, {"name": "AGENTOS_TOKEN"}]}),
        "spec.containers",
        f"{LOST}the variables of the container worker, in their order",
    ),
    "deleting the container": (
        pod(containers=[{"name": "worker", "$patch": "delete"}]),
        "spec.containers",
        f"{LOST}the container worker",
    ),
    "replacing the containers": (
        pod(containers=[{"$patch": "replace"}, {"name": "mine", "image": "m:1"}]),
        "spec.containers",
        f"{LOST}the container worker",
    ),
    "replacing the container by one of the same name": (
        pod(containers=[{"$patch": "replace"}, {"name": "worker", "image": "m:1"}]),
        "spec.containers",
        f"{LOST}the variables of the container worker, in their order",
    ),
    "other gates instead of ours": (
        pod(readinessGates=[{"conditionType": "example.org/warm"}]),
        "spec.readinessGates",
        f"{LOST}its readiness gate; add {{conditionType: agentos.dev/registered}} to the list",
    ),
    "no gates": (
        pod(readinessGates=None),
        "spec.readinessGates",
        f"{LOST}its readiness gate; add {{conditionType: agentos.dev/registered}} to the list",
    ),
    "pods that end": (
        pod(restartPolicy="Never"),
        "spec.restartPolicy",
        "must be Always, as for every Deployment; remove it",
    ),
    "the engine's account": (pod(serviceAccountName="agentos-engine"), "spec.serviceAccountName", ACCOUNT),
    "an account by its old name": (pod(serviceAccount="x"), "spec.serviceAccount", ACCOUNT),
    "a token as a volume": (
        pod(volumes=[{"name": "v", "secret": {"secretName": "agentos-token-other"}}]),
        "spec.volumes[0].secret.secretName",
        TOKEN,
    ),
    "a token in a projected volume": (
        pod(volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "agentos-token-other"}}]}}]),
        "spec.volumes[0].projected.sources[0].secret.name",
        TOKEN,
    ),
    "a token in a variable of another container": (
        pod(
            containers=[
                {
                    "name": "s",
                    "env": [
                        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "agentos-token-other", "key": "token"}}}
                    ],
                }
            ]
        ),
        "spec.containers[0].env[0].valueFrom.secretKeyRef.name",
        TOKEN,
    ),
    "a token in all variables of a first container": (
        pod(initContainers=[{"name": "s", "envFrom": [{"secretRef": {"name": "agentos-token-other"}}]}]),
        "spec.initContainers[0].envFrom[0].secretRef.name",
        TOKEN,
    ),
    "a token to pull images with": (
        pod(imagePullSecrets=[{"name": "agentos-token-other"}]),
        "spec.imagePullSecrets[0].name",
        TOKEN,
    ),
    "a token for a volume driver": (
        pod(volumes=[{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "agentos-token-other"}}}]),
        "spec.volumes[0].csi.nodePublishSecretRef.name",
        TOKEN,
    ),
    "a token for a file share": (
        pod(volumes=[{"name": "v", "azureFile": {"secretName": "agentos-token-other", "shareName": "s"}}]),
        "spec.volumes[0].azureFile.secretName",
        TOKEN,
    ),
    "a token for an old volume driver": (
        pod(volumes=[{"name": "v", "flexVolume": {"driver": "d", "secretRef": {"name": "agentos-token-other"}}}]),
        "spec.volumes[0].flexVolume.secretRef.name",
        TOKEN,
    ),
    "the realm's key": (
        pod(volumes=[{"name": "v", "secret": {"secretName": "agentos-api-key"}}]),
        "spec.volumes[0].secret.secretName",
        KEY,
    ),
    "the engine's volume": (
        pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data-agentos-engine-0"}}]),
        "spec.volumes[0].persistentVolumeClaim.claimName",
        DISK,
    ),
    "a copy of the engine's volume": (
        pod(
            volumes=[
                {
                    "name": "v",
                    "ephemeral": {
                        "volumeClaimTemplate": {
                            "spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "data-agentos-engine-0"}}
                        }
                    },
                }
            ]
        ),
        "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.dataSource.name",
        DISK,
    ),
    "a copy of another namespace's volume": (
        pod(
            volumes=[
                {
                    "name": "v",
                    "ephemeral": {
                        "volumeClaimTemplate": {
                            "spec": {
                                "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "x", "namespace": "other"}
                            }
                        }
                    },
                }
            ]
        ),
        "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.dataSourceRef.namespace",
        "is another namespace's, out of a Worker's reach; name a volume of the Worker's own namespace",
    ),
}


@pytest.mark.parametrize(("template", "path", "message"), OWNED.values(), ids=OWNED.keys())
def test_what_is_the_operators_is_refused_with_its_path(template, path, message):
    assert [(each.path, each.message) for each in errors(validate(worker(template=template)))] == [
        (f"spec.template.{path}", message)
    ]
    assert [(each.path, each.message) for each in errors(validate(realm(template=template)))] == [
        (f"spec.workerDefaults.template.{path}", message)
    ]


WRONG = {
    "a text for a number": (
        pod(terminationGracePeriodSeconds="30"),
        "spec.terminationGracePeriodSeconds",
        "must be a whole number, got a text",
    ),
    "a number for a text": (
        container(env=[{"name": "A", "value": 5}]),
        "spec.containers[0].env[0].value",
        "must be a text, got a whole number; put it in quotes",
    ),
    "a boolean for a number": (pod(priority=True), "spec.priority", "must be a whole number, got the boolean true"),
    "a number in a list of texts": (
        container(args=["a", 1]),
        "spec.containers[0].args[1]",
        "must be a text, got a whole number; put it in quotes",
    ),
    "a map for a list": (pod(containers={"name": "worker"}), "spec.containers", "must be a list, got a map"),
    "a list for a map": (pod(nodeSelector=["a"]), "spec.nodeSelector", "must be a map, got a list"),
    "a text for the whole spec": ({"spec": "x"}, "spec", "must be a map, got a text"),
    "a label that is a number": (
        {"metadata": {"labels": {"a": 1}}},
        "metadata.labels[a]",
        "must be a text, got a whole number; put it in quotes",
    ),
    "nothing in a list": (
        container(args=[None]),
        "spec.containers[0].args[0]",
        "an item of a list cannot be null; remove it",
    ),
    "an item without a name": (
        pod(containers=[{"image": "x"}]),
        "spec.containers[0].name",
        "is required: it says which item of the list is meant",
    ),
    "a mount without a path": (
        container(volumeMounts=[{"name": "v"}]),
        "spec.containers[0].volumeMounts[0].mountPath",
        "is required: it says which item of the list is meant",
    ),
    "a directive to merge": (
        pod(securityContext={"$patch": "merge"}),
        "spec.securityContext.$patch",
        "merging is what happens without it; remove it",
    ),
    "an unknown kind of directive": (
        pod(securityContext={"$patch": "remove"}),
        "spec.securityContext.$patch",
        "must be delete or replace",
    ),
    "an unknown directive": (
        pod(**{"$replace": True}),
        "spec.$replace",
        "is no directive; there are $patch, $retainKeys, $setElementOrder/FIELD and $deleteFromPrimitiveList/FIELD",
    ),
    "a directive in a list that is replaced": (
        pod(tolerations=[{"key": "a", "$patch": "delete"}]),
        "spec.tolerations[0].$patch",
        "has no effect in a list that is replaced as a whole; write the list as it is to be",
    ),
    "an item that replaces the list and says more": (
        container(env=[{"name": "A", "$patch": "replace"}]),
        "spec.containers[0].env[0].$patch",
        "replaces the whole list by its other items, so it has to be an item of its own: {$patch: replace}",
    ),
    "an order of what is no list": (
        pod(**{"$setElementOrder/nodeSelector": []}),
        "spec.$setElementOrder/nodeSelector",
        "nodeSelector is not a list; name one that is beside it",
    ),
    "an order of a list that is replaced": (
        pod(**{"$setElementOrder/tolerations": [{"key": "a"}]}),
        "spec.$setElementOrder/tolerations",
        "tolerations is replaced as a whole; write it in the order that it is to have",
    ),
    "an order that lacks what is set": (
        container(**{"$setElementOrder/env": [{"name": "A"}], "env": [{"name": "B"}]}),
        "spec.containers[0].$setElementOrder/env",
        "must have all items of env beside it, in the same order",
    ),
    "an order without names": (
        container(**{"$setElementOrder/env": ["A"]}),
        "spec.containers[0].$setElementOrder/env",
        "must be a list of items that say name alone",
    ),
    "deleting texts from a list of maps": (
        container(**{"$deleteFromPrimitiveList/env": ["A"]}),
        "spec.containers[0].$deleteFromPrimitiveList/env",
        "is for lists of plain values; give the item of env with $patch: delete",
    ),
    "deleting and setting at once": (
        container(**{"$deleteFromPrimitiveList/args": ["a"], "args": ["b"]}),
        "spec.containers[0].$deleteFromPrimitiveList/args",
        "stands beside args, and which goes first is not said; keep one of them",
    ),
    "keeping less than what is set": (
        pod(securityContext={"$retainKeys": ["runAsNonRoot"], "runAsUser": 5}),
        "spec.securityContext.$retainKeys",
        "would remove what is set beside it; add runAsUser to it",
    ),
}


@pytest.mark.parametrize(("template", "path", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_merged_is_refused_with_its_path(template, path, message):
    assert [(each.path, each.message) for each in errors(template_findings(template, "spec.template"))] == [
        (f"spec.template.{path}", message)
    ]


def test_a_field_that_this_kubernetes_does_not_have_is_a_warning_for_a_newer_cluster_may_have_it():
    found = validate(
        worker(template=pod(nodeSelektor={"a": "b"}, containers=[{"name": "worker", "newField": {"x": [1]}}]))
    )
    assert errors(found) == []
    assert [(each.path, each.message) for each in warnings(found)] == [
        (
            "spec.template.spec.nodeSelektor",
            "is no field of Kubernetes 1.35, and a cluster without it refuses it; did you mean nodeSelector?",
        ),
        (
            "spec.template.spec.containers[0].newField",
            "is no field of Kubernetes 1.35, and a cluster without it refuses it",
        ),
    ]


def test_values_are_not_told_for_they_may_be_secret():
    secret = container(env=[{"name": "A", "value": 1234567}], command="hunter2")
    assert "1234567" not in str(template_findings(secret, "spec.template"))
    assert "hunter2" not in str(template_findings(secret, "spec.template"))


def test_however_much_is_wrong_the_answer_stays_short():
    found = validate(worker(template=container(args=[1] * 10_000)))
    assert len(found) == 64


@pytest.mark.parametrize("template", [[], "x", 5, True])
def test_a_template_that_is_no_map_is_refused(template):
    (found,) = validate(worker(template=template))
    assert (found.path, found.reason) == ("spec.template", "WrongType")


@pytest.mark.parametrize(
    ("defaults", "path"),
    [
        ({"env": [{"name": "III_URL", "value": "x"}]}, "spec.workerDefaults.env[0].name"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "spec.workerDefaults.env[1].name"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "agentos-token-w", "key": "token"}}}]},
            "spec.workerDefaults.env[0].valueFrom.secretKeyRef.name",
        ),
        ({"imagePullSecrets": [{"name": "agentos-api-key"}]}, "spec.workerDefaults.imagePullSecrets[0].name"),
        ({"resources": {"limits": {"cpu": "much"}}}, "spec.workerDefaults.resources.limits[cpu]"),
        ({"image": "x"}, "spec.workerDefaults.image"),
    ],
)
def test_defaults_of_a_realm_are_held_to_the_same_rules(defaults, path):
    assert [each.path for each in errors(validate(realm(**defaults)))] == [path]
