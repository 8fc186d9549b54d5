"""What the operator tells Prometheus of its objects."""

from agentos_operator.cache import Cache
from agentos_operator.metrics import Resources
from prometheus_client import CollectorRegistry, generate_latest


def resource(kind: str, name: str, namespace: str | None, ready: tuple[str, str] | None) -> dict:
    metadata = {"name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    if namespace is not None:
        metadata["namespace"] = namespace
    conditions = [{"type": "Available", "status": "True", "reason": "Available"}]
    if ready is not None:
        conditions.append({"type": "Ready", "status": ready[0], "reason": ready[1]})
    status = {"conditions": conditions} if ready != ("", "") else None
    body = {"apiVersion": "agentos.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": {}}
    return body | ({"status": status} if status else {})


def test_workers_and_realms_are_counted_by_what_ready_says():
    cache = Cache()
    for name, namespace, ready in (
        ("one", "default", ("True", "Ready")),
        ("two", "default", ("False", "Clash")),
        ("three", "default", ("False", "Clash")),
        ("four", "other", ("", "")),
    ):
        cache.put(resource("Worker", name, namespace, ready))
    cache.put(resource("Realm", "default", None, ("True", "Ready")))
    registry = CollectorRegistry()
    registry.register(Resources(cache))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert sorted(lines) == [
        'agentos_operator_realms{ready="True",reason="Ready"} 1.0',
        'agentos_operator_workers{namespace="default",ready="False",reason="Clash"} 2.0',
        'agentos_operator_workers{namespace="default",ready="True",reason="Ready"} 1.0',
        'agentos_operator_workers{namespace="other",ready="Unknown",reason=""} 1.0',
    ]
    cache.drop(next(key for key in cache._objects if key.name == "two"))
    assert 'reason="Clash"} 1.0' in generate_latest(registry).decode()
