"""TLS for the ports of workers, REST and streams: certificates from files, read again when these change."""

import logging
import ssl
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from agentos_engine import limits
from agentos_engine.clock import Clock
from agentos_engine.config import SettingsError, TlsFiles
from agentos_engine.file_changes import Followed
from agentos_engine.server.listening import Create, Listening

log = logging.getLogger(__name__)

BUFFER = 4 * (16 * 1024 + 64)
"""Bytes of each of a connection's two buffers for what is encrypted: four records."""
MAX_FILE = 1 << 20
"""Bytes of one of the files."""
SOON = 14 * 86_400
"""Seconds before its end from which on a certificate is warned of."""

_SELF = "agentos-engine"


class Tls:
    """The certificate at present, and the servers that use it. Raises SettingsError for files that are wrong."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        paths = [files.cert, files.key, *([files.client_ca] if files.client_ca else [])]
        self._changes = Followed(paths)
        self._context = _load(files)
        # A certificate could also be loaded into the context that is in use, but whoever signs certificates of clients
        # could not be taken out of it.
        self._ports: weakref.WeakSet[Listening] = weakref.WeakSet()

    def secured(self, create: Create, handshake_timeout: float) -> Listening:
        """Return a port, to be started, whose servers have the certificate of their moment; the time is in seconds."""
        arguments = {
            "ssl_handshake_timeout": handshake_timeout,
            "ssl_shutdown_timeout": limits.CLOSE_TIMEOUT,
            "ssl_incoming_bio_size": BUFFER,
            "ssl_outgoing_bio_size": BUFFER,
        }
        made = Listening(lambda **where: create(ssl=self._context, **arguments, **where))
        self._ports.add(made)
        return made

    async def follow(self, clock: Clock) -> None:
        """Read the files again when they change; runs until it is cancelled.

        New connections get the new certificate, open ones go on. Files that are wrong are logged and not used.
        """
        await self._changes.follow(clock, self._reload)

    async def _reload(self) -> None:
        try:
            self._context = _load(self._files)
        except SettingsError as error:
            log.error("the TLS files have changed and are not used: %s", error)
            return
        for port in list(self._ports):
            try:
                await port.renew()
            except OSError as error:
                log.error("a port goes on with the TLS certificate from before: %s", error)
        log.info("TLS certificate read again")


async def listen(create: Create, host: str, port: int, tls: Tls | None, handshake_timeout: float) -> Listening:
    """Start to listen, with TLS if there is one; the time is in seconds. Raises OSError when that is not possible."""
    made = Listening(create) if tls is None else tls.secured(create, handshake_timeout)
    await made.start(host, port)
    return made


def _load(files: TlsFiles) -> ssl.SSLContext:
    """Return a context for the files, tried out by a handshake with itself. Raises SettingsError."""
    _check("--tls-cert", files.cert, b"-----BEGIN CERTIFICATE-----", "a certificate")
    _check("--tls-key", files.key, b"PRIVATE KEY-----", "a private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Who was let in by a certificate that is not trusted any more must not come again by a ticket.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (ssl.SSLError, ValueError, _Encrypted) as error:
        raise SettingsError(_why(files, error)) from error
    if files.client_ca is not None:
        _check("--tls-client-ca", files.client_ca, b"-----BEGIN CERTIFICATE-----", "a certificate")
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise SettingsError(f"--tls-client-ca {files.client_ca}: a certificate in it cannot be read") from error
    _try_out(context, files)
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(flag: str, path: Path, marker: bytes, what: str) -> None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SettingsError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise SettingsError(f"{flag} {path}: has more than {MAX_FILE >> 20} MiB; is it the right file?")
    if marker not in data:
        raise SettingsError(f"{flag} {path}: holds no {what.partition(' ')[2]} in PEM form; write the path of {what}")


class _Encrypted(Exception):
    """The key wants a password."""


def _no_password() -> str:
    raise _Encrypted


def _why(files: TlsFiles, error: Exception) -> str:
    if isinstance(error, _Encrypted):
        return f"--tls-key {files.key}: the key has a password; write it without one, readable by the engine only"
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        return f"--tls-key {files.key}: it is not the key of the certificate in {files.cert}"
    return f"--tls-cert {files.cert}, --tls-key {files.key}: cannot be used: {_text(error)}"


def _text(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()


def _try_out(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Shake hands with oneself: what cannot is refused, and a certificate at its end is warned of."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is what is trusted
    try:
        client.load_verify_locations(files.cert)
    except ssl.SSLError as error:
        raise SettingsError(f"--tls-cert {files.cert}: cannot be used: {_text(error)}") from error
    for verified in (True, False):
        try:
            ends = _shake_hands(context, client)
        except ssl.SSLCertVerificationError as error:
            log.warning("--tls-cert %s: clients will not accept it: %s", files.cert, error.verify_message)
            client.verify_mode = ssl.CERT_NONE
            if not verified:
                raise
        except ssl.SSLError as error:
            raise SettingsError(f"--tls-cert {files.cert}: no handshake is possible: {_text(error)}") from error
        else:
            if ends is not None and ends - time.time() < SOON:
                log.warning("--tls-cert %s: it ends within %d days", files.cert, (ends - time.time()) // 86_400 + 1)
            return


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> float | None:
    """Return when the server's certificate ends, in seconds since 1970, if the client has looked at it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=_SELF),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        if not [each for each in ends if not _step(each.do_handshake)]:
            break
    found = ends[0].getpeercert()
    return ssl.cert_time_to_seconds(str(found["notAfter"])) if found else None


def _step(go_on: Callable[[], None]) -> bool:
    try:
        go_on()
    except ssl.SSLWantReadError:
        return False
    return True
