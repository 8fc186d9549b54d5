"""How many pods a Worker has, and how they go: the fields of its spec that say so, and the rules between them."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agentos_contracts.findings import Finding, error, warning
from agentos_contracts.resource import Model

MAX_REPLICAS = 1000
MAX_DRAIN_SECONDS = 3600
DEFAULT_DRAIN_SECONDS = 5
"""Seconds that a going pod has for its calls in progress, unless spec.rollout.drainSeconds says otherwise."""

MIN_ABOVE_MAX = "min must not be greater than max"
REPLICAS_UNUSED = (
    "is not used while spec.autoscaling is set, by which calls in flight decide; remove it, or remove spec.autoscaling"
)


class Autoscaling(Model):
    """As many pods as the calls in flight need."""

    min: int | None = Field(
        None,
        ge=1,
        le=MAX_REPLICAS,
        description="Fewest pods. Where left out, 1.",
        json_schema_extra={"format": "int32"},
    )
    max: int = Field(ge=1, le=MAX_REPLICAS, description="Most pods.", json_schema_extra={"format": "int32"})
    target_in_flight: int = Field(
        ge=1,
        le=100_000,
        description="Calls that one pod should have in flight: with 10 there are three pods for 30 calls. Jobs of queues that "
        "are being worked on count too.",
        json_schema_extra={"format": "int32"},
    )


class Rollout(Model):
    """How pods are replaced and removed."""

    drain_seconds: int | None = Field(
        None,
        ge=0,
        le=MAX_DRAIN_SECONDS,
        description="Seconds that a going pod (new version, fewer replicas, eviction, deletion) has for its calls in progress; "
        "it gets no new ones as long as another pod can take them. Every going pod is kept for that long. Where left "
        f"out, {DEFAULT_DRAIN_SECONDS}. 0: it is told to end at once.",
        json_schema_extra={"format": "int32"},
    )


def wants_no_pods(spec: Mapping[str, Any]) -> bool:
    """Whether a Worker is to have no pods, by its own will: suspended, or scaled to zero."""
    return spec.get("suspend") is True or (not spec.get("autoscaling") and spec.get("replicas") == 0)


def fewest(autoscaling: Mapping[str, Any]) -> int:
    """The fewest pods that spec.autoscaling wants."""
    return autoscaling.get("min") or 1


def drain_seconds(spec: Mapping[str, Any]) -> int:
    """Seconds that a Worker's going pods have for their calls in progress."""
    seconds = (spec.get("rollout") or {}).get("drainSeconds")
    return DEFAULT_DRAIN_SECONDS if seconds is None else seconds


def scaling_findings(spec: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong between the fields; the form of each is the model's to report."""
    autoscaling, replicas = spec.get("autoscaling"), spec.get("replicas")
    if not isinstance(autoscaling, Mapping):
        return []
    found: list[Finding] = []
    least, most = autoscaling.get("min", 1), autoscaling.get("max")
    if _is_number(least) and _is_number(most) and least > most:
        found.append(error("spec.autoscaling.min", "OutOfRange", f"{MIN_ABOVE_MAX}: {least} > {most}"))
    # The API server puts a 1 where nothing is said.
    if replicas not in (None, 1):
        found.append(warning("spec.replicas", "Unused", REPLICAS_UNUSED))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
