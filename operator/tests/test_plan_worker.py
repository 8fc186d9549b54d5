"""What is decided for one Worker, from a snapshot of all that is known."""

import base64
import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from agentos_contracts import reasons
from agentos_contracts.dependencies import Dependency
from agentos_contracts.findings import error, warning
from agentos_contracts.quota import Excess
from agentos_operator.bus import Connection
from agentos_operator.plan.conditions import MESSAGE_LIMIT
from agentos_operator.plan.handover import Handover
from agentos_operator.plan.worker import EngineView, Obstacle, WorkerInput, WorkerPlan, plan
from agentos_operator.plan.worker.status import FUNCTIONS_SHOWN

from tests.worker_snapshots import (
    BREAK,
    EARLIER,
    GATE,
    HELD,
    LINKED,
    LOGS,
    MEMORY,
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
    kinds,
    nothing_of,
    pod,
    refused,
    scaled_by,
    snapshot,
    waiting,
    worker,
)

NO_ROOM = (Excess("replicas", 3, 4, 2),)
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


# --- What runs ---

NOT_STARTED = [
    ("a waiter", {"held": frozenset(), "clashes": [clash()]}),
    ("a claim not yet recorded", {"held": frozenset()}),
    ("a Worker outside any Realm", {"engine": None}),
    ("an invalid manifest", {"effective": None, "findings": [error("spec", "E", "bad")]}),
    ("a missing manifest", {"effective": None, "manifest_missing": "ConfigMap m is not there"}),
    ("a missing dependency", {"spec": {"dependencies": {"memory": "*"}}}),
]


@pytest.mark.parametrize("changes", [pytest.param(r[1], id=r[0]) for r in NOT_STARTED])
def test_nothing_is_started_for(changes):
    answer = plan(fresh(**changes))
    assert answer.children == ()
    assert not answer.stop
    assert condition(answer, "Available")["reason"] == condition(answer, "Registered")["reason"] == "NotStarted"


def test_a_worker_starts_with_token_account_and_deployment_in_that_order():
    assert kinds(plan(fresh())) == ["Secret", "ServiceAccount", "Deployment"]


def test_a_worker_starts_while_the_engine_is_away():
    assert kinds(plan(fresh(engine=OUTAGE))) == ["Secret", "ServiceAccount", "Deployment"]


def test_no_account_is_made_for_a_worker_that_names_one():
    answer = plan(fresh(spec={"serviceAccountName": "mine"}))
    assert kinds(answer) == ["Secret", "Deployment"]
    assert answer.children[-1]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


@pytest.mark.parametrize(
    "providers",
    [
        pytest.param([], id="gone"),
        pytest.param([Dependency("mem", "memory", "1.4.0", ready=False)], id="not ready"),
        pytest.param([Dependency("mem", "memory", "9.0.0", ready=True)], id="other version"),
    ],
)
def test_dependencies_gate_only_the_first_start(providers):
    answer = plan(snapshot(spec={"dependencies": {"memory": "^1"}}, providers=providers))
    assert kinds(answer) == ["Secret", "ServiceAccount", "Deployment"]
    assert not answer.stop
    told = condition(answer, "DependenciesReady")
    assert (told["status"], told["reason"]) == ("True", "Satisfied")
    assert told["message"].startswith("were ready at the first start; now: needs memory ^1")
    assert condition(answer, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"effective": None, "findings": [error("spec", "E", "bad")]}, id="error in the manifest"),
        pytest.param({"effective": None, "manifest_missing": "gone"}, id="ConfigMap deleted"),
        pytest.param(
            {"effective": None, "findings": [error("spec.owns[0]", "E", "bad")], "wanted": ()}, id="bad pattern"
        ),
    ],
)
def test_a_mistake_in_an_edit_leaves_what_runs_alone(changes):
    answer = plan(snapshot(**changes))
    assert not answer.stop
    assert answer.children == ()
    assert condition(answer, "Available")["status"] == condition(answer, "Registered")["status"] == "True"
    assert condition(answer, "Ready")["status"] == "False"
    assert answer.status["replicas"] == 1


