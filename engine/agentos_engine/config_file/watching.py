"""Follows a config file while the engine runs."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from agentos_engine.clock import Clock
from agentos_engine.config_file.findings import ConfigError
from agentos_engine.config_file.reader import EngineConfig, read_config_file
from agentos_engine.file_changes import Followed

log = logging.getLogger(__name__)


async def watch(
    path: Path,
    environment: Mapping[str, str],
    clock: Clock,
    on_change: Callable[[EngineConfig], Awaitable[None]],
    current: EngineConfig,
) -> None:
    """Await ``on_change`` with each new config that the file holds, one at a time; runs until it is cancelled.

    ``current`` is what the engine runs, as read from the file. A file that cannot be used is logged once, and the
    engine goes on as it is.
    """

    async def read_again() -> None:
        nonlocal current
        try:
            config = read_config_file(path, environment)
        except ConfigError as error:
            for finding in error.findings:
                log.error("the config file has changed and is not used: %s: %s", path, finding)
            return
        if config == current:
            return
        for finding in config.warnings:
            log.warning("%s: %s", path, finding)
        current = config
        try:
            await on_change(config)
        except Exception:
            log.exception("the changed config file could not be put into effect", extra={"path": str(path)})

    file = Followed([path])
    await read_again()  # it may have changed since it was read
    await file.follow(clock, read_again)
