"""A Worker's author reaches nothing of another namespace by any field: each way is tried, with a neighbour who has it all.

The author may write Workers in one namespace, and has the code that runs in their pods.
"""

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

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
    realm,
    until,
    until_condition,
    until_ready,
    until_realm_ready,
    worker,
)

pytestmark = pytest.mark.cluster

NEIGHBOUR, THEIRS = "neighbour", "theirs"
CANARY = "seen-by-nobody-else"


def of_the_neighbour(kind: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": THEIRS, "namespace": NEIGHBOUR}} | more


@pytest.fixture(scope="module")
def neighbour(installed: Cluster) -> Iterator[Cluster]:
    """Another Realm, with a Worker that owns target::*, and what a Worker could name, all of it called theirs."""
    apply(installed, realm(NEIGHBOUR, deletionPolicy="Delete"))
    until_realm_ready(installed, NEIGHBOUR)
    target = worker("target", "target::one")
    target["metadata"]["namespace"] = NEIGHBOUR
    apply(
        installed,
        of_the_neighbour(
            "ConfigMap", data={"iii.worker.yaml": f"name: {THEIRS}\ndescription: {CANARY}", "VALUE": CANARY}
        ),
        of_the_neighbour("Secret", stringData={"value": CANARY}),
        of_the_neighbour("ServiceAccount"),
        target,
    )
    installed.kubectl("wait", "-n", NEIGHBOUR, "--for=condition=Ready", "worker/target", "--timeout=90s", timeout=100)
    yield installed
    installed.kubectl("delete", "realm", NEIGHBOUR, "--timeout=90s", timeout=100)
    installed.kubectl("delete", "namespace", NEIGHBOUR, "--ignore-not-found", "--timeout=90s", timeout=100)


def variable(**source: Any) -> list[dict[str, Any]]:
    return [{"name": "TAKEN", "valueFrom": source}]


NAMING_FIELDS = {
    "manifestFrom": lambda name: {"manifest": None, "manifestFrom": {"configMapKeyRef": {"name": name}}},
    "the key of manifestFrom": lambda name: {
        "manifest": None, "manifestFrom": {"configMapKeyRef": {"name": THEIRS, "key": f"{name}/x"}},
    },
    "env from a ConfigMap": lambda name: {"env": variable(configMapKeyRef={"name": name, "key": "VALUE"})},
    "env from a Secret": lambda name: {"env": variable(secretKeyRef={"name": name, "key": "value"})},
    "envFrom a ConfigMap": lambda name: {"envFrom": [{"configMapRef": {"name": name}}]},
    "envFrom a Secret": lambda name: {"envFrom": [{"secretRef": {"name": name}}]},
    "imagePullSecrets": lambda name: {"imagePullSecrets": [{"name": name}]},
    "serviceAccountName": lambda name: {"serviceAccountName": name},
}  # fmt: skip
"""Every field in which a Worker names an object."""

NAMES_THAT_LEAD_ELSEWHERE = (
    f"../{NEIGHBOUR}/{THEIRS}", f"{NEIGHBOUR}/{THEIRS}", f"../../{NEIGHBOUR}/configmaps/{THEIRS}", "..",
    f"/api/v1/namespaces/{NEIGHBOUR}/secrets/{THEIRS}", f"{THEIRS}?namespace={NEIGHBOUR}", f"..%2f{THEIRS}",
    f"{THEIRS}.{NEIGHBOUR}:x", f"system:serviceaccount:{NEIGHBOUR}:{THEIRS}",
)  # fmt: skip


def test_no_field_takes_a_name_with_a_path_or_a_namespace_in_it(cluster: Cluster) -> None:
    tried = [
        worker(f"leads-{number}", "leads::one", **field(name))
        for number, (field, name) in enumerate(itertools.product(NAMING_FIELDS.values(), NAMES_THAT_LEAD_ELSEWHERE))
    ]
    refused = apply(cluster, *tried, check=False)
    assert refused.returncode != 0
    assert not listed(cluster, "workers")
    for number in range(len(tried)):
        assert f'"leads-{number}" is invalid' in refused.stderr, tried[number]


UNREACHED = {
    "manifestFrom": ("ManifestValid", "ManifestNotFound"),
    "env from a ConfigMap": ("Available", "ContainerConfigInvalid"),
    "env from a Secret": ("Available", "ContainerConfigInvalid"),
    "envFrom a ConfigMap": ("Available", "ContainerConfigInvalid"),
    "envFrom a Secret": ("Available", "ContainerConfigInvalid"),
    "serviceAccountName": ("Available", "PodRefused"),
}


def test_the_name_of_a_neighbours_object_names_nothing_here(neighbour: Cluster, cluster: Cluster) -> None:
    names = {field: f"reads-{number}" for number, field in enumerate(UNREACHED)}
    apply(
        cluster,
        *(
            worker(name, owns=[f"{name}::*"], command=SILENT, **NAMING_FIELDS[field](THEIRS))
            for field, name in names.items()
        ),
    )
    for field, (kind, reason) in UNREACHED.items():
        message = until_condition(cluster, names[field], kind, "False", reason, 90)
        assert CANARY not in message
    assert CANARY not in cluster.kubectl("get", "workers,pods,events", "-n", NAMESPACE, "-o", "json").stdout


def template(**spec: Any) -> dict[str, Any]:
    """The field spec.template with this in the pod's spec."""
    return {"template": {"spec": spec}}


def volume(**source: Any) -> dict[str, Any]:
    """The field spec.template with a volume that the worker's container mounts."""
    mount = {"name": "worker", "volumeMounts": [{"name": "taken", "mountPath": "/taken"}]}
    return template(volumes=[{"name": "taken"} | source], containers=[mount])


def beside(**container: Any) -> dict[str, Any]:
    """The field spec.template with another container."""
    return template(containers=[{"name": "beside", "image": IMAGE, "command": SILENT} | container])


def before(**container: Any) -> dict[str, Any]:
    """The field spec.template with a container that runs first."""
    return template(initContainers=[{"name": "before", "image": IMAGE, "command": ["true"]} | container])


def labelled(**values: str | None) -> dict[str, Any]:
    return {"template": {"metadata": {"labels": values}}}


TOKEN, KEY = "holds a Worker's identity on the bus", "holds the key of the realm's REST port"
DATA, OPERATORS = "is the volume on which the realm's engine keeps the data", "is set by the operator on every worker"
LABEL = "is the operator's, which finds the pods by it"
OTHERS_TOKEN = {"secretKeyRef": {"name": "agentos-token-other", "key": "token"}}
OTHERS_VOLUME = {"kind": "PersistentVolumeClaim", "name": "theirs", "namespace": NEIGHBOUR}
RESERVED = {
    "another Worker's token": ({"env": variable(**OTHERS_TOKEN)}, TOKEN),
    "its own token, under a name of its own": (
        {"env": variable(secretKeyRef={"name": "agentos-token-thief", "key": "token"})}, TOKEN,
    ),
    "the realm's API key": ({"env": variable(secretKeyRef={"name": "agentos-api-key", "key": "key"})}, KEY),
    "another engine": ({"env": [{"name": "III_URL", "value": f"ws://agentos-engine.{NEIGHBOUR}.svc:49134"}]}, OPERATORS),
    "another identity": ({"env": [{"name": "AGENTOS_TOKEN", "value": "other"}]}, OPERATORS),
    "another pod": ({"env": [{"name": "POD_UID", "value": "other"}]}, OPERATORS),
    "a token to pull with": ({"imagePullSecrets": [{"name": "agentos-token-other"}]}, TOKEN),
    "a volume of a token": (volume(secret={"secretName": "agentos-token-other"}), TOKEN),
    "a projected volume of a token": (
        volume(projected={"sources": [{"secret": {"name": "agentos-token-other"}}]}), TOKEN,
    ),
    "a projected volume of the API key": (
        volume(projected={"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "agentos-api-key"}}]}), KEY,
    ),
    "a driver's volume with a token": (
        volume(csi={"driver": "d.example.org", "nodePublishSecretRef": {"name": "agentos-token-other"}}), TOKEN,
    ),
    "a sidecar with a token": (beside(env=variable(**OTHERS_TOKEN)), TOKEN),
    "a sidecar with all of a token": (beside(envFrom=[{"secretRef": {"name": "agentos-token-other"}}]), TOKEN),
    "an init container with all of the API key": (before(envFrom=[{"secretRef": {"name": "agentos-api-key"}}]), KEY),
    "a token to pull a sidecar with": (template(imagePullSecrets=[{"name": "agentos-token-other"}]), TOKEN),
    "the engine's volume": (volume(persistentVolumeClaim={"claimName": "data-agentos-engine-0"}), DATA),
    "a copy of the engine's volume": (
        volume(ephemeral={"volumeClaimTemplate": {"spec": {
            "dataSource": {"kind": "PersistentVolumeClaim", "name": "data-agentos-engine-0"},
        }}}),
        DATA,
    ),
    "a copy of another namespace's volume": (
        volume(ephemeral={"volumeClaimTemplate": {"spec": {"dataSourceRef": OTHERS_VOLUME}}}),
        "is another namespace's, out of a Worker's reach",
    ),
    "an account by the template": (template(serviceAccountName="agentos-engine"), "has a field of its own"),
    "an account by the template's old field": (template(serviceAccount="agentos-engine"), "has a field of its own"),
    "another identity by the template": (
        template(containers=[{"name": "worker", "env": [{"name": "AGENTOS_TOKEN", "value": "other"}]}]), OPERATORS,
    ),
    "a container in its place": (
        template(containers=[{"$patch": "replace"}, {"name": "mine", "image": IMAGE}]), "the container worker",
    ),
    "the engine's label": (labelled(**{"app.kubernetes.io/name": "agentos-engine"}), LABEL),
    "another Worker's label": (labelled(**{"agentos.dev/worker": "other"}), LABEL),
    "another Worker's uid": (labelled(**{"agentos.dev/worker-uid": "other"}), LABEL),
    "another realm's label": (labelled(**{"agentos.dev/realm": NEIGHBOUR}), LABEL),
    "no label of the operator's": (labelled(**{"$patch": "replace"}), "its labels"),
}  # fmt: skip
"""What a Worker's author, and a Realm's for its Workers, may not write, and a part of what he is told."""

RESERVED_OF_WORKERS = {
    "all of another's token": ({"envFrom": [{"secretRef": {"name": "agentos-token-other"}}]}, TOKEN),
    "all of the realm's API key": ({"envFrom": [{"secretRef": {"name": "agentos-api-key"}}]}, KEY),
    "the engine's account": ({"serviceAccountName": "agentos-engine"}, "is the account of the realm's engine"),
    "the engine's functions": ({"owns": ["engine::*"]}, "belongs to the engine"),
}
"""The like in fields that only Workers have."""


def test_what_is_the_operators_and_the_engines_cannot_be_taken(cluster: Cluster) -> None:
    told = {}
    for way, (changes, words) in (RESERVED | RESERVED_OF_WORKERS).items():
        refused = apply(cluster, worker("thief", **{"owns": ["thief::*"]} | changes), check=False)
        if refused.returncode == 0 or words not in refused.stderr:
            told[way] = refused.stdout + refused.stderr
    assert not told
    assert not get(cluster, "worker", "thief")


def test_nor_by_what_a_realm_gives_all_its_workers(cluster: Cluster) -> None:
    told = {}
    for way, (changes, words) in RESERVED.items():
        text = json.dumps(realm("thieves", workerDefaults=changes))
        refused = cluster.kubectl("apply", "--dry-run=server", "-f", "-", input=text, check=False)
        if refused.returncode == 0 or words not in refused.stderr:
            told[way] = refused.stdout + refused.stderr
    assert not told


MOUNTED = {
    "a volume of a Secret": (volume(secret={"secretName": THEIRS}), f'secret "{THEIRS}" not found'),
    "a volume of a ConfigMap": (volume(configMap={"name": THEIRS}), f'configmap "{THEIRS}" not found'),
    "a projected Secret": (
        volume(projected={"sources": [{"secret": {"name": THEIRS}}]}), f'secret "{THEIRS}" not found',
    ),
    "a projected ConfigMap": (
        volume(projected={"sources": [{"configMap": {"name": THEIRS}}]}), f'configmap "{THEIRS}" not found',
    ),
    "a projected Secret with a path in its name": (
        volume(projected={"sources": [{"secret": {"name": f"../{NEIGHBOUR}/{THEIRS}"}}]}), "failed to sync secret cache",
    ),
    "a volume claim": (
        volume(persistentVolumeClaim={"claimName": THEIRS}), f'persistentvolumeclaim "{THEIRS}" not found',
    ),
    "a sidecar's Secret": (beside(env=variable(secretKeyRef={"name": THEIRS, "key": "value"})), f'secret "{THEIRS}" not found'),
    "an init container's Secret": (before(envFrom=[{"secretRef": {"name": THEIRS}}]), f'secret "{THEIRS}" not found'),
}  # fmt: skip
"""Ways by which a template names an object, and what Kubernetes says of one that is not there."""


def test_a_templates_names_are_those_of_the_workers_own_namespace(neighbour: Cluster, cluster: Cluster) -> None:
    names = {way: f"mounts-{number}" for number, way in enumerate(MOUNTED)}
    apply(
        cluster,
        *(worker(name, owns=[f"{name}::*"], command=SILENT, **MOUNTED[way][0]) for way, name in names.items()),
    )

    for way, name in names.items():

        def told(name: str = name, words: str = MOUNTED[way][1]) -> bool:
            about = [e for e in listed(cluster, "events") if e["involvedObject"]["name"].startswith(f"{name}-")]
            return any(words in event.get("message", "") for event in about)

        until(f"{name} is told that there is no such thing for {way}", told, 90)
    assert CANARY not in cluster.kubectl("get", "workers,pods,events", "-n", NAMESPACE, "-o", "json").stdout
    phases = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in listed(cluster, "pods", "agentos.dev/worker")}
    assert set(phases.values()) == {"Pending"}, phases


def test_a_worker_cannot_have_the_engines_name_or_take_over_what_is_not_its_own(cluster: Cluster) -> None:
    refused = apply(cluster, worker("agentos-engine", "engine-like::one"), check=False)
    assert "agentos-engine is the name of the realm's engine; choose another" in refused.stderr
    account = get(cluster, "serviceaccount", "default")
    apply(cluster, worker("default", "default::one"))
    message = until_condition(cluster, "default", "Available", "False", "PodRefused")
    assert "ServiceAccount named default is there already" in message
    assert get(cluster, "serviceaccount", "default") == account


def test_labels_of_a_worker_do_not_make_its_pods_the_engines_or_anothers(cluster: Cluster) -> None:
    body = worker("dressed", "dressed::one")
    body["metadata"]["labels"] = {
        "app.kubernetes.io/name": "agentos-engine", "agentos.dev/worker": "other", "agentos.dev/worker-uid": "other",
        "agentos.dev/realm": NEIGHBOUR,
    }  # fmt: skip
    apply(cluster, body)
    until_ready(cluster, "dressed")
    (pod,) = listed(cluster, "pods", "agentos.dev/worker=dressed")
    labels = pod["metadata"]["labels"]
    assert (labels["app.kubernetes.io/name"], labels["agentos.dev/realm"]) == ("dressed", "default")
    assert labels["agentos.dev/worker-uid"] == get(cluster, "worker", "dressed")["metadata"]["uid"]


def test_functions_of_a_neighbour_block_nobody_here_and_are_not_reached(neighbour: Cluster, cluster: Cluster) -> None:
    apply(cluster, worker("target", "target::one", owns=["target::*"], calls=["target::*"]))
    until_ready(cluster, "target")
    theirs = get(cluster, "worker", "target", NEIGHBOUR)
    assert condition(theirs, "Ready")[0] == "True"
    (here,) = get(cluster, "functionclaim", "target")["spec"]["holders"]
    assert here["uid"] == get(cluster, "worker", "target")["metadata"]["uid"] != theirs["metadata"]["uid"]


def test_a_token_is_refused_by_another_realms_engine(neighbour: Cluster, cluster: Cluster) -> None:
    apply(cluster, worker("visitor", "visitor::one"))
    until_ready(cluster, "visitor")
    token = base64.b64decode(get(cluster, "secret", "agentos-token-visitor")["data"]["token"]).decode()
    own = cluster.service_address(NAMESPACE, "agentos-engine", demo.BUS_PORT)
    with connect(f"ws://{own}/w/{token}/host", proxy=None) as socket:
        socket.send(
            json.dumps({"type": "invokefunction", "invocation_id": "1", "function_id": "visitor::one", "data": {}})
        )
        until("the call is answered", lambda: json.loads(socket.recv(timeout=10)).get("invocation_id") == "1", 10)
    other = cluster.service_address(NEIGHBOUR, "agentos-engine", demo.BUS_PORT)
    with connect(f"ws://{other}/w/{token}/host", proxy=None) as socket:
        assert json.loads(socket.recv(timeout=10))["error"]["code"] == "AUTH_ERROR"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)


def test_an_address_brought_along_by_a_config_map_does_not_count(cluster: Cluster) -> None:
    """What the operator sets goes before all that envFrom brings."""
    elsewhere = {"III_URL": f"ws://agentos-engine.{NEIGHBOUR}.svc:49134", "AGENTOS_TOKEN": "other", "POD_UID": "other"}
    source = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "brought", "namespace": NAMESPACE}}
    apply(cluster, source | {"data": elsewhere})
    try:
        apply(cluster, worker("brings", "brings::one", envFrom=[{"configMapRef": {"name": "brought"}}]))
        # Its functions answer on the engine of its own realm.
        until_ready(cluster, "brings")
    finally:
        cluster.kubectl("delete", "configmap", "brought", "-n", NAMESPACE)