def test_a_running_worker_that_adds_a_clashing_pattern_keeps_running_and_says_so():
    answer = plan(
        snapshot(
            spec={"owns": ["wasm::*", "agent::*"]}, held=frozenset({"wasm::*"}), clashes=[clash("agent::*", "agent::*")]
        )
    )
    assert not answer.stop
    assert answer.children == ()
    assert condition(answer, "FunctionsClaimed")["reason"] == condition(answer, "Ready")["reason"] == "Clash"
    assert condition(answer, "Available")["status"] == "True"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"held": frozenset(), "clashes": [clash()]}, id="owns nothing any more"),
        pytest.param({"engine": None}, id="lost its realm"),
    ],
)
def test_what_must_not_run_is_stopped(changes):
    answer = plan(snapshot(**changes))
    assert answer.stop
    assert answer.children == ()
    assert condition(answer, "Available")["reason"] == "NotStarted"
    assert (answer.status["replicas"], answer.status["readyReplicas"]) == (0, 0)


def test_a_worker_without_pods_has_nothing_to_stop():
    assert not plan(fresh(held=frozenset(), clashes=[clash()])).stop


def test_no_replicas_keep_the_deployment_and_the_claim():
    answer = plan(snapshot(spec={"replicas": 0}, deployment=deployment(0, 0), pods=(), connections=()))
    assert not answer.stop
    assert answer.children[-1]["spec"]["replicas"] == 0
    assert condition(answer, "FunctionsClaimed")["status"] == "True"
    assert condition(answer, "Ready")["reason"] == "ScaledToZero"


# --- Gates ---


def gates(given: WorkerInput) -> dict[str, bool]:
    return {changed["metadata"]["uid"]: to for changed, to in plan(given).gates}


def test_a_gate_opens_when_the_pods_own_connection_answers():
    assert gates(snapshot(pods=[pod(gate=None)])) == {"pod-1": True}
    assert gates(snapshot(pods=[pod(gate=False)])) == {"pod-1": True}


def test_a_gate_that_is_right_is_not_written():
    assert gates(snapshot()) == {}
    assert gates(snapshot(pods=[pod(gate=None)], connections=())) == {}


def test_another_pods_connection_opens_no_gate():
    assert gates(snapshot(pods=[pod(gate=None)], connections=[connection("pod-2")])) == {}


def test_of_two_pods_only_the_one_that_answers_is_opened():
    both = [pod("pod-1", gate=None), pod("pod-2", gate=None)]
    assert gates(snapshot(pods=both, connections=[connection("pod-2")])) == {"pod-2": True}


def test_a_pods_connections_answer_together():
    halves = [
        Connection("a", "w-uid", "pod-1", frozenset({"wasm::execute"})),
        Connection("b", "w-uid", "pod-1", frozenset({"agent::chat"})),
    ]
    owned = {"owns": ["wasm::*", "agent::chat"]}
    assert gates(snapshot(spec=owned, pods=[pod(gate=None)], connections=halves)) == {"pod-1": True}
    assert gates(snapshot(spec=owned, pods=[pod(gate=None)], connections=halves[:1])) == {}


def test_a_worker_that_owns_nothing_answers_by_being_connected():
    empty = Connection("a", "w-uid", "pod-1", frozenset())
    assert gates(snapshot(spec={"owns": []}, pods=[pod(gate=None)], connections=[empty])) == {"pod-1": True}
    assert gates(snapshot(spec={"owns": []}, pods=[pod(gate=None)], connections=())) == {}


def up(seconds: float) -> EngineView:
    return EngineView("prod", linked=True, up_for=seconds, down_for=0)


