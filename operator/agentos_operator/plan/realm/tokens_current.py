"""TokensCurrent: whether all are connected by tokens of the newest signing key. It is told, and does not count for Ready."""

from agentos_contracts.external_engine import external_engine
from agentos_contracts.reasons import KEY_ROTATION, TOKENS_CURRENT

from ..bus import listed
from ..conditions import Verdict
from .snapshot import RealmInput


def tokens_current(i: RealmInput) -> Verdict | None:
    """Who still uses the key before the newest; None for an engine that knows no tokens of the operator's."""
    if external_engine(i.realm):
        return None
    if i.rotating_until is None:
        return Verdict(True, TOKENS_CURRENT)
    end = f"; at {i.rotating_until:%H:%M} UTC it ends in any case"
    if i.old_key_users:
        return Verdict(False, KEY_ROTATION, f"the signing key before is still used by {listed(i.old_key_users)}{end}")
    return Verdict(False, KEY_ROTATION, f"nobody here uses the signing key before any more; other realms may{end}")
