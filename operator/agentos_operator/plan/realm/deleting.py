"""What a Realm that is being deleted says: what it still waits for. It has a status only with --cascade=foreground."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from agentos_contracts.reasons import DELETING, RealmCondition

from ...kinds import Object
from ...settings import WORKER_LABEL
from ..conditions import Verdict, build_conditions


def deleting(realm: Object, engine: Sequence[Object], workers: Sequence[Object], now: datetime) -> dict[str, Any]:
    """The status; ``engine`` and ``workers`` are the pods that are left of each."""
    metadata = realm["metadata"]
    names = {pod["metadata"]["labels"][WORKER_LABEL] for pod in workers}
    waits = []
    if engine:
        waits.append(f"the engine's pod {engine[0]['metadata']['name']}, which lets calls in progress end")
    if names:
        waits.append(f"the pods of {len(names)} {'Worker' if len(names) == 1 else 'Workers'}")
    message = f"waiting for {' and '.join(waits)}" if waits else "waiting for the cluster to remove what belongs to it"
    return {
        "observedGeneration": metadata["generation"],
        "conditions": build_conditions(
            {RealmCondition.ENGINE_AVAILABLE: Verdict(False, DELETING, message)},
            settled=False,
            progress="",
            before=realm.get("status", {}).get("conditions", ()),
            generation=metadata["generation"],
            now=now,
        ),
    }