LOST = [
    ("gone for longer than the grace", {"engine": up(16), "quiet_for": 16.0}, {"pod-1": False}),
    ("exactly the grace", {"engine": up(15), "quiet_for": 15.0}, {"pod-1": False}),
    ("gone within the grace", {"engine": up(100), "quiet_for": 14.0}, {}),
    ("link up for less than the grace", {"engine": up(14), "quiet_for": 100.0}, {}),
    ("outage of the engine", {"engine": OUTAGE, "quiet_for": 100.0}, {}),
    ("no realm", {"engine": None, "quiet_for": 100.0}, {}),
    ("another pod answers", {"connections": [connection("pod-2")]}, {"pod-1": False}),
    ("the pod registers something else", {"connections": [connection("pod-1", "other::x")]}, {"pod-1": False}),
]


@pytest.mark.parametrize(("ungranted", "opens"), [({}, False), ({"a::x": HELD}, True)], ids=["soon", "never"])
def test_a_worker_that_declared_nothing_answers_once_all_is_granted_that_can_be(ungranted, opens):
    answer = plan(refused("a::x", spec={"owns": None}, pods=[pod(gate=None)], ungranted=ungranted, quiet_for=1.0))
    assert [wanted for _, wanted in answer.gates] == ([True] if opens else [])


def test_a_pod_whose_route_is_free_answers_once_that_is_granted_and_a_route_of_another_keeps_no_gate_closed():
    route, unready = "http GET /x", {"pods": [pod(gate=None)], "quiet_for": 1.0}
    soon = plan(refused(route, **unready))
    assert soon.gates == ()
    assert soon.requeue_after == pytest.approx(4.1)
    assert [wanted for _, wanted in plan(refused(route, ungranted={route: HELD}, **unready)).gates] == [True]
    assert [wanted for _, wanted in plan(refused(route, **unready | {"quiet_for": 5.0})).gates] == [True]


@pytest.mark.parametrize(
    "changes", [{"engine": OUTAGE}, {"connections": ()}, {"pods": [pod(since=STAMP)], "connections": ()}]
)
def test_drift_is_told_as_before_while_nothing_can_be_seen_of_it(changes):
    before = refused("a::x", ungranted={"a::x": HELD})
    told = plan(before).status
    resource = worker()
    resource["status"] = told
    after = plan(refused("a::x", worker=resource, ungranted={"a::x": HELD}, **changes)).status
    assert after["drift"] == told["drift"] == {"missing": [], "foreign": ["a::x"], "undeclared": []}
    for status in (told, after):
        (found,) = (each for each in status["conditions"] if each["type"] == "FunctionsInSync")
        assert (found["status"], found["reason"]) == ("False", "Foreign")
        assert "which Worker old holds by a::*" in found["message"]


def test_drift_lists_as_much_as_fits():
    answer = plan(refused(*(f"a::{number:04}" for number in range(1000))))
    assert answer.status["drift"] == {
        "missing": [],
        "foreign": [],
        "undeclared": [f"a::{number:04}" for number in range(32)],
    }
    assert condition(answer, "Ready")["status"] == "True"


def test_what_is_not_granted_keeps_no_gate_closed_when_all_that_is_owned_answers():
    answer = plan(refused("a::x", pods=[pod(gate=None)]))
    assert [wanted for _, wanted in answer.gates] == [True]


def test_what_a_pod_that_goes_has_registered_is_not_told():
    leaving = pod("pod-1", metadata={"deletionTimestamp": STAMP})
    answer = plan(
        refused("a::x", pods=[leaving, pod("pod-2")], connections=(*refused("a::x").connections, connection("pod-2")))
    )
    assert condition(answer, "Registered")["status"] == "True"


@pytest.mark.parametrize(("changes", "expected"), [pytest.param(*r[1:], id=r[0]) for r in LOST])
def test_a_gate_closes_only_after_the_grace_with_the_engine_there(changes, expected):
    assert gates(snapshot(**{"connections": ()} | changes)) == expected


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"metadata": {"deletionTimestamp": STAMP}}, id="leaving"),
        pytest.param({"phase": "Succeeded"}, id="ended"),
        pytest.param({"phase": "Failed"}, id="failed"),
    ],
)
def test_gates_of_pods_that_go_are_left_alone(changes):
    assert gates(snapshot(pods=[pod(gate=None, **changes)])) == {}


