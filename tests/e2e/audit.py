"""What the operator asked of the API server: read from the API server's own audit log."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATOR = "system:serviceaccount:agentos-system:agentos-operator"
READS = frozenset({"get", "list", "watch"})


@dataclass(frozen=True, slots=True)
class Request:
    """One answered request. ``resource`` has its subresource behind a slash; ``namespace`` is empty for the whole cluster."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    allowed: bool
    """Whether RBAC allowed it; admission and conflicts do not count."""


def requests(log: Path, since: int) -> Iterator[Request]:
    """The operator's requests from a byte offset of the log on, each once."""
    with log.open("rb") as file:
        file.seek(since)
        for line in file:
            event = json.loads(line)
            what = event.get("objectRef")
            # A watch is in the log when it begins, and once more when it ends.
            ended = event["stage"] == "ResponseComplete"
            if event["user"]["username"] != OPERATOR or not what or not (ended or event["verb"] == "watch"):
                continue
            subresource = f"/{what['subresource']}" if "subresource" in what else ""
            yield Request(
                event["verb"],
                what.get("apiGroup", ""),
                what["resource"] + subresource,
                what.get("namespace", ""),
                what.get("name", ""),
                event.get("annotations", {}).get("authorization.k8s.io/decision") != "forbid",
            )
