"""The webhook's certificate: made, and renewed so that the API server trusts every replica at every moment.

A renewal takes two steps, a day apart. First a new authority is put beside the old one and a new certificate is kept for later;
all replicas go on serving the old one, and the configuration's ``caBundle`` comes to hold both authorities. Then the new
certificate is served. Whichever replica takes a step, and whenever the others notice it: both are trusted meanwhile.
"""

import contextlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
OVERLAP = timedelta(days=1)
"""From the step that makes a new certificate to the one that serves it: many times as long as replicas take to notice."""
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts: the authorities that the API server is to trust, the certificate to serve with its key, and the next one."""

    authorities: str
    certificate: str
    key: str = field(repr=False)
    next_certificate: str = ""
    next_key: str = field(default="", repr=False)

    @property
    def expires(self) -> datetime:
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc

    def serves(self, host: str, now: datetime) -> bool:
        """Whether it can be served: readable, for this host name, not ended."""
        with contextlib.suppress(ValueError, TypeError, x509.ExtensionNotFound):
            return _matches(self.certificate, self.key, host) and now < self.expires
        return False


def due(held: Certificate | None, host: str, now: datetime) -> Certificate:
    """What should be kept and served now, given what is: the same as long as nothing is due. Pure but for new keys."""
    if held is None or not held.serves(host, now):
        # There is nothing that could be served meanwhile.
        return make_certificate(host, now)
    if held.next_certificate and _usable(held.next_certificate, held.next_key, host):
        made = x509.load_pem_x509_certificate(held.next_certificate.encode()).not_valid_before_utc + _CLOCK_SKEW
        if now < made + OVERLAP:
            return held
        return Certificate(held.authorities, held.next_certificate, held.next_key)
    if now + RENEW_BEFORE < held.expires:
        return held
    made = make_certificate(host, now)
    trusted = made.authorities + "".join(_in_force(held.authorities, now))
    return replace(held, authorities=trusted, next_certificate=made.certificate, next_key=made.key)


def _in_force(authorities: str, now: datetime) -> list[str]:
    found = x509.load_pem_x509_certificates(authorities.encode())
    return [_pem(each) for each in found if now < each.not_valid_after_utc]


def _usable(certificate: str, key: str, host: str) -> bool:
    with contextlib.suppress(ValueError, TypeError, x509.ExtensionNotFound):
        return _matches(certificate, key, host)
    return False


def _matches(certificate: str, key: str, host: str) -> bool:
    read = x509.load_pem_x509_certificate(certificate.encode())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    private = serialization.load_pem_private_key(key.encode(), None)
    return host in names.get_values_for_type(x509.DNSName) and private.public_key() == read.public_key()


def make_certificate(host: str, now: datetime) -> Certificate:
    """A new authority, and a serving certificate by it; the authority's key is thrown away."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # Each of its own name: of two authorities of one name a client may try only one.
    serial = x509.random_serial_number()
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"agentos-webhook-ca-{serial:x}"[:64])])

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + LIFETIME)
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
    return Certificate(_pem(authority), _pem(certificate), private)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=key_cert_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
