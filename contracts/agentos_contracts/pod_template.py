"""``spec.template`` of a Worker, and ``spec.workerDefaults.template`` of a Realm: a partial pod template.

Everything that a pod can have may be said in it, but for what the operator relies on. What that is, is held against the
result of merging: a template that comes to the same by another way is refused as well.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema

from agentos_contracts.findings import Finding, error, shown
from agentos_contracts.manifest import OWNED_ENV
from agentos_contracts.model_findings import at, at_key
from agentos_contracts.reserved import reserved_object
from agentos_contracts.resource import GROUP, RULES, cel_text, rule
from agentos_contracts.strategic_merge import merge, patch_findings

WORKER_CONTAINER = "worker"
"""Name of the container that runs the worker."""
REGISTERED_GATE = f"{GROUP}/registered"
OWNED_PREFIX = f"{GROUP}/"
OWNED_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/managed-by")
MAX_FINDINGS = 64

OWNED_LABEL = "is the operator's, which finds the pods by it; remove it"
OWNED_ANNOTATION = "is the operator's; remove it"
OWNED_VARIABLE = "is set by the operator on every worker; remove it"
OWN_ACCOUNT = "has a field of its own; set spec.serviceAccountName of the Worker"
ONLY_METADATA = "means nothing in a template of pods; only labels and annotations do"
ALWAYS = "must be Always, as for every Deployment; remove it"
_KEEPS = "the template would take away what the operator needs: "
"""Begins what is said of a template that removes something by a directive."""


def _metadata_rule(words: str, *names: str) -> dict[str, Any]:
    owned = " || ".join([f"key.startsWith({cel_text(OWNED_PREFIX)})", *(f"key == {cel_text(name)}" for name in names)])
    return rule(f"!self.exists(key, {owned})", f"a name that {words}")


def _texts(*rules: Any) -> dict[str, Any]:
    values = {"type": "string", "nullable": True, "maxLength": 262144}
    return {"type": "object", "nullable": True, "maxProperties": 256, "additionalProperties": values, RULES: [*rules]}


_SCHEMA = {
    "type": "object",
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {
        "metadata": {
            "type": "object",
            "description": "Labels and annotations of the pods.",
            "properties": {
                "labels": _texts(_metadata_rule(OWNED_LABEL, *OWNED_LABELS))
                | {"description": "Labels of the pods; those of the operator cannot be changed."},
                "annotations": _texts(_metadata_rule(OWNED_ANNOTATION))
                | {"description": "Annotations of the pods; those of the operator cannot be changed."},
            },
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "spec": {
            "type": "object",
            "description": "Any fields of a pod's spec; kubectl explain pod.spec has them. The worker's own container is "
            f"named {WORKER_CONTAINER}.",
            "x-kubernetes-preserve-unknown-fields": True,
        },
    },
}

PodTemplate = Annotated[dict[str, Any], WithJsonSchema(_SCHEMA)]

TEMPLATE_DESCRIPTION = (
    "Anything else that a pod can have, as a part of a pod template: it is merged into the one that the operator makes, as "
    "kubectl patch --type strategic does (lists with a key item by item, null removes a field). The worker's own container "
    f"is named {WORKER_CONTAINER}. What the operator needs cannot be changed: its labels, readiness gate and environment "
    "variables."
)


def template_findings(template: object, path: str) -> list[Finding]:
    """Return what is wrong with a template: its form, what belongs to the operator, and whom it may not name.

    A template that is no map is the models' to report.
    """
    if not isinstance(template, Mapping):
        return []
    found = _first(patch_findings(template, path))
    found += _first(_metadata_findings(template.get("metadata"), at(path, "metadata")))
    found += _first(_spec_findings(template.get("spec"), at(path, "spec")))
    found += _first(reference_findings(template.get("spec"), at(path, "spec")))
    if not found or all(each.severity == "warning" for each in found):
        found += _loss_findings(template, path)
    return found


def _first(found: Iterator[Finding]) -> list[Finding]:
    return [each for _, each in zip(range(MAX_FINDINGS), found, strict=False)]


def _metadata_findings(metadata: object, path: str) -> Iterator[Finding]:
    if not isinstance(metadata, Mapping):
        return
    for part, words, names in (("labels", OWNED_LABEL, OWNED_LABELS), ("annotations", OWNED_ANNOTATION, ())):
        entries = metadata.get(part)
        for name in entries if isinstance(entries, Mapping) else ():
            if name.startswith(OWNED_PREFIX) or name in names:
                yield error(at_key(at(path, part), name), "Reserved", words)
    for name in metadata:
        if name not in ("labels", "annotations") and not name.startswith("$"):
            yield error(at(path, shown(name, 128)), "NotAllowed", ONLY_METADATA)


def _spec_findings(spec: object, path: str) -> Iterator[Finding]:
    if not isinstance(spec, Mapping):
        return
    for name in ("serviceAccountName", "serviceAccount"):
        if spec.get(name) is not None:
            yield error(at(path, name), "Reserved", OWN_ACCOUNT)
    if spec.get("restartPolicy") not in (None, "Always"):
        yield error(at(path, "restartPolicy"), "InvalidValue", ALWAYS)
    containers = spec.get("containers")
    for number, container in enumerate(containers if isinstance(containers, list) else ()):
        if not isinstance(container, Mapping) or container.get("name") != WORKER_CONTAINER:
            continue
        where = f"{path}.containers[{number}]"
        variables = container.get("env")
        for index, variable in enumerate(variables if isinstance(variables, list) else ()):
            if isinstance(variable, Mapping) and variable.get("name") in OWNED_ENV:
                message = f"{variable['name']} {OWNED_VARIABLE}"
                yield error(f"{where}.env[{index}].name", "Reserved", message)


def reference_findings(value: object, path: str) -> Iterator[Finding]:
    """Yield an error for every place below that names an object whose contents are nobody's but the operator's.

    Whatever is named, and in whatever kind of volume, variable or container: the field is not asked for its meaning.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            where = at(path, shown(str(key), 128))
            named = (key == "name" or str(key).endswith("Name")) and isinstance(inner, str)
            if named and (why := reserved_object(inner)):
                yield error(where, "Reserved", f"{shown(inner)} {why}")
            elif key == "dataSourceRef" and isinstance(inner, Mapping) and inner.get("namespace") is not None:
                message = "is another namespace's, out of a Worker's reach; name a volume of the Worker's own namespace"
                yield error(at(where, "namespace"), "NotAllowed", message)
            yield from reference_findings(inner, where)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from reference_findings(inner, f"{path}[{number}]")


