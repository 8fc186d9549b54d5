"""What a decision on one Worker may use, and what it comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentos_contracts.assign import Clash
from agentos_contracts.dependencies import Dependency
from agentos_contracts.effective import Effective
from agentos_contracts.findings import Finding
from agentos_contracts.patterns import Pattern
from agentos_contracts.quota import Excess

from ...bus import Connection
from ...kinds import DEPLOYMENT, Kind, Object
from ..handover import Handover


@dataclass(frozen=True, slots=True)
class EngineView:
    """A realm's engine as this Worker sees it. ``up_for`` and ``down_for``: how long the operator has had a link, or none, in seconds."""

    realm: str
    linked: bool
    up_for: float
    down_for: float
    external: Mapping[str, Any] | None = None
    """``spec.engine`` of the Realm when somebody else runs the engine: it does not keep to grants."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a Worker does not get what it registers: ``text`` goes on after its name; ``holder`` is the Worker that has it."""

    text: str
    holder: str = ""


@dataclass(frozen=True, slots=True)
class WorkerInput:
    """Everything that a decision on one Worker may use."""

    worker: Object
    now: datetime
    engine: EngineView | None
    """None: no Realm has the namespace."""
    effective: Effective | None
    """None: the manifest could not be read at all."""
    findings: Sequence[Finding]
    manifest_missing: str
    """Why the ConfigMap's manifest is not there; empty when it is, or is inline."""
    wanted: tuple[Pattern, ...]
    held: frozenset[str]
    """Patterns recorded for this Worker in FunctionClaims."""
    clashes: Sequence[Clash]
    granted: bool
    """Whether the engine knows what this Worker may do; True while it cannot be told."""
    handover: Handover | None
    """Set while it waits for nobody but the Worker that it replaces."""
    replaced_by: str
    """The Worker that has taken over from it; empty when none has."""
    released: bool
    """Whether the engine certainly knows what it may do, so that pods which may do nothing any more can go."""
    ungranted: Mapping[str, Obstacle | None]
    """What it registers and was not granted, each with what stands in the way; None: nothing known."""
    providers: Sequence[Dependency]
    built_in: frozenset[str]
    """Names that the engine itself satisfies."""
    deployment: Object | None
    pods: Sequence[Object]
    connections: Sequence[Connection]
    quiet_for: Mapping[str, float]
    """Seconds since the connections of each pod, by its uid, last changed."""
    recommended: int | None
    """Pods that the calls in flight need; None: nothing is known of them."""
    draining: int
    """Going pods whose calls in progress the engine still waits for."""
    token: str = field(repr=False)
    grace: float
    over_quota: Sequence[Excess] = ()
    """Where it goes beyond the Realm's quota; empty: it fits."""

    ended_realm: str = ""
    """The Realm that the namespace had, if it is deleted or being deleted."""
    engine_ending: bool = False
    """Whether the engine of that Realm is still there, and lets calls in progress end."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """The answer. ``children`` are to be there as they stand, those of the kinds in ``unwanted`` are to be gone.

    ``gates`` are the pods whose readiness gate has to change, and to what.
    """

    children: tuple[Object, ...]
    unwanted: tuple[Kind, ...]
    gates: tuple[tuple[Object, bool], ...]
    status: dict[str, Any]
    requeue_after: float | None = None

    @property
    def stop(self) -> bool:
        """Whether the Worker's pods are to go."""
        return DEPLOYMENT in self.unwanted
