"""The engine of this machine, in the process of whoever runs it."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agentos_contracts.grants import Grant
from agentos_contracts.redaction import redacted
from agentos_contracts.tokens import Identity, Role, SigningKey, Verifier, issue
from agentos_engine.app import Engine, Ports
from agentos_engine.clock import Clock
from agentos_engine.config import Settings, SettingsError, lock_data_dir
from agentos_engine.config_file import ConfigError, read_config_file
from agentos_engine.console.options import ConsoleOptions
from agentos_engine.observability.logs import SEVERITIES, LogRecord

from agentos.errors import CommandError, ExitCode

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What can be chosen. A port of 0 is any free one; ``data_dir`` None keeps everything in memory.

    ``config``: an iii ``config.yaml`` with the modules to run; ``console_port`` None: no page.
    """

    data_dir: Path | None = None
    realm: str = "local"
    port: int | None = 0
    http_port: int | None = 0
    stream_port: int | None = 0
    admin_port: int = 0
    console_port: int | None = None
    config: Path | None = None
    clock: Clock | None = None
    fleet: Callable[[], list[dict[str, Any]]] | None = None
    """What the console tells of the workers that are supervised."""


class LocalEngine:
    """An engine on the loopback address. Workers are known by tokens, as in a Realm; others may connect without."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._key = SigningKey.generate()
        self._lock: int | None = None
        self._granting: set[asyncio.Task[None]] = set()
        self.engine: Engine
        self.ports: Ports

    async def start(self) -> None:
        """Start it. Raises CommandError, in one line, when a port is taken or its data cannot be used."""
        options = self._options
        settings = Settings(
            config=options.config,
            host=HOST,
            port=options.port,
            http_port=options.http_port,
            stream_port=options.stream_port,
            admin_port=options.admin_port,
            data_dir=options.data_dir,
            realm=options.realm,
            verifier=Verifier.from_text(self._key.verify_key),
            log_level="info",
            console_port=options.console_port,
            anonymous=True,
            trace_ratio=None if options.config is not None else 1.0,
        )
        console = ConsoleOptions(always=True, payloads=True, fleet=options.fleet)
        try:
            config = None if options.config is None else read_config_file(options.config, os.environ)
            if options.data_dir is not None:
                self._lock = lock_data_dir(options.data_dir)
            self.engine = Engine(settings, config, options.clock, console)
            self.ports = await self.engine.start()
        except (SettingsError, ConfigError) as error:
            self._unlock()
            code = ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILED
            raise CommandError(str(error), code) from None

    async def stop(self) -> None:
        """Let calls in progress end, then stop."""
        await asyncio.gather(*self._granting)
        await self.engine.stop()
        self._unlock()

    def grant(self, grants: Iterable[Grant]) -> None:
        """Say what the workers with tokens may do; who is not listed may do nothing from now on."""
        task = asyncio.ensure_future(self._apply(list(grants)))
        self._granting.add(task)
        task.add_done_callback(self._granting.discard)

    async def _apply(self, grants: list[Grant]) -> None:
        try:
            await self.engine.permissions.apply(grants, complete=True)
        except Exception as error:
            # They hold all the same while this engine runs, and are said anew at its next start.
            log.warning("what workers may do could not be stored: %s", error)

    def url_for(self, worker: str, uid: str, instance: str, version: str | None) -> str:
        """Return what an instance of a worker gets as ``III_URL``; it holds a token.

        ``worker``: ``namespace/name`` of the Worker; ``uid``: the Worker's; ``instance``: what a pod's uid is on the cluster.
        """
        token = issue(self._key, Identity(self._options.realm, worker, uid, Role.WORKER), int(time.time()))
        suffix = f"@{quote(version, safe='')}" if version else ""
        return f"ws://{HOST}:{self.ports.workers}/w/{token}/{instance}{suffix}"

    def log(self, worker: str, level: str, text: str) -> None:
        """Keep a line that a worker printed among the engine's log entries."""
        observability = self.engine.parts.observability
        if observability is None:
            return
        now = time.time_ns()
        observability.log(
            LogRecord(
                timestamp_unix_nano=now,
                observed_timestamp_unix_nano=now,
                severity_number=SEVERITIES[level],
                severity_text=level.upper(),
                body=redacted(text),
                attributes={},
                trace_id=None,
                span_id=None,
                resource={},
                service_name=worker,
            )
        )

    @property
    def url(self) -> str:
        """Where anybody on this machine may connect."""
        return f"ws://{HOST}:{self.ports.workers}"

    @property
    def http_url(self) -> str:
        """Where the workers' HTTP routes are."""
        return f"http://{HOST}:{self.ports.http}"

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
