"""The module ``exec``: shell commands that run beside the engine, as iii projects start their workers with.

The commands run one after the other; the last one stays. A change of a file that ``watch`` names starts them anew. What
they print goes where the engine's log goes. They find the engine's address in ``III_URL``, unless the engine demands
tokens.
"""

import asyncio
import contextlib
import glob
import logging
import os
import signal
from collections.abc import Callable

from agentos_engine.bus.bus import Bus
from agentos_engine.config_file import options

log = logging.getLogger(__name__)

WATCH_INTERVAL = 0.5
"""Seconds between two looks at the watched files."""
MAX_WATCHED = 20_000
"""Files that the globs may cover; more are not looked at."""
RESTART_DELAY = 1.0
"""Seconds before a last command that failed is started again; doubled each time up to the next figure."""
MAX_RESTART_DELAY = 30.0
STOP_TIMEOUT = 5.0
"""Seconds for a command to end after SIGTERM; then it is killed, with all that it started."""


class Exec:
    """Runs the commands of one entry. ``url`` gives the engine's address for workers, None when it needs a token."""

    def __init__(self, *, bus: Bus, config: options.Exec, url: Callable[[], str | None]) -> None:
        self._bus = bus
        self._config = config
        self._url = url
        self._runner: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the commands; they run in the background."""
        if self._config.exec:
            self._runner = self._bus.spawn(self._run())

    async def stop(self) -> None:
        """End the commands."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await runner

    async def _run(self) -> None:
        seen = await asyncio.to_thread(_look, self._config.watch)
        while True:
            pipeline = asyncio.ensure_future(self._pipeline())
            try:
                seen = await self._changed(seen)
            finally:
                pipeline.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pipeline
                await self._end()
            log.info("watched files have changed: the commands are started anew")

    async def _changed(self, seen: dict[str, int]) -> dict[str, int]:
        """Return the state of the watched files once it is another, and the same for two looks."""
        before = seen
        while True:
            await self._bus.clock.machine.sleep(WATCH_INTERVAL)
            now = await asyncio.to_thread(_look, self._config.watch) if self._config.watch else seen
            if now != seen and now == before:
                return now
            before = now

    async def _pipeline(self) -> None:
        *first, last = self._config.exec
        for command in first:
            code = await self._command(command)
            if code != 0:
                log.error(
                    "a command failed with exit code %d; those after it are not run", code, extra={"exec": command}
                )
                return
        delay = RESTART_DELAY
        while True:
            started = self._bus.clock.machine.monotonic()
            code = await self._command(last)
            if code == 0:
                log.info("the last command has ended", extra={"exec": last})
                return
            if self._bus.clock.machine.monotonic() - started > MAX_RESTART_DELAY:
                delay = RESTART_DELAY
            log.error(
                "the last command failed with exit code %d; it is started again in %g s",
                code,
                delay,
                extra={"exec": last},
            )
            await self._bus.clock.machine.sleep(delay)
            delay = min(delay * 2, MAX_RESTART_DELAY)

    async def _command(self, command: str) -> int:
        environment = dict(os.environ)
        url = self._url()
        if url is not None:
            environment.setdefault("III_URL", url)
            environment.setdefault("III_ENGINE_URL", url)
        log.info("running a command", extra={"exec": command})
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_shell(
                command, env=environment, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        )
        try:
            process = await asyncio.shield(starting)
            self._process = process
        except asyncio.CancelledError:
            self._process = await starting  # it may run already, and is ended with all that it has started
            raise
        return await process.wait()

    async def _end(self) -> None:
        """End the process that runs and all that it started."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started may outlive it
        await process.wait()


def _look(patterns: tuple[str, ...]) -> dict[str, int]:
    """Return the files of some globs with their times of change."""
    found: dict[str, int] = {}
    for pattern in patterns:
        for path in glob.iglob(pattern, recursive=True):
            if len(found) >= MAX_WATCHED:
                return found
            with contextlib.suppress(OSError):
                found[path] = os.stat(path).st_mtime_ns
    return found
