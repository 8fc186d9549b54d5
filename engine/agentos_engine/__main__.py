"""The command ``agentos-engine``."""

import asyncio
import logging
import os
import signal
import sys

import uvloop
from agentos_contracts.redaction import redacted

from agentos_engine import limits, logs, memory
from agentos_engine.app import Engine
from agentos_engine.config import Settings, SettingsError, lock_data_dir, read_settings
from agentos_engine.config_file import read_config_file, watch

COMMANDS = ("backup", "restore")
"""In place of flags: see ``agentos_engine.backup``."""

log = logging.getLogger("agentos_engine")


def main() -> None:
    """Run an engine until SIGTERM or SIGINT; exit code 0, 1 when it cannot start, 2 on a bad flag."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from agentos_engine import backup  # not loaded by an engine

        return backup.main(sys.argv[1:], os.environ)
    settings = read_settings(sys.argv[1:], os.environ)
    logs.configure(settings.log_level)
    memory.bound()
    limits.raise_open_files()
    try:
        if settings.data_dir is not None:
            lock_data_dir(settings.data_dir)  # held until the process ends
        uvloop.run(_serve(settings))
    except SettingsError as error:
        print(redacted(f"agentos-engine: {error}"), file=sys.stderr)
        raise SystemExit(1) from None


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    config = None if settings.config is None else read_config_file(settings.config, os.environ)
    for finding in config.warnings if config is not None else ():
        log.warning("%s: %s", settings.config, finding)
    engine = Engine(settings, config)
    ports = await engine.start()
    memory.settle()
    memory.give_back()
    engine.bus.watchers.append(memory.Watch(engine.bus))
    log.info(
        "listening",
        extra={
            "port": ports.workers,
            "http_port": ports.http,
            "stream_port": ports.stream,
            "admin_port": ports.admin,
            "console_port": ports.console,
            "realm": settings.realm,
            "identity": "tokens" if settings.verifier is not None else "open",
            "tls": settings.tls is not None,
        },
    )
    if settings.config is not None and config is not None:
        engine.bus.spawn(watch(settings.config, os.environ, engine.bus.clock, engine.reload, config))
    await stopping.wait()
    log.info("stopping")
    await engine.stop()
    log.info("stopped")


if __name__ == "__main__":
    main()