def test_a_container_that_just_started_is_not_yet_told_to_lack_its_registration():
    young = snapshot(
        deployment=deployment(available=0), connections=(), pods=[pod(gate=None, since="2026-01-02T03:04:03Z")]
    )
    answer = plan(young)
    assert condition(answer, "Ready")["reason"] == "PodsStarting"
    assert answer.requeue_after == pytest.approx(3.1)


# --- When to look again ---

AGAIN = [
    ("all is well", {}, None),
    ("no realm", {"engine": None}, None),
    ("link down for 4 of 15 s", {"engine": BREAK}, 11.1),
    ("link down for good", {"engine": OUTAGE}, None),
    ("connection gone for 5 s", {"connections": (), "quiet_for": 5.0}, 10.1),
    ("link back for 3 s, connection not yet", {"connections": (), "engine": up(3), "quiet_for": 100.0}, 12.1),
    ("gate closed already, what is not watched may be amiss", {"connections": (), "pods": [pod(gate=False)]}, 30.0),
    ("starting", {"connections": (), "pods": [pod(gate=None)], "quiet_for": 1.0}, 30.0),
]


@pytest.mark.parametrize(("changes", "seconds"), [pytest.param(*r[1:], id=r[0]) for r in AGAIN])
def test_it_looks_again_when_a_grace_ends(changes, seconds):
    again = plan(snapshot(**changes)).requeue_after
    assert again == (None if seconds is None else pytest.approx(seconds))


# --- Status ---


def test_a_ready_worker_that_is_settled_has_neither_reconciling_nor_stalled():
    settled = deployment()
    settled["metadata"]["annotations"] = plan(snapshot()).children[-1]["metadata"]["annotations"]
    answer = plan(snapshot(deployment=settled))
    assert [c["type"] for c in answer.status["conditions"]] == [
        "ManifestValid",
        "EngineLinked",
        "WithinQuota",
        "FunctionsClaimed",
        "DependenciesReady",
        "Available",
        "Registered",
        "FunctionsInSync",
        "Enforced",
        "Ready",
    ]


def test_right_after_an_edit_the_counts_of_before_do_not_pass_for_settled():
    before = deployment()
    before["metadata"]["annotations"] = {"agentos.dev/applied-hash": "of another template"}
    conditions = {c["type"]: c["status"] for c in plan(snapshot(deployment=before)).status["conditions"]}
    assert conditions["Reconciling"] == "True"
    assert conditions["Ready"] == "True"


@pytest.mark.parametrize(
    ("given", "kind", "reason"),
    [
        pytest.param(fresh(), "Reconciling", "PodsStarting", id="starting"),
        pytest.param(
            fresh(held=frozenset(), clashes=[clash()]), "Reconciling", "Clash", id="a waiter goes on by itself"
        ),
        pytest.param(snapshot(engine=None), "Stalled", "NoRealm", id="no realm"),
        pytest.param(
            snapshot(effective=None, findings=[error("spec", "E", "bad")]), "Stalled", "ManifestInvalid", id="invalid"
        ),
        pytest.param(snapshot(effective=None, manifest_missing="gone"), "Reconciling", "ManifestNotFound", id="no map"),
        pytest.param(
            snapshot(deployment=deployment(2, 1, updated=1)), "Reconciling", "RolloutInProgress", id="surplus"
        ),
        pytest.param(
            snapshot(deployment=deployment(1, 1, updated=0)), "Reconciling", "RolloutInProgress", id="old pod"
        ),
    ],
)
def test_kstatus_knows_whether_it_goes_on_by_itself(given, kind, reason):
    answer = plan(given)
    told = condition(answer, kind)
    assert (told["status"], told["reason"]) == ("True", reason)
    assert condition(answer, "Stalled" if kind == "Reconciling" else "Reconciling") == {}


