"""What a Worker's conditions say in every state, from a snapshot of all that is known: the table of reasons."""

import copy
from dataclasses import replace

import pytest
from agentos_contracts import reasons
from agentos_contracts.dependencies import Dependency
from agentos_contracts.findings import error, warning
from agentos_operator.plan.handover import Handover
from agentos_operator.plan.worker import EngineView, Obstacle, plan

from tests.worker_snapshots import (
    BREAK,
    HELD,
    LINKED,
    LOGS,
    MEMORY,
    NO_ROOM,
    OUTAGE,
    STAMP,
    STARTING,
    UNREACHABLE,
    clash,
    condition,
    connection,
    depends,
    deployment,
    fresh,
    nothing_of,
    pod,
    refused,
    scaled_by,
    snapshot,
    waiting,
)

TABLE = [
    ("manifest without error", snapshot(), "ManifestValid", True, reasons.VALID, None),
    (
        "all errors of manifest and spec",
        snapshot(
            effective=None,
            findings=[
                error("spec.image", "NoImage", "no image is named"),
                warning("x", "Y", "z"),
                error("", "E", "bad"),
            ],
        ),
        "ManifestValid",
        False,
        reasons.MANIFEST_INVALID,
        "spec.image: no image is named; bad",
    ),
    (
        "warnings are no errors",
        snapshot(findings=[warning("spec.owns[1]", "Overlap", "one is enough")]),
        "ManifestValid",
        True,
        reasons.VALID,
        None,
    ),
    (
        "ConfigMap is not there",
        snapshot(effective=None, manifest_missing="ConfigMap m is not there; create it, or mend spec.manifestFrom"),
        "ManifestValid",
        False,
        reasons.MANIFEST_NOT_FOUND,
        "ConfigMap m is not there; create it, or mend spec.manifestFrom",
    ),
    ("engine of its own", snapshot(), "Enforced", True, reasons.ENGINE_ENFORCES, None),
    (
        "engine of somebody else",
        snapshot(engine=replace(LINKED, external={"mode": "External", "url": "ws://theirs"})),
        "Enforced",
        False,
        reasons.ENGINE_NOT_OURS,
        None,
    ),
    ("link is up", snapshot(), "EngineLinked", True, reasons.LINKED, None),
    ("link down within the grace", snapshot(engine=BREAK), "EngineLinked", True, reasons.LINKED, None),
    ("link and engine down within the grace", snapshot(engine=STARTING), "EngineLinked", True, reasons.LINKED, None),
    (
        "no Realm has the namespace",
        snapshot(engine=None),
        "EngineLinked",
        False,
        reasons.NO_REALM,
        "no Realm has namespace team; make one with spec.namespace: team, or apply the Worker in a realm's namespace",
    ),
    (
        "engine is starting for the first time",
        fresh(engine=STARTING, conditions={}),
        "EngineLinked",
        False,
        reasons.ENGINE_NOT_READY,
        "the engine of realm prod is starting; see kubectl get realm prod",
    ),
    (
        "first link is being made",
        fresh(engine=BREAK, conditions={}),
        "EngineLinked",
        False,
        reasons.ENGINE_NOT_READY,
        "the engine of realm prod is starting; see kubectl get realm prod",
    ),
    (
        "engine never came",
        fresh(engine=OUTAGE, conditions={}),
        "EngineLinked",
        False,
        reasons.ENGINE_UNREACHABLE,
        UNREACHABLE,
    ),
    ("link down longer", snapshot(engine=OUTAGE), "EngineLinked", False, reasons.ENGINE_UNREACHABLE, UNREACHABLE),
    (
        "engine and link down longer",
        snapshot(engine=EngineView("prod", linked=False, up_for=0, down_for=15)),
        "EngineLinked",
        False,
        reasons.ENGINE_UNREACHABLE,
        UNREACHABLE,
    ),
    ("there is room", snapshot(), "WithinQuota", True, reasons.WITHIN_QUOTA, None),
    (
        "no room for a new one",
        snapshot(deployment=None, pods=(), connections=(), over_quota=NO_ROOM),
        "WithinQuota",
        False,
        reasons.QUOTA_EXCEEDED,
        "it goes beyond the quota of Realm prod (replicas: 3 of 4 are used, 2 more are needed); shrink or delete Workers of its "
        "namespace, or raise spec.quota of the Realm; it starts by itself when there is room",
    ),
    (
        "no room to grow",
        snapshot(over_quota=NO_ROOM),
        "WithinQuota",
        False,
        reasons.QUOTA_EXCEEDED,
        "it goes beyond the quota of Realm prod (replicas: 3 of 4 are used, 2 more are needed); shrink or delete Workers of its "
        "namespace, or raise spec.quota of the Realm; what runs stays as it is",
    ),
    ("all patterns recorded", snapshot(), "FunctionsClaimed", True, reasons.CLAIMED, "wasm::*"),
    (
        "several patterns recorded",
        snapshot(spec={"owns": ["wasm", "agent::chat"]}),
        "FunctionsClaimed",
        True,
        reasons.CLAIMED,
        "agent::chat, wasm::*",
    ),
    ("nothing owned", snapshot(spec={"owns": []}), "FunctionsClaimed", True, reasons.NOTHING_DECLARED, None),
    (
        "another Worker holds it",
        fresh(held=frozenset(), clashes=[clash()]),
        "FunctionsClaimed",
        False,
        reasons.CLASH,
        "wasm::* is held by Worker old; no pod runs until it is free: delete the holder, or claim other functions",
    ),
    (
        "two Workers hold overlapping patterns",
        fresh(held=frozenset(), clashes=[clash(held="wasm::run"), clash(held="wasm::a", holder="b")]),
        "FunctionsClaimed",
        False,
        reasons.CLASH,
        "wasm::* overlaps wasm::run, which is held by Worker old; wasm::* overlaps wasm::a, which is held by Worker b; "
        "no pod runs until it is free: delete the holder, or claim other functions",
    ),
    (
        "takes over from another",
        fresh(held=frozenset(), clashes=[clash()], handover=Handover("old", 2, answers=False)),
        "FunctionsClaimed",
        False,
        reasons.HANDING_OVER,
        "it takes over from Worker old as soon as its 2 pods have registered what that one serves",
    ),
    (
        "another has taken over",
        fresh(held=frozenset(), clashes=[clash()], replaced_by="new"),
        "FunctionsClaimed",
        False,
        reasons.REPLACED,
        "Worker new has taken over its functions; delete this Worker, or remove spec.replaces of Worker new",
    ),
    (
        "takes over, and has registered",
        snapshot(held=frozenset(), clashes=[clash()], handover=Handover("old", 1, answers=False)),
        "Registered",
        False,
        reasons.HANDING_OVER,
        "it takes over from Worker old as soon as its pod has registered what that one serves",
    ),
    (
        "takes over, and its pods run",
        snapshot(
            held=frozenset(),
            clashes=[clash()],
            handover=Handover("old", 1, answers=False),
            deployment=deployment(1, 0),
        ),
        "Available",
        False,
        reasons.HANDING_OVER,
        "it takes over from Worker old as soon as its pod has registered what that one serves",
    ),
    (
        "claim not recorded yet",
        fresh(spec={"owns": ["wasm", "agent::chat"]}, held=frozenset()),
        "FunctionsClaimed",
        False,
        reasons.CLAIM_PENDING,
        "agent::chat, wasm::*: the claim is being recorded",
    ),
    (
        "engine does not know it yet",
        fresh(granted=False),
        "FunctionsClaimed",
        False,
        reasons.CLAIM_PENDING,
        "waiting for the engine to take what this Worker may register and call",
    ),
    (
        "engine does not know yet that it owns nothing",
        fresh(spec={"owns": []}, granted=False),
        "FunctionsClaimed",
        False,
        reasons.CLAIM_PENDING,
        "waiting for the engine to take what this Worker may register and call",
    ),
    (
        "engine does not know of an edit yet",
        snapshot(granted=False),
        "FunctionsClaimed",
        True,
        reasons.CLAIMED,
        "wasm::*",
    ),
    ("depends on nothing", snapshot(), "DependenciesReady", True, reasons.SATISFIED, None),
    ("depends on what is ready", depends(providers=[MEMORY]), "DependenciesReady", True, reasons.SATISFIED, None),
    ("the engine satisfies it", depends("iii-state", "^0.11"), "DependenciesReady", True, reasons.SATISFIED, None),
    (
        "nobody has that name",
        depends(providers=[Dependency("memory", "other", "1.0.0", ready=True)]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_MISSING,
        "needs memory ^1, which no Worker here has as its manifest's name; apply one, or mend the dependency",
    ),
    (
        "version out of range",
        depends(wanted="^2", providers=[MEMORY]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_VERSION,
        "needs memory ^2; Worker mem has 1.4.0; change the range or that Worker's spec.version",
    ),
    (
        "version unknown",
        depends(providers=[Dependency("mem", "memory", None, ready=True)]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_VERSION,
        "needs memory ^1; Worker mem has no known version; change the range or that Worker's spec.version",
    ),
    (
        "any version will do",
        depends(wanted=" * ", providers=[Dependency("mem", "memory", None, ready=True)]),
        "DependenciesReady",
        True,
        reasons.SATISFIED,
        None,
    ),
    (
        "not ready yet",
        depends(providers=[Dependency("mem", "memory", "1.4.0", ready=False)]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_NOT_READY,
        "needs memory ^1; Worker mem is not Ready yet",
    ),
    (
        "in trouble",
        depends(providers=[Dependency("mem", "memory", "1.4.0", ready=False, trouble="ManifestInvalid")]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_NOT_READY,
        "needs memory ^1; Worker mem is not Ready: ManifestInvalid",
    ),
    (
        "waits for this one",
        depends(providers=[Dependency("mem", "memory", "1.4.0", ready=False, waits_for=frozenset({"wasm"}))]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_CYCLE,
        "wasm → memory → wasm: each waits for the next, so none of them starts; remove one of these",
    ),
    (
        "one of two providers is ready",
        depends(providers=[Dependency("a", "memory", "1.0.0", ready=False), MEMORY]),
        "DependenciesReady",
        True,
        reasons.SATISFIED,
        None,
    ),
    (
        "only the provider out of range is ready",
        depends(wanted="^1.5", providers=[MEMORY, Dependency("new", "memory", "1.5.0", ready=False)]),
        "DependenciesReady",
        False,
        reasons.DEPENDENCY_NOT_READY,
        "needs memory ^1.5; Worker new is not Ready yet",
    ),
    ("enough pods", snapshot(), "Available", True, reasons.AVAILABLE, "1 of 1 pods are available"),
    ("nothing started", fresh(held=frozenset(), clashes=[clash()]), "Available", False, reasons.NOT_STARTED, None),
    (
        "no pod yet",
        fresh(),
        "Available",
        False,
        reasons.PODS_STARTING,
        "waiting for 1 ready pod",
    ),
    (
        "one of three pods",
        snapshot(spec={"replicas": 3}, deployment=deployment(3, 1)),
        "Available",
        False,
        reasons.PODS_STARTING,
        "waiting for 3 ready pods",
    ),
    (
        "image cannot be pulled",
        snapshot(deployment=deployment(1, 0), pods=[waiting("ImagePullBackOff")], connections=()),
        "Available",
        False,
        reasons.IMAGE_PULL_FAILED,
        'the image "wasm:1.2.3" cannot be pulled; mend spec.image, or name a pull secret in spec.imagePullSecrets',
    ),
    (
        "container ends again and again",
        snapshot(
            deployment=deployment(1, 0),
            pods=[waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 3}})],
            connections=(),
        ),
        "Available",
        False,
        reasons.CRASH_LOOPING,
        "the container ends again and again (exit code 3); look at its last words: "
        "kubectl logs -n team wasm-pod-1 --previous",
    ),
    (
        "container cannot be configured",
        snapshot(
            deployment=deployment(1, 0),
            pods=[waiting("CreateContainerConfigError", 'secret "s" not found')],
            connections=(),
        ),
        "Available",
        False,
        reasons.CONTAINER_CONFIG_INVALID,
        'the container cannot be started: secret "s" not found',
    ),
    (
        "no node has room",
        snapshot(
            deployment=deployment(1, 0),
            pods=[
                pod(
                    gate=None,
                    conditions=[
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "0/3 nodes are available",
                        }
                    ],
                )
            ],
            connections=(),
        ),
        "Available",
        False,
        reasons.UNSCHEDULABLE,
        "no node takes the pod: 0/3 nodes are available",
    ),
    (
        "cluster refuses the pod",
        snapshot(
            deployment=deployment(
                0, 0, conditions=[{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]
            ),
            pods=(),
            connections=(),
        ),
        "Available",
        False,
        reasons.POD_REFUSED,
        "the cluster refuses to make the pod: exceeded quota",
    ),
    (
        "no replica wanted",
        snapshot(spec={"replicas": 0}, deployment=deployment(0, 0), pods=(), connections=()),
        "Available",
        False,
        reasons.SCALED_TO_ZERO,
        "spec.replicas is 0: no pod is wanted",
    ),
    (
        "it is suspended",
        snapshot(spec={"suspend": True}, deployment=deployment(0, 0), pods=(), connections=()),
        "Available",
        False,
        reasons.SUSPENDED,
        reasons.SUSPENDED.meaning,
    ),
    (
        "somebody has scaled its Deployment",
        snapshot(
            deployment=scaled_by("kubectl", 2),
            pods=(pod(), pod("pod-2")),
            connections=(connection(), connection("pod-2")),
        ),
        "Available",
        True,
        reasons.REPLICAS_SET_ELSEWHERE,
        "2 of 2 pods are available; kubectl has set the Deployment's spec.replicas, and keeps it; scale the Worker instead (a "
        "HorizontalPodAutoscaler targets kind Worker): its next change of spec.replicas, spec.autoscaling or spec.suspend "
        "takes the number back",
    ),
    (
        "containers run, but nothing answers",
        snapshot(deployment=deployment(1, 0), pods=[pod(gate=None)], connections=()),
        "Available",
        False,
        reasons.NOT_REGISTERED,
        f"no pod has connected to the engine at $III_URL; {LOGS}",
    ),
    ("every pod answers", snapshot(), "Registered", True, reasons.REGISTERED, None),
    (
        "no pod is connected",
        snapshot(pods=[pod(gate=None)], connections=()),
        "Registered",
        False,
        reasons.NOT_REGISTERED,
        f"no pod has connected to the engine at $III_URL; {LOGS}",
    ),
    (
        "functions are lacking",
        snapshot(
            spec={"owns": ["wasm::*", "agent::chat"]},
            pods=[pod(gate=None)],
            connections=[connection("pod-1", "wasm::execute", "agent::list")],
        ),
        "Registered",
        False,
        reasons.NOT_REGISTERED,
        f"it is connected to the engine, but has not registered agent::chat; {LOGS}",
    ),
    (
        "one of two pods answers",
        snapshot(spec={"replicas": 2}, pods=[pod(), pod("pod-2", gate=None)]),
        "Registered",
        False,
        reasons.NOT_REGISTERED,
        f"not every pod has registered its functions on the engine; {LOGS}",
    ),
    (
        "what it does not own keeps nothing of its own from answering",
        refused("b::x", "a::x", "http GET /x", ungranted={"b::x": None, "a::x": None, "http GET /x": HELD}),
        "Registered",
        True,
        reasons.REGISTERED,
        None,
    ),
    (
        "it registers another function than the one that it owns",
        refused("wasm::exec", spec={"owns": ["wasm::run"]}, pods=[pod(gate=None)]),
        "Registered",
        False,
        reasons.NOT_REGISTERED,
        f"it is connected to the engine, but has not registered wasm::run; {LOGS}",
    ),
    (
        "declared nothing, and another holds all that it registers",
        nothing_of("a::x", "a::y", ungranted={"a::x": HELD, "a::y": HELD}),
        "Registered",
        False,
        reasons.NOT_GRANTED,
        "it registers a::x, a::y, which Worker old holds by a::*, and gets no other; name in spec.owns what is free",
    ),
    (
        "declared nothing, and registers only what has to be named",
        nothing_of("vault::get", ungranted={"vault::get": Obstacle("which cannot be claimed (it is sensitive)")}),
        "Available",
        False,
        reasons.NOT_GRANTED,
        "it registers vault::get, which cannot be claimed (it is sensitive), and gets no other; name in spec.owns what is free",
    ),
    (
        "declared nothing, and another holds a part of what it registers",
        refused("a::x", spec={"owns": None}, ungranted={"a::x": HELD}),
        "Registered",
        True,
        reasons.REGISTERED,
        None,
    ),
    (
        "what was added to owns is about to be granted",
        refused("agent::chat", spec={"owns": ["wasm::*", "agent::chat"]}, quiet_for=1.0, held=frozenset({"wasm::*"})),
        "Registered",
        True,
        reasons.REGISTERED,
        None,
    ),
    (
        "declared nothing, and is about to get what it registers",
        refused("a::x", spec={"owns": None}, quiet_for=1.0),
        "Registered",
        True,
        reasons.REGISTERED,
        None,
    ),
    ("in sync", snapshot(), "FunctionsInSync", True, reasons.IN_SYNC, None),
    (
        "in sync without pods",
        snapshot(spec={"replicas": 0}),
        "FunctionsInSync",
        True,
        reasons.IN_SYNC,
        "no pod is wanted",
    ),
    ("not started", fresh(engine=None), "FunctionsInSync", False, reasons.NOT_STARTED, None),
    (
        "owned and never registered",
        snapshot(spec={"owns": ["wasm::*", "agent::*"]}),
        "FunctionsInSync",
        False,
        reasons.MISSING,
        "spec.owns names agent::*, which no pod has registered: have the worker register what is missing, or take it out of "
        "spec.owns",
    ),
    (
        "not registered yet",
        snapshot(spec={"owns": ["wasm::*", "agent::*"]}, pods=[pod(since=STAMP)]),
        "FunctionsInSync",
        False,
        reasons.NOT_STARTED,
        None,
    ),
    (
        "waits for a clash is not missing",
        snapshot(spec={"owns": ["wasm::*", "agent::*"]}, held=frozenset({"wasm::*"})),
        "FunctionsInSync",
        True,
        reasons.IN_SYNC,
        None,
    ),
    (
        "registered without owning it",
        refused("b::x", "a::x"),
        "FunctionsInSync",
        False,
        reasons.UNDECLARED,
        "it registers a::x, b::x, which spec.owns does not cover: add to spec.owns what is free, or have it register nothing else",
    ),
    (
        "registered very much without owning it",
        refused(*(f"a::{number}" for number in range(9))),
        "FunctionsInSync",
        False,
        reasons.UNDECLARED,
        "it registers a::0, a::1, a::2, a::3, a::4 and 4 more, which spec.owns does not cover: "
        "add to spec.owns what is free, or have it register nothing else",
    ),
    (
        "registered what another holds",
        refused(
            "http GET /x", "a::x", ungranted={"a::x": HELD, "http GET /x": Obstacle("which Worker shop holds", "shop")}
        ),
        "FunctionsInSync",
        False,
        reasons.FOREIGN,
        "it registers a::x, which Worker old holds by a::*; http GET /x, which Worker shop holds: it gets that when the holder is "
        "deleted; else have it register something else",
    ),
    (
        "everything at once",
        refused("hello", "a::x", spec={"owns": ["wasm::*", "b::c"]}, ungranted={"a::x": HELD, "hello": None}),
        "FunctionsInSync",
        False,
        reasons.MISSING,
        "spec.owns names b::c, which no pod has registered: have the worker register what is missing, or take it out of spec.owns; "
        "it registers a::x, which Worker old holds by a::*: it gets that when the holder is deleted; else have it register "
        "something else; it registers hello, which spec.owns does not cover: add to spec.owns what is free, or have it register "
        "nothing else",
    ),
    (
        "a free route is about to be granted",
        refused("http GET /x", quiet_for=1.0),
        "FunctionsInSync",
        True,
        reasons.IN_SYNC,
        None,
    ),
    (
        "a free route was not granted in time",
        refused("http GET /x", quiet_for=6.0),
        "FunctionsInSync",
        False,
        reasons.UNDECLARED,
        "it registers http GET /x, which is free and could not be recorded yet: add to spec.owns what is free, or have it register "
        "nothing else",
    ),
    ("not registered as not started", fresh(engine=None), "Registered", False, reasons.NOT_STARTED, None),
    (
        "no registration wanted",
        snapshot(spec={"replicas": 0}, pods=(), connections=()),
        "Registered",
        True,
        reasons.REGISTERED,
        "no pod is wanted",
    ),
    (
        "a new pod is not there yet",
        snapshot(deployment=deployment(1, 1, updated=0)),
        "Reconciling",
        True,
        reasons.ROLLOUT_IN_PROGRESS,
        "0 of 1 pods have the newest template",
    ),
]


@pytest.mark.parametrize(
    ("given", "kind", "ok", "reason", "message"),
    [pytest.param(*row[1:], id=f"{row[2]}-{row[4].name}-{row[0]}") for row in TABLE],
)
def test_every_condition_tells_its_reason_and_what_to_do(given, kind, ok, reason, message):
    told = condition(plan(given), kind)
    assert told["status"] == ("True" if ok else "False")
    assert told["reason"] == reason.name
    assert told["message"] == (reason.meaning if message is None else message)
    assert told["observedGeneration"] == 3


def test_the_table_above_has_just_the_documented_reasons():
    documented = {(str(kind), reason.name) for kind, listed in reasons.WORKER_REASONS.items() for reason in listed}
    assert {(row[2], row[4].name) for row in TABLE} == documented


READY_ORDER = [
    ("manifest before all", {"manifest_missing": "m", "effective": None, "engine": None}, "ManifestNotFound"),
    ("realm before claims", {"engine": None, "held": frozenset(), "clashes": [clash()]}, "NoRealm"),
    ("engine before claims", {"engine": OUTAGE, "held": frozenset(), "clashes": [clash()]}, "EngineUnreachable"),
    ("claims before pods", {"held": frozenset(), "clashes": [clash()]}, "Clash"),
    ("pods before registration", {"deployment": deployment(1, 0), "pods": [waiting("ErrImagePull")], "connections": ()},
     "ImagePullFailed"),
    ("registration last", {"pods": [pod(gate=None)], "connections": ()}, "NotRegistered"),
    ("nothing in the way", {}, "Ready"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), [pytest.param(*r[1:], id=r[0]) for r in READY_ORDER])
def test_ready_gives_the_first_thing_in_the_way(changes, reason):
    ready = condition(plan(snapshot(**changes)), "Ready")
    assert ready["reason"] == reason
    assert ready["status"] == ("True" if reason == "Ready" else "False")


def test_ready_has_the_message_of_what_is_in_the_way():
    answer = plan(snapshot(engine=None))
    assert condition(answer, "Ready")["message"] == condition(answer, "EngineLinked")["message"]


def test_dependencies_come_before_pods_and_after_claims_in_ready():
    assert condition(plan(depends()), "Ready")["reason"] == "DependencyMissing"
    assert condition(plan(depends(held=frozenset())), "Ready")["reason"] == "ClaimPending"


@pytest.mark.parametrize("given", [pytest.param(row[1], id=row[0]) for row in TABLE])
def test_the_same_input_gives_the_same_plan_and_is_not_changed(given):
    untouched = copy.deepcopy(given)
    first = plan(given)
    assert plan(copy.deepcopy(untouched)) == first
    assert plan(given) == first
    assert given == untouched
