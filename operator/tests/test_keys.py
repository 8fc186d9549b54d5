"""The operator's two secrets: the signing key and the webhook's certificate."""

import asyncio
import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agentos_contracts.tokens import Identity, Role, Verifier, issue
from agentos_operator.api import ApiError, Conflict
from agentos_operator.certificates import make_certificate
from agentos_operator.keys import IDENTITY_SECRET, WEBHOOK_SECRET, new_api_key, signing_key, webhook_certificate
from agentos_operator.kinds import SECRET

HOST = "agentos-webhook.agentos-system.svc"
NAMESPACE = "agentos-system"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def test_the_signing_key_is_made_once_and_signs_what_engines_verify(api):
    first, second = await signing_key(api, NAMESPACE), await signing_key(api, NAMESPACE)
    assert [verb for verb, *_ in api.writes] == ["create"]
    assert first.verify_key == second.verify_key
    identity = Identity("prod", "team/wasm", "uid", Role.WORKER)
    assert Verifier.from_text(second.verify_key).verify(issue(first, identity, 0)) == identity


async def test_the_secret_holds_nothing_but_the_key_and_is_the_operators(api):
    await signing_key(api, NAMESPACE)
    secret = api.find(SECRET, NAMESPACE, IDENTITY_SECRET)
    assert set(secret["data"]) == {"key"}
    assert secret["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "agentos-operator"}


class Slow:
    """An API on which every read takes a turn of the loop, so that two callers both find nothing."""

    def __init__(self, api: Any) -> None:
        self._api, self.create, self.replace = api, api.create, api.replace

    async def get(self, *arguments: Any) -> Any:
        try:
            return await self._api.get(*arguments)
        finally:
            await asyncio.sleep(0)


async def test_two_replicas_that_start_together_end_with_the_same_key(api):
    slow = Slow(api)
    first, second = await asyncio.gather(signing_key(slow, NAMESPACE), signing_key(slow, NAMESPACE))
    assert [verb for verb, *_ in api.writes] == ["create", "create"]
    assert first.to_text() == second.to_text()


async def test_two_replicas_that_start_together_end_with_the_same_certificate(api):
    slow = Slow(api)
    first, second = await asyncio.gather(
        webhook_certificate(slow, NAMESPACE, HOST, NOW), webhook_certificate(slow, NAMESPACE, HOST, NOW)
    )
    assert first == second


async def test_the_certificate_is_kept_while_it_covers_the_host(api):
    first = await webhook_certificate(api, NAMESPACE, HOST, NOW)
    assert await webhook_certificate(api, NAMESPACE, HOST, NOW) == first
    assert [verb for verb, *_ in api.writes] == ["create"]


def stored(api: Any, **data: str) -> None:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    metadata = {"name": WEBHOOK_SECRET, "namespace": NAMESPACE}
    api.seed({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded})


def as_data(certificate: Any) -> dict[str, str]:
    return {"ca.crt": certificate.authorities, "tls.crt": certificate.certificate, "tls.key": certificate.key}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty secret"),
        pytest.param(as_data(make_certificate("other.svc", NOW)), id="another host"),
        pytest.param(as_data(make_certificate(HOST, NOW - timedelta(days=365))), id="ended"),
        pytest.param(as_data(make_certificate(HOST, NOW)) | {"tls.key": "none"}, id="a damaged key"),
        pytest.param({"ca.crt": "none", "tls.crt": "none", "tls.key": "none"}, id="no certificate"),
    ],
)
async def test_a_certificate_that_does_not_do_is_made_anew(api, data):
    stored(api, **data)
    made = await webhook_certificate(api, NAMESPACE, HOST, NOW)
    assert api.writes == [("replace", "Secret", WEBHOOK_SECRET)]
    assert made.serves(HOST, NOW)
    assert await webhook_certificate(api, NAMESPACE, HOST, NOW) == made


async def test_of_two_replicas_that_renew_at_once_the_second_takes_the_firsts(api):
    stored(api)
    theirs = make_certificate(HOST, NOW)
    replace = api.replace

    async def beaten(*arguments: Any) -> Any:
        stored(api, **as_data(theirs))
        return await replace(*arguments)

    api.replace = beaten
    assert await webhook_certificate(api, NAMESPACE, HOST, NOW) == theirs


async def test_an_api_server_that_fails_is_told_not_papered_over(api, refused):
    api.fail["get", "Secret", IDENTITY_SECRET] = refused
    with pytest.raises(ApiError, match="etcd is away"):
        await signing_key(api, NAMESPACE)
    assert not isinstance(refused, Conflict)
    assert api.writes == []


def test_an_api_key_is_32_random_bytes_in_characters_of_an_url():
    made = [base64.b64decode(new_api_key()["key"]).decode() for _ in range(2)]
    assert made[0] != made[1]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", key) for key in made)
