"""What the end-to-end tests share: small Workers, and waiting for what a user would see."""

import functools
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError
from kubernetes.dynamic.resource import Resource

from tests.cluster import Cluster

IMAGE = "localhost/agentos:0.1.0"
NAMESPACE = "default"
SCRIPT = """
import os, signal, threading
ended = threading.Event()
# Before all else: a first process that has not said what a signal does is not ended by it.
signal.signal(signal.SIGTERM, lambda *_: ended.set())
from iii import InitOptions, register_worker
worker = register_worker(os.environ["III_URL"], InitOptions())
for name in os.environ["FUNCTIONS"].split():
    worker.register_function(name, lambda data: {"echo": data.get("body", data), "from": os.environ.get("III_WORKER_NAME")})
    worker.register_trigger({"type": "http", "function_id": name, "config": {"api_path": name.replace("::", "/"), "http_method": "POST"}})
ended.wait()
worker.shutdown()
"""
"""A worker on the unmodified SDK that registers the functions that its environment names, each with a route."""


SILENT = ["python3", "-c", "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"]
"""A program that runs and never connects."""


def worker(name: str, *functions: str, owns: list[str] | None = None, **spec: Any) -> dict[str, Any]:
    """A small Worker that registers ``functions``; ``owns`` is what it claims (those functions, unless told)."""
    body: dict[str, Any] = {
        "image": IMAGE,
        "command": ["python3", "-c", SCRIPT],
        "env": [{"name": "FUNCTIONS", "value": " ".join(functions)}, {"name": "OTEL_ENABLED", "value": "false"}],
        "owns": list(functions) if owns is None else owns,
        "manifest": {"name": name, "iii": "v1"},
        # As short as it gets: the next test waits until these pods are gone.
        "rollout": {"drainSeconds": 1},
    }
    body |= spec
    body = {key: value for key, value in body.items() if value is not None}
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": body,
    }


def realm(name: str, **spec: Any) -> dict[str, Any]:
    """A Realm with a namespace of its own name."""
    body = {"namespace": name} | spec
    return {"apiVersion": "agentos.dev/v1alpha1", "kind": "Realm", "metadata": {"name": name}, "spec": body}


def apply(cluster: Cluster, *objects: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
    """kubectl apply of objects."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)} if len(objects) != 1 else objects[0])
    return cluster.kubectl("apply", "-f", "-", input=text, check=check)


@functools.cache
def _api(kubeconfig: Path, _written: int) -> DynamicClient:
    return DynamicClient(
        config.new_client_from_config(str(kubeconfig)), cache_file=str(kubeconfig.parent / "discovery.json")
    )


@functools.cache
def _resource(api: DynamicClient, name: str) -> Resource:
    plain, _, group = name.partition(".")
    for by in ("name", "singular_name"):
        found = api.resources.search(**{by: plain} | ({"group": group} if group else {}))
        if found:
            return max(found, key=lambda each: (each.preferred, each.group == ""))
    raise AssertionError(f"the cluster has no resource {name}")


def _resource_of(cluster: Cluster, name: str) -> Resource:
    """The resource that kubectl knows by this name, in the plural or the singular, with or without its group."""
    return _resource(_api(cluster.kubeconfig, cluster.kubeconfig.stat().st_mtime_ns), name)


def get(cluster: Cluster, kind: str, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """One object; empty when it is not there. Tests ask again and again, and kubectl would cost a process each time."""
    resource = _resource_of(cluster, kind)
    try:
        return resource.get(name=name, namespace=namespace if resource.namespaced else None).to_dict()
    except NotFoundError:
        return {}


def listed(cluster: Cluster, kind: str, selector: str = "", namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """The objects of a kind."""
    resource = _resource_of(cluster, kind)
    return resource.get(namespace=namespace if resource.namespaced else None, label_selector=selector).to_dict()[
        "items"
    ]


def by_age(cluster: Cluster) -> list[str]:
    """All Workers, in the order in which those who wait are next: the oldest first, and of one second by their uids."""
    found = [each["metadata"] for each in listed(cluster, "workers")]
    return [each["name"] for each in sorted(found, key=lambda each: (each["creationTimestamp"], each["uid"]))]


def condition(obj: dict[str, Any], name: str) -> tuple[str, str, str]:
    """Status, reason and message of a condition; empty texts when it is not there."""
    found = next((c for c in obj.get("status", {}).get("conditions", ()) if c["type"] == name), {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def until(what: str, holds: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Asks again and again until the answer is true, and returns it; fails with ``what`` and the last answer."""
    deadline, answer = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout:.0f} s: {what}; last answer: {answer!r}")


def until_condition(cluster: Cluster, name: str, kind: str, status: str, reason: str, timeout: float = 60.0) -> str:
    """Waits until a Worker's condition has this status and reason; returns its message."""

    def holds() -> bool:
        seen.append(condition(get(cluster, "worker", name), kind))
        return seen[-1][:2] == (status, reason)

    seen: list[tuple[str, str, str]] = []
    try:
        until(f"{kind}={status} ({reason}) of {name}", holds, timeout)
    except AssertionError as error:
        raise AssertionError(f"{error}; it was {seen[-1]}") from None
    return seen[-1][2]


def until_realm_ready(cluster: Cluster, name: str) -> None:
    """Waits until a Realm is Ready, as a user would."""
    cluster.kubectl("wait", "--for=condition=Ready", f"realm/{name}", "--timeout=90s", timeout=100)


def until_ready(cluster: Cluster, *names: str, namespace: str = NAMESPACE, timeout: float = 90.0) -> None:
    """Waits until Workers are Ready, as a user would."""
    cluster.kubectl(
        "wait", "-n", namespace, "--for=condition=Ready", *(f"worker/{name}" for name in names), f"--timeout={timeout:.0f}s",
        timeout=timeout + 10,
    )  # fmt: skip


def can(cluster: Cluster, who: str, verb: str, what: str, namespace: str | None = NAMESPACE) -> bool:
    """What the API server says of a right; ``what`` may have a subresource behind a slash."""
    resource, _, subresource = what.partition("/")
    options = [f"--subresource={subresource}"] if subresource else []
    where = ["-n", namespace] if namespace else ["--all-namespaces"]
    asked = cluster.kubectl("auth", "can-i", verb, resource, *options, *where, "--as", who, check=False)
    return asked.stdout.strip() == "yes"
