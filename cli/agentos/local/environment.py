"""The environment of a worker on this machine, with what its Worker resource says, as the kubelet would make it."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_REFERENCE = re.compile(r"\$(\$|\([A-Za-z_][A-Za-z0-9_.-]*\))")


class MissingValue(Exception):
    """A variable's value is not to be had on this machine; the message names the variable and what to do."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where values come from: ConfigMaps and Secrets of the files, by name, and the environment of the person."""

    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    surroundings: Mapping[str, str] = field(default_factory=dict, repr=False)

    def variables(self, resource: Mapping[str, Any], env: list[dict[str, Any]]) -> dict[str, str]:
        """Return the variables of a Worker: those of ``envFrom``, then ``env``. Raises MissingValue."""
        values: dict[str, str] = {}
        for source in resource["spec"].get("envFrom") or ():
            values |= self._all_keys(source)
        for entry in env:
            value = self._value(entry, resource)
            if value is not None:
                values[entry["name"]] = expand(value, values)
        return values

    def _all_keys(self, source: Mapping[str, Any]) -> dict[str, str]:
        kind, reference = ("Secret", source["secretRef"]) if source.get("secretRef") else ("ConfigMap", {})
        reference = reference or source.get("configMapRef") or {}
        data = self._data(kind).get(reference.get("name", ""))
        if data is None:
            if reference.get("optional"):
                return {}
            raise MissingValue(f"{kind} {reference.get('name')} is in none of the files; add it, or leave envFrom out")
        prefix = source.get("prefix") or ""
        return {f"{prefix}{key}": value for key, value in data.items()}

    def _value(self, entry: Mapping[str, Any], resource: Mapping[str, Any]) -> str | None:
        source = entry.get("valueFrom")
        if not source:
            return entry.get("value") or ""
        if field_reference := source.get("fieldRef"):
            return _field(field_reference["fieldPath"], resource, entry["name"])
        kind = "Secret" if source.get("secretKeyRef") else "ConfigMap"
        reference = source.get("secretKeyRef") or source.get("configMapKeyRef") or {}
        data = self._data(kind).get(reference.get("name", ""), {})
        if reference.get("key") in data:
            return data[reference["key"]]
        # On a laptop secrets are mostly in the shell's environment.
        if entry["name"] in self.surroundings:
            return self.surroundings[entry["name"]]
        if reference.get("optional"):
            return None
        raise MissingValue(
            f"{entry['name']} comes from {kind} {reference.get('name')}, key {reference.get('key')}, which is in none "
            f"of the files; export {entry['name']}, or add the {kind}"
        )

    def _data(self, kind: str) -> Mapping[str, Mapping[str, str]]:
        return self.secrets if kind == "Secret" else self.config_maps


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable, if there is one, and ``$$`` by ``$``, as a pod's container gets them."""

    def replaced(match: re.Match[str]) -> str:
        found = match[1]
        return "$" if found == "$" else values.get(found[1:-1], match[0])

    return _REFERENCE.sub(replaced, text)


def data_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts in a ConfigMap or Secret; keys whose value is not text are left out."""
    found: dict[str, str] = {}
    encoded = resource.get("kind") == "Secret"
    for key, value in (resource.get("data") or {}).items():
        if not isinstance(value, str):
            continue
        if encoded:
            try:
                value = base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue
        found[key] = value
    found |= {key: value for key, value in (resource.get("stringData") or {}).items() if isinstance(value, str)}
    return found


def _field(path: str, resource: Mapping[str, Any], name: str) -> str:
    metadata = resource["metadata"]
    known = {"metadata.namespace": metadata.get("namespace") or "default", "metadata.name": metadata["name"]}
    if path not in known:
        raise MissingValue(
            f"{name} comes from the pod's field {path}, which there is not on this machine; set it in env"
        )
    return known[path]
