"""One manifest, four places: webhook, operator and command say the same words; the API server's part is in tests/e2e/test_bad_input.py."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
from agentos.validating import validate_paths
from agentos_contracts.findings import errors, warnings
from agentos_contracts.manifest import read_manifest
from agentos_operator.cache import Cache
from agentos_operator.kinds import Key
from agentos_operator.reconcile.worker import WorkerReconciler
from agentos_operator.webhook import Webhook

from tests.manifest_page import FIELDS, Rule

INLINE = [
    pytest.param(rule, id=f"{field}: {rule.says}")
    for field, rules in FIELDS
    for rule in rules
    if read_manifest(rule.manifest)[0]
]
TEXTS = [
    pytest.param(rule, id=rule.says) for _, rules in FIELDS for rule in rules if not read_manifest(rule.manifest)[0]
]


def worker(rule: Rule, **source: Any) -> dict[str, Any]:
    image = {"image": "i:1"} if rule.image else {}
    metadata = {"name": "x", "namespace": "team", "uid": "u"}
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Worker", "metadata": metadata, "spec": image | source}


def by_webhook(resource: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Errors and warnings of an admission review."""
    told: list[str] = []
    hook = Webhook(SimpleNamespace(webhook_service="w", namespace="n"), SimpleNamespace(), Cache())  # type: ignore[arg-type]
    try:
        asyncio.run(hook.review(kopf.Body(resource), warnings=told))
    except kopf.AdmissionError as refused:
        lines = str(refused).splitlines()
        return [line.removeprefix("- ") for line in (lines[1:] if len(lines) > 1 else lines)], told
    return [], told


def by_operator(resource: dict[str, Any], config_map: dict[str, Any] | None = None) -> tuple[list[str], list[str]]:
    """Errors and warnings that a pass of the operator finds: the errors are the message of ManifestValid."""

    async def get(*_: Any) -> dict[str, Any]:
        return config_map or {}

    reconciler = WorkerReconciler(SimpleNamespace(api=SimpleNamespace(get=get)))  # type: ignore[arg-type]
    _, found, missing = asyncio.run(reconciler._manifest(Key("Worker", "team", "x"), resource))
    assert missing == ""
    return [str(each) for each in errors(found)], [str(each) for each in warnings(found)]


def by_command(path: Path) -> tuple[list[str], list[str]]:
    found = [finding for _, finding in validate_paths([str(path)]).findings]
    return [str(each) for each in errors(found)], [str(each) for each in warnings(found)]


@pytest.mark.parametrize("rule", INLINE)
def test_an_inline_manifest(rule: Rule, tmp_path: Path) -> None:
    resource = worker(rule, manifest=read_manifest(rule.manifest)[0])
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps(resource))
    said = by_operator(resource)
    assert tuple(map(sorted, by_command(file))) == tuple(map(sorted, said))
    refused, warned = by_webhook(resource)
    assert refused == said[0]
    assert warned == ([] if refused else said[1])  # with an error a webhook can tell no warnings beside it


@pytest.mark.parametrize("rule", TEXTS)
def test_the_text_of_a_config_map(rule: Rule, tmp_path: Path) -> None:
    resource = worker(rule, manifestFrom={"configMapKeyRef": {"name": "c"}})
    config_map = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "team"},
        "data": {"iii.worker.yaml": rule.manifest},
    }  # fmt: skip
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps({"kind": "List", "items": [config_map, resource]}))
    in_map, _ = by_operator(resource, config_map)
    in_files, _ = by_command(file)
    (tmp_path / "iii.worker.yaml").write_text(rule.manifest)
    alone, _ = by_command(tmp_path / "iii.worker.yaml")
    # The paths differ: the ConfigMap with the line, the file's place of it, and none for the manifest's own file.
    words = {each.rpartition("iii.worker.yaml]")[2].partition(": ")[2] for each in (*in_map, *in_files)}
    assert words == set(alone)
    assert len(alone) == 1
