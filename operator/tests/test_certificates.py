"""The webhook's certificate: who accepts it, when it is renewed, and that no replica is distrusted for a moment."""

import base64
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agentos_operator.cache import Cache
from agentos_operator.certificates import LIFETIME, OVERLAP, RENEW_BEFORE, Certificate, due, make_certificate
from agentos_operator.kinds import VALIDATING_WEBHOOK
from agentos_operator.settings import Settings
from agentos_operator.webhook import Webhook
from cryptography import x509

HOST = "agentos-webhook.agentos-system.svc"
NOW = datetime.now(UTC).replace(microsecond=0)


def handshake(certificate: Certificate, folder: Path, host: str = HOST, trusted: str = "") -> None:
    """A TLS handshake in memory; raises ssl.SSLError when the client does not trust the server."""
    (folder / "tls.crt").write_text(certificate.certificate)
    (folder / "tls.key").write_text(certificate.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    trusting = ssl.create_default_context(cadata=trusted or certificate.authorities)
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
    return make_certificate(HOST, NOW)


def test_a_client_that_trusts_the_authority_accepts_the_certificate(certificate, tmp_path):
    handshake(certificate, tmp_path)


def test_it_is_for_no_other_host(certificate, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(certificate, tmp_path, host="other.agentos-system.svc")


def test_it_is_not_trusted_by_another_authority(certificate, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, tmp_path, trusted=make_certificate(HOST, NOW).authorities)


def test_a_host_longer_than_a_common_name_may_be_works(tmp_path):
    host = f"{'a' * 60}.{'b' * 60}.svc"
    handshake(make_certificate(host, NOW), tmp_path, host=host)


# --- What is due

RENEWAL = NOW + LIFETIME - RENEW_BEFORE


@pytest.fixture(scope="module")
def renewing(certificate):
    """After the first step."""
    return due(certificate, HOST, RENEWAL)


def test_until_a_month_before_its_end_nothing_changes(certificate):
    assert due(certificate, HOST, NOW) is certificate
    assert due(certificate, HOST, RENEWAL - timedelta(minutes=1)) is certificate


def test_the_first_step_adds_an_authority_and_serves_what_is_served(certificate, renewing, tmp_path):
    assert (renewing.certificate, renewing.key) == (certificate.certificate, certificate.key)
    handshake(certificate, tmp_path, trusted=renewing.authorities)
    coming = Certificate(renewing.authorities, renewing.next_certificate, renewing.next_key)
    assert coming.serves(HOST, RENEWAL)
    assert due(renewing, HOST, RENEWAL + OVERLAP - timedelta(minutes=1)) is renewing


def test_the_second_step_serves_the_new_one_and_still_trusts_both(certificate, renewing):
    done = due(renewing, HOST, RENEWAL + OVERLAP)
    assert (done.certificate, done.key) == (renewing.next_certificate, renewing.next_key)
    assert done.authorities == renewing.authorities
    assert not done.next_certificate
    assert due(done, HOST, RENEWAL + OVERLAP + timedelta(days=300)) is done


def test_at_the_next_renewal_an_authority_that_has_ended_is_dropped(renewing):
    done = due(renewing, HOST, RENEWAL + OVERLAP)
    again = due(done, HOST, RENEWAL + LIFETIME - RENEW_BEFORE)
    authorities = x509.load_pem_x509_certificates(again.authorities.encode())
    assert len(authorities) == 2
    assert len({each.subject for each in authorities}) == 2


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(lambda one: None, id="none"),
        pytest.param(lambda one: make_certificate("other.svc", NOW), id="another host"),
        pytest.param(lambda one: replace(one, key=make_certificate(HOST, NOW).key), id="a key of another"),
        pytest.param(lambda one: replace(one, certificate="none"), id="damaged"),
    ],
)
def test_what_cannot_be_served_is_made_anew_at_once(certificate, held):
    made = due(held(certificate), HOST, NOW)
    assert made.serves(HOST, NOW)
    assert not made.next_certificate


def test_a_next_one_that_is_damaged_is_made_anew(renewing):
    made = due(replace(renewing, next_key="none"), HOST, RENEWAL + OVERLAP)
    assert made.certificate == renewing.certificate
    assert Certificate(made.authorities, made.next_certificate, made.next_key).serves(HOST, RENEWAL + OVERLAP)


# --- Replicas


class Replica:
    """One replica's webhook, and what it serves."""

    def __init__(self, api: Any, clock: list[datetime]) -> None:
        settings = Settings("agentos-system", "pod", "uid", "image", "", "", "agentos-webhook", "agentos")
        self._webhook = Webhook(settings, api, Cache(), lambda: clock[0])
        self.serves: Certificate | None = None

    async def check(self) -> None:
        found = await self._webhook._certificate()
        await self._webhook._publish(found)
        self.serves = found


async def test_two_replicas_that_look_at_different_times_are_trusted_all_through_a_renewal(api, tmp_path):
    api.seed(
        {"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "agentos"}, "webhooks": [{"clientConfig": {}}]}
    )
    # The renewal is over now: a handshake asks the real clock.
    begin = NOW - timedelta(days=4)
    clock = [begin - LIFETIME + RENEW_BEFORE]
    replicas = [Replica(api, clock), Replica(api, clock)]
    for replica in replicas:
        await replica.check()
    served, bundles = set(), set()
    for half_hours in range(5 * 24 * 2):
        clock[0] = begin - timedelta(days=1) + timedelta(minutes=30 * half_hours)
        if half_hours == 100:
            # It starts anew, and takes what is there at once.
            replicas[1] = Replica(api, clock)
        await replicas[half_hours % 2].check()
        hook = api.find(VALIDATING_WEBHOOK, None, "agentos")["webhooks"][0]["clientConfig"]
        trusted = base64.b64decode(hook["caBundle"]).decode()
        for replica in replicas:
            if replica.serves is not None and (replica.serves.certificate, trusted) not in served:
                handshake(replica.serves, tmp_path, trusted=trusted)
                served.add((replica.serves.certificate, trusted))
        bundles.add(trusted)
    assert len({certificate for certificate, _ in served}) == 2, "it was renewed"
    assert len(bundles) == 2
