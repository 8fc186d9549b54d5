"""What a decision on one Realm may use, and what it comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentos_contracts.findings import Finding
from agentos_contracts.quota import NOBODY, Allotment

from ...kinds import Key, Object


@dataclass(frozen=True, slots=True)
class RealmInput:
    """Everything that a decision on one Realm may use."""

    realm: Object
    now: datetime
    findings: Sequence[Finding]
    namespace: Object | None
    rival: str
    """Name of an older Realm with the same namespace; else empty."""
    statefulset: Object | None
    pods: Sequence[Object]
    unbound_volume: str
    """Name of the engine's PersistentVolumeClaim while it is not bound."""
    linked: bool
    down_for: float
    link_error: str
    connections: int
    workers: Sequence[Object]
    image: str
    verify_keys: str
    grace: float
    engine_environment: Mapping[str, str] = field(default_factory=dict)
    """More variables of the engine's container."""
    allotment: Allotment = NOBODY
    """Who fits into the quota."""
    operator_peers: Sequence[Mapping[str, Any]] | None = None
    """How NetworkPolicies know the operator's pods; None: it runs outside the cluster."""
    metrics_peers: Sequence[Mapping[str, Any]] = ()
    """Who reads the engine's metrics, for its NetworkPolicy."""
    exposed: Object | None = None
    """The Ingress or HTTPRoute as it is, where the Realm asks for one."""
    gateway: Object | None = None
    """The Gateway that the HTTPRoute is attached to, where it can be read."""
    gateway_api: bool = True
    """Whether the cluster serves HTTPRoutes."""
    makes_namespaces: bool = True
    """Whether the operator may make the namespace when it is not there."""
    rotating_until: datetime | None = None
    """When the signing key before is not accepted any more; None: there is none."""
    old_key_users: Sequence[str] = ()
    """Who still needs it."""
    token_missing: str = ""
    """Why there is no token for an external engine that wants one."""
    clashes: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    """Worker and name of a stranger on an external engine → the functions that the one holds and both serve."""


@dataclass(frozen=True, slots=True)
class RealmPlan:
    """The answer: ``namespace`` to make or to label (None: leave it), the Secret for a key to be made once, the status.

    ``children`` are to be there as they stand, ``absent`` are not to be there.
    """

    namespace: Object | None
    api_key: Object | None
    children: tuple[Object, ...]
    absent: tuple[Key, ...]
    link: bool
    """Whether the operator is to be linked to the engine."""
    status: dict[str, Any]