def test_a_rollout_tells_how_far_it_is_and_what_holds_it_up():
    assert (
        condition(plan(snapshot(deployment=deployment(2, 1, updated=1))), "Reconciling")["message"]
        == "1 of 1 pods have the newest template"
    )
    stuck = waiting("ErrImagePull")
    stuck["metadata"] |= {"uid": "pod-2", "creationTimestamp": STAMP}
    answer = plan(snapshot(deployment=deployment(2, 1, updated=1), pods=[pod(), stuck]))
    assert condition(answer, "Ready")["status"] == "True"
    assert 'the image "wasm:1.2.3" cannot be pulled' in condition(answer, "Reconciling")["message"]


def test_the_transition_time_is_kept_while_the_status_stays():
    answer = plan(snapshot(engine=OUTAGE, conditions={"ManifestValid": "True", "EngineLinked": "True"}))
    assert condition(answer, "ManifestValid")["lastTransitionTime"] == EARLIER
    assert condition(answer, "EngineLinked")["lastTransitionTime"] == STAMP
    assert condition(answer, "Ready")["lastTransitionTime"] == STAMP


def test_the_transition_time_is_kept_when_only_the_reason_changes():
    answer = plan(snapshot(engine=None, conditions={"Ready": "False"}))
    assert condition(answer, "Ready")["lastTransitionTime"] == EARLIER


def test_the_same_status_comes_out_again_from_its_own_echo():
    first = plan(snapshot())
    echoed = worker()
    echoed["status"] = copy.deepcopy(first.status)
    later = datetime(2026, 1, 3, tzinfo=UTC)
    assert plan(snapshot(worker=echoed, now=later)).status == first.status


def test_counts_and_names_are_told():
    status = plan(
        snapshot(
            spec={"replicas": 2},
            deployment=deployment(2, 2),
            pods=[pod("pod-1"), pod("pod-2")],
            connections=[connection("pod-1", "wasm::b", "wasm::a"), connection("pod-2", "wasm::a")],
        )
    ).status
    conditions = status.pop("conditions")
    assert conditions
    assert status == {
        "observedGeneration": 3,
        "replicas": 2,
        "readyReplicas": 2,
        "registeredPods": 2,
        "functions": ["wasm::a", "wasm::b"],
        "functionCount": 2,
        "drift": None,
        "selector": "agentos.dev/worker-uid=w-uid",
        "engine": "agentos-engine.team.svc:49134",
        "version": "1.2.3",
    }


def test_a_worker_with_very_many_functions_shows_some_and_counts_all():
    many = [f"wasm::f{number:04}" for number in range(FUNCTIONS_SHOWN + 50)]
    status = plan(snapshot(connections=[connection("pod-1", *many)])).status
    assert status["functions"] == many[:FUNCTIONS_SHOWN]
    assert status["functionCount"] == len(many)


def test_an_endless_message_is_cut():
    answer = plan(snapshot(effective=None, findings=[error("spec", "E", "x" * 5000)]))
    message = condition(answer, "ManifestValid")["message"]
    assert len(message) == MESSAGE_LIMIT
    assert message.endswith("…")


def test_unknown_things_are_told_as_empty_texts():
    status = plan(fresh(engine=None, effective=None, manifest_missing="gone")).status
    assert (status["engine"], status["version"]) == ("", "")


# --- The objects ---


def pod_spec(answer: WorkerPlan) -> dict:
    return answer.children[-1]["spec"]["template"]["spec"]


def test_the_deployment_tells_its_container_where_the_engine_is():
    (container,) = pod_spec(plan(snapshot()))["containers"]
    assert container["name"] == "worker"
    assert container["image"] == "wasm:1.2.3"
    assert container["env"] == [
        {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "agentos-token-wasm", "key": "token"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "III_URL", "value": "ws://agentos-engine.team.svc:49134/w/$(AGENTOS_TOKEN)/$(POD_UID)@1.2.3"},
        {"name": "III_WORKER_NAME", "value": "wasm"},
        {"name": "HOME", "value": "/tmp"},
    ]