# --- What has to be left ---

_OWNED_VARIABLES = [{"name": name, "value": "the operator's"} for name in sorted(OWNED_ENV)]
_SKELETON = {
    "metadata": {
        "labels": dict.fromkeys((*OWNED_LABELS, f"{OWNED_PREFIX}worker-uid"), "the operator's"),
        "annotations": {f"{OWNED_PREFIX}token-hash": "the operator's"},
    },
    "spec": {
        "serviceAccountName": "the operator's",
        "readinessGates": [{"conditionType": REGISTERED_GATE}],
        "containers": [{"name": WORKER_CONTAINER, "image": "an image", "env": _OWNED_VARIABLES}],
    },
}
"""Of a pod template what must be in it after every merge."""


def _loss_findings(template: Mapping[str, Any], path: str) -> Iterator[Finding]:
    merged = merge(_SKELETON, template)
    metadata, spec = merged.get("metadata", {}), merged.get("spec", {})
    worker = next((each for each in spec.get("containers", ()) if each.get("name") == WORKER_CONTAINER), None)
    variables = [each for each in (worker or {}).get("env", ()) if each.get("name") in OWNED_ENV]
    gates = spec.get("readinessGates", ())
    kept: tuple[tuple[str, str, Callable[[], bool]], ...] = (
        ("metadata.labels", "its labels", lambda: _has(metadata.get("labels", {}), _SKELETON["metadata"]["labels"])),
        (
            "metadata.annotations", "its annotations",
            lambda: _has(metadata.get("annotations", {}), _SKELETON["metadata"]["annotations"]),
        ),
        ("spec.containers", f"the container {WORKER_CONTAINER}", lambda: worker is not None),
        (
            "spec.containers", f"the variables of the container {WORKER_CONTAINER}, in their order",
            lambda: worker is None or variables == _OWNED_VARIABLES,
        ),
        (
            "spec.readinessGates", f"its readiness gate; add {{conditionType: {REGISTERED_GATE}}} to the list",
            lambda: {"conditionType": REGISTERED_GATE} in gates,
        ),
        ("spec.serviceAccountName", "the account", lambda: "serviceAccountName" in spec),
    )  # fmt: skip
    for field, what, holds in kept:
        if not holds():
            yield error(at(path, field), "Reserved", _KEEPS + what)


def _has(entries: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(entries.get(name) == value for name, value in wanted.items())
