"""What is written to a Realm's status."""

from typing import Any

from agentos_contracts.reasons import RealmCondition

from ...settings import BUS_PORT, HTTP_PORT
from ..conditions import Verdict, build_conditions, is_true
from ..objects.engine import http_auth
from ..objects.metadata import engine_host
from .exposed import address
from .snapshot import RealmInput
from .within_quota import within_quota


def status(i: RealmInput, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    metadata = i.realm["metadata"]
    host = engine_host(i.realm["spec"]["namespace"])
    quota = i.realm["spec"].get("quota")
    return {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            verdicts,
            settled=True,
            progress="",
            before=i.realm.get("status", {}).get("conditions", ()),
            generation=metadata["generation"],
            now=i.now,
            beside={RealmCondition.WITHIN_QUOTA: within_quota(i)},
        ),
        "workers": len(i.workers),
        "readyWorkers": sum(is_true(worker, "Ready") for worker in i.workers),
        "engine": {
            "url": f"ws://{host}:{BUS_PORT}",
            "httpUrl": f"http://{host}:{HTTP_PORT}",
            "httpAuth": http_auth(i.realm)["auth"],
            "connections": i.connections,
        },
        "http": {"url": address(i)},
        "quota": {"used": i.allotment.used.told(), "limit": quota} if quota else None,
    }
