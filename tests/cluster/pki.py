"""The certificates and keys of a bare cluster, by the openssl program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import replace_file, run

DAYS = "3650"
NEW_EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")  # RSA keys take ten times as long


@dataclass(frozen=True)
class Certificate:
    """What to certify: file name, user (common name) and group (organisation), and addresses for one that serves."""

    file: str
    user: str
    group: str | None = None
    names: Sequence[str] = ()
    addresses: Sequence[str] = ()


def make(folder: Path, certificates: Sequence[Certificate]) -> None:
    """Write ca, sa (the service accounts' key pair) and each certificate into `folder`, as NAME.crt and NAME.key."""
    folder.mkdir(mode=0o700)
    _issue(folder, Certificate("ca", "agentos-test-cluster"), authority=True)
    for certificate in certificates:
        _issue(folder, certificate)
    key = folder / "sa.key"
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", key])
    run(["openssl", "pkey", "-in", key, "-pubout", "-out", folder / "sa.pub"])


def settings(certificate: Certificate, authority: bool = False) -> str:
    """The configuration text by which openssl makes this certificate."""
    subject = [f"O = {certificate.group}"] if certificate.group else []
    alternatives = [*(f"DNS:{name}" for name in certificate.names), *(f"IP:{a}" for a in certificate.addresses)]
    if authority:
        extensions = ["basicConstraints = critical,CA:TRUE", "keyUsage = critical,keyCertSign,cRLSign,digitalSignature"]
    else:
        extensions = ["keyUsage = critical,digitalSignature", "extendedKeyUsage = serverAuth,clientAuth"]
    if alternatives:
        extensions.append(f"subjectAltName = {','.join(alternatives)}")
    lines = ["[req]", "prompt = no", "distinguished_name = subject", "x509_extensions = extensions"]
    return "\n".join([*lines, "[subject]", *subject, f"CN = {certificate.user}", "[extensions]", *extensions]) + "\n"


def _issue(folder: Path, certificate: Certificate, authority: bool = False) -> None:
    config = folder / f"{certificate.file}.cnf"
    replace_file(config, settings(certificate, authority))
    signer = [] if authority else ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key"]
    key, crt = folder / f"{certificate.file}.key", folder / f"{certificate.file}.crt"
    run(
        ["openssl", "req", "-x509", *NEW_EC_KEY, "-days", DAYS, "-config", config, *signer, "-keyout", key, "-out", crt]
    )
