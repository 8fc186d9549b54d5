"""Snapshots of a healthy Worker, changed as a test wants it: what the planner decides from."""

from datetime import UTC, datetime
from typing import Any

from agentos_contracts.assign import Clash, Holder
from agentos_contracts.dependencies import Dependency
from agentos_contracts.effective import effective
from agentos_contracts.manifest import BUILT_IN_WORKERS, Manifest
from agentos_contracts.patterns import Pattern
from agentos_contracts.quota import Excess
from agentos_contracts.worker import WorkerSpec
from agentos_operator.bus import Connection
from agentos_operator.plan.worker import EngineView, Obstacle, WorkerInput, WorkerPlan

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STAMP, EARLIER = "2026-01-02T03:04:05Z", "2026-01-01T00:00:00Z"
GATE = "agentos.dev/registered"
LOGS = "look at its logs: kubectl logs -n team -l agentos.dev/worker-uid=w-uid"
MANIFEST = {"iii": "v1", "name": "wasm", "version": "1.2.3"}
NO_ROOM = (Excess("replicas", 3, 4, 2),)
LINKED = EngineView("prod", linked=True, up_for=100, down_for=0)


def worker(spec: dict | None = None, conditions: dict[str, str] | None = None, **metadata: Any) -> dict:
    """A Worker; ``conditions`` are those of its status, by type."""
    known = [
        {"type": kind, "status": status, "lastTransitionTime": EARLIER}
        for kind, status in (conditions if conditions is not None else {"EngineLinked": "True"}).items()
    ]
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": "Worker",
        "metadata": {
            "name": "wasm",
            "namespace": "team",
            "uid": "w-uid",
            "generation": 3,
            "creationTimestamp": EARLIER,
        }
        | metadata,
        "spec": {"manifest": MANIFEST, "image": "wasm:1.2.3", "owns": ["wasm::*"]} | (spec or {}),
        "status": {"conditions": known},
    }


def pod(uid: str = "pod-1", *, gate: bool | None = True, containers: bool = True, **changes: Any) -> dict:
    conditions = [
        {"type": "ContainersReady", "status": str(containers), "lastTransitionTime": changes.pop("since", EARLIER)}
    ]
    if gate is not None:
        conditions.append({"type": GATE, "status": str(gate)})
    metadata = {"name": f"wasm-{uid}", "namespace": "team", "uid": uid, "creationTimestamp": EARLIER}
    return {
        "kind": "Pod",
        "metadata": metadata | changes.pop("metadata", {}),
        "status": {"phase": "Running", "conditions": conditions} | changes,
    }


def waiting(reason: str, message: str = "", **status: Any) -> dict:
    """A pod whose container waits for this reason."""
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(
        gate=None,
        containers=False,
        containerStatuses=[{"image": "wasm:1.2.3", "ready": False, "state": state} | status],
    )


def deployment(replicas: int = 1, available: int = 1, *, updated: int | None = None, **status: Any) -> dict:
    return {
        "kind": "Deployment",
        "metadata": {"name": "wasm", "namespace": "team", "uid": "d-uid"},
        "status": {
            "replicas": replicas,
            "readyReplicas": available,
            "availableReplicas": available,
            "updatedReplicas": replicas if updated is None else updated,
        }
        | status,
    }


def scaled_by(manager: str, replicas: int, said: str = "replicas 1") -> dict:
    """A Deployment whose number somebody else has set since the spec last changed; all its pods are available."""
    made = deployment(replicas, replicas)
    made["metadata"] |= {
        "annotations": {"agentos.dev/replicas-from": said},
        "managedFields": [
            {"manager": "agentos-operator", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {}}}},
            {
                "manager": manager,
                "operation": "Update",
                "subresource": "scale",
                "fieldsV1": {"f:spec": {"f:replicas": {}}},
            },
        ],
    }
    made["spec"] = {"replicas": replicas}
    return made


