"""What is written to a Realm's status."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import RealmCondition

from ...kinds import Object
from ...settings import BUS_PORT, HTTP_PORT
from ..conditions import Verdict, build_conditions, condition_of, is_true
from ..objects.engine import http_auth
from ..objects.metadata import engine_host
from .enforced import enforced
from .exposed import address
from .snapshot import RealmInput
from .tokens_current import tokens_current
from .within_quota import within_quota


def status(i: RealmInput, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    metadata = i.realm["metadata"]
    quota = i.realm["spec"].get("quota")
    beside: dict[str, Verdict] = {
        RealmCondition.WITHIN_QUOTA: within_quota(i),
        RealmCondition.ENFORCED: enforced(i),
    }
    if told := tokens_current(i):
        beside[RealmCondition.TOKENS_CURRENT] = told
    return {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            verdicts,
            settled=True,
            progress="",
            before=i.realm.get("status", {}).get("conditions", ()),
            generation=metadata["generation"],
            now=i.now,
            beside=beside,
        ),
        "workers": len(i.workers),
        "readyWorkers": sum(is_true(worker, "Ready") for worker in i.workers),
        "notReady": not_ready(i.workers),
        "engine": _engine(i.realm) | {"connections": i.connections},
        "http": {"url": address(i)},
        "quota": {"used": i.allotment.used.told(), "limit": quota} if quota else None,
    }


def not_ready(workers: Sequence[Object]) -> list[dict[str, Any]]:
    """How many Workers are not Ready, by reason: the most frequent first."""
    reasons = Counter(
        condition_of(worker, "Ready").get("reason", "Unknown") for worker in workers if not is_true(worker, "Ready")
    )
    return [
        {"reason": reason, "workers": count}
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def _engine(realm: Object) -> dict[str, Any]:
    if external := external_engine(realm):
        return {"url": external["url"]}
    host = engine_host(realm["spec"]["namespace"])
    return {
        "url": f"ws://{host}:{BUS_PORT}",
        "httpUrl": f"http://{host}:{HTTP_PORT}",
        "httpAuth": http_auth(realm)["auth"],
    }
