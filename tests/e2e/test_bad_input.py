"""Bad input is refused at apply with its exact message, or told in status with its exact condition; mending it is enough."""

import json
import subprocess
from typing import Any

import pytest
from agentos_contracts.manifest import read_manifest

from tests.cluster import Cluster
from tests.e2e.support import (
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
from tests.manifest_page import ERROR, RULES, Rule

pytestmark = pytest.mark.cluster

REFUSED_AT_APPLY = {
    "a wrong type": (
        {"replicas": "three"},
        'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"',
    ),
    "a missing manifest name": ({"manifest": {"iii": "v1"}}, "spec.manifest.name: Required value"),
    "a bad version range": (
        {"manifest": {"name": "bad", "dependencies": {"memory": "not a range"}}},
        "spec.manifest.dependencies[memory]: 'not a range' is not a version range; "
        "write one such as '^1.2', '~1.2.3', '>=1, <2' or '*'",
    ),
    "a name of the engine's": (
        {"manifest": {"name": "iii-state"}},
        'spec.manifest.name: Invalid value: "iii-state": the name iii-state belongs to the engine; choose another, such as my-state',
    ),
    "an unknown manifest key": (
        {"manifest": {"name": "bad", "descripton": "x"}},
        "spec.manifest.descripton: unknown field descripton; did you mean description?",
    ),
    "both manifest and manifestFrom": (
        {"manifestFrom": {"configMapKeyRef": {"name": "m"}}},
        "set exactly one of manifest and manifestFrom",
    ),
    "neither manifest nor manifestFrom": ({"manifest": None}, "set exactly one of manifest and manifestFrom"),
    "a claim of the engine's function namespace": (
        {"owns": ["sandbox"]},
        "sandbox::* belongs to the engine; remove it, or claim a function namespace of your own such as my-worker::*",
    ),
    "a call that is no pattern": (
        {"calls": ["state::*", "tool*"]},
        "tool*: a * may stand only after the first '::'; name the function namespace, such as tool::*",
    ),
    "no image": (
        {"image": None},
        "spec.image: no image is named; set spec.image, or runtime.base_image in the manifest",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED_AT_APPLY.values(), ids=REFUSED_AT_APPLY.keys())
def test_kubectl_apply_refuses(cluster: Cluster, changes: dict[str, Any], message: str) -> None:
    refused = apply(cluster, worker("bad", "bad::one", **changes), check=False)
    assert refused.returncode != 0, refused.stdout
    assert message in refused.stderr
    assert not get(cluster, "worker", "bad")


def test_all_errors_are_told_at_once(cluster: Cluster) -> None:
    manifest = {"name": "bad", "nmae": "x", "dependencies": {"memory": "not a range"}}
    refused = apply(cluster, worker("bad", "bad::one", manifest=manifest, version="one"), check=False)
    assert "3 errors" in refused.stderr
    for path in ("spec.manifest.nmae: ", "spec.manifest.dependencies[memory]: ", "spec.version: "):
        assert path in refused.stderr


def test_what_is_nested_too_deep_is_refused(cluster: Cluster) -> None:
    deep: object = 1
    for _ in range(100):
        deep = {"a": deep}
    refused = apply(cluster, worker("bad", "bad::one", manifest={"name": "bad", "config": deep}), check=False)
    assert "spec: is nested more than 64 levels deep; flatten it" in refused.stderr


STORED_ANYHOW = {
    name: REFUSED_AT_APPLY[name] for name in ("a bad version range", "an unknown manifest key", "no image")
}


@pytest.mark.parametrize(("changes", "message"), STORED_ANYHOW.values(), ids=STORED_ANYHOW.keys())
def test_what_the_webhook_missed_is_told_in_status_and_mending_is_enough(
    without_webhook: Cluster, changes: dict[str, Any], message: str
) -> None:
    cluster = without_webhook
    apply(cluster, worker("bad", "bad::one", **changes))
    assert until_condition(cluster, "bad", "ManifestValid", "False", "ManifestInvalid") == message
    status = get(cluster, "worker", "bad")
    assert condition(status, "Ready") == ("False", "ManifestInvalid", message)
    assert condition(status, "Stalled")[0] == "True"
    assert not listed(cluster, "pods", "agentos.dev/worker=bad")
    apply(cluster, worker("bad", "bad::one"))
    until_ready(cluster, "bad")


INLINE = [rule for rule in RULES if rule.path]
"""Rules of docs/manifest.md about fields; those about the text are the ConfigMap's and the command's."""


def ruled(rule: Rule) -> dict[str, Any]:
    """A Worker with the manifest of a rule inline."""
    manifest, _ = read_manifest(rule.manifest)
    return worker(
        "ruled", owns=["ruled::*"], manifest=manifest, image=worker("x")["spec"]["image"] if rule.image else None
    )


def dry_run(cluster: Cluster, resource: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return cluster.kubectl(
        "apply", "--dry-run=server", "--validate=ignore", "-f", "-", input=json.dumps(resource), check=False
    )


def test_the_rules_of_the_manifest_are_those_of_the_webhook(cluster: Cluster) -> None:
    wrong = []
    for rule in INLINE:
        done = dry_run(cluster, ruled(rule))
        where = rule.path if rule.path.startswith("spec.") else f"spec.manifest.{rule.path}"
        key = where.partition("[")[0]  # a schema names the field, and not always the key in it
        if (done.returncode != 0) != (rule.verdict == ERROR) or key not in done.stderr:
            wrong.append(f"{rule.says}: {rule.verdict} at {where}, got {done.returncode} {done.stderr}")
    assert not wrong, "\n".join(wrong)


def test_what_the_api_says_of_a_manifest_it_says_without_the_webhook(without_webhook: Cluster) -> None:
    refused = [rule.manifest for rule in INLINE if dry_run(without_webhook, ruled(rule)).returncode != 0]
    assert refused == [rule.manifest for rule in INLINE if rule.cel]


def config_map(name: str, text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"iii.worker.yaml": text},
    }  # fmt: skip


BAD_MANIFESTS = {
    "name: 5": ".name: must be a text, got the whole number 5; put it in quotes",
    "iii: v1": ".name: is required",
    "name: mapped\ndependencies: {memory: not a range}": (
        ".dependencies[memory]: 'not a range' is not a version range; write one such as '^1.2', '~1.2.3', '>=1, <2' or '*'"
    ),
    "name: iii-state": ".name: the name iii-state belongs to the engine; choose another, such as my-state",
    "name: mapped\ndescripton: x": ".descripton: unknown field descripton; did you mean description?",
    "name: mapped\nname: twice": " line 2: the key name is given twice in the same map; remove one",
    "- mapped": " line 1: the manifest must be a map of fields, such as name: my-worker",
    "name: [": " line 1: the text is not YAML: expected the node content, but found '<stream end>'",
}


def test_a_manifest_in_a_config_map_is_followed_through_every_edit(cluster: Cluster) -> None:
    source = {"configMapKeyRef": {"name": "from-map"}}
    cluster.kubectl("delete", "configmap", "from-map", "-n", NAMESPACE, "--ignore-not-found")
    apply(cluster, worker("mapped", "mapped::one", manifest=None, manifestFrom=source))
    assert until_condition(cluster, "mapped", "ManifestValid", "False", "ManifestNotFound") == (
        "ConfigMap from-map is not there; create it, or mend spec.manifestFrom"
    )
    for text, message in BAD_MANIFESTS.items():
        apply(cluster, config_map("from-map", text))
        told = ("False", "ManifestInvalid", f"configmap/from-map[iii.worker.yaml]{message}")
        until(told[2], lambda told=told: condition(get(cluster, "worker", "mapped"), "Ready") == told, 20)
    assert not listed(cluster, "pods", "agentos.dev/worker=mapped")
    apply(cluster, config_map("from-map", "name: mapped"))
    until_ready(cluster, "mapped")
    # A mistake in an edit is told, and what runs goes on.
    apply(cluster, config_map("from-map", "nmae: mapped"))
    until_condition(cluster, "mapped", "ManifestValid", "False", "ManifestInvalid")
    assert listed(cluster, "pods", "agentos.dev/worker=mapped")
    apply(cluster, config_map("from-map", "name: mapped"))
    until_ready(cluster, "mapped")
    cluster.kubectl("delete", "configmap", "from-map", "-n", NAMESPACE)


def test_an_image_that_does_not_exist(cluster: Cluster) -> None:
    apply(cluster, worker("imageless", "imageless::one", image="localhost/no-such:1"))
    assert until_condition(cluster, "imageless", "Ready", "False", "ImagePullFailed") == (
        'the image "localhost/no-such:1" cannot be pulled; mend spec.image, or name a pull secret in spec.imagePullSecrets'
    )
    apply(cluster, worker("imageless", "imageless::one"))
    until_ready(cluster, "imageless")


def test_a_worker_that_never_registers(cluster: Cluster) -> None:
    apply(cluster, worker("silent", "silent::one", command=SILENT))
    message = until_condition(cluster, "silent", "Registered", "False", "NotRegistered")
    uid = get(cluster, "worker", "silent")["metadata"]["uid"]
    logs = f"look at its logs: kubectl logs -n {NAMESPACE} -l agentos.dev/worker-uid={uid}"
    assert message == f"no pod has connected to the engine at $III_URL; {logs}"
    until_condition(cluster, "silent", "Ready", "False", "NotRegistered")
    other = worker("silent", "silent::two", owns=["silent::one", "silent::two"])
    apply(cluster, other)
    wanted = f"it is connected to the engine, but has not registered silent::one; {logs}"
    until("what is lacking", lambda: condition(get(cluster, "worker", "silent"), "Registered")[2] == wanted)
    apply(cluster, worker("silent", "silent::one"))
    until_ready(cluster, "silent")


def test_a_worker_that_crashes(cluster: Cluster) -> None:
    apply(cluster, worker("crashing", "crashing::one", command=["sh", "-c", "exit 3"]))
    message = until_condition(cluster, "crashing", "Ready", "False", "CrashLooping", 90)
    pod = listed(cluster, "pods", "agentos.dev/worker=crashing")[0]["metadata"]["name"]
    assert message == (
        "the container ends again and again (exit code 3); look at its last words: "
        f"kubectl logs -n {NAMESPACE} {pod} --previous"
    )
    apply(cluster, worker("crashing", "crashing::one"))
    until_ready(cluster, "crashing")


def test_an_engine_that_is_down_is_told_after_the_grace_and_is_enough_to_mend(cluster: Cluster) -> None:
    apply(cluster, worker("lonely", "lonely::one"))
    until_ready(cluster, "lonely")
    realm = get(cluster, "realm", "default", "")
    try:
        cluster.kubectl(
            "patch", "realm", "default", "--type=merge", "-p", '{"spec":{"engine":{"image":"localhost/no-such:1"}}}'
        )
        message = until_condition(cluster, "lonely", "EngineLinked", "False", "EngineUnreachable", 120)
        assert message == (
            "the engine of realm default cannot be reached at agentos-engine.default.svc:49134; "
            "see kubectl describe realm default and kubectl logs -n default agentos-engine-0"
        )
        assert condition(get(cluster, "worker", "lonely"), "Ready")[:2] == ("False", "EngineUnreachable")
        until(
            "the Realm says why",
            lambda: condition(get(cluster, "realm", "default", ""), "Ready")[1] == "ImagePullFailed",
        )
        pod = listed(cluster, "pods", "agentos.dev/worker=lonely")[0]
        assert condition(pod, "agentos.dev/registered")[0] == "True"
    finally:
        cluster.kubectl("patch", "realm", "default", "--type=merge", "-p", '{"spec":{"engine":{"image":null}}}')
    until_ready(cluster, "lonely")
    assert get(cluster, "realm", "default", "")["metadata"]["uid"] == realm["metadata"]["uid"]
