"""How many pods a Worker has: by its spec, by the calls in flight, or by whoever else set the number in its Deployment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentos_contracts.scaling import fewest

from ...kinds import Object
from ...settings import FIELD_MANAGER, REPLICAS_FROM_ANNOTATION
from .snapshot import WorkerInput


@dataclass(frozen=True, slots=True)
class Replicas:
    """``at_least``: pods that there are to be in any case; ``set_by``: who else set the number, empty when nobody did."""

    wanted: int
    at_least: int
    set_by: str = ""


def replicas(i: WorkerInput) -> Replicas:
    """Decides. Somebody else's number stays until the Worker's own say on it changes."""
    spec, present = i.worker["spec"], number_of(i.deployment)
    other = other_owner(i.deployment)
    if other and present is not None and says_of(i.deployment) == says(spec):
        return Replicas(present, present, other)
    if spec.get("suspend"):
        return Replicas(0, 0)
    if autoscaling := spec.get("autoscaling"):
        least, most = fewest(autoscaling), autoscaling["max"]
        number = i.recommended if i.recommended is not None else (present or 0)
        return Replicas(max(least, min(number, most)), least)
    number = spec.get("replicas", 1)
    return Replicas(number, number)


def says(spec: Mapping[str, Any]) -> str:
    """What the spec says on the number of pods, in one word: while it says the same, another's number is left alone."""
    if spec.get("suspend"):
        return "suspend"
    if autoscaling := spec.get("autoscaling"):
        return f"autoscaling {fewest(autoscaling)}-{autoscaling['max']} at {autoscaling['targetInFlight']}"
    return f"replicas {spec.get('replicas', 1)}"


def says_of(deployment: Object | None) -> str:
    """What the spec said when the Deployment was written; empty when that is not known."""
    return (deployment or {}).get("metadata", {}).get("annotations", {}).get(REPLICAS_FROM_ANNOTATION, "")


def number_of(deployment: Object | None) -> int | None:
    """The number of pods that a Deployment has now; None when there is no Deployment."""
    return (deployment or {}).get("spec", {}).get("replicas")


def other_owner(deployment: Object | None) -> str:
    """Who else has set the Deployment's ``spec.replicas``, as its field manager is called; empty when nobody has."""
    for entry in (deployment or {}).get("metadata", {}).get("managedFields", ()):
        if entry.get("manager") != FIELD_MANAGER and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {}):
            return entry.get("manager") or "somebody without a name"
    return ""
