"""The 63 workers of AgentOS as data, and the manifests and Workers that are built from it."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from agentos_contracts.patterns import Pattern, reserved_by
from ruamel.yaml import YAML

DATA = Path(__file__).with_name("workers.yaml")
IMAGE = "localhost/agentos:0.1.0"


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Each worker's facts by its name."""
    return YAML(typ="safe").load(DATA)


def functions(name: str) -> list[str]:
    """Ids that a worker registers; ``hand::run::*`` stands for one for each hand."""
    entry = entries()[name]
    instead = entry.get("instead", {})
    return [*(instead.get(each, each) for each in entry["functions"]), *entry.get("aliases", ())]


def routes(name: str) -> list[tuple[str, str]]:
    """Method and path of each HTTP route of a worker."""
    entry = entries()[name]
    instead = entry.get("instead", {})
    listed = [instead.get(route, route) for route in entry.get("routes", {})]
    return [(method, path) for method, path in (route.split(" ") for route in listed)]


def manifest_text(name: str) -> str:
    """A worker's ``iii.worker.yaml``, in the shape for the registry as in the original."""
    entry = entries()[name]
    if entry.get("language", "rust") == "python":
        shape = {"language": "python", "deploy": "image", "manifest": "pyproject.toml"}
    else:
        shape = {
            "language": "rust",
            "deploy": "binary",
            "manifest": "Cargo.toml",
            "bin": entry.get("bin", f"agentos-{name}"),
        }
    needs = dict.fromkeys(entry.get("needs", ()), "*")
    resources = entry.get("resources", {"cpus": 1, "memory": 256})
    fields = {"iii": "v1", "name": name, "description": entry["description"], **shape, "tags": [entry["group"].lower()]}
    fields |= {"dependencies": needs} if needs else {}
    # JSON is YAML; each field has a line of its own.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in (fields | {"resources": resources}).items())


def owns(name: str) -> list[str]:
    """What a worker claims: a function namespace as a whole where nobody else is in it, else its functions."""
    claimed = []
    for function_id in functions(name):
        segment, _, rest = function_id.partition("::")
        whole = Pattern(f"{segment}::*")
        if segment == "channel":  # one function namespace for fourteen workers, with a part for each
            claimed.append(f"channel::{rest.partition('::')[0]}::*")
        elif _users()[segment] == 1 and not reserved_by(whole):
            claimed.append(whole.text)
        else:
            claimed.append(function_id)
    return list(dict.fromkeys(claimed))


@cache
def _users() -> Counter[str]:
    """How many workers have functions in each function namespace."""
    return Counter(segment for name in entries() for segment in {each.partition("::")[0] for each in functions(name)})


def worker(name: str, namespace: str = "default") -> dict[str, Any]:
    """The Worker of one entry, without pods."""
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "image": IMAGE,
            "owns": owns(name),
            "replicas": 0,
            "manifest": YAML(typ="safe").load(manifest_text(name)),
        },
    }
