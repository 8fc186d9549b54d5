"""FunctionsInSync: the pods register what the Worker owns, and nothing else. What they do otherwise is drift."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from agentos_contracts.assign import declares_nothing
from agentos_contracts.claimables import is_claimable
from agentos_contracts.reasons import (
    FOREIGN,
    IN_SYNC,
    MISSING,
    NOT_STARTED,
    UNDECLARED,
    WORKER_REASONS,
    WorkerCondition,
)

from ...kinds import Object
from ..bus import listed, pod_connections, waiting
from ..conditions import Verdict, condition_of
from ..pods import REGISTRATION_GRACE, containers_ready_for, live
from .replicas import replicas
from .snapshot import Obstacle, WorkerInput

NOT_COVERED = Obstacle("which spec.owns does not cover")
NOT_RECORDED = Obstacle("which is free and could not be recorded yet")


@dataclass(frozen=True, slots=True)
class Drift:
    """Between what a Worker owns and what its pods register.

    ``missing``: patterns that no pod has registered. ``foreign``: what another Worker holds. ``undeclared``: all else that it
    does not get.
    """

    missing: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


def functions_in_sync(i: WorkerInput) -> Verdict:
    """The pods register what the Worker owns and nothing else; as it was before, while that cannot be seen."""
    if replicas(i).wanted == 0:
        return Verdict(True, IN_SYNC, "no pod is wanted")
    found = drift(i)
    if found is None:
        return _as_before(i)
    told: list[str] = []
    if found.missing:
        told.append(
            f"spec.owns names {listed(found.missing)}, which no pod has registered: have the worker register what is missing, "
            "or take it out of spec.owns"
        )
    if found.foreign:
        told.append(
            f"it registers {_with_obstacles(i, found.foreign)}: it gets that when the holder is deleted; else have it "
            "register something else"
        )
    if found.undeclared:
        told.append(
            f"it registers {_with_obstacles(i, found.undeclared)}: add to spec.owns what is free, or have it register nothing "
            "else"
        )
    if not told:
        return Verdict(True, IN_SYNC)
    return Verdict(False, MISSING if found.missing else FOREIGN if found.foreign else UNDECLARED, "; ".join(told))


def drift(i: WorkerInput) -> Drift | None:
    """What can be seen of it; None when nothing can: without a link, without a connection, or too soon after a start.

    While one Worker takes over from another, both register the same, and for neither that is drift.
    """
    if i.engine is None or not i.engine.linked or not i.connections or i.handover is not None or i.replaced_by:
        return None
    refused = {text: why for pod in live(i.pods) for text, why in not_granted(i, pod).items()}
    registered = waiting(i.connections) | {f for each in i.connections for f in each.functions}
    missing = [
        each.text for each in i.wanted if each.text in i.held and not any(each.matches(text) for text in registered)
    ]
    if missing and not any(_has_had_time(i, pod) for pod in live(i.pods)):
        if not refused:
            return None
        missing = []
    foreign = sorted(text for text, why in refused.items() if why.holder)
    return Drift(tuple(sorted(missing)), tuple(sorted(refused.keys() - set(foreign))), tuple(foreign))


def not_granted(i: WorkerInput, pod: Object) -> dict[str, Obstacle]:
    """What a pod registers and does not get, each with the reason; without what it is about to get."""
    refused: dict[str, Obstacle] = {}
    for text in waiting(pod_connections(i.connections, pod)) & i.ungranted.keys():
        obstacle = i.ungranted[text]
        if obstacle is None and is_discovered(i, text):
            if settled(i, pod):
                refused[text] = NOT_RECORDED
        elif not any(each.matches(text) for each in i.wanted):  # what is added to spec.owns is told by FunctionsClaimed
            refused[text] = obstacle or NOT_COVERED
    return refused


def is_discovered(i: WorkerInput, text: str) -> bool:
    """Whether a Worker gets something because it registers it: each route and trigger type, and functions if it declares none."""
    return declares_nothing(i.worker) or is_claimable(text)


def settled(i: WorkerInput, pod: Object) -> bool:
    """Whether the connections of a pod have not changed for so long that what is to be granted should be."""
    return i.quiet_for.get(pod["metadata"]["uid"], 0.0) >= REGISTRATION_GRACE


def _has_had_time(i: WorkerInput, pod: Object) -> bool:
    seconds = containers_ready_for(pod, i.now)
    return seconds is not None and seconds >= REGISTRATION_GRACE


def _with_obstacles(i: WorkerInput, texts: Iterable[str]) -> str:
    by_obstacle: defaultdict[str, list[str]] = defaultdict(list)
    for text in texts:
        obstacle = i.ungranted[text] or (NOT_RECORDED if is_discovered(i, text) else NOT_COVERED)
        by_obstacle[obstacle.text].append(text)
    return "; ".join(f"{listed(sorted(several))}, {obstacle}" for obstacle, several in sorted(by_obstacle.items()))


def _as_before(i: WorkerInput) -> Verdict:
    """What was told last: an outage of engine or operator, or a pod that starts, tells nothing new."""
    last = condition_of(i.worker, WorkerCondition.FUNCTIONS_IN_SYNC)
    for reason in WORKER_REASONS[WorkerCondition.FUNCTIONS_IN_SYNC]:
        if reason.name == last.get("reason"):
            return Verdict(last["status"] == "True", reason, last.get("message", ""))
    return Verdict(False, NOT_STARTED)
