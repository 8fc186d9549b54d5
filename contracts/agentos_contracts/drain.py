"""How a Worker's pod goes: it is kept while its calls in progress end, then told to end; and what a template may change of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from agentos_contracts.findings import Finding, error
from agentos_contracts.pod_template import WORKER_CONTAINER, template_findings
from agentos_contracts.scaling import MAX_DRAIN_SECONDS, drain_seconds
from agentos_contracts.strategic_merge import merge

TIME_TO_END = 30
"""Seconds that a going pod has to end by itself, after the time for its calls in progress."""

HOOK_TAKEN = (
    "is how going pods are kept for their calls in progress; set spec.rollout.drainSeconds to 0 to have another"
)
_TEMPLATE = "spec.template"


def grace_seconds(seconds: int) -> int:
    """``terminationGracePeriodSeconds`` of a pod that has so many seconds for its calls in progress."""
    return seconds + TIME_TO_END


def lifecycle(seconds: int) -> dict[str, Any] | None:
    """``lifecycle`` of the container of a pod that has so many seconds for its calls in progress; None: it needs none."""
    return {"preStop": {"sleep": {"seconds": seconds}}} if seconds else None


def drain_findings(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield an error for what a Worker's template changes of how its pods go, so that calls in progress would be lost.

    Times of a wrong form, and templates with other errors, are others' to report.
    """
    template, rollout = spec.get("template"), spec.get("rollout")
    if not isinstance(template, Mapping) or not (rollout is None or isinstance(rollout, Mapping)):
        return
    seconds = drain_seconds(spec)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 0 < seconds <= MAX_DRAIN_SECONDS:
        return
    if any(each.severity == "error" for each in template_findings(template, _TEMPLATE)):
        return
    container = {"name": WORKER_CONTAINER, "lifecycle": lifecycle(seconds)}
    pod = {"terminationGracePeriodSeconds": grace_seconds(seconds), "containers": [container]}
    merged = merge({"spec": pod}, template).get("spec", {})
    grace = merged.get("terminationGracePeriodSeconds", TIME_TO_END)  # Kubernetes' default is 30 s as well.
    if grace <= seconds:
        message = (
            f"must be more than the {seconds} s that calls in progress have, got {grace}; {TIME_TO_END} s more are the rule. "
            "Remove it, or set spec.rollout.drainSeconds to less"
        )
        yield error(f"{_TEMPLATE}.spec.terminationGracePeriodSeconds", "OutOfRange", message)
    left = [each for each in merged.get("containers", ()) if each.get("name") == WORKER_CONTAINER]
    if any(not _keeps(each, seconds) for each in left):
        names = [each.get("name") for each in (template.get("spec") or {}).get("containers") or ()]
        item = f"[{names.index(WORKER_CONTAINER)}].lifecycle.preStop" if WORKER_CONTAINER in names else ""
        yield error(f"{_TEMPLATE}.spec.containers{item}", "Reserved", HOOK_TAKEN)


def _keeps(container: Mapping[str, Any], seconds: int) -> bool:
    return (container.get("lifecycle") or {}).get("preStop") == (lifecycle(seconds) or {}).get("preStop")
