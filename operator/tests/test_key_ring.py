"""Rotation of the signing key, step by step, on an API in memory."""

from datetime import UTC, datetime, timedelta

import pytest
from agentos_contracts.tokens import Identity, Role, Verifier
from agentos_operator import key_ring
from agentos_operator.key_ring import KeyRing
from agentos_operator.keys import IDENTITY_SECRET
from agentos_operator.kinds import SECRET

NAMESPACE, NOW = "agentos-system", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IDENTITY = Identity("prod", "team/wasm", "uid", Role.WORKER)


async def follow(api, ring: KeyRing, *, in_use: bool = True, now: datetime = NOW) -> KeyRing:
    return await key_ring.follow(api, NAMESPACE, ring, lambda _: in_use, now)


def ask(api, value: str) -> None:
    """What ``kubectl annotate secret agentos-identity agentos.dev/rotate=VALUE`` does."""
    api.find(SECRET, NAMESPACE, IDENTITY_SECRET)["metadata"].setdefault("annotations", {})["agentos.dev/rotate"] = value


@pytest.fixture
async def ring(api) -> KeyRing:
    return await key_ring.read(api, NAMESPACE)


async def test_nothing_is_changed_while_nobody_asks(api, ring):
    writes = list(api.writes)
    assert (await follow(api, ring)).verify_keys == ring.verify_keys
    assert api.writes == writes


async def test_whoever_asks_gets_a_new_key_beside_the_old_one_once(api, ring):
    ask(api, "1")
    both = await follow(api, ring)
    assert both.previous is not None
    assert both.verify_keys[1:] == ring.verify_keys
    assert (await follow(api, both)).verify_keys == both.verify_keys
    assert (await key_ring.read(api, NAMESPACE)).verify_keys == both.verify_keys
    new, old = both.tokens(IDENTITY, 1)
    accepts = Verifier.from_text(",".join(both.verify_keys))
    assert [accepts.verify(token).key_id for token in (new, old)] == [both.current.key_id, ring.current.key_id]


async def test_the_old_key_goes_when_nobody_uses_it_and_the_same_request_is_followed_once(api, ring):
    ask(api, "1")
    both = await follow(api, ring)
    one = await follow(api, both, in_use=False)
    assert (one.verify_keys, one.previous) == (both.verify_keys[:1], None)
    assert (await follow(api, one, in_use=False)).verify_keys == one.verify_keys
    ask(api, "2")
    assert (await follow(api, one)).previous is not None


async def test_the_old_key_goes_after_an_hour_whoever_uses_it(api, ring):
    ask(api, "1")
    both = await follow(api, ring)
    assert both.until == NOW + timedelta(hours=1)
    assert (await follow(api, both, now=NOW + timedelta(minutes=59))).previous is not None
    assert (await follow(api, both, now=NOW + timedelta(hours=1))).previous is None


async def test_a_request_during_a_rotation_is_followed_after_it(api, ring):
    ask(api, "1")
    both = await follow(api, ring)
    ask(api, "2")
    assert (await follow(api, both)).verify_keys == both.verify_keys
    one = await follow(api, both, in_use=False)
    assert (await follow(api, one)).previous is not None


async def test_without_its_secret_the_operator_goes_on_with_the_keys_that_it_has(api, ring):
    secret = api.find(SECRET, NAMESPACE, IDENTITY_SECRET)
    await api.delete(SECRET, NAMESPACE, IDENTITY_SECRET, secret["metadata"]["uid"])
    assert await follow(api, ring) is ring
