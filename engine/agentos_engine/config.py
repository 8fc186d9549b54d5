"""Settings of the process: flags, each also as an environment variable."""

import argparse
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agentos_contracts.tokens import TokenError, Verifier

from agentos_engine.observability.call_metrics import MAX_FUNCTIONS

if TYPE_CHECKING:
    from agentos_engine.http_auth.policy import HttpAuthOptions

LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """The engine cannot run with these settings here; the message is one line."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: a certificate with those up to its authority, its key, and who signs certificates of clients.

    Without ``client_ca`` clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """``verifier`` is None when the engine is open: everybody may connect. With ``anonymous`` it is open, too, and who
    has a token is known by it: for an engine on a laptop.

    An address or port of None is that of the config file, or the default.
    """

    config: Path | None
    host: str | None
    port: int | None
    http_port: int | None
    stream_port: int | None
    admin_port: int
    data_dir: Path | None
    realm: str
    verifier: Verifier | None
    log_level: str
    anonymous: bool = False
    console_port: int | None = None
    """None: no console."""
    http_auth: "HttpAuthOptions | None" = None
    """Who may use the REST port; None: what the config file says, or the engine's own choice."""
    tls: TlsFiles | None = None
    """For the ports of workers, REST and streams; None: they are plain."""
    metrics_functions: int = 200
    """Functions with metrics of their own."""
    trace_ratio: float | None = None
    """Share of the traces that begin here that is recorded; None: what the config file says, or its default."""
    otlp_endpoint: str | None = None
    """URL of a collector that gets the traces, too; None: what the config file says."""

    @property
    def is_open(self) -> bool:
        """Whether workers need no token."""
        return self.verifier is None or self.anonymous


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings; a flag wins over its environment variable. Exits with code 2 and a message on a bad one."""
    parser = Parser(
        prog="agentos-engine",
        description="The AgentOS engine: connects workers over WebSockets (iii protocol) and serves their HTTP routes.",
        epilog="What it keeps is saved by `agentos-engine backup` and put back by `agentos-engine restore`: see their --help.",
    )

    def add(flag: str, default: str | None, text: str, stands: str = "", **extra: object) -> None:
        """``stands`` says what is done without the flag, where the default does not."""
        variable = "AGENTOS_" + flag.removeprefix("--").replace("-", "_").upper()
        value = environment.get(variable) or default
        shown = stands or default or "none"
        parser.add_argument(flag, default=value, help=f"{text} [{variable}; default {shown}]", **extra)  # type: ignore[arg-type]

    add("--config", None, "an iii config.yaml; it is read again when it changes", metavar="FILE")
    add("--host", None, "address to listen on", "127.0.0.1, or the config file's", metavar="ADDRESS")
    add(
        "--port",
        None,
        "port for workers; 0 takes a free one",
        "49134, or the config file's",
        type=_port,
        metavar="PORT",
    )
    add(
        "--http-port",
        None,
        "port for the workers' HTTP routes",
        "3111, or the config file's",
        type=_port,
        metavar="PORT",
    )
    add("--stream-port", None, "port for streams", "3112, or the config file's", type=_port, metavar="PORT")
    add("--admin-port", "9464", "port for /healthz, /readyz and /metrics", type=_port, metavar="PORT")
    add(
        "--console-port",
        None,
        "port on 127.0.0.1 for the console: who reaches it may call every function",
        "no console",
        type=_port,
        metavar="PORT",
    )
    add("--data-dir", "", "folder for what must last; locked, so that two engines never share it", metavar="DIR")
    add("--realm", "local", "name of the Realm that this engine serves", metavar="NAME")
    add("--verify-keys", "", "public keys for tokens, separated by commas; none: no token needed", metavar="KEYS")
    add(
        "--metrics-functions",
        "200",
        f"functions with metrics of their own, the others together; at most {MAX_FUNCTIONS}",
        type=_function_count,
        metavar="N",
    )
    add(
        "--trace-ratio",
        None,
        "share of the traces that begin here that is recorded; those of others are when these say so",
        "the config file's, or 0.01",
        type=_share,
        metavar="0…1",
    )
    add(
        "--otlp-endpoint",
        None,
        "collector that gets the traces, by OTLP over HTTP, such as http://collector:4318",
        "the config file's, or none",
        metavar="URL",
    )
    add(
        "--http-auth",
        "",
        "who may use the HTTP routes, as JSON: what stands under agentos.http in a config file",
        "the config file's, or API keys if workers need a token",
        metavar="JSON",
    )
    add("--tls-cert", "", "certificate (PEM) for the ports for workers, HTTP routes and streams", metavar="FILE")
    add("--tls-key", "", "its private key (PEM, without a password)", metavar="FILE")
    add("--tls-client-ca", "", "demand certificates of clients that one of these (PEM) has signed", metavar="FILE")
    add("--log-level", "info", "how much is logged", choices=LOG_LEVELS)
    values = parser.parse_args(_joined(arguments, "--verify-keys"))
    if values.log_level not in LOG_LEVELS:
        parser.error(f"AGENTOS_LOG_LEVEL: {values.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
    verifier = None
    if values.verify_keys.strip():
        try:
            verifier = Verifier.from_text(values.verify_keys)
        except TokenError as error:
            parser.error(f"--verify-keys: {error}")
    http_auth = None
    if values.http_auth.strip():
        from agentos_engine.config_file.http_auth import parse_http_auth  # it imports from here

        try:
            http_auth = parse_http_auth(values.http_auth)
        except ValueError as error:
            parser.error(f"--http-auth: {error}")
    return Settings(
        config=Path(values.config) if values.config else None,
        host=values.host,
        port=values.port,
        http_port=values.http_port,
        stream_port=values.stream_port,
        admin_port=values.admin_port,
        data_dir=Path(values.data_dir) if values.data_dir else None,
        realm=values.realm,
        verifier=verifier,
        log_level=values.log_level,
        console_port=values.console_port,
        metrics_functions=values.metrics_functions,
        trace_ratio=values.trace_ratio,
        otlp_endpoint=values.otlp_endpoint,
        http_auth=http_auth,
        tls=_tls(values, parser),
    )


def _tls(values: argparse.Namespace, parser: argparse.ArgumentParser) -> TlsFiles | None:
    if not values.tls_cert and not values.tls_key and not values.tls_client_ca:
        return None
    for flag, value in (("--tls-cert", values.tls_cert), ("--tls-key", values.tls_key)):
        if not value:
            parser.error(f"{flag} is missing: TLS needs a certificate and its key")
    client_ca = Path(values.tls_client_ca) if values.tls_client_ca else None
    return TlsFiles(Path(values.tls_cert), Path(values.tls_key), client_ca)


def _joined(arguments: Sequence[str], flag: str) -> list[str]:
    """Write ``--flag value`` as ``--flag=value``: a key is base64url and may begin with a hyphen."""
    joined = list(arguments)
    if flag in joined[:-1]:
        position = joined.index(flag)
        joined[position : position + 2] = [f"{flag}={joined[position + 1]}"]
    return joined


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to 65535")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return share


def _function_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > MAX_FUNCTIONS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MAX_FUNCTIONS}")
    return int(text)


def port_taken(key: str, host: str, port: int, error: OSError) -> SettingsError:
    """The error for a port that cannot be had; ``key`` names the entry of the configuration."""
    reason = error.strerror or str(error)
    remedy = f"choose another with {_FLAGS[key]}" if key in _FLAGS else "choose another in the config file"
    return SettingsError(f"{key}: cannot listen on {host} port {port}: {reason}; {remedy}")


_FLAGS = {
    "admin": "--admin-port",
    "console": "--console-port",
    "worker-manager": "--port",
    "http": "--http-port",
    "stream": "--stream-port",
}
"""By entry of the configuration: the flag for its port."""


def lock_data_dir(data_dir: Path) -> int:
    """Make the folder if need be and lock it for this process; returns the descriptor that holds the lock.

    Raises SettingsError when it cannot be written, or another engine has it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"--data-dir {data_dir}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SettingsError(f"--data-dir {data_dir}: another engine uses it; stop that one or give another") from error
    except OSError as error:
        os.close(descriptor)
        raise SettingsError(f"--data-dir {data_dir}: cannot be locked: {error.strerror}") from error
    return descriptor
