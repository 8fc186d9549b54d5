"""Verdicts, and the status conditions that are made from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from agentos_contracts.findings import visible
from agentos_contracts.reasons import READY, ROLLOUT_IN_PROGRESS, Outlook, Reason
from agentos_contracts.redaction import redacted

MESSAGE_LIMIT = 1024
"""Characters; the API allows 32,768, but a status is read by people."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy function found: ``message`` is empty when there is nothing to say."""

    ok: bool
    reason: Reason
    message: str = ""


def summarize(verdicts: Mapping[str, Verdict]) -> Verdict:
    """The first verdict that is not fine, in their order; else Ready."""
    return next((verdict for verdict in verdicts.values() if not verdict.ok), Verdict(True, READY))


def build_conditions(
    verdicts: Mapping[str, Verdict],
    *,
    settled: bool,
    progress: str,
    before: Sequence[Mapping[str, Any]],
    generation: int,
    now: datetime,
    beside: Mapping[str, Verdict] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Standard conditions: one for each verdict, their sum ``Ready``, and kstatus' ``Reconciling`` or ``Stalled`` when so.

    ``beside`` are told without being a part of ``Ready``. ``settled`` says that nothing is under way although all is Ready
    (a rollout is not settled); ``progress`` describes what is. ``lastTransitionTime`` is kept from ``before`` while the status
    of a condition stays.
    """
    summary = summarize(verdicts)
    conditions = [_condition(name, verdict.ok, verdict) for name, verdict in verdicts.items()]
    conditions += [_condition(name, verdict.ok, verdict) for name, verdict in beside.items()]
    conditions.append(_condition("Ready", summary.ok, summary))
    if not summary.ok and summary.reason.outlook is Outlook.STALLED:
        conditions.append(_condition("Stalled", True, summary))
    elif not summary.ok and summary.reason.outlook is not Outlook.RESTING:
        conditions.append(_condition("Reconciling", True, summary))
    elif not settled:
        conditions.append(_condition("Reconciling", True, Verdict(True, ROLLOUT_IN_PROGRESS, progress)))
    known = {condition["type"]: condition for condition in before}
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    for condition in conditions:
        old = known.get(condition["type"])
        same = old is not None and old.get("status") == condition["status"]
        condition["lastTransitionTime"] = old["lastTransitionTime"] if old is not None and same else stamp
        condition["observedGeneration"] = generation
    return conditions


def _condition(name: str, ok: bool, verdict: Verdict) -> dict[str, Any]:
    message = for_people(verdict.message or verdict.reason.meaning)
    return {"type": name, "status": "True" if ok else "False", "reason": verdict.reason.name, "message": message}


def for_people(message: str) -> str:
    """A condition's message: words of containers, engines and the cluster may be among it."""
    told = visible(redacted(message))
    return told if len(told) <= MESSAGE_LIMIT else told[: MESSAGE_LIMIT - 1] + "…"


def condition_of(obj: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A condition of an object's status; empty when it is not there."""
    return next((c for c in obj.get("status", {}).get("conditions", ()) if c["type"] == name), {})


def is_true(obj: Mapping[str, Any], name: str) -> bool:
    """Whether an object's condition is True."""
    return condition_of(obj, name).get("status") == "True"
