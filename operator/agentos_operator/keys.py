"""The two secrets of the operator's own: the key that signs identity tokens, and the webhook's certificate.

Both are made once, kept in the operator's namespace, and never leave it; engines get only the verifying half. Beside them,
what a new API key of a realm is.
"""

import base64
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from agentos_contracts.realm import API_KEY_FIELD
from agentos_contracts.tokens import SigningKey
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .api import AlreadyExists, Api, Conflict, NotFound
from .kinds import SECRET, Object
from .settings import FIELD_MANAGER, MANAGED_BY_LABEL

IDENTITY_SECRET, WEBHOOK_SECRET = "agentos-identity", "agentos-webhook-certificate"
CERTIFICATE_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)


async def _load_or_make(api: Api, namespace: str, name: str, make: Callable[[], dict[str, str]]) -> Object:
    """The Secret; made when there is none. Two replicas that start together end with the same one."""
    try:
        return await api.get(SECRET, namespace, name)
    except NotFound:
        secret = _secret(namespace, name, make())
    try:
        return await api.create(SECRET, secret)
    except AlreadyExists:
        return await api.get(SECRET, namespace, name)


def _secret(namespace: str, name: str, data: dict[str, str]) -> Object:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": namespace, "labels": {MANAGED_BY_LABEL: FIELD_MANAGER}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}


def new_api_key() -> dict[str, str]:
    """Data of a new Secret with an API key: 32 random bytes as base64url."""
    return {API_KEY_FIELD: base64.b64encode(secrets.token_urlsafe(32).encode()).decode()}


def _text(secret: Object, key: str) -> str:
    return base64.b64decode(secret.get("data", {}).get(key, "")).decode()


async def signing_key(api: Api, namespace: str) -> SigningKey:
    """The key by which the operator signs the tokens of Workers."""
    secret = await _load_or_make(api, namespace, IDENTITY_SECRET, lambda: {"key": SigningKey.generate().to_text()})
    return SigningKey.from_text(_text(secret, "key"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts: the authority that the API server is to trust, and the serving certificate with its key."""

    authority: str
    certificate: str
    key: str = field(repr=False)

    @property
    def expires(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc

    def covers(self, host: str, now: datetime) -> bool:
        """Whether it is for this host name and good for some time yet."""
        names = (
            x509.load_pem_x509_certificate(self.certificate.encode())
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value.get_values_for_type(x509.DNSName)
        )
        return host in names and now + RENEW_BEFORE < self.expires


async def webhook_certificate(api: Api, namespace: str, host: str) -> Certificate:
    """The webhook's certificate for ``host``; made anew when it is missing, about to end, or for another name."""

    def fresh() -> dict[str, str]:
        made = make_certificate(host, datetime.now(UTC))
        return {"ca.crt": made.authority, "tls.crt": made.certificate, "tls.key": made.key}

    secret = await _load_or_make(api, namespace, WEBHOOK_SECRET, fresh)
    certificate = Certificate(*(_text(secret, key) for key in ("ca.crt", "tls.crt", "tls.key")))
    # A damaged one is made anew like one that has ended.
    with contextlib.suppress(ValueError):
        if certificate.covers(host, datetime.now(UTC)):
            return certificate
    renewed = _secret(namespace, WEBHOOK_SECRET, fresh())
    renewed["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"]
    try:
        secret = await api.replace(SECRET, renewed)
    except Conflict:
        secret = await api.get(SECRET, namespace, WEBHOOK_SECRET)
    return Certificate(*(_text(secret, key) for key in ("ca.crt", "tls.crt", "tls.key")))


def make_certificate(host: str, now: datetime) -> Certificate:
    """A new authority, and a serving certificate by it; the authority's key is thrown away."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agentos-webhook-ca")])

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + CERTIFICATE_LIFETIME)
        )

    authority = (
        builder(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    pem = serialization.Encoding.PEM
    return Certificate(authority.public_bytes(pem).decode(), certificate.public_bytes(pem).decode(), private)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=key_cert_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
