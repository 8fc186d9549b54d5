"""kstatus, Flux and Argo CD tell the truth of every reason that a Worker or a Realm can have."""

from datetime import UTC, datetime
from typing import Any

import pytest
from agentos_contracts.crd import custom_resource_definitions
from agentos_contracts.reasons import OUTLOOKS, READY, REALM_REASONS, WORKER_REASONS, Outlook, Reason
from agentos_operator.plan.conditions import Verdict, build_conditions

from tests.gitops.judging import judge

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHAIN = {
    kind: {condition: reasons for condition, reasons in table.items() if condition not in ("Reconciling",)}
    for kind, table in (("Worker", WORKER_REASONS), ("Realm", REALM_REASONS))
}
FALSE = [
    (kind, condition, reason)
    for kind, table in CHAIN.items()
    for condition, reasons in table.items()
    for reason in reasons
    if reason.outlook is not Outlook.GOOD
]


def resource(kind: str, verdicts: dict[str, Verdict], *, settled: bool = True, **changes: Any) -> dict[str, Any]:
    """An object with the status that the operator writes for these verdicts."""
    conditions = build_conditions(
        verdicts, settled=settled, progress="0 of 1 pods are new", before=(), generation=2, now=NOW
    )
    return {
        "apiVersion": "agentos.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "wasm", "generation": 2} | changes.pop("metadata", {}),
        "status": changes.pop("status", {"observedGeneration": 2, "conditions": conditions}),
    }


@pytest.fixture(scope="module")
def judged() -> dict[tuple[str, str, str], dict[str, dict[str, str]]]:
    """All reasons for which something is not so, judged in one go."""
    objects = [
        resource(kind, {condition: Verdict(False, reason, f"because of {reason.name}")})
        for kind, condition, reason in FALSE
    ]
    keys = [(kind, condition, reason.name) for kind, condition, reason in FALSE]
    return dict(zip(keys, judge(objects), strict=True))


@pytest.mark.parametrize(
    ("kind", "condition", "reason"),
    FALSE,
    ids=[f"{kind} {condition} {reason.name}" for kind, condition, reason in FALSE],
)
def test_every_reason_reads_as_the_table_says(judged: Any, kind: str, condition: str, reason: Reason) -> None:
    said = judged[kind, condition, reason.name]
    _, _, kstatus, argo_cd = OUTLOOKS[reason.outlook]
    generic, _, flux = kstatus.partition("; with Flux ")
    assert (said["kstatus"]["status"], said["argocd"]["status"]) == (generic, argo_cd)
    assert said["flux"]["status"] == (flux or generic)
    assert said["argocd"]["message"] == f"because of {reason.name}"


@pytest.mark.parametrize("kind", CHAIN)
def test_what_is_ready_is_current_and_healthy(kind: str) -> None:
    (said,) = judge([resource(kind, {"Available": Verdict(True, READY)})])
    assert [said[tool]["status"] for tool in ("kstatus", "flux", "argocd")] == ["Current", "Current", "Healthy"]


def test_what_is_ready_and_rolls_out_is_still_under_way() -> None:
    (said,) = judge([resource("Worker", {"Available": Verdict(True, READY)}, settled=False)])
    assert [said[tool]["status"] for tool in ("kstatus", "flux", "argocd")] == [
        "InProgress",
        "InProgress",
        "Progressing",
    ]
    assert said["argocd"]["message"] == "0 of 1 pods are new"


@pytest.mark.parametrize("kind", CHAIN)
def test_what_the_operator_has_not_seen_is_under_way(kind: str) -> None:
    unseen = custom_resource_definitions()[f"{kind.lower()}s.yaml"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    older = resource(kind, {"Available": Verdict(True, READY)})
    older["status"]["observedGeneration"] = 1
    for seen in (resource(kind, {}, status=unseen["properties"]["status"]["default"]), older):
        (said,) = judge([seen])
        assert [said[tool]["status"] for tool in ("kstatus", "flux", "argocd")] == [
            "InProgress",
            "InProgress",
            "Progressing",
        ]


def test_each_outlook_is_that_of_some_reason() -> None:
    assert {reason.outlook for _, _, reason in FALSE} == set(OUTLOOKS)