def test_the_workers_own_environment_follows_and_its_home_is_respected():
    env = [{"name": "LOG_LEVEL", "value": "debug"}, {"name": "HOME", "value": "/data"}]
    (container,) = pod_spec(plan(snapshot(spec={"env": env})))["containers"]
    assert container["env"][-2:] == env
    assert [variable["name"] for variable in container["env"]].count("HOME") == 1


def test_what_the_spec_says_of_the_container_is_in_the_pod():
    spec = {
        "command": ["run"],
        "args": ["--fast"],
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "resources": {"limits": {"memory": "64Mi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 4,
    }
    answer = plan(snapshot(spec=spec))
    (container,) = pod_spec(answer)["containers"]
    for field in ("command", "args", "envFrom", "resources"):
        assert container[field] == spec[field]
    assert pod_spec(answer)["imagePullSecrets"] == [{"name": "registry"}]
    (made,) = [child for child in answer.children if child["kind"] == "Deployment"]
    assert made["spec"]["replicas"] == 4


def test_what_nobody_said_is_left_out_so_that_wanted_and_actual_compare():
    (container,) = pod_spec(plan(snapshot()))["containers"]
    assert not {"command", "args", "envFrom", "resources"} & container.keys()
    assert "imagePullSecrets" not in pod_spec(plan(snapshot()))

    def empties(value: Any, path: str = "") -> list[str]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in empties(item, f"{path}.{key}")] or (
                [path] if not value else []
            )
        if isinstance(value, list):
            return [found for item in value for found in empties(item, path)] or ([path] if not value else [])
        return [path] if value is None else []

    assert empties(plan(snapshot()).children[-1]) == []


def test_an_empty_variable_is_without_value_as_the_api_server_tells_it():
    (container,) = pod_spec(plan(snapshot(spec={"env": [{"name": "EMPTY", "value": ""}]})))["containers"]
    assert container["env"][-1] == {"name": "EMPTY"}


def test_templates_are_merged_into_the_pod_the_workers_over_the_realms():
    realms = {
        "metadata": {"labels": {"team": "a", "zone": "x"}},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "worker", "tty": True}]},
    }
    own = {
        "metadata": {"labels": {"zone": None}},
        "spec": {"nodeSelector": {"disk": None, "arch": "arm64"}, "containers": [{"name": "proxy", "image": "p:1"}]},
    }
    given = snapshot()
    bare = plan(given).children[-1]["spec"]["template"]
    template = plan(
        snapshot(effective=replace(given.effective, templates=[realms, own]))  # type: ignore[type-var]
    ).children[-1]["spec"]["template"]
    assert template["metadata"] == bare["metadata"] | {"labels": bare["metadata"]["labels"] | {"team": "a"}}
    assert template["spec"] == bare["spec"] | {
        "nodeSelector": {"arch": "arm64"},
        "containers": [{"name": "proxy", "image": "p:1"}, bare["spec"]["containers"][0] | {"tty": True}],
    }


def test_what_is_empty_in_a_template_stays_for_it_may_mean_something():
    anywhere = {"topologySpreadConstraints": [{"topologyKey": "zone", "labelSelector": {}}]}
    template = {"spec": anywhere}
    assert pod_spec(plan(snapshot(spec={"template": template})))["topologySpreadConstraints"] == [
        {"topologyKey": "zone", "labelSelector": {}}
    ]


def test_a_change_of_a_template_is_a_change_of_the_deployment():
    hashes = {
        plan(snapshot(spec={"template": {"metadata": {"labels": {"a": value}}}})).children[-1]["metadata"][
            "annotations"
        ]["agentos.dev/applied-hash"]
        for value in ("x", "y")
    }
    assert len(hashes) == 2


def test_kubectl_logs_takes_the_worker_of_several_containers():
    annotations = plan(snapshot()).children[-1]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "worker"


def test_the_pod_passes_pod_security_restricted():
    spec = pod_spec(plan(snapshot()))
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]


