"""The keys that sign identity tokens, and how they are rotated: in the Secret ``agentos-identity`` of the operator's namespace.

Whoever wants a new key annotates the Secret. For a while there are two then: ``key`` signs, ``previous-key`` is accepted as well,
until no connection uses it any more or its time is over. All of that is in the Secret, so an operator that starts anew goes on.
"""

import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentos_contracts.resource import GROUP
from agentos_contracts.tokens import Identity, SigningKey, issue

from .api import Api, NotFound
from .keys import IDENTITY_SECRET, identity_secret
from .kinds import SECRET, Object

log = logging.getLogger(__name__)

ROTATE_ANNOTATION = f"{GROUP}/rotate"
"""Set by a person: each new value asks for one rotation."""
ROTATED_ANNOTATION = f"{GROUP}/rotated"
"""The last value that was followed, and since when the key before is on its way out."""
SINCE_ANNOTATION = f"{GROUP}/rotating-since"
KEY, PREVIOUS = "key", "previous-key"
LONGEST_ROTATION = timedelta(hours=1)
"""After that the key before is not accepted any more, whoever still uses it: it may be in wrong hands."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key that signs, and while keys are rotated the one before, which is accepted until ``until``."""

    current: SigningKey
    previous: SigningKey | None = None
    until: datetime | None = None

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """All that are accepted, the newest first."""
        return (self.current,) if self.previous is None else (self.current, self.previous)

    @property
    def verify_keys(self) -> tuple[str, ...]:
        """The public halves: what engines are given."""
        return tuple(key.verify_key for key in self.keys)

    def tokens(self, identity: Identity, issued_at: int) -> tuple[str, ...]:
        """The token of an identity by each key, the newest first."""
        return tuple(issue(key, identity, issued_at) for key in self.keys)


async def read(api: Api, namespace: str) -> KeyRing:
    """The keys as they are; made when there are none."""
    return _ring(await identity_secret(api, namespace))


async def follow(api: Api, namespace: str, known: KeyRing, in_use: Callable[[KeyRing], bool], now: datetime) -> KeyRing:
    """One step of a rotation: begins it when somebody asks for it, ends it when the key before is not in use any more.

    Returns the keys from now on. Without its Secret the operator goes on with the keys that it knows.
    """
    try:
        secret = await api.get(SECRET, namespace, IDENTITY_SECRET)
    except NotFound:
        log.error("the Secret with the signing key is gone", extra={"object": f"secret/{namespace}/{IDENTITY_SECRET}"})
        return known
    ring = _ring(secret)
    annotations = secret["metadata"].get("annotations") or {}
    asked = annotations.get(ROTATE_ANNOTATION, "")
    if ring.previous is None and asked and asked != annotations.get(ROTATED_ANNOTATION):
        made = SigningKey.generate()
        told = {ROTATED_ANNOTATION: asked, SINCE_ANNOTATION: now.isoformat(timespec="seconds")}
        data = {KEY: _encoded(made), PREVIOUS: _encoded(ring.current)}
        ring = _ring(await api.replace(SECRET, _with(secret, annotations | told, data)))
        log.info("a new signing key", extra={"key_id": ring.current.key_id})
    elif ring.previous is not None and (ring.until is None or now >= ring.until or not in_use(ring)):
        annotations.pop(SINCE_ANNOTATION, None)
        ring = _ring(await api.replace(SECRET, _with(secret, annotations, {KEY: _encoded(ring.current)})))
        log.info("the signing key before is not accepted any more", extra={"key_id": ring.current.key_id})
    return ring


def _ring(secret: Object) -> KeyRing:
    data, annotations = secret.get("data", {}), secret["metadata"].get("annotations") or {}
    current = SigningKey.from_text(_decoded(data[KEY]))
    if PREVIOUS not in data:
        return KeyRing(current)
    try:
        until = datetime.fromisoformat(annotations[SINCE_ANNOTATION]) + LONGEST_ROTATION
    except (LookupError, ValueError):
        until = None
    return KeyRing(current, SigningKey.from_text(_decoded(data[PREVIOUS])), until)


def _with(secret: Object, annotations: dict[str, str], data: dict[str, str]) -> Object:
    return secret | {"metadata": secret["metadata"] | {"annotations": annotations}, "data": data}


def _encoded(key: SigningKey) -> str:
    return base64.b64encode(key.to_text().encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
