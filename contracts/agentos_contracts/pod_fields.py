"""The fields of a pod template: what each holds, and how a patch merges its list.

``pod_fields.json`` has them, made from the OpenAPI document of an API server (``/openapi/v3/apis/apps/v1``) by
``python -m agentos_contracts.pod_fields < DOCUMENT > pod_fields.json``. A field is written as one of::

    string, integer, boolean, Quantity, IntOrString, Time    a value
    PodSpec                                                  a map with the fields of that definition
    map of string                                            a map with keys of people's own
    list of Toleration                                       a list that a patch replaces
    list of Container by name                                a list whose items a patch finds by their name
    list of string, merged                                   a list to which a patch adds
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

KUBERNETES = "1.35"
"""Version of Kubernetes that the fields were taken from."""
ROOT = "PodTemplateSpec"

_ROOT_SCHEMA = f"io.k8s.api.core.v1.{ROOT}"
_REFERENCE = "#/components/schemas/"
_WRITTEN = re.compile(r"(?:(map|list) of )?(\w+)(?: by (\w+)|(, merged))?")


@dataclass(frozen=True, slots=True)
class PodField:
    """One field. ``form``: value, map or list. ``of``: the definition or the kind of value that it holds, or of which its items are.

    ``key``: by which field the items of a list are found. ``merged``: whether a patch adds to a list.
    """

    form: str
    of: str
    key: str | None = None
    merged: bool = False


@cache
def definitions() -> Mapping[str, Mapping[str, PodField]]:
    """Return all definitions by name, each with its fields by name."""
    written = json.loads((files("agentos_contracts") / "pod_fields.json").read_text())
    return {name: {field: _read(text) for field, text in fields.items()} for name, fields in written.items()}


def _read(written: str) -> PodField:
    found = _WRITTEN.fullmatch(written)
    if found is None:
        raise ValueError(f"not a field: {written}")
    form, of, key, merged = found.groups()
    return PodField(form or "value", of, key, merged=bool(key or merged))


def from_openapi(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the definitions below a pod template as they are written, sorted, from an OpenAPI v3 document."""
    schemas = document["components"]["schemas"]
    made: dict[str, dict[str, str]] = {}
    left = [_ROOT_SCHEMA]
    while left:
        schema = left.pop()
        if schema.rpartition(".")[2] in made:
            continue
        properties = schemas[schema]["properties"]
        made[schema.rpartition(".")[2]] = {name: _written(properties[name]) for name in sorted(properties)}
        left += [other for each in properties.values() for other in _references(each) if "properties" in schemas[other]]
    return {name: made[name] for name in sorted(made)}


def _written(node: Mapping[str, Any]) -> str:
    if node.get("type") == "array":
        if key := node.get("x-kubernetes-patch-merge-key"):
            return f"list of {_kind(node['items'])} by {key}"
        merged = "merge" in node.get("x-kubernetes-patch-strategy", "").split(",")
        return f"list of {_kind(node['items'])}{', merged' if merged else ''}"
    if "additionalProperties" in node:
        return f"map of {_kind(node['additionalProperties'])}"
    return _kind(node)


def _kind(node: Mapping[str, Any]) -> str:
    reference = next(_references(node), "")
    return reference.rpartition(".")[2] if reference else node["type"]


def _references(node: Mapping[str, Any]) -> Iterator[str]:
    """The schemas that a property names: its own, or that of its items or values."""
    for part in (node, *node.get("allOf", ())):
        if "$ref" in part:
            yield part["$ref"].removeprefix(_REFERENCE)
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), Mapping):
            yield from _references(node[inner])


if __name__ == "__main__":
    json.dump(from_openapi(json.load(sys.stdin)), sys.stdout, indent=1)
    print()