def connection(pod_uid: str = "pod-1", *functions: str) -> Connection:
    return Connection(f"c-{pod_uid}", "w-uid", pod_uid, frozenset(functions or ("wasm::execute",)))


HELD = Obstacle("which Worker old holds by a::*", "old")


def refused(*waiting: str, **changes: Any) -> WorkerInput:
    """A Worker whose pod serves wasm::execute, and has also registered what it was not granted."""
    made = Connection("c-pod-1", "w-uid", "pod-1", frozenset({"wasm::execute"}), frozenset(waiting))
    return snapshot(**{"connections": (made,), "ungranted": dict.fromkeys(waiting)} | changes)


def nothing_of(*waiting: str, **changes: Any) -> WorkerInput:
    """A Worker that declares nothing, whose pod gets nothing of what it registers."""
    made = Connection("c-pod-1", "w-uid", "pod-1", frozenset(), frozenset(waiting))
    unready = {"pods": [pod(gate=None)], "deployment": deployment(1, 0), "spec": {"owns": None}}
    return snapshot(**unready | {"connections": (made,)} | changes)


def snapshot(**changes: Any) -> WorkerInput:
    """A healthy Worker with one pod, but for the changes; ``spec`` changes its spec, ``conditions`` its status."""
    resource = changes.pop("worker", None) or worker(changes.pop("spec", None), changes.pop("conditions", None))
    spec = resource["spec"]
    wanted = tuple(Pattern.parse(text) for text in spec.get("owns") or ())
    values: dict[str, Any] = {
        "worker": resource,
        "now": NOW,
        "engine": LINKED,
        "effective": effective(
            WorkerSpec.model_validate(spec, by_name=False), Manifest.model_validate(spec.get("manifest", MANIFEST))
        ),
        "findings": (),
        "manifest_missing": "",
        "wanted": wanted,
        "held": frozenset(pattern.text for pattern in wanted),
        "clashes": (),
        "granted": True,
        "handover": None,
        "replaced_by": "",
        "released": True,
        "ungranted": {},
        "providers": (),
        "built_in": BUILT_IN_WORKERS,
        "deployment": deployment(),
        "pods": (pod(),),
        "connections": (connection(),),
        "quiet_for": 100.0,
        "recommended": None,
        "draining": 0,
        "token": "header.claims.signature",
        "grace": 15.0,
    }
    values |= changes
    if not isinstance(values["quiet_for"], dict):
        values["quiet_for"] = dict.fromkeys(("pod-1", "pod-2"), values["quiet_for"])
    return WorkerInput(**values)


def fresh(**changes: Any) -> WorkerInput:
    """The same Worker before anything runs."""
    return snapshot(**{"deployment": None, "pods": (), "connections": ()} | changes)


def depends(name: str = "memory", wanted: str = "^1", **changes: Any) -> WorkerInput:
    return fresh(spec={"dependencies": {name: wanted}}, **changes)


def condition(answer: WorkerPlan, kind: str) -> dict:
    found = [c for c in answer.status["conditions"] if c["type"] == kind]
    assert len(found) <= 1
    return found[0] if found else {}


def kinds(answer: WorkerPlan) -> list[str]:
    return [child["kind"] for child in answer.children]


def clash(pattern: str = "wasm::*", held: str = "wasm::*", holder: str = "old") -> Clash:
    return Clash(Pattern(pattern), Holder(held, holder, "old-uid", EARLIER), Pattern(held))


OUTAGE = EngineView("prod", linked=False, up_for=0, down_for=16)
BREAK = EngineView("prod", linked=False, up_for=0, down_for=4)
STARTING = EngineView("prod", linked=False, up_for=0, down_for=1)
UNREACHABLE = (
    "the engine of realm prod cannot be reached at agentos-engine.team.svc:49134; "
    "see kubectl describe realm prod and kubectl logs -n team agentos-engine-0"
)
MEMORY = Dependency("mem", "memory", "1.4.0", ready=True)

# id, snapshot, condition, status, reason, message
