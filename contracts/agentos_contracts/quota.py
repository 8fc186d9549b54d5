"""How much the Workers of a realm may have together: the model of ``spec.quota``, and the one rule of who fits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field

from agentos_contracts.quantities import amount, cores, size
from agentos_contracts.resource import Model, Quantity

Count = Annotated[int, Field(ge=0, le=1_000_000, json_schema_extra={"format": "int32"})]


class Quota(Model):
    """Most that the realm's Workers may have together; what is left out is not limited."""

    workers: Count | None = Field(None, description="Workers.")
    replicas: Count | None = Field(None, description="Pods of all Workers, as their specs want them.")
    functions: Count | None = Field(
        None, description="Functions: patterns of spec.owns, and what is found by registration where it is left out."
    )
    cpu: Quantity | None = Field(
        None, description="CPU that all pods ask for (requests, else limits), such as 8 or 500m."
    )
    memory: Quantity | None = Field(
        None, description="Memory that all pods ask for (requests, else limits), such as 16Gi."
    )


class QuotaUsage(Model):
    """What the realm's Workers have together."""

    workers: Count | None = Field(None, description="Workers.")
    replicas: Count | None = Field(None, description="Pods of all Workers.")
    functions: Count | None = Field(None, description="Patterns and functions owned.")
    cpu: Annotated[str, Field(max_length=64)] | None = Field(None, description="CPU asked for.")
    memory: Annotated[str, Field(max_length=64)] | None = Field(None, description="Memory asked for.")


class QuotaStatus(Model):
    """How much of its quota a realm uses."""

    used: QuotaUsage | None = Field(None, description="What the realm's Workers have together.")
    limit: Quota | None = Field(None, description="Most that they may have together.")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one Worker has or wants, or several together. ``cpu`` in cores, ``memory`` in bytes."""

    workers: int = 0
    replicas: int = 0
    functions: int = 0
    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) + getattr(other, name) for name in DIMENSIONS))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, name) - getattr(other, name) for name in DIMENSIONS))

    def told(self) -> dict[str, Any]:
        """Return it as the status of a Realm has it."""
        return {name: _shown(name, getattr(self, name)) for name in DIMENSIONS}


DIMENSIONS = tuple(each.name for each in fields(Usage))


@dataclass(frozen=True, slots=True)
class Excess:
    """Where a Worker does not fit: ``used`` of ``limit`` are taken, and it needs ``more``."""

    dimension: str
    used: str | int
    limit: str | int
    more: str | int

    def __str__(self) -> str:
        return f"{self.dimension}: {self.used} of {self.limit} are used, {self.more} more are needed"


@dataclass(frozen=True, slots=True)
class Applicant:
    """A Worker that wants to have a part of the quota. ``created``: as Kubernetes writes it, so that text order is time order.

    ``running``: what it has had since it was started; None: it was not.
    """

    uid: str
    created: str
    wanted: Usage
    running: Usage | None = None


@dataclass(frozen=True, slots=True)
class Allotment:
    """Who fits: what all that fit have together, and for each Worker that does not, where."""

    used: Usage
    over: Mapping[str, tuple[Excess, ...]]


NOBODY = Allotment(Usage(), {})
"""Where there is no quota to decide about."""


def allot(quota: Mapping[str, Any], applicants: Iterable[Applicant]) -> Allotment:
    """Decide who fits into ``spec.quota``, in the order of age.

    Who was started keeps what it has, even above a limit that was lowered since. What goes beyond that, of it or of one that
    was not started, has to fit as a whole; who waits reserves nothing, so that a younger one that fits goes before it.
    """
    limits = limits_of(quota)
    ranked = sorted(applicants, key=lambda each: (each.created, each.uid))
    used = sum((each.running for each in ranked if each.running is not None), Usage())
    over: dict[str, tuple[Excess, ...]] = {}
    for each in ranked:
        has = each.running or Usage()
        if found := excesses(limits, used, each.wanted - has):
            over[each.uid] = found
        else:
            used += each.wanted - has
    return Allotment(used, over)


def excesses(limits: Mapping[str, Decimal], used: Usage, more: Usage) -> tuple[Excess, ...]:
    """Return where ``more`` beside ``used`` is over a limit; where nothing more is needed nothing can be."""
    return tuple(
        Excess(name, *(_shown(name, value) for value in (getattr(used, name), limit, getattr(more, name))))
        for name, limit in limits.items()
        if getattr(more, name) > 0 and getattr(used, name) + getattr(more, name) > limit
    )


def limits_of(quota: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return the limits of ``spec.quota`` as numbers; what cannot be read limits nothing, and validation tells it."""
    read = {name: amount(quota[name]) for name in DIMENSIONS if quota.get(name) is not None}
    return {name: limit for name, limit in read.items() if limit is not None}


def refusal(realm: str, found: Iterable[Excess]) -> str:
    """Return what is said of a Worker that does not fit, and what to do about it."""
    told = "; ".join(str(each) for each in found)
    return (
        f"goes beyond the quota of Realm {realm} ({told}); shrink or delete Workers of its namespace, or raise spec.quota of "
        "the Realm"
    )


def worker_usage(spec: Mapping[str, Any], resources: Mapping[str, Any], functions: int) -> Usage:
    """Return what a Worker wants: ``resources`` are those of one of its pods, ``functions`` what it owns or claims."""
    scaling = spec.get("autoscaling") or {}
    replicas = 0 if spec.get("suspend") else scaling.get("max") or spec.get("replicas", 1)
    return pods_usage(replicas, resources, functions)


def pods_usage(replicas: int, resources: Mapping[str, Any], functions: int) -> Usage:
    """Return what a Worker with so many equal pods has."""

    def asked(name: str) -> Decimal:
        for part in ("requests", "limits"):
            if (value := (resources.get(part) or {}).get(name)) is not None:
                return amount(value) or Decimal(0)
        return Decimal(0)

    return Usage(1, replicas, functions, asked("cpu") * replicas, asked("memory") * replicas)


def _shown(name: str, value: Any) -> str | int:
    match name:
        case "cpu":
            return cores(Decimal(value))
        case "memory":
            return size(Decimal(value))
        case _:
            return int(value)
