"""From a Worker to its grant: one rule for the operator and for ``agentos up``."""

from collections.abc import Iterable, Mapping
from typing import Any

from agentos_contracts.assign import declares_nothing
from agentos_contracts.grants import Grant, GrantError
from agentos_contracts.patterns import Pattern
from agentos_contracts.scaling import wants_no_pods


def grant_of(
    worker: Mapping[str, Any], uid: str, owns: Iterable[Pattern], *, leaving: bool, before: Grant | None = None
) -> Grant:
    """Return what a Worker may do on the bus; ``owns`` is what is recorded for it.

    What cannot be read of its spec (it came past webhook and CRD) stays as it was ``before``, or grants nothing. A
    grant that is as before is that very object.
    """
    metadata, spec = worker["metadata"], worker.get("spec", {})
    last = before or Grant(uid, "", calls=(), state_scopes=())
    grant = Grant(
        uid,
        f"{metadata.get('namespace') or 'default'}/{metadata['name']}",
        tuple(sorted(owns)),
        declares_nothing(worker),
        _read("calls", spec.get("calls"), last),
        _read("state_scopes", spec.get("stateScopes"), last),
        leaving=leaving,
        sleeping=wants_no_pods(spec) and not leaving,
    )
    return before if before is not None and before == grant else grant


def _read(field: str, value: object, last: Grant) -> Any:
    try:
        return getattr(Grant.from_wire({"uid": last.uid, field: value}), field)
    except GrantError:
        return getattr(last, field)
