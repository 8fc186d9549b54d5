"""Settings of the process: flags, each also as an environment variable."""

import argparse
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentos_contracts.tokens import TokenError, Verifier

LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """The engine cannot run with these settings here; the message is one line."""


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

    @property
    def is_open(self) -> bool:
        """Whether workers need no token."""
        return self.verifier is None or self.anonymous


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the settings; a flag wins over its environment variable. Exits with code 2 and a message on a bad one."""
    parser = _Parser(
        prog="agentos-engine",
        description="The AgentOS engine: connects workers over WebSockets (iii protocol) and serves their HTTP routes.",
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
    )


def _joined(arguments: Sequence[str], flag: str) -> list[str]:
    """Write ``--flag value`` as ``--flag=value``: a key is base64url and may begin with a hyphen."""
    joined = list(arguments)
    if flag in joined[:-1]:
        position = joined.index(flag)
        joined[position : position + 2] = [f"{flag}={joined[position + 1]}"]
    return joined


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 0 to 65535")
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
