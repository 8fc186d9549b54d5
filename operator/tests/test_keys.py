"""The operator's two secrets: the signing key and the webhook's certificate."""

import asyncio
import base64
import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agentos_contracts.tokens import Identity, Role, Verifier, issue
from agentos_operator.api import ApiError, Conflict
from agentos_operator.keys import (
    CERTIFICATE_LIFETIME,
    IDENTITY_SECRET,
    RENEW_BEFORE,
    WEBHOOK_SECRET,
    make_certificate,
    new_api_key,
    signing_key,
    webhook_certificate,
)
from agentos_operator.kinds import SECRET

HOST = "agentos-webhook.agentos-system.svc"
NAMESPACE = "agentos-system"


def handshake(certificate: Any, tmp_path: Any, host: str = HOST, authority: str = "") -> None:
    """A TLS handshake in memory; raises ssl.SSLError when the client does not trust the server."""
    (tmp_path / "tls.crt").write_text(certificate.certificate)
    (tmp_path / "tls.key").write_text(certificate.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    trusting = ssl.create_default_context(cadata=authority or certificate.authority)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname=host)
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not pending:
            return
    raise AssertionError("the handshake does not end")


@pytest.fixture(scope="module")
def certificate():
    return make_certificate(HOST, datetime.now(UTC))


def test_a_client_that_trusts_the_authority_accepts_the_certificate(certificate, tmp_path):
    handshake(certificate, tmp_path)


def test_it_is_for_no_other_host(certificate, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(certificate, tmp_path, host="other.agentos-system.svc")


def test_it_is_not_trusted_by_another_authority(certificate, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, tmp_path, authority=make_certificate(HOST, datetime.now(UTC)).authority)


def test_a_host_longer_than_a_common_name_may_be_works(tmp_path):
    host = f"{'a' * 60}.{'b' * 60}.svc"
    handshake(make_certificate(host, datetime.now(UTC)), tmp_path, host=host)


NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("host", "after", "covered"),
    [
        pytest.param(HOST, timedelta(), True, id="new"),
        pytest.param("other.svc", timedelta(), False, id="another host"),
        pytest.param(HOST, CERTIFICATE_LIFETIME - RENEW_BEFORE - timedelta(minutes=1), True, id="good for a while"),
        pytest.param(HOST, CERTIFICATE_LIFETIME - RENEW_BEFORE, False, id="to be renewed"),
        pytest.param(HOST, CERTIFICATE_LIFETIME + timedelta(days=1), False, id="ended"),
    ],
)
def test_it_covers_its_host_until_some_time_before_its_end(host, after, covered):
    assert make_certificate(HOST, NOW).covers(host, NOW + after) == covered


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
        webhook_certificate(slow, NAMESPACE, HOST), webhook_certificate(slow, NAMESPACE, HOST)
    )
    assert first == second


async def test_the_certificate_is_kept_while_it_covers_the_host(api):
    first = await webhook_certificate(api, NAMESPACE, HOST)
    assert await webhook_certificate(api, NAMESPACE, HOST) == first
    assert [verb for verb, *_ in api.writes] == ["create"]


def stored(api: Any, **data: str) -> None:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    metadata = {"name": WEBHOOK_SECRET, "namespace": NAMESPACE}
    api.seed({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded})


def as_data(certificate: Any) -> dict[str, str]:
    return {"ca.crt": certificate.authority, "tls.crt": certificate.certificate, "tls.key": certificate.key}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty secret"),
        pytest.param(as_data(make_certificate("other.svc", datetime.now(UTC))), id="another host"),
        pytest.param(as_data(make_certificate(HOST, datetime.now(UTC) - timedelta(days=340))), id="about to end"),
    ],
)
async def test_a_certificate_that_does_not_do_is_made_anew(api, data, tmp_path):
    stored(api, **data)
    made = await webhook_certificate(api, NAMESPACE, HOST)
    assert api.writes == [("replace", "Secret", WEBHOOK_SECRET)]
    handshake(made, tmp_path)
    assert await webhook_certificate(api, NAMESPACE, HOST) == made


async def test_of_two_replicas_that_renew_at_once_the_second_takes_the_firsts(api):
    stored(api)
    theirs = make_certificate(HOST, datetime.now(UTC))
    replace = api.replace

    async def beaten(*arguments: Any) -> Any:
        stored(api, **as_data(theirs))
        return await replace(*arguments)

    api.replace = beaten
    assert await webhook_certificate(api, NAMESPACE, HOST) == theirs


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
