"""Whatever stands in a resource, what is said of it is one visible line: it reaches terminals, statuses and Events."""

import pytest
from agentos_contracts.manifest import read_manifest, validate_manifest
from agentos_contracts.validation import validate

BAD = "x\x1b[31m\n\u202e\x00"
MANIFEST = {"iii": "v1", "name": "mine"}


def worker(**spec: object) -> dict:
    base = {"manifest": MANIFEST, "image": "mine:1"}
    return {
        "apiVersion": "agentos.dev/v1alpha1", "kind": "Worker", "metadata": {"name": "mine"}, "spec": base | spec,
    }  # fmt: skip


RESOURCES = {
    "kind": {"kind": BAD},
    "apiVersion": worker() | {"apiVersion": BAD},
    "an unknown key": worker() | {BAD: 1},
    "an unknown field of spec": worker(**{BAD: 1}),
    "manifest's name": worker(manifest={"iii": "v1", "name": BAD}),
    "an unknown field of the manifest": worker(manifest=MANIFEST | {BAD: BAD}),
    "a dependency": worker(dependencies={BAD: BAD}),
    "a manifest's dependency": worker(manifest=MANIFEST | {"dependencies": {BAD: BAD}}),
    "owns": worker(owns=[BAD, f"mine::{BAD}"]),
    "calls": worker(calls=[BAD, f"mine::{BAD}"]),
    "stateScopes": worker(stateScopes=[BAD]),
    "version": worker(version=BAD),
    "image": worker(image=BAD),
    "env": worker(env=[{"name": BAD, "value": BAD}, {"name": "A", "valueFrom": {BAD: 1}}]),
    "env of the manifest": worker(manifest=MANIFEST | {"env": {BAD: BAD}}),
    "a Secret's name": worker(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": f"agentos-token-{BAD}", "key": "k"}}}]),
    "envFrom": worker(envFrom=[{"secretRef": {"name": f"agentos-token-{BAD}"}}]),
    "manifestFrom": worker(manifest=None, manifestFrom={"configMapKeyRef": {"name": BAD, "key": BAD}}),
    "resources": worker(resources={"limits": {BAD: BAD}}),
    "serviceAccountName": worker(serviceAccountName=BAD),
    "imagePullSecrets": worker(imagePullSecrets=[{"name": BAD, BAD: 1}]),
    "a Realm's namespace": {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "r"}, "spec": {"namespace": BAD}},
    "a Realm's route": {
        "apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": "r"},
        "spec": {"namespace": "r", "http": {"routes": [{"path": f"/{BAD}", "auth": BAD}]}},
    },
}  # fmt: skip


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES.keys())
def test_findings_of_a_resource_are_visible_text(resource):
    found = validate(resource)
    assert found
    assert [str(finding) for finding in found if not str(finding).isprintable()] == []


@pytest.mark.parametrize(
    "text",
    [f'"{text}": 1' for text in ("x\\e[31m\\n", "\\u202e")] + ['name: "a\\e[2J"\nname: "b"', '"\\e": 1\n"\\e": 2', "a: \x1b", "- \u202e"],
)  # fmt: skip
def test_findings_of_a_manifests_text_are_visible_text(text):
    manifest, unreadable = read_manifest(text)
    found = [*unreadable, *(validate_manifest(manifest, "configmap/x") if manifest is not None else ())]
    assert found
    assert [str(finding) for finding in found if not str(finding).isprintable()] == []