def test_the_deployment_selects_by_uid_and_waits_for_the_gate():
    made = plan(snapshot()).children[-1]
    assert made["spec"]["selector"] == {"matchLabels": {"agentos.dev/worker-uid": "w-uid"}}
    template = made["spec"]["template"]
    assert template["metadata"]["labels"]["agentos.dev/worker-uid"] == "w-uid"
    assert template["spec"]["readinessGates"] == [{"conditionType": GATE}]
    assert made["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_every_child_goes_with_its_worker_and_carries_its_labels():
    for child in plan(snapshot()).children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Worker", "wasm", "w-uid", True)
        assert child["metadata"]["namespace"] == "team"
        assert child["metadata"]["labels"] == {
            "app.kubernetes.io/name": "wasm",
            "app.kubernetes.io/managed-by": "agentos-operator",
            "agentos.dev/realm": "prod",
            "agentos.dev/worker": "wasm",
            "agentos.dev/worker-uid": "w-uid",
        }
        assert child["metadata"]["annotations"]["agentos.dev/applied-hash"]


def test_a_new_token_rolls_the_pods_and_only_its_hash_is_in_the_template():
    before, after = plan(snapshot()).children, plan(snapshot(token="another.token.here")).children

    def told(children):
        return children[-1]["spec"]["template"]["metadata"]["annotations"]["agentos.dev/token-hash"]

    assert told(before) != told(after)
    assert before[0]["data"] == {"token": base64.b64encode(b"header.claims.signature").decode()}
    assert "header.claims.signature" not in str(before[-1])


def test_the_hash_changes_with_what_is_wanted_and_only_then():
    def digest(given):
        return plan(given).children[-1]["metadata"]["annotations"]["agentos.dev/applied-hash"]

    assert digest(snapshot()) == digest(snapshot(now=datetime(2027, 1, 1, tzinfo=UTC), pods=(), connections=()))
    assert digest(snapshot()) != digest(snapshot(spec={"image": "wasm:1.2.4"}))


@pytest.mark.parametrize("given", [pytest.param(row[1], id=row[0]) for row in TABLE])
def test_the_same_input_gives_the_same_plan_and_is_not_changed(given):
    untouched = copy.deepcopy(given)
    first = plan(given)
    assert plan(copy.deepcopy(untouched)) == first
    assert plan(given) == first
    assert given == untouched


def test_a_worker_without_room_starts_nothing_and_one_that_runs_is_left_as_it_is():
    new = plan(snapshot(deployment=None, pods=(), connections=(), over_quota=NO_ROOM))
    grown = plan(snapshot(over_quota=NO_ROOM))
    assert (new.children, new.stop) == (grown.children, grown.stop) == ((), False)
    assert condition(grown, "Ready")["reason"] == "QuotaExceeded"
    assert condition(grown, "Available")["status"] == "True"


# --- spec.replaces ---

TAKING_OVER = {
    "spec": {"owns": ["wasm::*"], "replaces": "old"},
    "held": frozenset(),
    "clashes": [clash("wasm::*", "wasm::*")],
    "handover": Handover("old", 1, answers=False, lacking=("wasm::b",)),
}


def test_pods_of_a_worker_that_replaces_another_start_beside_it():
    answer = plan(snapshot(**TAKING_OVER, deployment=None, pods=(), connections=()))
    assert [child["kind"] for child in answer.children] == ["Secret", "ServiceAccount", "Deployment"]
    assert condition(answer, "Ready")["reason"] == "HandingOver"
    assert condition(answer, "FunctionsClaimed")["message"].endswith("what that one serves; not registered: wasm::b")


def test_they_run_on_while_it_waits_and_their_gate_stays_shut():
    waits = Connection("w", "uid", "pod-1", frozenset(), frozenset({"wasm::a"}))
    answer = plan(snapshot(**TAKING_OVER, connections=(waits,), pods=(pod(gate=None),), deployment=deployment(1, 0)))
    assert not answer.stop
    assert answer.gates == ()
    assert condition(answer, "Registered")["reason"] == condition(answer, "Available")["reason"] == "HandingOver"


def test_no_pod_starts_before_the_engine_knows_what_it_may_do():
    answer = plan(snapshot(**TAKING_OVER, deployment=None, pods=(), connections=(), granted=False))
    assert answer.children == ()
    assert condition(answer, "FunctionsClaimed")["reason"] == "ClaimPending"


@pytest.mark.parametrize("released", [False, True])
def test_a_replaced_worker_keeps_its_pods_until_the_engine_gives_them_no_calls_any_more(released):
    answer = plan(
        snapshot(
            spec={"owns": ["wasm::*"]},
            held=frozenset(),
            clashes=[clash("wasm::*", "wasm::*", "new")],
            replaced_by="new",
            released=released,
        )
    )
    assert answer.stop == released
    assert answer.children == ()
    assert condition(answer, "Ready")["reason"] == "Replaced"
    assert condition(answer, "FunctionsClaimed")["message"] == (
        "Worker new has taken over its functions; delete this Worker, or remove spec.replaces of Worker new"
    )


# --- An engine that somebody else runs ---

THEIRS = {"mode": "External", "url": "wss://theirs/w/$(TOKEN)/x", "tokenSecretRef": {"name": "engine", "key": "token"}}


def external(**engine: Any) -> WorkerInput:
    view = EngineView("prod", linked=True, up_for=100, down_for=0, external=THEIRS | engine)
    return snapshot(engine=view, token="")


def test_on_an_external_engine_a_worker_gets_its_address_and_its_token_from_the_realms_secret():
    answer = plan(external())
    assert [child["kind"] for child in answer.children] == ["ServiceAccount", "Deployment"]
    assert pod_spec(answer)["containers"][0]["env"] == [
        {"name": "AGENTOS_TOKEN", "valueFrom": {"secretKeyRef": {"name": "engine", "key": "token"}}},
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        {"name": "III_URL", "value": "wss://theirs/w/$(AGENTOS_TOKEN)/x"},
        {"name": "HOME", "value": "/tmp"},
    ]


def test_an_external_engine_without_a_token_is_given_none():
    (container,) = pod_spec(plan(external(url="ws://theirs:49134", tokenSecretRef=None)))["containers"]
    assert [variable["name"] for variable in container["env"]] == ["POD_UID", "III_URL", "HOME"]
    assert container["env"][1]["value"] == "ws://theirs:49134"


def test_whether_ownership_is_enforced_is_told_beside_ready():
    told = {
        where: {c["type"]: c["status"] for c in plan(given).status["conditions"]}
        for where, given in (("own", snapshot()), ("external", external()), ("none", snapshot(engine=None)))
    }
    assert (told["own"]["Ready"], told["own"]["Enforced"]) == ("True", "True")
    assert (told["external"]["Ready"], told["external"]["Enforced"]) == ("True", "False")
    assert "Enforced" not in told["none"]


def test_an_outage_shorter_than_the_grace_changes_nothing_in_a_workers_status():
    up = snapshot().worker
    up["status"] = plan(snapshot()).status
    for each in up["status"]["conditions"]:
        each["lastTransitionTime"] = EARLIER
    down = EngineView("prod", linked=False, up_for=0, down_for=10)
    assert plan(snapshot(engine=down, worker=up)).status["conditions"] == up["status"]["conditions"]


# --- A Realm that is deleted ---


@pytest.mark.parametrize("ending", [True, False])
def test_the_pods_of_a_deleted_realm_stop_when_its_engine_has_ended(ending):
    answer = plan(snapshot(engine=None, ended_realm="prod", engine_ending=ending, deployment=deployment()))
    assert (answer.stop, answer.children) == (not ending, ())
    told = condition(answer, "Ready")
    assert (told["status"], told["reason"]) == ("False", "NoRealm")
    assert told["message"] == (
        "Realm prod is being deleted: its engine lets calls in progress end, then this Worker's pods stop"
        if ending
        else "Realm prod, which had namespace team, was deleted; make one with spec.namespace: team, or delete the Worker"
    )
